"""Reads the whole log and says whether it is what was signed: altered, cut, set back, or as it was.

Every leaf is computed anew from the columns of its row and compared with the leaf that was written
with it, with the tiles, and, through the roots, with every checkpoint: those of the database, the
latest of the evidence store, and one that the caller kept. It writes nothing, needs no key but the
public one, opens nothing sealed, and holds one page at a time.
"""

import struct
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from adapters.evidence import Evidence
from adapters.keyring.signing import origin
from adapters.log import merkle
from adapters.log.checkpoint import SOUND, Checkpoint, Checkpoints, epoch_of, signed_head
from adapters.log.earlier_epochs import Broken, EarlierEpochs, opened_epochs
from adapters.log.engine import Engines
from adapters.log.note import NoteInvalid, TreeHead, VerifierKey, parse_note, tree_head
from adapters.log.tree import Tree, epoch_leaf
from adapters.log.witness import Witness
from domain.errors import SettingsInvalid

PAGE = 8 * merkle.WIDTH
"""Events that are held at once."""

MOST = 1_000
"""Problems that are listed; of more only the number is said."""


class Kind(StrEnum):
    """What was done to the log."""

    ALTERED = "altered"
    TRUNCATED = "truncated"
    ROLLED_BACK = "rolled_back"
    PRUNED = "pruned"  # a body is missing, and nothing says that its time was over


class Trust(StrEnum):
    """Whom one has to believe that nobody was shown another log."""

    OPERATOR = "operator-trusted"
    WITNESSED = "witnessed"


@dataclass(frozen=True)
class Finding:
    """position: the event that it is about, or the first that it may be about. where: what does not
    fit: `log`, `tree`, `checkpoint`, `evidence`, `against` or `epoch`."""

    kind: Kind
    position: int
    where: str


@dataclass
class Verdict:
    """size: events in the log. signed: leaves under the latest checkpoint. lost: how many events,
    at least, were signed in earlier epochs and brought back by no restore."""

    size: int
    signed: int = 0
    lost: int = 0
    trust: Trust = Trust.OPERATOR
    findings: list[Finding] = field(default_factory=list)
    more: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings

    def add(self, kind: Kind, position: int, where: str) -> None:
        """Beyond `MOST` problems are only counted."""
        if len(self.findings) < MOST:
            self.findings.append(Finding(kind, position, where))
        else:
            self.more += 1


@dataclass(frozen=True)
class _Mark:
    """A root that the log must have had at a size, and who says so."""

    size: int
    root: bytes
    where: str


