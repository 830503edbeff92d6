"""How often somebody may ask."""

import pytest

from adapters.http import rates
from adapters.http.problems import Refused
from adapters.http.rates import Limit, Windows


class Clock:
    """Seconds that the test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def allowed(windows: Windows, name: str, times: int) -> int:
    """How many of so many hits were allowed."""
    count = 0
    for _ in range(times):
        try:
            windows.hit(name)
        except Refused as refusal:
            assert refusal.status == 429
        else:
            count += 1
    return count


def test_each_has_a_window_of_their_own_that_begins_with_the_first_hit() -> None:
    """Whoever exhausted it waits until it ends; others do not."""
    clock = Clock()
    windows = Windows(Limit.parse("3/minute"), clock)
    assert allowed(windows, "one", 5) == 3
    clock.now += 30
    assert allowed(windows, "other", 5) == 3
    clock.now += 29.5
    with pytest.raises(Refused) as refused:
        windows.hit("one")
    assert refused.value.headers == {"Retry-After": "1"}
    clock.now += 0.5
    assert allowed(windows, "one", 5) == 3
    assert allowed(windows, "other", 5) == 0


def test_windows_that_ended_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with ever new names cannot fill the memory; windows that are open stay."""
    monkeypatch.setattr(rates, "MOST_WINDOWS", 10)
    clock = Clock()
    windows = Windows(Limit.parse("1/minute"), clock)
    for number in range(9):
        windows.hit(f"early {number}")
    clock.now += 59
    windows.hit("late")
    clock.now += 1
    windows.hit("last")
    assert len(windows._open) == 2
    assert allowed(windows, "late", 1) == 0
