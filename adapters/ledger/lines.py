"""Entries as lines of JSON. Each carries the hash of the line before it, so that one that is
changed, moved or missing is found."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import orjson

from domain.errors import LedgerDamaged
from domain.ledger import Entry, Kind

_SORTED = orjson.OPT_SORT_KEYS


def beginning(store: str) -> str:
    """What the first line carries. store: the random id of the database, so that the ledger of
    another one is not taken for it."""
    return hashlib.sha256(b"lapse/ledger/v1\0" + store.encode()).hexdigest()


def hash_of(line: bytes) -> str:
    """What the next line carries; without the end of the line."""
    return hashlib.sha256(line).hexdigest()


def encoded(entries: Sequence[Entry], previous: str) -> tuple[bytes, str]:
    """The lines of these entries, and the hash of the last one."""
    lines = []
    for entry in entries:
        line = orjson.dumps({**entry._asdict(), "previous": previous}, option=_SORTED)
        lines.append(line + b"\n")
        previous = hash_of(line)
    return b"".join(lines), previous


def decoded(line: bytes) -> tuple[Entry, str]:
    """The entry of a line, and the hash it carries. Raises ValueError."""
    try:
        fields = orjson.loads(line)
        previous = fields.pop("previous")
        entry = Entry(**{**fields, "kind": Kind(fields["kind"])})
        numbers = (entry.number, entry.epoch, entry.head, entry.at)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError from error
    if not all(type(number) is int for number in numbers) or type(entry.fields) is not dict:
        raise ValueError
    return entry, previous


def chained(
    lines: Iterable[bytes], number: int, previous: str | None
) -> Iterator[tuple[Entry, str]]:
    """The entries of these lines, each with the hash of its line. number, previous: of the line
    before the first one (None: not known). Raises LedgerDamaged."""
    for line in lines:
        number += 1
        try:
            entry, carried = decoded(line)
        except ValueError:
            raise damaged(number) from None
        if entry.number != number or (previous is not None and carried != previous):
            raise damaged(number)
        previous = hash_of(line)
        yield entry, previous


def damaged(number: int) -> LedgerDamaged:
    return LedgerDamaged(
        f"the erasure ledger was changed, or is another database's, from entry {number} on: "
        "restore it from its copy; without it a restored database cannot be served"
    )
