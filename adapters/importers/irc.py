"""Logs of an IRC channel, as irclogs.ubuntu.com keeps them. One file is one room.

    [12:34] <nick> text                                 a message
    [12:34]  * nick waves                               an action
    [12:34] -nick:#ubuntu- text                         a notice
    === nick [user@host]  has joined #ubuntu
    === nick [user@host]  has left #ubuntu ["Leaving"]
    === nick was kicked off #ubuntu by other (reason)   has left
    === nick is now known as other
    === nick waves                                      an action, in logs up to 2007
    ubuntu-meeting 2010-11-08 [13:21] <nick> text       any of these after channel and date

The date stands before the line or at the start of the file's name; the clock has minutes only and
is taken as UTC. Lines with `===` carry no time: they take that of the last line before them that
has one, but not one before the midnight that begins their date. A clock that steps back (over
midnight, or because it counts to 12) is left as it is.

The exporter of logs up to 2007 put a blank behind every `]`, in nicks too: `<bur[n] er>`.
"""

import re

from adapters.importers.instants import MINUTE, start_of_minute
from domain.records import Activity, Record, Reject, Rejected

_DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_PREFIX = re.compile(rb"[^\s\[=]\S* (\d{4})-(\d\d)-(\d\d) ")
_TIMED = re.compile(rb"\[([01]\d|2[0-3]):([0-5]\d)\] ")
_CLOCK = re.compile(rb"\[[^\] ]*\d:\d[^\]]*\] ")

_MESSAGE = re.compile(rb"<([^>]*)>")
_ACTION = re.compile(rb" ?\* (\S+)")
_NOTICE = re.compile(rb"-([^\s:]+?)(?::[#&]\S+?)?- ")

_NOTICE_OF_THE_LOG = re.compile(
    rb"mode/[#&]|\.\.\[topic/|Topic for [#&]|Topic \([#&]|netjoined: |netsplit: "
)


class Irc:
    """Parser of one file. file_name: its base name, which is the room and may tell the date."""

    remembers = True
    header_lines = 0

    def __init__(self, file_name: str) -> None:
        self._room = file_name
        date = _DAY.match(file_name)
        self._midnight = start_of_minute(*map(int, date.groups())) if date else None
        self._last_at = -1

    def parse(self, line_number: int, line: bytes) -> Record | Rejected | None:
        """What the line's nick did; None for modes, topics, net splits and blank lines."""
        prefix = _PREFIX.match(line)
        if prefix is not None:
            self._midnight = start_of_minute(*map(int, prefix.groups()))
            line = line[prefix.end() :]
        if line.startswith(b"=== "):
            if _NOTICE_OF_THE_LOG.match(line, 4):
                return None
            return self._record(line_number, _without_time(line[4:]))
        clock = _TIMED.match(line)
        if clock is None:
            if not line.strip():
                return None
            malformed = Reject.BAD_TIME if _CLOCK.match(line) else Reject.NO_MATCH
            return Rejected(line_number, malformed)
        said = _said(line, clock.end())
        if said is None:
            return Rejected(line_number, Reject.NO_MATCH)
        if self._midnight is not None:
            minutes = int(clock[1]) * 60 + int(clock[2])
            self._last_at = self._midnight + minutes * MINUTE
        return self._record(line_number, (Activity.SEEN, said, b""), timed=True)

    def _record(
        self, line_number: int, deed: tuple[Activity, bytes, bytes], *, timed: bool = False
    ) -> Record | Rejected:
        activity, nick, new_nick = deed
        if self._midnight is None:
            return Rejected(line_number, Reject.BAD_TIME)
        if not nick or (activity is Activity.RENAMED and not new_nick):
            return Rejected(line_number, Reject.NO_VISITOR)
        at = self._last_at if timed else max(self._last_at, self._midnight)
        try:
            visitor, new_name = nick.decode(), new_nick.decode() or None
        except UnicodeDecodeError:
            return Rejected(line_number, Reject.NOT_TEXT)
        return Record(line_number, at, activity, visitor, self._room, new_name)


def _said(line: bytes, start: int) -> bytes | None:
    """Whose message, action or notice stands behind the clock, None if nothing of these."""
    message = _MESSAGE.match(line, start)
    if message is not None:
        return _nick(message[1])
    other = _ACTION.match(line, start) or _NOTICE.match(line, start)
    return other[1] if other else None


def _without_time(text: bytes) -> tuple[Activity, bytes, bytes]:
    """What a line says behind its `===`: what was done, by whom, and the new nick if it is one."""
    old, known, new = text.partition(b" is now known as ")
    if known and b" " not in _nick(old) and b" " not in _nick(new):
        return Activity.RENAMED, _nick(old), _nick(new)
    # Two blanks behind the address tell the exporter that put one behind every bracket.
    if b"]  has " in text:
        text = text.replace(b"] ", b"]")
    who, _, _ = text.partition(b" [")
    if b"] has joined " in text and b" " not in who:
        return Activity.JOINED, who, b""
    if b"] has left " in text and b" " not in who:
        return Activity.LEFT, who, b""
    who, kicked, _ = text.partition(b" was kicked off ")
    if kicked and b" " not in _nick(who):
        return Activity.LEFT, _nick(who), b""
    return Activity.SEEN, _nick(text).partition(b" ")[0], b""


def _nick(text: bytes) -> bytes:
    """A nick without the blanks that the exporter put in."""
    return text.replace(b"] ", b"]").strip()
