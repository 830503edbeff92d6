"""What a log of some other system says, one record at a time: the input of an import.

Importers (adapters/importers) turn lines into these; `use_cases/ingest.py` turns these into
sessions. Names of people appear here and nowhere behind it: the use case seals them at once.
"""

from enum import StrEnum
from typing import NamedTuple


class Activity(StrEnum):
    """What a record says somebody did."""

    SEEN = "seen"  # any sign of life: a request, a message; joins first if absent
    JOINED = "joined"
    LEFT = "left"
    RENAMED = "renamed"  # the same participant under `new_name` from now on
    COMPLETED = "completed"  # the session's work is done; needs `room`
    FAILED = "failed"  # the session's work went wrong; needs `room`


class Reject(StrEnum):
    """Why a line could not be read. Closed, so that no content of a line can leak through it."""

    NOT_TEXT = "not valid UTF-8"
    NO_MATCH = "does not match the format"
    BAD_TIME = "time cannot be read"
    FUTURE = "lies in the future"
    NO_VISITOR = "names no visitor"
    TOO_LONG = "longer than 64 KiB"
    BAD_JSON = "not a JSON object"
    BAD_FIELD = "a field is missing, unknown or of the wrong type"


class Record(NamedTuple):
    """One line of a source that was understood.

    line: its number, counted from 1. at: microseconds since the epoch, UTC. visitor: who, as the
    source names them (None only for COMPLETED and FAILED). room: the source's own name of a session
    several people share, None where each visitor has a session of their own.
    """

    line: int
    at: int
    activity: Activity
    visitor: str | None = None
    room: str | None = None
    new_name: str | None = None


class Rejected(NamedTuple):
    """One line of a source that was not understood. line: its number, counted from 1."""

    line: int
    reason: Reject
