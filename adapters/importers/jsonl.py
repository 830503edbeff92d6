"""Lapse's own import format, for everything that has no parser: one JSON object per line.

    {"at": "2026-11-03T10:00:00Z", "activity": "joined", "visitor": "ada", "room": "library"}

at: RFC 3339 with an offset, or whole milliseconds since the epoch. activity: `seen`, `joined`,
`left`, `renamed`, `completed`, `failed`. visitor: who; may be missing for the last two. room: the
session several people share; without it each visitor has one of their own. new_name: what a
`renamed` visitor is called from now on. Nothing else is accepted, so that a misspelt key is seen.
"""

import re
from datetime import datetime

import orjson

from adapters.importers.instants import micros
from domain.records import Activity, Record, Reject, Rejected

_FIELDS = frozenset({"at", "activity", "visitor", "room", "new_name"})
_ACTIVITIES = {str(activity): activity for activity in Activity}
_OF_A_ROOM = frozenset({Activity.COMPLETED, Activity.FAILED, Activity.RENAMED})
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_YEAR_10000 = 253_402_300_800_000  # milliseconds


class Jsonl:
    """Parser of the format."""

    remembers = False
    header_lines = 0

    def parse(self, line_number: int, line: bytes) -> Record | Rejected | None:
        """What the object on the line says; None for a blank line."""
        if not line.strip():
            return None
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError:
            return Rejected(line_number, Reject.BAD_JSON if _is_text(line) else Reject.NOT_TEXT)
        if not isinstance(said, dict):
            return Rejected(line_number, Reject.BAD_JSON)
        activity = _activity(said)
        if activity is None:
            return Rejected(line_number, Reject.BAD_FIELD)
        if not said.get("visitor") and activity not in _OF_A_ROOM:
            return Rejected(line_number, Reject.NO_VISITOR)
        at = _micros(said["at"])
        if at is None:
            return Rejected(line_number, Reject.BAD_TIME)
        return Record(
            line_number, at, activity, said.get("visitor"), said.get("room"), said.get("new_name")
        )


def _activity(said: dict[str, object]) -> Activity | None:
    """What was done, None if the fields are not those this activity needs."""
    activity = said.get("activity")
    if not isinstance(activity, str) or activity not in _ACTIVITIES or not said.keys() <= _FIELDS:
        return None
    if not isinstance(said.get("at"), str | int) or isinstance(said["at"], bool):
        return None
    for field in ("visitor", "room", "new_name"):
        if not isinstance(said.get(field), str | None):
            return None
    done = _ACTIVITIES[activity]
    if said.get("room") == "" or (done in _OF_A_ROOM and said.get("room") is None):
        return None
    if done is not Activity.RENAMED and said.get("new_name") is not None:
        return None
    if done is Activity.RENAMED and not said.get("new_name"):
        return None
    return done


def _micros(at: str | int) -> int | None:
    """Microseconds of what stands under `at`, None if it is no time from 1970 to 9999."""
    if isinstance(at, int):
        return at * 1000 if 0 <= at < _YEAR_10000 else None
    if not _RFC_3339.fullmatch(at):
        return None
    try:
        return micros(datetime.fromisoformat(at.upper()))
    except ValueError:
        return None


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
