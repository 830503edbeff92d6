"""`lapse sessions`, `lapse show`, `lapse audit show`: what is there, and what happened."""

import re
import shlex
from typing import Annotated, Any

import typer
from sqlalchemy import func, select

from adapters.cli.errors import FAILED, refusals, say_error
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, print_json, print_table
from adapters.clock import format_instant
from adapters.log.schema import sessions as stored
from adapters.log.transcoder import decode_state
from adapters.wiring import Lapse, open_lapse
from domain.errors import SettingsInvalid
from domain.ports import PARTITION, Member
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
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="NAME", help="Only of this policy.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only in this state: active, completed, failed or expired.",
        ),
    ] = None,
    after: Annotated[str, typer.Option("--after", metavar="ID", help="Go on behind this id.")] = "",
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=1, max=1000, help="How many.")
    ] = 50,
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
            hidden = due_now(lapse, policy) if phase is None else 0
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
            first_to_go=("participants", "last_seen_at", "policy", "erases_at"),
        )
        if page.next is not None:
            options = _given(db, policy=policy, state=state, limit=limit)
            console.print(f"more: lapse sessions {options} --after {page.next}", soft_wrap=True)
        elif not found and not after and hidden:
            say_due(hidden)


def due_now(lapse: Lapse, policy: str | None = None) -> int:
    """How many sessions a sweep would look at now: their stored deadline has passed."""
    query = select(func.count()).where(
        stored.c.partition == PARTITION, stored.c.due_at <= lapse.clock()
    )
    if policy is not None:
        query = query.where(stored.c.policy == policy)
    with lapse.engines.read() as connection:
        return int(connection.execute(query).scalar_one())


def say_due(number: int) -> None:
    """Say why sessions of an old log are not listed."""
    are = "session is" if number == 1 else "sessions are"
    console.print(f"{number} {are} due and not shown; `lapse sweep` records that", markup=False)


def _given(db: str | None, **options: str | int | None) -> str:
    """Options as they would be typed again, but for the URL: it may hold a password."""
    database = ["--db URL"] if db is not None else []
    others = [
        f"--{name} {shlex.quote(str(value))}"
        for name, value in options.items()
        if value is not None
    ]
    return " ".join([*database, *others])


def _phase(state: str | None) -> Phase | None:
    if state is None:
        return None
    allowed = [phase for phase in Phase if phase is not Phase.ERASED]
    if state not in allowed:
        raise SettingsInvalid(f"--state must be one of {', '.join(allowed)}")
    return Phase(state)


def show(session_id: SessionId, db: Database = None, as_json: Json = False) -> None:
    """Show one session: its state, what awaits it and why, who takes part (as tokens).

    The beginning of an id will do, from 6 characters on, if only one session has it.
    """
    with refusals(), open_lapse(load(db), create=False) as lapse:
        session_id = _whole_id(lapse, session_id)
        view = lapse.sessions.view(session_id, lapse.clock())
        found = document(view.session, view.last_seen, view.forecast)
        members = [_member(member) for member in lapse.vault.members(session_id)]
        if as_json:
            print_json({**found, "members": members})
            return
        print_table("Session", ("what", "is"), list(found.items()))
        columns = ("token", "joined_at", "last_seen_at", "left_at")
        print_table(
            "Participants",
            columns,
            [[row[c] for c in columns] for row in members],
            first_to_go=("left_at", "joined_at"),
        )


_BEGINNING = re.compile("[0-9a-f]{6,31}")


def _whole_id(lapse: Lapse, given: str) -> str:
    """The only id of a live session that begins so; `given` as it is if there is none.

    Raises SettingsInvalid if several do.
    """
    if not _BEGINNING.fullmatch(given):
        return given
    # "g" follows every digit of an id, under every collation.
    query = select(stored.c.session_id).where(
        stored.c.partition == PARTITION,
        stored.c.session_id >= given,
        stored.c.session_id < given + "g",
    )
    with lapse.engines.read() as connection:
        found = connection.execute(query.limit(2)).scalars().all()
    if len(found) > 1:
        raise SettingsInvalid(f"several sessions begin with {given}: give more of the id")
    return str(found[0]) if found else given


def audit_show(
    session_id: SessionId,
    after: Annotated[
        int, typer.Option("--after", metavar="POSITION", help="Go on behind this position.")
    ] = 0,
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=1, max=1000, help="How many.")
    ] = 200,
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
        unknown = not rows and not after and stopped.failed_at is None
        if unknown:
            say_error(f"nothing is known of {session_id}")
            raise typer.Exit(FAILED)
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
            print_table(
                "Audit",
                columns,
                [[row[c] for c in columns] for row in rows],
                first_to_go=("token", "actor", "policy_version"),
            )
            if len(rows) == limit:
                options = f"{_given(db, limit=limit)} --after {rows[-1]['position']}"
                console.print(f"more: lapse audit show {session_id} {options}", soft_wrap=True)
        if stopped.failed_at is not None:
            say_error(
                f"the audit ends before event {stopped.position + 1}, which cannot be handled "
                f"({stopped.failure}): run `lapse db check`"
            )
            raise typer.Exit(FAILED)
