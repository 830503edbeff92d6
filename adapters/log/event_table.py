"""One gapless sequence of stored events in a database: the tables of a library application.

Positions come from a head row, so they are without gaps and in commit order on every database:
whoever raises the head holds its row until the commit. No lock is taken after the head.

An append is tried without looking (on PostgreSQL a small batch is then one statement and one round
trip). Only when that meets a conflict is the batch judged call by call under the head's lock, and
exactly the conflicting calls are refused.
"""

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from eventsourcing.persistence import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy import exc as sqlalchemy_errors
from sqlalchemy.types import TypeEngine

from adapters.log import postgres
from adapters.log.bulk import array_literals
from adapters.log.engine import Engines
from domain.errors import StoreError, StoreUnavailable

PARTITION = 0
"""The only partition so far; it stands in every key for the day there are more."""

COPY_FROM_ROWS = 128
"""From this size on COPY is faster than INSERT."""

_Id = TypeVar("_Id", UUID, str)

NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
"""What an application may be called: its name becomes part of table names, of which PostgreSQL
keeps 63 bytes."""


_UNSTORABLE = (
    sqlalchemy_errors.StatementError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
)
"""How statements and their preparation complain about a value that no column can hold."""


class Row(NamedTuple):
    """A stored event as the database keeps it, but for its position."""

    originator_id: Any
    originator_version: int
    topic: str
    state: bytes


@dataclass(frozen=True, slots=True)
class Insertion:
    """One call of insert_events: all of it is written or nothing."""

    rows: Sequence[Row]
    tracking: Tracking | None = None


class TrackingTable:
    """How far each upstream application was processed: one row per name."""

    def __init__(self, metadata: MetaData, name: str) -> None:
        self.table = Table(
            f"{name}_tracking",
            metadata,
            Column("partition", SmallInteger, nullable=False),
            Column("application_name", Text, nullable=False),
            # NULL: the row was made only to be locked.
            Column("notification_id", BigInteger),
            PrimaryKeyConstraint("partition", "application_name"),
        )
        quoted = f'"{self.table.name}"'
        upsert = (
            f"INSERT INTO {quoted} AS t (partition, application_name, notification_id) "
            f"VALUES ({PARTITION}, :name, :id) ON CONFLICT (partition, application_name) "
            "DO UPDATE SET notification_id = "
        )
        self._advance = text(
            f"{upsert} excluded.notification_id WHERE t.notification_id IS NULL "
            "OR t.notification_id < excluded.notification_id RETURNING notification_id"
        )
        self._lock = text(f"{upsert} t.notification_id RETURNING notification_id")

    def advance(self, connection: Connection, tracking: Tracking) -> None:
        """Raises IntegrityError unless the position is beyond the recorded one."""
        values = {"name": tracking.application_name, "id": tracking.notification_id}
        if connection.execute(self._advance, values).first() is None:
            raise stale_tracking()

    def lock(self, connection: Connection, application_name: str) -> int | None:
        """The recorded position, which nobody else can change before this transaction ends."""
        values = {"name": application_name, "id": None}
        position: int | None = connection.execute(self._lock, values).scalar_one()
        return position


