"""The audit trail: what happened to a session, when, why, and who did it. One row per event."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from json import JSONEncoder, loads
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, or_, select, union_all

from domain.facts import FACTS, Pruned
from domain.policy import Applied
from domain.ports import PARTITION, Logged, Recorded
from domain.session import EVENTS, Created, Event
from projections.tables import Projection, audit, event_name, marked, serving

NAME = "audit"
MOST = 1_000
"""Rows that one page holds at most."""

_COLUMNS = (
    "position",
    "session_id",
    "event",
    "effective_at",
    "recorded_at",
    "policy",
    "policy_version",
    "rule",
    "actor",
    "token",
    "detail",
)
_KINDS: tuple[type[Logged], ...] = (*EVENTS, Applied, *FACTS)
_EVENT_NAMES = {kind: event_name(kind.TOPIC) for kind in _KINDS}

# Which fields of an event go into `detail`: those that have no column of their own. A policy's
# document stands in the log and among the policies; here it would only be heavy.
_ELSEWHERE = {field.name for field in fields(Event)} | {*_COLUMNS, "owner", "document"}
_IN_DETAIL = {
    kind: tuple(field.name for field in fields(kind) if field.name not in _ELSEWHERE)
    for kind in _KINDS
}

_canonical = JSONEncoder(sort_keys=True, separators=(",", ":")).encode


# -- handler ----------------------------------------------------------------------------------


def rows(generation: int, events: Sequence[Recorded]) -> list[tuple[Any, ...]]:
    """One row per event; none where the body was pruned."""
    return [_row(generation, one) for one in events if not isinstance(one.event, Pruned)]


def _row(generation: int, recorded: Recorded) -> tuple[Any, ...]:
    event = recorded.event
    facts = event.__dict__
    return (
        generation,
        recorded.position,
        event.originator_id,
        _EVENT_NAMES[type(event)],
        event.effective_at,
        recorded.recorded_at,
        event.policy,
        event.originator_version if isinstance(event, Applied) else facts.get("policy_version"),
        facts.get("rule"),
        event.actor,
        facts.get("owner") if isinstance(event, Created) else facts.get("token"),
        _detail(event),
    )


def _detail(event: Logged) -> str | None:
    """The remaining facts as canonical JSON; None if there are none."""
    names = _IN_DETAIL[type(event)]
    if not names:
        return None
    facts = event.__dict__
    detail = {name: facts[name] for name in names if facts[name] is not None}
    return _canonical(detail) if detail else None


AUDIT = Projection(NAME, audit, ("generation", *_COLUMNS), rows)


# -- queries ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One fact. event: such as `session.expired`. token: whom it is about. detail: more facts."""

    position: int
    session_id: str
    event: str
    effective_at: int
    recorded_at: int
    policy: str
    policy_version: int | None
    rule: str | None
    actor: str
    token: str | None
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """Some entries, and where the next page begins (None: there is none)."""

    entries: Sequence[Entry]
    next: str | None


def of_session(
    connection: Connection, session_id: str, *, after: int = 0, limit: int = 100
) -> Sequence[Entry]:
    """The life of one session (or of `policy:NAME`), behind position `after`, in order."""
    query = (
        _served()
        .where(audit.c.session_id == session_id, audit.c.position > after)
        .order_by(audit.c.position)
        .limit(min(limit, MOST))
    )
    return [_entry(found) for found in connection.execute(query)]


def search(
    connection: Connection,
    *,
    shown: Collection[str] | None = None,
    event: str | None = None,
    since: int | None = None,
    until: int | None = None,
    after: str | None = None,
    limit: int = 100,
) -> Page:
    """What happened from `since` to before `until`, in the order in which it took effect.

    shown: the policies of which to list it (None: of all). event: such as `session.erased`. after:
    `Page.next` of the page before. A page reads no more rows than it needs, unless several policies
    are asked for. What is recorded late takes its place at the time it took effect, so a page read
    earlier may lack it; who follows the log follows positions.
    Raises ValueError if `after` comes from nowhere.
    """
    limit = min(limit, MOST)
    query = _served()
    if since is not None:
        query = query.where(audit.c.effective_at >= since)
    if until is not None:
        query = query.where(audit.c.effective_at < until)
    if after is not None:
        query = query.where(_behind(after))
    one_policy = shown is not None and len(shown) == 1
    if shown is not None:
        query = query.where(audit.c.policy.in_(shown))
    if event is not None:
        query = query.where(audit.c.event == event)
    elif one_policy:
        query = _any_event(query, limit + 1)
    query = query.order_by("effective_at", "position").limit(limit + 1)
    entries = [_entry(found) for found in connection.execute(query)]
    more = len(entries) > limit
    return Page(entries[:limit], _cursor(entries[limit - 1]) if more else None)


def _served() -> Select[Any]:
    return select(*(audit.c[name] for name in _COLUMNS)).where(
        audit.c.partition == PARTITION, audit.c.generation == serving(NAME)
    )


def _any_event(query: Select[Any], limit: int) -> Select[Any]:
    """The first rows of `query` for each kind of event, together.

    The kinds are few and known; so the index by policy and event serves a policy as a whole too,
    and a rare policy is found without reading through the others.
    """
    firsts = [
        select(
            query.where(audit.c.event == name)
            .order_by(audit.c.effective_at, audit.c.position)
            .limit(limit)
            .subquery()
        )
        for name in _EVENT_NAMES.values()
    ]
    return select(union_all(*firsts).subquery())


def _behind(cursor: str) -> Any:
    effective_at, position = map(marked, cursor.partition("-")[::2])
    return and_(
        audit.c.effective_at >= effective_at,
        or_(audit.c.effective_at > effective_at, audit.c.position > position),
    )


def _cursor(entry: Entry) -> str:
    return f"{entry.effective_at:x}-{entry.position:x}"


def entry(recorded: Recorded) -> Entry:
    """The entry of an event, made from the log itself: exports wait for no projection."""
    _, *values = _row(0, recorded)
    named = dict(zip(_COLUMNS, values, strict=True))
    return Entry(**{**named, "detail": loads(named["detail"]) if named["detail"] else {}})


def _entry(found: Row[Any]) -> Entry:
    values = found._mapping
    detail = loads(values["detail"]) if values["detail"] else {}
    return Entry(**{**values, "detail": detail})
