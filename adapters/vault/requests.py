"""Requests of people and holds of people, on SQLite and PostgreSQL.

A request is one row: its folded state, when to look at it next, and, sealed under a key of its own,
whom it is about. What happens to it stands in the log, written in the same transaction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.event_log import SqlLog, append_facts
from adapters.log.schema import (
    data_keys,
    sessions,
    subject_holds,
    subject_keys,
)
from adapters.vault import layers, parts
from adapters.vault.keys_in_use import KeysInUse
from adapters.vault.lookups import SubjectLookups
from domain.erasure import ErasureRequest, Status
from domain.errors import Conflict, HoldUnknown, SubjectUnknown
from domain.facts import (
    About,
    Fact,
    Refusal,
    RequestExecuted,
    Verification,
    Waiting,
)
from domain.ledger import (
    Deed,
    deed_of_hold,
    deed_of_release,
    deed_of_request,
)
from domain.ports import (
    Append,
    Belongings,
    DataKey,
    HoldRow,
    Part,
    RequestRow,
    SubjectKey,
    Whom,
)
from domain.session import NEVER, Ground, Scope

TIER = Scope.EVERYTHING
"""Of the key that seals what a request says about people."""
_COLUMNS = (
    "request_id",
    "version",
    "status",
    "deadline_at",
    "due_at",
    "failures",
    "key",
    "target",
    "session_id",
    "sealed",
    "state",
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM requests WHERE partition = 0 AND "
_OPEN = f"status = '{Status.REQUESTED}'"


class SqlRequests:
    """The requests behind `domain.ports.RequestStore`."""

    def __init__(self, engines: Engines, log: SqlLog) -> None:
        self._engines = engines
        self._log = log
        self._mark = "?" if engines.dialect == "sqlite" else "%s"

    def add(
        self, row: RequestRow, joint: SubjectKey | None, key: DataKey | None, facts: Sequence[Fact]
    ) -> RequestRow:
        with self._engines.write() as connection:
            if not _insert(connection, row):
                return self._standing(connection, row)
            _write_keys(connection, self._log.lookups.in_use, row, joint, key)
            append_facts(connection, facts, row.request.requested_at)
        self._log.wakeups.notify()
        return row

    def _standing(self, connection: Connection, row: RequestRow) -> RequestRow:
        for column, value in (("key", row.key), ("target", row.target)):
            query = f"{_SELECT}{column} IN ({{ids}})"
            for found in bulk.select_in(connection, query, [value] if value else []):
                return _row(found)
        raise Conflict(row.request.id)

    def find(self, request_id: str) -> RequestRow | None:
        return self._one("request_id", request_id)

    def by_key(self, key: bytes) -> RequestRow | None:
        return self._one("key", key)

    def about_session(self, session_id: str) -> Sequence[RequestRow]:
        with self._engines.read() as connection:
            found = bulk.select_in(connection, f"{_SELECT}session_id IN ({{ids}})", [session_id])
        return sorted(map(_row, found), key=lambda row: row.request.requested_at)

    def _one(self, column: str, value: Any) -> RequestRow | None:
        with self._engines.read() as connection:
            rows = bulk.select_in(connection, f"{_SELECT}{column} IN ({{ids}})", [value])
        return _row(rows[0]) if rows else None

    def key_of(self, request_id: str) -> DataKey | None:
        query = (
            "SELECT d.wrapped, d.subject, k.kek, k.wrapped FROM data_keys d JOIN subject_keys k "
            "ON k.partition = d.partition AND k.subject = d.subject "
            f"WHERE d.partition = 0 AND d.tier = '{TIER}' AND d.session_id IN ({{ids}})"
        )
        with self._engines.read() as connection:
            for (_, _, kek, own), wrapped in layers.select(
                self._log.lookups.in_use,
                connection,
                lambda: bulk.select_in(connection, query, [request_id]),
                lambda row: ((request_id, str(TIER), "", row[1]), row[0]),
            ):
                subject = SubjectKey(b"", request_id, kek, bytes(own), fresh=False)
                return DataKey(request_id, TIER, "", subject, wrapped)
        return None

    def page(self, after: str, limit: int, status: Status | None = None) -> Sequence[RequestRow]:
        which = "" if status is None else f"status = '{status}' AND "
        query = f"{_SELECT}{which}request_id > {self._mark} ORDER BY request_id LIMIT {self._mark}"
        with self._engines.read() as connection:
            return [_row(row) for row in connection.exec_driver_sql(query, (after, limit))]

    def due(self, now: int, limit: int) -> Sequence[str]:
        query = (
            "SELECT request_id FROM requests WHERE partition = 0 AND due_at <= "
            f"{self._mark} ORDER BY due_at LIMIT {self._mark}"
        )
        with self._engines.read() as connection:
            return [row[0] for row in connection.exec_driver_sql(query, (now, limit))]

    def overdue(self, now: int) -> int:
        query = (
            f"SELECT count(*) FROM requests WHERE partition = 0 AND due_at IS NOT NULL AND {_OPEN} "
            f"AND deadline_at < {self._mark}"
        )
        with self._engines.read() as connection:
            return int(connection.exec_driver_sql(query, (now,)).scalar_one())

    def save(
        self,
        row: RequestRow,
        facts: Sequence[Fact],
        now: int,
        *,
        forget: bool,
        was: bytes | None,
        deeds: Sequence[Deed] = (),
    ) -> None:
        with self._engines.write() as connection:
            _save(connection, row, len(facts), was)
            if forget:
                bulk.delete_in(connection, data_keys, "session_id", [row.request.id])
                bulk.delete_in(connection, subject_keys, "subject", [row.request.id])
            append_facts(connection, facts, now)
            self._log.remember(connection, deeds, len(facts))
        self._log.wakeups.notify()

    def wake(self, now: int) -> None:
        with self._engines.write() as connection:
            connection.exec_driver_sql(
                f"UPDATE requests SET due_at = {self._mark} "
                f"WHERE partition = 0 AND {_OPEN} AND due_at > {self._mark}",
                (now, now),
            )

    # -- carrying out -------------------------------------------------------------------------

    def of_subject(self, whom: Whom) -> Sequence[tuple[str, tuple[str, ...]]]:
        with self._engines.read() as connection:
            return _of_subject(connection, self._log.lookups, whom)

    def belongings(self, places: Sequence[tuple[str, tuple[str, ...]]]) -> Mapping[str, Belongings]:
        with self._engines.snapshot() as connection:
            return parts.belongings(connection, places)

    def erase(
        self,
        wholes: Sequence[Append],
        parts: Sequence[Part],
        now: int,
        settle: Callable[[Sequence[str]], tuple[RequestRow, Sequence[Fact]]],
        *,
        gone: Whom | None = None,
    ) -> RequestRow:
        settled: list[RequestRow] = []

        def beside(
            connection: Connection, subjects: Sequence[str]
        ) -> tuple[Sequence[Fact], Sequence[Deed]]:
            """Behind the locks of everybody concerned: who joins now waits, and comes anew."""
            if gone is not None and _of_subject(connection, self._log.lookups, gone):
                raise Conflict("")
            row, facts = settle(subjects)
            _save(connection, row, len(facts))
            settled.append(row)
            executed = any(isinstance(fact, RequestExecuted) for fact in facts)
            done = [deed_of_request(row.request, row.session_id, row.keks)] if executed else []
            return facts, done

        self._log.erase(wholes, parts, now, beside)
        return settled[-1]

    # -- doing again --------------------------------------------------------------------------

    def erase_again(self, part: Part, now: int) -> None:
        self._log.erase((), [part], now, lambda connection, subjects: ((), ()))

    def restore(
        self,
        row: RequestRow,
        facts: Sequence[Fact],
        now: int,
        joint: SubjectKey | None = None,
        key: DataKey | None = None,
    ) -> bool:
        with self._engines.write() as connection:
            written = _insert(connection, row)
            if written:
                _write_keys(connection, self._log.lookups.in_use, row, joint, key)
                append_facts(connection, facts, now)
            self._log.remember(connection, ())
        self._log.wakeups.notify()
        return written


def _write_keys(
    connection: Connection,
    in_use: KeysInUse,
    row: RequestRow,
    joint: SubjectKey | None,
    key: DataKey | None,
) -> None:
    """What seals the identifiers of a request."""
    if joint is None or key is None:
        return
    bulk.insert(
        connection,
        subject_keys,
        ("subject", "kek", "wrapped"),
        [(joint.subject, joint.kek, joint.wrapped)],
    )
    layers.insert(
        connection,
        in_use.writing(connection),
        [(row.request.id, str(TIER), "", joint.subject, key.wrapped)],
    )


def _of_subject(
    connection: Connection, lookups: SubjectLookups, whom: Whom
) -> list[tuple[str, tuple[str, ...]]]:
    if isinstance(whom, str):
        query = (
            "SELECT DISTINCT subject, session_id, token FROM subject_index "
            "WHERE partition = 0 AND subject IN ({ids})"
        )
        rows = bulk.select_in(connection, query, [whom])
    else:
        query = (
            "SELECT DISTINCT s.lookup, i.session_id, i.token FROM subjects s JOIN subject_index i "
            "ON i.partition = s.partition AND i.subject = s.subject "
            "WHERE s.partition = 0 AND s.lookup IN ({ids})"
        )
        rows = lookups.select(connection, query, [whom])
    tokens: dict[str, list[str]] = {}
    for _, session_id, token in rows:
        tokens.setdefault(session_id, []).append(token)
    return [(session_id, tuple(sorted(found))) for session_id, found in tokens.items()]


def _values(row: RequestRow) -> tuple[Any, ...]:
    request = row.request
    state = {**asdict(request), "keks": row.keks, "told": row.told}
    return (
        request.id,
        request.version,
        str(request.status),
        request.deadline_at,
        row.due_at,
        min(row.failures, 30),
        row.key,
        row.target,
        row.session_id,
        row.sealed,
        orjson.dumps(state, option=orjson.OPT_SORT_KEYS),
    )


def _row(found: Any) -> RequestRow:
    state = orjson.loads(bytes(found[10]))
    keks, told = tuple(state.pop("keks")), bool(state.pop("told", False))
    for name, enum in _ENUMS.items():
        state[name] = None if state[name] is None else enum(state[name])
    return RequestRow(
        ErasureRequest(**state),
        due_at=found[4],
        failures=found[5],
        key=_bytes(found[6]),
        target=_bytes(found[7]),
        session_id=found[8],
        sealed=_bytes(found[9]),
        keks=keks,
        told=told,
    )


_ENUMS: dict[str, Callable[[str], Any]] = {
    "about": About,
    "verified_by": Verification,
    "status": Status,
    "reason": Waiting,
    "ground": Refusal,
}


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _insert(connection: Connection, row: RequestRow) -> bool:
    """Whether it is the first one of its id, key and target."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    written = connection.exec_driver_sql(
        f"INSERT INTO requests (partition, {', '.join(_COLUMNS)}) "
        f"VALUES (0, {', '.join([mark] * len(_COLUMNS))}) ON CONFLICT DO NOTHING",
        _values(row),
    )
    return written.rowcount == 1


