"""Makes the copies that people asked for, and lets go of those that are over."""

from collections.abc import Callable

import structlog

from adapters.log.engine import Engines
from adapters.log.leases import Leases
from adapters.logs import Failures
from domain.errors import LapseError
from domain.use_cases.access import Access

_log = structlog.get_logger(component="copies")


class Copies:
    """One process of an installation does this at a time."""

    def __init__(
        self, access: Access, engines: Engines, clock: Callable[[], int], holder: str
    ) -> None:
        self._access = access
        self._clock = clock
        self._leases = Leases(engines, clock, holder)
        self._failures = Failures(_log, "copies", operation="work")

    def work(self) -> None:
        """Look once. A failure is logged, and looked at again the next time."""
        done = 0
        try:
            if self._access.is_waiting(self._clock()):  # nothing is written while nobody asks
                with self._leases.lease("copies") as mine:
                    done = self._access.work(self._clock()) if mine else 0
        except LapseError as error:
            self._failures.failed(result=type(error).__name__)
            return
        self._failures.worked()
        if done:
            _log.info("copies", operation="work", result="done", requests=done)
