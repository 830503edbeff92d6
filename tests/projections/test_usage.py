"""Usage counters, in the words of those who read them."""

from collections.abc import Iterator

import pytest

from domain.policy import HOUR, Applied, stream_of
from domain.session import SCHEDULER, Created, Erased, Event, Scope, Seen, Summarized
from projections import usage
from projections.usage import USAGE, Hour, Total
from tests.projections.histories import Lapse, clock, lapse_on, recorded

ROOM = "reading-room"


def created(session_id: str, at: str, policy: str = ROOM) -> Created:
    return Created(session_id, 1, clock(at), policy, "app", 1)


def summarized(session_id: str, at: str, freed: int) -> Summarized:
    return Summarized(session_id, 2, clock(at), ROOM, SCHEDULER, "five", 1, freed)


def counted(*events: Event | Applied) -> list[tuple[object, ...]]:
    return USAGE.rows(1, recorded(*events))


def test_events_count_in_the_hour_in_which_they_took_effect() -> None:
    """The full hour begins a new row; a late sweep fills the hour that it missed."""
    assert counted(created("s1", "10:00"), created("s2", "10:59"), created("s3", "11:00")) == [
        (1, clock("10:00"), ROOM, "session.created", 2, 0),
        (1, clock("11:00"), ROOM, "session.created", 1, 0),
    ]


def test_policies_and_events_are_counted_apart() -> None:
    """One row per hour, policy and event."""
    assert counted(
        created("s1", "10:00"),
        created("s2", "10:00", policy="web-visit"),
        Seen("s1", 2, clock("10:10"), ROOM, "app"),
    ) == [
        (1, clock("10:00"), ROOM, "session.created", 1, 0),
        (1, clock("10:00"), ROOM, "session.seen", 1, 0),
        (1, clock("10:00"), "web-visit", "session.created", 1, 0),
    ]


def test_freed_bytes_are_added_up() -> None:
    """Summaries and erasures say how much they freed."""
    erased = Erased("s1", 3, clock("10:40"), ROOM, SCHEDULER, Scope.EVERYTHING, "gone", 1, 50)
    assert counted(summarized("s1", "10:05", 1000), summarized("s2", "10:06", 24), erased) == [
        (1, clock("10:00"), ROOM, "session.erased", 1, 50),
        (1, clock("10:00"), ROOM, "session.summarized", 2, 1024),
    ]


def test_a_policy_is_no_usage() -> None:
    """A new policy version happens to no session; its first holds since ever, in no hour."""
    assert counted(Applied(stream_of(ROOM), 1, 0, ROOM, "operator", {})) == []


@pytest.fixture
def lapse(database_url: str) -> Iterator[Lapse]:
    with lapse_on(database_url) as lapse:
        yield lapse


def test_later_batches_add_to_the_same_hour(lapse: Lapse) -> None:
    """An hour that is open still goes on counting."""
    lapse.record(created("s1", "10:00"), summarized("s1", "10:05", 7))
    lapse.projector.catch_up()
    lapse.record(created("s2", "10:20"), summarized("s2", "10:25", 5))
    lapse.projector.catch_up()
    with lapse.reading() as connection:
        assert usage.totals(connection) == [
            Total(ROOM, "session.created", 2, 0),
            Total(ROOM, "session.summarized", 2, 12),
        ]


def test_totals_and_hours_cover_the_hours_asked_for(lapse: Lapse) -> None:
    """A window takes the hours that start in it."""
    lapse.record(
        created("s1", "09:59"),
        created("s2", "10:00"),
        created("s3", "11:30", policy="web-visit"),
        created("s4", "12:00"),
    )
    lapse.projector.catch_up()
    since, until = clock("10:00"), clock("12:00")
    with lapse.reading() as connection:
        assert usage.totals(connection, since=since, until=until) == [
            Total(ROOM, "session.created", 1, 0),
            Total("web-visit", "session.created", 1, 0),
        ]
        assert usage.hourly(connection, since=since, until=until).hours == [
            Hour(clock("10:00"), ROOM, "session.created", 1, 0),
            Hour(clock("11:00"), "web-visit", "session.created", 1, 0),
        ]
        assert usage.hourly(connection, shown=["web-visit"]).hours == [
            Hour(clock("11:00"), "web-visit", "session.created", 1, 0)
        ]


def test_long_series_come_in_pages(lapse: Lapse) -> None:
    """Each page goes on where the one before ended."""
    lapse.record(*(created(f"s{hour}", f"{hour:02}:00") for hour in range(5)))
    lapse.projector.catch_up()
    hours: list[int] = []
    after: str | None = None
    for expected in (2, 2, 1):
        with lapse.reading() as connection:
            page = usage.hourly(connection, after=after, limit=2)
        assert len(page.hours) == expected
        hours += [one.hour for one in page.hours]
        after = page.next
    assert after is None
    assert hours == [clock("00:00") + number * HOUR for number in range(5)]
    with lapse.reading() as connection, pytest.raises(ValueError, match="where a page ended"):
        usage.hourly(connection, after="nowhere")
