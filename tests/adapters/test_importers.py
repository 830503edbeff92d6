"""Reading logs: what comes out of files, of each format, and of the real ones."""

import gzip
import io
import json
import os
import random
import re
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.importers import source as source_module
from adapters.importers.driver import ClockLease, Job, Report, Target, run
from adapters.importers.formats import FORMATS, VISITORS, Parser, VisitorBy, read
from adapters.importers.source import MAX_LINE, Source, SourceError
from adapters.keyring.plain import PlainKeyring
from adapters.log.memory import MemoryLog, MemoryStore, MemoryVault
from adapters.presets import preset_text
from domain.policy import Version, parse
from domain.records import Activity, Record, Reject, Rejected
from domain.session import Joined
from tests.independent import open_format, readers
from tests.independent.counts import Deed

SECOND = 1_000_000


def at(text: str) -> int:
    """An RFC 3339 time in microseconds."""
    return int(datetime.fromisoformat(text).timestamp() * SECOND)


def parser(name: str, visitor: str = "host", file: str = "2004-11-15.txt") -> Parser:
    """A parser of the format `name`."""
    return FORMATS[name](VisitorBy(visitor), file)


def every_record(path: Path, name: str, visitor: str = "host") -> list[Record | Rejected]:
    """All that a file says."""
    with Source(str(path)) as source:
        return list(read(source, parser(name, visitor, source.name)))


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Puts bytes where `-` reads them."""

    def put(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


class TestSource:
    """Files, pipes and what may be wrong with them."""

    def lines(self, path: Path | str, skip: int = 0) -> list[tuple[int, bytes | None]]:
        with Source(str(path)) as source:
            return list(source.lines(skip))

    @pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
    @pytest.mark.parametrize("piped", [False, True], ids=["file", "stdin"])
    def test_plain_or_gzip_file_or_pipe(
        self,
        tmp_path: Path,
        standard_input: Callable[[bytes], None],
        pack: Callable[[bytes], bytes],
        piped: bool,
    ) -> None:
        """Whatever way the text comes, the lines are the same."""
        path = tmp_path / "log"
        path.write_bytes(pack(b"one\ntwo\n"))
        standard_input(path.read_bytes())
        assert self.lines("-" if piped else path) == [(1, b"one"), (2, b"two")]

    def test_a_pipe_that_delivers_in_bits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer may hand over single bytes, even of the first two that tell gzip."""
        received, sent = os.pipe()
        with os.fdopen(received) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            packed = gzip.compress(b"one\ntwo")
            monkeypatch.setattr(source_module, "_CHUNK", 1)
            os.write(sent, packed)
            os.close(sent)
            with Source("-") as source:
                assert source.size is None
                assert list(source.lines()) == [(1, b"one"), (2, b"two")]
                assert source.bytes_read == len(packed)

    def test_several_gzip_files_in_a_row_are_one(self, tmp_path: Path) -> None:
        """As `cat a.gz b.gz` makes them, and as rotating loggers append."""
        path = tmp_path / "log.gz"
        path.write_bytes(gzip.compress(b"one\ntw") + gzip.compress(b"o\n"))
        assert self.lines(path) == [(1, b"one"), (2, b"two")]

    def test_line_ends_and_byte_order_mark(self, tmp_path: Path) -> None:
        """CRLF, a blank line, a missing last line end: all counted as an editor would."""
        path = tmp_path / "log"
        path.write_bytes(b"\xef\xbb\xbfone\r\n\ntwo\n\r\nlast")
        assert self.lines(path) == [(1, b"one"), (2, b""), (3, b"two"), (4, b""), (5, b"last")]

    def test_an_empty_file_has_no_lines(self, tmp_path: Path) -> None:
        """Nor is it an error."""
        path = tmp_path / "log"
        path.write_bytes(b"")
        assert self.lines(path) == []

    def test_too_long_lines_are_skipped_and_counted(self, tmp_path: Path) -> None:
        """64 KiB pass, one byte more does not, and what comes behind keeps its number."""
        path = tmp_path / "log"
        longest = b"a" * MAX_LINE
        path.write_bytes(b"\n".join([longest, longest + b"b", b"c" * 10 * MAX_LINE, b"last"]))
        assert self.lines(path) == [(1, longest), (2, None), (3, None), (4, b"last")]
        assert every_record(path, "jsonl")[1:3] == [
            Rejected(2, Reject.TOO_LONG),
            Rejected(3, Reject.TOO_LONG),
        ]

    def test_an_endless_line_takes_no_memory(self, tmp_path: Path) -> None:
        """32 MiB without a line end, 32 KiB when packed, are read in less than 1 MiB."""
        path = tmp_path / "log.gz"
        path.write_bytes(gzip.compress(bytes(32 * 1024 * 1024)))
        tracemalloc.start()
        try:
            assert self.lines(path) == [(1, None)]
            assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
        finally:
            tracemalloc.stop()

    @given(
        text=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"d" * 9, b"\xef\xbb\xbf"])),
        chunk=st.integers(1, 12),
        skip=st.integers(0, 12),
    )
    def test_any_chunks_any_skip(self, text: list[bytes], chunk: int, skip: int) -> None:
        """Where the chunks break changes nothing, and skipping is reading on later."""
        content = b"".join(text)
        expected = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if expected[-1] == b"":
            expected.pop()
        numbered = [
            (number, None if len(line) > 8 else line.removesuffix(b"\r"))
            for number, line in enumerate(expected, 1)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            patch.setattr(source_module, "_CHUNK", chunk)
            patch.setattr(source_module, "MAX_LINE", 8)
            assert self.lines("-", skip) == numbered[skip:]

    def test_progress(self, tmp_path: Path) -> None:
        """Bytes read are those on disk; lines read count all of them, headers too."""
        path = tmp_path / "log.gz"
        noise = random.Random(7)
        rows = [noise.randbytes(30_000).hex().encode() for _ in range(20)]
        path.write_bytes(gzip.compress(b"\n".join([b"ip,date,time,", *rows, b"", b"last"])))
        with Source(str(path)) as source:
            assert source.size == path.stat().st_size
            assert 0 < source.bytes_read < source.size
            list(read(source, parser("edgar")))
            assert (source.bytes_read, source.lines_read) == (source.size, 23)

    def fingerprint(self, path: Path | str) -> str:
        with Source(str(path)) as source:
            return source.fingerprint

    def test_a_file_is_known_by_its_first_line(self, tmp_path: Path) -> None:
        """Packed or plain, grown or not, it is the same; another first line makes it another."""
        text = b"".join(b"line %d\n" % number for number in range(1000))
        for name, content in {
            "plain": text,
            "packed.gz": gzip.compress(text),
            "begun": b"line 0",
            "short": b"line 0\r\n",
            "longer": text + b"more\n",
            "other": b"x" + text,
        }.items():
            (tmp_path / name).write_bytes(content)
        plain = self.fingerprint(tmp_path / "plain")
        for same in ("packed.gz", "begun", "short", "longer"):
            assert self.fingerprint(tmp_path / same) == plain
        assert self.fingerprint(tmp_path / "other") != plain

    def test_logs_that_share_their_header_are_told_apart(self, tmp_path: Path) -> None:
        """Every day of EDGAR's begins with the same line; what comes behind it counts."""
        path = tmp_path / "log.csv"
        found = []
        for rows in (
            b"",
            b"1.2.3.abc,2003-02-20",
            b"1.2.3.abc,2003-02-20\n2",
            b"1.2.3.abc,2003-02",
        ):
            path.write_bytes(b"ip,date,time,zone\n" + rows)
            found.append(self.fingerprint(path))
        assert found[1] == found[2]
        assert len(set(found)) == 3

    def test_a_very_long_first_line_is_known_by_its_beginning(self, tmp_path: Path) -> None:
        """No more of it is ever kept."""
        path = tmp_path / "log"
        path.write_bytes(b"a" * 5 * MAX_LINE)
        before = self.fingerprint(path)
        path.write_bytes(b"a" * 6 * MAX_LINE + b"\nb\n")
        assert self.fingerprint(path) == before

    def test_piped_logs_are_known_by_their_first_kib(
        self, standard_input: Callable[[bytes], None]
    ) -> None:
        """They have no path to tell one from another that begins with the same line."""
        found = []
        for text in (b"one\ntwo\n", b"one\nthree\n", b"one\n" * 256, b"one\n" * 256 + b"two\n"):
            standard_input(text)
            found.append(self.fingerprint("-"))
        assert found[2] == found[3]
        assert len(set(found)) == 3

    def test_names(self, tmp_path: Path) -> None:
        """A packed room is the same room."""
        (tmp_path / "2004-11-15.txt.gz").write_bytes(gzip.compress(b"x"))
        with Source(str(tmp_path / "2004-11-15.txt.gz")) as source:
            assert source.name == "2004-11-15.txt"

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("missing-jane-doe", "No such file or directory"),
            (".", "Is a directory"),
            ("nul\0", "not the name of a file"),
        ],
    )
    def test_what_cannot_be_opened(self, tmp_path: Path, name: str, reason: str) -> None:
        """The operating system's words, without the name: it may be a person's."""
        with pytest.raises(SourceError) as refused:
            Source(f"{tmp_path}/{name}")
        assert str(refused.value) == refused.value.reason == reason
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__

    def test_what_cannot_be_read(self) -> None:
        """A disk error while reading is told like one at opening."""
        memory = Path("/proc/self/mem")  # its first page is not there: EIO, as from a bad disk
        if not memory.exists():
            pytest.skip("needs /proc")
        with pytest.raises(SourceError, match=r"^Input/output error$"):
            Source(str(memory))

    def test_what_may_not_be_read(self, tmp_path: Path) -> None:
        """A file of somebody else."""
        path = tmp_path / "log"
        path.touch(mode=0)
        we = os.geteuid()
        if we == 0:  # root may read everything, so be nobody for a moment
            os.seteuid(65534)
        try:
            with pytest.raises(SourceError, match=r"^Permission denied$"):
                Source(str(path))
        finally:
            os.seteuid(we)

    @pytest.mark.parametrize("kept", [0.2, 0.9])
    def test_a_gzip_file_cut_off(self, tmp_path: Path, kept: float) -> None:
        """All complete lines before the cut come, then the error says how many they were."""
        noise = random.Random(7)
        text = [noise.randbytes(30).hex().encode() for _ in range(5000)]
        packed = gzip.compress(b"\n".join(text))
        path = tmp_path / "log.gz"
        path.write_bytes(packed[: int(len(packed) * kept)])
        came = []
        with Source(str(path)) as source, pytest.raises(SourceError, match="ends too early") as cut:
            for number, line in source.lines():
                came.append((number, line))
        assert came == list(enumerate(text[: len(came)], 1))
        assert abs(len(came) - 5000 * kept) < 5000 * 0.05
        assert cut.value.lines_read == len(came)

    def test_a_small_gzip_file_cut_off(self, tmp_path: Path) -> None:
        """Also where the cut lies in the KiB that is read ahead."""
        path = tmp_path / "log.gz"
        path.write_bytes(gzip.compress(b"one\ntwo\nthree")[:-8])
        with Source(str(path)) as source, pytest.raises(SourceError) as cut:
            for _ in source.lines():
                pass
        assert cut.value.lines_read == 2

    def test_a_corrupt_gzip_file(self, tmp_path: Path) -> None:
        """A wrong checksum, broken content and a broken header are all told."""
        packed = bytearray(gzip.compress(b"one\ntwo\n" * 1000))
        path = tmp_path / "log.gz"
        for place in (-5, len(packed) // 2, 2):
            broken = packed.copy()
            broken[place] ^= 0xFF
            path.write_bytes(broken)
            with pytest.raises(SourceError, match=r"corrupt|too early"):
                self.lines(path)

    def test_resuming_a_log_that_needs_its_context(self, tmp_path: Path) -> None:
        """After skipping, a line without a clock still has the time of a line before it."""
        path = tmp_path / "2004-11-15.txt"
        path.write_text("[10:00] <ann> hi\n=== bob [b@x]  has joined #c\n", encoding="utf-8")
        with Source(str(path)) as source:
            resumed = list(read(source, parser("irc", file=source.name), skip=1))
        assert resumed == every_record(path, "irc")[1:]
        assert resumed[0].line == 2


class Importing:
    """The same file imported again and again into one log, as a nightly job does."""

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._store = MemoryStore()
        self.log = MemoryLog(self._store, lambda: 0)
        self.rejected: list[tuple[int, int, str]] = []

    def __call__(self) -> Report:
        policy = next(iter(parse(preset_text("web-visit"), {}).values()))
        target = Target(
            self.log,
            MemoryVault(self._store),
            PlainKeyring(),
            lambda: {policy.name: (Version(1, 0, policy),)},
            policy.name,
            ClockLease(self.log, "import", lambda: 0),
            "import",
            at("2026-01-01T00:00:00+00:00"),
            on_reject=lambda *rejected: self.rejected.append(rejected),
        )
        job = Job([str(self._path)], "common", VisitorBy.HOST)
        [report] = run(job, [target], lambda now: now, lambda *_: None)
        return report

    def visitors(self) -> int:
        """How many ever came."""
        return sum(isinstance(one.event, Joined) for one in self.log.read(0, 1_000))


def visits(*hosts: str) -> bytes:
    """Lines of a web server's log, a second apart; the last one without its line feed."""
    return b"\n".join(
        f'{host} - - [09/Jul/1995:00:00:{second:02} -0400] "GET / HTTP/1.0" 200 1'.encode()
        for second, host in enumerate(hosts)
    )


class TestGrowingFiles:
    """What an import reads of a file that somebody still writes."""

    def test_only_what_is_new_is_read(self, tmp_path: Path) -> None:
        """From its first two lines on, as from any place later."""
        path = tmp_path / "access.log"
        again = Importing(path)
        for hosts in (["a", "b"], ["a", "b", "c"], [*"abcdefghijklmnopqrstuvwxyz"]):
            path.write_bytes(visits(*hosts) + b"\n")
            report = again()
            assert (report.lines, again.visitors()) == (len(hosts), len(hosts))

    def test_a_half_written_line_is_read_when_it_is_whole(self, tmp_path: Path) -> None:
        """Until then it is reported and nothing of it is kept, however often it is met."""
        path = tmp_path / "access.log"
        again = Importing(path)
        path.write_bytes(visits("a", "b", "c")[:-30])
        for attempt in (1, 2):
            report = again()
            assert (report.lines, report.rejected, again.visitors()) == (3, 1, 2)
            assert report.rejects == again.rejected[-1:] == [(1, 3, str(Reject.NO_MATCH))]
            assert len(again.rejected) == attempt
        path.write_bytes(visits("a", "b", "c", "d") + b"\n")
        report = again()
        assert (report.lines, report.rejected, again.visitors()) == (4, 0, 4)

    def test_a_whole_line_is_read_without_its_line_feed(self, tmp_path: Path) -> None:
        """Many logs end so. The line feed that comes later makes no second line of it."""
        path = tmp_path / "access.log"
        again = Importing(path)
        for content, lines in (
            (visits("a"), 1),
            (visits("a") + b"\n", 1),
            (visits("a", "b"), 2),
            (visits("a", "b", "c"), 3),
        ):
            path.write_bytes(content)
            report = again()
            assert (report.lines, report.rejected, again.visitors()) == (lines, 0, lines)

    def test_what_a_pipe_ends_with_is_all_there_will_be(
        self, standard_input: Callable[[bytes], None]
    ) -> None:
        """A half line of it is a bad one, counted once."""
        again = Importing("-")
        standard_input(visits("a", "b")[:-30])
        assert (again().rejected, again.visitors()) == (1, 1)
        standard_input(visits("a", "b")[:-30])
        assert (again().rejected, len(again.rejected)) == (1, 1)


COMMON = '{host} - - [{time}] "{request}" 200 6245'
COMBINED = COMMON + ' "{referer}" "{agent}"'
WEB = {
    "host": "ppp44.crim.ca",
    "time": "09/Jul/1995:00:00:01 -0400",
    "request": "GET / HTTP/1.0",
    "referer": "http://example.org/",
    "agent": "Mozilla/5.0 (X11)",
}


class TestAccessLogs:
    """Common and combined log format."""

    @pytest.mark.parametrize("name", ["common", "combined"])
    @pytest.mark.parametrize("form", [COMMON, COMBINED])
    def test_either_format_is_read_as_either(self, name: str, form: str) -> None:
        """A server whose format changed half-way needs no two imports."""
        line = form.format(**WEB).encode()
        when = at("1995-07-09T04:00:01+00:00")
        assert parser(name).parse(7, line) == Record(7, when, Activity.SEEN, "ppp44.crim.ca")

    @pytest.mark.parametrize(
        ("visitor", "form", "expected"),
        [
            ("host", COMBINED, "ppp44.crim.ca"),
            ("ip", COMBINED, "ppp44.crim.ca"),
            ("ip+agent", COMBINED, "ppp44.crim.ca Mozilla/5.0 (X11)"),
            ("ip+agent", COMMON, "ppp44.crim.ca -"),
        ],
    )
    def test_who_is_the_same_visitor(self, visitor: str, form: str, expected: str) -> None:
        """The first field, or it and the agent; `-` where none is known."""
        said = parser("combined", visitor).parse(1, form.format(**WEB).encode())
        assert isinstance(said, Record)
        assert said.visitor == expected

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("17/May/2015:10:05:03 +0000", "2015-05-17T10:05:03+00:00"),
            ("29/Feb/2024:23:59:59 +0545", "2024-02-29T18:14:59+00:00"),
            ("01/Jan/2015:00:00:00 +1400", "2014-12-31T10:00:00+00:00"),
            ("31/Dec/2014:23:00:00 -0930", "2015-01-01T08:30:00+00:00"),
        ],
    )
    def test_times_of_every_zone(self, text: str, moment: str) -> None:
        """The offset counts, days and years turn with it."""
        said = parser("common").parse(1, COMMON.format(**WEB | {"time": text}).encode())
        assert isinstance(said, Record)
        assert said.at == at(moment)

    @pytest.mark.parametrize(
        "text",
        [
            "31/Feb/2015:10:05:03 +0000",
            "17/Mai/2015:10:05:03 +0000",
            "17/May/2015:24:05:03 +0000",
            "17/May/2015:10:60:03 +0000",
            "17/May/2015:10:05:60 +0000",
            "17/May/2015:10:05: 3 +0000",
            "17/May/2015:10:05:03 +0060",
            "17/May/2015:10:05:03 0000",
            "17/May/2015:10:05:03",
            "17/May/2015:10:05:033 +0000",
            "17/May/1969:10:05:03 +0000",
            "01/Jan/0001:00:00:00 +2300",
            "1463479503",
            "",
        ],
    )
    def test_times_that_are_none(self, text: str) -> None:
        """Refused, also right after a good one of the same minute."""
        reader = parser("common")
        good = COMMON.format(**WEB | {"time": "17/May/2015:10:05:03 +0000"}).encode()
        bad = COMMON.format(**WEB | {"time": text}).encode()
        assert reader.parse(1, bad) == Rejected(1, Reject.BAD_TIME)
        assert isinstance(reader.parse(2, good), Record)
        assert reader.parse(3, bad) == Rejected(3, Reject.BAD_TIME)
        assert isinstance(reader.parse(4, good), Record)

    @given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)), max_size=20))  # noqa: DTZ001
    def test_times_in_any_order(self, moments: list[datetime]) -> None:
        """What is remembered of the line before never leaks into the next."""
        reader = parser("common")
        for number, moment in enumerate(moments):
            exact = moment.replace(microsecond=0, tzinfo=UTC)
            line = COMMON.format(**WEB | {"time": exact.strftime("%d/%b/%Y:%H:%M:%S +0000")})
            said = reader.parse(number, line.encode())
            assert isinstance(said, Record)
            assert said.at == exact.timestamp() * SECOND

    @pytest.mark.parametrize(
        "request_line",
        [
            "",
            "-",
            r"\x16\x03\x01\x02\x00\x01",
            "\x16\x03\x01\x02",
            r"GET /?q=\"quoted\" HTTP/1.1",
            'GET /?q="unescaped" HTTP/1.1',
            'GET /" 404 12 HTTP/1.1',
            "GET /[a] HTTP/1.1",
            "GET /ümläut HTTP/1.1",
            "() { :;}; /bin/bash -c 'cat /etc/passwd'",
            '"',
            "\\",
        ],
    )
    @pytest.mark.parametrize("form", [COMMON, COMBINED])
    def test_requests_may_be_anything(self, form: str, request_line: str) -> None:
        """Clients send what they like; who came and when is still plain."""
        line = form.format(**WEB | {"request": request_line})
        for encoded in (line.encode(), line.encode("latin-1")):
            said = parser("combined", "ip+agent").parse(1, encoded)
            assert isinstance(said, Record)
            assert said.visitor == f"ppp44.crim.ca {WEB['agent'] if form is COMBINED else '-'}"

    @pytest.mark.parametrize(
        ("agent", "expected"),
        [
            (r"a \"quoted\" agent", r"a \"quoted\" agent"),
            ('a "quoted" agent', 'a "quoted" agent'),
            ("", "-"),
            ("-", "-"),
            ("() { :;}; echo", "() { :;}; echo"),
        ],
    )
    def test_agents_may_be_anything(self, agent: str, expected: str) -> None:
        """Escaped or not, all of it tells visitors apart."""
        line = COMBINED.format(**WEB | {"agent": agent})
        said = parser("combined", "ip+agent").parse(1, line.encode())
        assert isinstance(said, Record)
        assert said.visitor == f"ppp44.crim.ca {expected}"

    def test_an_agent_that_is_no_utf_8_stays_distinct(self) -> None:
        """Two agents that differ in such bytes are two visitors."""
        visitors = set()
        for byte in (b"\xe4", b"\xf6"):
            line = COMBINED.format(**WEB).encode().replace(b"X11", byte)
            said = parser("combined", "ip+agent").parse(1, line)
            assert isinstance(said, Record)
            visitors.add(said.visitor)
        assert len(visitors) == 2

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"garbage", Reject.NO_MATCH),
            (b"a b", Reject.NO_MATCH),
            (b'[09/Jul/1995:00:00:01 -0400] "GET / HTTP/1.0" 200 1', Reject.NO_MATCH),
            (b'h [09/Jul/1995:00:00:01 -0400] "GET / HTTP/1.0" 200 1', Reject.NO_MATCH),
            (b'h - - [09/Jul/1995:00:00:01 -0400] "GET / HTTP/1.0" 20 1', Reject.NO_MATCH),
            (b'h - - [09/Jul/1995:00:00:01 -0400] "GET / HTTP/1.0', Reject.NO_MATCH),
            (b'h - - [09/Jul/1995:00:00:01 -0400] "GET /" 200 1 "cut off', Reject.NO_MATCH),
            (b'- - - [09/Jul/1995:00:00:01 -0400] "GET /" 200 1', Reject.NO_VISITOR),
            (b' - - [09/Jul/1995:00:00:01 -0400] "GET /" 200 1', Reject.NO_VISITOR),
            (b'\xff - - [09/Jul/1995:00:00:01 -0400] "GET /" 200 1', Reject.NOT_TEXT),
        ],
    )
    def test_lines_that_are_none(self, line: bytes, reason: Reject) -> None:
        """Counted by number and reason, nothing of the line is kept."""
        assert parser("combined").parse(3, line) == Rejected(3, reason)

    def test_users_with_blanks(self) -> None:
        """Servers write the name a client logs in with as it came."""
        line = b'h - jane [x] doe [09/Jul/1995:00:00:01 -0400] "GET /" 200 -'
        assert isinstance(parser("common").parse(1, line), Record)