class EventTable(ABC):
    """The tables `<name>_<sequence>` and `<name>_heads`, and how to append to them."""

    _lock_head_sql: str
    _raise_head_sql: str

    def __init__(
        self,
        engines: Engines,
        name: str,
        sequence: str,
        originator_id_type: str,
        metadata: MetaData,
        tracking: TrackingTable | None,
    ) -> None:
        self.engines = engines
        self.sequence = sequence
        self.tracking = tracking
        self.holds_uuids = originator_id_type == "uuid"
        self.heads = Table(
            f"{name}_heads",
            metadata,
            Column("partition", SmallInteger, nullable=False),
            Column("sequence", Text, nullable=False),
            Column("position", BigInteger, nullable=False),
            PrimaryKeyConstraint("partition", "sequence"),
            # Updated by every commit: with room on its page the row moves without touching indexes.
            postgresql_with={"fillfactor": 50},
        )
        self.events = Table(
            f"{name}_{sequence}",
            metadata,
            Column("partition", SmallInteger, nullable=False),
            Column("position", BigInteger, nullable=False),
            Column("originator_id", self._originator_id_column(), nullable=False),
            Column("originator_version", BigInteger, nullable=False),
            Column("topic", Text, nullable=False),
            Column("state", LargeBinary, nullable=False),
            PrimaryKeyConstraint("partition", "position"),
            UniqueConstraint("partition", "originator_id", "originator_version"),
        )
        self._head = f"WHERE partition = {PARTITION} AND sequence = '{sequence}'"
        self._from_head = f'FROM "{self.heads.name}" {self._head}'

    def row(self, event: StoredEvent) -> Row:
        return Row(
            self.stored_id(event.originator_id), event.originator_version, event.topic, event.state
        )

    def append(self, insertions: Sequence[Insertion]) -> Sequence[list[int] | Exception]:
        """Write the calls in one transaction: per call its positions, or why it was refused.

        Once more when the connection broke, since a connection the server closed while it lay idle
        shows only now. Should the first try have been committed after all, the second one finds
        the events there and its authors get an IntegrityError: they read, and see their own event.
        """
        try:
            return self._append(insertions)
        except StoreUnavailable:
            return self._append(insertions)

    def create_head(self, connection: Connection) -> None:
        connection.exec_driver_sql(
            f'INSERT INTO "{self.heads.name}" (partition, sequence, position) '
            f"VALUES ({PARTITION}, '{self.sequence}', 0) ON CONFLICT DO NOTHING"
        )

    def _append(self, insertions: Sequence[Insertion]) -> Sequence[list[int] | Exception]:
        try:
            return self._append_together(insertions)
        except _UNSTORABLE as error:
            if len(insertions) == 1:
                return [error]
            return [self._append_alone(insertion) for insertion in insertions]

    def _append_alone(self, insertion: Insertion) -> list[int] | Exception:
        """Whose value the database cannot hold shows when each call goes alone."""
        try:
            return self._append([insertion])[0]
        except StoreError as error:
            return error

    def _append_together(self, insertions: Sequence[Insertion]) -> Sequence[list[int] | Exception]:
        try:
            before = self._append_unchecked(insertions)
        except (IntegrityError, sqlalchemy_errors.IntegrityError):
            return self._append_checked(insertions)
        return _positions(before, insertions)

    def _append_checked(self, insertions: Sequence[Insertion]) -> Sequence[list[int] | Exception]:
        with self.engines.write() as connection:
            tracked = {
                name: self._tracking.lock(connection, name)
                for name in sorted({i.tracking.application_name for i in insertions if i.tracking})
            }
            before = self.lock_head(connection)
            taken = self._taken(connection, [row for i in insertions for row in i.rows])
            refusals = [_judge(insertion, taken, tracked) for insertion in insertions]
            accepted = [i for i, why in zip(insertions, refusals, strict=True) if why is None]
            for insertion in accepted:
                if insertion.tracking:
                    self._tracking.advance(connection, insertion.tracking)
            self.insert(connection, before, [row for i in accepted for row in i.rows])
        positions = iter(_positions(before, accepted))
        return [why or next(positions) for why in refusals]

    @property
    def _tracking(self) -> TrackingTable:
        if self.tracking is None:
            raise ProgrammingError("this recorder does not record tracking objects")
        return self.tracking

    def _advance_tracking(self, connection: Connection, insertions: Sequence[Insertion]) -> None:
        """In order of name, so that two batches cannot wait for each other in a circle."""
        trackings = [i.tracking for i in insertions if i.tracking]
        for tracking in sorted(trackings, key=lambda tracking: tracking.application_name):
            self._tracking.advance(connection, tracking)

    @abstractmethod
    def stored_id(self, originator_id: UUID | str) -> Any:
        """The id as statements take it. Raises TypeError for one of the wrong type."""

    @abstractmethod
    def loaded_id(self, stored: Any) -> Any:
        """The UUID or text behind what a statement returned."""

    @abstractmethod
    def _originator_id_column(self) -> TypeEngine[Any]: ...

    def _append_unchecked(self, insertions: Sequence[Insertion]) -> int:
        """The head's position before the batch. Raises IntegrityError, with nothing written."""
        with self.engines.write() as connection:
            self._advance_tracking(connection, insertions)
            before = self.lock_head(connection)
            self.insert(connection, before, [row for i in insertions for row in i.rows])
        return before

    def lock_head(self, connection: Connection) -> int:
        before = connection.exec_driver_sql(self._lock_head_sql).scalar()
        if before is None:
            raise _head_missing()
        return int(before)

    def insert(self, connection: Connection, before: int, rows: Sequence[Row]) -> None:
        """Insert after position `before` and raise the head, whose lock is held."""
        if rows:
            self._insert_rows(connection, before, rows)
            connection.exec_driver_sql(self._raise_head_sql, (before + len(rows),))

    @abstractmethod
    def _insert_rows(self, connection: Connection, before: int, rows: Sequence[Row]) -> None: ...

    @abstractmethod
    def _taken(self, connection: Connection, rows: Sequence[Row]) -> set[tuple[Any, int]]:
        """The (id, version) pairs of these rows that are recorded already."""


