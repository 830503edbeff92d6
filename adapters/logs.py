"""JSON logs on standard error: component, operation, result, duration_ms. Never personal data.

Callers log closed names, ids, counts and times; texts of exceptions only where they are ours.
"""

import logging
import sys
import traceback

import stamina.instrumentation
import structlog

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
