"""Logs of other systems become sessions that end on time: `lapse ingest` on real input.

Expected counts come from tests/independent, which imports nothing of Lapse.
"""

import gzip
import json
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import databases
from tests.acceptance.commands import FAILED, Installation, written
from tests.independent import open_format, readers
from tests.independent.counts import HOUR, MINUTE, rooms, visits

IDLE = 30 * MINUTE
"""Of the policy web-visit."""
MONTH = 30 * 24 * HOUR
ROOM_EVENTS = ("created", "joined", "left", "completed", "failed", "expired")

WEB_LOGS = {
    "nasa": ("weblog_nasa_19950709/access_09jul1995.txt.gz", "common", "host", 35_272),
    "apache": ("weblog_apache_elastic/apache_logs.gz", "combined", "host", 10_000),
    "apache-agents": ("weblog_apache_elastic/apache_logs.gz", "combined", "ip+agent", 10_000),
    "attackers": ("weblog_attackers/hackers-access.log.gz", "combined", "host", 3_456),
    "edgar": ("weblog_edgar_20030220/log-1000k.csv.gz", "edgar", "ip", 8_978),
}


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, int]]:
    """Name of a log -> events it led to on the database that was tried first."""
    return {}


def agree(counted: dict[str, dict[str, int]], name: str, events: dict[str, int]) -> None:
    """The same events on both databases, the samples of presence included."""
    assert counted.setdefault(name, events) == events


def samples(records: Iterable[tuple[int, str]], idle: int) -> int:
    """How many `seen` events visits lead to: at most one per session and tenth of `idle`."""
    now = number = 0
    last_seen: dict[str, int] = {}
    sampled: dict[str, int] = {}
    for at, visitor in records:
        now = max(now, at)
        if visitor not in last_seen or now >= last_seen[visitor] + idle:
            last_seen[visitor] = sampled[visitor] = at
        elif at >= sampled[visitor] + idle // 10:
            number += 1
            sampled[visitor] = at
        last_seen[visitor] = max(last_seen[visitor], at)
    return number


def records_of(name: str, path: Path, visitor: str) -> list[tuple[int, str]]:
    """(time, visitor) of each line."""
    if name == "edgar":
        return list(readers.edgar(path))
    return list(readers.web(path, agent=visitor == "ip+agent"))


@pytest.mark.parametrize("name", WEB_LOGS)
def test_web_visits(
    site: Installation, shared_data: Path, name: str, counted: dict[str, dict[str, int]]
) -> None:
    """Every visit is created, expired 30 min after its last request, and erased; none is lost."""
    file, form, visitor, lines = WEB_LOGS[name]
    records = records_of(name, shared_data / file, visitor)
    expected = visits(records, IDLE)["sessions"]

    done = site.ask(
        *("ingest", str(shared_data / file), "--format", form, "--visitor", visitor),
        *("--policy", "web-visit", "--until", "now"),
    )

    assert (done["lines"], done["rejected"]) == (lines, 0)
    assert done["sessions"] == done["participants"] == expected
    once_each = dict.fromkeys(("created", "joined", "expired", "erased"), expected)
    assert Counter(done["events"]) == Counter(once_each | {"seen": samples(records, IDLE)})
    assert done["events"] == databases.events(site.database_url)
    agree(counted, name, done["events"])


def test_people_read_the_same_figures(site: Installation, shared_data: Path) -> None:
    """Without --json the counts stand in tables."""
    file, form, _, _ = WEB_LOGS["attackers"]
    shown = site.lapse("ingest", str(shared_data / file), "--format", form, "--policy", "web-visit")
    words = shown.out.split()
    assert {"3456", "0", "765"} <= set(words)
    assert words[words.index("expired") + 1] == words[words.index("erased") + 1] == "765"


def test_rooms_of_irc(
    site: Installation, shared_data: Path, tmp_path: Path, counted: dict[str, dict[str, int]]
) -> None:
    """Twelve days of a channel, a file being a room: who came, left, was renamed, fell silent."""
    archive = shared_data / "irc_ubuntu_cc" / "ubuntu-irc-raw.tar.gz"
    (tmp_path / "irc").mkdir()
    files = readers.irc_files(archive, tmp_path / "irc")[::15]
    expected = rooms(readers.irc(files), HOUR)

    done = site.ask("ingest", *map(str, files), "--format", "irc", "--policy", "reading-room")

    assert_rooms(done, expected)
    assert done["lines"] == sum(path.read_bytes().count(b"\n") for path in files)
    agree(counted, "irc", done["events"])


def test_the_meeting_channel(
    site: Installation, shared_data: Path, counted: dict[str, dict[str, int]]
) -> None:
    """Three logs of a channel whose lines carry their date."""
    files = readers.meeting_files(shared_data / "irc_ubuntu_meeting_cc")
    done = site.ask("ingest", *map(str, files), "--format", "irc", "--policy", "reading-room")
    assert (done["lines"], done["rejected"]) == (3_600, 0)
    assert_rooms(done, rooms(readers.irc(files), HOUR))
    agree(counted, "meeting-channel", done["events"])


