"""The timeline: what is due for a session, when, and under which rule.

Pure: `advance` takes the session, every version of its policy, the last presence and `now`, and
answers with the whole chain of events that is due by then, in order, each effective at its own due
instant. Sweeps emit what it says, reads hide what it says, simulations run on it: so a session ends
at the same instant whether a sweeper ran then, three days later, or never.

When a new version of a policy takes effect, it decides from that instant on: what it would have
ended earlier is due at the instant it takes effect.
"""

from dataclasses import dataclass
from typing import NamedTuple

from domain.policy import Do, Rule, Since, Version, Versions
from domain.session import (
    NEVER,
    SCHEDULER,
    Compressed,
    Erased,
    Event,
    Expired,
    Expiring,
    Scope,
    Session,
    Summarized,
    evolve,
)

_DELETING = frozenset({Do.SUMMARIZE, Do.ERASE})
"""What a hold suspends. Compression is lossless, an expiry hides but deletes nothing."""


class Due(NamedTuple):
    """One thing a rule demands. at: the due instant. deadline: for warnings, what they warn of."""

    at: int
    rule: Rule
    version: Version
    deadline: int | None = None


class Outcome(NamedTuple):
    """What `advance` found.

    events: due by now, in order. session: the state after them. next_at: when something is due
    next (None: nothing ever, unless something happens). held: whether a hold suspends something
    that would be due.
    """

    events: tuple[Event, ...]
    session: Session
    next_at: int | None
    held: bool


@dataclass(frozen=True)
class Forecast:
    """When the session expires and is erased if nothing else happens, and why it ends first.

    None: no rule, or a hold, decides.
    """

    expires_at: int | None
    erases_at: int | None
    rule: str | None
    policy_version: int | None


def advance(session: Session, versions: Versions, last_seen: int, now: int) -> Outcome:
    """Everything that is due by `now`, folded to the end of the chain.

    last_seen: the newest presence known beside the log; the later of it and the session's counts.
    """
    events: list[Event] = []
    while True:
        due = next_due(session, versions, last_seen, now)
        if due is None or due.at > now:
            held = _holds_back(session, versions, last_seen, now)
            return Outcome(tuple(events), session, due.at if due else None, held)
        event = _event(session, due, last_seen)
        events.append(event)
        session = evolve(session, event)


def next_due(session: Session, versions: Versions, last_seen: int, now: int) -> Due | None:
    """The next thing the policy demands, due or not. Warnings overtaken by `now` are left out."""
    if session.erased_at is not None:
        return None
    for index, version in enumerate(versions):
        first_at = NEVER if index + 1 == len(versions) else versions[index + 1].effective_from
        first: Rule | None = None
        for rule in version.policy.rules:
            at = _due_at(rule, session, version, last_seen, now)
            if at is not None and at < first_at:
                first_at, first = at, rule
        if first is not None:
            deadline = None
            if first.do is Do.WARN:
                deadline = _first_expiry(session, version, last_seen)
            return Due(first_at, first, version, deadline)
    return None


def forecast(session: Session, versions: Versions, last_seen: int, now: int) -> Forecast:
    """What awaits the session if nobody is seen again."""
    expires_at, erases_at = session.expired_at, session.erased_at
    rule: str | None = session.expired_by
    policy_version: int | None = None
    for event in advance(session, versions, last_seen, NEVER).events:
        if isinstance(event, Expired) and expires_at is None:
            expires_at = event.effective_at
        elif isinstance(event, Erased) and event.scope is Scope.EVERYTHING:
            erases_at = event.effective_at
        else:
            continue
        if policy_version is None:
            rule = rule or event.rule
            policy_version = event.policy_version
    return Forecast(expires_at, erases_at, rule, policy_version)


def _due_at(rule: Rule, session: Session, version: Version, last_seen: int, now: int) -> int | None:
    """The instant at which a rule of one version demands something; None: never, as things are."""
    base = getattr(session, _BASE[rule.since])
    if base is None or not _applies(rule, session):
        return None
    if rule.since is Since.LAST_SEEN and last_seen > base:
        base = last_seen
    at: int = base + rule.after
    if rule.do is Do.EXPIRE:
        at = _expiry(at, rule, session)
    at = max(at, version.effective_from)
    if rule.do in _DELETING:
        return _after_holds(session, at)
    if rule.do is Do.WARN:
        deadline = _first_expiry(session, version, last_seen)
        if deadline is None or session.warned_for == deadline or deadline <= max(now, at):
            return None
    return at


_BASE = {
    Since.CREATED: "created_at",
    Since.LAST_SEEN: "last_seen_at",
    Since.COMPLETED: "completed_at",
    Since.FAILED: "failed_at",
    Since.SUMMARIZED: "summarized_at",
    Since.EXPIRED: "expired_at",
    Since.STORED: "stored_at",
}


def _applies(rule: Rule, session: Session) -> bool:
    """Whether the rule still has something to do."""
    if rule.do is Do.ERASE:
        return rule.scope not in session.erased
    if session.expired_at is not None:
        return False
    if rule.do is Do.SUMMARIZE:
        return session.summarized_at is None
    if rule.do is Do.COMPRESS:
        return session.compressed_at is None and session.summarized_at is None
    return True


def _expiry(at: int, rule: Rule, session: Session) -> int:
    """An expiry waits for an extension, and counts anew from a recovery."""
    if session.recovered_at is not None:
        at = max(at, session.recovered_at + rule.after)
    return max(at, session.extended_until or 0)


def _after_holds(session: Session, at: int) -> int | None:
    """When a deletion due at `at` may happen: not before a release, not while a hold stands."""
    if session.released_at is not None:
        at = max(at, session.released_at)
    return session.held_until(at) if session.holds else at


def _first_expiry(session: Session, version: Version, last_seen: int) -> int | None:
    """The soonest expiry under this version."""
    instants = [
        _due_at(rule, session, version, last_seen, NEVER)
        for rule in version.policy.rules
        if rule.do is Do.EXPIRE
    ]
    return min((instant for instant in instants if instant is not None), default=None)


def _holds_back(session: Session, versions: Versions, last_seen: int, now: int) -> bool:
    """Whether something would be due by `now` if no hold stood."""
    if not session.holds:
        return False
    due = next_due(session.changed(holds=()), versions, last_seen, now)
    return due is not None and due.at <= now and due.rule.do in _DELETING


def _event(session: Session, due: Due, last_seen: int) -> Event:
    """The fact that a rule was carried out, effective when it was due."""
    rule, number = due.rule, due.version.number
    head = (session.id, session.version + 1, due.at, session.policy, SCHEDULER)
    match rule.do:
        case Do.EXPIRE:
            return Expired(*head, rule.name, number, max(session.last_seen_at, last_seen))
        case Do.ERASE:
            scope = rule.scope or Scope.EVERYTHING
            return Erased(*head, scope, rule.name, number)
        case Do.SUMMARIZE:
            return Summarized(*head, rule.name, number)
        case Do.COMPRESS:
            return Compressed(*head, rule.name, number)
        case Do.WARN:
            return Expiring(*head, rule.name, number, due.deadline or due.at)
