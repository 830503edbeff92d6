"""The scheduler of a process: it sweeps at the deadline, meets new policies, survives failures."""

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
import stamina
from structlog.testing import capture_logs

from adapters.keyring.plain import PlainKeyring
from adapters.log.engine import StoreUnavailable
from adapters.log.memory import MemoryLog, MemoryStore, MemoryVault
from adapters.notify.alerts import Alerts
from adapters.scheduler.ticker import Ticker
from domain.policy import HOUR, MILLISECOND, MINUTE, Applied, parse, stream_of, to_document
from domain.ports import SweepCount
from domain.use_cases import policies as use_case
from domain.use_cases.policies import PolicyBook
from domain.use_cases.sessions import Sessions

TEN = 10 * HOUR
ROOM = """
[policy.room]
sweep = "15m"
rules = [{ since = "last_seen", after = "IDLE", do = "expire" }]
"""


class Town:
    """A log in memory with one policy, a clock that is set by hand, and a ticker."""

    def __init__(self) -> None:
        self.now = TEN
        self.log = MemoryLog(MemoryStore(), lambda: self.now)
        policy = parse(ROOM.replace("IDLE", "1h"))["room"]
        applied = Applied(stream_of("room"), 1, 0, "room", "operator", to_document(policy))
        self.log.apply_policy(applied, 0)
        self.policies = PolicyBook(self.log)
        self.policies.refresh()
        vault = MemoryVault(self.log._store)
        self.sessions = Sessions(self.log, vault, PlainKeyring(), self.policies)
        self.alerts = Alerts()
        self.ticker = Ticker(
            self.log,
            self.policies,
            lambda: self.now,
            "me",
            read_again=10 * MILLISECOND,
            alerts=self.alerts,
        )

    def expired(self, session_id: str) -> bool:
        return self.log.history(session_id)[-1].event.TOPIC == "session.expired.v1"


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    yield made
    made.ticker.close()


def test_a_tick_before_the_deadline_does_nothing_and_at_it_sweeps(town: Town) -> None:
    """Due is due at the instant, neither before nor after."""
    session = town.sessions.create("room", TEN, "producer")
    town.now = TEN + HOUR - 1
    town.ticker.tick()
    assert not town.expired(session.id)
    town.now = TEN + HOUR
    town.ticker.tick()
    assert town.expired(session.id)
    assert town.ticker.swept.done == 1


def test_a_running_ticker_sweeps_by_itself(town: Town) -> None:
    """Nobody calls anything; the background does it."""
    session = town.sessions.create("room", TEN, "producer")
    happened = Event()
    swept = town.ticker.sweep_now

    def tell() -> SweepCount:
        count = swept()
        if count.done:
            happened.set()
        return count

    town.ticker.sweep_now = tell  # type: ignore[method-assign]
    town.ticker.start()
    town.now = TEN + HOUR
    assert happened.wait(30)
    assert town.expired(session.id)


def test_a_version_that_another_instance_applied_is_met(town: Town) -> None:
    """The ticker reads policies again and re-arms the sessions that are open under them."""
    session = town.sessions.create("room", TEN, "producer")
    version = use_case.apply(town.log, parse(ROOM.replace("IDLE", "5m"))["room"], TEN, "operator")
    assert version is not None
    town.now = TEN + MINUTE
    town.ticker.tick()
    assert town.log.next_due() == TEN + 5 * MINUTE
    town.now = TEN + 5 * MINUTE
    town.ticker.tick()
    assert town.expired(session.id)


def test_a_store_that_fails_is_tried_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed tick is logged, nothing is lost, the next one does the work."""
    session = town.sessions.create("room", TEN, "producer")
    town.now = TEN + HOUR

    def broken() -> int:
        raise StoreUnavailable("the database cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(town.log, "next_due", broken)
        town.ticker.tick()
    assert not town.expired(session.id)
    town.ticker.tick()
    assert town.expired(session.id)


@pytest.mark.parametrize("failures, done_first", [(2, 3), (3, 1)])
def test_what_was_swept_before_a_failure_is_counted_once(
    town: Town, monkeypatch: pytest.MonkeyPatch, failures: int, done_first: int
) -> None:
    """A batch that fails is tried three times in all. Whatever comes of it, the ones before it are
    logged and counted, and the next tick adds what was left."""
    for _ in range(3):
        town.sessions.create("room", TEN, "producer")
    town.now = TEN + HOUR
    ticker = Ticker(town.log, town.policies, lambda: town.now, "me", batch=1)
    batches, sweep = iter([False] + [True] * failures), town.log.sweep

    def sweep_or_fail(*arguments: Any) -> SweepCount:
        if next(batches, False):
            raise StoreUnavailable("the database cannot be reached")
        return sweep(*arguments)

    monkeypatch.setattr(town.log, "sweep", sweep_or_fail)
    with stamina.set_testing(True, attempts=3), capture_logs() as logged:
        ticker.tick()
    counts = [(one["due"], one["done"]) for one in logged if one.get("operation") == "sweep"]
    assert counts == [(done_first, done_first)]
    assert ticker.swept.done == done_first
    errors = [one for one in logged if one["log_level"] == "error"]
    failed = [one["result"] for one in errors if one["event"] != "alert"]
    assert failed == (["StoreUnavailable"] if done_first < 3 else [])
    ticker.tick()
    assert (ticker.swept.due, ticker.swept.done) == (3, 3)
    assert ticker.swept.events == {"session.expired.v1": 3}


def test_while_an_import_holds_the_clock_sweeps_wait(town: Town) -> None:
    """Event time and wall time never sweep at once."""
    session = town.sessions.create("room", TEN, "producer")
    town.now = TEN + HOUR
    town.log.lease_clock("import", town.now + MINUTE)
    town.ticker.tick()
    assert not town.expired(session.id)
    town.log.release_clock("import")
    town.ticker.tick()
    assert town.expired(session.id)


@pytest.mark.row("P2.6")
def test_a_clean_up_that_fails_is_alerted_until_it_is_trusted_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retried at every tick, told once; the alert ends two hours after the last failure."""
    town.sessions.create("room", TEN, "producer")
    working = town.log.next_due

    def failing() -> int | None:
        raise StoreUnavailable("the database cannot be reached")

    monkeypatch.setattr(town.log, "next_due", failing)
    with capture_logs() as told:
        for _ in range(3):
            town.ticker.tick()
    assert [one["operation"] for one in told if one["event"] == "alert"] == ["cleanup-failed"]
    assert town.alerts.standing()["cleanup-failed"]
    monkeypatch.setattr(town.log, "next_due", working)
    town.now += HOUR
    town.ticker.tick()
    assert town.alerts.standing()["cleanup-failed"]
    assert town.log.history(next(iter(town.log._store.sessions)))[-1].event.TOPIC.endswith(
        "expired.v1"
    )
    town.now += 2 * HOUR
    town.ticker.tick()
    assert not town.alerts.standing()["cleanup-failed"]


def test_nothing_is_swept_while_a_restored_database_is_told_what_it_has_forgotten(
    town: Town,
) -> None:
    """A hold that stands in the ledger only must not come too late. A sweep that runs ends with
    its batch."""
    for _ in range(2):
        town.sessions.create("room", TEN, "producer")
    town.now, pending = TEN + HOUR, iter([True, False, True])
    ticker = Ticker(
        *(town.log, town.policies, lambda: town.now, "me"), batch=1, waits=lambda: next(pending)
    )
    ticker.tick()
    assert ticker.swept.done == 0
    ticker.tick()
    assert ticker.swept.done == 1
