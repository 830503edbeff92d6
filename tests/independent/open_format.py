"""Real recordings rewritten as `jsonl`, the import format that anybody can write.

Each function yields dictionaries, one a line; `write` puts them into a file and `deeds` hands them
to the counting.
"""

import heapq
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.independent.counts import Deed

Line = dict[str, Any]

_SAID = re.compile(r"ubuntu-meeting (\S+) \[(\d\d:\d\d)\] <([^>]+)> ?(.*)")


def write(lines: Iterable[Line], path: Path) -> Path:
    """`path`, with a line for each."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def deeds(lines: Iterable[Line]) -> Iterator[Deed]:
    """The same as the counting wants it. `at` is whole milliseconds or RFC 3339."""
    for line in lines:
        at = line["at"]
        micros = at * 1000 if isinstance(at, int) else _seconds(at) * 1_000_000
        yield Deed(micros, line["activity"], line.get("visitor"), line["room"])


def _seconds(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp())


def events_to_jsonl(path: Path) -> Iterator[Line]:
    """A BigBlueButton recording: joining, talking, leaving, and the end of the meeting.

    One file may hold several meetings one after the other. A voice channel has numbers of its own:
    it is taken to be that of the participant who came in last.
    """
    meeting, user, ended = 1, "", False
    voices: dict[str | None, str] = {}
    recording = ElementTree.parse(path)  # noqa: S314 - of the test data
    for event in recording.getroot().iter("event"):
        name = (event.get("module"), event.get("eventname"))
        activity = {
            ("PARTICIPANT", "ParticipantJoinEvent"): "joined",
            ("PARTICIPANT", "ParticipantLeftEvent"): "left",
            ("PARTICIPANT", "EndAndKickAllEvent"): "completed",
            ("VOICE", "ParticipantTalkingEvent"): "seen",
        }.get(name)  # type: ignore[arg-type]
        if name == ("VOICE", "ParticipantJoinedEvent"):
            voices[event.findtext("participant")] = user
        if activity is None:
            continue
        if activity == "joined":
            meeting += ended
            user, ended = f"user-{event.findtext('userId')}", False
        line = {
            "at": int(event.get("timestamp", "")),
            "activity": activity,
            "room": f"{path.parent.name}/{meeting}",
        }
        if activity == "completed":
            ended = True
        elif activity == "seen":
            line["visitor"] = voices[event.findtext("participant")]
        else:
            line["visitor"] = f"user-{event.findtext('userId')}"
        yield line


def recordings_to_jsonl(paths: Iterable[Path]) -> Iterator[Line]:
    """Several recordings as they happened: by time."""
    return heapq.merge(*map(events_to_jsonl, paths), key=lambda line: line["at"])


def otto_to_jsonl(path: Path) -> Iterator[Line]:
    """The shop's sessions, each a room with one visitor. As they ran: side by side, by time."""

    def session(text: str) -> Iterator[Line]:
        known = json.loads(text)
        for event in known["events"]:
            yield {
                "at": event["ts"],
                "activity": "seen",
                "visitor": f"user-{known['session']}",
                "room": f"session-{known['session']}",
            }

    texts = path.read_text(encoding="utf-8").splitlines()
    return heapq.merge(*map(session, texts), key=lambda line: line["at"])


def meetings_to_jsonl(paths: Iterable[Path]) -> Iterator[Line]:
    """The meetings in the logs of an IRC channel: all that is said from start to finish.

    What is said between two meetings is in none. A log that stops before the finish leaves its
    meeting open.
    """
    number = 0
    for path in paths:
        room = None
        for text in path.read_text(encoding="utf-8").splitlines():
            said = _SAID.match(text)
            if said is None:
                continue
            if said[3] == "MootBot" and said[4].startswith("Meeting started"):
                number += 1
                room = f"meeting-{number}"
            if room is None:
                continue
            at = f"{said[1]}T{said[2]}:00Z"
            yield {"at": at, "activity": "seen", "visitor": said[3], "room": room}
            if said[3] == "MootBot" and said[4].startswith("Meeting finished"):
                yield {"at": at, "activity": "completed", "room": room}
                room = None
