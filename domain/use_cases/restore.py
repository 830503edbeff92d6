"""Doing again, on a database that was restored, what the erasure ledger says was done.

In the order of the ledger and by the clock of each entry, so that a hold wins over an erasure that
only became due behind it. Doing it twice changes nothing: what is so already gives no append.
Deletions go through the choke point (erase.py) like all others.
"""

from collections.abc import Callable

from domain.errors import Conflict, LapseError, OnHold
from domain.facts import About, Refusal, Verification
from domain.ledger import Entry, Kind
from domain.policy import Applied, Versions, in_force, stream_of
from domain.ports import Append, Found, Log
from domain.session import By, Erased, Event, Ground, Scope, Session, project
from domain.timeline import Outcome, advance
from domain.use_cases.erase import deletes, due_by
from domain.use_cases.erasure_requests import ErasureRequests
from domain.use_cases.holds import Holds

LEDGER = "ledger"
"""The actor of what is done again."""


def again(log: Log, versions: Versions, found: Found, entry: Entry) -> Append | None:
    """What makes the session what the entry says it is; None if it is that already.

    When somebody was last seen comes from the entry: heartbeats since the backup are lost, and
    without it the session would be taken for idle.
    """
    seen = max(found.last_seen, int(entry.fields["last_seen"]))
    first = _seen(found.session, seen, entry.at)
    before = project(found.session, first) or found.session
    due = due_by(log, before, versions, seen, entry.at, first)
    for state, events in ((due.session, first + due.events), (before, first)):
        try:
            wanted = _wanted(state, versions, entry, due)
        except OnHold:
            return None
        except LapseError:
            continue  # by what is left of its history it was over by then: the ledger knows better
        if not wanted and not _is_gone(state, entry):
            return None
        return _append(found, versions, events + wanted, seen, entry.at)
    return None


def _seen(session: Session, last_seen: int, at: int) -> tuple[Event, ...]:
    return session.see(min(last_seen, at), LEDGER, every=1) if session.live else ()


def _is_gone(state: Session, entry: Entry) -> bool:
    """Whether rules alone, by the time of an erasure, took what it took."""
    return entry.kind in (Kind.ERASED, Kind.SUMMARIZED) and (
        state.erased_at is not None or Scope.FULL in state.erased
    )


def _wanted(session: Session, versions: Versions, entry: Entry, due: Outcome) -> tuple[Event, ...]:
    """Raises as the commands of `Session`."""
    fields, at = entry.fields, entry.at
    number = in_force(versions, at).number
    match entry.kind:
        case Kind.ERASED:
            return session.erase(number, at, LEDGER, by=By(fields["by"]))
        case Kind.SUMMARIZED:
            return session.summarize(number, at, LEDGER)
        case Kind.EXPIRED:
            return session.expire(By(fields["by"]), number, at, LEDGER)
        case Kind.HELD:
            since = min([at, *(event.effective_at for event in due.events if _ends(event))])
            ground = Ground(fields["ground"])
            return session.hold(fields["hold"], ground, fields["until"], since, LEDGER)
        case Kind.RELEASED:
            return session.release(fields["hold"], at, LEDGER)
        case Kind.EXTENDED:
            return session.extend(fields["until"], at, LEDGER)
        case Kind.RECOVERED if session.expired_at is not None:
            return session.recover(at - session.expired_at + 1, at, LEDGER)
        case Kind.RECOVERED:
            return session.see(at, LEDGER, every=1)
        case _:
            raise ValueError(f"{entry.kind} is about no session")


def _ends(event: Event) -> bool:
    """Whether nothing of the session is left by it. Who placed a hold later than that knew better:
    then the hold is dated before it."""
    return isinstance(event, Erased) and event.scope is Scope.EVERYTHING


def _append(
    found: Found, versions: Versions, events: tuple[Event, ...], seen: int, at: int
) -> Append | None:
    if not events:
        return None
    after = project(found.session, events) or found.session
    outcome = advance(after, versions, seen, at)
    return Append(
        before=found.session,
        after=after,
        events=events,
        due_at=at if outcome.events else outcome.next_at,
        owner=found.owner,
        deletes=deletes(found.session, events),
    )


def apply_again(log: Log, entry: Entry, now: int) -> bool:
    """Record the version of a policy that an entry is about; False if it is there."""
    fields = entry.fields
    name, number = fields["policy"], fields["version"]
    if any(version.number == number for version in log.policies().get(name, ())):
        return False
    applied = Applied(
        stream_of(name), number, fields["effective_from"], name, LEDGER, fields["document"]
    )
    try:
        log.apply_policy(applied, now)
    except Conflict:
        return False
    return True


ATTEMPTS = 20
"""How often an entry is decided again if somebody else was faster."""


def repeat(log: Log, versions_of: Callable[[str], Versions], entry: Entry, now: int) -> bool:
    """Do again what one entry about a session says; False if there was nothing to do.

    now: when that is recorded. Raises Conflict, StoreError.
    """
    session_id = entry.fields["session"]
    for _ in range(ATTEMPTS):
        found = log.find([session_id]).get(session_id)
        if found is None:
            return False  # it began after the backup, or is erased
        append = again(log, versions_of(found.session.policy), found, entry)
        if append is None:
            return False
        try:
            log.append([append], now, together=True)
        except Conflict:
            continue
        return True
    raise Conflict(session_id)


def repeat_for_people(requests: ErasureRequests, holds: Holds, entry: Entry) -> bool:
    """Do again what somebody asked for a person; whether it changed anything.

    Raises OnHold, Conflict, StoreError.
    """
    fields, at = entry.fields, entry.at
    match entry.kind:
        case Kind.REDACTED:
            return requests.erase_part_again(fields["session"], tuple(fields["tokens"]), at)
        case Kind.REQUEST_OPEN:
            return requests.receive_again(
                fields["request"],
                About(fields["about"]),
                Verification(fields["verified_by"]),
                at,
                LEDGER,
                session_id=fields["target"],
                token=fields["token"],
                subject=fields["subject"],
            )
        case Kind.REQUEST_REFUSED:
            return requests.refuse_again(fields["request"], Refusal(fields["ground"]), at, LEDGER)
        case Kind.REQUEST:
            return requests.restore(
                fields["request"],
                About(fields["about"]),
                Verification(fields["verified_by"]),
                fields["requested_at"],
                fields["counts"],
                at,
                LEDGER,
                target=fields["target"],
                keks=fields["keks"],
            )
        case Kind.PERSON_HELD:
            ground, until = Ground(fields["ground"]), fields["until"]
            return holds.place_again(fields["hold"], fields["subject"], ground, until, at, LEDGER)
        case Kind.PERSON_RELEASED:
            return holds.release_again(fields["hold"], at, LEDGER)
        case _:
            raise ValueError(f"{entry.kind} is about nobody")
