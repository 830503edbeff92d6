"""Work in the background: again and again, whatever happens to it, and to a proper end."""

import threading

import pytest

from adapters.background import repeating

PATIENCE = 20.0


def test_a_step_that_fails_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Its failure is logged by class and place, never with its text."""
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
    assert said.count("ValueError") == 2
    assert "adapters.background:" in said
    assert "ann@" not in said


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