EDGAR = "{ip},{date},{time},500.0,78003.0,0000078003-02-000069,q2-02.htm,200.0,1.0,0,0,0,9.0,0,{b}"
FILING = {"ip": "12.44.161.fed", "date": "2003-02-20", "time": "00:00:06", "b": "win"}


class TestEdgar:
    """The CSV of the SEC."""

    def test_a_row(self) -> None:
        """The masked address is the visitor, the time is UTC."""
        when = at("2003-02-20T00:00:06+00:00")
        line = EDGAR.format(**FILING).encode()
        assert parser("edgar").parse(2, line) == Record(2, when, Activity.SEEN, "12.44.161.fed")
        said = parser("edgar", "ip+agent").parse(2, line)
        assert isinstance(said, Record)
        assert said.visitor == "12.44.161.fed win"

    def test_the_header_is_no_record(self) -> None:
        """Wherever it stands: joined files have several."""
        header = b"ip,date,time,zone,cik,accession,extention,code,size,idx,norefer,noagent,find"
        assert parser("edgar").parse(1, header) is None

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"ip": ""}, Reject.NO_VISITOR),
            ({"date": "2003-02-30"}, Reject.BAD_TIME),
            ({"time": "24:00:00"}, Reject.BAD_TIME),
            ({"time": "00:00"}, Reject.BAD_TIME),
            ({"time": "00:00:061"}, Reject.BAD_TIME),
            ({"b": "win,too,many"}, Reject.NO_MATCH),
            ({"ip": "\udcff"}, Reject.NOT_TEXT),
        ],
    )
    def test_rows_that_are_none(self, change: dict[str, str], reason: Reject) -> None:
        """Also right after a good one of the same minute."""
        reader = parser("edgar")
        assert isinstance(reader.parse(1, EDGAR.format(**FILING).encode()), Record)
        bad = EDGAR.format(**FILING | change).encode(errors="surrogateescape")
        assert reader.parse(2, bad) == Rejected(2, reason)


