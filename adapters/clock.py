"""The wall clock, and the clock of tests. Only this file reads the time of the machine."""

import time
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from domain.errors import SettingsInvalid


def system_clock() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


class FileClock:
    """The time that stands in a file (RFC 3339), read again at every look: for tests."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> int:
        try:
            text = self._path.read_text().strip()
        except OSError as error:
            raise SettingsInvalid(
                f"LAPSE_CLOCK: the file cannot be read ({error.strerror})"
            ) from None
        return parse_instant(text, "LAPSE_CLOCK")


def parse_instant(text: str, where: str) -> int:
    """Microseconds of an RFC 3339 time with an offset. Raises SettingsInvalid."""
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError
    except ValueError:
        raise SettingsInvalid(
            f"{where}: write an RFC 3339 time with its offset, such as 2026-01-31T12:00:00Z"
        ) from None
    return round(instant.timestamp() * 1_000_000)


def format_instant(micros: int | None) -> str | None:
    """RFC 3339, UTC, to the millisecond; None stays None."""
    if micros is None:
        return None
    seconds, fraction = divmod(micros, 1_000_000)
    return f"{_to_the_second(seconds)}.{fraction // 1000:03d}Z"


@lru_cache(maxsize=4_096)
def _to_the_second(seconds: int) -> str:
    """Kept, since formatting takes 6 us and a busy service formats the same few seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
