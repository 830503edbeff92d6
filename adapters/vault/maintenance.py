"""Physical clean-up: what was deleted leaves the pages of the database too.

Bounded, and not for every erasure: some time after something was erased, for all of it together.

SQLite overwrites what is deleted (`secure_delete`), so what is left is the write-ahead log: it is
brought into the file and emptied, unless somebody still reads an older state. PostgreSQL leaves
bytes wherever they were. So the wrapped keys, without which nothing else opens, move into a table
of their own and the old one is dropped as a file; the other tables are vacuumed. What is left in
its pages and its write-ahead log are sealed bytes without a key (docs/explanation/privacy.md).

Nothing here keeps a writer waiting for long: VACUUM lets everybody work, and the swap of the tables
gives way after a second.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from adapters.keyring.generations import overwrite_freed_pages
from adapters.keyring.keyring import KEPT_SECONDS
from adapters.log.engine import Engines
from adapters.log.leases import Leases
from adapters.log.schema import meta
from adapters.vault.stores import STORES
from domain.erasure import Reach
from domain.errors import LapseError, RotationHeld, StoreBusy
from domain.policy import SECOND
from domain.ports import Fault, Pending, Scanner, ScanResult

_log = structlog.get_logger(component="cleanup")

_ROW = "cleanup"
_TOPICS = ("session.erased.v1", "session.summarized.v1", "session.compressed.v1")
_VACUUMED = tuple(
    name
    for name, store in STORES.items()
    if store.searches and store.fault is Fault.LEFT and not name.startswith("subject_keys")
)
COST_DELAY = 2
"""Milliseconds that VACUUM rests between its rounds, as autovacuum does: others come first."""
READER_SECONDS = 10.0
"""How long it waits for those who read from before; a backup takes longer, so it comes again."""


@dataclass(frozen=True)
class CleanUp:
    """One that went through. began_at, ended_at: microseconds. position: of the newest event that
    was committed before it began."""

    began_at: int
    ended_at: int
    position: int


class Maintenance:
    """The clean-up of one database; every process of an installation may run it.

    renew_keys: moves the wrapped keys into a new table and drops the old one; raises RotationHeld
    if that is going on. every: how long after one clean-up the next may begin.
    """

    def __init__(
        self,
        engines: Engines,
        renew_keys: Callable[[], None],
        clock: Callable[[], int],
        holder: str,
        *,
        every: int,
    ) -> None:
        self._engines = engines
        self._renew_keys = renew_keys
        self._clock = clock
        self._every = every
        self._leases = Leases(engines, clock, holder)
        self._looked_at = 0
        self._wanted = False
        self._hindrance: Pending | None = None

    def run_due(self) -> None:
        """Clean up if something was deleted since the last time and that is long enough ago. What
        fails is logged, and tried again when it is due again."""
        now = self._clock()
        last = self.last()
        tried = max(self._looked_at, last.ended_at if last is not None else 0)
        if now - tried < self._every:
            return
        if not (self._wanted or self._has_erased_since(last.position if last is not None else 0)):
            return
        self._looked_at = now
        try:
            pending = self.run()
        except (LapseError, SQLAlchemyError) as error:
            _log.error("clean", operation="clean", result=type(error).__name__)
            return
        if pending is not None:
            _log.warning("clean", operation="clean", result=str(pending))

    def run(self) -> Pending | None:
        """Clean up now; None: it went through. Raises StoreError, KeyUnavailable."""
        with self._leases.lease("cleanup") as mine:
            if not mine:
                return Pending.CLEANUP
            began_at, position = self._begin()
            if self._engines.dialect == "sqlite":
                pending = None if overwrite_freed_pages(self._engines) else Pending.READER
            else:
                pending = self._clean_postgresql()
            self._hindrance = pending
            if pending is None:
                done = CleanUp(began_at, self._clock(), position)
                self._note(done)
                self._wanted = False
                _log.info("clean", operation="clean", result="done", position=position)
            return pending

    def want(self) -> None:
        """Somebody waits for the next one."""
        self._wanted = True

    @property
    def hindrance(self) -> Pending | None:
        """What kept the last one of this process from going through; None: nothing, or none ran
        here."""
        return self._hindrance

    def last(self) -> CleanUp | None:
        """The newest one of any process that went through."""
        with self._engines.read() as connection:
            row = connection.execute(meta.select().where(meta.c.name == _ROW)).fetchone()
        return None if row is None else CleanUp(**orjson.loads(bytes(row.value)))

    def compact(self) -> Pending | None:
        """SQLite: write the file anew, so that nothing is left between its rows. Nobody else works
        meanwhile, and it takes as much memory as the file is large. PostgreSQL: as `run`."""
        pending = self.run()
        if pending is not None or self._engines.dialect == "postgresql":
            return pending
        connection = self._engines.detached()
        try:
            connection.execute("VACUUM")
        finally:
            connection.close()
        return None if overwrite_freed_pages(self._engines) else Pending.READER

    # -- the steps ----------------------------------------------------------------------------

    def _begin(self) -> tuple[int, int]:
        """(when, behind which event): whatever was erased up to there is committed."""
        lock = "" if self._engines.dialect == "sqlite" else " FOR UPDATE"
        with self._engines.write() as connection:
            position = connection.exec_driver_sql(
                f"SELECT position FROM heads WHERE partition = 0{lock}"
            ).scalar_one()
            return self._clock(), int(position)

    def _clean_postgresql(self) -> Pending | None:
        try:
            self._renew_keys()
        except RotationHeld:
            return Pending.KEYS
        except StoreBusy:
            return Pending.READER
        with self._engines.autocommit() as connection:
            if not self._wait_for_readers(connection):
                return Pending.READER
            connection.exec_driver_sql(f"SET vacuum_cost_delay = {COST_DELAY}")
            try:
                for table in _VACUUMED:  # few: tables, not rows
                    # ANALYZE replaces the samples that the planner has of ids and keyed hashes.
                    connection.exec_driver_sql(
                        f"VACUUM (ANALYZE, TRUNCATE FALSE, PARALLEL 0) {table}"
                    )
            finally:
                connection.exec_driver_sql("RESET vacuum_cost_delay")
        return None

    def _wait_for_readers(self, connection: Connection) -> bool:
        """Until nobody reads any more who began before this; VACUUM must leave what they see."""
        since = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        ends = time.monotonic() + READER_SECONDS
        while connection.exec_driver_sql(_OLD_READERS, (since,)).scalar_one():
            if time.monotonic() > ends:
                return False
            time.sleep(0.1)
        return True

    def _note(self, done: CleanUp) -> None:
        with self._engines.write() as connection:
            connection.execute(meta.delete().where(meta.c.name == _ROW))
            connection.execute(meta.insert().values(name=_ROW, value=orjson.dumps(vars(done))))

    def _has_erased_since(self, position: int) -> bool:
        marks = "?" if self._engines.dialect == "sqlite" else "%s"
        topics = ", ".join(f"'{topic}'" for topic in _TOPICS)
        query = (
            f"SELECT 1 FROM events WHERE partition = 0 AND position > {marks} AND "
            f"(topic IN ({topics}) OR topic LIKE {marks}) ORDER BY position LIMIT 1"
        )
        with self._engines.read() as connection:
            found = connection.exec_driver_sql(query, (position, "request.%")).fetchone()
        return found is not None


_OLD_READERS = (
    "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_type IN ('client backend', 'walsender') AND backend_xmin IS NOT NULL "
    "AND pid <> pg_backend_pid() AND xact_start < %s) "
    "OR EXISTS (SELECT 1 FROM pg_prepared_xacts WHERE database = current_database())"
)
"""Of other users' transactions only a superuser knows when they began."""


class Verification:
    """Whether an erasure that was carried out is `verified`: every cache has let go of its keys, a
    clean-up that began after it went through, and a scan finds nothing left."""

    def __init__(self, scanner: Scanner, maintenance: Maintenance) -> None:
        self._scanner = scanner
        self._maintenance = maintenance

    def verify(self, reach: Reach, executed_at: int, now: int) -> ScanResult | Pending:
        """Raises StoreError: then it is not known."""
        pending = self.pending(executed_at, now, self._maintenance.last())
        if pending is None:
            return self._scanner.scan(reach)
        if pending is not Pending.CACHES:
            self._maintenance.want()
        return pending

    def pending(self, executed_at: int, now: int, last: CleanUp | None) -> Pending | None:
        """Why a scan would come too early; None: it may be done. last: the last clean-up."""
        if now - executed_at < KEPT_SECONDS * SECOND:
            return Pending.CACHES
        if last is None or last.began_at <= executed_at:
            return self._maintenance.hindrance or Pending.CLEANUP
        return None
