r"""Access logs of web servers: NCSA common log format, and "combined" with referer and agent.

    host ident user [09/Jul/1995:00:00:01 -0400] "GET / HTTP/1.0" 200 6245
    host ident user [17/May/2015:10:05:03 +0000] "GET / HTTP/1.1" 200 203023 "referer" "agent"

Defined by https://httpd.apache.org/docs/current/mod/mod_log_config.html. Requests, referers and
agents are whatever a client sent: quotes (escaped or not), TLS handshakes, any bytes. Every step
here takes time linear in the line, since lines are made by strangers.
"""

import re
from datetime import timedelta

from adapters.importers.instants import SECONDS, start_of_minute
from domain.records import Activity, Record, Reject, Rejected

_MONTHS = {
    name: number
    for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)
}

_TIME = re.compile(rb"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):\d\d ([+-])(\d\d)([0-5]\d)")

# A quoted string in which quotes are escaped, as Apache and nginx write it.
_QUOTED = rb'"[^"\\]*(?:\\.[^"\\]*)*"'

# Status, bytes, and for the combined format referer and agent (1). The quote that ends the agent is
# missing where a line was cut off.
_END = (
    rb" (?:\d{3}|-) (?:\d+|-)"
    rb"(?:\s*$| " + _QUOTED + rb' "([^"\\]*(?:\\.[^"\\]*)*)(?:"(?= |\s*$)|$))'
)

# Nearly every line: host (1), ident, user, time (2), request, and the end with the agent (3).
_LINE = re.compile(rb"([^ ]*) [^ ]* [^\[]* \[([^\]]*)\] " + _QUOTED + _END)

_BEHIND_REQUEST = re.compile(rb'"' + _END)
_STATUS = re.compile(rb'" (?:\d{3}|-) (?:\d+|-) "')


class Combined:
    """Parser of both formats. The visitor is the first field, with_agent: and the agent."""

    remembers = False
    header_lines = 0

    def __init__(self, *, with_agent: bool) -> None:
        self._with_agent = with_agent
        # What the last good time began and ended with (`09/Jul/1995:00:00:`, ` -0400`).
        self._minute = self._zone = b"none yet"
        self._minute_at = 0

    def parse(self, line_number: int, line: bytes) -> Record | Rejected | None:
        """A sign of life of the line's visitor."""
        match = _LINE.match(line)
        fields = match.groups() if match is not None else _oddly_quoted(line)
        if fields is None:
            return Rejected(line_number, Reject.NO_MATCH) if line.strip() else None
        host, text, agent = fields
        at = self._micros(text)
        if at is None:
            return Rejected(line_number, Reject.BAD_TIME)
        if not host or host == b"-":
            return Rejected(line_number, Reject.NO_VISITOR)
        try:
            visitor = host.decode()
        except UnicodeDecodeError:
            return Rejected(line_number, Reject.NOT_TEXT)
        if self._with_agent:
            visitor = f"{visitor} {(agent or b'-').decode(errors='backslashreplace')}"
        return Record(line_number, at, Activity.SEEN, visitor)

    def _micros(self, text: bytes) -> int | None:
        """`09/Jul/1995:00:00:01 -0400` in microseconds, None if it is no time."""
        # Lines of one minute differ in two digits; working all out anew costs ten times as much.
        if not (text.startswith(self._minute) and text.endswith(self._zone)):
            parts = _TIME.fullmatch(text)
            minute_at = _minute_at(parts) if parts else None
            if minute_at is None:
                return None
            self._minute, self._zone, self._minute_at = text[:18], text[20:], minute_at
        seconds = SECONDS.get(text[18:20])
        return self._minute_at + seconds if seconds is not None and len(text) == 26 else None


def _oddly_quoted(line: bytes) -> tuple[bytes, bytes, bytes | None] | None:
    """Host, time and agent of a line with quotes or brackets where they need not be."""
    closing = line.find(b'] "')
    opening = line.rfind(b" [", 0, closing) if closing > 0 else -1
    host, _, ident_and_user = line[: max(opening, 0)].partition(b" ")
    if b" " not in ident_and_user:
        return None
    end = _BEHIND_REQUEST.search(line, closing + 3)
    if end is not None:
        return host, line[opening + 2 : closing], end[1]
    # Servers that do not escape quotes: the agent stands between the last quotes of the line.
    status = _STATUS.search(line, closing + 3)
    rest = line.rstrip()
    if status is None or not rest.endswith(b'"'):
        return None
    split = rest.rfind(b'" "', status.end())
    return (host, line[opening + 2 : closing], rest[split + 3 : -1]) if split > 0 else None


def _minute_at(parts: re.Match[bytes]) -> int | None:
    day, month, year, hour, minute, sign, offset_hours, offset_minutes = parts.groups()
    if month not in _MONTHS:
        return None
    offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    if sign == b"-":
        offset = -offset
    return start_of_minute(
        int(year), _MONTHS[month], int(day), int(hour), int(minute), offset=offset
    )