class SQLiteEventTable(EventTable):
    """BEGIN IMMEDIATE holds the file's write lock, so nothing needs a lock of its own. UUIDs are
    kept as 16 bytes."""

    def __init__(
        self,
        engines: Engines,
        name: str,
        sequence: str,
        originator_id_type: str,
        metadata: MetaData,
        tracking: TrackingTable | None = None,
    ) -> None:
        super().__init__(engines, name, sequence, originator_id_type, metadata, tracking)
        self._lock_head_sql = f"SELECT position {self._from_head}"
        self._raise_head_sql = f'UPDATE "{self.heads.name}" SET position = ? {self._head}'
        self._advance_head_sql = (
            f'UPDATE "{self.heads.name}" SET position = position + ? {self._head} '
            "RETURNING position"
        )
        self._insert_sql = (
            f'INSERT INTO "{self.events.name}" (partition, position, originator_id, '
            f"originator_version, topic, state) VALUES ({PARTITION}, ?, ?, ?, ?, ?)"
        )
        self._taken_sql = (
            f'SELECT 1 FROM "{self.events.name}" WHERE partition = {PARTITION} '
            "AND originator_id = ? AND originator_version = ?"
        )

    def _append_unchecked(self, insertions: Sequence[Insertion]) -> int:
        rows = [row for insertion in insertions for row in insertion.rows]
        if any(insertion.tracking for insertion in insertions):
            return super()._append_unchecked(insertions)
        with self.engines.driver() as connection:
            cursor = connection.cursor()
            cursor.execute(self._advance_head_sql, (len(rows),))
            head = cursor.fetchall()
            if not head:
                raise _head_missing()
            before = int(head[0][0]) - len(rows)
            cursor.executemany(self._insert_sql, _numbered(rows, before))
        return before

    def stored_id(self, originator_id: UUID | str) -> bytes | str:
        if self.holds_uuids:
            return _checked(originator_id, UUID).bytes
        return _checked(originator_id, str)

    def loaded_id(self, stored: Any) -> Any:
        return UUID(bytes=stored) if self.holds_uuids else stored

    def _originator_id_column(self) -> TypeEngine[Any]:
        return LargeBinary() if self.holds_uuids else Text()

    def _insert_rows(self, connection: Connection, before: int, rows: Sequence[Row]) -> None:
        connection.exec_driver_sql(self._insert_sql, _numbered(rows, before))

    def _taken(self, connection: Connection, rows: Sequence[Row]) -> set[tuple[Any, int]]:
        pairs = {(row.originator_id, row.originator_version) for row in rows}
        return {pair for pair in pairs if connection.exec_driver_sql(self._taken_sql, pair).first()}