@pytest.mark.parametrize("name", ["recordings", "meetings", "shop"])
def test_anything_else_through_jsonl(
    site: Installation,
    shared_data: Path,
    tmp_path: Path,
    name: str,
    counted: dict[str, dict[str, int]],
) -> None:
    """BigBlueButton's events.xml, meetings found in a chat, a shop's sessions: rewritten as jsonl
    they are rooms like any other."""
    lines, policy, idle = open_lines(shared_data, name)
    path = written(tmp_path / "lines.jsonl", lines)
    done = site.ask("ingest", path, "--format", "jsonl", "--policy", policy, **month_of(tmp_path))
    assert (done["lines"], done["rejected"]) == (len(lines), 0)
    assert_rooms(done, rooms(open_format.deeds(lines), idle))
    agree(counted, name, done["events"])


def open_lines(shared_data: Path, name: str) -> tuple[list[dict[str, Any]], str, int]:
    """The lines, the policy they are taken under, and how long it lets a room idle."""
    if name == "recordings":
        paths = sorted(shared_data.glob("bbb_meetings/raw/*/events.xml"))
        return list(open_format.recordings_to_jsonl(paths)), "reading-room", HOUR
    if name == "meetings":
        paths = readers.meeting_files(shared_data / "irc_ubuntu_meeting_cc")
        return list(open_format.meetings_to_jsonl(paths)), "reading-room", HOUR
    path = shared_data / "clickstream_otto" / "train.jsonl"
    return list(open_format.otto_to_jsonl(path)), "month", MONTH


def month_of(folder: Path) -> dict[str, Any]:
    """The environment with a policy that lets sessions idle for 30 days."""
    path = folder / "month.toml"
    path.write_text(
        """
        [policy.month]
        rules = [
          { since = "last_seen", after = "30d", do = "expire" },
          { since = "expired", after = "1d", do = "erase" },
        ]
        """
    )
    return {"LAPSE_POLICY_FILE": str(path)}


def assert_rooms(done: Any, expected: dict[str, int]) -> None:
    """Rooms that were created and all ended, with everybody who came and went."""
    assert done["sessions"] == expected["created"]
    assert done["participants"] == expected["participants"]
    got = {name: done["events"].get(name, 0) for name in ROOM_EVENTS}
    assert got == {name: expected[name] for name in ROOM_EVENTS}
    assert done["events"]["erased"] == expected["created"]


class TestSources:
    """The same lines, whatever way they come."""

    @pytest.fixture
    def lines(self, shared_data: Path) -> bytes:
        """Of the attackers' log, which holds whatever people throw at a server."""
        path = shared_data / "weblog_attackers" / "hackers-access.log.gz"
        return b"".join(gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:600])

    @pytest.fixture
    def expected(self, lines: bytes, tmp_path: Path) -> int:
        path = tmp_path / "expected.gz"
        path.write_bytes(gzip.compress(lines))
        return visits(readers.web(path), IDLE)["sessions"]

    @pytest.mark.parametrize("way", ["plain", "gzip", "stdin", "gzip on stdin"])
    def test_plain_gzip_and_standard_input(
        self, site: Installation, tmp_path: Path, lines: bytes, expected: int, way: str
    ) -> None:
        """A file, a compressed file, a pipe: the same sessions."""
        content = gzip.compress(lines) if "gzip" in way else lines
        ingest = ("ingest", "--format", "combined", "--policy", "web-visit", "--json")
        if "stdin" in way:
            with site.start_fed(*ingest, "-") as (running, end):
                for start in range(0, len(content), 1000):
                    end.write(content[start : start + 1000])
            done = running.wait().document
        else:
            (tmp_path / "log").write_bytes(content)
            done = site.lapse(*ingest, str(tmp_path / "log")).document
        assert (done["lines"], done["sessions"]) == (600, expected)

    def test_several_files_are_one_import(
        self, site: Installation, tmp_path: Path, lines: bytes, expected: int
    ) -> None:
        """A log that was rotated in the middle of everybody's visit."""
        whole = lines.splitlines(keepends=True)
        parts = []
        for number, part in enumerate((whole[:250], whole[250:251], whole[251:])):
            parts.append(tmp_path / f"part-{number}")
            parts[-1].write_bytes(b"".join(part))
        done = site.ask(
            *("ingest", *map(str, parts), "--format", "combined", "--policy", "web-visit")
        )
        assert (done["lines"], done["sessions"]) == (600, expected)

    def test_a_log_that_grew_is_read_on(
        self, site: Installation, tmp_path: Path, lines: bytes, expected: int
    ) -> None:
        """The same command again takes what is new, and nothing twice."""
        path = tmp_path / "log"
        ingest = ("ingest", str(path), "--format", "combined", "--policy", "web-visit")
        whole = lines.splitlines(keepends=True)
        for upto in (300, 300, 600):
            path.write_bytes(b"".join(whole[:upto]))
            done = site.ask(*ingest, "--until", "last")
            assert done["lines"] == upto
        assert done["sessions"] == expected == databases.events(site.database_url)["created"]


