"""Sessions and events that an import must lead to, by the words of the specification alone.

Records in file order, now = the greatest time read. A session expires at its due instant (now >=
its last sign of life + idle); a later record opens a new one. An older record does not move the
last sign of life back; one that opens a session starts it at its own time. Times are microseconds.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

MINUTE = 60_000_000
HOUR = 60 * MINUTE


class Deed(NamedTuple):
    """Somebody did something in a room. what: as the `jsonl` format calls it."""

    at: int
    what: str
    who: str | None
    room: str
    new_name: str | None = None


def visits(records: Iterable[tuple[int, str]], idle: int) -> dict[str, int]:
    """Sessions of visitors who share none. records: (time, visitor).

    Answers the number of sessions, how many of them have expired when the last record was read, and
    how many have when the clock runs on (all).
    """
    now = sessions = 0
    last_seen: dict[str, int] = {}
    for at, visitor in records:
        now = max(now, at)
        if visitor in last_seen and now < last_seen[visitor] + idle:
            last_seen[visitor] = max(last_seen[visitor], at)
        else:
            sessions += 1
            last_seen[visitor] = at
    still_open = sum(now < last + idle for last in last_seen.values())
    return {
        "sessions": sessions,
        "expired_at_last_record": sessions - still_open,
        "expired_if_clock_runs_on": sessions,
    }


class _Session:
    def __init__(self, at: int) -> None:
        self.last_seen = at
        self.names: dict[str, int] = {}  # nick -> number of the participant
        self.present: set[int] = set()
        self.participants = 0
        self.completed = False

    def participant(self, name: str) -> int:
        if name not in self.names:
            self.names[name] = self.participants
            self.participants += 1
        return self.names[name]


def rooms(deeds: Iterable[Deed], idle: int) -> dict[str, int]:
    """Sessions of rooms and what happens in them; `expired` if the clock runs on.

    Joining of somebody present is a sign of life; every deed of somebody absent joins them first,
    but leaving when absent is ignored and opens nothing. A new name keeps the participant: a name
    that somebody else had passes to the one renamed. Who joins again in the same session is the
    same participant. When the room's session has expired everybody joins anew.
    """
    now = 0
    count: Counter[str] = Counter()
    open_rooms: dict[str, _Session] = {}
    for deed in deeds:
        now = max(now, deed.at)
        session = open_rooms.get(deed.room)
        if session is not None and now >= session.last_seen + idle:
            session = None
        if deed.what in ("completed", "failed"):
            if session is not None and not session.completed:
                session.completed = True
                count[deed.what] += 1
            continue
        assert deed.who is not None
        if deed.what == "left" and (
            session is None or session.names.get(deed.who) not in session.present
        ):
            continue
        if session is None:
            session = open_rooms[deed.room] = _Session(deed.at)
            count["created"] += 1
        session.last_seen = max(session.last_seen, deed.at)
        known = session.participants
        who = session.participant(deed.who)
        count["participants"] += session.participants - known
        if deed.what == "left":
            session.present.remove(who)
            count["left"] += 1
        elif who not in session.present:
            session.present.add(who)
            count["joined"] += 1
        if deed.what == "renamed":
            assert deed.new_name is not None
            session.names[deed.new_name] = session.names.pop(deed.who)
    count["expired"] = count["created"]
    names = ("created", "participants", "joined", "left", "completed", "failed", "expired")
    return {name: count[name] for name in names}


def since_the_last_silence(deeds: Sequence[Deed], idle: int) -> list[Deed]:
    """The deeds of one room from where its last session begins. For deeds in order of time whose
    gaps end with somebody who comes or speaks."""
    begins = 0
    for number, (before, deed) in enumerate(pairwise(deeds), start=1):
        if deed.at >= before.at + idle:
            begins = number
    return list(deeds[begins:])
