"""What sweeps reported, added up by the hour in the transaction of each batch: so the figures of a
period cannot differ from what was done in it.

The row of the hour is locked behind the head of the log, by everybody in this order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.schema import sweeps
from domain.policy import HOUR
from domain.ports import SweepCount

_COUNTS = ("batches", "due", "done", "held", "rearmed", "failed", "events")
_ADDED = ", ".join(f"{name} = sweeps.{name} + excluded.{name}" for name in _COUNTS)
_UPSERT = f"ON CONFLICT (partition, hour) DO UPDATE SET {_ADDED}"


@dataclass(frozen=True)
class Swept:
    """What the sweeps of one hour, or of several, reported. events: how many they wrote."""

    hour: int
    batches: int = 0
    due: int = 0
    done: int = 0
    held: int = 0
    rearmed: int = 0
    failed: int = 0
    events: int = 0

    @property
    def adds_up(self) -> bool:
        return self.due == self.done + self.held + self.rearmed + self.failed


def add(connection: Connection, now: int, count: SweepCount) -> None:
    """A batch that looked at nothing leaves nothing. now: by the clock of the sweep."""
    if not count.due:
        return
    events = sum((count.events or {}).values())
    row = (now - now % HOUR, 1, count.due, count.done, count.held, count.rearmed, count.failed)
    bulk.insert(connection, sweeps, ("hour", *_COUNTS), [(*row, events)], _UPSERT)


def by_hour(connection: Connection, since: int, until: int) -> Sequence[Swept]:
    """The hours that begin from `since` to before `until` in which something was swept."""
    query = (
        f"SELECT hour, {', '.join(_COUNTS)} FROM sweeps "
        f"WHERE partition = 0 AND hour >= {int(since)} AND hour < {int(until)} ORDER BY hour"
    )
    return [Swept(*row) for row in connection.exec_driver_sql(query)]
