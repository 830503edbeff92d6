"""The choke point of every deletion.

Whatever deletes data of a session goes through here, so that holds are checked in one place:
nothing else sets `Append.deletes`, and the vault deletes nothing without it.
"""

from domain.errors import OnHold
from domain.ports import NO_CHANGES, Append, Changes, Found
from domain.session import Erased, Event, Scope, Session, evolve
from domain.timeline import Outcome


def appended(
    found: Found,
    outcome: Outcome,
    changes: Changes = NO_CHANGES,
) -> Append:
    """An append of what `timeline` says is due; it deletes what the final erasure takes."""
    return Append(
        before=found.session,
        after=outcome.session,
        events=outcome.events,
        due_at=outcome.next_at,
        changes=changes,
        owner=found.owner,
        deletes=deletes(found.session, outcome.events),
    )


def deletes(session: Session | None, events: tuple[Event, ...]) -> bool:
    """Whether these events, which follow `session` (None: begin it), take its rows with them.

    Raises OnHold if a hold stands then: the timeline suspends what is held, so an erasure that
    arrives here under a hold is an error of the caller and must not happen.
    """
    if not any(isinstance(event, Erased) for event in events):
        return False
    for event in events:
        if isinstance(event, Erased) and session is not None:
            if session.held_until(event.effective_at) != event.effective_at:
                raise OnHold(session.id, session.held_until(event.effective_at))
            if event.scope is Scope.EVERYTHING:
                return True
        session = evolve(session, event)
    return False
