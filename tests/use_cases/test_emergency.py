"""More is stored than there should be: the oldest goes first, until the rest fits."""

import pytest

from domain.policy import MINUTE
from domain.session import Ground
from domain.use_cases.emergency import relieve
from tests.use_cases.conftest import App
from tests.use_cases.test_sessions import TEN, A


def storing(app: App, at: int) -> str:
    session = app.sessions.create("lead", at, A)
    app.put(session.id, at)
    return session.id


def standing(app: App, *ids: str) -> list[bool]:
    found = app.store.log.find(ids)
    return [one in found for one in ids]


@pytest.mark.row("P3.6")
def test_the_oldest_finished_go_first_and_then_the_oldest_idle(app: App) -> None:
    """As many as it takes and no more; the log says it was an emergency."""
    idle, busy, done, failed = (storing(app, TEN + minute * MINUTE) for minute in range(4))
    now = TEN + 5 * MINUTE
    app.sessions.complete(done, now, A)
    app.put(busy, now)
    one = app.store.log.stored_bytes() // 5
    assert relieve(app.store.log, app.sessions, now, 5 * one).erased == 0
    relief = relieve(app.store.log, app.sessions, now, 4 * one)
    assert (relief.erased, relief.bytes_freed, relief.stored) == (1, one, 4 * one)
    assert standing(app, idle, busy, done, failed) == [True, True, False, True]
    assert relieve(app.store.log, app.sessions, now, 3 * one).erased == 1
    assert standing(app, idle, busy, failed) == [False, True, True]
    *_, last = app.store.log.history(done)
    assert (last.event.TOPIC, getattr(last.event, "rule", "")) == ("session.erased.v1", "emergency")


@pytest.mark.row("P3.6")
def test_holds_win_and_stop_nobody_else(app: App) -> None:
    """A session on hold stays, the next one goes, and who looks is told how many were held."""
    held, other = storing(app, TEN), storing(app, TEN + MINUTE)
    now = TEN + 2 * MINUTE
    app.sessions.hold(held, "h1", Ground.LEGAL_CLAIM, None, now, A)
    relief = relieve(app.store.log, app.sessions, now, 0)
    assert (relief.erased, relief.held) == (1, 1)
    assert standing(app, held, other) == [True, False]
    assert relief.stored == app.store.log.stored_bytes() > 0


def test_nothing_happens_below_the_budget(app: App) -> None:
    """No event, whatever is stored."""
    session = storing(app, TEN)
    before = app.store.log.head()
    assert relieve(app.store.log, app.sessions, TEN, app.store.log.stored_bytes()).erased == 0
    assert (app.store.log.head(), standing(app, session)) == (before, [True])
