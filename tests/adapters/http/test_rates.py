"""How often somebody may ask."""

import time
from collections.abc import Callable

import pytest

from adapters.http.problems import Refused
from adapters.http.rates import MOST_WINDOWS, Rates, Windows


def allowed(ask: Callable[[str], None], name: str, times: int) -> int:
    """How many of so many were allowed; each refusal says how long to wait."""
    count = 0
    for _ in range(times):
        try:
            ask(name)
        except Refused as refusal:
            assert (refusal.status, refusal.name) == (429, "rate")
            assert 1 <= int((refusal.headers or {})["Retry-After"]) <= 3_600
        else:
            count += 1
    return count


def test_each_actor_has_a_limit_of_their_own() -> None:
    """Whoever exhausted it waits; others do not."""
    rates = Rates("3/hour")
    assert allowed(rates.count, "one", 5) == 3
    assert allowed(rates.count, "other", 2) == 2
    assert allowed(rates.count, "one", 1) == 0


def test_without_a_limit_nobody_is_refused() -> None:
    """However often they ask."""
    assert allowed(Rates(None).count, "one", 5_000) == 5_000


def test_refused_tokens_are_counted_by_address() -> None:
    """Whoever guesses is slowed down; those with good tokens at the same address are not."""
    rates = Rates("1000/hour")
    assert allowed(rates.failed, "192.0.2.7", 30) == 20
    assert allowed(rates.failed, "192.0.2.8", 1) == 1
    assert allowed(rates.count, "192.0.2.7", 10) == 10


def test_what_is_no_limit_is_refused_at_the_start() -> None:
    """Not at the first request."""
    with pytest.raises(ValueError, match="couldn't parse"):
        Rates("often")


def test_windows_that_ended_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come and go, memory is in proportion to those who ask now."""
    windows, now = Windows(), 1_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    for name in range(3 * MOST_WINDOWS):
        now += 0.01
        assert windows.incr(str(name), 60) == 1
    assert len(windows._open) <= 2 * MOST_WINDOWS
    assert (windows.get("0"), windows.get(str(name))) == (0, 1)
    assert windows.get_expiry(str(name)) == now + 60
    windows.clear(str(name))
    assert windows.incr(str(name), 60) == 1
    assert windows.check()
    assert windows.reset() > 0
    assert windows.get(str(name)) == 0
