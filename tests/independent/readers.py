"""The real logs as plain tuples, read with as little code as possible. Times in microseconds."""

import csv
import gzip
import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from tests.independent.counts import HOUR, MINUTE, Deed

_WEB = re.compile(r'(\S+) .*?\[(.*?)\] ".*?" \d+ \S+(?: ".*?" "(.*?)"?$)?')
_IRC = re.compile(
    r"(?:ubuntu-meeting (?P<date>[-\d]+) )?"
    r"(?:\[(?P<hour>\d\d):(?P<minute>\d\d)\] (?:<(?P<says>[^>]+)>| ?\* (?P<does>\S+)"
    r"|-(?P<notes>[^\s:]+)(?::#\S+)?- )"
    r"|=== (?:mode/|netjoined:|\.\.\[topic|Topic )(?P<meta>)"
    r"|=== (?P<joins>.+\])  has joined #"
    r"|=== (?P<leaves>.+\]  has left|\S+ was kicked off) #"
    r"|=== (?P<old>.+?) is now known as (?P<new>.+)"
    r"|=== (?P<acts>(?:\S*\] (?=\S))*\S+))"
)

_KINDS = ("says", "does", "notes", "joins", "leaves", "old", "acts")


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


@cache
def _midnight(date: str) -> int:
    return _micros(datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC))


def web(path: Path, *, agent: bool = False) -> Iterator[tuple[int, str]]:
    """(time, host) of an access log in common or combined format; with agent: host and agent."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            found = _WEB.match(line.rstrip("\n"))
            assert found is not None
            at = datetime.strptime(found[2], "%d/%b/%Y:%H:%M:%S %z")
            yield _micros(at), f"{found[1]} {found[3]}" if agent else found[1]


def edgar(path: Path) -> Iterator[tuple[int, str]]:
    """(time, address) of the EDGAR log."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(f"{row['date']}T{row['time']}+00:00")
            yield _micros(at), row["ip"]


def irc_files(archive: Path, folder: Path) -> list[Path]:
    """Unpack the IRC logs into `folder`; the files in the order of their dates."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            stream = tar.extractfile(member) if member.name.endswith(".raw.txt") else None
            if stream is not None:
                (folder / Path(member.name).name).write_bytes(stream.read())
    return sorted(folder.glob("*.raw.txt"))


def meeting_files(folder: Path) -> list[Path]:
    """The logs of the meeting channel in the order of their dates, which stand on each line."""
    return sorted(folder.glob("*.txt"), key=lambda path: path.read_text(encoding="utf-8")[:25])


def irc(paths: Iterable[Path]) -> Iterator[Deed]:
    """What people did in the rooms, a file being a room."""
    for path in paths:
        yield from irc_lines(io.StringIO(path.read_text(encoding="utf-8")), path.name)


def irc_lines(lines: Iterable[str], room: str) -> Iterator[Deed]:
    """What people did in one file. Lines without a clock happen when the last one with it did."""
    date = room[:10]
    last = 0
    for line in lines:
        found = _IRC.match(line.rstrip())
        if found is None or found["meta"] is not None:
            continue
        date = found["date"] or date
        midnight = _midnight(date)
        if found["hour"]:
            last = midnight + int(found["hour"]) * HOUR + int(found["minute"]) * MINUTE
        at = last if found["hour"] else max(last, midnight)
        kind = next(kind for kind in _KINDS if found[kind])
        what = {"joins": "joined", "leaves": "left", "old": "renamed"}.get(kind, "seen")
        new = _nick(found["new"]) if what == "renamed" else None
        yield Deed(at, what, _nick(found[kind]), room, new)


def _nick(text: str) -> str:
    """Without the blank that the exporter put behind each bracket, and without the address."""
    return re.split(r" \[| was ", text.replace("] ", "]").strip())[0]
