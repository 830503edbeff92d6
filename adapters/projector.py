"""Keeps the projections up to date with the log: the one runner of them all.

Events are handled in batches. A transaction writes the rows of a batch and the new position, after
it has locked the position and found it where the batch begins: so any number of processes may run
at once, and every event counts once per generation, whoever comes first.

A rebuild fills the next generation of a projection beside the one that is served, from the first
event on, and then switches in one small transaction. Since the generation being built has its own
stored position, a rebuild that was killed goes on where it was.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import zip_longest
from threading import Event as ThreadEvent
from time import perf_counter
from typing import Any

import stamina
import structlog
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.event_log import SqlLog
from adapters.log.schema import events as log_events
from adapters.log.wakeups import POLL_SECONDS
from adapters.logs import Failures, place_of
from domain.errors import CorruptEvent, LapseError, StoreError
from domain.policy import SECOND
from domain.ports import PARTITION, Recorded
from projections.tables import Projection, projection_positions, projections

BATCH = 2_000
"""Events per transaction: 0.1 s of work, some MB of memory."""

CLEARED_AT_ONCE = 5_000
"""Rows of a dropped generation that one transaction deletes."""

LINGER_SECONDS = 0.05
"""Pause between two rounds while following: under load a round then takes many events at once,
instead of competing with the writers for the disk after each of theirs."""

FIRST_BACK_OFF = 1 * SECOND
LONGEST_BACK_OFF = 300 * SECOND

_positions = projection_positions.c
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
# By the place of the row: by key, PostgreSQL joined each batch of keys with the whole table (3 s).
_CLEAR = {
    "sqlite": "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} "
    "WHERE partition = 0 AND generation < {generation} LIMIT {limit})",
    "postgresql": "DELETE FROM {table} WHERE ctid = ANY (ARRAY (SELECT ctid FROM {table} "
    "WHERE partition = 0 AND generation < {generation} LIMIT {limit}))",
}

Progress = Callable[[int, int], None]
"""(position handled, position of the newest event), after each batch."""

_patiently = stamina.RetryingCaller(attempts=10, timeout=45.0)


@dataclass(eq=False)
class ProjectionUnknown(LapseError):
    """There is no projection of this name."""

    name: str
    known: Sequence[str]

    def __str__(self) -> str:
        return f"no projection named {self.name!r}; known: {', '.join(self.known)}"


@dataclass(eq=False)
class ProjectionFailed(LapseError):
    """A projection cannot handle the event at `position`. failure: class of the error."""

    name: str
    position: int
    failure: str

    def __str__(self) -> str:
        return (
            f"projection {self.name} cannot handle the event at position {self.position} "
            f"({self.failure}): update Lapse; what the projection shows ends before that event"
        )


class State(StrEnum):
    """How a projection stands to the log."""

    CURRENT = "current"
    BEHIND = "behind"
    FAILED = "failed"  # it cannot handle an event, and is tried again


@dataclass(frozen=True)
class Lag:
    """How far a projection is behind the log.

    position: the last event it shows. seconds_behind: the age of the oldest event it does not show.
    failed_at: since when the event behind `position` cannot be handled (None: it can), failure:
    the class of the error. building: the position of the generation that a rebuild fills.
    """

    position: int
    head: int
    events_behind: int
    seconds_behind: float
    failed_at: int | None = None
    failure: str | None = None
    building: int | None = None

    @property
    def state(self) -> State:
        if self.failed_at is not None:
            return State.FAILED
        return State.BEHIND if self.events_behind else State.CURRENT


@dataclass(frozen=True)
class _Copy:
    """One generation of one projection, and the last event that is in it."""

    projection: Projection
    generation: int
    position: int

    @property
    def key(self) -> tuple[str, int]:
        return self.projection.name, self.generation


@dataclass(frozen=True)
class _BackOff:
    attempts: int
    until: int


class Projector:
    """Feeds projections from the log.

    clock: microseconds since the epoch; decides when a failed projection is tried again.
    """

    def __init__(
        self,
        engines: Engines,
        log: SqlLog,
        catalogue: Sequence[Projection],
        clock: Callable[[], int],
    ) -> None:
        self._engines = engines
        self._log = log
        self._catalogue = {projection.name: projection for projection in catalogue}
        self._clock = clock
        self._registered = False
        self._back_offs: dict[tuple[str, int], _BackOff] = {}
        self._failures: dict[str, Failures] = {}
        self._woken = ThreadEvent()
        self._out = structlog.get_logger(component="projector")

    # -- following ----------------------------------------------------------------------------

    def run(self, stop: ThreadEvent) -> None:
        """Follow the log until `stop` is set; no error ends it.

        It looks when something was committed, and once a second by itself. Call `wake` after
        setting `stop` to end it at once.
        """
        self._log.wakeups.listen(self._woken)
        try:
            self._persist("start", partial(self._start, stop), stop)
            while not stop.is_set():
                self._woken.clear()
                self._persist("catch_up", partial(self._follow, stop), stop)
                stop.wait(LINGER_SECONDS)
                self._woken.wait(POLL_SECONDS)
        finally:
            self._log.wakeups.unlisten(self._woken)

    def wake(self) -> None:
        """Make `run` look now."""
        self._woken.set()

    def catch_up(self, progress: Progress | None = None, batch: int = BATCH) -> int:
        """Handle what is in the log, until there is no more; how many events were handled here.

        A projection that cannot handle an event stops there, is marked as failed and tried again
        later; the others go on. Raises StoreError.
        """
        self._register()
        total = 0
        while (handled := self._pass(batch, progress)) is not None:
            total += handled
        return total

    def _follow(self, stop: ThreadEvent) -> None:
        """As `catch_up`, but the end of the process need not wait for a long backlog."""
        started = perf_counter()
        self._register()
        total = 0
        while not stop.is_set() and (handled := self._pass(BATCH, None)) is not None:
            total += handled
            if handled < BATCH:
                stop.wait(LINGER_SECONDS)
        if total:
            self._out.debug(  # many a second
                "projections",
                operation="catch_up",
                result="done",
                duration_ms=_milliseconds(started),
                events=total,
            )

    def _persist(self, operation: str, work: Callable[[], object], stop: ThreadEvent) -> None:
        """Do `work`, again and again until it succeeds or the end is wanted.

        The end of the waits is short: the database being back is what a reader waits for.
        """
        attempts = stamina.retry_context(
            on=lambda error: not stop.is_set(),
            attempts=None,
            timeout=None,
            wait_initial=0.1,
            wait_max=1.0,
            wait_jitter=0.1,
        )
        with suppress(Exception):  # logged; comes out only when the end is wanted
            for attempt in attempts:
                with attempt, self._failures_told(operation):
                    work()

    def _start(self, stop: ThreadEvent) -> None:
        self._register()
        for projection in self._catalogue.values():
            while not stop.is_set() and self._clear_some(projection):
                pass

    def _register(self) -> None:
        """A projection that is new starts at the first event."""
        if self._registered:
            return
        with self._engines.read() as connection:
            known = set(connection.execute(select(projections.c.name)).scalars())
        new = sorted(self._catalogue.keys() - known)
        if new:
            with self._engines.write() as connection:
                insert_new = _INSERT[connection.dialect.name](projections).on_conflict_do_nothing()
                for name in new:
                    row = {"name": name, "serving": 1}
                    if connection.execute(insert_new, row).rowcount:
                        self._insert_position(connection, name, 1)
        self._registered = True

    def _insert_position(self, connection: Connection, name: str, generation: int) -> None:
        connection.execute(
            insert(projection_positions).values(
                partition=PARTITION,
                name=name,
                generation=generation,
                position=0,
                updated_at=self._clock(),
            )
        )

    # -- handling events ----------------------------------------------------------------------

    def _pass(self, batch: int, progress: Progress | None) -> int | None:
        """One batch for each projection; None if there was nothing to read.

        Those that stand at the same position share what is read. Whoever is behind reads no
        further than the next one stands, so that they go on together from there.
        """
        copies = [copy for copy in self._serving() if not self._backing_off(copy)]
        positions = sorted({copy.position for copy in copies})
        handled: list[int] = []
        for position, upto in zip_longest(positions, positions[1:]):
            members = [copy for copy in copies if copy.position == position]
            try:
                events = self._read(position, batch, upto)
            except CorruptEvent as corrupt:
                for copy in members:
                    self._fail(copy, corrupt)
                continue
            if events:
                handled.append(max(self._handle(copy, events) for copy in members))
                if progress is not None and position == positions[0]:
                    progress(events[-1].position, max(events[-1].position, self._log.head()))
        return sum(handled) if handled else None

    def _handle(self, copy: _Copy, events: Sequence[Recorded]) -> int:
        try:
            return self._apply(copy, events)
        except ProjectionFailed:
            return 0

    def _read(self, after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
        """Events behind `after`, up to an unreadable one. Raises CorruptEvent if it comes first."""
        try:
            return self._log.read(after, limit, upto)
        except CorruptEvent as corrupt:
            if corrupt.position == after + 1:
                raise
            return self._log.read(after, limit, corrupt.position - 1)

    def _apply(self, copy: _Copy, events: Sequence[Recorded]) -> int:
        """Write the rows of `events`; how many were written here and not by another process.

        If a batch cannot be handled its halves are tried, so that the projection stops right before
        the event that is the cause. Raises ProjectionFailed, StoreError.
        """
        try:
            return len(events) if self._write(copy, events) else 0
        except StoreError:
            raise
        except Exception as error:
            if len(events) == 1:
                raise self._fail(copy, error) from error
        half = len(events) // 2
        first, second = events[:half], events[half:]
        return self._apply(copy, first) + self._apply(
            replace(copy, position=first[-1].position), second
        )

    def _write(self, copy: _Copy, events: Sequence[Recorded]) -> bool:
        """Rows and position in one transaction; False if another process was faster."""
        projection = copy.projection
        rows = projection.rows(copy.generation, events)
        with self._engines.write() as connection:
            if _locked_position(connection, copy) != copy.position:
                return False
            bulk.insert(
                connection, projection.table, projection.columns, rows, projection.on_conflict
            )
            connection.execute(
                update(projection_positions)
                .where(*_of(copy))
                .values(
                    position=events[-1].position,
                    updated_at=self._clock(),
                    failed_at=None,
                    failure=None,
                )
            )
        self._back_offs.pop(copy.key, None)
        return True

    # -- failing ------------------------------------------------------------------------------

    def _fail(self, copy: _Copy, error: Exception) -> ProjectionFailed:
        """The event behind `copy.position` cannot be handled: note it, and try again later."""
        name, failure = copy.projection.name, type(error).__name__
        now = self._clock()
        attempts = self._back_offs[copy.key].attempts + 1 if copy.key in self._back_offs else 1
        pause = min(FIRST_BACK_OFF * 2 ** min(attempts - 1, 30), LONGEST_BACK_OFF)
        self._back_offs[copy.key] = _BackOff(attempts, now + pause)
        self._out.error(
            "projections",
            operation="handle",
            result="failed",
            projection=name,
            generation=copy.generation,
            position=copy.position + 1,
            error=failure,
            place=place_of(error),
            attempts=attempts,
        )
        with self._engines.write() as connection:
            connection.execute(
                update(projection_positions)
                .where(*_of(copy), _positions.position == copy.position)
                .values(failed_at=func.coalesce(_positions.failed_at, now), failure=failure)
            )
        return ProjectionFailed(name, copy.position + 1, failure)

    def _backing_off(self, copy: _Copy) -> bool:
        back_off = self._back_offs.get(copy.key)
        now = self._clock()
        # A clock that was set back must not prolong the pause.
        return back_off is not None and now < back_off.until <= now + LONGEST_BACK_OFF

    # -- rebuilding ---------------------------------------------------------------------------

    def rebuild(self, name: str, progress: Progress, batch: int = BATCH) -> None:
        """Make a projection anew from the first event on, then serve that and drop the old rows.

        The old rows are served and kept up to date meanwhile. Goes on where an earlier rebuild was
        ended. Raises ProjectionUnknown, ProjectionFailed, CorruptEvent; StoreError after some
        attempts.
        """
        started = perf_counter()
        projection = self._projection(name)
        _patiently(StoreError, self._register)
        _patiently(StoreError, self._begin, projection)
        while (copy := _patiently(StoreError, self._building, projection)) is not None:
            _patiently(StoreError, self._build, copy, progress, batch)
        while _patiently(StoreError, self._clear_some, projection):
            pass
        self._out.info(
            "projections",
            operation="rebuild",
            result="done",
            duration_ms=_milliseconds(started),
            projection=name,
        )

    def _projection(self, name: str) -> Projection:
        if name not in self._catalogue:
            raise ProjectionUnknown(name, sorted(self._catalogue))
        return self._catalogue[name]

    def _begin(self, projection: Projection) -> None:
        """Choose the generation to build, if none is being built."""
        with self._engines.write() as connection:
            serving, building = _locked_generations(connection, projection.name)
            if building is None:
                self._insert_position(connection, projection.name, serving + 1)
                connection.execute(
                    update(projections)
                    .where(projections.c.name == projection.name)
                    .values(building=serving + 1)
                )

    def _build(self, copy: _Copy, progress: Progress, batch: int) -> None:
        """One batch, or the switch when there is nothing more to read."""
        head = self._log.head()
        events = self._read(copy.position, batch)
        position = events[-1].position if events else copy.position
        if events:
            self._apply(copy, events)
        else:
            self._switch(copy)
        progress(position, max(position, head))

    def _switch(self, copy: _Copy) -> None:
        """Serve the generation that was built, unless the served one shows more meanwhile."""
        name = copy.projection.name
        with self._engines.write() as connection:
            serving, building = _locked_generations(connection, name)
            if building != copy.generation:
                return  # another process switched
            served = _locked_position(connection, replace(copy, generation=serving))
            built = _locked_position(connection, copy)
            if built is None or (served is not None and built < served):
                return
            connection.execute(
                update(projections)
                .where(projections.c.name == name)
                .values(serving=building, building=None)
            )
            # Without its position nobody can write the old generation any more, so its rows can go
            # without a lock.
            connection.execute(
                delete(projection_positions).where(
                    _positions.name == name, _positions.generation < building
                )
            )

    def _clear_some(self, projection: Projection) -> int:
        """Delete some rows of generations that are served no more; how many, 0: none is left."""
        serving = select(projections.c.serving).where(projections.c.name == projection.name)
        with self._engines.write() as connection:
            generation = connection.execute(serving).scalar_one()
            query = _CLEAR[connection.dialect.name].format(
                table=projection.table.name, generation=int(generation), limit=CLEARED_AT_ONCE
            )
            return connection.exec_driver_sql(query).rowcount

    # -- where they stand ---------------------------------------------------------------------

    def lag(self) -> dict[str, Lag]:
        """How far each projection is behind the log, and what stands in its way."""
        with self._engines.read() as connection:
            served = {row.name: row for row in connection.execute(_standing("serving"))}
            built = {row.name: row for row in connection.execute(_standing("building"))}
        head = self._log.head()
        return {
            name: self._lag(served.get(name), built.get(name), head) for name in self._catalogue
        }

    def _lag(self, served: Row[Any] | None, built: Row[Any] | None, head: int) -> Lag:
        position = served.position if served is not None else 0
        return Lag(
            position=position,
            head=head,
            events_behind=max(0, head - position),
            seconds_behind=self._age(position + 1) if head > position else 0.0,
            failed_at=served.failed_at if served is not None else None,
            failure=served.failure if served is not None else None,
            building=built.position if built is not None else None,
        )

    def _age(self, position: int) -> float:
        """Seconds since an event was recorded."""
        query = select(log_events.c.recorded_at).where(
            log_events.c.partition == PARTITION, log_events.c.position == position
        )
        with self._engines.read() as connection:
            recorded_at: int | None = connection.execute(query).scalar_one_or_none()
        if recorded_at is None:
            return 0.0  # the log has a hole, which `lapse db check` reports
        return max(0.0, (self._clock() - recorded_at) / SECOND)

    def _serving(self) -> list[_Copy]:
        with self._engines.read() as connection:
            rows = connection.execute(_standing("serving")).fetchall()
        return [
            _Copy(self._catalogue[row.name], row.generation, row.position)
            for row in rows
            if row.name in self._catalogue
        ]

    def _building(self, projection: Projection) -> _Copy | None:
        query = _standing("building").where(_positions.name == projection.name)
        with self._engines.read() as connection:
            row = connection.execute(query).one_or_none()
        return _Copy(projection, row.generation, row.position) if row is not None else None

    @contextmanager
    def _failures_told(self, operation: str) -> Iterator[None]:
        """Log the class of an error and its place only: its text may hold anything."""
        failures = self._failures.setdefault(
            operation, Failures(self._out, "projections", operation=operation)
        )
        started = perf_counter()
        try:
            yield
        except Exception as error:
            failures.failed(
                result="failed",
                duration_ms=_milliseconds(started),
                error=type(error).__name__,
                place=place_of(error),
            )
            raise
        failures.worked()


def _standing(generation: str) -> Select[Any]:
    """The positions of the served (`serving`) or built (`building`) generations."""
    return select(
        _positions.name,
        _positions.generation,
        _positions.position,
        _positions.failed_at,
        _positions.failure,
    ).join(
        projections,
        and_(
            projections.c.name == _positions.name,
            projections.c[generation] == _positions.generation,
            _positions.partition == PARTITION,
        ),
    )


def _of(copy: _Copy) -> tuple[ColumnElement[bool], ...]:
    return (
        _positions.partition == PARTITION,
        _positions.name == copy.projection.name,
        _positions.generation == copy.generation,
    )


def _locked_position(connection: Connection, copy: _Copy) -> int | None:
    """Locked until the transaction ends (on SQLite that has the whole file); None: dropped."""
    query = select(_positions.position).where(*_of(copy)).with_for_update()
    return connection.execute(query).scalar_one_or_none()


def _locked_generations(connection: Connection, name: str) -> tuple[int, int | None]:
    query = select(projections.c.serving, projections.c.building).where(projections.c.name == name)
    serving, building = connection.execute(query.with_for_update()).one()
    return serving, building


def _milliseconds(started: float) -> float:
    return round((perf_counter() - started) * 1000, 1)
