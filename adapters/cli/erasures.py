"""`lapse erase`, `lapse request`, `lapse hold`: what a privacy officer does."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from adapters.cli.errors import REFUSED, refusals
from adapters.cli.options import (
    AfterId,
    Database,
    Json,
    PageSize,
    SessionId,
    VerifiedBy,
    choice,
    given,
    load,
    person_on_stdin,
)
from adapters.cli.output import console, print_json, print_table
from adapters.clock import parse_instant
from adapters.documents import hold_document, request_document
from adapters.scheduler.requests import RequestWorker
from adapters.wiring import OPERATOR, Lapse, open_lapse, require_database
from domain.erasure import Status
from domain.errors import SettingsInvalid
from domain.facts import Refusal, Verification
from domain.ports import RequestRow
from domain.session import Ground

RequestIdArgument = Annotated[str, typer.Argument(metavar="ID", help="A request's id.")]


def erase_session(
    session: SessionId,
    verified_by: VerifiedBy = str(Verification.CONTROLLER),
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Erase everything of a session. Exit code 3 if it has to wait, such as for a hold."""
    with refusals():
        by = choice(Verification, verified_by, "--verified-by")
        with _existing(db) as lapse:
            row = lapse.requests.of_session(session, by, lapse.clock(), OPERATOR)
            row = lapse.requests.advance(row.request.id, lapse.clock(), OPERATOR)
            document = _document(lapse, row)
        _show(document, as_json=as_json)
        _pending(row)


def erase_subject(
    stdin: Annotated[
        bool, typer.Option("--stdin", help="The person, on standard input, in one line; required.")
    ] = False,
    verified_by: VerifiedBy = str(Verification.CONTROLLER),
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Erase everything of a person, wherever they take part. Exit code 3 if it has to wait."""
    with refusals():
        by = choice(Verification, verified_by, "--verified-by")
        name = person_on_stdin(stdin=stdin, option="--stdin")
        with _existing(db) as lapse:
            row = lapse.requests.of_subject(name, by, lapse.clock(), OPERATOR)
            row = lapse.requests.advance(row.request.id, lapse.clock(), OPERATOR)
            document = _document(lapse, row)
        _show(document, as_json=as_json)
        _pending(row)


@contextmanager
def _existing(db: str | None) -> Iterator[Lapse]:
    """A database that is there: in a new one nobody is known, and a request for erasure would be
    executed at once. Raises SchemaTooOld."""
    settings = load(db)
    require_database(settings)
    with open_lapse(settings) as lapse:
        yield lapse


def _pending(row: RequestRow) -> None:
    if row.request.status is Status.REQUESTED:
        raise typer.Exit(REFUSED)


def _document(lapse: Lapse, row: RequestRow) -> dict[str, Any]:
    [document] = _documents(lapse, [row])
    return document


def _documents(lapse: Lapse, rows: Sequence[RequestRow]) -> list[dict[str, Any]]:
    return list(map(request_document, rows, lapse.waiting_for(rows)))


def _show(document: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    stores = ", ".join(f"{name}: {state}" for name, state in document["stores"].items())
    rows = [(name, stores if name == "stores" else value) for name, value in document.items()]
    print_table("Request", ("field", "value"), rows)


# -- requests ---------------------------------------------------------------------------------


def request_list(
    status: Annotated[
        str | None,
        typer.Option(
            "--status", metavar="STATUS", help=f"Only those that are {', '.join(Status)}."
        ),
    ] = None,
    after: AfterId = "",
    limit: PageSize = 50,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """List requests for erasure, in order of id. They name nobody."""
    with refusals():
        which = None if status is None else choice(Status, status, "--status")
        with open_lapse(load(db), create=False) as lapse:
            found = lapse.requests.page(after=after, limit=limit + 1, status=which)
            shown = _documents(lapse, found[:limit])
        next_ = shown[-1]["request_id"] if len(found) > limit else None
        if as_json:
            print_json({"requests": shown, "next": next_})
            return
        columns = (
            *("request_id", "about", "status", "reason", "waiting_for"),
            *("requested_at", "deadline_at"),
        )
        cells = [[one[column] for column in columns] for one in shown]
        print_table("Requests", columns, cells, first_to_go=("requested_at", "about"))
        if next_ is not None:
            options = given(db, status=status, limit=limit, after=next_)
            console.print(f"more: lapse request list {options}", soft_wrap=True)


def request_show(request: RequestIdArgument, db: Database = None, as_json: Json = False) -> None:
    """Show how far a request is, and why it does not go on."""
    with refusals():
        with open_lapse(load(db), create=False) as lapse:
            document = _document(lapse, lapse.requests.find(request))
        _show(document, as_json=as_json)


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
        why = choice(Refusal, ground, "--ground")
        with _existing(db) as lapse:
            row = lapse.requests.refuse(request, why, lapse.clock(), OPERATOR)
            document = _document(lapse, row)
        _show(document, as_json=as_json)


def request_run(db: Database = None, as_json: Json = False) -> None:
    """Move on every request that is due, as `lapse serve` does by itself."""
    with refusals():
        with _existing(db) as lapse:
            looked_at = RequestWorker(lapse.requests, lapse.alerts, lapse.clock).look()
        if as_json:
            print_json({"looked_at": looked_at})
        else:
            which = f"requests looked at: {looked_at}" if looked_at else "no request is due now"
            console.print(f"{which}; `lapse request list` says how far they are")


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
        why = choice(Ground, ground, "--ground")
        end = parse_instant(until, "--until") if until is not None else None
        if (session is None) is not subject_stdin:
            raise SettingsInvalid("name either --session or --subject-stdin")
        name = (
            person_on_stdin(stdin=subject_stdin, option="--subject-stdin")
            if session is None
            else ""
        )
        with _existing(db) as lapse:
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
        with _existing(db) as lapse:
            lapse.holds.release(hold, lapse.clock(), OPERATOR)
        if as_json:
            print_json({"released": hold})
        else:
            console.print(f"hold {hold} is released")


def hold_list(
    after: AfterId = "", limit: PageSize = 50, db: Database = None, as_json: Json = False
) -> None:
    """List the holds that stand, in order of id."""
    with refusals():
        with open_lapse(load(db), create=False) as lapse:
            found = lapse.holds.page(lapse.clock(), after=after, limit=limit + 1)
        shown = [hold_document(row) for row in found[:limit]]
        next_ = shown[-1]["hold"] if len(found) > limit else None
        if as_json:
            print_json({"holds": shown, "next": next_})
            return
        columns = ("hold", "on", "session", "ground", "since", "until")
        cells = [[one[column] for column in columns] for one in shown]
        print_table("Holds", columns, cells, first_to_go=("since",))
        if next_ is not None:
            options = given(db, limit=limit, after=next_)
            console.print(f"more: lapse hold list {options}", soft_wrap=True)
