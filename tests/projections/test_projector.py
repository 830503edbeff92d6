"""The projector: every event counts once, whatever happens meanwhile."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from sqlalchemy import event, select, update
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from adapters.log.schema import events as log_events
from adapters.projector import (
    FIRST_BACK_OFF,
    LONGEST_BACK_OFF,
    ProjectionFailed,
    ProjectionUnknown,
    State,
)
from domain.errors import StoreUnavailable
from domain.policy import SECOND
from domain.ports import Recorded
from domain.session import SCHEDULER, Created, Event, Expired, Seen
from projections.audit import AUDIT
from projections.catalogue import PROJECTIONS
from projections.tables import Projection, projection_positions, projections
from projections.usage import USAGE
from tests.projections.histories import (
    TIMEOUT,
    Lapse,
    clock,
    lapse_on,
    running,
    statements_counted,
)
from tests.servers import PostgresServer, wait_until

ROOM = "room"
BAD = "bad-session"
"""A session whose events the broken projection cannot handle."""


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def lapse(database_url: str) -> Iterator[Lapse]:
    with lapse_on(database_url) as lapse:
        yield lapse


def life(session_id: str) -> tuple[Event, ...]:
    at = clock("10:00")
    return (
        Created(session_id, 1, at, ROOM, "app", 1),
        Seen(session_id, 2, at + 60 * SECOND, ROOM, "app"),
        Expired(session_id, 3, at + 90 * SECOND, ROOM, SCHEDULER, "idle", 1, at + 60 * SECOND),
    )


def lives(lapse: Lapse, first: int, last: int) -> None:
    """Three events for each of these sessions."""
    names = [f"s{number:05}" for number in range(first, last)]
    lapse.append([(name, life(name)) for name in names])


def rows(lapse: Lapse, projection: Projection) -> list[dict[str, Any]]:
    """What is served, without the number of the generation."""
    table = projection.table
    columns = [column for column in table.c if column.name != "generation"]
    served = select(projections.c.serving).where(projections.c.name == projection.name)
    query = select(*columns).where(table.c.generation == served.scalar_subquery())
    with lapse.reading() as connection:
        found = connection.execute(query.order_by(*table.primary_key)).fetchall()
    return [dict(row._mapping) for row in found]


def generations(lapse: Lapse, projection: Projection) -> list[int]:
    """The generations that have rows."""
    query = select(projection.table.c.generation).distinct()
    with lapse.reading() as connection:
        return sorted(connection.execute(query).scalars())


def audited(lapse: Lapse) -> list[int]:
    """The positions in the audit trail."""
    return sorted(row["position"] for row in rows(lapse, AUDIT))


def counted(lapse: Lapse) -> dict[str, int]:
    """Usage by event, over everything."""
    return {row["event"]: row["count"] for row in rows(lapse, USAGE)}


def ignored(_position: int, _head: int) -> None:
    """For those who do not look at the progress."""


# -- catching up ------------------------------------------------------------------------------


def test_everything_in_the_log_is_shown_once(lapse: Lapse) -> None:
    """Catching up handles each event; doing it again handles none."""
    lives(lapse, 0, 10)
    assert lapse.projector.catch_up(batch=7) == 30
    assert lapse.projector.catch_up() == 0
    assert audited(lapse) == list(range(1, 31))
    assert counted(lapse) == {"session.created": 10, "session.expired": 10, "session.seen": 10}


def test_an_empty_log_is_no_work(lapse: Lapse) -> None:
    """There may be nothing yet."""
    assert lapse.projector.catch_up() == 0
    lag = lapse.projector.lag()
    assert {name: one.state for name, one in lag.items()} == {
        "audit": State.CURRENT,
        "usage": State.CURRENT,
    }


def test_progress_is_told_up_to_the_head(lapse: Lapse) -> None:
    """A progress bar sees where it stands after each batch."""
    lives(lapse, 0, 4)
    told: list[tuple[int, int]] = []
    lapse.projector.catch_up(lambda position, head: told.append((position, head)), batch=5)
    assert told == [(5, 12), (10, 12), (12, 12)]


def test_the_statements_of_a_batch_do_not_grow_with_its_events(lapse: Lapse) -> None:
    """No query per event."""
    lapse.projector.catch_up()

    def statements(events: int) -> int:
        before = lapse.log.head() // 3
        lives(lapse, before, before + events // 3)
        with statements_counted() as seen:
            assert lapse.projector.catch_up() == events
        return len(seen)

    assert statements(1_500) == statements(3)


def test_projections_that_stand_together_read_the_log_once(
    lapse: Lapse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass over the log feeds them all; who is behind catches up to the others first."""
    lives(lapse, 0, 4)
    replaced(lapse, [AUDIT]).catch_up()
    lives(lapse, 4, 8)
    reads: list[tuple[int, int]] = []
    read = lapse.log.read

    def noted(after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
        found = read(after, limit, upto)
        reads.append((after, len(found)))
        return found

    monkeypatch.setattr(lapse.log, "read", noted)
    lapse.projector.catch_up(batch=100)
    # Usage reads up to where audit stood, while audit goes on; then they are together.
    assert reads == [(0, 12), (12, 12), (12, 12), (24, 0), (24, 0)]
    reads.clear()
    lives(lapse, 8, 12)
    lapse.projector.catch_up(batch=100)
    assert reads == [(24, 12), (36, 0)]


def replaced(lapse: Lapse, catalogue: Sequence[Projection]) -> Any:
    """Another projector on the same database, with another catalogue."""
    kind = type(lapse.projector)
    return kind(lapse.engines, lapse.log, catalogue, lapse.clock)


# -- several at once --------------------------------------------------------------------------


def test_two_projectors_at_once_count_each_event_once(database_url: str) -> None:
    """Two processes race for every batch."""
    with lapse_on(database_url) as one, lapse_on(database_url, create=False) as other:
        lives(one, 0, 200)
        both = threading.Barrier(2)

        def catch_up(lapse: Lapse) -> int:
            both.wait(TIMEOUT)
            return lapse.projector.catch_up(batch=20)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(catch_up, [one, other]))
        assert audited(one) == list(range(1, 601))
        assert set(counted(one).values()) == {200}


