"""Work in the background: again and again, whatever happens to it, and to a proper end."""

import threading

import pytest
import structlog
from structlog.testing import capture_logs

from adapters.background import repeating
from adapters.logs import AGAIN_SECONDS, Failures

PATIENCE = 20.0


def test_a_step_that_fails_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Its failure is logged by class and place, never with its text, and not every time."""
    attempts = 0
    succeeded = threading.Event()

    def step() -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ValueError("ann@example.org")
        succeeded.set()

    with repeating("counting", step, 0.001):
        assert succeeded.wait(PATIENCE)
    said = capsys.readouterr().out
    assert said.count("ValueError") == 1
    assert said.count("works again") == 1
    assert "adapters.background:" in said
    assert "ann@" not in said


class Attempts:
    """Something that is tried every second by a clock that the test moves; `failing`: if it is."""

    def __init__(self) -> None:
        self.failing, self.seconds = True, 1_000.0
        self.failures = Failures(
            structlog.get_logger(), "sweep", operation="tick", clock=lambda: self.seconds
        )

    def __call__(self, times: int) -> None:
        for _ in range(times):
            if self.failing:
                self.failures.failed(result="StoreUnavailable")
            else:
                self.failures.worked()
            self.seconds += 1


def test_what_fails_every_second_is_said_once_a_minute() -> None:
    """One line when it begins, one for every minute of an hour, one when it works again."""
    attempts = Attempts()
    with capture_logs() as said:
        attempts(1)
    (began,) = said
    assert (began["log_level"], began["event"], began["operation"]) == ("error", "sweep", "tick")
    assert (began["result"], began["failures"]) == ("StoreUnavailable", 1)
    with capture_logs() as said:
        attempts(3_600)
    assert [one["failures"] for one in said] == [1 + int(AGAIN_SECONDS) * n for n in range(1, 61)]
    attempts.failing = False
    with capture_logs() as said:
        attempts(10)
    (ended,) = said
    assert (ended["log_level"], ended["result"]) == ("info", "works again")
    assert ended["failures"] == 3_601


def test_what_fails_anew_is_said_at_once() -> None:
    """However shortly after it worked."""
    attempts = Attempts()
    with capture_logs() as said:
        attempts(5)
        attempts.failing = False
        attempts(1)
        attempts.failing = True
        attempts(5)
    assert [one["log_level"] for one in said] == ["error", "info", "error"]
    assert said[-1]["failures"] == 1


def test_what_works_says_nothing() -> None:
    """A loop that never failed leaves no line."""
    attempts = Attempts()
    attempts.failing = False
    with capture_logs() as said:
        attempts(5)
    assert said == []


def test_the_first_time_may_come_at_once() -> None:
    """Whatever the pause."""
    done = threading.Event()
    with repeating("once", done.set, 3_600.0, first=0):
        assert done.wait(PATIENCE)


def test_the_end_is_done_before_the_block_is_left() -> None:
    """Once, after the last step, also when the block fails."""
    told: list[str] = []
    with (
        pytest.raises(KeyError),
        repeating("lease", lambda: told.append("step"), 3_600.0, at_end=lambda: told.append("end")),
    ):
        raise KeyError
    assert told == ["end"]


def test_ctrl_c_does_not_cut_the_end_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the end is interrupted; the end is done all the same."""
    told: list[str] = []
    join = threading.Thread.join
    interrupts = [KeyboardInterrupt()]

    def interrupted(thread: threading.Thread) -> None:
        if interrupts:
            raise interrupts.pop()
        join(thread)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with (
        pytest.raises(KeyboardInterrupt),
        repeating("lease", lambda: None, 3_600.0, at_end=lambda: told.append("end")),
    ):
        pass
    assert told == ["end"]
