"""Holds that stand are listed page by page, whatever they are on, on both databases."""

from pathlib import Path

import pytest

from adapters.log.checks import rebuild_sessions
from adapters.log.event_log import SqlLog
from adapters.vault.holds import state_decoder
from domain.errors import HoldUnknown
from domain.policy import DAY, HOUR
from domain.ports import HoldRow
from domain.session import Ground
from projections import active_sessions
from tests.contracts.authors import TEN as AUTHORED
from tests.contracts.authors import following, opening
from tests.contracts.conftest import sql_store  # noqa: F401 - the fixture, for every test here
from tests.contracts.stores import SqlStore
from tests.use_cases.offices import OFFICER, TEN, Office, opened_office


@pytest.fixture
def office(sql_store: SqlStore, tmp_path: Path) -> Office:  # noqa: F811
    return opened_office(sql_store, tmp_path)


def held_rooms(office: Office, count: int) -> list[HoldRow]:
    """A hold on each of so many rooms, in order of id."""
    rooms = [office.room("ann")[0] for _ in range(count)]
    placed = [
        office.holds.of_session(room, Ground.LEGAL_CLAIM, None, TEN, OFFICER) for room in rooms
    ]
    return sorted(placed, key=lambda row: row.hold)


def listed(office: Office, now: int = TEN, limit: int = 2) -> list[HoldRow]:
    """All pages, one behind the other."""
    found: list[HoldRow] = []
    while page := office.holds.page(now, after=found[-1].hold if found else "", limit=limit):
        assert len(page) <= limit
        found += page
    return found


def test_holds_of_sessions_and_of_people_are_one_list(office: Office) -> None:
    """In order of id over all pages, each once, with its ground and its term."""
    rooms = held_rooms(office, 3)
    person = office.holds.of_subject("ann", Ground.RESTRICTION, TEN + HOUR, TEN, OFFICER)
    found = listed(office)
    assert [row.hold for row in found] == sorted(row.hold for row in [*rooms, person])
    assert [row for row in found if row.session_id is not None] == rooms
    (of_person,) = [row for row in found if row.session_id is None]
    assert (of_person.ground, of_person.until) == (Ground.RESTRICTION, TEN + HOUR)


def test_a_hold_that_ended_or_was_released_is_listed_no_more(office: Office) -> None:
    """Nor is one of a session that was erased since it ended."""
    first, second, third = held_rooms(office, 3)
    room, _ = office.room("bob")
    ends = office.holds.of_session(room, Ground.LEGAL_CLAIM, TEN + 1, TEN, OFFICER)
    office.holds.release(first.hold, TEN, OFFICER)
    assert listed(office, TEN) == sorted([second, third, ends], key=lambda row: row.hold)
    assert listed(office, TEN + 1) == [second, third]
    with pytest.raises(HoldUnknown):
        office.holds.release(ends.hold, TEN + 1, OFFICER)
    office.sessions.erase(room, TEN + 2, OFFICER)
    assert office.rows("session_holds", room) == []


def test_a_session_that_begins_with_a_hold_is_listed(office: Office) -> None:
    """As an import may write it, in one append."""
    begun = opening("a")
    held = following(begun, lambda s: s.hold("h", Ground.LEGAL_CLAIM, None, AUTHORED, OFFICER))
    both = begun._replace(after=held.after, events=begun.events + held.events)
    office.store.log.append([both], AUTHORED)
    assert listed(office, AUTHORED) == [
        HoldRow("h", Ground.LEGAL_CLAIM, AUTHORED, None, session_id="a")
    ]


def test_what_was_due_before_somebody_was_held_has_happened(office: Office) -> None:
    """The hold keeps what is there when it is placed, and takes nothing back."""
    over, _ = office.room("ann")
    lives = office.room("ann", policy="lead", owner="ann")[0]
    office.holds.of_subject("ann", Ground.LEGAL_CLAIM, None, TEN + 2 * DAY, OFFICER)
    assert office.told(over)[-2:] == ["expired", "erased"]
    assert office.told(lives) == ["created", "joined"]


@pytest.mark.parametrize("page", [1, 100])
def test_lists_of_sessions_know_in_which_somebody_is_held(office: Office, page: int) -> None:
    """Those of the person are held, on whatever page; only of the others an erasure is due."""
    theirs = {office.room("ann")[0], office.room("ann", "bob")[0]}
    others = {office.room("bob")[0]}
    office.holds.of_subject("ann", Ground.LEGAL_CLAIM, None, TEN, OFFICER)
    expired_at, policies = TEN + 2 * HOUR, office.policies.refresh()
    office.sweep(expired_at)
    with office.store.engines.snapshot() as connection:
        reads = state_decoder(connection)
        due = active_sessions.due(connection, policies, reads, TEN + 3 * DAY, limit=page)
        listed = active_sessions.live_sessions(connection, policies, reads, expired_at)
    assert {one.session.id for one in due.sessions} == others
    assert {one.session.id for one in listed.sessions} == theirs | others
    assert {one.session.id for one in listed.sessions if one.session.held} == theirs


def test_a_rebuild_lists_the_holds_that_stand(office: Office) -> None:
    """They follow from the events of their sessions."""
    first, *others = held_rooms(office, 3)
    office.holds.release(first.hold, TEN, OFFICER)
    office.store.execute("DELETE FROM session_holds")
    assert isinstance(office.store.log, SqlLog)
    versions = office.policies.refresh()
    rebuild_sessions(office.store.engines, office.store.log, versions, TEN, lambda *_: None)
    assert listed(office) == others
