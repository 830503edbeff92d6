"""Whether everything that was due in a period was done: from what sweeps reported, from the audit,
and from what is still due."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from adapters.log import sweep_counts
from adapters.log.engine import Engines
from adapters.log.sweep_counts import Swept
from adapters.vault.holds import state_decoder
from domain.policy import HOUR
from domain.ports import PARTITION
from domain.session import SCHEDULER
from projections import active_sessions
from projections.active_sessions import DuePage, Policies
from projections.audit import NAME
from projections.tables import audit, serving


@dataclass(frozen=True)
class Done:
    """What rules did in the period. latest: the longest time, in microseconds, from due to done."""

    event: str
    policy: str
    count: int
    latest: int


@dataclass(frozen=True)
class Completeness:
    """A period of whole hours, [since, until).

    hours: what sweeps reported. done: what took effect in the period by rules. recorded: events
    that were recorded in it by rules; those that no sweep wrote were written along with a command
    to the same session, which carries out first what is due. overdue: what was due by `asked`, the
    end of the period or the present, and is not done.
    """

    since: int
    until: int
    asked: int
    hours: Sequence[Swept]
    done: Sequence[Done]
    recorded: int
    overdue: DuePage

    @property
    def swept(self) -> Swept:
        """The sum of the hours."""
        names = ("batches", "due", "done", "held", "rearmed", "failed", "events")
        return Swept(self.since, *(sum(getattr(one, name) for one in self.hours) for name in names))

    @property
    def with_commands(self) -> int:
        return self.recorded - self.swept.events

    @property
    def adds_up(self) -> bool:
        """due = done + held + rearmed + failed in every hour, and the log has what they wrote."""
        return all(one.adds_up for one in self.hours) and self.with_commands >= 0

    @property
    def ok(self) -> bool:
        return self.adds_up and not self.overdue.sessions


def completeness(
    engines: Engines,
    policies: Policies,
    since: int,
    until: int,
    now: int,
    *,
    after: str | None = None,
    limit: int = 100,
) -> Completeness:
    """The hours from that of `since` to that before `until`. The audit must have caught up.

    after, limit: which page of what is overdue. Raises ValueError if `after` comes from nowhere.
    """
    begin, end, asked = since - since % HOUR, until + -until % HOUR, min(until, now)
    by_rules = (
        audit.c.partition == PARTITION,
        audit.c.generation == serving(NAME),
        audit.c.actor == SCHEDULER,
        audit.c.event.startswith("session."),  # what a worker says of requests is no sweep
        audit.c.effective_at < end,
    )
    late = func.max(audit.c.recorded_at - audit.c.effective_at)
    grouped = (
        select(audit.c.event, audit.c.policy, func.count(), late)
        .where(*by_rules, audit.c.effective_at >= begin)
        .group_by(audit.c.event, audit.c.policy)
        .order_by(audit.c.event, audit.c.policy)
    )
    in_period = (audit.c.recorded_at >= begin, audit.c.recorded_at < end)
    counted = select(func.count()).select_from(audit).where(*by_rules, *in_period)
    with engines.snapshot() as connection:
        return Completeness(
            begin,
            end,
            asked,
            sweep_counts.by_hour(connection, begin, end),
            [Done(*row) for row in connection.execute(grouped)],
            int(connection.execute(counted).scalar_one()),
            active_sessions.due(
                connection, policies, state_decoder(connection), asked, after=after, limit=limit
            ),
        )
