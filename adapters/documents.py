"""Sessions and what belongs to them as JSON: the names that outside programs rely on."""

from typing import Any

from adapters.clock import format_instant
from adapters.vault.waiting import WaitingFor
from domain.access import AccessRequest
from domain.erasure import Status
from domain.policy import Version, to_document
from domain.ports import HoldRow, Member, Recorded, RequestRow
from domain.session import Event, Session
from domain.timeline import Forecast
from projections.audit import Entry

_COLUMNS = ("originator_id", "originator_version", "effective_at")


def session_document(session: Session, last_seen: int, ahead: Forecast) -> dict[str, Any]:
    """A session as it is, with what awaits it: which rule ends it, and when."""
    return {
        "id": session.id,
        "policy": session.policy,
        "policy_version": ahead.policy_version or session.policy_version,
        "state": str(session.phase),
        "tier": str(session.tier),
        "created_at": format_instant(session.created_at),
        "last_seen_at": format_instant(max(session.last_seen_at, last_seen)),
        "participants": session.present,
        "stored_bytes": session.stored_bytes,
        "expires_at": format_instant(ahead.expires_at),
        "erases_at": format_instant(ahead.erases_at),
        "rule": ahead.rule,
        "held": session.held,
        "version": session.version,
    }


def member_document(member: Member) -> dict[str, Any]:
    """A participant, known by a token only."""
    return {
        "token": member.token,
        "joined_at": format_instant(member.joined_at),
        "last_seen_at": format_instant(member.last_seen_at),
        "left_at": format_instant(member.left_at),
    }


def event_document(recorded: Recorded) -> dict[str, Any]:
    """An event of the log with its place there. Times in `data` are microseconds, as stored."""
    event = recorded.event
    fields = {name: value for name, value in vars(event).items() if name not in _COLUMNS}
    return {
        "partition": recorded.partition,
        "position": recorded.position,
        "event": event.TOPIC.split(".")[1],
        "topic": event.TOPIC,
        "session": event.originator_id if isinstance(event, Event) else None,
        "version": event.originator_version,
        "effective_at": format_instant(event.effective_at),
        "recorded_at": format_instant(recorded.recorded_at),
        "data": fields,
    }


def entry_document(entry: Entry) -> dict[str, Any]:
    """A row of the audit trail. Times in `detail` are microseconds, as stored."""
    return {
        "position": entry.position,
        "session_id": entry.session_id,
        "event": entry.event,
        "effective_at": format_instant(entry.effective_at),
        "recorded_at": format_instant(entry.recorded_at),
        "policy": entry.policy,
        "policy_version": entry.policy_version,
        "rule": entry.rule,
        "actor": entry.actor,
        "token": entry.token,
        "detail": dict(entry.detail),
    }


def access_document(request: AccessRequest) -> dict[str, Any]:
    """A request for a copy, without whom it is about."""
    return {
        "request_id": request.id,
        "status": str(request.status),
        "verified_by": str(request.verified_by),
        "requested_at": format_instant(request.requested_at),
        "ready_at": format_instant(request.ready_at),
        "erases_at": format_instant(request.erases_at),
        "sessions": request.sessions,
        "items": request.items,
        "size": request.size,
        "reason": None if request.reason is None else str(request.reason),
    }


def request_document(row: RequestRow, waiting: WaitingFor | None) -> dict[str, Any]:
    """A request for erasure. `reason`: why it does not go on, or the ground of its refusal.
    `waiting_for`: what must happen before it goes on by itself."""
    request = row.request
    return {
        "request_id": request.id,
        "about": str(request.about),
        "status": str(request.status),
        "requested_at": format_instant(request.requested_at),
        "deadline_at": format_instant(request.deadline_at),
        "executed_at": format_instant(request.executed_at),
        "verified_at": format_instant(request.verified_at),
        "final_at": format_instant(request.final_at),
        "refused_at": format_instant(request.refused_at),
        "verified_by": str(request.verified_by),
        "stores": {} if request.status is Status.REFUSED else dict(request.stores),
        "reason": request.reason or request.ground,
        "waiting_for": waiting,
        "sessions": request.sessions,
        "parts": request.parts,
        "items": request.items,
        "subjects": request.subjects,
    }


def hold_document(row: HoldRow) -> dict[str, Any]:
    """A hold. One on a person names nobody."""
    return {
        "hold": row.hold,
        "on": "subject" if row.session_id is None else "session",
        "session": row.session_id,
        "ground": str(row.ground),
        "since": format_instant(row.since),
        "until": format_instant(row.until),
    }


def version_document(version: Version) -> dict[str, Any]:
    """One version of a policy. `effective_from` is null for the first: it holds since ever."""
    return {
        "version": version.number,
        "effective_from": format_instant(version.effective_from or None),
        "policy": to_document(version.policy),
    }
