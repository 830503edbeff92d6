"""`lapse sessions`, `lapse show`, `lapse audit show`: what is there, and what happened."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from adapters.cli.errors import FAILED, nothing_known, refusals, say_error
from adapters.cli.options import AfterId, Database, Json, PageSize, SessionId, given, load
from adapters.cli.output import console, print_json, print_table
from adapters.clock import format_instant
from adapters.documents import entry_document, member_document, session_document
from adapters.vault.holds import state_decoder
from adapters.wiring import Lapse, open_lapse
from domain.errors import SettingsInvalid
from domain.session import Phase
from projections import active_sessions, audit


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
    due: Annotated[
        bool,
        typer.Option("--due", help="Only those on which a sweep would act now, and how it would."),
    ] = False,
    after: AfterId = "",
    limit: PageSize = 50,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """List sessions as they are now, whether a sweep ran or not."""
    with refusals():
        phase = _phase(state)
        if due and phase is not None:
            raise SettingsInvalid("--due shows sessions of any state: leave --state out")
        options = given(db, policy=policy, state=state, limit=limit)
        with open_lapse(load(db), create=False) as lapse:
            if policy is not None:
                lapse.policies.versions(policy)
            shown = [policy] if policy is not None else None
            if due:
                _list_due(lapse, shown, after, limit, f"--due {options}", as_json=as_json)
                return
            now = lapse.clock()
            with lapse.engines.read() as connection:
                page = active_sessions.live_sessions(
                    connection,
                    lapse.policies.known,
                    state_decoder(connection),
                    now,
                    shown=shown,
                    phase=phase,
                    after=after,
                    limit=limit,
                )
            hidden = due_now(lapse, policy) if phase is None else 0
        found = [
            session_document(row.session, row.last_seen, row.forecast) for row in page.sessions
        ]
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
        _print_rows(
            "Sessions", columns, found, ("participants", "last_seen_at", "policy", "erases_at")
        )
        _say_more(options, page.next)
        if not found and not after and hidden:
            say_due(hidden)


def _list_due(
    lapse: Lapse,
    shown: Sequence[str] | None,
    after: str,
    limit: int,
    options: str,
    *,
    as_json: bool,
) -> None:
    """What a sweep would do, the longest overdue first."""
    with lapse.engines.read() as connection:
        try:
            page = active_sessions.due(
                connection,
                lapse.policies.known,
                state_decoder(connection),
                lapse.clock(),
                shown=shown,
                after=after or None,
                limit=limit,
            )
        except ValueError:
            raise SettingsInvalid("--after: with --due it is what the page before said") from None
    found = [
        {
            "id": one.session.id,
            "policy": one.session.policy,
            "policy_version": one.policy_version,
            "state": str(one.session.phase),
            "last_seen_at": format_instant(one.last_seen),
            "due_at": format_instant(one.at),
            "do": str(one.do),
            "rule": one.rule,
        }
        for one in page.sessions
    ]
    if as_json:
        print_json({"due": found, "next": page.next})
        return
    columns = ("id", "policy", "state", "due_at", "do", "rule")
    _print_rows("Due", columns, found, ("state", "policy"))
    _say_more(options, page.next)


def _print_rows(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    first_to_go: Sequence[str],
) -> None:
    cells = [[row[column] for column in columns] for row in rows]
    print_table(title, columns, cells, first_to_go=first_to_go)


def _say_more(options: str, after: str | None) -> None:
    if after is not None:
        console.print(f"more: lapse sessions {options} --after {after}", soft_wrap=True)


def due_now(lapse: Lapse, policy: str | None = None) -> int:
    """How many sessions a sweep would look at now."""
    with lapse.engines.read() as connection:
        return active_sessions.overdue(connection, lapse.clock(), policy)


def say_due(number: int) -> None:
    """Say why sessions of an old log are not listed."""
    are = "session is" if number == 1 else "sessions are"
    console.print(f"{number} {are} due and not shown; `lapse sweep` records that", markup=False)


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
        found = session_document(view.session, view.last_seen, view.forecast)
        members = [member_document(member) for member in lapse.vault.members(session_id)]
        if as_json:
            print_json({**found, "members": members})
            return
        print_table("Session", ("what", "is"), list(found.items()))
        columns = ("token", "joined_at", "last_seen_at", "left_at")
        _print_rows("Participants", columns, members, ("left_at", "joined_at"))


_BEGINNING = re.compile("[0-9a-f]{6,31}")


def _whole_id(lapse: Lapse, given: str) -> str:
    """The only id of a live session that begins so; `given` as it is if there is none.

    Raises SettingsInvalid if several do.
    """
    if not _BEGINNING.fullmatch(given):
        return given
    with lapse.engines.read() as connection:
        found = active_sessions.beginning_with(connection, given, limit=2)
    if len(found) > 1:
        raise SettingsInvalid(f"several sessions begin with {given}: give more of the id")
    return found[0] if found else given


def audit_show(
    session_id: SessionId,
    after: Annotated[
        int, typer.Option("--after", metavar="POSITION", help="Go on behind this position.")
    ] = 0,
    limit: PageSize = 200,
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
        rows = [entry_document(entry) for entry in entries]
        unknown = not rows and not after and stopped.failed_at is None
        if unknown:
            say_error(nothing_known(session_id))
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
            _print_rows("Audit", columns, rows, ("token", "actor", "policy_version"))
            if len(rows) == limit:
                options = f"{given(db, limit=limit)} --after {rows[-1]['position']}"
                console.print(f"more: lapse audit show {session_id} {options}", soft_wrap=True)
        if stopped.failed_at is not None:
            say_error(
                f"the audit ends before event {stopped.position + 1}, which cannot be handled "
                f"({stopped.failure}): run `lapse db check`"
            )
            raise typer.Exit(FAILED)
