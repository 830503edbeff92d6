"""The log as rows for an auditor's own tools, in the order of positions, in bounded memory."""

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any

from adapters.exports import Column, Kind
from adapters.http.requests import Entry, RequestLog
from adapters.log.engine import Engines
from adapters.log.entries import bodies
from adapters.log.event_log import SqlLog
from adapters.log.tree import Tree
from domain.facts import Pruned
from domain.ports import Recorded
from projections import audit
from projections.tables import event_name

_PAGE = 2_000
"""Events that are read, and proven, at once."""

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

PROOFS: Sequence[Column] = (
    Column("leaf_index", Kind.NUMBER),
    Column("leaf", Kind.TEXT),
    Column("leaf_bytes", Kind.TEXT),
    Column("proof", Kind.TEXTS),
)
"""What proves that an event stands in the log: its place in the tree, the hash of its leaf, what is
hashed (None: it was pruned), and the inclusion proof, all bytes in base64."""

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
    What was pruned is named by its position and nothing else, unless a period or policy is asked
    for: nobody knows any more what it belonged to. Raises CorruptEvent."""
    whole = shown is None and since is None and until is None
    for recorded in _recorded(log):
        if isinstance(recorded.event, Pruned):
            if whole:
                yield {**dict.fromkeys(one.name for one in EVENTS), **_pruned(recorded)}
            continue
        if since is not None and recorded.recorded_at < since:
            continue
        if until is not None and recorded.recorded_at >= until:
            continue
        if shown is not None and recorded.event.policy not in shown:
            continue
        yield vars(audit.entry(recorded))


def _pruned(recorded: Recorded) -> dict[str, Any]:
    return {"position": recorded.position, "event": event_name(recorded.event.TOPIC)}


def with_proofs(
    rows: Iterable[Mapping[str, Any]], tree: Tree, engines: Engines, size: int
) -> Iterator[Mapping[str, Any]]:
    """The same rows with their proofs against the checkpoint of that size; what came after it is
    left out."""
    last = tree.standing().position(size - 1)
    covered = takewhile(lambda row: row["position"] <= last, rows)
    while page := list(islice(covered, _PAGE)):
        positions = [row["position"] for row in page]
        with engines.read() as connection:
            found = bodies(connection, positions)
        for row, proof in zip(page, tree.inclusions(positions, size), strict=True):
            body = found.get(row["position"])
            yield {
                **row,
                "leaf_index": proof.index,
                "leaf": _base64(proof.leaf),
                "leaf_bytes": _base64(body) if body is not None else None,
                "proof": [_base64(one) for one in proof.hashes],
            }


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


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
