"""Runs contestants in turns, so that whatever else the machine does hits all of them alike."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack

from tests.benchmarks._report import Figure

Author = Callable[[], AbstractContextManager[Callable[[], int]]]
"""Entered in a thread of its own: opens what it needs and gives the operation to repeat, which
answers with how many events it wrote."""


def in_turns(rounds: int, contestants: Mapping[str, Callable[[], float]]) -> dict[str, Figure]:
    """The figures of each. Every round starts with another contestant."""
    names = list(contestants)
    reached: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            reached[name].append(contestants[name]())
    return {name: Figure(tuple(figures)) for name, figures in reached.items()}


def from_threads(count: int, seconds: float, author: Author) -> float:
    """Events per second of `count` threads. Opening connections and the first operation of each
    are not counted."""
    stop = 0.0

    def set_off() -> None:
        nonlocal stop
        stop = time.perf_counter() + seconds

    gate = threading.Barrier(count, set_off)

    def work() -> tuple[int, float]:
        with ExitStack() as stack:
            try:
                operation = stack.enter_context(author())
                operation()
            except BaseException:
                gate.abort()  # the others wait in vain
                raise
            gate.wait()
            written = 0
            while time.perf_counter() < stop:
                written += operation()
            return written, time.perf_counter()

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work) for _ in range(count)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    # Those who waited at the gate in vain only follow from whoever could not come.
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    written = sum(future.result()[0] for future in futures)
    return written / (max(future.result()[1] for future in futures) - (stop - seconds))


def rate(count: int, work: Callable[[], object]) -> float:
    """How many of `count` things per second `work` does."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)
