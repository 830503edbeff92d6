"""The log of requests: who asked what, when, and how it ended. Never which data.

A table per month (`requests_2026_11`), so that what is older than a year is dropped whole, without
a trace and without work. An entry names the path's template, the actor's token and a session's id;
one whose answer held personal data names the kind, and is on disk before that answer is sent.
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    select,
)

from adapters.log import postgres
from adapters.log.committer import Committer
from adapters.log.engine import Engines
from domain.errors import StoreBusy
from domain.policy import SECOND

_log = structlog.get_logger(component="requests")

TERM_MONTHS = 12
"""How many whole months stay beside the running one."""
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
    `/v1/sessions/{session_id}`. read: which personal data the answer held.
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


class RequestLog:
    """Writes entries in batches, reads them in pages. Close it to write what waits."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._metadata = MetaData()
        self._tables: dict[str, Table] = {}
        self._made: set[str] = set()
        self._lock = threading.Lock()
        self._committer: Committer[Entry, None] = Committer(
            self._write, name="lapse-requests", queue_weight=MOST_WAITING
        )

    def record(self, entry: Entry) -> None:
        """Write an entry soon; if its answer held personal data, before this returns.

        Raises StoreError if that failed.
        """
        pending = self._committer.submit(entry)
        if entry.read is not None:
            try:
                pending.result(timeout=WRITTEN_SECONDS)
            except TimeoutError:
                raise StoreBusy("the entry of this request was not written in time") from None

    def close(self) -> None:
        self._committer.close()

    def page(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        actor: str | None = None,
        session: str | None = None,
    ) -> Sequence[tuple[int, Entry]]:
        """(number, entry) of the newest entries older than number `before`, the newest first.

        A number is unique over all months and grows with time.
        """
        found: list[tuple[int, Entry]] = []
        for month in reversed(self._months()):
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
            with self._engines.read() as connection:
                rows = connection.execute(query).fetchall()
            found += [(number * _PER_MONTH + row.id, Entry(*row[1:])) for row in rows]
            if len(found) >= limit:
                break
        return found

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

    def _write(self, entries: Sequence[Entry]) -> Sequence[None]:
        try:
            self._insert(entries)
        except Exception as error:
            kind = type(error).__name__
            _log.error("requests", operation="write", result=kind, lost=len(entries))
            raise
        return [None] * len(entries)

    def _insert(self, entries: Sequence[Entry]) -> None:
        by_month: dict[str, list[Entry]] = {}
        for entry in entries:
            by_month.setdefault(_month(entry.at), []).append(entry)
        for month in by_month:
            self._make(month)
        with self._engines.write() as connection:
            for month, found in by_month.items():
                rows = [vars(entry) for entry in found]
                connection.execute(self._table(month).insert(), rows)

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
                    Index(f"{month}_by_session", "session"),
                )
            return table

    def _months(self) -> list[str]:
        with self._engines.read() as connection:
            names = inspect(connection).get_table_names()
        return sorted(name for name in names if _NAME.fullmatch(name))


def _month(at: int) -> str:
    moment = datetime.fromtimestamp(at // SECOND, UTC)
    return f"requests_{moment.year:04d}_{moment.month:02d}"


def _number(month: str) -> int:
    """Months since the year 0."""
    match = _NAME.fullmatch(month)
    if match is None:
        raise ValueError(month)
    return int(match[1]) * 12 + int(match[2]) - 1