def test_of_two_that_read_the_same_batch_one_writes_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the events in hand before either writes; the loser skips them."""
    with lapse_on(database_url) as one, lapse_on(database_url, create=False) as other:
        lives(one, 0, 10)
        both = threading.Barrier(2)

        def meet(lapse: Lapse) -> None:
            read = lapse.log.read
            met: list[bool] = []

            def reading(after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
                found = read(after, limit, upto)
                if not met:
                    met.append(True)
                    both.wait(TIMEOUT)
                return found

            monkeypatch.setattr(lapse.log, "read", reading)

        meet(one)
        meet(other)
        with ThreadPoolExecutor(2) as pool:
            handled = list(pool.map(lambda lapse: lapse.projector.catch_up(), [one, other]))
        # Either may win each of the two projections, so both may have handled the batch.
        assert max(handled) == 30
        assert audited(one) == list(range(1, 31))
        assert set(counted(one).values()) == {10}


# -- rebuilding -------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)
def test_a_rebuild_gives_what_is_served(lapse: Lapse, projection: Projection) -> None:
    """From zero, beside the served rows, then instead of them."""
    lives(lapse, 0, 50)
    lapse.projector.catch_up(batch=40)
    served = rows(lapse, projection)
    told: list[tuple[int, int]] = []
    lapse.projector.rebuild(
        projection.name, lambda position, head: told.append((position, head)), batch=60
    )
    assert rows(lapse, projection) == served
    assert generations(lapse, projection) == [2]
    assert told == [(60, 150), (120, 150), (150, 150), (150, 150)]
    lives(lapse, 50, 51)
    assert lapse.projector.catch_up() == 3
    assert len(audited(lapse)) == 153


def test_a_rebuild_repairs_what_was_damaged(lapse: Lapse) -> None:
    """Rows that somebody changed are made anew from the log."""
    lives(lapse, 0, 5)
    lapse.projector.catch_up()
    sound = rows(lapse, USAGE)
    with lapse.engines.write() as connection:
        connection.execute(update(USAGE.table).values(count=99))
    lapse.projector.rebuild("usage", ignored)
    assert rows(lapse, USAGE) == sound


def test_a_killed_rebuild_goes_on_where_it_was(lapse: Lapse) -> None:
    """The served rows are followed meanwhile, and are served until the rebuild is complete."""
    lives(lapse, 0, 50)
    lapse.projector.catch_up()

    def killed(position: int, _head: int) -> None:
        if position >= 60:
            raise Killed

    with pytest.raises(Killed):
        lapse.projector.rebuild("audit", killed, batch=30)
    assert generations(lapse, AUDIT) == [1, 2]
    assert lapse.projector.lag()["audit"].building == 60

    lives(lapse, 50, 60)
    lapse.projector.catch_up()
    assert audited(lapse) == list(range(1, 181))

    told: list[int] = []
    again = replaced(lapse, PROJECTIONS)
    again.rebuild("audit", lambda position, head: told.append(position), batch=30)
    assert told[0] == 90
    assert audited(lapse) == list(range(1, 181))
    assert generations(lapse, AUDIT) == [2]
    assert lapse.projector.lag()["audit"].building is None


def test_a_kill_right_after_the_switch_leaves_nothing_wrong(
    lapse: Lapse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old rows are still there, but nobody reads them; the next start removes them."""
    lives(lapse, 0, 50)
    lapse.projector.catch_up()

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(lapse.projector, "_clear_some", killed)
        with pytest.raises(Killed):
            lapse.projector.rebuild("audit", ignored)
    assert generations(lapse, AUDIT) == [1, 2]
    assert audited(lapse) == list(range(1, 151))

    with running(lapse):
        wait_until(lambda: generations(lapse, AUDIT) == [2], TIMEOUT, "the old rows to go")
    assert audited(lapse) == list(range(1, 151))


