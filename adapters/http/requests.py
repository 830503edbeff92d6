"""The log of requests: who asked what, when, and how it ended. Never which data.

A table per month (`requests_2026_11`), so that what is older than a year is dropped whole, without
a trace and without work. An entry names the path's template, the actor's token and a session's id;
one whose answer held personal data names the kind, and is on disk before that answer is sent.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    select,
)

from adapters.log import bulk, postgres
from adapters.log.committer import Committer, Pending
from adapters.log.engine import Engines
from adapters.logs import Failures
from domain.errors import StoreBusy, StoreError
from domain.policy import SECOND

_log = structlog.get_logger(component="requests")

TERM_MONTHS = 12
"""How many whole months stay beside the running one."""
FLUSH_SECONDS = 0.1
"""How long an entry may wait for others. A transaction for the few that came during the one before
cost a fifth of what a busy service did."""
MOST_AT_ONCE = 2_000
"""Entries that are written without waiting for more."""
MOST_WAITING = 50_000
"""Entries that may wait to be written; beyond it requests wait too."""
WRITTEN_SECONDS = 30.0
"""How long an answer with personal data waits for its entry."""
_NAME = re.compile(r"requests_(\d{4})_(\d{2})")
# SQLite numbers rows by itself only in a column declared INTEGER.
_NUMBER = Integer().with_variant(BigInteger, "postgresql")
_PER_MONTH = 10**12
"""Room for the numbers of one month."""


@dataclass(frozen=True)
class Entry:
    """One request that was answered.

    at: microseconds. duration: microseconds. path: the template, such as
    `/v1/sessions/{session_id}`. read: which personal data the answer held. operation: its id in the
    OpenAPI document, None of what is not there.
    """

    at: int
    actor: str | None
    role: str | None
    method: str
    path: str
    status: int
    duration: int
    session: str | None
    read: str | None
    operation: str | None = None


class RequestLog:
    """Writes entries in batches, reads them in pages. Close it to write what waits."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._metadata = MetaData()
        self._tables: dict[str, Table] = {}
        self._made: set[str] = set()
        self._lock = threading.Lock()
        self._waiting: list[Entry] = []
        self._waits = threading.Event()
        self._closed = threading.Event()
        self._failures = Failures(_log, "requests", operation="write")
        self._lost_count = 0
        self._committer: Committer[Sequence[Entry], None] = Committer(
            self._write, name="lapse-requests", weigh=len, queue_weight=MOST_WAITING
        )
        self._flusher = threading.Thread(
            target=self._flush_often, name="lapse-requests-flush", daemon=True
        )
        self._flusher.start()

    def record(self, entry: Entry) -> None:
        """Write an entry soon; if its answer held personal data, before this returns.

        Raises StoreError if that failed.
        """
        with self._lock:
            self._waiting.append(entry)
            count = len(self._waiting)
            taken = self._take() if entry.read is not None or count >= MOST_AT_ONCE else None
        if taken is None:
            if count == 1:
                self._waits.set()
            return
        pending = self._submit(taken)
        if entry.read is not None:
            try:
                pending.result(timeout=WRITTEN_SECONDS)
            except TimeoutError:
                raise StoreBusy("the entry of this request was not written in time") from None

    def close(self) -> None:
        self._closed.set()
        self._waits.set()
        self._flusher.join()
        self._committer.close()

    def _take(self) -> list[Entry]:
        """What waits; the lock is held."""
        taken, self._waiting = self._waiting, []
        return taken

    def _submit(self, entries: Sequence[Entry]) -> Pending[None]:
        try:
            return self._committer.submit(entries)
        except StoreError as error:
            self._lost(entries, error)
            raise

    def _flush_often(self) -> None:
        while not self._closed.is_set():
            self._waits.wait()
            self._closed.wait(FLUSH_SECONDS)
            self._waits.clear()
            with self._lock:
                taken = self._take()
            if taken:
                with suppress(StoreError):  # logged
                    self._submit(taken)

    def page(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        actor: str | None = None,
        session: str | None = None,
        operation: str | None = None,
        read: bool = False,
        since: int | None = None,
        until: int | None = None,
    ) -> Sequence[tuple[int, Entry]]:
        """(number, entry) of the newest entries older than number `before`, the newest first.

        A number is unique over all months and grows with time. read: only those whose answer held
        personal data. since, until: only of requests that began from then to before then.
        """
        found: list[tuple[int, Entry]] = []
        for month in reversed(self._months(since, until)):
            table = self._table(month)
            number = _number(month)
            query = select(table).order_by(table.c.id.desc()).limit(limit - len(found))
            if before is not None:
                if before // _PER_MONTH < number:
                    continue
                if before // _PER_MONTH == number:
                    query = query.where(table.c.id < before % _PER_MONTH)
            if actor is not None:
                query = query.where(table.c.actor == actor)
            if session is not None:
                query = query.where(table.c.session == session)
            if operation is not None:
                query = query.where(table.c.operation == operation)
            if read:
                query = query.where(table.c.read.is_not(None))
            query = query.where(*_in_period(table, since, until))
            with self._engines.read() as connection:
                rows = connection.execute(query).fetchall()
            found += [(number * _PER_MONTH + row.id, Entry(*row[1:])) for row in rows]
            if len(found) >= limit:
                break
        return found

    def entries(
        self, *, since: int | None = None, until: int | None = None
    ) -> Iterator[tuple[int, Entry]]:
        """(number, entry) of all requests that began from `since` to before `until`, in the order
        in which they were written, read page by page."""
        for month in self._months(since, until):
            table, number, after = self._table(month), _number(month), 0
            query = select(table).where(*_in_period(table, since, until)).order_by(table.c.id)
            while True:
                with self._engines.read() as connection:
                    page = query.where(table.c.id > after).limit(MOST_AT_ONCE)
                    rows = connection.execute(page).fetchall()
                yield from ((number * _PER_MONTH + row.id, Entry(*row[1:])) for row in rows)
                if len(rows) < MOST_AT_ONCE:
                    break
                after = rows[-1].id

    def forget(self, now: int) -> list[str]:
        """Drop the months that are over their term; their names."""
        last = _number(_month(now)) - TERM_MONTHS
        gone = [month for month in self._months() if _number(month) < last]
        for month in gone:
            with self._engines.write() as connection:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {month}")
            self._made.discard(month)
            _log.info("requests", operation="forget", result="done", month=month)
        return gone

    # -- writing ------------------------------------------------------------------------------

    def _write(self, batches: Sequence[Sequence[Entry]]) -> Sequence[None]:
        entries = [entry for batch in batches for entry in batch]
        try:
            self._insert(entries)
        except Exception as error:
            self._lost(entries, error)
            raise
        self._lost_count = 0
        self._failures.worked()
        return [None] * len(batches)

    def _lost(self, entries: Sequence[Entry], error: Exception) -> None:
        """lost: entries since one was written."""
        self._lost_count += len(entries)
        self._failures.failed(result=type(error).__name__, lost=self._lost_count)

    def _insert(self, entries: Sequence[Entry]) -> None:
        by_month: dict[str, list[tuple[Any, ...]]] = {}
        for entry in entries:
            row = tuple(vars(entry).values())
            by_month.setdefault(_month(entry.at), []).append(row)
        for month in by_month:
            self._make(month)
        with self._engines.write() as connection:
            for month, rows in by_month.items():
                _insert_rows(connection, month, rows)

    def _make(self, month: str) -> None:
        """Only this log's one writing thread comes here."""
        if month in self._made:
            return
        with self._engines.write() as connection:
            if self._engines.dialect == "postgresql":
                # Another instance may make it at the same moment; then it is there.
                postgres.lock_schema_changes(connection)
            self._table(month).create(connection, checkfirst=True)
        self._made.add(month)

    def _table(self, month: str) -> Table:
        with self._lock:
            table = self._tables.get(month)
            if table is None:
                table = self._tables[month] = Table(
                    month,
                    self._metadata,
                    Column("id", _NUMBER, primary_key=True),
                    Column("at", BigInteger, nullable=False),
                    Column("actor", Text),
                    Column("role", Text),
                    Column("method", Text, nullable=False),
                    Column("path", Text, nullable=False),
                    Column("status", Integer, nullable=False),
                    Column("duration", BigInteger, nullable=False),
                    Column("session", Text),
                    Column("read", Text),
                    Column("operation", Text),
                    Index(f"{month}_by_session", "session"),
                    Index(f"{month}_by_actor", "actor"),
                )
            return table

    def _months(self, since: int | None = None, until: int | None = None) -> list[str]:
        """Those there are, the oldest first, without those that lie outside."""
        with self._engines.read() as connection:
            names = inspect(connection).get_table_names()
        first = _month(since) if since is not None else ""
        last = _month(until) if until is not None else "s"  # behind every name
        return sorted(name for name in names if _NAME.fullmatch(name) and first <= name <= last)


