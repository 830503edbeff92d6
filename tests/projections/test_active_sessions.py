"""Who is here, with no sweeper running: what has ended is never shown."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from adapters.log.transcoder import decode_state
from domain.errors import PolicyUnknown
from domain.policy import DAY, Do, Version, Versions, parse
from domain.session import (
    Completed,
    Created,
    Event,
    Failed,
    Failure,
    Ground,
    Held,
    Joined,
    Phase,
    Session,
)
from projections import active_sessions
from projections.active_sessions import Due, DuePage, Page, Statistics
from tests.projections.histories import Lapse, clock, lapse_on, statements_counted

ROOM = "room"
VISIT = "visit"
POLICIES: Mapping[str, Versions] = {
    name: [Version(1, 0, policy)]
    for name, policy in parse(
        """
        [policy.room]
        rules = [
            { name = "idle", since = "last_seen", after = "1h", do = "expire" },
            { name = "gone", since = "expired", after = "1d", do = "erase" },
        ]
        [policy.visit]
        rules = [{ name = "old", since = "created", after = "2h", do = "erase" }]
        """
    ).items()
}


def decode_states(states: Sequence[tuple[str, int, bytes]]) -> list[Session]:
    return [decode_state(*one) for one in states]


@pytest.fixture
def lapse(database_url: str) -> Iterator[Lapse]:
    with lapse_on(database_url) as lapse:
        yield lapse


def opened(session_id: str, at: str, policy: str = ROOM) -> Created:
    return Created(session_id, 1, clock(at), policy, "app", 1)


def room(lapse: Lapse, session_id: str, at: str, *later: Event, due: str | None = None) -> None:
    """A room opened at `at`; its stored deadline is an hour later, unless told otherwise."""
    due_at = clock(due) if due is not None else clock(at) + DAY // 24
    lapse.record(opened(session_id, at), *later, due_at=due_at)


def visit(lapse: Lapse, session_id: str, at: str) -> None:
    lapse.record(opened(session_id, at, VISIT), due_at=clock(at) + DAY // 12)


def listed(lapse: Lapse, now: int, **filters: object) -> Page:
    with lapse.reading() as connection:
        return active_sessions.live_sessions(
            connection,
            POLICIES,
            decode_states,
            now,
            **filters,  # type: ignore[arg-type]
        )


def phases(lapse: Lapse, now: int, **filters: object) -> dict[str, Phase]:
    page = listed(lapse, now, **filters)
    return {row.session.id: row.session.phase for row in page.sessions}


# -- listing ----------------------------------------------------------------------------------


def test_nobody_swept_and_yet_what_is_over_is_not_active(lapse: Lapse) -> None:
    """From its due instant on a session is listed as expired, from the next one not at all."""
    room(lapse, "a", "10:00")
    room(lapse, "b", "10:30")
    assert phases(lapse, clock("11:00") - 1) == {"a": Phase.ACTIVE, "b": Phase.ACTIVE}
    assert phases(lapse, clock("11:00")) == {"a": Phase.EXPIRED, "b": Phase.ACTIVE}
    assert phases(lapse, clock("11:00") + DAY) == {"b": Phase.EXPIRED}
    assert phases(lapse, clock("11:30") + DAY) == {}


def test_a_session_tells_what_awaits_it(lapse: Lapse) -> None:
    """The listing carries the forecast, reckoned from the newest presence."""
    room(lapse, "a", "10:00", Joined("a", 2, clock("10:20"), ROOM, "app", "ada"))
    (row,) = listed(lapse, clock("10:30")).sessions
    assert row.last_seen == clock("10:20")
    assert row.forecast.expires_at == clock("11:20")
    assert row.forecast.erases_at == clock("11:20") + DAY
    assert row.forecast.rule == "idle"


def test_a_heartbeat_keeps_a_session_whose_stored_deadline_has_passed(lapse: Lapse) -> None:
    """Timers are lazy: the row is overdue, but somebody was seen meanwhile."""
    room(lapse, "a", "10:00")
    present(lapse, "a", ada=clock("10:50"))
    assert phases(lapse, clock("11:30")) == {"a": Phase.ACTIVE}
    assert phases(lapse, clock("11:50")) == {"a": Phase.EXPIRED}


def present(lapse: Lapse, session_id: str, **seen: int) -> None:
    """Presence rows as the vault keeps them: token -> last seen."""
    with lapse.engines.write() as connection:
        for token, at in seen.items():
            connection.exec_driver_sql(
                "INSERT INTO presence (partition, session_id, token, joined_at, last_seen_at) "
                f"VALUES (0, '{session_id}', '{token}', {at}, {at})"
            )


def test_sessions_are_listed_by_policy_and_phase_as_of_now(lapse: Lapse) -> None:
    """A filter by phase asks for what a session is now, not for what was stored."""
    room(lapse, "a", "10:00")
    room(lapse, "b", "10:00", Completed("b", 2, clock("10:10"), ROOM, "app"), due="11:00")
    room(lapse, "c", "12:00", Failed("c", 2, clock("12:10"), ROOM, "app", Failure.ERROR))
    room(lapse, "d", "12:00")
    visit(lapse, "e", "12:00")
    now = clock("12:30")
    assert phases(lapse, now, phase=Phase.EXPIRED) == {"a": Phase.EXPIRED, "b": Phase.EXPIRED}
    assert phases(lapse, now, phase=Phase.ACTIVE) == {"d": Phase.ACTIVE, "e": Phase.ACTIVE}
    assert phases(lapse, now, phase=Phase.FAILED) == {"c": Phase.FAILED}
    assert phases(lapse, now, phase=Phase.COMPLETED) == {}
    assert phases(lapse, now, shown=[VISIT]) == {"e": Phase.ACTIVE}
    assert phases(lapse, now, shown=[ROOM], phase=Phase.ACTIVE) == {"d": Phase.ACTIVE}


def test_a_page_is_full_although_much_of_what_is_read_is_over(lapse: Lapse) -> None:
    """Erased sessions between the live ones neither shorten a page nor end the list."""
    for number in range(12):
        opened_at = "10:00" if number % 4 else "12:00"
        visit(lapse, f"s{number:02}", opened_at)
    now = clock("12:30")
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = listed(lapse, now, after=after, limit=2)
        seen += [row.session.id for row in page.sessions]
        after = page.next
    assert seen == ["s00", "s04", "s08"]


def test_a_session_under_an_unknown_policy_is_no_guess(lapse: Lapse) -> None:
    """What a policy would say is not made up."""
    lapse.record(opened("a", "10:00", "forgotten"))
    with pytest.raises(PolicyUnknown):
        listed(lapse, clock("10:30"))


# -- due --------------------------------------------------------------------------------------


def due_page(lapse: Lapse, now: int, **filters: object) -> DuePage:
    with lapse.reading() as connection:
        return active_sessions.due(
            connection,
            POLICIES,
            decode_states,
            now,
            **filters,  # type: ignore[arg-type]
        )


def due(lapse: Lapse, now: int, **filters: object) -> tuple[Due, ...]:
    return due_page(lapse, now, **filters).sessions


def test_due_is_what_a_sweep_would_do(lapse: Lapse) -> None:
    """In order of deadline: what, under which rule, and since when."""
    room(lapse, "b", "10:00")
    visit(lapse, "a", "09:30")
    room(lapse, "c", "11:00")
    now = clock("11:30")
    assert [(one.session.id, one.do, one.rule, one.at) for one in due(lapse, now)] == [
        ("b", Do.EXPIRE, "idle", clock("11:00")),
        ("a", Do.ERASE, "old", clock("11:30")),
    ]
    assert [one.session.id for one in due(lapse, now, shown=[VISIT])] == ["a"]
    assert due(lapse, clock("11:00") - 1) == ()


def test_who_was_seen_or_is_held_is_not_due(lapse: Lapse) -> None:
    """The stored deadline is a lower bound; the timeline decides."""
    room(lapse, "a", "10:00")
    present(lapse, "a", ada=clock("10:50"))
    visit(lapse, "b", "09:00")
    lapse.record(
        Held("b", 2, clock("09:10"), VISIT, "officer", "h1", Ground.LEGAL_CLAIM),
        due_at=clock("11:00"),
    )
    assert due(lapse, clock("11:30")) == ()


def test_due_sessions_come_in_pages(lapse: Lapse) -> None:
    """Many fall due at one instant; each is listed once."""
    for number in range(7):
        room(lapse, f"s{number}", "10:00")
    seen: list[str] = []
    after: str | None = None
    for expected in (3, 3, 1):
        page = due_page(lapse, clock("11:00"), after=after, limit=3)
        assert len(page.sessions) == expected
        seen += [one.session.id for one in page.sessions]
        after = page.next
    assert after is None
    assert seen == [f"s{number}" for number in range(7)]
    with pytest.raises(ValueError, match="where a page ended"):
        due_page(lapse, clock("11:00"), after="nowhere")


# -- counting ---------------------------------------------------------------------------------


def counted(lapse: Lapse, now: int) -> Mapping[str, Statistics]:
    with lapse.reading() as connection:
        return active_sessions.statistics(connection, POLICIES, decode_states, now)


def test_statistics_count_what_is_now(lapse: Lapse) -> None:
    """Total, active, inactive, participants per session and last activity, per policy."""
    room(lapse, "a", "10:00")
    room(lapse, "b", "12:00", Completed("b", 2, clock("12:10"), ROOM, "app"))
    room(lapse, "c", "12:00")
    visit(lapse, "d", "09:00")  # erased since 11:00
    visit(lapse, "e", "12:00")
    present(lapse, "a", ada=clock("10:00"))
    present(lapse, "c", ada=clock("12:05"), bob=clock("12:20"))
    present(lapse, "d", eve=clock("12:25"))
    found = counted(lapse, clock("12:30"))
    assert found == {
        ROOM: Statistics(
            {Phase.EXPIRED: 1, Phase.COMPLETED: 1, Phase.ACTIVE: 1}, 3, clock("12:20")
        ),
        VISIT: Statistics({Phase.ACTIVE: 1}, 0, clock("12:00")),
    }
    rooms = found[ROOM]
    assert (rooms.total, rooms.active, rooms.inactive) == (3, 2, 1)
    assert rooms.participants_per_session == 1.0
    everything = rooms + found[VISIT]
    assert (everything.total, everything.active, everything.inactive) == (4, 3, 1)
    assert everything.last_activity == clock("12:20")


def test_an_empty_service_has_no_sessions_and_no_activity(lapse: Lapse) -> None:
    """Nothing is divided by nothing."""
    assert counted(lapse, clock("12:00")) == {}
    nothing = Statistics()
    assert (nothing.total, nothing.participants_per_session, nothing.last_activity) == (0, 0, None)


def test_counting_asks_the_database_a_bounded_number_of_times(lapse: Lapse) -> None:
    """The number of statements grows with pages of overdue rows, not with sessions."""
    lapse.append([(f"s{number:04}", (opened(f"s{number:04}", "10:00"),)) for number in range(500)])
    lapse.append(
        [(f"t{number:04}", (opened(f"t{number:04}", "10:00"),)) for number in range(1_500)],
        due_at=clock("11:00"),
    )
    with statements_counted() as statements:
        found = counted(lapse, clock("11:30"))
    assert found[ROOM].phases == {Phase.ACTIVE: 500, Phase.EXPIRED: 1_500}
    assert len(statements) == 3  # the settled ones, and two pages of overdue ones
