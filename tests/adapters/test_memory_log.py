"""What only the log in memory can: forget events, and tell what it accepted."""

from collections.abc import Sequence

import pytest

from adapters.log.memory import MemoryLog, MemoryStore
from domain.errors import Conflict
from domain.policy import DAY, HOUR
from domain.ports import Append, Changes
from domain.session import SCHEDULER, Created, Erased, Expired
from domain.use_cases.sweep import sweep
from tests.contracts.authors import (
    ROOM,
    TEN,
    VERSION,
    admission,
    entering,
    opening,
    person,
    seen,
)


def test_whoever_observes_is_told_of_everything_accepted() -> None:
    """By command, batch or sweep, in order; of nothing that was refused."""
    told: list[str] = []

    def observe(appends: Sequence[Append]) -> None:
        told.extend(type(event).__name__ for append in appends for event in append.events)

    log = MemoryLog(MemoryStore(), observe=observe)
    log.submit(opening("a"), TEN)
    log.append([opening("a"), opening("b")], TEN)
    with pytest.raises(Conflict):
        log.append([opening("c"), seen(opening("gone"), TEN + 1)], TEN, together=True)
    log.submit(seen(log.find(["a"])["a"], TEN + 1), TEN)
    sweep(log, {ROOM: (VERSION,)}, TEN + 2 * DAY, SCHEDULER)
    ending = [Expired.__name__, Erased.__name__]
    assert told == ["Created", "Created", "Seen", *ending, *ending]


def test_without_events_memory_is_bounded_by_the_sessions_alive() -> None:
    """A thousand come and go: what is left is what a thousand events were never kept for."""
    store = MemoryStore()
    log = MemoryLog(store, keep_events=False)
    for number in range(1_000):
        now = TEN + number * HOUR
        someone = person(f"p{number}")
        alias = Changes(admitted=(admission(someone),), alias=b"room %d" % number)
        log.submit(entering(f"s{number}", someone, at=now)._replace(changes=alias), now)
        sweep(log, {ROOM: (VERSION,)}, now, SCHEDULER)
    counts = store.row_counts()
    assert log.head() == 1_000 + 999 + 975  # created, expired an hour later, erased a day after
    assert (counts["sessions"], counts["presence"], counts["subjects"]) == (25, 25, 25)
    assert counts["events"] == 0
    assert len(store.deadlines) < 1_100
    with pytest.raises(RuntimeError):
        log.history("s1")
    with pytest.raises(RuntimeError):
        log.read(0, 1)


def test_deadlines_that_moved_on_do_not_pile_up() -> None:
    """A session that is seen three thousand times has one deadline."""
    store = MemoryStore()
    log = MemoryLog(store, keep_events=False)
    log.submit(opening("a"), TEN)
    for number in range(1, 3_001):
        found = log.find(["a"])["a"]
        log.submit(seen(found, TEN + number, due_at=TEN + number + HOUR), TEN)
    assert len(store.deadlines) <= 1_002
    assert log.next_due() == TEN + 3_000 + HOUR


def test_a_batch_with_a_session_twice_is_an_error_of_the_caller() -> None:
    """As it is in a database, where the second would break the first."""
    store = MemoryStore()
    log = MemoryLog(store)
    with pytest.raises(ValueError, match="one append per session"):
        log.append([opening("a"), opening("a")], TEN)
    assert store.row_counts() == MemoryStore().row_counts()


def test_what_is_kept_is_what_was_appended() -> None:
    """The events themselves, not copies of them."""
    log = MemoryLog(MemoryStore())
    append = opening("a")
    log.submit(append, TEN)
    assert log.history("a")[0].event is append.events[0]
    assert isinstance(append.events[0], Created)