BAD = [
    (2, "does not match the format"),
    (4, "time cannot be read"),
    (5, "not valid UTF-8"),
    (6, "longer than 64 KiB"),
    (7, "lies in the future"),
]
SOMEBODY = "Maximilian"


@pytest.fixture
def log_with_bad_lines(tmp_path: Path) -> Path:
    """Two good lines among five bad ones, each of which names somebody."""
    good = '{} - - [09/Jul/1995:00:{:02}:01 -0400] "GET / HTTP/1.0" 200 1\n'
    future = good.format(SOMEBODY, 5).replace("1995", "2095")
    path = tmp_path / "access.log"
    path.write_bytes(
        good.format("alice.example", 1).encode()
        + f"{SOMEBODY} was here\n".encode()
        + good.format("bob.example", 2).encode()
        + good.format(SOMEBODY, 3).replace("09/Jul", "31/Feb").encode()
        + good.format(SOMEBODY, 4).encode().replace(SOMEBODY.encode(), SOMEBODY.encode() + b"\xff")
        + good.format(SOMEBODY + "x" * 65_536, 4).encode()
        + future.encode()
    )
    return path


def test_bad_lines_are_listed_and_never_fatal(
    site: Installation, log_with_bad_lines: Path, tmp_path: Path
) -> None:
    """By number and reason, in the answer and in a file that only its owner reads; the content of
    a line is in neither."""
    rejects = tmp_path / "rejects.jsonl"
    answer = site.lapse(
        *("ingest", str(log_with_bad_lines), "--format", "common", "--policy", "web-visit"),
        *("--rejects", str(rejects), "--json"),
    )
    done = answer.document
    assert (done["lines"], done["rejected"], done["sessions"]) == (7, 5, 2)
    assert done["rejects"] == [{"file": 1, "line": line, "reason": why} for line, why in BAD]
    assert [json.loads(line) for line in rejects.read_text().splitlines()] == done["rejects"]
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    assert SOMEBODY not in rejects.read_text() + answer.out + answer.err


def test_bad_lines_are_shown_to_people_too(site: Installation, log_with_bad_lines: Path) -> None:
    """As `file 1, line 2: why`."""
    shown = site.lapse(
        *("ingest", str(log_with_bad_lines), "--format", "common", "--policy", "web-visit")
    )
    for line, why in BAD:
        assert f"file 1, line {line}: {why}" in shown.out


class TestUntil:
    """How far the clock runs on after the last record."""

    @pytest.fixture
    def ingest(self, tmp_path: Path) -> tuple[str, ...]:
        """Two visits: the first has been silent for 30 min when the log ends."""
        lines = [
            {"at": "2026-11-01T10:00:00Z", "activity": "seen", "visitor": "ann"},
            {"at": "2026-11-01T10:30:00Z", "activity": "seen", "visitor": "bob"},
        ]
        path = written(tmp_path / "log.jsonl", lines)
        return ("ingest", path, "--format", "jsonl", "--policy", "web-visit")

    @pytest.mark.parametrize(
        ("until", "expired", "erased", "last"),
        [
            ("last", 1, 0, "2026-11-01T10:30:00.000Z"),
            ("2026-11-01T10:59:59.999Z", 1, 0, "2026-11-01T10:59:59.999Z"),
            ("2026-11-01T12:00:00+01:00", 2, 0, "2026-11-01T11:00:00.000Z"),
            ("2026-11-02T10:30:00Z", 2, 1, "2026-11-02T10:30:00.000Z"),
            ("2020-01-01T00:00:00Z", 1, 0, "2026-11-01T10:30:00.000Z"),
            ("now", 2, 2, "2026-11-22T00:00:00.000Z"),
        ],
    )
    def test_the_clock_stops_where_it_is_told(
        self,
        site: Installation,
        ingest: tuple[str, ...],
        until: str,
        expired: int,
        erased: int,
        last: str,
    ) -> None:
        """Not at all, at a time, or at the present; never before the last record."""
        done = site.ask(*ingest, "--until", until)
        assert done["events"].get("expired", 0) == expired
        assert done["events"].get("erased", 0) == erased
        assert done["last"] == last


def test_a_file_that_breaks_off_keeps_what_came_before(
    site: Installation, shared_data: Path, tmp_path: Path
) -> None:
    """Half a gzip file: exit code 1, said on standard error, the complete lines imported; the whole
    file then adds the rest."""
    packed = (shared_data / "weblog_attackers" / "hackers-access.log.gz").read_bytes()
    path = tmp_path / "access.log.gz"
    path.write_bytes(packed[: len(packed) // 2])
    ingest = ("ingest", str(path), "--format", "combined", "--policy", "web-visit", "--json")
    broken = site.lapse(*ingest, "--until", "last", expect=FAILED)
    assert "the compressed file ends too early; everything before it was imported" in broken.err
    assert 0 < broken.document["lines"] < 3_456
    path.write_bytes(packed)
    whole = site.lapse(*ingest).document
    assert (whole["lines"], whole["sessions"]) == (3_456, 765)
