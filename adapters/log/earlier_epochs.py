"""What was signed before a restore still binds what the restore brought back.

An epoch ends where the event `log.epoch` stands that began the next one. Every checkpoint of it
that reaches no further must lead to the same root today; those that reach further tell what the
restore lost. Without this, whoever claims that there was a restore could write all history anew.

Whoever restores twice may bring back a backup that knows nothing of the first restore. The epoch in
between is lost then: every checkpoint of it is over its own `log.epoch`, which is not there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from adapters.evidence import Evidence
from adapters.log import merkle
from adapters.log.checkpoint import Checkpoints, epoch_of
from adapters.log.note import TreeHead
from adapters.log.tree import Standing, epoch_leaf
from domain.facts import EpochOpened

PAGE = merkle.WIDTH
"""Checkpoints of one epoch that are held at once."""

Opened = tuple[int, int]
"""An epoch, and the position of the event that began it."""
Signed = Callable[[str], TreeHead | None]
"""What a note says; None if it is not a signed checkpoint of this log."""


@dataclass(frozen=True)
class Broken:
    """A checkpoint of an earlier epoch that the log does not lead to, or that nobody signed.

    fits: events under the last one that fits. events: under this one, as far as they are there.
    where: `checkpoint`, `evidence` or `against`. lost: it is over more than was brought back.
    """

    fits: int
    events: int
    where: str
    lost: bool = False


@dataclass(frozen=True)
class _Mark:
    """A checkpoint and where it is kept. root: None if nobody signed it."""

    size: int
    root: bytes | None
    where: str


class EarlierEpochs:
    """Compares one log, while somebody walks it.

    opened: all epochs but the first, in the order of the log; the last is that of today. kept: a
    checkpoint of an earlier epoch that somebody kept. Raises EvidenceUnavailable.
    """

    def __init__(
        self,
        opened: Sequence[Opened],
        checkpoints: Checkpoints,
        evidence: Evidence | None,
        signed: Signed,
        kept: TreeHead | None,
    ) -> None:
        self._opened = opened
        self._checkpoints = checkpoints
        self._evidence = evidence
        self._signed = signed
        self._kept = kept
        begun = [1, *(epoch for epoch, _ in opened)]
        ends = [position - 1 for _, position in opened]
        self._trees = [self._tree(epoch, end) for epoch, end in zip(begun, ends, strict=False)]
        self._others = [mark for mark in self._last_ones() if mark[0] not in begun]

    def grow(self, leaves: Sequence[bytes]) -> Iterator[Broken]:
        """What does not fit of the checkpoints up to here. leaves: of the events that follow."""
        for tree in self._trees:
            yield from tree.grow(leaves)

    def rest(self) -> Iterator[Broken]:
        """What does not fit of those that reach further than what was brought back."""
        for tree in self._trees:
            yield from tree.rest()
        for epoch, mark in self._others:
            if mark.where == "against":
                end = self._end(epoch)
                yield Broken(end, end, mark.where, lost=True)

    @property
    def lost(self) -> int:
        """How many events were signed and not brought back, at least. Known behind `rest`."""
        others = [
            mark.size - Standing(epoch, 0).index(self._end(epoch) + 1)
            for epoch, mark in self._others
        ]
        return max([sum(tree.lost for tree in self._trees), *others])

    def _tree(self, epoch: int, end: int) -> "_EarlierTree":
        before = self._checkpoints.last_before(epoch)
        first = [epoch_leaf(before.text if before is not None else "")] if epoch > 1 else []
        return _EarlierTree(first, end, self._marks(epoch))

    def _end(self, epoch: int) -> int:
        """How many events were brought back at most of an epoch that is lost itself."""
        return next(position for later, position in self._opened if later > epoch) - 1

    def _last_ones(self) -> Iterator[tuple[int, _Mark]]:
        """With their epochs."""
        if not self._opened:
            return
        if (last := self._checkpoints.last_before(self._opened[-1][0])) is not None:
            yield last.epoch, _Mark(last.size, last.root, "checkpoint")
        if self._kept is not None:
            yield epoch_of(self._kept.origin), _Mark(self._kept.size, self._kept.root, "against")

    def _marks(self, epoch: int) -> Iterator[_Mark]:
        """All checkpoints of an epoch by size."""
        waiting = sorted(self._outside(epoch), key=lambda mark: mark.size)
        size = -1
        while page := self._checkpoints.of_epoch(epoch, size, PAGE):
            for one in page:
                size = one.size
                while waiting and waiting[0].size <= size:
                    yield waiting.pop(0)
                is_signed = self._signed(one.note) == TreeHead(one.origin, one.size, one.root)
                yield _Mark(size, one.root if is_signed else None, "checkpoint")
        yield from waiting

    def _outside(self, epoch: int) -> Iterator[_Mark]:
        note = self._evidence.latest_checkpoint(epoch) if self._evidence is not None else None
        published = self._signed(note) if note is not None else None
        for head, where in ((published, "evidence"), (self._kept, "against")):
            if head is not None and epoch_of(head.origin) == epoch:
                yield _Mark(head.size, head.root, where)


class _EarlierTree:
    """The tree of an earlier epoch, made again from the log of today.

    first: the leaf that stood before all events, if any. end: the last event that was brought back.
    marks: what it must lead to, by size.
    """

    def __init__(self, first: Sequence[bytes], end: int, marks: Iterator[_Mark]) -> None:
        self._before = len(first)
        self._end = end + self._before
        self._marks = marks
        self._next = next(marks, None)
        self._edge: dict[int, tuple[int, bytes]] = {}
        self._size = self._fits = 0
        self._is_forked = False
        self.lost = 0
        self._add(first)

    def grow(self, leaves: Sequence[bytes]) -> Iterator[Broken]:
        """As `EarlierEpochs.grow`."""
        while (mark := self._next) is not None and mark.size <= self._end:
            count = max(0, mark.size - self._size)
            self._add(leaves[:count])
            leaves = leaves[count:]
            if self._size < mark.size:
                return
            yield from self._compare(mark)
            self._next = next(self._marks, None)

    def rest(self) -> Iterator[Broken]:
        """As `EarlierEpochs.rest`."""
        end = self._end - self._before
        while (mark := self._next) is not None:
            if mark.root is None:
                yield Broken(end, end, mark.where)
            else:
                self.lost = max(self.lost, mark.size - self._end)
                if mark.where == "against":
                    yield Broken(end, end, mark.where, lost=True)
            self._next = next(self._marks, None)

    def _compare(self, mark: _Mark) -> Iterator[Broken]:
        events = max(0, mark.size - self._before)
        if mark.root is None:
            yield Broken(self._fits, self._fits, mark.where)
        elif self._is_forked:
            pass  # and so is every later one
        elif merkle.root(self._read, mark.size) == mark.root:
            self._fits = events
        else:
            self._is_forked = True
            yield Broken(self._fits, events, mark.where)

    def _add(self, leaves: Sequence[bytes]) -> None:
        changed = merkle.grown(self._read, self._size, leaves)
        for (level, tile), hashes in sorted(changed.items()):
            self._edge[level] = (tile, hashes)
        self._size += len(leaves)

    def _read(self, level: int, tile: int) -> bytes:
        """Of the right edge; nothing else is asked for."""
        number, hashes = self._edge.get(level, (-1, b""))
        return hashes if number == tile else b""


def opened_epochs(connection: Connection, head: int) -> list[Opened]:
    """In the order of the log. head: its last position. What is none is left out."""
    query = (
        "SELECT version, position FROM events WHERE partition = 0 AND session_id = 'log' "
        f"AND topic = '{EpochOpened.TOPIC}' AND version BETWEEN 2 AND {2**31} "
        f"AND position BETWEEN 1 AND {int(head)} ORDER BY position"
    )
    return [(int(row[0]), int(row[1])) for row in connection.exec_driver_sql(query)]