class PostgresEventTable(EventTable):
    """A small batch is one prepared statement: head, positions and events in one round trip. A
    large one locks the head and copies."""

    def __init__(
        self,
        engines: Engines,
        name: str,
        sequence: str,
        originator_id_type: str,
        metadata: MetaData,
        tracking: TrackingTable | None = None,
    ) -> None:
        super().__init__(engines, name, sequence, originator_id_type, metadata, tracking)
        array = "uuid[]" if self.holds_uuids else "text[]"
        self._lock_head_sql = f"SELECT position {self._from_head} FOR UPDATE"
        self._raise_head_sql = f'UPDATE "{self.heads.name}" SET position = %s {self._head}'
        self._taken_sql = (
            f'SELECT t.originator_id, t.originator_version FROM "{self.events.name}" t '
            f"JOIN unnest(%s::{array}, %s::bigint[]) AS w(id, version) "
            "ON t.originator_id = w.id AND t.originator_version = w.version "
            f"WHERE t.partition = {PARTITION}"
        )
        self._statement = f"append_{self.events.name}"
        # Prepared, because planning it takes longer than running it for eight events.
        self._prepare_sql = (
            f'PREPARE "{self._statement}" (bigint, {array}, bigint[], text[], bytea[]) AS '
            f'WITH head AS (UPDATE "{self.heads.name}" SET position = position + $1 {self._head} '
            "RETURNING position - $1 AS before), "
            f'written AS (INSERT INTO "{self.events.name}" '
            "(partition, position, originator_id, originator_version, topic, state) "
            f"SELECT {PARTITION}, head.before + e.place, e.id, e.version, e.topic, e.state "
            "FROM head, unnest($2, $3, $4, $5) WITH ORDINALITY "
            "AS e(id, version, topic, state, place)) SELECT before FROM head"
        )
        self._execute_sql = f'EXECUTE "{self._statement}" (%s, %s, %s, %s, %s)'

    def stored_id(self, originator_id: UUID | str) -> UUID | str:
        if self.holds_uuids:
            return _checked(originator_id, UUID)
        return _checked(originator_id, str)

    def loaded_id(self, stored: Any) -> Any:
        return stored

    def _originator_id_column(self) -> TypeEngine[Any]:
        return Uuid() if self.holds_uuids else Text()

    def _append_unchecked(self, insertions: Sequence[Insertion]) -> int:
        rows = [row for insertion in insertions for row in insertion.rows]
        tracked = any(insertion.tracking for insertion in insertions)
        if tracked or not 0 < len(rows) < COPY_FROM_ROWS:
            return super()._append_unchecked(insertions)
        with self.engines.driver() as connection:
            if self._statement not in connection.info:
                postgres.run(connection, self._prepare_sql)
                connection.info[self._statement] = True
            values = (len(rows), *self._arrays(rows))
            head = postgres.run(connection, self._execute_sql, values)
        if head is None:
            raise _head_missing()
        return int(head[0])

    def _arrays(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return array_literals(
            [
                (
                    row.originator_id.hex if self.holds_uuids else row.originator_id,
                    row.originator_version,
                    row.topic,
                    row.state,
                )
                for row in rows
            ]
        )

    def _insert_rows(self, connection: Connection, before: int, rows: Sequence[Row]) -> None:
        postgres.copy_in(
            connection,
            self.events.name,
            list(self.events.columns.keys()),
            [self._copy_tuple(position, row) for position, row in enumerate(rows, before + 1)],
        )

    def _copy_tuple(self, position: int, row: Row) -> bytes:
        stored_id = row.originator_id.bytes if self.holds_uuids else row.originator_id.encode()
        topic = row.topic.encode()
        return b"".join(
            (
                _FIELDS_BEFORE_ID.pack(6, 2, PARTITION, 8, position, len(stored_id)),
                stored_id,
                _VERSION_AND_LENGTH.pack(8, row.originator_version, len(topic)),
                topic,
                _LENGTH.pack(len(row.state)),
                row.state,
            )
        )

    def _taken(self, connection: Connection, rows: Sequence[Row]) -> set[tuple[Any, int]]:
        if not rows:
            return set()
        ids, versions, _, _ = self._arrays(rows)
        found = connection.exec_driver_sql(self._taken_sql, (ids, versions))
        return {(row[0], row[1]) for row in found}


_FIELDS_BEFORE_ID = struct.Struct(">hihiqi")
_VERSION_AND_LENGTH = struct.Struct(">iqi")
_LENGTH = struct.Struct(">i")


def checked_name(name: str) -> str:
    """Raises ValueError unless `name` can be part of a table name."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name tables: at most 40 of a-z, 0-9 and _, not starting with a digit"
        )
    return name


def _checked(value: Any, kind: type[_Id]) -> _Id:
    if not isinstance(value, kind):
        raise TypeError(f"ORIGINATOR_ID_TYPE wants a {kind.__name__}, not a {type(value).__name__}")
    return value


def _judge(
    insertion: Insertion, taken: set[tuple[Any, int]], tracked: dict[str, int | None]
) -> IntegrityError | None:
    """Why a call is refused, given what is recorded; what it adds if it is not, is added there."""
    pairs = {(row.originator_id, row.originator_version) for row in insertion.rows}
    if len(pairs) < len(insertion.rows) or not pairs.isdisjoint(taken):
        return IntegrityError("an event with this originator ID and version is recorded already")
    tracking = insertion.tracking
    if tracking:
        reached = tracked[tracking.application_name]
        if reached is not None and tracking.notification_id <= reached:
            return stale_tracking()
        tracked[tracking.application_name] = tracking.notification_id
    taken |= pairs
    return None


def stale_tracking() -> IntegrityError:
    return IntegrityError("this position of the upstream application was processed already")


def _head_missing() -> OperationalError:
    return OperationalError("the head row is missing: run once with CREATE_TABLE=yes")


def _numbered(rows: Sequence[Row], before: int) -> list[tuple[Any, ...]]:
    return [(position, *row) for position, row in enumerate(rows, before + 1)]


def _positions(before: int, insertions: Sequence[Insertion]) -> list[list[int]]:
    """Each call's positions, the batch standing right behind position `before`."""
    positions = []
    for insertion in insertions:
        after = before + len(insertion.rows)
        positions.append(list(range(before + 1, after + 1)))
        before = after
    return positions
