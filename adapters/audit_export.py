"""The log as rows for an auditor's own tools, in the order of positions, in bounded memory."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from adapters.exports import Column, Kind
from adapters.http.requests import Entry, RequestLog
from adapters.log.event_log import SqlLog
from domain.ports import Recorded
from projections import audit

_PAGE = 2_000

EVENTS: Sequence[Column] = (
    Column("position", Kind.NUMBER),
    Column("session_id", Kind.TEXT),
    Column("event", Kind.TEXT),
    Column("effective_at", Kind.TIME),
    Column("recorded_at", Kind.TIME),
    Column("policy", Kind.TEXT),
    Column("policy_version", Kind.NUMBER),
    Column("rule", Kind.TEXT),
    Column("actor", Kind.TEXT),
    Column("token", Kind.TEXT),
    Column("detail", Kind.JSON),
)
"""The columns of the audit trail."""

REQUESTS: Sequence[Column] = (
    Column("number", Kind.NUMBER),
    Column("at", Kind.TIME),
    Column("actor", Kind.TEXT),
    Column("role", Kind.TEXT),
    Column("operation", Kind.TEXT),
    Column("method", Kind.TEXT),
    Column("path", Kind.TEXT),
    Column("status", Kind.NUMBER),
    Column("duration_us", Kind.NUMBER),
    Column("session", Kind.TEXT),
    Column("read", Kind.TEXT),
)
"""The columns of the log of requests."""


def event_rows(
    log: SqlLog,
    *,
    shown: Collection[str] | None = None,
    since: int | None = None,
    until: int | None = None,
) -> Iterator[Mapping[str, Any]]:
    """What was recorded from `since` to before `until`: so periods that follow each other divide
    the log, and one that was exported does not change. shown: of these policies (None: all).
    Raises CorruptEvent."""
    for recorded in _recorded(log):
        if since is not None and recorded.recorded_at < since:
            continue
        if until is not None and recorded.recorded_at >= until:
            continue
        if shown is not None and recorded.event.policy not in shown:
            continue
        yield vars(audit.entry(recorded))


def _recorded(log: SqlLog) -> Iterator[Recorded]:
    position, head = 0, log.head()
    while position < head:
        page = log.read(position, _PAGE, head)
        if not page:
            return
        yield from page
        position = page[-1].position


def request_rows(
    requests: RequestLog, *, since: int | None = None, until: int | None = None
) -> Iterator[Mapping[str, Any]]:
    """The log of requests from `since` to before `until`, the oldest first."""
    for number, entry in requests.entries(since=since, until=until):
        yield {"number": number, **request_fields(entry)}


def request_fields(entry: Entry) -> dict[str, Any]:
    """An entry with the name of its operation. Times in microseconds."""
    fields = {**vars(entry), "duration_us": entry.duration}
    del fields["duration"]
    return {**fields, "operation": entry.operation}