class TestIrc:
    """Channel logs."""

    @pytest.mark.parametrize(
        ("line", "activity", "nick", "new_nick"),
        [
            ("[12:34] <ann> hello <b> [c]", "seen", "ann", None),
            ("[12:34]  * ann waves", "seen", "ann", None),
            ("[12:34] * ann waves", "seen", "ann", None),
            ("[12:34] -ubottu- Bug 1", "seen", "ubottu", None),
            ("[12:34] -an-n:#ubuntu- spam - more", "seen", "an-n", None),
            ("=== ann [~a@x.org]  has joined #ubuntu", "joined", "ann", None),
            ('=== ann [n=a@x.org]  has left #ubuntu ["Leaving"] ', "left", "ann", None),
            ("=== ann is now known as ann|away ", "renamed", "ann", "ann|away"),
            ("=== ann was kicked off #ubuntu by op (flood)", "left", "ann", None),
            ("=== ann shrugs", "seen", "ann", None),
            ("=== ann changed the topic of #ubuntu to: new", "seen", "ann", None),
            ("[12:34] <[a] b> hello", "seen", "[a]b", None),
            ("[12:34] <ann[] > hello", "seen", "ann[]", None),
            ("=== [a] b [n=[a] b@x.org]  has joined #ubuntu", "joined", "[a]b", None),
            ("=== a[b]  [n=a@x.org]  has joined #ubuntu", "joined", "a[b]", None),
            ("=== a[b] [n=a@x.org] has joined #ubuntu", "joined", "a[b]", None),
            ("=== a[b [n=a@x.org]  has left #ubuntu []", "left", "a[b", None),
            ("=== a[b]  is now known as [c] d", "renamed", "a[b]", "[c]d"),
            ("=== a[b] is now known as c", "renamed", "a[b]", "c"),
            ("=== [a] b waves", "seen", "[a]b", None),
        ],
    )
    def test_what_people_do(
        self, line: str, activity: str, nick: str, new_nick: str | None
    ) -> None:
        """Every way the real logs write it, with the blanks their exporter put into nicks."""
        said = parser("irc").parse(1, line.encode())
        assert isinstance(said, Record)
        assert (said.activity, said.visitor, said.new_name) == (activity, nick, new_nick)
        assert said.room == "2004-11-15.txt"

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "  ",
            "=== mode/#ubuntu [+o op]  by ChanServ",
            "=== ..[topic/#ubuntu:op] : Help",
            "=== Topic for #ubuntu: Help",
            "=== Topic (#ubuntu): set by op at Mon Dec  4",
            "=== netjoined: irc.x -> y.x",
        ],
    )
    def test_what_nobody_does(self, line: str) -> None:
        """Notices of the log are no records, and no bad lines either."""
        assert parser("irc").parse(1, line.encode()) is None

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"[12:34] (ann/#ubuntu) relayed", Reject.NO_MATCH),
            (b"plain text", Reject.NO_MATCH),
            (b"[12:34pm] <ann> hello", Reject.BAD_TIME),
            (b"[24:00] <ann> hello", Reject.BAD_TIME),
            (b"channel 2004-02-30 [12:34] <ann> hello", Reject.BAD_TIME),
            (b"[12:34] <> hello", Reject.NO_VISITOR),
            (b"=== ", Reject.NO_VISITOR),
            (b"[12:34] <\xff> hello", Reject.NOT_TEXT),
        ],
    )
    def test_lines_that_are_none(self, line: bytes, reason: Reject) -> None:
        """Counted by number and reason."""
        assert parser("irc").parse(9, line) == Rejected(9, reason)

    def test_text_need_not_be_utf_8(self) -> None:
        """What is said is never read, so it may be of any encoding."""
        assert isinstance(parser("irc").parse(1, b"[12:34] <ann> gr\xfc\xdfe"), Record)

    def test_lines_without_a_clock(self) -> None:
        """Midnight at first, then the time of the last line with one, also where it steps back."""
        reader = parser("irc")
        lines = [
            "=== ann [a@x]  has joined #c",
            "[23:59] <ann> hi",
            "=== bob [b@x]  has joined #c",
            "[00:01] <ann> hi",
            "=== cid [c@x]  has joined #c",
        ]
        times = [said.at for said in map(reader.parse, range(5), map(str.encode, lines))]  # type: ignore[union-attr]
        day = at("2004-11-15T00:00:00+00:00")
        assert [(time - day) // (60 * SECOND) for time in times] == [0, 1439, 1439, 1, 1]

    def test_dates_before_the_lines(self) -> None:
        """They win over the file's name, and a new one starts a day for lines without a clock."""
        reader = parser("irc", file="ubuntu-meeting.2.ascii.txt")
        times = [
            said.at if isinstance(said, Record) else said
            for said in (
                reader.parse(1, b"[12:00] <ann> before any date"),
                reader.parse(2, b"ubuntu-meeting 2006-04-30 [23:50] <ann> hi "),
                reader.parse(3, b"ubuntu-meeting 2006-04-30 === bob [b@x]  has joined #c "),
                reader.parse(4, b"ubuntu-meeting 2006-05-01 === cid [c@x]  has joined #c "),
            )
        ]
        evening = at("2006-04-30T23:50:00+00:00")
        midnight = at("2006-05-01T00:00:00+00:00")
        assert times == [Rejected(1, Reject.BAD_TIME), evening, evening, midnight]


class TestJsonl:
    """Our own format."""

    def parse(self, **fields: object) -> Record | Rejected | None:
        return parser("jsonl").parse(1, json.dumps(fields).encode())

    @pytest.mark.parametrize(
        "when",
        [
            "2026-11-03T10:00:00.25Z",
            "2026-11-03t11:00:00.250000+01:00",
            "2026-11-03 04:30:00.250000999-05:30",
            1_793_700_000_250,
        ],
    )
    def test_times(self, when: str | int) -> None:
        """RFC 3339 with any offset, or whole milliseconds."""
        said = self.parse(at=when, activity="seen", visitor="ann")
        assert said == Record(1, at("2026-11-03T10:00:00.25+00:00"), Activity.SEEN, "ann")

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"activity": "joined", "visitor": "ann", "room": "r"}, ("ann", "r", None)),
            ({"activity": "left", "visitor": "ann", "room": "r"}, ("ann", "r", None)),
            (
                {"activity": "renamed", "visitor": "ann", "room": "r", "new_name": "anna"},
                ("ann", "r", "anna"),
            ),
            ({"activity": "completed", "room": "r"}, (None, "r", None)),
            ({"activity": "failed", "room": "r", "visitor": None}, (None, "r", None)),
        ],
    )
    def test_activities(
        self, fields: dict[str, str], expected: tuple[str | None, str | None, str | None]
    ) -> None:
        """Each with the fields it needs."""
        said = self.parse(at=0, **fields)
        assert isinstance(said, Record)
        assert said.activity == fields["activity"]
        assert (said.visitor, said.room, said.new_name) == expected

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({}, Reject.BAD_FIELD),
            ({"at": 0, "visitor": "a"}, Reject.BAD_FIELD),
            ({"activity": "seen", "visitor": "a"}, Reject.BAD_FIELD),
            ({"at": 0, "activity": "waved", "visitor": "a"}, Reject.BAD_FIELD),
            ({"at": 0, "activity": ["seen"], "visitor": "a"}, Reject.BAD_FIELD),
            ({"at": 0, "activity": "seen", "visitor": 5}, Reject.BAD_FIELD),
            ({"at": 0, "activity": "seen", "visitor": "a", "rooom": "r"}, Reject.BAD_FIELD),
            ({"at": 0, "activity": "seen", "visitor": "a", "room": ""}, Reject.BAD_FIELD),
            ({"at": 0, "activity": "seen", "visitor": "a", "new_name": "b"}, Reject.BAD_FIELD),
            ({"at": 0, "activity": "renamed", "visitor": "a"}, Reject.BAD_FIELD),
            ({"at": 0, "activity": "completed"}, Reject.BAD_FIELD),
            ({"at": 0.5, "activity": "seen", "visitor": "a"}, Reject.BAD_FIELD),
            ({"at": True, "activity": "seen", "visitor": "a"}, Reject.BAD_FIELD),
            ({"at": 2**70, "activity": "seen", "visitor": "a"}, Reject.BAD_FIELD),
            ({"at": 0, "activity": "seen"}, Reject.NO_VISITOR),
            ({"at": 0, "activity": "seen", "visitor": ""}, Reject.NO_VISITOR),
            ({"at": -1, "activity": "seen", "visitor": "a"}, Reject.BAD_TIME),
            ({"at": 2**60, "activity": "seen", "visitor": "a"}, Reject.BAD_TIME),
            ({"at": "2026-11-03", "activity": "seen", "visitor": "a"}, Reject.BAD_TIME),
            ({"at": "2026-11-03T10:00:00", "activity": "seen", "visitor": "a"}, Reject.BAD_TIME),
            ({"at": "2026-02-30T10:00:00Z", "activity": "seen", "visitor": "a"}, Reject.BAD_TIME),
            (
                {"at": "0001-01-01T00:00:00+23:00", "activity": "seen", "visitor": "a"},
                Reject.BAD_TIME,
            ),
        ],
    )
    def test_objects_that_are_none(self, fields: dict[str, object], reason: Reject) -> None:
        """Unknown, missing and wrong fields are told, so that a misspelt one is not lost."""
        assert self.parse(**fields) == Rejected(1, reason)

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"{", Reject.BAD_JSON),
            (b"[]", Reject.BAD_JSON),
            (b"[" * 5000, Reject.BAD_JSON),
            (b'{"at": 0, "at": NaN}', Reject.BAD_JSON),
            (b'{"visitor": "\xff"}', Reject.NOT_TEXT),
            (b'{"visitor": "\\ud800"}', Reject.BAD_JSON),
        ],
    )
    def test_what_is_no_object(self, line: bytes, reason: Reject) -> None:
        """Broken JSON, other JSON and text that is none."""
        assert parser("jsonl").parse(1, line) == Rejected(1, reason)


