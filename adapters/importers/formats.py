"""The formats `lapse ingest --format` reads, and how records come out of a source.

docs/reference/import-formats.md describes each of them.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol

from adapters.importers.combined import Combined
from adapters.importers.edgar import Edgar
from adapters.importers.irc import Irc
from adapters.importers.jsonl import Jsonl
from adapters.importers.source import Source
from domain.records import Record, Reject, Rejected


class VisitorBy(StrEnum):
    """What makes two lines of a web log the same visitor."""

    HOST = "host"
    IP = "ip"
    IP_AGENT = "ip+agent"


class Parser(Protocol):
    """Turns one line into a record.

    remembers: whether a line's meaning depends on earlier ones. header_lines: headers met so far.
    """

    remembers: bool
    header_lines: int

    def parse(self, line_number: int, line: bytes) -> Record | Rejected | None:
        """What the line says; None if it is no record (blank, a header, a notice of the log)."""
        ...


def _web(visitor: VisitorBy, name: str) -> Parser:
    return Combined(with_agent=visitor is VisitorBy.IP_AGENT)


def _edgar(visitor: VisitorBy, name: str) -> Parser:
    return Edgar(with_agent=visitor is VisitorBy.IP_AGENT)


def _irc(visitor: VisitorBy, name: str) -> Parser:
    return Irc(name)


def _jsonl(visitor: VisitorBy, name: str) -> Parser:
    return Jsonl()


FORMATS: dict[str, Callable[[VisitorBy, str], Parser]] = {
    "combined": _web,
    "common": _web,
    "edgar": _edgar,
    "irc": _irc,
    "jsonl": _jsonl,
}
"""Name -> what makes a parser for one source, from what a visitor is and the source's name.

`combined` and `common` are one parser: it tells the lines apart by their ends. IRC logs and `jsonl`
name who did something, so they make nothing of the first argument.
"""

VISITORS: tuple[str, ...] = tuple(VisitorBy)


def read(source: Source, parser: Parser, skip: int = 0) -> Iterator[Record | Rejected]:
    """What the source says after its first `skip` lines, in its order.

    `source.lines_read` follows, lines that are no record included. Raises SourceError where the
    source breaks off, after all that stands before that place.
    """
    # A parser that remembers must see the skipped lines too, or those after them change meaning.
    for number, line in source.lines(0 if parser.remembers else skip):
        said = Rejected(number, Reject.TOO_LONG) if line is None else parser.parse(number, line)
        if said is not None and number > skip:
            yield said