def test_old_rows_go_in_bounded_transactions(lapse: Lapse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large table is not deleted in one transaction."""
    monkeypatch.setattr("adapters.projector.CLEARED_AT_ONCE", 40)
    lives(lapse, 0, 50)
    lapse.projector.catch_up()
    with statements_counted() as statements:
        lapse.projector.rebuild("audit", ignored)
    deletions = [one for one in statements if one.startswith("DELETE FROM audit")]
    assert len(deletions) == 150 // 40 + 2
    assert generations(lapse, AUDIT) == [2]


def test_who_read_before_the_switch_writes_nothing_after_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow process must not fill a generation that was dropped."""
    with lapse_on(database_url) as slow, lapse_on(database_url, create=False) as quick:
        lives(slow, 0, 10)
        slow.projector.catch_up()
        lives(slow, 10, 20)
        read = slow.log.read

        def overtaken(after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
            found = read(after, limit, upto)
            monkeypatch.setattr(slow.log, "read", read)
            quick.projector.rebuild("audit", ignored)
            quick.projector.rebuild("usage", ignored)
            return found

        monkeypatch.setattr(slow.log, "read", overtaken)
        slow.projector.catch_up()
        assert generations(slow, AUDIT) == generations(slow, USAGE) == [2]
        assert audited(slow) == list(range(1, 61))
        assert set(counted(slow).values()) == {20}


def test_a_rebuild_never_shows_less_than_before(
    lapse: Lapse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was served meanwhile is caught up with before the switch."""
    lives(lapse, 0, 10)
    lapse.projector.catch_up()
    read = lapse.log.read
    other = replaced(lapse, PROJECTIONS)

    def overtaken(after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
        found = read(after, limit, upto)
        if not found:  # the rebuild is about to switch: the log grows, another process follows
            monkeypatch.setattr(lapse.log, "read", read)
            lives(lapse, 10, 12)
            other.catch_up()
        return found

    monkeypatch.setattr(lapse.log, "read", overtaken)
    told: list[int] = []
    lapse.projector.rebuild("audit", lambda position, head: told.append(position))
    assert audited(lapse) == list(range(1, 37))
    assert told == [30, 30, 36, 36]


def test_a_rebuild_beside_writers_and_followers_loses_nothing(database_url: str) -> None:
    """One process writes, one follows, one rebuilds, again and again."""
    with lapse_on(database_url) as writing, lapse_on(database_url, create=False) as rebuilding:
        lives(writing, 0, 50)
        with running(writing), ThreadPoolExecutor(1) as pool:
            writes = [pool.submit(lives, writing, at, at + 1) for at in range(50, 80)]
            for _ in range(3):
                rebuilding.projector.rebuild("audit", ignored, batch=40)
                rebuilding.projector.rebuild("usage", ignored, batch=40)
            for write in writes:
                write.result(TIMEOUT)
        rebuilding.projector.catch_up()
        assert audited(writing) == list(range(1, 241))
        assert set(counted(writing).values()) == {80}
        assert generations(writing, AUDIT) == [4]


def test_what_is_not_in_the_catalogue_cannot_be_rebuilt(lapse: Lapse) -> None:
    """The refusal lists what could be."""
    with pytest.raises(ProjectionUnknown, match="audit, usage"):
        lapse.projector.rebuild("nonsense", ignored)


# -- events that cannot be handled ------------------------------------------------------------


def broken_rows(generation: int, events: Sequence[Recorded]) -> list[tuple[Any, ...]]:
    if any(recorded.event.originator_id == BAD for recorded in events):
        raise ZeroDivisionError("a mistake that names a secret")
    return AUDIT.rows(generation, events)


BROKEN = replace(AUDIT, rows=broken_rows)


def test_a_projection_with_a_mistake_stops_alone_right_before_the_event(
    database_url: str,
) -> None:
    """The others go on; where it stopped, and since when, is shown to every process."""
    with lapse_on(database_url, [BROKEN, USAGE]) as lapse:
        lives(lapse, 0, 10)
        lapse.append([(BAD, life(BAD))])
        lives(lapse, 10, 20)
        with capture_logs() as logs:
            lapse.projector.catch_up()
        assert audited(lapse) == list(range(1, 31))
        assert set(counted(lapse).values()) == {21}
        lag = replaced(lapse, PROJECTIONS).lag()
        assert (lag["audit"].state, lag["audit"].position) == (State.FAILED, 30)
        assert lag["audit"].failed_at == lapse.clock.now
        assert lag["audit"].failure == "ZeroDivisionError"
        assert lag["audit"].events_behind == 33
        assert lag["usage"].state is State.CURRENT
        (told,) = [entry for entry in logs if entry["result"] == "failed"]
        assert (told["component"], told["operation"]) == ("projector", "handle")
        assert (told["projection"], told["position"]) == ("audit", 31)
        assert "secret" not in str(logs)


def test_a_failed_projection_is_tried_again_later_and_ever_later(database_url: str) -> None:
    """Its pauses double up to five minutes."""
    with lapse_on(database_url, [BROKEN]) as lapse:
        lapse.append([(BAD, life(BAD))])
        assert attempts(lapse) == 1
        pause = FIRST_BACK_OFF
        for _ in range(12):
            lapse.clock.now += pause - 1
            assert attempts(lapse) == 0
            lapse.clock.now += 1
            assert attempts(lapse) == 1
            pause = min(2 * pause, LONGEST_BACK_OFF)


def attempts(lapse: Lapse) -> int:
    """How many events a projection failed at, in one round."""
    with capture_logs() as logs:
        lapse.projector.catch_up()
    return sum(entry["operation"] == "handle" for entry in logs)


def test_a_mended_projection_goes_on(database_url: str) -> None:
    """A new version of the program handles the event; nothing is doubled, nothing is missing."""
    with lapse_on(database_url, [BROKEN, USAGE]) as lapse:
        lapse.append([("s", life("s")), (BAD, life(BAD))])
        lapse.projector.catch_up()
        mended = replaced(lapse, PROJECTIONS)
        mended.catch_up()
        assert audited(lapse) == list(range(1, 7))
        assert set(counted(lapse).values()) == {2}
        assert mended.lag()["audit"].state is State.CURRENT
        assert mended.lag()["audit"].failure is None


def test_a_row_that_the_database_refuses_stops_the_projection_too(database_url: str) -> None:
    """A mistake shows in the database as well as in Python."""

    def twice(generation: int, events: Sequence[Recorded]) -> list[tuple[Any, ...]]:
        found = AUDIT.rows(generation, events)
        return found + [row for row in found if row[2] == BAD]

    with lapse_on(database_url, [replace(AUDIT, rows=twice), USAGE]) as lapse:
        lapse.append([("s", life("s")), (BAD, life(BAD))])
        lapse.projector.catch_up()
        assert audited(lapse) == [1, 2, 3]
        assert lapse.projector.lag()["audit"].failure == "IntegrityError"
        assert set(counted(lapse).values()) == {2}


def test_a_rebuild_that_meets_a_mistake_says_where_and_keeps_what_is_served(
    database_url: str,
) -> None:
    """The command fails with the position; the served rows stay."""
    with lapse_on(database_url) as lapse:
        lapse.append([("s", life("s")), (BAD, life(BAD))])
        lapse.projector.catch_up()
        with pytest.raises(ProjectionFailed) as refused:
            replaced(lapse, [BROKEN]).rebuild("audit", ignored)
        assert refused.value.position == 4
        assert audited(lapse) == list(range(1, 7))
        assert lapse.projector.lag()["audit"].state is State.CURRENT
        lapse.projector.rebuild("audit", ignored)
        assert audited(lapse) == list(range(1, 7))


def test_a_corrupt_event_is_never_passed_over(lapse: Lapse) -> None:
    """Everything before it is shown, and then nothing, until it is restored."""
    lives(lapse, 0, 4)
    with lapse.reading() as connection:
        where = log_events.c.position == 8
        query = select(log_events.c.state).where(where)
        sound = connection.execute(query).scalar_one()
    tamper(lapse, b"\xff")
    lapse.projector.catch_up()
    assert audited(lapse) == list(range(1, 8))
    lag = lapse.projector.lag()
    assert {(one.state, one.position, one.failure) for one in lag.values()} == {
        (State.FAILED, 7, "CorruptEvent")
    }
    tamper(lapse, bytes(sound))
    lapse.clock.now += FIRST_BACK_OFF
    lapse.projector.catch_up()
    assert audited(lapse) == list(range(1, 13))
    assert lapse.projector.lag()["audit"].state is State.CURRENT


def tamper(lapse: Lapse, state: bytes) -> None:
    with lapse.engines.write() as connection:
        connection.execute(update(log_events).where(log_events.c.position == 8).values(state=state))


# -- following --------------------------------------------------------------------------------


def up_to_date(lapse: Lapse) -> bool:
    """Asks again where a test has cut the connections."""
    try:
        return all(one.state is State.CURRENT for one in lapse.projector.lag().values())
    except StoreUnavailable:
        return False


def followed(lapse: Lapse) -> None:
    wait_until(lambda: up_to_date(lapse), TIMEOUT, "the projections to follow")


def test_it_follows_the_log_until_it_is_stopped(database_url: str) -> None:
    """What one process appends, another one projects."""
    with lapse_on(database_url) as writing, lapse_on(database_url, create=False) as following:
        with running(following):
            for at in range(5):
                lives(writing, at, at + 1)
                followed(following)
        lives(writing, 5, 6)
        assert following.projector.lag()["audit"].events_behind == 3


def test_errors_of_the_database_do_not_end_it(
    lapse: Lapse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries again until the database is back."""
    read = lapse.log.read
    down = threading.Event()
    refused: list[int] = []

    def failing(after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
        if down.is_set():
            refused.append(after)
            raise StoreUnavailable("gone for now")
        return read(after, limit, upto)

    monkeypatch.setattr(lapse.log, "read", failing)
    down.set()
    with running(lapse):
        lives(lapse, 0, 3)
        wait_until(lambda: len(refused) >= 3, TIMEOUT, "it to try again")
        down.clear()
        followed(lapse)
    assert audited(lapse) == list(range(1, 10))


def test_it_stops_while_the_database_is_away(lapse: Lapse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying for ever does not mean that it cannot be ended."""
    refused = threading.Event()

    def failing(*_: object) -> Sequence[Recorded]:
        refused.set()
        raise StoreUnavailable("gone for good")

    monkeypatch.setattr(lapse.log, "read", failing)
    with running(lapse):  # on leaving, the thread is joined
        assert refused.wait(TIMEOUT)


def test_it_stops_in_the_middle_of_a_backlog(lapse: Lapse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the process does not wait until the whole log is read; the rest comes later."""
    monkeypatch.setattr("adapters.projector.BATCH", 6)
    lives(lapse, 0, 20)
    stop = threading.Event()
    read = lapse.log.read

    def stopped(after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
        if after >= 12:
            stop.set()
            lapse.projector.wake()
        return read(after, limit, upto)

    monkeypatch.setattr(lapse.log, "read", stopped)
    lapse.projector.run(stop)
    assert audited(lapse) == list(range(1, 19))
    lapse.projector.catch_up()
    assert audited(lapse) == list(range(1, 61))


def test_a_missing_table_does_not_end_it_either(lapse: Lapse) -> None:
    """A migration may still be on its way."""
    with lapse.engines.write() as connection:
        projection_positions.drop(connection)
        projections.drop(connection)
    with capture_logs() as logs, running(lapse):
        lives(lapse, 0, 1)
        wait_until(lambda: len(logs) >= 1, TIMEOUT, "it to complain")
        with lapse.engines.write() as connection:
            projections.create(connection)
            projection_positions.create(connection)
        followed(lapse)
    assert audited(lapse) == [1, 2, 3]


def test_a_broken_connection_does_not_end_it(postgres_server: PostgresServer) -> None:
    """Every connection is cut, that which listens included; it connects again and follows."""
    url = postgres_server.create_database()
    with lapse_on(url) as writing, lapse_on(url, create=False) as following:
        with running(following) as thread:
            for at in range(3):
                lives(writing, at, at + 1)
                followed(following)
                cut_all_connections(url, postgres_server)
                # The writer of this test knows no patience, unlike the projector.
                wait_until(lambda: works(writing), TIMEOUT, "the writer to be back")
            lives(writing, 3, 4)
            followed(following)
            assert thread.is_alive()
        assert audited(following) == list(range(1, 13))
    postgres_server.drop_database(url)


def test_a_connection_that_breaks_within_a_batch_costs_nothing(
    postgres_server: PostgresServer,
) -> None:
    """The server ends the session when rows are written and the position is not: done again."""
    url = postgres_server.create_database()
    cuts: list[str] = []

    def cut_once(_one: object, _two: object, statement: str, *_rest: object) -> None:
        if not cuts and statement.startswith("INSERT INTO audit"):
            cuts.append(statement)
            cut_all_connections(url, postgres_server)

    with lapse_on(url) as lapse:
        lives(lapse, 0, 5)
        event.listen(Engine, "after_cursor_execute", cut_once)
        try:
            with running(lapse):
                wait_until(lambda: bool(cuts), TIMEOUT, "the cut")
                followed(lapse)
        finally:
            event.remove(Engine, "after_cursor_execute", cut_once)
        assert audited(lapse) == list(range(1, 16))
        assert set(counted(lapse).values()) == {5}
    postgres_server.drop_database(url)


def cut_all_connections(url: str, server: PostgresServer) -> None:
    database = url.partition("?")[0].rpartition("/")[2]
    connection = psycopg2.connect(server.url("postgres"))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                (database,),
            )
            assert all(ended for (ended,) in cursor.fetchall())
    finally:
        connection.close()


def works(lapse: Lapse) -> bool:
    """Whether the pools have connections that work, for reading and for writing."""
    try:
        lapse.log.head()
        with lapse.engines.write() as connection:
            connection.exec_driver_sql("SELECT 1")
    except StoreUnavailable:
        return False
    return True


# -- lag --------------------------------------------------------------------------------------


def test_lag_counts_events_and_the_age_of_the_oldest_one(lapse: Lapse) -> None:
    """How many events are missing, and for how long the oldest of them has been."""
    lives(lapse, 0, 1)
    lapse.projector.catch_up()
    lapse.clock.now += 10 * SECOND
    lives(lapse, 1, 2)
    lapse.clock.now += 5 * SECOND
    lives(lapse, 2, 3)
    lag = lapse.projector.lag()["usage"]
    assert (lag.position, lag.head, lag.events_behind) == (3, 9, 6)
    assert lag.seconds_behind == 5.0
    assert lag.state is State.BEHIND


def test_a_projection_that_never_ran_is_behind_by_everything(lapse: Lapse) -> None:
    """Looking writes nothing."""
    lives(lapse, 0, 1)
    lag = lapse.projector.lag()["audit"]
    assert (lag.position, lag.events_behind, lag.state) == (0, 3, State.BEHIND)
    with lapse.reading() as connection:
        assert connection.execute(select(projections)).fetchall() == []
