"""From dates in a log to microseconds since the epoch, UTC.

Logs repeat the same minute on thousands of lines, so parsers keep the last one they worked out.
"""

from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
MINUTE = 60 * SECOND

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NONE = timedelta()

SECONDS = {b"%02d" % second: second * SECOND for second in range(60)}
"""Two digits of seconds -> microseconds. Unlike `int`, a look-up refuses `+1` and ` 1`."""


def micros(moment: datetime) -> int | None:
    """`moment` (with a time zone) in microseconds, None before 1970: no log is that old."""
    try:
        at = (moment - _EPOCH) // _MICROSECOND
    except OverflowError:
        return None
    return at if at >= 0 else None


def start_of_minute(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, *, offset: timedelta = _NONE
) -> int | None:
    """The start of a minute on a clock that is `offset` ahead of UTC, None if there is no such."""
    try:
        return micros(datetime(year, month, day, hour, minute, tzinfo=UTC) - offset)
    except (ValueError, OverflowError):
        return None
