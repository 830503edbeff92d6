"""Watches the budgets of storage and memory, and begins the emergency above their share.

What sessions store lies in the database, sealed: erasing the oldest frees it. The memory of a
process holds none of it but the bodies on their way, so above the share of the memory budget no
more of those are taken until it is below (adapters/http/bodies.py), and an alert stands.
"""

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from adapters.logs import Failures
from adapters.notify.alerts import Alerts
from domain.errors import StoreError
from domain.ports import Log
from domain.use_cases.emergency import Relief, relieve
from domain.use_cases.sessions import Sessions

_log = structlog.get_logger(component="emergency")

SECONDS = 1.0
"""How often the budgets are looked at: a counter is read, and a line of /proc."""


class Budgets:
    """storage, memory: budgets in bytes, None without. share: above which the emergency begins."""

    def __init__(
        self,
        log: Log,
        sessions: Sessions,
        alerts: Alerts,
        clock: Callable[[], int],
        *,
        storage: int | None,
        memory: int | None,
        share: float,
    ) -> None:
        self._log = log
        self._sessions = sessions
        self._alerts = alerts
        self._clock = clock
        self._storage = None if storage is None else int(storage * share)
        self._memory = None if memory is None else int(memory * share)
        self._stuck_at: int | None = None
        self._failures = Failures(_log, "emergency", operation="relieve")

    def look(self) -> Relief:
        """Look once. A failure is logged, and looked at again the next time."""
        self._look_at_memory()
        try:
            relief = self._look_at_storage()
        except StoreError as error:
            self._failures.failed(result=type(error).__name__)
            return Relief()
        self._failures.worked()
        return relief

    def _look_at_memory(self) -> None:
        if self._memory is None:
            return
        used = resident_bytes()
        if used > self._memory:
            self._alerts.begin("memory", bytes=used, most=self._memory)
        else:
            self._alerts.end("memory", bytes=used, most=self._memory)

    def _look_at_storage(self) -> Relief:
        if self._storage is None:
            return Relief()
        stored = self._log.stored_bytes()
        if stored <= self._storage:
            self._alerts.end("storage", bytes=stored, most=self._storage)
            return Relief(stored=stored)
        if stored == self._stuck_at:
            return Relief(stored=stored)  # nothing that may go is left; holds say so
        self._alerts.begin("storage", bytes=stored, most=self._storage)
        began = time.perf_counter()
        relief = relieve(self._log, self._sessions, self._clock(), self._storage)
        self._stuck_at = relief.stored if relief.stored > self._storage else None
        _log.warning(
            "emergency",
            operation="relieve",
            result="done" if relief.stored <= self._storage else "not enough",
            duration_ms=round((time.perf_counter() - began) * 1000, 1),
            **vars(relief),
        )
        return relief


def resident_bytes() -> int:
    """What this process holds in memory (proc(5), statm); 0 where there is no such file."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * 4_096
