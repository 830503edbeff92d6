"""What was signed before a restore still binds what the restore brought back.

An epoch ends where the event `log.epoch` stands that began the next one. Every checkpoint of it
that reaches no further must lead to the same root today; those that reach further tell what the
restore lost. Without this, whoever claims that there was a restore could write all history anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from adapters.evidence import Evidence
from adapters.keyring.signing import origin
from adapters.log import merkle
from adapters.log.checkpoint import Checkpoints
from adapters.log.engine import Engines
from adapters.log.note import NoteInvalid, TreeHead, VerifierKey, parse_note, tree_head
from adapters.log.tree import Standing, Tree, epoch_leaf
from domain.facts import EpochOpened

PAGE = 8 * merkle.WIDTH


@dataclass(frozen=True)
class Broken:
    """A checkpoint of an earlier epoch that the log does not lead to, or that nobody signed.

    events: that the last one which fits is over. where: `checkpoint`, `evidence`, `against` or
    `epoch`. lost: it is over more than the restore brought back.
    """

    events: int
    where: str
    lost: bool = False


@dataclass(frozen=True)
class _Mark:
    head: TreeHead
    where: str


class EarlierEpochs:
    """Compares one log. standing: how far its tree is. key: that signs checkpoints."""

    def __init__(
        self,
        engines: Engines,
        checkpoints: Checkpoints,
        store: str,
        key: bytes,
        standing: Standing,
        evidence: Evidence | None,
    ) -> None:
        self._tree = Tree(engines)
        self._checkpoints = checkpoints
        self._store = store
        self._key = key
        self._standing = standing
        self._evidence = evidence
        self.lost = 0
        with engines.snapshot() as connection:
            self._opened = _opened(connection)

    def broken(self, against: TreeHead | None = None) -> Iterator[Broken]:
        """What does not fit; `lost` is known then. against: of an earlier epoch, that somebody
        kept. Raises EvidenceUnavailable, TileMissing."""
        epochs = [epoch for epoch, _ in self._opened]
        if epochs != sorted(set(epochs)) or max([1, *epochs]) != self._standing.epoch:
            yield Broken(0, "epoch")  # nobody began it, or somebody wants it to have begun again
            return
        for epoch in range(1, self._standing.epoch):
            yield from self._broken_in(epoch, against)

    def _broken_in(self, epoch: int, against: TreeHead | None) -> Iterator[Broken]:
        name, before = origin(self._store, epoch), int(epoch > 1)
        end = next(position for later, position in self._opened if later > epoch) - 1
        kept = [_Mark(against, "against")] if against and against.origin == name else []
        edge, size, fits = _Edge(), 0, 0
        for mark in self._marks(epoch, kept):
            if mark is None:
                yield Broken(fits, "checkpoint")
            elif mark.head.size - before > end:
                self.lost = max(self.lost, mark.head.size - before - end)
                if mark.where == "against":
                    yield Broken(end, "against", lost=True)
            else:
                for page in self._leaves(epoch, size, mark.head.size):
                    edge.grow(size, page)
                    size += len(page)
                if merkle.root(edge.read, size) != mark.head.root:
                    yield Broken(fits, mark.where)
                    return  # and so does none after it
                fits = max(0, mark.head.size - before)

    def _marks(self, epoch: int, kept: Sequence[_Mark]) -> Iterator[_Mark | None]:
        """Its checkpoints by size; None for one that nobody signed."""
        waiting = sorted([*kept, *self._published(epoch)], key=lambda mark: mark.head.size)
        size = -1
        while page := self._checkpoints.of_epoch(epoch, size, PAGE):
            for one in page:
                size = one.size
                while waiting and waiting[0].head.size <= size:
                    yield waiting.pop(0)
                head = self._signed(epoch, one.note)
                said = TreeHead(one.origin, one.size, one.root)
                yield _Mark(said, "checkpoint") if head == said else None
        yield from waiting

    def _published(self, epoch: int) -> list[_Mark]:
        note = self._evidence.latest_checkpoint(epoch) if self._evidence is not None else None
        head = self._signed(epoch, note) if note is not None else None
        return [_Mark(head, "evidence")] if head is not None else []

    def _signed(self, epoch: int, text: str) -> TreeHead | None:
        key = VerifierKey(origin(self._store, epoch), self._key)
        try:
            note = parse_note(text)
            head = tree_head(note.text) if note.is_signed_by(key) else None
        except NoteInvalid:
            return None
        return head if head is not None and head.origin == key.name else None

    def _leaves(self, epoch: int, size: int, goal: int) -> Iterator[list[bytes]]:
        """Those of its tree, as the tree of today has them: whether that fits the log is looked at
        elsewhere. Its first one, which began it, is made again."""
        if size == 0 < goal and epoch > 1:
            yield [epoch_leaf(self._last_text(epoch - 1))]
            size = 1
        shift = self._standing.before - int(epoch > 1)
        while size < goal:
            tile, at = divmod(size + shift, merkle.WIDTH)
            leaves = merkle.split(self._tree.tile(0, tile))[at : at + goal - size]
            if not leaves:
                raise merkle.TileMissing(0, tile)
            yield leaves
            size += len(leaves)

    def _last_text(self, epoch: int) -> str:
        last = self._checkpoints.last_of(epoch)
        known = [mark.head for mark in self._published(epoch)]
        if last is not None and (ours := self._signed(epoch, last.note)) is not None:
            known.append(ours)
        return max(known, key=lambda head: head.size).text if known else ""


class _Edge:
    """The right edge of a tree that grows."""

    def __init__(self) -> None:
        self._tiles: dict[int, tuple[int, bytes]] = {}

    def grow(self, size: int, leaves: Sequence[bytes]) -> None:
        for (level, tile), hashes in sorted(merkle.grown(self.read, size, leaves).items()):
            self._tiles[level] = (tile, hashes)

    def read(self, level: int, tile: int) -> bytes:
        number, hashes = self._tiles.get(level, (-1, b""))
        return hashes if number == tile else b""


def _opened(connection: Connection) -> list[tuple[int, int]]:
    """(epoch, position of the event that began it), in the order of the log."""
    query = (
        "SELECT version, position FROM events WHERE partition = 0 AND session_id = 'log' "
        f"AND topic = '{EpochOpened.TOPIC}' ORDER BY position"
    )
    return [(int(row[0]), int(row[1])) for row in connection.exec_driver_sql(query)]
