"""The erasure ledger in an object store, for several machines: one object per transaction.

An object is named after the number of its first entry and is only ever created, never replaced, so
two writers cannot take the same number (S3: a conditional write). Its lines are those of the file.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore

from adapters.ledger.lines import beginning, chained, encoded
from adapters.ledger.local import must_follow
from domain.errors import LedgerUnavailable, RestorePending
from domain.ledger import Entry

MOST = 1_000
"""Entries per object."""


class ObjectLedger:
    """`domain.ports.Ledger` in an object store. store: the random id of the database.

    What was read or written last is remembered, so that an append is one request.
    """

    def __init__(self, objects: ObjectStore, store: str) -> None:
        self._objects = objects
        self._prefix = f"{store}/"
        self._lock = threading.RLock()
        self._length = 0
        self._previous = beginning(store)

    def append(self, entries: Sequence[Entry]) -> int:
        with self._lock:
            return self._append(entries)

    def _append(self, entries: Sequence[Entry]) -> int:
        if entries[0].number != self._length + 1:
            self.length()
        must_follow(entries, self._length)
        previous = self._previous
        for start in range(0, len(entries), MOST):
            part = entries[start : start + MOST]
            body, previous = encoded(part, previous)
            self._create(self._name(part[0].number), body)
            self._length, self._previous = part[-1].number, previous
        return self._length

    def read(self, after: int) -> Iterator[Entry]:
        for entry, _ in self._chained(max(0, after - MOST)):
            if entry.number > after:
                yield entry

    def length(self) -> int:
        with self._lock:
            for entry, hash_ in self._chained(self._length, self._previous):
                self._length, self._previous = entry.number, hash_
            return self._length

    def _chained(self, after: int, previous: str | None = None) -> Iterator[tuple[Entry, str]]:
        """Entries, each with the hash of its line, of the objects that begin behind `after`.

        previous: the hash of line `after` (None: not known, and `after` may lie before any).
        """
        number = None if previous is None else after
        for name in self._names(after):
            before = _first_of(name) - 1 if number is None else number
            for entry, hash_ in chained(self._get(name).splitlines(), before, previous):
                yield entry, hash_
                number, previous = entry.number, hash_

    def _name(self, number: int) -> str:
        return f"{self._prefix}{number:016d}.jsonl"

    def _names(self, after: int) -> list[str]:
        with _asking():
            pages = obstore.list(self._objects, self._prefix, offset=self._name(after))
            return sorted(str(one["path"]) for page in pages for one in page)

    def _get(self, name: str) -> bytes:
        with _asking():
            return bytes(obstore.get(self._objects, name).bytes())

    def _create(self, name: str, body: bytes) -> None:
        with _asking():
            try:
                obstore.put(self._objects, name, body, mode="create", use_multipart=False)
            except AlreadyExistsError:
                # Ours, if the answer to a first try was lost.
                if self._get(name) != body:
                    raise RestorePending(
                        "another instance wrote to the erasure ledger what this database does not "
                        "contain yet: it is being repeated; try again"
                    ) from None


def _first_of(name: str) -> int:
    """The number that an object is named after."""
    return int(name.rpartition("/")[2].removesuffix(".jsonl"))


@contextmanager
def _asking() -> Iterator[None]:
    """The store's own text is left out: it may hold addresses and keys."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise LedgerUnavailable(
            f"the erasure ledger cannot be reached ({type(error).__name__}): check "
            "LAPSE_LEDGER_URL and the rights on it; nothing was changed in the database"
        ) from None
