"""Recorders for any application of the `eventsourcing` library, on SQLite and PostgreSQL.

    PERSISTENCE_MODULE=adapters.log
    LAPSE_DATABASE_URL=sqlite:///app.db

Each application has tables of its own, `<name>_events` and so on, made at start unless
CREATE_TABLE=no. Notification IDs are without gaps and in commit order on both databases, and
subscriptions work on both.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast
from uuid import UUID
from weakref import WeakSet

import stamina
from eventsourcing import persistence
from eventsourcing.persistence import (
    InfrastructureFactory,
    ListenNotifySubscription,
    Notification,
    OperationalError,
    PersistenceError,
    ShutDown,
    StoredEvent,
    Tracking,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool
from sqlalchemy import Connection, MetaData, select
from sqlalchemy.exc import SQLAlchemyError

from adapters.log import postgres
from adapters.log.committer import Committer
from adapters.log.engine import Engines, StoreUnavailable, open_engines
from adapters.log.event_table import (
    PARTITION,
    EventTable,
    Insertion,
    PostgresEventTable,
    SQLiteEventTable,
    TrackingTable,
    checked_name,
)
from adapters.log.wakeups import POLL_SECONDS, Wakeups
from domain.errors import StoreError

READ_PATIENCE = 5.0
"""Seconds a read is tried again while the database is unreachable, say restarting."""

Result = TypeVar("Result")
AnyRecorder = TypeVar("AnyRecorder", bound="Recorder")


class Recorder(persistence.Recorder):
    """What all recorders share: a database, the application's name, tables.

    A subclass with tables of its own (a materialised view) adds them to `self.metadata` before
    `create_table` is called.
    """

    def __init__(self, engines: Engines, name: str, originator_id_type: str = "uuid") -> None:
        self.engines = engines
        self.name = checked_name(name)
        self.originator_id_type = originator_id_type
        self.metadata = MetaData()

    def create_table(self) -> None:
        """Create what is missing. Several processes may do so at once."""
        with library_errors(), self.engines.write() as connection:
            if self.engines.dialect == "postgresql":
                postgres.lock_schema_changes(connection)
            self._create(connection)

    def close(self) -> None:
        """Finish what was accepted and end every thread. May be called twice."""

    def _create(self, connection: Connection) -> None:
        self.metadata.create_all(connection)

    def _read(self, query: Callable[[Connection], Result]) -> Result:
        """Tried again for some seconds, because a reader that outlives a restart of the server is
        worth more than a prompt error."""
        with library_errors():
            try:
                with self.engines.read() as connection:
                    return query(connection)
            except StoreUnavailable:
                return self._read_patiently(query)

    def _read_patiently(self, query: Callable[[Connection], Result]) -> Result:
        attempts = stamina.retry_context(
            on=StoreUnavailable, attempts=None, timeout=READ_PATIENCE, wait_max=0.5, wait_jitter=0.1
        )
        for attempt in attempts:
            with attempt, self.engines.read() as connection:
                return query(connection)
        raise AssertionError("the last attempt returns or raises")


class AggregateRecorder(Recorder, persistence.AggregateRecorder):
    """Stored events of one kind (`purpose`), such as snapshots, in the order of their commits."""

    def __init__(
        self,
        engines: Engines,
        name: str,
        originator_id_type: str = "uuid",
        purpose: str = "events",
    ) -> None:
        super().__init__(engines, name, originator_id_type)
        self.table = self._event_table(checked_name(purpose))
        self._events = self.table.events
        self._committer: Committer[Insertion, list[int]] = Committer(
            self.table.append,
            name=f"commit-{self._events.name}",
            weigh=lambda insertion: max(1, len(insertion.rows)),
        )

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Writes all events or none. Raises IntegrityError when one is recorded already.

        An aggregate's sequence has no notification IDs to return.
        """
        self._insert(stored_events, kwargs.get("tracking"))
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        columns = self._events.c
        version = columns.originator_version
        query = select(version, columns.topic, columns.state).where(
            columns.partition == PARTITION,
            columns.originator_id == self.table.stored_id(originator_id),
        )
        if gt is not None:
            query = query.where(version > gt)
        if lte is not None:
            query = query.where(version <= lte)
        query = query.order_by(version.desc() if desc else version).limit(limit)
        rows = self._read(lambda connection: connection.execute(query).all())
        return [StoredEvent(originator_id, *row) for row in rows]

    def close(self) -> None:
        self._committer.close()
        super().close()

    def _create(self, connection: Connection) -> None:
        super()._create(connection)
        self.table.create_head(connection)

    def _event_table(self, purpose: str) -> EventTable:
        kind = SQLiteEventTable if self.engines.dialect == "sqlite" else PostgresEventTable
        return kind(self.engines, self.name, purpose, self.originator_id_type, self.metadata)

    def _insert(
        self, stored_events: Sequence[StoredEvent], tracking: Tracking | None
    ) -> Sequence[int]:
        if not stored_events and tracking is None:
            return []
        rows = [self.table.row(event) for event in stored_events]
        try:
            return self._committer.submit(Insertion(rows, tracking)).result()
        except (StoreError, SQLAlchemyError) as error:
            raise library_error(error) from error


