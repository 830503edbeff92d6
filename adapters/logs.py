"""JSON logs on standard error: component, operation, result, duration_ms. Never personal data.

Callers log closed names, ids, counts and times; texts of exceptions only where they are ours.
"""

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import stamina.instrumentation
import structlog

AGAIN_SECONDS = 60.0
"""How often at most it is said that something fails still: what is tried every second would fill a
log."""

_OURS = ("adapters", "domain", "projections", "migrations")


def place_of(error: BaseException) -> str:
    """Module and line of ours in which an error arose that nobody foresaw: with its class, all that
    is said of it, since its text and the lines of a traceback may quote what it met."""
    place = "?"
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in _OURS:
            place = f"{module}:{line}"
    return place


def configure_logs(level: str) -> None:
    """One JSON object per line. level: the least one that is written."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # APScheduler and Alembic log through the standard library: their warnings, in the same place.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s", force=True)
    # A tick that finds the one before still sweeping has nothing to do; that is no warning.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    # Whoever retries says so itself, in its own words.
    stamina.instrumentation.set_on_retry_hooks([])


class Failures:
    """What is said of something that is done again and again: one line when it begins to fail, at
    most one a minute while it fails, one when it works again. Safe to be told by any thread.

    event, fields: what every line says. clock: seconds that never go back.
    """

    def __init__(
        self, log: Any, event: str, *, clock: Callable[[], float] = time.monotonic, **fields: str
    ) -> None:
        self._log = log
        self._event = event
        self._fields = fields
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._said_at = 0.0

    def failed(self, **figures: object) -> bool:
        """It failed; whether a line says so. `failures` there: how often since it worked."""
        with self._lock:
            self._count, now = self._count + 1, self._clock()
            if self._count > 1 and now - self._said_at < AGAIN_SECONDS:
                return False
            self._said_at, count = now, self._count
        self._log.error(self._event, **self._fields, **figures, failures=count)
        return True

    def worked(self) -> None:
        """It was done, after failures or not."""
        with self._lock:
            count, self._count = self._count, 0
        if count:
            self._log.info(self._event, **self._fields, result="works again", failures=count)
