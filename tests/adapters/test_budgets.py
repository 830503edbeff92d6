"""The budgets of storage and memory: watched, told once, kept."""

from collections.abc import Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from adapters.http.bodies import InFlight
from adapters.http.problems import Refused
from adapters.notify.alerts import Alerts
from adapters.scheduler import budgets
from adapters.scheduler.budgets import Budgets
from tests.contracts.conftest import store  # noqa: F401 - the fixture behind the next one
from tests.use_cases.conftest import App, app  # noqa: F401
from tests.use_cases.test_sessions import TEN, A


def budgets_of(app: App, alerts: Alerts, **most: Any) -> Budgets:  # noqa: F811
    known: Mapping[str, Any] = {"storage": None, "memory": None, "share": 0.8, **most}
    return Budgets(app.store.log, app.sessions, alerts, lambda: TEN, **known)


@pytest.mark.row("P3.6")
def test_above_the_share_of_the_storage_budget_the_oldest_go_and_an_alert_stands(
    app: App,  # noqa: F811
) -> None:
    """Told when it begins and when it ends, whatever happens in between."""
    sessions = [app.sessions.create("lead", TEN + at, A).id for at in range(5)]
    for session in sessions:
        app.put(session, TEN)
    one = app.store.log.stored_bytes() // 5
    alerts = Alerts()
    watching = budgets_of(app, alerts, storage=5 * one)
    with capture_logs() as told:
        relief = watching.look()
        assert (relief.erased, relief.stored) == (1, 4 * one)
        assert alerts.standing()["storage"]
        watching.look()
    assert not alerts.standing()["storage"]
    lines = [one["result"] for one in told if one["event"] == "alert"]
    assert lines == ["begins", "ends"]
    assert sessions[0] not in app.store.log.find(sessions)


def test_without_a_budget_nothing_is_erased(app: App) -> None:  # noqa: F811
    """However much is stored."""
    session = app.sessions.create("lead", TEN, A).id
    app.put(session, TEN)
    assert budgets_of(app, Alerts()).look().erased == 0
    assert session in app.store.log.find([session])


@pytest.mark.row("P3.6")
def test_short_memory_takes_no_more_bodies_until_it_is_below(
    app: App,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The alert stands as long; nothing stored is erased for it."""
    used = 900
    monkeypatch.setattr(budgets, "resident_bytes", lambda: used)
    alerts = Alerts()
    watching = budgets_of(app, alerts, memory=1_000)
    in_flight = InFlight(10, 10, lambda: alerts.standing()["memory"])
    watching.look()
    assert alerts.standing()["memory"]
    with pytest.raises(Refused) as refused:
        in_flight._take("s", 1)
    assert (refused.value.status, refused.value.name) == (503, "busy")
    used = 700
    watching.look()
    in_flight._take("s", 1)
    assert (in_flight.held, alerts.raised()["memory"]) == (1, 1)


def test_the_memory_of_a_process_is_known() -> None:
    """A Python process has some megabytes."""
    assert 5_000_000 < budgets.resident_bytes() < 10**11
