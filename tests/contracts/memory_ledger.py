"""The erasure ledger in memory."""

from collections.abc import Iterator, Sequence

from adapters.ledger.local import must_follow
from domain.ledger import Entry


class MemoryLedger:
    """`domain.ports.Ledger`; nothing outlives the process."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def append(self, entries: Sequence[Entry]) -> int:
        must_follow(entries, len(self._entries))
        self._entries += entries
        return len(self._entries)

    def read(self, after: int) -> Iterator[Entry]:
        return iter(self._entries[after:])

    def length(self) -> int:
        return len(self._entries)
