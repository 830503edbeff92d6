"""Alerts: what operators must know, once when it begins and once when it ends.

Each is a line in the log (component `alert`) and a figure at `/metrics`. Names are closed, figures
are numbers: nothing about a person enters either.
"""

import threading

import structlog

_log = structlog.get_logger(component="alert")

ALERTS = (
    "storage",
    "memory",
    "cleanup-failed",
    "checkpoint-failed",
    "request-failed",
    "request-overdue",
    "ledger",
    "escrow",
    "clock-jump",
)
"""Every alert there is."""


class Alerts:
    """The alerts of one process. Safe to be told by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._standing: dict[str, bool] = dict.fromkeys(ALERTS, False)
        self._raised: dict[str, int] = dict.fromkeys(ALERTS, 0)

    def begin(self, alert: str, **figures: float) -> None:
        """It stands from now on; told once, however often this is called."""
        with self._lock:
            if self._standing[alert]:
                return
            self._standing[alert] = True
            self._raised[alert] += 1
        _log.error("alert", operation=alert, result="begins", **figures)

    def end(self, alert: str, **figures: float) -> None:
        """It stands no more."""
        with self._lock:
            if not self._standing[alert]:
                return
            self._standing[alert] = False
        _log.info("alert", operation=alert, result="ends", **figures)

    def standing(self) -> dict[str, bool]:
        """Which alerts stand now."""
        with self._lock:
            return dict(self._standing)

    def raised(self) -> dict[str, int]:
        """How often each began."""
        with self._lock:
            return dict(self._raised)
