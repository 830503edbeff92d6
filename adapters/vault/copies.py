"""Copies that people asked for (GDPR Art. 15): they wait in the vault, sealed, for some days.

A copy would outlive what it is made of. So whatever erases anything of a session takes, in the same
transaction, every copy that holds something of it (`outdate`).
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.event_log import append_facts
from adapters.log.schema import access_parts, access_requests, access_sessions, subject_keys
from adapters.vault import item_rows, layers
from adapters.vault.lookups import SubjectLookups
from domain.access import AccessRequest, AccessStatus
from domain.errors import Conflict
from domain.facts import CopyEnded, Fact, Verification
from domain.ports import (
    DataKey,
    ItemHead,
    Member,
    Place,
    SubjectKey,
    Upload,
)
from domain.session import Scope

_FIELDS = (
    "request_id, version, subject, verified_by, status, requested_at, ready_at, erases_at, "
    "sessions, items, size, reason"
)
_OF_ONE = "WHERE partition = 0 AND request_id = {mark}"


class SqlCopies:
    """The store behind `domain.ports.CopyStore`. notify: wakes whoever follows the log."""

    def __init__(self, engines: Engines, notify: Any) -> None:
        self._engines = engines
        self._notify = notify
        self._mark = "?" if engines.dialect == "sqlite" else "%s"

    def add(self, request: AccessRequest, fact: Fact, now: int) -> None:
        with self._engines.write() as connection:
            bulk.insert(
                connection,
                access_requests,
                (*_FIELDS.split(", "), "due_at"),
                [(*_values(request), now if request.status is AccessStatus.REQUESTED else None)],
            )
            append_facts(connection, [fact], now)
        self._notify()

    def find(self, request_id: str) -> AccessRequest | None:
        query = f"SELECT {_FIELDS} FROM access_requests {_OF_ONE}"
        with self._engines.read() as connection:
            row = self._run(connection, query, request_id).fetchone()
        return None if row is None else _request(row)

    def waiting(self, now: int, limit: int) -> Sequence[AccessRequest]:
        query = (
            f"SELECT {_FIELDS} FROM access_requests WHERE partition = 0 AND due_at <= {{mark}} "
            "ORDER BY due_at LIMIT {mark}"
        )
        with self._engines.read() as connection:
            return [_request(row) for row in self._run(connection, query, now, limit)]

    def begin(
        self, request: AccessRequest, joint: SubjectKey, key: DataKey, of: Sequence[str]
    ) -> None:
        with self._engines.write() as connection:
            self._lock(connection, request)
            self._take(connection, request.id)
            bulk.insert(
                connection,
                subject_keys,
                ("subject", "kek", "wrapped"),
                [(joint.subject, joint.kek, joint.wrapped)],
            )
            columns = ("session_id", "request_id")
            bulk.insert(connection, access_sessions, columns, [(id_, request.id) for id_ in of])
            setting = f"UPDATE access_requests SET wrapped = {{mark}} {_OF_ONE}"
            self._run(connection, setting, key.wrapped, request.id)

    def put(self, request_id: str, part: int, sealed: bytes) -> bool:
        with self._engines.write() as connection:
            if not self._is_being_made(connection, request_id):
                return False
            columns = ("request_id", "part", "sealed")
            bulk.insert(connection, access_parts, columns, [(request_id, part, sealed)])
            return True

    def finish(self, request: AccessRequest, fact: Fact, now: int) -> bool:
        with self._engines.write() as connection:
            if not self._is_being_made(connection, request.id):
                return False
            self._save(connection, request, request.erases_at)
            append_facts(connection, [fact], now)
        self._notify()
        return True

    def note(self, request: AccessRequest, fact: Fact, now: int) -> None:
        with self._engines.write() as connection:
            self._lock(connection, request)
            statement = f"UPDATE access_requests SET version = version + 1 {_OF_ONE}"
            self._run(connection, statement, request.id)
            append_facts(connection, [fact], now)
        self._notify()

    def key_of(self, request_id: str) -> DataKey | None:
        query = (
            "SELECT k.kek, k.wrapped, r.wrapped FROM access_requests r JOIN subject_keys k "
            "ON k.partition = r.partition AND k.subject = r.request_id "
            "WHERE r.partition = 0 AND r.request_id = {mark} AND r.wrapped IS NOT NULL"
        )
        with self._engines.read() as connection:
            row = self._run(connection, query, request_id).fetchone()
        if row is None:
            return None
        joint = SubjectKey(b"", request_id, row[0], bytes(row[1]), fresh=False)
        return DataKey(request_id, Scope.FULL, "", joint, bytes(row[2]))

    def part(self, request_id: str, part: int) -> bytes | None:
        query = f"SELECT sealed FROM access_parts {_OF_ONE} AND part = {{mark}}"
        with self._engines.read() as connection:
            row = self._run(connection, query, request_id, part).fetchone()
        return None if row is None else bytes(row[0])

    def drop(self, request: AccessRequest, fact: Fact | None, now: int) -> None:
        with self._engines.write() as connection:
            self._lock(connection, request)
            self._take(connection, request.id)
            self._save(connection, request, None)
            append_facts(connection, [] if fact is None else [fact], now)
        self._notify()

    # -- inside a transaction -----------------------------------------------------------------

    def _lock(self, connection: Connection, request: AccessRequest) -> None:
        """Raises Conflict unless it is as it was read, or one fact behind what this writes."""
        lock = "" if self._engines.dialect == "sqlite" else " FOR UPDATE"
        query = f"SELECT version FROM access_requests {_OF_ONE}{lock}"
        row = self._run(connection, query, request.id).fetchone()
        if row is None or row[0] not in (request.version, request.version - 1):
            raise Conflict(request.id)

    def _is_being_made(self, connection: Connection, request_id: str) -> bool:
        """Whether nothing took the key of this copy; its row is locked."""
        lock = "" if self._engines.dialect == "sqlite" else " FOR UPDATE"
        query = f"SELECT status, wrapped FROM access_requests {_OF_ONE}{lock}"
        row = self._run(connection, query, request_id).fetchone()
        return row is not None and row[0] == AccessStatus.REQUESTED and row[1] is not None

    def _take(self, connection: Connection, request_id: str) -> None:
        for table in (access_parts, access_sessions):
            bulk.delete_in(connection, table, "request_id", [request_id])
        bulk.delete_in(connection, subject_keys, "subject", [request_id])

    def _save(self, connection: Connection, request: AccessRequest, due_at: int | None) -> None:
        """A copy that is gone has no key."""
        over = request.status is AccessStatus.ERASED
        names = [*_FIELDS.split(", ")[1:], "due_at"]
        settings = ", ".join([*(f"{name} = {{mark}}" for name in names)])
        settings += ", wrapped = NULL" if over else ""
        statement = f"UPDATE access_requests SET {settings} {_OF_ONE}"
        self._run(connection, statement, *_values(request)[1:], due_at, request.id)

    def _run(self, connection: Connection, statement: str, *values: Any) -> Any:
        return connection.exec_driver_sql(statement.format(mark=self._mark), values)


def _values(request: AccessRequest) -> tuple[Any, ...]:
    return (
        request.id,
        request.version,
        request.subject,
        str(request.verified_by),
        str(request.status),
        request.requested_at,
        request.ready_at,
        request.erases_at,
        request.sessions,
        request.items,
        request.size,
        None if request.reason is None else str(request.reason),
    )


def _request(row: Any) -> AccessRequest:
    return AccessRequest(
        id=row[0],
        version=row[1],
        subject=row[2],
        verified_by=Verification(row[3]),
        status=AccessStatus(row[4]),
        requested_at=row[5],
        ready_at=row[6],
        erases_at=row[7],
        sessions=row[8],
        items=row[9],
        size=row[10],
        reason=None if row[11] is None else CopyEnded(row[11]),
    )


class SqlHoldings:
    """What is held of somebody, behind `domain.ports.Holdings`."""

    def __init__(self, engines: Engines, lookups: SubjectLookups) -> None:
        self._engines = engines
        self._lookups = lookups
        self._mark = "?" if engines.dialect == "sqlite" else "%s"

    def places(self, subject: str) -> Sequence[Place]:
        query = (
            "SELECT i.session_id, i.token, i.role, i.current, s.lookup, k.kek, k.wrapped, "
            "d.wrapped, i.sealed FROM subject_index i "
            "JOIN subjects s ON s.partition = i.partition AND s.subject = i.subject "
            "JOIN subject_keys k ON k.partition = i.partition AND k.subject = i.subject "
            "JOIN data_keys d ON d.partition = i.partition AND d.session_id = i.session_id "
            "AND d.tier = 'identity' AND d.token = i.token AND d.subject = i.subject "
            "WHERE i.partition = 0 AND i.subject = {mark} ORDER BY i.session_id, i.token"
        )
        with self._engines.read() as connection:
            rows = layers.select(
                self._lookups.in_use,
                connection,
                lambda: self._run(connection, query, subject),
                lambda row: ((row[0], "identity", row[1], subject), row[7]),
            )
        return [
            Place(
                session_id,
                token,
                role,
                bool(current),
                SubjectKey(
                    self._lookups.hash_of(bytes(lookup)), subject, kek, bytes(own), fresh=False
                ),
                wrapped,
                bytes(sealed),
            )
            for (session_id, token, role, current, lookup, kek, own, _, sealed), wrapped in rows
        ]

    def members(self, session_id: str, tokens: Collection[str]) -> Sequence[Member]:
        columns = ("session_id", "token", "joined_at", "last_seen_at", "left_at")
        query = (
            f"SELECT {', '.join(columns)} FROM presence "
            "WHERE partition = 0 AND session_id = {mark} ORDER BY joined_at, token"
        )
        return [Member(*row) for row in self._rows(query, session_id) if row[1] in tokens]

    def heads(self, session_id: str, after: tuple[str, int], limit: int) -> Sequence[ItemHead]:
        query = (
            f"SELECT {item_rows.HEAD} FROM items WHERE partition = 0 AND session_id = {{mark}} "
            "AND (item_id, part) > ({mark}, {mark}) ORDER BY item_id, part LIMIT {mark}"
        )
        return [item_rows.head(row) for row in self._rows(query, session_id, *after, limit)]

    def uploads(self, session_id: str) -> Sequence[Upload]:
        query = (
            "SELECT upload_id, kind, size, created_at, participants, media_type FROM uploads "
            "WHERE partition = 0 AND session_id = {mark} ORDER BY upload_id"
        )
        return [
            Upload(id_, kind, size, at, tuple(tokens.split()), media_type)
            for id_, kind, size, at, tokens, media_type in self._rows(query, session_id)
        ]

    def _rows(self, query: str, *values: Any) -> Sequence[Any]:
        with self._engines.read() as connection:
            return self._run(connection, query, *values)

    def _run(self, connection: Connection, query: str, *values: Any) -> Sequence[Any]:
        return connection.exec_driver_sql(query.format(mark=self._mark), values).fetchall()
