"""Answers to auditors as JSON: the same at the command line and over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.clock import format_instant
from adapters.documents import version_document
from adapters.log.completeness import Completeness
from adapters.log.replay import Clock, Counts, Known, Replayed
from adapters.log.sweep_counts import Swept
from domain.explanation import Explanation, Reason
from domain.policy import SECOND, Rule, Version, format_duration
from domain.policy_history import VersionEntry
from domain.session import Event, Phase, Session, Tier
from domain.timeline import Because
from projections.tables import event_name


def seconds(micros: int) -> float:
    """To the millisecond."""
    return round(micros / SECOND, 3)


# -- replay -----------------------------------------------------------------------------------


def replay_document(until: int, clock: Clock, replayed: Replayed) -> dict[str, Any]:
    """All sessions as they were, by policy and in all."""
    total = Counts()
    for one in replayed.policies.values():
        for phase, count in one.phases.items():
            total.phases[phase] = total.phases.get(phase, 0) + count
        for tier, count in one.tiers.items():
            total.tiers[tier] = total.tiers.get(tier, 0) + count
        total.held += one.held
        total.stored_bytes += one.stored_bytes
    return {
        "until": format_instant(until),
        "by": str(clock),
        "head": replayed.head,
        "events": replayed.events,
        "pruned": replayed.pruned,
        "total": _counts(total),
        "policies": {name: _counts(one) for name, one in replayed.policies.items()},
    }


def _counts(found: Counts) -> dict[str, Any]:
    return {
        "sessions": sum(found.phases.values()),
        "phases": {str(phase): found.phases.get(phase, 0) for phase in Phase},
        "tiers": {str(tier): found.tiers.get(tier, 0) for tier in Tier},
        "held": found.held,
        "stored_bytes": found.stored_bytes,
    }


def known_document(
    session_id: str, until: int, clock: Clock, known: Known | None
) -> dict[str, Any]:
    """One session as it was; `state` is null if it had not begun."""
    return {
        "session": session_id,
        "until": format_instant(until),
        "by": str(clock),
        "position": known.position if known is not None else None,
        "state": _state(known.session) if known is not None else None,
    }


def _state(session: Session) -> dict[str, Any]:
    return {
        "policy": session.policy,
        "policy_version": session.policy_version,
        "state": str(session.phase),
        "tier": str(session.tier),
        "created_at": format_instant(session.created_at),
        "last_seen_at": format_instant(session.last_seen_at),
        "completed_at": format_instant(session.completed_at),
        "failed_at": format_instant(session.failed_at),
        "summarized_at": format_instant(session.summarized_at),
        "extended_until": format_instant(session.extended_until),
        "expired_at": format_instant(session.expired_at),
        "rule": session.expired_by,
        "recovered_at": format_instant(session.recovered_at),
        "erased_at": format_instant(session.erased_at),
        "joined": session.joined,
        "participants": session.present,
        "items": session.items,
        "stored_bytes": session.stored_bytes,
        "holds": len(session.holds),
        "version": session.version,
    }


# -- why --------------------------------------------------------------------------------------


def why_document(
    session_id: str, policy: str, found: Sequence[Explanation], versions: Sequence[Version]
) -> dict[str, Any]:
    """Why things were taken away from a session, with the text of the versions that decided."""
    deciding = {one.version.number for one in found if one.version is not None}
    return {
        "session": session_id,
        "policy": policy,
        "endings": [_ending(one) for one in found],
        "versions": [version_document(one) for one in versions if one.number in deciding],
    }


def _ending(one: Explanation) -> dict[str, Any]:
    event = one.recorded.event
    facts = vars(event)
    scope = facts.get("scope")
    return {
        "position": one.recorded.position,
        "event": event_name(event.TOPIC),
        "scope": str(scope) if scope is not None else None,
        "effective_at": format_instant(event.effective_at),
        "recorded_at": format_instant(one.recorded.recorded_at),
        "late_seconds": seconds(one.late),
        "actor": event.actor,
        "by": str(one.by) if one.by is not None else "rule",
        "rule": _rule(one.rule) if one.rule is not None else None,
        "policy_version": facts.get("policy_version"),
        "bytes_freed": facts.get("bytes_freed", 0),
        "steps": [_step(reason, one) for reason in one.steps],
        "due_at": format_instant(one.due_at),
        "agrees": one.agrees,
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "since": str(rule.since),
        "after": format_duration(rule.after),
        "do": str(rule.do),
        "scope": str(rule.scope) if rule.scope is not None else None,
    }


def _step(reason: Reason, of: Explanation) -> dict[str, Any]:
    return {
        "because": str(reason.because),
        "at": format_instant(reason.at),
        "position": reason.position,
        "text": _text(reason, of),
    }


def _text(reason: Reason, of: Explanation) -> str:
    rule = of.rule
    if rule is not None and reason.because is Because.SINCE:
        return f"it counts from {rule.since}"
    if rule is not None and reason.because is Because.AFTER:
        return f"{format_duration(rule.after)} after that"
    return _TEXTS[reason.because]


_TEXTS: Mapping[Because, str] = {
    Because.RECOVERED: "it was recovered, and counts anew from then",
    Because.EXTENDED: "it was extended until then",
    Because.STORED: "what is deleted was stored, or made, later",
    Because.POLICY: "the version that decides took effect then",
    Because.RELEASED: "a hold was released then",
    Because.HELD: "a hold stood until then",
}


# -- completeness -----------------------------------------------------------------------------


def completeness_document(found: Completeness) -> dict[str, Any]:
    """Whether all was done that was due in a period."""
    return {
        "since": format_instant(found.since),
        "until": format_instant(found.until),
        "ok": found.ok,
        "adds_up": found.adds_up,
        "swept": _swept(found.swept),
        "hours": [
            {"hour": format_instant(one.hour), **_swept(one), "adds_up": one.adds_up}
            for one in found.hours
        ],
        "recorded": {
            "by_rules": found.recorded,
            "by_sweeps": found.swept.events,
            "with_commands": found.with_commands,
        },
        "done": [
            {
                "event": one.event,
                "policy": one.policy,
                "count": one.count,
                "latest_seconds": seconds(one.latest),
            }
            for one in found.done
        ],
        "asked_at": format_instant(found.asked),
        "overdue": [
            {
                "session": one.session.id,
                "policy": one.session.policy,
                "policy_version": one.policy_version,
                "rule": one.rule,
                "do": str(one.do),
                "due_at": format_instant(one.at),
            }
            for one in found.overdue.sessions
        ],
        "next": found.overdue.next,
    }


def _swept(one: Swept) -> dict[str, int]:
    return {name: count for name, count in vars(one).items() if name != "hour"}


# -- policies ---------------------------------------------------------------------------------


def policy_document(name: str, entries: Sequence[VersionEntry]) -> dict[str, Any]:
    """The versions of one policy: from when, by whom, and what each changed."""
    return {
        "policy": name,
        "versions": [
            {
                "version": one.applied.originator_version,
                "position": one.recorded.position,
                "recorded_at": format_instant(one.recorded.recorded_at),
                "effective_from": format_instant(one.applied.effective_at or None),
                "superseded": one.superseded,
                "actor": one.applied.actor,
                "changes": [vars(change) for change in one.changes],
                "document": dict(one.applied.document),
            }
            for one in entries
        ],
    }


def policy_of(history: Sequence[Any]) -> str | None:
    """The policy of a session, by its history."""
    return next((one.event.policy for one in history if isinstance(one.event, Event)), None)