class Verifier:
    """Verifies one database.

    key: that signs checkpoints, under the name of the first epoch. store: the id of the store.
    """

    def __init__(
        self,
        engines: Engines,
        checkpoints: Checkpoints,
        store: str,
        key: VerifierKey,
        evidence: Evidence | None = None,
        witnesses: Sequence[Witness] = (),
    ) -> None:
        self._engines = engines
        self._tree = Tree(engines)
        self._checkpoints = checkpoints
        self._store = store
        self._key = key
        self._evidence = evidence
        self._witnesses = witnesses

    def verify(self, against: str | None = None) -> Verdict:
        """against: a checkpoint that the caller kept. Raises SettingsInvalid if that is none of
        this log, EvidenceUnavailable if the evidence store cannot be read."""
        with self._engines.snapshot() as connection:
            head = _scalar(connection, "SELECT max(position) FROM heads WHERE partition = 0")
            self._standing = self._tree.standing()
            strays = _strays(connection, head)
            odd = _odd_checkpoints(connection, self._standing.epoch)
            opened = opened_epochs(connection, head)
        self._verdict = Verdict(head)
        self._altered: list[int] = []
        self._edge: dict[int, tuple[int, bytes]] = {}
        self._goal = self._standing.index(head + 1)
        known = [(self._kept_by_caller(against), "against"), (self._published(), "evidence")]
        for position in strays:
            self._verdict.add(Kind.ALTERED, position, "log")
        if odd:
            self._verdict.add(Kind.ALTERED, 0, "checkpoint")
        if not self._fits_epoch(opened):
            opened = []
        marks, earlier = self._by_epoch(known)
        self._earlier = EarlierEpochs(
            opened, self._checkpoints, self._evidence, self._signed, earlier
        )
        self._walk(sorted(marks, key=lambda mark: mark.size))
        self._add_broken(self._earlier.rest())
        self._verdict.lost = self._earlier.lost
        self._verdict.findings.sort(key=lambda found: found.position)
        return self._verdict

    # -- what others say --------------------------------------------------------------------------

    def _kept_by_caller(self, against: str | None) -> TreeHead | None:
        if against is None:
            return None
        try:
            name = tree_head(parse_note(against).text).origin
        except NoteInvalid:
            raise SettingsInvalid("--against: the file holds no checkpoint") from None
        if name.split("/epoch-")[0] != origin(self._store, 1):
            raise SettingsInvalid(
                f"--against: this checkpoint is of another log than {self._origin}"
            )
        head = self._signed(against)
        if head is None:
            raise SettingsInvalid("--against: this checkpoint is not signed by the key of this log")
        return head

    def _published(self) -> TreeHead | None:
        """The latest: it commits to all before."""
        latest = self._evidence.latest_checkpoint() if self._evidence is not None else None
        head = self._signed(latest) if latest is not None else None
        if latest is not None and head is None:
            self._verdict.add(Kind.ALTERED, 0, "evidence")  # it is none, or nobody signed it
        return head

    def _by_epoch(
        self, known: Sequence[tuple[TreeHead | None, str]]
    ) -> tuple[list[_Mark], TreeHead | None]:
        """Those of this epoch; and that of an earlier one which the caller kept: the evidence of
        earlier ones is looked up there."""
        marks, earlier = [], None
        for head, where in known:
            if head is None:
                continue
            epoch = epoch_of(head.origin)
            if epoch == self._standing.epoch:
                marks.append(_Mark(head.size, head.root, where))
            elif epoch > self._standing.epoch:  # this database knows nothing of a restore
                self._verdict.add(Kind.ROLLED_BACK, self._verdict.size + 1, where)
            elif where == "against":
                earlier = head
        return marks, earlier

    @property
    def _origin(self) -> str:
        return origin(self._store, self._standing.epoch)

    def _signed(self, note: str) -> TreeHead | None:
        return signed_head(note, self._store, self._key.public_key)

    # -- epochs -----------------------------------------------------------------------------------

    def _fits_epoch(self, opened: Sequence[tuple[int, int]]) -> bool:
        """Whether events say that the epoch began, once, and its first leaf commits to the last
        checkpoint before, if there is one."""
        epochs, epoch = [1, *(number for number, _ in opened)], self._standing.epoch
        if epochs != sorted(set(epochs)) or epochs[-1] != epoch:
            self._verdict.add(Kind.ALTERED, 1, "epoch")
            return False
        last = self._checkpoints.last_before(epoch)
        first = self._tree.tile(0, 0)[: merkle.HASH]
        if last is not None and first != epoch_leaf(last.text):
            self._found_altered(0, "epoch")
        return True

    def _add_broken(self, found: Iterable[Broken]) -> None:
        for one in found:
            first, end = self._standing.index(one.fits + 1), self._standing.index(one.events + 1)
            if one.lost:
                self._verdict.add(Kind.ROLLED_BACK, one.fits + 1, one.where)
            elif not self._altered_within(first, end):
                self._verdict.add(Kind.ALTERED, one.fits + 1, one.where)

    # -- walking the log --------------------------------------------------------------------------

    def _walk(self, outside: Sequence[_Mark]) -> None:
        """Page by page, and within a page from checkpoint to checkpoint."""
        size, holes, trusted = 0, 0, 0
        forked, lost = False, list[str]()
        for mark in _in_order(self._marks_of_database(), outside):
            if mark is not None and mark.size > self._goal:
                lost.append(mark.where)
                continue
            goal = self._goal if mark is None else mark.size
            for leaves in self._leaves(size, goal):
                holes = self._grow(size, leaves, holes)
                size += len(leaves)
            if mark is None or forked or holes:
                continue
            if merkle.root(self._read, size) == mark.root:
                trusted = size
                continue
            forked = True  # and so is every later one
            if not self._altered_within(trusted, size):
                self._found_altered(trusted, mark.where)
        if holes:
            self._found_cut(self._standing.position(self._goal - holes), "log")
        if self._standing.size > self._goal:
            self._found_cut(self._verdict.size + 1, "tree")
        self._report_lost(lost)

    def _marks_of_database(self) -> Iterator[_Mark]:
        """Its checkpoints by size; one that is not signed over what it says is a problem."""
        size, latest = -1, None
        while page := self._checkpoints.of_epoch(self._standing.epoch, size, PAGE):
            for one in page:
                size, latest = one.size, one
                if self._is_signed(one):
                    yield _Mark(one.size, one.root, "checkpoint")
                else:
                    position = self._standing.position(max(one.size - 1, 0))
                    self._verdict.add(Kind.ALTERED, position, "checkpoint")
        if latest is not None:
            self._verdict.signed = latest.size
            if self._is_witnessed(latest):
                self._verdict.trust = Trust.WITNESSED

    def _is_signed(self, one: Checkpoint) -> bool:
        return self._signed(one.note) == TreeHead(self._origin, one.size, one.root)

    def _is_witnessed(self, one: Checkpoint) -> bool:
        try:
            note = parse_note(one.note)
        except NoteInvalid:
            return False
        return any(note.is_signed_by(witness.key) for witness in self._witnesses)

    def _report_lost(self, lost: Sequence[str]) -> None:
        """Checkpoints are over more than there is. Where the database itself says so, its end was
        cut; where only others say so, it is an older state of itself."""
        inside = "checkpoint" in lost
        known = {one.kind for one in self._verdict.findings}
        if inside:
            self._found_cut(self._verdict.size + 1, "checkpoint")
        elif lost and not known & {Kind.TRUNCATED, Kind.ROLLED_BACK}:
            self._verdict.add(Kind.ROLLED_BACK, self._verdict.size + 1, lost[0])

    def _found_cut(self, position: int, where: str) -> None:
        """Once: what is missing at the end is missing everywhere."""
        if not any(one.kind is Kind.TRUNCATED for one in self._verdict.findings):
            self._verdict.add(Kind.TRUNCATED, position, where)

    def _found_altered(self, index: int, where: str) -> None:
        insort(self._altered, index)
        self._verdict.add(Kind.ALTERED, self._standing.position(index), where)

    def _altered_within(self, first: int, end: int) -> bool:
        at = bisect_left(self._altered, first)
        return at < len(self._altered) and self._altered[at] < end

    # -- a page -----------------------------------------------------------------------------------

    def _leaves(self, size: int, goal: int) -> Iterator[list[bytes | None]]:
        """The leaves from `size` to before `goal`, page by page; None for a hole."""
        while size < goal:
            upto = min(goal, (size // PAGE + 1) * PAGE)
            yield self._checked(size, upto)
            size = upto

    def _checked(self, first: int, end: int) -> list[bytes | None]:
        """Compare row by row. Where row and tile differ the tile's leaf goes on, so that one
        altered row is one problem and not also a wrong root."""
        with self._engines.snapshot() as connection:
            positions = (self._standing.position(first), self._standing.position(end - 1))
            rows = _rows(connection, *positions)
            pruned = _pruned(connection, *positions)
            tiled = _tiled(connection, first, end)
        leaves: list[bytes | None] = []
        for index in range(first, end):
            position = self._standing.position(index)
            kept = tiled.get(index)
            if position == 0:
                leaves.append(kept)
                continue
            if kept is None and index < self._standing.size:
                self._found_no_tile(index, tiled)
            found = rows.get(position) or pruned.get(position)
            if found is None:
                leaves.append(None)
                continue
            computed, written = found
            if computed != written or kept not in (None, written):
                self._found_altered(index, "log" if computed != written else "tree")
            leaves.append(kept or written)
        return leaves

    def _found_no_tile(self, index: int, tiled: Mapping[int, bytes]) -> None:
        """Once for all leaves that one tile lacks."""
        if index % merkle.WIDTH == 0 or index - 1 in tiled:
            self._found_altered(index, "tree")

    def _grow(self, size: int, leaves: Sequence[bytes | None], holes: int) -> int:
        """Add leaves to the right edge; how many are missing at the end so far."""
        whole: list[bytes] = []
        for index, leaf in enumerate(leaves, size):
            if leaf is None:
                holes += 1
                whole.append(self._hole(index))
                continue
            for missing in range(index - holes, index):
                insort(self._altered, missing)
                self._verdict.add(Kind.PRUNED, self._standing.position(missing), "log")
            holes = 0
            whole.append(leaf)
        changed = merkle.grown(self._read, size, whole)
        for (level, tile), hashes in sorted(changed.items()):
            if level:
                self._compare(level, tile, hashes)
            self._edge[level] = (tile, hashes)
        # Without the leaf of the epoch: earlier ones have their own.
        self._add_broken(self._earlier.grow(whole if size else whole[self._standing.before :]))
        return holes

    def _hole(self, index: int) -> bytes:
        """What the tree says of an event that is not there, so that the rest can be checked."""
        tile, at = divmod(index, merkle.WIDTH)
        hashes = self._tree.tile(0, tile)[at * merkle.HASH : (at + 1) * merkle.HASH]
        return hashes or bytes(merkle.HASH)

    def _compare(self, level: int, tile: int, computed: bytes) -> None:
        """Tiles above the leaves, as far as the tree of the database goes."""
        width = merkle.WIDTH**level
        known = min(merkle.WIDTH, max(0, self._standing.size // width - tile * merkle.WIDTH))
        before = self._edge.get(level)
        checked = len(before[1]) if before is not None and before[0] == tile else 0
        stored = self._tree.tile(level, tile)
        for at in range(checked, min(len(computed), known * merkle.HASH), merkle.HASH):
            if computed[at : at + merkle.HASH] == stored[at : at + merkle.HASH]:
                continue
            first = (tile * merkle.WIDTH + at // merkle.HASH) * width
            if not self._altered_within(first, first + width):
                self._found_altered(first, "tree")

    def _read(self, level: int, tile: int) -> bytes:
        """Of the right edge; nothing else is asked for."""
        number, hashes = self._edge.get(level, (-1, b""))
        return hashes if number == tile else b""


def _in_order(inside: Iterator[_Mark], outside: Sequence[_Mark]) -> Iterator[_Mark | None]:
    """All marks by size, then None for the end of the log."""
    waiting = list(outside)
    for mark in inside:
        while waiting and waiting[0].size <= mark.size:
            yield waiting.pop(0)
        yield mark
    yield from waiting
    yield None


# -- rows -------------------------------------------------------------------------------------


def _scalar(connection: Connection, query: str) -> int:
    return int(connection.exec_driver_sql(query).scalar() or 0)


def _strays(connection: Connection, head: int) -> Sequence[int]:
    """Where events stand that no append put there: before the first position or behind the head.
    What SQLite keeps as a position and is no number sorts behind all that are."""
    query = (
        f"SELECT {_number(connection, 'position')} FROM events "
        f"WHERE partition = 0 AND (position > {int(head)} OR position < 1) "
        f"ORDER BY position LIMIT {MOST}"
    )
    return [row[0] for row in connection.exec_driver_sql(query)]


def _odd_checkpoints(connection: Connection, epoch: int) -> int:
    """Of an epoch that has not begun, or of a size that is none: nobody looks at those."""
    query = (
        f"SELECT count(*) FROM checkpoints WHERE partition = 0 AND NOT ({SOUND}) OR epoch > {epoch}"
    )
    return _scalar(connection, query)


def _number(connection: Connection, column: str) -> str:
    """0 for what is none."""
    if connection.dialect.name == "sqlite":
        return f"CASE WHEN typeof({column}) = 'integer' THEN {column} ELSE 0 END"
    return column


def _between(first: int, last: int) -> str:
    return f"WHERE partition = 0 AND position >= {int(first)} AND position <= {int(last)}"


_TYPES = {
    "leaf": "blob",
    "session_id": "text",
    "version": "integer",
    "topic": "text",
    "effective_at": "integer",
    "recorded_at": "integer",
    "nonce": "blob",
    "state": "blob",
}


def _selected(connection: Connection, *columns: str) -> str:
    """SQLite keeps whatever somebody writes into a column, and fails to read a text that is none:
    all comes as bytes."""
    if connection.dialect.name == "sqlite":
        return ", ".join(f"CAST({name} AS BLOB)" for name in columns)
    return ", ".join(columns)


def _typed(connection: Connection) -> str:
    """Whether every column of an event has its type. In SQLite the same bytes may be kept as
    another one: then they give the same leaf, and no query finds them."""
    if connection.dialect.name == "sqlite":
        return " AND ".join(f"typeof({name}) = '{kind}'" for name, kind in _TYPES.items())
    return "true"


def _rows(connection: Connection, first: int, last: int) -> Mapping[int, tuple[bytes, bytes]]:
    """Position -> (the leaf its columns give, the leaf that was written)."""
    columns = f"{_typed(connection)}, {_selected(connection, *_TYPES)}"
    query = f"SELECT position, {columns} FROM events {_between(first, last)}"
    return {
        row[0]: (_computed(row[3:]) if row[1] else b"", _plain(row[2]))
        for row in connection.exec_driver_sql(query)
    }


def _computed(columns: Sequence[Any]) -> bytes:
    """What cannot be hashed has no leaf."""
    session_id, version, topic, effective_at, recorded_at, nonce, state = columns
    try:
        if len(nonce) != 16:
            return b""
        return merkle.leaf_of_row(
            _text(session_id),
            int(version),
            _text(topic),
            int(effective_at),
            int(recorded_at),
            bytes(nonce),
            bytes(state),
        )
    except (TypeError, ValueError, struct.error):
        return b""


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _plain(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else b"\0"


def _pruned(connection: Connection, first: int, last: int) -> Mapping[int, tuple[bytes, bytes]]:
    query = f"SELECT position, {_selected(connection, 'leaf')} FROM pruned {_between(first, last)}"
    rows = connection.exec_driver_sql(query)
    return {row[0]: (_plain(row[1]), _plain(row[1])) for row in rows}


def _tiled(connection: Connection, first: int, end: int) -> Mapping[int, bytes]:
    """Index -> the leaf that the tree holds."""
    lowest, highest = first // merkle.WIDTH, (end - 1) // merkle.WIDTH
    query = (
        f"SELECT tile, {_selected(connection, 'hashes')} FROM tiles "
        "WHERE partition = 0 AND level = 0 "
        f"AND tile >= {lowest} AND tile <= {highest}"
    )
    found = {}
    for tile, hashes in connection.exec_driver_sql(query):
        for at, leaf in enumerate(merkle.split(_plain(hashes))):
            found[tile * merkle.WIDTH + at] = leaf
    return found
