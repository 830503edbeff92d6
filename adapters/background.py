"""Work that is done again and again in the background while something else goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from adapters.logs import Failures, place_of

_log = structlog.get_logger(component="background")

Step = Callable[[], object]


@contextmanager
def repeating(
    name: str,
    step: Step,
    seconds: float,
    *,
    first: float | None = None,
    at_end: Step | None = None,
) -> Iterator[None]:
    """Does `step` every so many seconds, until the block ends; then `at_end`, in the same thread,
    where no Ctrl-C can come between. A step that fails is logged (as `Failures` does: not every
    time), and tried again when it is due.

    first: seconds until the first time, if not as many as between two.
    """
    ended = threading.Event()
    failures = Failures(_log, name, operation="repeat")

    def run() -> None:
        pause = seconds if first is None else first
        while not ended.wait(pause):
            _attempt(step, failures)
            pause = seconds
        if at_end is not None:
            _attempt(at_end, failures)

    thread = threading.Thread(target=run, name=f"lapse-{name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        try:
            thread.join()
        except KeyboardInterrupt:
            thread.join()
            raise


def _attempt(step: Step, failures: Failures) -> None:
    try:
        step()
    except Exception as error:  # noqa: BLE001 - the next attempt may do better
        kind = type(error).__name__
        failures.failed(result="failed", error=kind, place=place_of(error))
    else:
        failures.worked()