def test_the_documented_examples() -> None:
    """What the reference shows of each format is read as it says: as a record, line by line."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "import-formats.md").read_text(
        "utf-8"
    )
    blocks = re.findall(r"```text (\w+)\n(.*?)```", page, re.DOTALL)
    assert {name for name, _ in blocks} == set(FORMATS) - {"common"}
    for name, block in blocks:
        reader = parser(name)
        for number, line in enumerate(block.splitlines(), 1):
            said = reader.parse(number, line.encode())
            assert isinstance(said, Record) or (name == "edgar" and number == 1 and said is None)


FRAGMENTS = st.sampled_from(
    [
        *(b" ", b'"', b"\\", b"[", b"] ", b'] "', b'" 200 1 "', b"<", b"> ", b"* ", b"-", b"==="),
        *(b"=== ", b" has joined #c", b"]  has left #c", b" is now known as ", b" was kicked off "),
        *(b"mode/#", b"09/Jul/1995:00:00:01 -0400", b"2004-11-15", b"12:34", b"x 2004-11-15 "),
        *(b"ip,date,time,", b",", b"{", b"}", b":", b"0", b'"at"', b'"activity"', b'"visitor"'),
        *(b'"seen"', b'"a"', b"null"),
    ]
)
ANY_LINE = st.binary(max_size=200) | st.lists(FRAGMENTS | st.binary(max_size=3)).map(b"".join)


@pytest.mark.parametrize("name", FORMATS)
@given(lines=st.lists(ANY_LINE, max_size=8), visitor=st.sampled_from(VISITORS))
def test_any_bytes_are_a_record_a_bad_line_or_nothing(
    name: str, lines: list[bytes], visitor: str
) -> None:
    """No line, in whatever order, makes a parser fail; a record is whole."""
    reader = parser(name, visitor)
    for number, line in enumerate(lines, 1):
        said = reader.parse(number, line)
        if isinstance(said, Record):
            assert said.line == number
            assert 0 <= said.at < 2**63
            assert said.visitor or said.activity in (Activity.COMPLETED, Activity.FAILED)
            assert bool(said.new_name) == (said.activity is Activity.RENAMED)
            for text in (said.visitor, said.room, said.new_name):
                assert text is None or text.encode()
        else:
            assert said is None or (isinstance(said, Rejected) and said.line == number)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "repeated",
    [
        b'" 200 1 "',
        b'\\" 200 1 "',
        b'] "',
        b" [",
        b"] ",
        b'" "',
        b"<",
        b"-a",
        b":#",
        b"{",
        b" " * 9,
    ],
)
def test_no_line_takes_long(name: str, repeated: bytes) -> None:
    """Lines are made by strangers: 64 KiB of anything is done in time linear in it."""
    starts = (b"", b'h - - [09/Jul/1995:00:00:01 -0400] "', b"[12:34] ", b"[12:34] -", b"=== ")
    reader = parser(name, "ip+agent")
    started = time.process_time()
    for start in starts:
        reader.parse(1, start + repeated * ((MAX_LINE - 100) // len(repeated)))
    assert time.process_time() - started < 1.0  # some ms; seconds if it were quadratic


class TestRealLogs:
    """Everything in the real input is understood."""

    @pytest.mark.parametrize(
        ("file", "name", "lines", "by_host", "by_agent"),
        [
            ("weblog_nasa_19950709/access_09jul1995.txt.gz", "common", 35_272, 2_554, 2_554),
            ("weblog_nasa_19950709/access_09jul1995.txt.gz", "combined", 35_272, 2_554, 2_554),
            ("weblog_apache_elastic/apache_logs.gz", "combined", 10_000, 1_753, 1_862),
            ("weblog_attackers/hackers-access.log.gz", "combined", 3_456, 520, 654),
            ("weblog_edgar_20030220/log-1000k.csv.gz", "edgar", 8_978, 1_264, 1_304),
        ],
    )
    def test_web_logs(
        self, shared_data: Path, file: str, name: str, lines: int, by_host: int, by_agent: int
    ) -> None:
        """Not one line is rejected, and visitors are as many as the data's README says."""
        for visitor, visitors in (("host", by_host), ("ip", by_host), ("ip+agent", by_agent)):
            said = every_record(shared_data / file, name, visitor)
            records = [record for record in said if isinstance(record, Record)]
            assert (len(said), len(records)) == (lines, lines)
            assert len({record.visitor for record in records}) == visitors

    @pytest.mark.parametrize(
        ("file", "agent"),
        [
            ("weblog_nasa_19950709/access_09jul1995.txt.gz", False),
            ("weblog_apache_elastic/apache_logs.gz", True),
            ("weblog_attackers/hackers-access.log.gz", False),
        ],
    )
    def test_web_logs_read_twice(self, shared_data: Path, file: str, agent: bool) -> None:
        """Record by record the same as the independent reading."""
        ours = every_record(shared_data / file, "combined", "ip+agent" if agent else "host")
        theirs = readers.web(shared_data / file, agent=agent)
        assert [(said.at, said.visitor) for said in ours if isinstance(said, Record)] == list(
            theirs
        )

    def test_edgar_read_twice(self, shared_data: Path) -> None:
        """Record by record the same as the independent reading."""
        path = shared_data / "weblog_edgar_20030220" / "log-1000k.csv.gz"
        ours = every_record(path, "edgar")
        assert [(said.at, said.visitor) for said in ours if isinstance(said, Record)] == list(
            readers.edgar(path)
        )

    def test_irc_logs_read_twice(self, shared_data: Path, tmp_path: Path) -> None:
        """173 files and three of meetings: 1 line of 251 563 is bad, the others the same twice."""
        archive = shared_data / "irc_ubuntu_cc" / "ubuntu-irc-raw.tar.gz"
        files = readers.irc_files(archive, tmp_path)
        meetings = readers.meeting_files(shared_data / "irc_ubuntu_meeting_cc")
        counts: Counter[str] = Counter()
        for path in files + meetings:
            said = every_record(path, "irc")
            counts.update(
                said.activity if isinstance(said, Record) else said.reason.name for said in said
            )
            assert list(as_deeds(said)) == list(readers.irc([path]))
        assert counts == {
            "seen": 226_286,
            "joined": 17_108,
            "left": 2_717,
            "renamed": 5_157,
            "NO_MATCH": 1,
        }

    def test_recordings_read_back(self, shared_data: Path, tmp_path: Path) -> None:
        """What is written as `jsonl` comes back as it was."""
        recordings = sorted(shared_data.glob("bbb_meetings/raw/*/events.xml"))
        meetings = readers.meeting_files(shared_data / "irc_ubuntu_meeting_cc")
        for lines in (
            list(open_format.recordings_to_jsonl(recordings)),
            list(open_format.otto_to_jsonl(shared_data / "clickstream_otto" / "train.jsonl")),
            list(open_format.meetings_to_jsonl(meetings)),
        ):
            path = open_format.write(lines, tmp_path / "lines.jsonl")
            assert list(as_deeds(every_record(path, "jsonl"))) == list(open_format.deeds(lines))


def as_deeds(said: list[Record | Rejected]) -> Iterator[Deed]:
    """Records in the terms of the independent code."""
    for record in said:
        if isinstance(record, Record):
            assert record.room is not None
            yield Deed(record.at, record.activity, record.visitor, record.room, record.new_name)
