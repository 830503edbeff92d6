"""The worker that moves requests on: what fails stays pending, with a reason and an alert."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.notify.alerts import Alerts
from adapters.scheduler.requests import RequestWorker
from domain.erasure import Status
from domain.errors import KeyUnavailable, StoreReadOnly
from domain.facts import Verification, Waiting
from domain.policy import DAY, HOUR, MINUTE, SECOND
from domain.session import Ground
from tests.contracts.conftest import sql_store  # noqa: F401 - the fixture, for every test here
from tests.contracts.stores import SqlStore
from tests.use_cases.offices import OFFICER, TEN, Office, Scan, opened_office


class Day:
    """An office with a worker, and a clock that the test moves."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.now = TEN + 1
        self.alerts = Alerts()
        self.worker = RequestWorker(office.requests, self.alerts, lambda: self.now)

    def ask(self, name: str) -> str:
        requests = self.office.requests
        return requests.of_subject(name, Verification.CONTROLLER, self.now, OFFICER).request.id

    def status(self, request_id: str) -> tuple[Status, Waiting | None]:
        request = self.office.requests.find(request_id).request
        return request.status, request.reason


@pytest.fixture
def day(sql_store: SqlStore, tmp_path: Path) -> Day:  # noqa: F811
    return Day(opened_office(sql_store, tmp_path, Scan()))


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_what_is_asked_is_carried_out_and_verified(day: Day) -> None:
    """Without anybody's help; then it waits for the keys to be destroyed."""
    day.office.room("ann", "bob")
    request = day.ask("ann")
    assert day.worker.look() == 1
    assert day.status(request) == (Status.VERIFIED, None)
    assert day.worker.look() == 0
    day.now += HOUR
    assert day.worker.look() == 1
    assert day.alerts.standing()["request-failed"] is False


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoreReadOnly("the database is read-only"), Waiting.STORE),
        (KeyUnavailable("the key server is away"), Waiting.KEYS),
    ],
)
def test_a_store_that_fails_keeps_the_request_pending(
    day: Day, error: Exception, reason: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its reason, and an alert until it goes on; tried again, later each time."""
    day.office.room("ann", "bob")
    request = day.ask("ann")
    with monkeypatch.context() as broken:
        broken.setattr(day.office.requested, "erase", failing(error))
        day.worker.look()
        assert day.status(request) == (Status.REQUESTED, reason)
        assert day.alerts.standing()["request-failed"]
        assert day.worker.look() == 0
        due = []
        for _ in range(3):
            row = day.office.requests.find(request)
            assert row.due_at is not None
            due.append(row.due_at - day.now)
            day.now = row.due_at
            assert day.worker.look() == 1
        assert due == [2 * SECOND, 4 * SECOND, 8 * SECOND]
        assert day.office.told(request) == ["received", "suspended"]
    day.now += HOUR
    day.worker.look()
    assert day.status(request) == (Status.VERIFIED, None)
    assert not day.alerts.standing()["request-failed"]


def test_a_scan_that_finds_something_is_no_verification(day: Day) -> None:
    """Executed it is, and stays so until nothing is found."""
    assert day.office.scan is not None
    day.office.scan.ok = False
    day.office.room("ann", "bob")
    request = day.ask("ann")
    day.worker.look()
    assert day.status(request) == (Status.EXECUTED, Waiting.RESIDUE)
    assert day.alerts.standing()["request-failed"]
    day.office.scan.ok = True
    day.now += MINUTE
    day.worker.look()
    assert day.status(request) == (Status.VERIFIED, None)


def test_a_hold_is_no_failure_but_whoever_waits_for_too_long_is_told_of(day: Day) -> None:
    """After a month an alert says that somebody should have been answered."""
    day.office.room("ann", "bob")
    day.office.holds.of_subject("ann", Ground.LEGAL_CLAIM, None, day.now, OFFICER)
    request = day.ask("ann")
    day.worker.look()
    assert day.status(request) == (Status.REQUESTED, Waiting.HELD)
    day.now += 30 * DAY
    day.worker.look()
    assert not any(day.alerts.standing().values())
    day.now += DAY
    day.worker.look()
    assert day.alerts.standing()["request-overdue"]
    (hold,) = day.office.holds.page(day.now)
    day.office.holds.release(hold.hold, day.now, OFFICER)
    day.now += MINUTE
    day.worker.look()
    assert day.status(request) == (Status.VERIFIED, None)
    assert not day.alerts.standing()["request-overdue"]


def test_a_database_that_cannot_be_read_is_an_alert(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looked at again a second later."""
    with monkeypatch.context() as broken:
        broken.setattr(day.office.requested, "due", failing(StoreReadOnly("away")))
        assert day.worker.look() == 0
        assert day.alerts.standing()["request-failed"]
    day.worker.look()
    assert not day.alerts.standing()["request-failed"]
