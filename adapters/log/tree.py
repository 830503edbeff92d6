"""The Merkle tree of Lapse's log, kept in the table `tiles` behind the log.

An append writes the leaf of each event with it; the tiles follow. So appending costs a hash, and an
altered row is found from the instant it is committed: its leaf does not fit any more. Whoever needs
the tree brings it up to the head first (`follow`), and `lapse serve` does so every second.

Position p of the log is leaf p - 1 in the first epoch. A later epoch, which a restore begins, has a
leaf before all others that commits to the last checkpoint of the epoch before; there it is leaf p.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from adapters.log import bulk, merkle
from adapters.log.engine import Engines
from adapters.log.remembering import head_in
from adapters.log.schema import tiles
from domain.errors import CorruptEvent

BATCH = 16_384
"""Leaves that one transaction adds: 30 ms of work, 1 MB."""

FIRST_EPOCH = 1

_EPOCH_LEAF = b"lapse/epoch/v1\n"


@dataclass(frozen=True)
class Standing:
    """How far the tiles are. size: in leaves. epoch: 1 until a database was restored."""

    epoch: int
    size: int

    @property
    def before(self) -> int:
        """Leaves that stand before the first event."""
        return int(self.epoch > FIRST_EPOCH)

    def index(self, position: int) -> int:
        """The number of the leaf of an event."""
        return position - 1 + self.before

    def position(self, index: int) -> int:
        """The event behind a leaf; 0 for the leaf of an epoch."""
        return index + 1 - self.before


@dataclass(frozen=True)
class Inclusion:
    """The proof that a leaf (its hash) is number `index` in the tree of `size` leaves."""

    index: int
    size: int
    hashes: Sequence[bytes]
    leaf: bytes


def epoch_leaf(previous_note: str) -> bytes:
    """The hash of the leaf with which an epoch begins. previous_note: the text of the last
    checkpoint before, all that was signed, without the signatures."""
    return merkle.leaf_hash(_EPOCH_LEAF + previous_note.encode())


class Tree:
    """The tree of one database. Safe to use from any thread and any number of processes."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    # -- following the log ------------------------------------------------------------------------

    def follow(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Bring the tiles up to the head of the log; how many leaves were added here.

        Of several that follow at once one adds a batch, the others go on behind it. progress: told
        (leaves there are, leaves there will be). Raises CorruptEvent where an event is missing:
        the tree ends before it.
        """
        added = 0
        while (step := self._step()) is not None:
            done, size, goal = step
            added += done
            if progress is not None:
                progress(size, goal)
        return added

    def _step(self) -> tuple[int, int, int] | None:
        """One batch: (leaves added, leaves there are, leaves to come); None at the head."""
        with self._engines.snapshot() as connection:
            standing = standing_of(connection)
            goal = standing.index(head_in(connection) + 1)
            if standing.size >= goal:
                return None
            first = standing.position(standing.size)
            last = standing.position(min(goal, standing.size + BATCH) - 1)
            leaves = list(_leaves(connection, first, last))
            if not leaves:
                raise CorruptEvent(0, first, "it or its leaf is missing")
            changed = merkle.grown(_reader(connection), standing.size, leaves)
        size = standing.size + len(leaves)
        done = self._write(standing, size, changed)
        return (len(leaves) if done else 0), size, goal

    def _write(self, standing: Standing, size: int, changed: dict[tuple[int, int], bytes]) -> bool:
        """False if another process added leaves meanwhile."""
        mark = _mark(self._engines)
        with self._engines.write() as connection:
            # The row is the lock: whoever comes second finds another size.
            grown = connection.exec_driver_sql(
                f"UPDATE trees SET size = {mark} "
                f"WHERE partition = 0 AND epoch = {mark} AND size = {mark}",
                (size, standing.epoch, standing.size),
            ).rowcount
            if not grown and standing.size == 0:
                grown = connection.exec_driver_sql(
                    f"INSERT INTO trees (partition, epoch, size) VALUES (0, {mark}, {mark}) "
                    "ON CONFLICT (partition) DO NOTHING",
                    (standing.epoch, size),
                ).rowcount
            if grown:
                save_tiles(connection, changed)
        return bool(grown)

    # -- roots and proofs -------------------------------------------------------------------------

    def standing(self) -> Standing:
        """How far the tiles are."""
        with self._engines.read() as connection:
            return standing_of(connection)

    def root(self, size: int) -> bytes:
        """The root of the first `size` leaves. Raises TileMissing."""
        with self._reading() as read:
            return merkle.root(read, size)

    def inclusion(self, position: int, size: int | None = None) -> Inclusion:
        """The proof that an event stands in the tree of `size` leaves (None: of all there are).

        Raises ValueError if it does not.
        """
        return self.inclusions([position], size)[0]

    def inclusions(self, positions: Sequence[int], size: int | None = None) -> list[Inclusion]:
        """The proofs of several events, which share most of the tiles they are made of. Raises
        ValueError if one of them does not stand in that tree."""
        with self._engines.read() as connection:
            standing = standing_of(connection)
            size = standing.size if size is None else size
            if any(position < 1 for position in positions) or size > standing.size:
                raise ValueError("there is no such leaf in a tree of this size")
            indexes = [standing.index(position) for position in positions]
            # Within an epoch tiles only grow, so statements of their own see the same tree.
            likely = {one for index in indexes for one in merkle.tiles_for(index, size)}
            read = _reader(connection, sorted(likely))
            return [_inclusion(read, index, size) for index in indexes]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `old` leaves is the beginning of that of `new`.

        Raises ValueError unless 0 <= old <= new, TileMissing if there are fewer.
        """
        with self._reading() as read:
            return merkle.consistency(read, old, new)

    def tile(self, level: int, tile: int) -> bytes:
        """The hashes of a tile, as many as there are."""
        with self._engines.read() as connection:
            return _reader(connection)(level, tile)

    @contextmanager
    def _reading(self) -> Iterator[merkle.Read]:
        with self._engines.snapshot() as connection:
            yield _reader(connection)

    # -- epochs -----------------------------------------------------------------------------------

    def open_epoch(self, connection: Connection, epoch: int, previous_note: str) -> None:
        """Begin the tree of an epoch in this transaction; its tiles are then made anew.

        previous_note: see `epoch_leaf`.
        """
        first = epoch_leaf(previous_note)
        for table in ("tiles", "trees"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE partition = 0")
        mark = _mark(self._engines)
        connection.exec_driver_sql(
            f"INSERT INTO trees (partition, epoch, size, epoch_leaf) VALUES (0, {mark}, 1, {mark})",
            (epoch, first),
        )
        save_tiles(connection, {(0, 0): first})


# -- rows -------------------------------------------------------------------------------------


def _mark(engines: Engines) -> str:
    return "?" if engines.dialect == "sqlite" else "%s"


def standing_of(connection: Connection) -> Standing:
    """How far the tiles are."""
    query = "SELECT epoch, size FROM trees WHERE partition = 0"
    row = connection.exec_driver_sql(query).fetchone()
    return Standing(row[0], row[1]) if row else Standing(FIRST_EPOCH, 0)


def _leaves(connection: Connection, first: int, last: int) -> Iterator[bytes]:
    """The leaves of these positions, up to the first one that is missing or none."""
    # As bytes: SQLite would fail to read a text that somebody wrote there.
    leaf = "CAST(leaf AS BLOB)" if connection.dialect.name == "sqlite" else "leaf"
    where = f"WHERE partition = 0 AND position >= {int(first)} AND position <= {int(last)}"
    query = (
        f"SELECT position, {leaf} FROM events {where} "
        f"UNION ALL SELECT position, {leaf} FROM pruned {where} ORDER BY position"
    )
    for expected, row in enumerate(connection.exec_driver_sql(query), first):
        if row[0] != expected or row[1] is None or len(row[1]) != merkle.HASH:
            return
        yield bytes(row[1])


def _reader(connection: Connection, likely: Sequence[tuple[int, int]] = ()) -> merkle.Read:
    """Reads tiles, each one once. likely: which ones, to ask a server once for all of them."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    likely = likely if connection.dialect.name == "postgresql" else ()
    query = f"SELECT hashes FROM tiles WHERE partition = 0 AND level = {mark} AND tile = {mark}"
    columns = ("level", "tile", "hashes")
    rows = bulk.select_rows(connection, tiles, columns[:2], columns, likely)
    kept = {(level, tile): bytes(hashes) for level, tile, hashes in rows}

    def read(level: int, tile: int) -> bytes:
        if (level, tile) not in kept:
            row: Any = connection.exec_driver_sql(query, (level, tile)).fetchone()
            kept[level, tile] = bytes(row[0]) if row else b""
        return kept[level, tile]

    return read


def _inclusion(read: merkle.Read, index: int, size: int) -> Inclusion:
    hashes = merkle.inclusion(read, index, size)
    tile, at = divmod(index, merkle.WIDTH)
    leaf = read(0, tile)[at * merkle.HASH : (at + 1) * merkle.HASH]
    return Inclusion(index, size, hashes, leaf)


def save_tiles(connection: Connection, changed: dict[tuple[int, int], bytes]) -> None:
    """Write tiles, (level, number) -> hashes, over what is there."""
    bulk.insert(
        connection,
        tiles,
        ("level", "tile", "hashes"),
        [(*key, hashes) for key, hashes in changed.items()],
        "ON CONFLICT (partition, level, tile) DO UPDATE SET hashes = excluded.hashes",
    )
