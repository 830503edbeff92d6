"""The erasure ledger: what a database that was restored from a backup has to be told again.

A backup knows nothing of what happened after it: who was erased on request stands in it again, a
hold that was placed since does not. Whatever follows from the rules is found again by itself; what
somebody decided is not. That is written here, outside the database, in the order in which it was
committed. An entry holds random ids, closed names, times and policies, and nothing about a person.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from domain.erasure import ErasureRequest
from domain.facts import Refusal
from domain.policy import Applied
from domain.session import (
    By,
    Erased,
    Event,
    Expired,
    Extended,
    Ground,
    Held,
    Recovered,
    Released,
    Summarized,
)


class Kind(StrEnum):
    """What an entry is about."""

    ERASED = "erased"
    SUMMARIZED = "summarized"
    EXPIRED = "expired"
    HELD = "held"
    RELEASED = "released"
    EXTENDED = "extended"
    RECOVERED = "recovered"
    POLICY = "policy"
    REDACTED = "redacted"  # a person's part of a session that goes on, by an erasure request
    REQUEST_OPEN = "request-open"  # an erasure request was received, and has to wait
    REQUEST_REFUSED = "request-refused"  # ... or is not carried out
    REQUEST = "request"  # an erasure request was carried out
    PERSON_HELD = "person-held"
    PERSON_RELEASED = "person-released"
    EPOCH = "epoch"  # the database was restored; what follows counts from there


class Deed(NamedTuple):
    """Something to be remembered. at: when it took effect. fields: what doing it again takes."""

    kind: Kind
    at: int
    fields: Mapping[str, Any]


class Entry(NamedTuple):
    """A deed as it stands in the ledger.

    number: from 1, without a gap. epoch: of the log. head: the newest position of the log before
    the transaction that it belongs to, so a log that does not reach it is an older one.
    """

    number: int
    epoch: int
    head: int
    kind: Kind
    at: int
    fields: Mapping[str, Any]


_BY = frozenset(By)
_LEDGERED = (Erased, Summarized, Expired, Held, Released, Extended, Recovered)


def deeds_of(events: Sequence[Event]) -> list[Deed]:
    """Those of these events that no restored database would find again by itself."""
    return [deed for event in events if isinstance(event, _LEDGERED) and (deed := _deed(event))]


def _deed(event: Event) -> Deed | None:
    kind, more = _described(event)
    if kind is None:
        return None
    return Deed(kind, event.effective_at, {"session": event.originator_id, **more})


def _described(event: Event) -> tuple[Kind | None, dict[str, Any]]:
    """The kind, None for what a rule did, and its fields beside the session."""
    match event:
        case Erased(rule=rule, scope=scope) if rule in _BY:
            return Kind.ERASED, {"by": str(rule), "scope": str(scope)}
        case Summarized(rule=rule) if rule in _BY:
            return Kind.SUMMARIZED, {}
        case Expired(rule=rule) if rule in _BY:
            return Kind.EXPIRED, {"by": str(rule)}
        case Held():
            more = {"hold": event.hold, "ground": str(event.ground), "until": event.until}
            return Kind.HELD, more
        case Released():
            return Kind.RELEASED, {"hold": event.hold}
        case Extended():
            return Kind.EXTENDED, {"until": event.until}
        case Recovered():
            return Kind.RECOVERED, {}
        case _:
            return None, {}


def deed_of_policy(applied: Applied, now: int) -> Deed:
    """A version of a policy that was applied."""
    fields = {
        "policy": applied.policy,
        "version": applied.originator_version,
        "effective_from": applied.effective_at,
        "document": applied.document,
    }
    return Deed(Kind.POLICY, now, fields)


def deed_of_part(session: str, tokens: Sequence[str], at: int) -> Deed:
    """A person's part of a session was erased. tokens: theirs."""
    return Deed(Kind.REDACTED, at, {"session": session, "tokens": list(tokens)})


def deed_of_open(
    request: ErasureRequest, session: str | None, token: str | None, subject: str | None
) -> Deed:
    """A request has to wait. session: it is about this one, or about the participant `token` of
    it. subject: the id of the vault of whom it is about, random."""
    fields = {
        "request": request.id,
        "about": str(request.about),
        "verified_by": str(request.verified_by),
        "target": session,
        "token": token,
        "subject": subject,
    }
    return Deed(Kind.REQUEST_OPEN, request.requested_at, fields)


def deed_of_refusal(request_id: str, ground: Refusal, at: int) -> Deed:
    """A request is not carried out."""
    return Deed(Kind.REQUEST_REFUSED, at, {"request": request_id, "ground": str(ground)})


def deed_of_request(request: ErasureRequest, session: str | None, keks: Sequence[str]) -> Deed:
    """A request was carried out. session: it was about this one. keks: see `Reach`."""
    fields = {
        "request": request.id,
        "about": str(request.about),
        "verified_by": str(request.verified_by),
        "requested_at": request.requested_at,
        "counts": [request.sessions, request.parts, request.items, request.subjects],
        "target": session,
        "keks": list(keks),
    }
    return Deed(Kind.REQUEST, request.executed_at or request.requested_at, fields)


def deed_of_hold(hold: str, subject: str, ground: Ground, until: int | None, at: int) -> Deed:
    """A person is held. subject: the id of the vault, random."""
    fields = {"hold": hold, "subject": subject, "ground": str(ground), "until": until}
    return Deed(Kind.PERSON_HELD, at, fields)


def deed_of_release(hold: str, at: int) -> Deed:
    """A person is held no more."""
    return Deed(Kind.PERSON_RELEASED, at, {"hold": hold})


def numbered(deeds: Sequence[Deed], after: int, epoch: int, head: int) -> list[Entry]:
    """The entries of these deeds, behind entry `after`."""
    return [Entry(number, epoch, head, *deed) for number, deed in enumerate(deeds, start=after + 1)]
