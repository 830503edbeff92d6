"""Why a session was summarized, compressed, expired or erased: the rule, and its deadline step by
step.

Pure. It replays the history up to each such event and asks `timeline` the question that whoever
wrote the event had asked, with what was known then; so the answer is computed by the code that
decides, and an event that it would not have written is found (`agrees` is false).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from domain.policy import Rule, Since, Version
from domain.ports import Recorded
from domain.session import (
    SCHEDULER,
    By,
    Compressed,
    Erased,
    Event,
    Expired,
    Held,
    Session,
    Summarized,
    evolve,
)
from domain.timeline import Because, Step, computation


@dataclass(frozen=True)
class Reason:
    """One step of the computation. at: the deadline after it.

    position: of the event it follows from; None if it follows from none: a term, a version of the
    policy, or a presence that the log keeps no sample of.
    """

    because: Because
    at: int
    position: int | None


@dataclass(frozen=True)
class Explanation:
    """Why one event happened.

    by: what ended it if it was no rule of the policy (then there are no steps, and it was due when
    it was asked for). version: of the policy, None if there is none of that number. due_at: what
    the computation comes to, None if to nothing.
    """

    recorded: Recorded
    by: By | None
    rule: Rule | None
    version: Version | None
    steps: tuple[Reason, ...]
    due_at: int | None

    @property
    def agrees(self) -> bool:
        """Whether the deadline that is computed is the one that was carried out."""
        return self.due_at == self.recorded.event.effective_at

    @property
    def late(self) -> int:
        """For how many microseconds it was due before it was recorded."""
        return self.recorded.recorded_at - self.recorded.event.effective_at


Ending = Summarized | Compressed | Expired | Erased


def explain(history: Sequence[Recorded], versions: Sequence[Version]) -> tuple[Explanation, ...]:
    """Every event of a session's history that took something away, explained.

    history: whole, from `created` on. versions: all of the policy. Raises ValueError if the events
    do not follow each other.
    """
    session: Session | None = None
    positions: dict[str, int] = {}
    found = []
    for recorded in history:
        event = recorded.event
        if not isinstance(event, Event):
            raise ValueError(f"position {recorded.position} is no event of a session")
        if session is not None and isinstance(event, Ending):
            found.append(_explained(recorded, event, session, versions, positions))
        before, session = session, evolve(session, event)
        _note_positions(positions, recorded.position, before, session, event)
    return tuple(found)


def _note_positions(
    positions: dict[str, int], position: int, before: Session | None, after: Session, event: Event
) -> None:
    """Which event gave each field its value."""
    known = vars(before) if before is not None else {}
    for field, value in vars(after).items():
        if field not in known or known[field] != value:
            positions[field] = position
    if isinstance(event, Held):
        positions[event.hold] = position


def _explained(
    recorded: Recorded,
    event: Ending,
    session: Session,
    versions: Sequence[Version],
    positions: dict[str, int],
) -> Explanation:
    version = next((one for one in versions if one.number == event.policy_version), None)
    if event.actor != SCHEDULER and event.rule in tuple(By):
        return Explanation(recorded, By(event.rule), None, version, (), event.effective_at)
    rule = _rule(event.rule, version)
    if rule is None or version is None:
        by = By(event.rule) if event.rule in tuple(By) else None
        due_at = event.effective_at if by is not None else None
        return Explanation(recorded, by, None, version, (), due_at)
    last_seen = _presence(event, rule, session)
    steps = computation(rule, session, version, last_seen)
    reasons = tuple(Reason(s.because, s.at, _position(s, session, positions)) for s in steps)
    due_at = steps[-1].at if steps else None
    return Explanation(recorded, None, rule, version, reasons, due_at)


def _rule(name: str, version: Version | None) -> Rule | None:
    rules = version.policy.rules if version is not None else ()
    return next((rule for rule in rules if rule.name == name), None)


def _presence(event: Ending, rule: Rule, session: Session) -> int:
    """The presence this was decided on. An expiry says it; of other events it follows from when
    they were due, since presence itself is kept in the vault for as long as the session is."""
    if isinstance(event, Expired):
        return event.last_seen
    if rule.since is Since.LAST_SEEN:
        return max(session.last_seen_at, event.effective_at - rule.after)
    return session.last_seen_at


def _position(step: Step, session: Session, positions: dict[str, int]) -> int | None:
    if step.field is None:
        return None
    if step.field == "holds":
        last = next((hold.id for hold in session.holds if hold.until == step.at), None)
        return positions[last] if last is not None else None
    if step.field == "last_seen_at" and step.at != session.last_seen_at:
        return None
    return positions.get(step.field)