def _in_period(table: Table, since: int | None, until: int | None) -> list[ColumnElement[bool]]:
    from_then = [table.c.at >= since] if since is not None else []
    return [*from_then, table.c.at < until] if until is not None else from_then


def _insert_rows(connection: Connection, month: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """As arrays on PostgreSQL, see adapters/log/bulk.py. The name of a month is one of ours."""
    into = f"INSERT INTO {month} ({', '.join(_ARRAYS)})"
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(_ARRAYS))
        connection.exec_driver_sql(f"{into} VALUES ({marks})", list(rows))
    else:
        arrays = ", ".join(f"%s::{kind}[]" for kind in _ARRAYS.values())
        values = f"SELECT * FROM unnest({arrays})"  # noqa: S608 - nothing but our own names
        connection.exec_driver_sql(f"{into} {values}", bulk.array_literals(rows))


_ARRAYS = {
    "at": "bigint",
    "actor": "text",
    "role": "text",
    "method": "text",
    "path": "text",
    "status": "integer",
    "duration": "bigint",
    "session": "text",
    "read": "text",
    "operation": "text",
}
"""The fields of an entry in order, and what they are to PostgreSQL."""


def _month(at: int) -> str:
    moment = datetime.fromtimestamp(at // SECOND, UTC)
    return f"requests_{moment.year:04d}_{moment.month:02d}"


def _number(month: str) -> int:
    """Months since the year 0."""
    match = _NAME.fullmatch(month)
    if match is None:
        raise ValueError(month)
    return int(match[1]) * 12 + int(match[2]) - 1