def _save(connection: Connection, row: RequestRow, steps: int, was: bytes | None = None) -> None:
    """Raises Conflict unless the row is so many facts behind this one. was: what must be sealed in
    it: a step that takes part of what is asked for is no fact, but is sealed anew."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    settings = ", ".join(f"{column} = {mark}" for column in _COLUMNS[1:])
    unmoved, sealed = ("", ()) if was is None else (f" AND sealed = {mark}", (was,))
    written = connection.exec_driver_sql(
        f"UPDATE requests SET {settings} "
        f"WHERE partition = 0 AND request_id = {mark} AND version = {mark}{unmoved}",
        (*_values(row)[1:], row.request.id, row.request.version - steps, *sealed),
    ).rowcount
    if not written:
        raise Conflict(row.request.id)


# -- holds ------------------------------------------------------------------------------------


class SqlHolds:
    """The holds behind `domain.ports.HoldStore`."""

    def __init__(self, engines: Engines, log: SqlLog) -> None:
        self._engines = engines
        self._log = log
        self._mark = "?" if engines.dialect == "sqlite" else "%s"

    def sessions_of(self, lookup: bytes) -> Sequence[str]:
        with self._engines.read() as connection:
            lookups = self._log.lookups
            return [session_id for session_id, _ in _of_subject(connection, lookups, lookup)]

    def place(self, lookup: bytes, row: HoldRow, fact: Fact, now: int) -> None:
        """Behind the locks of all their sessions and their own: a deletion comes before this, or
        sees the hold; who joins a session meanwhile is held there, too."""
        with self._engines.write() as connection:
            lookups = self._log.lookups
            concerned = [one for one, _ in _of_subject(connection, lookups, lookup)]
            _lock(connection, "sessions", "session_id", sorted(concerned))
            subject = _lock_subject(connection, lookups, lookup)
            if subject is None:
                raise SubjectUnknown
            values = (row.hold, subject, str(row.ground), row.since, row.until)
            bulk.insert(connection, subject_holds, _HOLD, [values])
            append_facts(connection, [fact], now)
            deed = deed_of_hold(row.hold, subject, row.ground, row.until, row.since)
            self._log.remember(connection, [deed], 1)
        self._log.wakeups.notify()

    def place_again(self, subject: str, row: HoldRow, fact: Fact, now: int) -> bool:
        with self._engines.write() as connection:
            _lock_sessions_of(connection, [subject])
            placed = _lock(connection, "subjects", "subject", [subject]) > 0
            if placed:
                values = (row.hold, subject, str(row.ground), row.since, row.until)
                tail = "ON CONFLICT (partition, hold) DO NOTHING"
                bulk.insert(connection, subject_holds, _HOLD, [values], tail)
                append_facts(connection, [fact], now)
            self._log.remember(connection, (), int(placed))
        self._log.wakeups.notify()
        return placed

    def release(self, hold: str, fact: Fact, now: int) -> None:
        with self._engines.write() as connection:
            query = "SELECT subject FROM subject_holds WHERE partition = 0 AND hold IN ({ids})"
            subjects = [row[0] for row in bulk.select_in(connection, query, [hold])]
            concerned = _lock_sessions_of(connection, subjects)
            ended = connection.exec_driver_sql(
                f"UPDATE subject_holds SET until = {self._mark} WHERE partition = 0 "
                f"AND hold = {self._mark} AND (until IS NULL OR until > {self._mark})",
                (now, hold, now),
            ).rowcount
            if not ended:
                raise HoldUnknown(hold)
            least = "min" if self._engines.dialect == "sqlite" else "least"
            setting = f"{{column}} = {least}(coalesce(sessions.due_at, {NEVER}), {{value}})"
            rows = [(session_id, now) for session_id in concerned]
            bulk.update(connection, sessions, ("session_id",), ("due_at",), rows, setting)
            append_facts(connection, [fact], now)
            self._log.remember(connection, [deed_of_release(hold, now)], 1)
        self._log.wakeups.notify()

    def find(self, hold: str, now: int) -> HoldRow | None:
        return next(iter(self._standing("=", hold, now, 1)), None)

    def page(self, now: int, after: str, limit: int) -> Sequence[HoldRow]:
        return self._standing(">", after, now, limit)

    def _standing(self, comparison: str, hold: str, now: int, limit: int) -> list[HoldRow]:
        """Those that stand and whose id compares like that with `hold`, in order of id."""
        rows: list[HoldRow] = []
        with self._engines.snapshot() as connection:
            for table, on in (("subject_holds", "subject"), ("session_holds", "session_id")):
                query = (
                    f"SELECT hold, ground, since, until, {on} FROM {table} WHERE partition = 0 "
                    f"AND hold {comparison} {self._mark} "
                    f"AND (until IS NULL OR until > {self._mark}) ORDER BY hold LIMIT {self._mark}"
                )
                found = connection.exec_driver_sql(query, (hold, now, limit))
                rows += [
                    HoldRow(id_, Ground(ground), since, until, **{on: whom})
                    for id_, ground, since, until, whom in found
                ]
        return sorted(rows, key=lambda row: row.hold)[:limit]


_HOLD = ("hold", "subject", "ground", "since", "until")


def _lock_sessions_of(connection: Connection, subjects: Sequence[str]) -> list[str]:
    query = (
        "SELECT DISTINCT session_id FROM subject_index WHERE partition = 0 AND subject IN ({ids})"
    )
    concerned = sorted(row[0] for row in bulk.select_in(connection, query, subjects))
    _lock(connection, "sessions", "session_id", concerned)
    return concerned


def _lock_subject(connection: Connection, lookups: SubjectLookups, lookup: bytes) -> str | None:
    """By the random id: what the row is found by may change under our hands."""
    query = "SELECT lookup, subject FROM subjects WHERE partition = 0 AND lookup IN ({ids})"
    subjects = [row[1] for row in lookups.select(connection, query, [lookup])]
    locked = _lock(connection, "subjects", "subject", subjects)
    return subjects[0] if locked else None


def _lock(connection: Connection, table: str, column: str, ids: Sequence[Any]) -> int:
    """How many there are."""
    lock = "" if connection.dialect.name == "sqlite" else f" ORDER BY {column} FOR UPDATE"
    query = f"SELECT partition FROM {table} WHERE partition = 0 AND {column} IN ({{ids}}){lock}"
    return len(bulk.select_in(connection, query, ids))
