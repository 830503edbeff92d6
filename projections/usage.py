"""Usage: how often each event happened per hour and policy, and how many bytes it freed.

An event counts in the hour in which it took effect, so a sweep that comes late fills the hours that
it missed. Policies themselves are no usage: `policy.applied` is not counted.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Select, func, select, tuple_

from domain.policy import HOUR
from domain.ports import PARTITION, Recorded
from domain.session import EVENTS, Event
from projections.tables import Projection, event_name, marked, serving, usage

NAME = "usage"
MOST = 10_000
"""Rows that one page holds at most."""

_EVENT_NAMES = {kind: event_name(kind.TOPIC) for kind in EVENTS}


# -- handler ----------------------------------------------------------------------------------


def rows(generation: int, events: Iterable[Recorded]) -> list[tuple[Any, ...]]:
    """The sums of a batch, in order of their key."""
    sums: dict[tuple[int, str, str], tuple[int, int]] = {}
    for recorded in events:
        event = recorded.event
        if not isinstance(event, Event):
            continue
        hour = event.effective_at - event.effective_at % HOUR
        key = (hour, event.policy, _EVENT_NAMES[type(event)])
        count, freed = sums.get(key, (0, 0))
        sums[key] = (count + 1, freed + event.__dict__.get("bytes_freed", 0))
    return [(generation, *key, *sums[key]) for key in sorted(sums)]


USAGE = Projection(
    NAME,
    usage,
    ("generation", "hour", "policy", "event", "count", "bytes_freed"),
    rows,
    on_conflict="ON CONFLICT (partition, generation, hour, policy, event) DO UPDATE SET "
    "count = usage.count + excluded.count, "
    "bytes_freed = usage.bytes_freed + excluded.bytes_freed",
)


# -- queries ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Total:
    """How often an event happened under a policy, and the bytes it freed."""

    policy: str
    event: str
    count: int
    bytes_freed: int


@dataclass(frozen=True)
class Hour:
    """The same within one hour, which starts at `hour`."""

    hour: int
    policy: str
    event: str
    count: int
    bytes_freed: int


@dataclass(frozen=True)
class HourPage:
    """Some of them, and where the next page begins (None: there is none)."""

    hours: Sequence[Hour]
    next: str | None


def totals(
    connection: Connection, *, since: int | None = None, until: int | None = None
) -> Sequence[Total]:
    """Sums per policy and event, over the hours that start from `since` to before `until`."""
    columns = (
        usage.c.policy,
        usage.c.event,
        func.sum(usage.c.count),
        func.sum(usage.c.bytes_freed),
    )
    query = (
        _within(select(*columns), since, until)
        .group_by(usage.c.policy, usage.c.event)
        .order_by(usage.c.policy, usage.c.event)
    )
    return [
        Total(policy, event, int(count), int(freed))
        for policy, event, count, freed in connection.execute(query)
    ]


def hourly(
    connection: Connection,
    *,
    shown: Collection[str] | None = None,
    since: int | None = None,
    until: int | None = None,
    after: str | None = None,
    limit: int = MOST,
) -> HourPage:
    """The hours that start from `since` to before `until`, in order; those without events lack.

    shown: the policies of which to list them (None: of all). after: `HourPage.next` of the page
    before. Raises ValueError if that comes from nowhere.
    """
    limit = min(limit, MOST)
    key = (usage.c.hour, usage.c.policy, usage.c.event)
    query = _within(select(*(usage.c[field.name] for field in fields(Hour))), since, until)
    if shown is not None:
        query = query.where(usage.c.policy.in_(shown))
    if after is not None:
        query = query.where(tuple_(*key) > tuple_(*_key(after)))
    query = query.order_by(*key).limit(limit + 1)
    hours = [Hour(*found) for found in connection.execute(query)]
    more = len(hours) > limit
    return HourPage(hours[:limit], _cursor(hours[limit - 1]) if more else None)


def _cursor(last: Hour) -> str:
    return f"{last.hour:x}-{last.policy}-{last.event}"


def _key(cursor: str) -> tuple[int, str, str]:
    hour, _, name = cursor.partition("-")
    policy, _, event = name.rpartition("-")  # a policy's name may have hyphens, an event's has none
    return marked(hour), policy, event


def _within(query: Select[Any], since: int | None, until: int | None) -> Select[Any]:
    query = query.where(usage.c.partition == PARTITION, usage.c.generation == serving(NAME))
    if since is not None:
        query = query.where(usage.c.hour >= since)
    if until is not None:
        query = query.where(usage.c.hour < until)
    return query
