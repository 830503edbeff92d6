"""The choke point of every deletion.

Whatever deletes data of a session goes through here, so that holds are checked in one place:
nothing else sets `Append.deletes` or makes a `Part`, and the vault deletes nothing without them.
That no hold was placed since is looked at again in the transaction that deletes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from domain.access import AccessRequest, AccessStatus
from domain.errors import OnHold
from domain.facts import AccessErased, CopyEnded
from domain.policy import Versions, in_force
from domain.ports import (
    NO_CHANGES,
    Append,
    Belongings,
    Changes,
    CopyStore,
    Deletion,
    Found,
    Log,
    Part,
)
from domain.session import SCHEDULER, Erased, Event, Phase, Scope, Session, Summarized, evolve
from domain.timeline import Outcome, advance, takes
from domain.use_cases.redact import Rewrite


def due_by(
    log: Log,
    session: Session,
    versions: Versions,
    last_seen: int,
    now: int,
    before: Sequence[Event] = (),
) -> Outcome:
    """What `timeline` says is due, for whoever writes it: exact about items of different age.

    before: events that are not written yet, and whose erasures are therefore still to come.
    """
    outcome = advance(session, versions, last_seen, now)
    if all(getattr(event, "oldest_left", None) is None for event in outcome.events):
        return outcome
    kept = [
        one
        for one in log.kept([session.id])[session.id]
        if not any(takes(event, one.scope, one.stored_at) for event in before)
    ]
    return advance(session, versions, last_seen, now, kept or None)


def appended(
    found: Found,
    outcome: Outcome,
    changes: Changes = NO_CHANGES,
) -> Append:
    """An append of what `timeline` says is due; it deletes what that takes."""
    return Append(
        before=found.session,
        after=outcome.session,
        events=outcome.events,
        due_at=outcome.next_at,
        changes=changes,
        owner=found.owner,
        deletes=deletes(found.session, outcome.events),
    )


def deletes(session: Session | None, events: tuple[Event, ...]) -> tuple[Deletion, ...]:
    """Which rows these events, which follow `session` (None: begin it), take with them.

    Raises OnHold if a hold stands then: the timeline suspends what is held, so an erasure that
    arrives here under a hold is an error of the caller and must not happen.
    """
    if not any(isinstance(event, Erased | Summarized) for event in events):
        return ()
    deletions: list[Deletion] = []
    for event in events:
        if isinstance(event, Erased | Summarized) and session is not None:
            if session.held_until(event.effective_at) != event.effective_at:
                raise OnHold(session.id, session.held_until(event.effective_at))
            if isinstance(event, Summarized):
                deletions.append(Deletion(Scope.FULL))
            elif event.scope is Scope.EVERYTHING:
                return (Deletion(Scope.EVERYTHING),)
            else:
                active = session.phase is Phase.ACTIVE
                deletions.append(Deletion(event.scope, event.oldest_left, ended=not active))
        session = evolve(session, event)
    return tuple(deletions)


def pruned_before(policies: Mapping[str, Versions], now: int) -> Mapping[str, int]:
    """For each policy: whose sessions were erased before this have no bodies in the log any more.

    An erased session can be held no more, so no hold stands against it.
    """
    return {
        name: now - in_force(versions, now).policy.audit_retention
        for name, versions in policies.items()
    }


def drop_copy(store: CopyStore, request: AccessRequest, reason: CopyEnded, now: int) -> None:
    """A copy that somebody asked for goes. No hold keeps it: what it was made of stays."""
    gone = replace(
        request,
        version=request.version + 1,
        subject="",
        status=AccessStatus.ERASED,
        reason=reason,
    )
    fact = AccessErased(request.id, gone.version, now, "", SCHEDULER, reason)
    store.drop(gone, fact, now)


def part(session: Session, found: Belongings, rewrite: Rewrite, now: int) -> Part:
    """What goes of one person from a session that goes on.

    It is no event of the session, so that the log does not connect the sessions of whoever goes.
    Raises OnHold.
    """
    must_not_be_held(session, now)
    return Part(
        found=found,
        items=rewrite.items,
        rewritten=rewrite.rewritten,
        uploads=rewrite.uploads,
        renamed=rewrite.renamed,
        keys=rewrite.keys,
        partial=rewrite.partial,
        policy=session.policy,
        live=session.live,
        holds=session.holds_of_people,
        version=session.version,
    )


def must_not_be_held(session: Session, now: int) -> None:
    """Raises OnHold."""
    until = session.held_until(now)
    if until != now:
        raise OnHold(session.id, until)
