"""Holds win (G6): whatever is held, released, expired, erased and recovered in whatever order, on
both databases, nothing goes while a hold stands, and everything goes once none does."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as some
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from domain.erasure import Status
from domain.errors import HoldUnknown, LapseError, OnHold, SubjectUnknown
from domain.facts import Verification
from domain.policy import DAY, HOUR, MINUTE
from domain.ports import HoldRow
from domain.session import By, Ground
from tests.contracts.conftest import sql_store  # noqa: F401 - the fixture
from tests.contracts.stores import SqlStore
from tests.use_cases.offices import APP, OFFICER, TEN, Office, opened_office

PEOPLE = ("ann", "bob", "eve")
HELD = ("items", "presence", "subject_index", "data_keys", "partials")
"""What a hold keeps, by table."""
people = some.sampled_from(PEOPLE)
numbers = some.integers(0, 7)
waits = some.sampled_from([MINUTE, 50 * MINUTE, 2 * HOUR, 26 * HOUR, 40 * DAY])
ends = some.sampled_from([None, HOUR, 3 * DAY])


class Interleavings(RuleBasedStateMachine):
    """Rooms with people in them; `office` is set by the test."""

    office: Office

    def __init__(self) -> None:
        super().__init__()
        self.now = TEN
        self.ids: list[str] = []
        self.members: dict[str, set[str]] = {}
        self.holds: list[HoldRow] = []
        self.names: dict[str, str] = {}  # hold -> who is held
        self.kept: dict[str, set[Any]] = {}

    # -- what is there

    def rows(self, session: str) -> set[Any]:
        return {(table, row[:-1]) for table in HELD for row in self.office.rows(table, session)}

    def is_held(self, session: str) -> bool:
        return any(
            (hold.until is None or hold.until > self.now)
            and (hold.session_id == session or self.names.get(hold.hold) in self.members[session])
            for hold in self.holds
        )

    def step(self, wait: int = 1) -> None:
        """Time passes; what is held at its end must not lose anything in what comes next."""
        self.now += wait
        self.kept = {one: self.rows(one) for one in self.ids if self.is_held(one)}

    def teardown(self) -> None:
        """No hold is left; every request is carried out, and the rules take the rest."""
        for hold in list(self.holds):
            self._release(hold)
        self.now += 1
        for request_id in self.office.requests.due(self.now):
            row = self.office.requests.advance(request_id, self.now)
            assert row.request.status is not Status.REQUESTED
        self.office.sweep(self.now + 100 * DAY)
        assert self.office.people() == {}
        for session in self.ids:
            assert self.office.told(session).count("erased") == 1
        self.office.store.empty()

    def compare(self) -> None:
        for session, before in self.kept.items():
            assert before <= self.rows(session), session

    # -- what happens

    @rule(who=some.sets(people, min_size=1, max_size=2))
    def open(self, who: set[str]) -> None:
        self.step()
        session = self.office.sessions.create("room", self.now, APP).id
        for name in sorted(who):
            token = self.office.sessions.join(session, name, self.now, APP)
            self.office.put(session, [{"x": 1}], token, at=self.now)
        self.ids.append(session)
        self.members[session] = who
        self.compare()

    @precondition(lambda self: self.ids)
    @rule(which=numbers, end=ends)
    def hold_a_session(self, which: int, end: int | None) -> None:
        self.step()
        until = None if end is None else self.now + end
        session = self.ids[which % len(self.ids)]
        try:
            row = self.office.holds.of_session(
                session, Ground.LEGAL_CLAIM, until, self.now, OFFICER
            )
            self.holds.append(row)
        except LapseError as error:
            assert "erased" in str(error)
        self.compare()

    @rule(name=people, end=ends)
    def hold_a_person(self, name: str, end: int | None) -> None:
        self.step()
        until = None if end is None else self.now + end
        try:
            row = self.office.holds.of_subject(name, Ground.RESTRICTION, until, self.now, OFFICER)
            self.holds.append(row)
            self.names[row.hold] = name
        except SubjectUnknown:
            assert not any(name in self.members[one] and self.rows(one) for one in self.ids)
        self.compare()

    @precondition(lambda self: self.holds)
    @rule(which=numbers)
    def release(self, which: int) -> None:
        hold = self.holds[which % len(self.holds)]
        self.holds.remove(hold)
        self.step()
        self._release(hold)
        self.compare()

    def _release(self, hold: HoldRow) -> None:
        try:
            self.office.holds.release(hold.hold, self.now, OFFICER)
        except HoldUnknown:
            assert hold.until is not None and hold.until <= self.now

    @rule(wait=waits)
    def wait_and_sweep(self, wait: int) -> None:
        self.step(wait)
        count = self.office.sweep(self.now)
        assert count.due == count.done + count.held + count.rearmed + count.failed
        assert count.failed == 0
        self.compare()

    @precondition(lambda self: self.ids)
    @rule(which=numbers)
    def erase_a_session(self, which: int) -> None:
        self.step()
        session = self.ids[which % len(self.ids)]
        held = self.is_held(session)
        try:
            self.office.requests.erase_at_once(session, self.now, OFFICER)
            assert not held
        except OnHold:
            assert held
        except LapseError as error:
            assert "erased" in str(error)
        self.compare()

    @rule(name=people)
    def erase_a_person(self, name: str) -> None:
        self.step()
        row = self.office.requests.of_subject(name, Verification.CONTROLLER, self.now, OFFICER)
        row = self.office.requests.advance(row.request.id, self.now)
        if row.request.status is Status.EXECUTED:
            for session in self.ids:
                self.members[session] = self.members[session] - {name}
        else:
            assert any(self.is_held(one) for one in self.ids)
        self.compare()

    @rule()
    def try_requests_again(self) -> None:
        self.step()
        self.office.requested.wake(self.now)
        for request_id in self.office.requests.due(self.now):
            self.office.requests.advance(request_id, self.now)
        self.compare()

    @precondition(lambda self: self.ids)
    @rule()
    def an_emergency(self) -> None:
        """The oldest goes, unless it is held."""
        self.step()
        found = list(self.office.store.log.relievable(1))
        gone = self.office.sessions.erase_all(found, self.now, APP, by=By.EMERGENCY)
        assert not any(self.is_held(session) for session in gone)
        self.compare()

    @precondition(lambda self: self.ids)
    @rule(which=numbers)
    def recover(self, which: int) -> None:
        self.step()
        with suppress(LapseError):
            self.office.sessions.recover(self.ids[which % len(self.ids)], self.now, APP)
        self.compare()


@pytest.mark.row("G6")
def test_holds_win_whatever_happens(sql_store: SqlStore, tmp_path: Path) -> None:  # noqa: F811
    """Random interleavings, the same in every run."""
    examples = iter(range(10_000))

    class OnThisDatabase(Interleavings):
        def __init__(self) -> None:
            super().__init__()
            self.office = opened_office(sql_store, tmp_path / str(next(examples)))

    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(max_examples=10, stateful_step_count=25, deadline=None),
    )
