"""Moves requests for erasure on: what is open is tried, what is executed is read back and verified,
what is verified becomes final when the keys of its time are destroyed.

Any number of processes may do this at once: a request that another one moved is left alone. One
that fails stays where it is, with a reason, and is tried again, later each time; an alert stands
until all go on.
"""

from collections.abc import Callable
from contextlib import suppress

import structlog

from adapters.logs import Failures, place_of
from adapters.notify.alerts import Alerts
from domain.errors import Conflict, LapseError, StoreError
from domain.facts import Waiting
from domain.policy import MINUTE
from domain.use_cases.erasure_requests import ErasureRequests

_log = structlog.get_logger(component="requests")

SECONDS = 1.0
"""How often requests that are due are looked for: an index is read."""
FAILURES = (Waiting.STORE, Waiting.KEYS, Waiting.RESIDUE)
"""Reasons that are nobody's decision."""


class RequestWorker:
    """clock: microseconds since the epoch. alerts: told of what fails, and of who waits for too
    long."""

    def __init__(self, requests: ErasureRequests, alerts: Alerts, clock: Callable[[], int]) -> None:
        self._requests = requests
        self._alerts = alerts
        self._clock = clock
        self._failing: set[str] = set()
        self._counted_at = 0
        self._failures = Failures(_log, "requests", operation="look")

    def look(self) -> int:
        """Move on what is due; how many were looked at. A failure is logged, and tried again."""
        now = self._clock()
        try:
            due = self._requests.due(now)
            for request_id in due:
                self._advance(request_id, now)
            self._count_overdue(now)
        except StoreError as error:
            self._failures.failed(result=type(error).__name__)
            self._alerts.begin("request-failed")
            return 0
        self._failures.worked()
        if self._failing:
            self._alerts.begin("request-failed", requests=len(self._failing))
        else:
            self._alerts.end("request-failed")
        return len(due)

    def _advance(self, request_id: str, now: int) -> None:
        try:
            request = self._requests.advance(request_id, now).request
        except Conflict:
            # Another process moved it, or somebody is busy there: it is due still.
            _log.warning("request", operation="advance", result="conflict", request=request_id)
            return
        except LapseError as error:
            self._failed(request_id, now, type(error).__name__, place_of(error))
            return
        if request.reason in FAILURES:
            self._failing.add(request_id)
            _log.error("request", operation="advance", result=str(request.reason))
            return
        self._failing.discard(request_id)
        result = str(request.reason or request.status)
        _log.info("request", operation="advance", result=result, request=request_id)

    def _failed(self, request_id: str, now: int, error: str, place: str) -> None:
        self._failing.add(request_id)
        _log.error("request", operation="advance", result="failed", error=error, place=place)
        with suppress(Conflict):  # another process moved it: it is due still
            self._requests.failed(request_id, now)

    def _count_overdue(self, now: int) -> None:
        if now - self._counted_at < MINUTE:
            return
        self._counted_at = now
        overdue = self._requests.overdue(now)
        if overdue:
            self._alerts.begin("request-overdue", requests=overdue)
        else:
            self._alerts.end("request-overdue")
