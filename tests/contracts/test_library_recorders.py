"""The `eventsourcing` library's own test cases, unaltered, on our recorders and both databases.

What they miss comes after them: many writing processes beside a tailing reader, conflicts within
one batch, two instances that process the same position, a server that ends sessions.
"""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psycopg2
import pytest
from eventsourcing.persistence import (
    InfrastructureFactory,
    IntegrityError,
    Notification,
    OperationalError,
    StoredEvent,
    Tracking,
)
from eventsourcing.tests import application as application_cases
from eventsourcing.tests import persistence as recorder_cases
from eventsourcing.tests import projection as projection_cases
from eventsourcing.utils import Environment, get_topic
from sqlalchemy import BigInteger, Column, Table, Text, select, text

from adapters.log.event_table import Insertion
from adapters.log.recorder import (
    AggregateRecorder,
    ApplicationRecorder,
    Factory,
    ProcessRecorder,
    TrackingRecorder,
)
from tests.contracts.writers import append_from_processes
from tests.servers import PostgresServer

Runner = TypeVar("Runner")


def create_factory(url: str, name: str = "tested", **environment: str) -> Factory:
    return Factory(Environment(name, {"LAPSE_DATABASE_URL": url, **environment}))


class OurRecorders:
    """A fresh database, named in the environment as an application would find it."""

    url: str

    def use(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = url
        monkeypatch.setenv("PERSISTENCE_MODULE", "adapters.log")
        monkeypatch.setenv("LAPSE_DATABASE_URL", url)


class OnSQLite(OurRecorders):
    @pytest.fixture(autouse=True)
    def sqlite(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.use(f"sqlite:///{tmp_path / 'library.db'}", monkeypatch)
        yield
        close_what_the_library_left_open()


class OnPostgreSQL(OurRecorders):
    @pytest.fixture(autouse=True)
    def postgresql(
        self, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        url = postgres_server.create_database()
        self.use(url, monkeypatch)
        yield
        close_what_the_library_left_open()
        postgres_server.drop_database(url)


def close_what_the_library_left_open() -> None:
    """Its test cases rarely close what they make."""
    for thing in gc.get_objects():
        if type(thing) is Factory:
            thing.close()


# -- the library's cases: recorders -----------------------------------------------------------


class MakesAggregateRecorders(OurRecorders):
    def create_recorder(self) -> AggregateRecorder:
        return create_factory(self.url).aggregate_recorder()


class MakesApplicationRecorders(OurRecorders):
    def create_recorder(self) -> ApplicationRecorder:
        return create_factory(self.url).application_recorder()


class MakesTrackingRecorders(OurRecorders):
    def create_recorder(self) -> TrackingRecorder:
        return create_factory(self.url).tracking_recorder()


class MakesProcessRecorders(OurRecorders):
    def create_recorder(self) -> ProcessRecorder:
        return create_factory(self.url).process_recorder()


class TestAggregateRecorderOnSQLite(
    OnSQLite, MakesAggregateRecorders, recorder_cases.AggregateRecorderTestCase
):
    pass


class TestAggregateRecorderOnPostgreSQL(
    OnPostgreSQL, MakesAggregateRecorders, recorder_cases.AggregateRecorderTestCase
):
    pass


class TestApplicationRecorderOnSQLite(
    OnSQLite,
    MakesApplicationRecorders,
    recorder_cases.ApplicationRecorderTestCase[ApplicationRecorder],
):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationRecorderOnPostgreSQL(
    OnPostgreSQL,
    MakesApplicationRecorders,
    recorder_cases.ApplicationRecorderTestCase[ApplicationRecorder],
):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestNonInterleavingOnSQLite(
    OnSQLite, MakesApplicationRecorders, recorder_cases.NonInterleavingNotificationIDsBaseCase
):
    pass


class TestNonInterleavingOnPostgreSQL(
    OnPostgreSQL, MakesApplicationRecorders, recorder_cases.NonInterleavingNotificationIDsBaseCase
):
    pass


class TestTrackingRecorderOnSQLite(
    OnSQLite, MakesTrackingRecorders, recorder_cases.TrackingRecorderTestCase
):
    pass


class TestTrackingRecorderOnPostgreSQL(
    OnPostgreSQL, MakesTrackingRecorders, recorder_cases.TrackingRecorderTestCase
):
    pass


class TestProcessRecorderOnSQLite(
    OnSQLite, MakesProcessRecorders, recorder_cases.ProcessRecorderTestCase
):
    pass


class TestProcessRecorderOnPostgreSQL(
    OnPostgreSQL, MakesProcessRecorders, recorder_cases.ProcessRecorderTestCase
):
    pass


# -- the library's cases: factory, applications, projections ----------------------------------


class ViewForFactory(TrackingRecorder):
    pass


class ExpectsOurClasses(OurRecorders):
    def setUp(self) -> None:
        self.env = Environment("tested", {})
        self.env[InfrastructureFactory.PERSISTENCE_MODULE] = "adapters.log"
        self.env[Factory.DATABASE_URL] = self.url
        super().setUp()  # type: ignore[misc]

    def expected_factory_class(self) -> type[Factory]:
        return Factory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return AggregateRecorder

    def expected_application_recorder_class(self) -> type[ApplicationRecorder]:
        return ApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return TrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return ViewForFactory

    def expected_process_recorder_class(self) -> type[ProcessRecorder]:
        return ProcessRecorder


class TestFactoryOnSQLite(
    OnSQLite, ExpectsOurClasses, recorder_cases.InfrastructureFactoryTestCase[Factory]
):
    pass


class TestFactoryOnPostgreSQL(
    OnPostgreSQL, ExpectsOurClasses, recorder_cases.InfrastructureFactoryTestCase[Factory]
):
    pass


class TestExampleApplicationOnSQLite(OnSQLite, application_cases.ExampleApplicationTestCase):
    expected_factory_topic = get_topic(Factory)


class TestExampleApplicationOnPostgreSQL(
    OnPostgreSQL, application_cases.ExampleApplicationTestCase
):
    expected_factory_topic = get_topic(Factory)


class EventCounters(TrackingRecorder, projection_cases.EventCountersView):
    """The library's example of a materialised view: two counters and a position."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counters = Table(
            f"{self.name}_counters",
            self.metadata,
            Column("kind", Text, primary_key=True),
            Column("events", BigInteger, nullable=False),
        )

    def get_created_event_counter(self) -> int:
        return self._count("created")

    def get_subsequent_event_counter(self) -> int:
        return self._count("subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._increment("created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._increment("subsequent", tracking)

    def _count(self, kind: str) -> int:
        query = select(self.counters.c.events).where(self.counters.c.kind == kind)
        with self.engines.read() as connection:
            return connection.execute(query).scalar() or 0

    def _increment(self, kind: str, tracking: Tracking) -> None:
        upsert = text(
            f'INSERT INTO "{self.counters.name}" AS c (kind, events) VALUES (:kind, 1) '
            "ON CONFLICT (kind) DO UPDATE SET events = c.events + 1"
        )
        with self.engines.write() as connection:
            connection.execute(upsert, {"kind": kind})
            self.advance(connection, tracking)


class MakesEventCounters(OurRecorders):
    def construct_event_counters_view(self) -> EventCounters:
        view = create_factory(self.url).tracking_recorder(EventCounters)
        assert isinstance(view, EventCounters)
        return view


class TestEventCountersViewOnSQLite(
    OnSQLite, MakesEventCounters, projection_cases.EventCountersViewTestCase
):
    pass


class TestEventCountersViewOnPostgreSQL(
    OnPostgreSQL, MakesEventCounters, projection_cases.EventCountersViewTestCase
):
    pass


class TestEventCountersProjectionOnSQLite(
    OnSQLite, projection_cases.AggregateEventCountersProjectionTestCase
):
    view_class = EventCounters


class TestEventCountersProjectionOnPostgreSQL(
    OnPostgreSQL, projection_cases.AggregateEventCountersProjectionTestCase
):
    view_class = EventCounters


class TestEventSourcedProjectionOnSQLite(OnSQLite, projection_cases.EventSourcedProjectionTestCase):
    pass


class TestEventSourcedProjectionOnPostgreSQL(
    OnPostgreSQL, projection_cases.EventSourcedProjectionTestCase
):
    pass


# -- what they miss ---------------------------------------------------------------------------


@pytest.fixture
def factory(database_url: str) -> Iterator[Factory]:
    with closing(create_factory(database_url)) as factory:
        yield factory


@pytest.fixture
def recorder(factory: Factory) -> ApplicationRecorder:
    return factory.application_recorder()


def event(version: int = 1, *, of: Any = None) -> StoredEvent:
    return StoredEvent(of or uuid4(), version, "happened", b"state")


def positions_of(recorder: ApplicationRecorder) -> list[int]:
    return [notification.id for notification in recorder.select_notifications(1, 1_000_000)]


@pytest.mark.row("G1")
def test_a_reader_beside_sixteen_writing_processes_misses_and_reorders_nothing(
    database_url: str, factory: Factory, recorder: ApplicationRecorder
) -> None:
    """Whatever commits late or rolls back, the reader sees each acknowledged event once, in order
    of position, and no position is ever skipped."""
    writing = append_from_processes(database_url, "tested", writers=16, appends=40, seed=20261122)
    seen: list[Notification] = []
    with writing:
        while True:
            ended = writing.poll() is not None
            page = recorder.select_notifications(len(seen), 500, inclusive_of_start=False)
            assert [n.id for n in page] == list(range(len(seen) + 1, len(seen) + len(page) + 1))
            seen += page
            if ended and not page:
                break
        assert writing.stdout is not None
        lines = [list(map(int, line.split())) for line in writing.stdout]
    assert writing.returncode == 0
    assert len(lines) == 16 * 40
    assert sorted(position for _, *positions in lines for position in positions) == [
        notification.id for notification in seen
    ]
    versions: dict[Any, int] = {}
    for notification in seen:
        assert notification.originator_version == versions.get(notification.originator_id, 0) + 1
        versions[notification.originator_id] = notification.originator_version


@pytest.mark.row("G1")
def test_a_conflict_refuses_only_its_own_call_and_leaves_no_gap(
    recorder: ApplicationRecorder,
) -> None:
    """In one batch: a stale version, the same event twice in a call, and in two calls."""
    known, wanted, other = uuid4(), uuid4(), uuid4()
    recorder.insert_events([event(1, of=known)])
    batch = [
        [event(1, of=other)],
        [event(2, of=known), event(1, of=known)],
        [event(1, of=wanted), event(2, of=wanted)],
        [event(2, of=wanted)],
        [event(2, of=other), event(2, of=other)],
        [event(2, of=known)],
    ]
    answers = recorder.table.append(
        [Insertion([recorder.table.row(one) for one in call]) for call in batch]
    )
    refused = [isinstance(answer, IntegrityError) for answer in answers]
    assert refused == [False, True, False, True, True, False]
    assert [answers[0], answers[2], answers[5]] == [[2], [3, 4], [5]]
    assert recorder.insert_events([event()]) == [6]
    assert positions_of(recorder) == [1, 2, 3, 4, 5, 6]


@pytest.mark.row("G1")
@pytest.mark.parametrize("size", [1, 300], ids=["small", "copied"])
def test_positions_are_gapless_after_conflicts_between_threads(
    recorder: ApplicationRecorder, size: int
) -> None:
    """Eight authors fight for the same aggregates: each version is won once, and what the losers
    asked for left no trace among the positions."""
    contested = [uuid4() for _ in range(10)]

    def fight(author: int) -> list[int]:
        won: list[int] = []
        for aggregate in contested:
            own = [event(version) for version in range(2, size + 1)]
            try:
                won += recorder.insert_events([*own, event(1, of=aggregate)]) or []
            except IntegrityError:
                won += recorder.insert_events([event()]) or []
        return won

    with ThreadPoolExecutor(8) as authors:
        won = [position for positions in authors.map(fight, range(8)) for position in positions]
    expected = 10 * size + 70
    assert sorted(won) == list(range(1, expected + 1)) == positions_of(recorder)


@pytest.mark.parametrize("size", [1, 300], ids=["small", "copied"])
def test_a_value_the_database_cannot_hold_harms_only_its_own_call(
    recorder: ApplicationRecorder, size: int
) -> None:
    """Even when the batch meets a conflict as well."""
    known = uuid4()
    recorder.insert_events([event(1, of=known)])
    batch = [
        [event(version) for version in range(1, size + 1)],
        [event(2**70)],
        [event(1, of=known)],
        [event(None)],  # type: ignore[arg-type]
        [event()],
    ]
    answers = recorder.table.append(
        [Insertion([recorder.table.row(one) for one in call]) for call in batch]
    )
    refused = [isinstance(answer, Exception) for answer in answers]
    assert refused == [False, True, True, True, False]
    assert answers[0] == list(range(2, size + 2))
    assert answers[4] == [size + 2]
    assert positions_of(recorder) == list(range(1, size + 3))


@pytest.mark.row("G2")
def test_of_two_instances_tracking_the_same_position_exactly_one_wins(database_url: str) -> None:
    """Two instances of a projection process the same events at the same time."""
    with closing(create_factory(database_url)) as one, closing(create_factory(database_url)) as two:
        recorders = [one.tracking_recorder(), two.tracking_recorder()]

        def track(recorder: TrackingRecorder, position: int) -> None:
            recorder.insert_tracking(Tracking("upstream", position))

        won = race(recorders, track)
    assert won == [1] * 50


@pytest.mark.row("G2")
def test_of_two_instances_processing_the_same_event_exactly_one_records_its_own(
    database_url: str,
) -> None:
    """The loser's events are not recorded either."""
    with closing(create_factory(database_url)) as one, closing(create_factory(database_url)) as two:
        recorders = [one.process_recorder(), two.process_recorder()]

        def record(recorder: ProcessRecorder, position: int) -> None:
            recorder.insert_events([event()], tracking=Tracking("upstream", position))

        won = race(recorders, record)
        assert won == [1] * 50
        assert positions_of(recorders[0]) == list(range(1, 51))


def race(
    runners: Sequence[Runner], run_once: Callable[[Runner, int], None], rounds: int = 50
) -> list[int]:
    """How many runners got through, per round; all start each round together."""
    start = threading.Barrier(len(runners))

    def run(runner: Runner) -> list[bool]:
        got_through = []
        for number in range(1, rounds + 1):
            start.wait()
            try:
                run_once(runner, number)
            except IntegrityError:
                got_through.append(False)
            else:
                got_through.append(True)
        return got_through

    with ThreadPoolExecutor(len(runners)) as threads:
        results = list(threads.map(run, runners))
    return [sum(results_of_round) for results_of_round in zip(*results, strict=True)]


def test_several_stale_and_fresh_positions_in_one_batch(factory: Factory) -> None:
    """Each call is judged in the order it was made; a refused call's events are not recorded."""
    recorder = factory.process_recorder()
    known = uuid4()
    recorder.insert_events([event(1, of=known)], tracking=Tracking("a", 5))
    row = recorder.table.row
    answers = recorder.table.append(
        [
            Insertion([row(event())], Tracking("a", 6)),
            Insertion([row(event())], Tracking("a", 6)),
            Insertion([row(event(1, of=known))], Tracking("b", 9)),
            Insertion([row(event())], Tracking("b", 3)),
            Insertion([], Tracking("a", 7)),
        ]
    )
    assert [isinstance(answer, IntegrityError) for answer in answers] == [
        *(False, True, True, False, False)
    ]
    assert recorder.max_tracking_id("a") == 7
    assert recorder.max_tracking_id("b") == 3
    assert positions_of(recorder) == [1, 2, 3]


def test_a_subscription_in_another_instance_is_woken(database_url: str) -> None:
    """Reader and writer share nothing but the database."""
    with closing(create_factory(database_url)) as one, closing(create_factory(database_url)) as two:
        writer, reader = one.application_recorder(), two.application_recorder()
        with reader.subscribe(topics=["wanted"]) as subscription:
            wanted = StoredEvent(uuid4(), 1, "wanted", b"")
            for _ in range(3):
                writer.insert_events([event(), wanted])
                assert next(subscription).originator_id == wanted.originator_id
                wanted = StoredEvent(uuid4(), 1, "wanted", b"")


def test_a_subscription_survives_the_loss_of_every_session(
    postgres_server: PostgresServer,
) -> None:
    """The library's own ends for good when the server ends its session."""
    url = postgres_server.create_database()
    with closing(create_factory(url)) as factory:
        recorder = factory.application_recorder()
        with recorder.subscribe() as subscription:
            recorder.insert_events([event()])
            assert next(subscription).id == 1
            for position in (2, 3):
                with factory.engines.read(), factory.engines.read(), factory.engines.read():
                    pass  # so that several idle connections are lost, not one
                end_sessions(url)
                recorder.insert_events([event()])
                assert next(subscription).id == position
            end_sessions(url)
            recorder.insert_events([event() for _ in range(200)])
            assert next(subscription).id == 4
        assert len(positions_of(recorder)) == 203
    postgres_server.drop_database(url)


def end_sessions(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_text_ids_are_kept_as_they_are(database_url: str) -> None:
    """ORIGINATOR_ID_TYPE=text."""
    awkward = 'it\'s "quoted" \\ and {braced}, über'
    with closing(create_factory(database_url, ORIGINATOR_ID_TYPE="text")) as factory:
        recorder = factory.application_recorder()
        stored = StoredEvent(awkward, 1, awkward, b"\x00\\'\"")
        recorder.insert_events([stored])
        recorder.insert_events([StoredEvent(awkward, v, awkward, b"") for v in range(2, 202)])
        assert recorder.select_events(awkward, lte=1) == [stored]
        notification = recorder.select_notifications(1, 1)[0]
        assert (notification.originator_id, notification.topic) == (awkward, awkward)
        with pytest.raises(IntegrityError):
            recorder.insert_events([stored])


def test_tables_exist_before_use_when_they_are_not_to_be_created(database_url: str) -> None:
    """CREATE_TABLE=no: what is missing is named, not made."""
    with closing(create_factory(database_url, CREATE_TABLE="no")) as factory:
        recorder = factory.application_recorder()
        with pytest.raises(OperationalError if "sqlite" in database_url else Exception):
            recorder.insert_events([event()])


def test_closing_leaves_no_thread_behind(database_url: str) -> None:
    """Not of the committer, nor of wake-ups, nor of a subscription nobody stopped."""
    before = set(threading.enumerate())
    factory = create_factory(database_url)
    recorder = factory.application_recorder()
    subscription = recorder.subscribe()
    recorder.insert_events([event()])
    assert next(subscription).id == 1
    factory.close()
    subscription._pull_thread.join(5)  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
    with pytest.raises(OperationalError):
        recorder.insert_events([event()])
    with pytest.raises(OperationalError):
        recorder.select_notifications(1, 1)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LAPSE_DATABASE_URL": "mysql://user:secret@host/database"},
        {"LAPSE_DATABASE_URL": "postgresql://user:secret@host:secret/database"},
        {"LAPSE_DATABASE_URL": "sqlite:///x.db", "ORIGINATOR_ID_TYPE": "int"},
    ],
    ids=["no url", "other database", "unreadable", "id type"],
)
def test_a_wrong_environment_is_refused_without_showing_secrets(
    environment: dict[str, str],
) -> None:
    with pytest.raises(OSError, match=r"LAPSE_DATABASE_URL|URL|ORIGINATOR_ID_TYPE") as refusal:
        Factory(Environment("tested", environment))
    assert "secret" not in str(refusal.value)


def test_a_name_that_cannot_be_part_of_a_table_name_is_refused() -> None:
    with pytest.raises(OSError, match="cannot name tables"):
        create_factory("sqlite:///x.db", name='x"; DROP TABLE')
