"""Access log of the SEC's EDGAR server, as CSV with a header.

    ip,date,time,zone,cik,accession,extention,code,size,idx,norefer,noagent,find,crawler,browser
    12.44.161.fed,2003-02-20,00:00:00,500.0,78003.0,...,0.0,win

Described at https://www.sec.gov/about/data/edgar-log-file-data-sets. The last part of an address is
masked by letters, the same way for the same address. `zone` has lost its sign and is the same on
every line of a day, so it is left out: times are taken as UTC, hours off at most, all alike.
"""

import re

from adapters.importers.instants import SECONDS, start_of_minute
from domain.records import Activity, Record, Reject, Rejected

_HEADER = b"ip,date,time,"
_COLUMNS = 15
_TIME = re.compile(rb"(\d{4})-(\d\d)-(\d\d),(\d\d):(\d\d):\d\d")


class Edgar:
    """Parser of the format. The visitor is the address, with_agent: and the `browser` column."""

    remembers = False
    header_lines = 0

    def __init__(self, *, with_agent: bool) -> None:
        self._with_agent = with_agent
        # What the last good time began with (`2003-02-20,00:00:`).
        self._minute = b"none yet"
        self._minute_at = 0

    def parse(self, line_number: int, line: bytes) -> Record | Rejected | None:
        """A sign of life of the line's visitor; None for the header."""
        if line.startswith(_HEADER):
            self.header_lines += 1
            return None
        if not line.strip():
            return None
        fields = line.split(b",")
        if len(fields) != _COLUMNS:
            return Rejected(line_number, Reject.NO_MATCH)
        at = self._micros(fields[1] + b"," + fields[2])
        if at is None:
            return Rejected(line_number, Reject.BAD_TIME)
        if fields[0] in (b"", b"-"):
            return Rejected(line_number, Reject.NO_VISITOR)
        try:
            visitor = fields[0].decode()
            if self._with_agent:
                visitor = f"{visitor} {fields[-1].decode() or '-'}"
        except UnicodeDecodeError:
            return Rejected(line_number, Reject.NOT_TEXT)
        return Record(line_number, at, Activity.SEEN, visitor)

    def _micros(self, text: bytes) -> int | None:
        """`2003-02-20,00:00:06` in microseconds, None if it is no time."""
        if not text.startswith(self._minute):
            parts = _TIME.fullmatch(text)
            minute_at = start_of_minute(*map(int, parts.groups())) if parts else None
            if minute_at is None:
                return None
            self._minute, self._minute_at = text[:17], minute_at
        seconds = SECONDS.get(text[17:])
        return self._minute_at + seconds if seconds is not None else None
