"""`lapse erase`, `lapse request`, `lapse hold`: what a privacy officer does.

Whom it is about comes by standard input, never as an argument: those stand in lists of processes
and in histories of shells.
"""

import sys
from typing import Annotated, Any

import typer

from adapters.cli.errors import REFUSED, refusals
from adapters.cli.look import SessionId
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, print_json, print_table
from adapters.clock import parse_instant
from adapters.documents import hold_document, request_document
from adapters.scheduler.requests import RequestWorker
from adapters.wiring import OPERATOR, Lapse, open_lapse
from domain.erasure import Status
from domain.errors import SettingsInvalid
from domain.facts import Refusal, Verification
from domain.ports import RequestRow
from domain.session import Ground

RequestIdArgument = Annotated[str, typer.Argument(metavar="ID", help="A request's id.")]
VerifiedBy = Annotated[
    str,
    typer.Option(
        "--verified-by",
        metavar="WHO",
        help=f"Who made sure of the requester: {', '.join(Verification)}.",
    ),
]
_LONGEST = 320
"""Characters of a name, as over HTTP."""


def erase_session(
    session: SessionId,
    verified_by: VerifiedBy = "controller",
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Erase everything of a session. Exit code 3 if it has to wait, such as for a hold."""
    with refusals():
        by = _choice(Verification, verified_by, "--verified-by")
        with open_lapse(load(db)) as lapse:
            row = lapse.requests.of_session(session, by, lapse.clock(), OPERATOR)
            row = lapse.requests.advance(row.request.id, lapse.clock(), OPERATOR)
        _show(row, as_json=as_json)
        _pending(row)


def erase_subject(
    stdin: Annotated[
        bool, typer.Option("--stdin", help="The person, on standard input, in one line; required.")
    ] = False,
    verified_by: VerifiedBy = "controller",
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Erase everything of a person, wherever they take part. Exit code 3 if it has to wait."""
    with refusals():
        by = _choice(Verification, verified_by, "--verified-by")
        name = _person(stdin=stdin, option="--stdin")
        with open_lapse(load(db)) as lapse:
            row = lapse.requests.of_subject(name, by, lapse.clock(), OPERATOR)
            row = lapse.requests.advance(row.request.id, lapse.clock(), OPERATOR)
        _show(row, as_json=as_json)
        _pending(row)


def _person(*, stdin: bool, option: str) -> str:
    if not stdin:
        raise SettingsInvalid(
            f"{option} is required: a name in an argument would be seen by others"
        )
    name = sys.stdin.readline(_LONGEST + 2).rstrip("\r\n")
    if not 0 < len(name) <= _LONGEST or not name.isprintable():
        raise SettingsInvalid(f"standard input must be one line of 1 to {_LONGEST} characters")
    return name


def _pending(row: RequestRow) -> None:
    if row.request.status is Status.REQUESTED:
        raise typer.Exit(REFUSED)


def _show(row: RequestRow, *, as_json: bool) -> None:
    document = request_document(row)
    if as_json:
        print_json(document)
        return
    stores = ", ".join(f"{name}: {state}" for name, state in document["stores"].items())
    rows = [(name, stores if name == "stores" else value) for name, value in document.items()]
    print_table("Request", ("field", "value"), rows)


def _choice(kind: Any, value: str, option: str) -> Any:
    if value not in list(kind):
        raise SettingsInvalid(f"{option} must be one of {', '.join(kind)}")
    return kind(value)


# -- requests ---------------------------------------------------------------------------------


def request_list(
    status: Annotated[
        str | None,
        typer.Option(
            "--status", metavar="STATUS", help=f"Only those that are {', '.join(Status)}."
        ),
    ] = None,
    after: Annotated[
        str, typer.Option("--after", metavar="ID", help="Go on behind this page.")
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=1, max=1000, help="How many.")
    ] = 50,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """List requests for erasure, in order of id. They name nobody."""
    with refusals():
        which = None if status is None else _choice(Status, status, "--status")
        with open_lapse(load(db), create=False) as lapse:
            found = lapse.requests.page(after=after, limit=limit + 1, status=which)
        shown = [request_document(row) for row in found[:limit]]
        next_ = shown[-1]["request_id"] if len(found) > limit else None
        if as_json:
            print_json({"requests": shown, "next": next_})
            return
        columns = ("request_id", "about", "status", "reason", "requested_at", "deadline_at")
        cells = [[one[column] for column in columns] for one in shown]
        print_table("Requests", columns, cells, first_to_go=("requested_at", "about"))
        if next_ is not None:
            console.print(f"there are more: lapse request list --after {next_}")


def request_show(request: RequestIdArgument, db: Database = None, as_json: Json = False) -> None:
    """Show how far a request is, and why it does not go on."""
    with refusals():
        with open_lapse(load(db), create=False) as lapse:
            row = lapse.requests.find(request)
        _show(row, as_json=as_json)


def request_refuse(
    request: RequestIdArgument,
    ground: Annotated[
        str, typer.Option("--ground", metavar="GROUND", help=f"One of {', '.join(Refusal)}.")
    ],
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Refuse a request that was not carried out yet."""
    with refusals():
        why = _choice(Refusal, ground, "--ground")
        with open_lapse(load(db)) as lapse:
            row = lapse.requests.refuse(request, why, lapse.clock(), OPERATOR)
        _show(row, as_json=as_json)


def request_run(db: Database = None, as_json: Json = False) -> None:
    """Move on every request that is due, as `lapse serve` does by itself."""
    with refusals():
        with open_lapse(load(db)) as lapse:
            looked_at = RequestWorker(lapse.requests, lapse.alerts, lapse.clock).look()
        if as_json:
            print_json({"looked_at": looked_at})
        else:
            console.print(f"{looked_at} requests were looked at")


# -- holds ------------------------------------------------------------------------------------


def hold_add(
    ground: Annotated[
        str, typer.Option("--ground", metavar="GROUND", help=f"One of {', '.join(Ground)}.")
    ],
    session: Annotated[
        str | None, typer.Option("--session", metavar="ID", help="The session to hold.")
    ] = None,
    subject_stdin: Annotated[
        bool,
        typer.Option("--subject-stdin", help="Hold the person named on standard input, in a line."),
    ] = False,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="When it ends by itself.")
    ] = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Hold a session, or everything of a person: nothing of it is deleted while it stands."""
    with refusals():
        why = _choice(Ground, ground, "--ground")
        end = parse_instant(until, "--until") if until is not None else None
        if (session is None) is not subject_stdin:
            raise SettingsInvalid("name either --session or --subject-stdin")
        name = _person(stdin=subject_stdin, option="--subject-stdin") if session is None else ""
        with open_lapse(load(db)) as lapse:
            _place(lapse, session, name, why, end, as_json=as_json)


def _place(
    lapse: Lapse, session: str | None, name: str, why: Ground, end: int | None, *, as_json: bool
) -> None:
    now = lapse.clock()
    if session is not None:
        row = lapse.holds.of_session(session, why, end, now, OPERATOR)
    else:
        row = lapse.holds.of_subject(name, why, end, now, OPERATOR)
    document = hold_document(row)
    if as_json:
        print_json(document)
    else:
        print_table("Hold", ("field", "value"), list(document.items()))


def hold_release(
    hold: Annotated[str, typer.Argument(metavar="HOLD", help="A hold's id.")],
    db: Database = None,
    as_json: Json = False,
) -> None:
    """End a hold; what it suspended is due."""
    with refusals():
        with open_lapse(load(db)) as lapse:
            lapse.holds.release(hold, lapse.clock(), OPERATOR)
        if as_json:
            print_json({"released": hold})
        else:
            console.print(f"hold {hold} is released")


def hold_list(db: Database = None, as_json: Json = False) -> None:
    """List the holds that stand, in order of id."""
    with refusals():
        with open_lapse(load(db), create=False) as lapse:
            found = lapse.holds.page(lapse.clock(), limit=10_000)
        shown = [hold_document(row) for row in found]
        if as_json:
            print_json({"holds": shown})
            return
        columns = ("hold", "on", "session", "ground", "since", "until")
        cells = [[one[column] for column in columns] for one in shown]
        print_table("Holds", columns, cells, first_to_go=("since",))