class ApplicationRecorder(AggregateRecorder, persistence.ApplicationRecorder):
    """Events in one sequence for the whole application, with notification IDs from 1."""

    def __init__(self, engines: Engines, name: str, originator_id_type: str = "uuid") -> None:
        super().__init__(engines, name, originator_id_type)
        self.wakeups = Wakeups(engines, self._events.name)
        self._subscriptions: WeakSet[Subscription] = WeakSet()

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Writes all events or none; their notification IDs."""
        positions = self._insert(stored_events, kwargs.get("tracking"))
        if positions:
            self.wakeups.notify()
        return positions

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        columns = self._events.c
        position = columns.position
        query = select(
            columns.originator_id,
            columns.originator_version,
            columns.topic,
            columns.state,
            position,
        ).where(columns.partition == PARTITION)
        first = 1 if start is None else start if inclusive_of_start else start + 1
        query = query.where(position >= first)
        if stop is not None:
            query = query.where(position <= stop)
        if topics:
            query = query.where(columns.topic.in_(topics))
        else:
            # There are no gaps, so this says no more than the limit does. But PostgreSQL, before it
            # has statistics on a young table, would read and sort everything behind `first`.
            query = query.where(position < first + limit)
        query = query.order_by(position).limit(limit)
        rows = self._read(lambda connection: connection.execute(query).all())
        loaded_id = self.table.loaded_id
        return [Notification(loaded_id(row[0]), *row[1:]) for row in rows]

    def max_notification_id(self) -> int | None:
        heads = self.table.heads.c
        query = select(heads.position).where(
            heads.partition == PARTITION, heads.sequence == self.table.sequence
        )
        return self._read(lambda connection: connection.execute(query).scalar()) or None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> "persistence.Subscription[persistence.ApplicationRecorder]":
        subscription = Subscription(self, gt, topics)
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        for subscription in tuple(self._subscriptions):
            subscription.stop()
        super().close()
        self.wakeups.close()


class TrackingRecorder(Recorder, persistence.TrackingRecorder):
    """How far each upstream application was processed.

    A materialised view is a subclass: in one `self.engines.write()` it changes its tables and calls
    `advance`, so that an event is processed once or not at all.
    """

    def __init__(
        self, engines: Engines, name: str, originator_id_type: str = "uuid", **kwargs: Any
    ) -> None:
        super().__init__(engines, name, originator_id_type, **kwargs)
        self.tracking = TrackingTable(self.metadata, self.name)

    def insert_tracking(self, tracking: Tracking) -> None:
        """Raises IntegrityError unless the position is beyond the recorded one."""
        with library_errors(), self.engines.write() as connection:
            self.advance(connection, tracking)

    def advance(self, connection: Connection, tracking: Tracking) -> None:
        """`insert_tracking` within a transaction that writes other things too."""
        self.tracking.advance(connection, tracking)

    def max_tracking_id(self, application_name: str) -> int | None:
        tracking = self.tracking.table.c
        query = select(tracking.notification_id).where(
            tracking.partition == PARTITION, tracking.application_name == application_name
        )
        return self._read(lambda connection: connection.execute(query).scalar())


class ProcessRecorder(ApplicationRecorder, TrackingRecorder, persistence.ProcessRecorder):
    """Events and the position they came from, in one transaction."""

    def _event_table(self, purpose: str) -> EventTable:
        table = super()._event_table(purpose)
        table.tracking = self.tracking
        return table


class Subscription(ListenNotifySubscription[ApplicationRecorder]):
    """The library's subscription, made to last: an error of the database is waited out instead of
    ending it, and once a second it looks without having been woken."""

    def __init__(
        self, recorder: ApplicationRecorder, gt: int | None, topics: Sequence[str]
    ) -> None:
        super().__init__(recorder, gt, topics)
        recorder.wakeups.listen(self._has_been_notified)

    def stop(self) -> None:
        super().stop()
        self._recorder.wakeups.unlisten(self._has_been_notified)

    def _loop_on_pull(self) -> None:
        try:
            while not self._has_been_stopped:
                with suppress(OperationalError, ShutDown):
                    self._pull()
                self._has_been_notified.wait(POLL_SECONDS)
        except BaseException as error:  # noqa: BLE001 - raised where the subscriber iterates
            self._thread_error = error
            self.stop()

    def _pull(self) -> None:
        """Passes on everything up to the head, which it reads first: events of other topics are
        then looked through once and not again at each wake-up."""
        self._has_been_notified.clear()
        newest = self._recorder.max_notification_id() or 0
        while (last := self._last_notification_id or 0) < newest and not self._has_been_stopped:
            page = self._recorder.select_notifications(
                last, self._select_limit, newest, self._topics, inclusive_of_start=False
            )
            if page:
                self._notifications_queue.put(page)
            is_last_page = len(page) < self._select_limit
            self._last_notification_id = newest if is_last_page else page[-1].id


class Factory(InfrastructureFactory[TrackingRecorder]):
    """Makes the recorders of one application.

    Environment: LAPSE_DATABASE_URL; CREATE_TABLE (default yes); ORIGINATOR_ID_TYPE, `uuid`
    (default) or `text`. Raises OSError when one of them is missing or wrong.
    """

    DATABASE_URL = "LAPSE_DATABASE_URL"
    ORIGINATOR_ID_TYPE = "ORIGINATOR_ID_TYPE"
    CREATE_TABLE = "CREATE_TABLE"

    aggregate_recorder_class = AggregateRecorder
    application_recorder_class = ApplicationRecorder
    tracking_recorder_class = TrackingRecorder
    process_recorder_class = ProcessRecorder

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        url = self.env.get(self.DATABASE_URL)
        if not url:
            keys = ", ".join(self.env.create_keys(self.DATABASE_URL))
            raise OSError(f"Database URL not found in environment with keys: {keys}")
        self._originator_id_type = (self.env.get(self.ORIGINATOR_ID_TYPE) or "uuid").lower()
        if self._originator_id_type not in ("uuid", "text"):
            raise OSError(f"{self.ORIGINATOR_ID_TYPE} must be 'uuid' or 'text'")
        try:
            self._name = checked_name(self.env.name.lower() or "stored")
            self.engines = open_engines(url)
        except ValueError as error:
            raise OSError(str(error)) from None
        self._recorders: WeakSet[Recorder] = WeakSet()

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        return self._made(
            self.aggregate_recorder_class(
                self.engines, self._name, self._originator_id_type, purpose
            )
        )

    def application_recorder(self) -> ApplicationRecorder:
        recorder_class = self._recorder_class(
            self.APPLICATION_RECORDER_TOPIC, self.application_recorder_class
        )
        return self._made(recorder_class(self.engines, self._name, self._originator_id_type))

    def tracking_recorder(
        self, tracking_recorder_class: type[TrackingRecorder] | None = None
    ) -> TrackingRecorder:
        recorder_class = tracking_recorder_class or self._recorder_class(
            self.TRACKING_RECORDER_TOPIC, self.tracking_recorder_class
        )
        return self._made(recorder_class(self.engines, self._name, self._originator_id_type))

    def process_recorder(self) -> ProcessRecorder:
        recorder_class = self._recorder_class(
            self.PROCESS_RECORDER_TOPIC, self.process_recorder_class
        )
        return self._made(recorder_class(self.engines, self._name, self._originator_id_type))

    def close(self) -> None:
        """Finish what was accepted, end every thread, close every connection."""
        for recorder in tuple(self._recorders):
            recorder.close()
        self.engines.close()

    def _recorder_class(self, topic_key: str, default: type[AnyRecorder]) -> type[AnyRecorder]:
        topic = self.env.get(topic_key)
        if not topic:
            return default
        recorder_class = resolve_topic(topic)
        if not issubclass(recorder_class, default):
            raise OSError(f"{topic_key} must name a subclass of {default.__name__}")
        return cast("type[AnyRecorder]", recorder_class)

    def _made(self, recorder: AnyRecorder) -> AnyRecorder:
        if strtobool(self.env.get(self.CREATE_TABLE) or "yes"):
            recorder.create_table()
        self._recorders.add(recorder)
        return recorder


@contextmanager
def library_errors() -> Iterator[None]:
    try:
        yield
    except (StoreError, SQLAlchemyError) as error:
        raise library_error(error) from error


def library_error(error: StoreError | SQLAlchemyError) -> PersistenceError:
    """The library's error for one of ours or of SQLAlchemy; the names of both are PEP 249's."""
    if isinstance(error, StoreError):
        return OperationalError(str(error))
    kind: type[PersistenceError] = getattr(persistence, type(error).__name__, PersistenceError)
    return kind("the database refused this")
