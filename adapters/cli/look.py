"""`lapse sessions`, `lapse show`, `lapse audit show`: what is there, and what happened."""

from typing import Annotated, Any

import typer

from adapters.cli.errors import FAILED, refusals, say_error
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, print_json, print_table
from adapters.clock import format_instant
from adapters.log.transcoder import decode_state
from adapters.wiring import open_lapse
from domain.errors import SettingsInvalid
from domain.ports import Member
from domain.session import Phase, Session
from domain.timeline import Forecast
from projections import active_sessions, audit

SessionId = Annotated[str, typer.Argument(metavar="ID", help="A session's id.")]


def document(session: Session, last_seen: int, ahead: Forecast) -> dict[str, Any]:
    """A session as JSON: the names that outside programs rely on."""
    return {
        "id": session.id,
        "policy": session.policy,
        "policy_version": ahead.policy_version or session.policy_version,
        "state": str(session.phase),
        "tier": str(session.tier),
        "created_at": format_instant(session.created_at),
        "last_seen_at": format_instant(max(session.last_seen_at, last_seen)),
        "participants": session.present,
        "expires_at": format_instant(ahead.expires_at),
        "erases_at": format_instant(ahead.erases_at),
        "rule": ahead.rule,
        "held": bool(session.holds),
        "version": session.version,
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "token": member.token,
        "joined_at": format_instant(member.joined_at),
        "last_seen_at": format_instant(member.last_seen_at),
        "left_at": format_instant(member.left_at),
    }


def sessions(
    policy: Annotated[str | None, typer.Option("--policy", help="Only of this policy.")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", help="Only in this state: active, completed, failed or expired."),
    ] = None,
    after: Annotated[str, typer.Option("--after", help="Go on behind this id.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 50,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """List sessions as they are now, whether a sweep ran or not."""
    with refusals():
        phase = _phase(state)
        with open_lapse(load(db), create=False) as lapse:
            if policy is not None:
                lapse.policies.versions(policy)
            now = lapse.clock()
            with lapse.engines.read() as connection:
                page = active_sessions.live_sessions(
                    connection,
                    lapse.policies.known,
                    decode_state,
                    now,
                    policy=policy,
                    phase=phase,
                    after=after,
                    limit=limit,
                )
        found = [document(row.session, row.last_seen, row.forecast) for row in page.sessions]
        if as_json:
            print_json({"sessions": found, "next": page.next})
            return
        columns = (
            "id",
            "policy",
            "state",
            "participants",
            "last_seen_at",
            "expires_at",
            "erases_at",
        )
        print_table(
            "Sessions",
            columns,
            [[session[column] for column in columns] for session in found],
        )
        if page.next is not None:
            console.print(f"more: --after {page.next}")


def _phase(state: str | None) -> Phase | None:
    if state is None:
        return None
    allowed = [phase for phase in Phase if phase is not Phase.ERASED]
    if state not in allowed:
        raise SettingsInvalid(f"--state must be one of {', '.join(allowed)}")
    return Phase(state)


def show(session_id: SessionId, db: Database = None, as_json: Json = False) -> None:
    """Show one session: its state, what awaits it and why, who takes part (as tokens)."""
    with refusals(), open_lapse(load(db), create=False) as lapse:
        view = lapse.sessions.view(session_id, lapse.clock())
        found = document(view.session, view.last_seen, view.forecast)
        members = [_member(member) for member in lapse.vault.members(session_id)]
        if as_json:
            print_json({**found, "members": members})
            return
        print_table("Session", ("what", "is"), list(found.items()))
        columns = ("token", "joined_at", "last_seen_at", "left_at")
        print_table("Participants", columns, [[row[c] for c in columns] for row in members])


def audit_show(
    session_id: SessionId,
    after: Annotated[int, typer.Option("--after", help="Go on behind this position.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 200,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Show the life of a session (or of `policy:NAME`): what, when, and under which rule.

    It stays readable after the session was erased.
    """
    with refusals(), open_lapse(load(db), create=False) as lapse:
        lapse.projector.catch_up()
        stopped = lapse.projector.lag()[audit.NAME]
        with lapse.engines.read() as connection:
            entries = audit.of_session(connection, session_id, after=after, limit=limit)
        rows = [
            {
                **vars(entry),
                "effective_at": format_instant(entry.effective_at),
                "recorded_at": format_instant(entry.recorded_at),
                "detail": dict(entry.detail),
            }
            for entry in entries
        ]
        if as_json:
            print_json({"session": session_id, "entries": rows})
        else:
            columns = (
                "position",
                "event",
                "effective_at",
                "rule",
                "policy_version",
                "actor",
                "token",
            )
            print_table("Audit", columns, [[row[c] for c in columns] for row in rows])
        if stopped.failed_at is not None:
            say_error(
                f"the audit ends before event {stopped.position + 1}, which cannot be handled "
                f"({stopped.failure}): run `lapse db check`"
            )
            raise typer.Exit(FAILED)
        if not rows and not after:
            say_error(f"nothing is known of {session_id}")
            raise typer.Exit(FAILED)
