"""The sweep: emit what is due, in bounded batches, by any number of processes at once.

A sweep needs no leader: it claims due rows that nobody else holds, asks `timeline` what is due for
each, and writes the answers with expected versions. Somebody who was seen meanwhile is re-armed,
somebody who is held falls due again when the hold ends, somebody who cannot be decided is tried
again later - so nobody starves.
"""

from collections.abc import Callable, Mapping, Sequence

from domain.policy import Versions
from domain.ports import Append, Found, Log, Mark, Rearm, SweepCount, Verdict
from domain.session import Kept
from domain.timeline import advance, ages_matter
from domain.use_cases.erase import appended

BATCH = 1_000
"""Rows per transaction: large enough that the commit costs little, small enough that a sweep over
a backlog holds no transaction longer than some 50 ms."""


def decide(
    found: Found, versions: Versions | None, now: int, kept: Sequence[Kept] | None = None
) -> Append | Rearm:
    """What happens to one claimed session. kept: as `advance` has it."""
    if versions is None:
        return Rearm(found.session.id, None, Verdict.FAILED)
    try:
        outcome = advance(found.session, versions, found.last_seen, now, kept or None)
        if outcome.events:
            return appended(found, outcome)
    except (ValueError, ArithmeticError, LookupError):
        return Rearm(found.session.id, None, Verdict.FAILED)
    verdict = Verdict.HELD if outcome.held else Verdict.REARMED
    return Rearm(found.session.id, outcome.next_at, verdict)


def sweep_once(
    log: Log,
    policies: Mapping[str, Versions],
    now: int,
    holder: str,
    limit: int = BATCH,
    mark: Mark | None = None,
) -> SweepCount:
    """One batch. due = done + held + rearmed + failed."""

    def decide_all(claimed: Sequence[Found]) -> Sequence[Append | Rearm]:
        return decisions(log, policies, claimed, now)

    return log.sweep(now, limit, decide_all, holder, mark)


def decisions(
    log: Log, policies: Mapping[str, Versions], claimed: Sequence[Found], now: int
) -> Sequence[Append | Rearm]:
    """What happens to these sessions; how old their items are is asked once, for those it matters
    to."""
    mixed = [
        found.session.id
        for found in claimed
        if ages_matter(found.session, policies.get(found.session.policy, ()))
    ]
    kept = log.kept(mixed) if mixed else {}
    return [
        decide(found, policies.get(found.session.policy), now, kept.get(found.session.id))
        for found in claimed
    ]


def sweep(
    log: Log,
    policies: Mapping[str, Versions],
    now: int,
    holder: str,
    *,
    limit: int = BATCH,
    keep_on: Callable[[SweepCount], bool] = lambda count: True,
) -> SweepCount:
    """Batches until nothing is due any more, or `keep_on` says no; the sum of their counts.

    keep_on: told the count of every batch, once it is committed. A later batch may fail: whoever
    must know what was done until then adds those up.
    """
    total = SweepCount()
    while True:
        count = sweep_once(log, policies, now, holder, limit)
        total += count
        if not keep_on(count) or not count.more:
            return total


def preview(
    log: Log, policies: Mapping[str, Versions], found: Sequence[Found | Rearm], now: int
) -> SweepCount:
    """What a sweep would do with these rows, written nowhere. A `Rearm` is decided already."""
    answers: list[Append | Rearm] = [row for row in found if isinstance(row, Rearm)]
    answers += decisions(log, policies, [r for r in found if isinstance(r, Found)], now)
    events: dict[str, int] = {}
    for answer in answers:
        if isinstance(answer, Append):
            for event in answer.events:
                events[event.TOPIC] = events.get(event.TOPIC, 0) + 1
    verdicts = [answer.verdict for answer in answers if isinstance(answer, Rearm)]
    return SweepCount(
        due=len(answers),
        done=len(answers) - len(verdicts),
        held=verdicts.count(Verdict.HELD),
        rearmed=verdicts.count(Verdict.REARMED),
        failed=verdicts.count(Verdict.FAILED),
        events=events,
    )
