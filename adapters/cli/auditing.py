"""`lapse audit replay`, `why`, `completeness`, `policies`, `requests`, `export`."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.audit_documents import (
    completeness_document,
    known_document,
    policy_document,
    policy_of,
    replay_document,
    why_document,
)
from adapters.audit_export import EVENTS, PROOFS, REQUESTS, event_rows, request_rows, with_proofs
from adapters.cli.errors import FAILED, nothing_known, refusals, say_error
from adapters.cli.options import Database, Json, SessionId, choice, load
from adapters.cli.output import console, count_progress, print_json, print_table, write_whole
from adapters.clock import parse_instant
from adapters.exports import Column, Format, exported
from adapters.http.requests import RequestLog
from adapters.log.completeness import completeness as completeness_of
from adapters.log.replay import Clock, replay_session
from adapters.log.replay import replay as replay_all
from adapters.wiring import Lapse, open_lapse, require_database
from domain.errors import PolicyUnknown, SettingsInvalid
from domain.explanation import explain
from domain.policy import DAY, SECOND, format_duration, stream_of
from domain.policy_history import version_entries
from domain.ports import Recorded

OneSession = Annotated[
    str | None, typer.Option("--session", metavar="ID", help="This session only.")
]
OnePolicy = Annotated[
    str | None, typer.Option("--policy", metavar="NAME", help="Of this policy only.")
]
SinceTime = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="From this time on.")
]
UntilTime = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")]
Out = Annotated[
    Path,
    typer.Option("--out", metavar="FILE", help="Where it goes; a file that is there is replaced."),
]
FormatName = Annotated[
    str, typer.Option("--format", metavar="FORMAT", help="jsonl, csv or parquet.")
]


def replay(
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="As it was then.")],
    session: OneSession = None,
    policy: OnePolicy = None,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="CLOCK",
            help="recorded: what was known then; effective: what was so, recorded or not.",
        ),
    ] = "recorded",
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Show what was known at a time: one session, or all of them counted by policy.

    Needs neither personal data nor keys. Reads the log from its beginning, in bounded memory.
    """
    with refusals():
        at, clock = parse_instant(until, "--until"), choice(Clock, by, "--by")
        if session is not None and policy is not None:
            raise SettingsInvalid("--session stands alone: leave --policy out")
        with open_lapse(load(db), create=False) as lapse:
            if session is not None:
                known = replay_session(_history(lapse, session), at, clock)
                _print_known(known_document(session, at, clock, known), as_json=as_json)
                return
            shown = _shown(lapse, policy)
            with count_progress("replaying") as progress:
                found = replay_all(
                    lapse.engines, lapse.log, at, clock, shown=shown, progress=progress
                )
        document = replay_document(at, clock, found)
        if as_json:
            print_json(document)
            return
        rows = [
            (name, one["sessions"], *one["phases"].values(), one["held"], one["stored_bytes"])
            for name, one in [*document["policies"].items(), ("all", document["total"])]
        ]
        columns = ("policy", "sessions", *document["total"]["phases"], "held", "stored_bytes")
        print_table(f"Known at {document['until']}", columns, rows)
        if found.pruned:
            console.print(f"{found.pruned} events are pruned: their sessions are not counted")


def _print_known(document: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    state = document["state"] or {"state": "it had not begun"}
    rows = [("session", document["session"]), ("position", document["position"])]
    print_table(f"Known at {document['until']}", ("what", "is"), [*rows, *state.items()])


def why(session_id: SessionId, db: Database = None, as_json: Json = False) -> None:
    """Say why a session was summarized, compressed, expired or erased: the rule, its version, and
    the deadline step by step. Exit code 1 if the computation does not come to what was done."""
    with refusals():
        with open_lapse(load(db), create=False) as lapse:
            history = _history(lapse, session_id)
            policy = str(policy_of(history))
            versions = lapse.log.policies()[policy]
        found = explain(history, versions)
        document = why_document(session_id, policy, found, versions)
        if as_json:
            print_json(document)
        else:
            _print_why(document)
        if not all(one.agrees for one in found):
            say_error("an event does not follow from the policy: see `agrees`")
            raise typer.Exit(FAILED)


def _print_why(document: Mapping[str, Any]) -> None:
    for ending in document["endings"]:
        scope = f" ({ending['scope']})" if ending["scope"] else ""
        named = ending["rule"]["name"] if ending["rule"] else ending["by"]
        title = f"{ending['event']}{scope} at position {ending['position']}"
        rows = [
            (one["because"], one["at"], one["position"], one["text"]) for one in ending["steps"]
        ]
        rows.append(("due", ending["due_at"], None, f"by {named}, version {_version(ending)}"))
        late = round(ending["late_seconds"] * SECOND)
        later = f"{format_duration(late)} later, by {ending['actor']}"
        rows.append(("recorded", ending["recorded_at"], ending["position"], later))
        print_table(title, ("because", "at", "position", "text"), rows)
    if not document["endings"]:
        console.print("nothing was taken away from it")


def _version(ending: Mapping[str, Any]) -> str:
    return str(ending["policy_version"])


def completeness(
    since: SinceTime = None,
    until: UntilTime = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="Go on behind this page.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="NUMBER", min=1, max=1000, help="How many overdue.")
    ] = 100,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Say whether everything that was due in a period was done: due = done + held + re-armed +
    failed, hour by hour, and what is overdue. The last day by default. Exit code 1 if not."""
    with refusals():
        with open_lapse(load(db), create=False) as lapse:
            now = lapse.clock()
            end = parse_instant(until, "--until") if until is not None else now
            begin = parse_instant(since, "--since") if since is not None else max(0, end - DAY)
            if begin >= end:
                raise SettingsInvalid("--since must lie before --until")
            lapse.projector.catch_up()
            try:
                found = completeness_of(
                    lapse.engines,
                    lapse.policies.known,
                    begin,
                    end,
                    now,
                    after=after,
                    limit=limit,
                )
            except ValueError:
                raise SettingsInvalid("--after: it is what the page before said") from None
        document = completeness_document(found)
        if as_json:
            print_json(document)
        else:
            _print_completeness(document)
        if not found.ok:
            raise typer.Exit(FAILED)


def _print_completeness(document: Mapping[str, Any]) -> None:
    counts = ("due", "done", "held", "rearmed", "failed")
    hours = [(one["hour"], *(one[name] for name in counts)) for one in document["hours"]]
    total = ("all", *(document["swept"][name] for name in counts))
    print_table("Sweeps", ("hour", *counts), [*hours, total])
    done = [tuple(one.values()) for one in document["done"]]
    print_table("Done by rules", ("event", "policy", "count", "latest_seconds"), done)
    overdue = [
        tuple(one[name] for name in ("session", "policy", "rule", "do", "due_at"))
        for one in document["overdue"]
    ]
    print_table("Overdue", ("session", "policy", "rule", "do", "due_at"), overdue)
    console.print("it adds up" if document["adds_up"] else "it does not add up")


def policies(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="This policy only.")] = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Show the versions of policies: from when, by whom, and what each changed."""
    with refusals():
        with open_lapse(load(db), create=False) as lapse:
            names = sorted(lapse.log.policies())
            if name is not None and name not in names:
                raise PolicyUnknown(name, names)
            found = [
                policy_document(one, version_entries(lapse.log.history(stream_of(one))))
                for one in ([name] if name is not None else names)
            ]
        if as_json:
            print_json({"policies": found})
            return
        for one in found:
            rows = [
                (
                    version["version"],
                    version["effective_from"],
                    version["recorded_at"],
                    version["actor"],
                    ", ".join(_changed(change) for change in version["changes"]),
                )
                for version in one["versions"]
            ]
            columns = ("version", "effective_from", "recorded_at", "actor", "changes")
            print_table(one["policy"], columns, rows)


def _changed(change: Mapping[str, Any]) -> str:
    return f"{change['path']}: {change['before']} -> {change['after']}"


def export(
    out: Out,
    form: FormatName = "jsonl",
    since: SinceTime = None,
    until: UntilTime = None,
    policy: OnePolicy = None,
    proofs: Annotated[
        bool,
        typer.Option(
            "--proofs", help="With what proves each event; the checkpoint goes to FILE.checkpoint."
        ),
    ] = False,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Write what was recorded in a period, in the order of the log, for your own tools."""
    with refusals():
        period, format_ = _period(since, until), choice(Format, form, "--format")
        settings = load(db)
        require_database(settings)
        with open_lapse(settings, create=proofs) as lapse:
            rows = event_rows(lapse.log, shown=_shown(lapse, policy), **period)
            columns, made = EVENTS, None
            if proofs:
                made = lapse.checkpoints.make(lapse.clock())
                rows = with_proofs(rows, lapse.tree, lapse.engines, made.size)
                columns = (*EVENTS, *PROOFS)
            count = _write(out, rows, columns, format_)
            if made is not None:
                write_whole(out.with_name(f"{out.name}.checkpoint"), [made.note.encode()])
        size = made.size if made is not None else None
        _say_written({"rows": count, "tree_size": size}, as_json=as_json)


def requests(
    out: Out,
    form: FormatName = "jsonl",
    since: SinceTime = None,
    until: UntilTime = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Write who asked what over HTTP in a period, the oldest first: actor, operation, outcome,
    duration, session, and which kind of personal data the answer held. Kept for a year."""
    with refusals():
        period, format_ = _period(since, until), choice(Format, form, "--format")
        with (
            open_lapse(load(db), create=False) as lapse,
            closing(RequestLog(lapse.engines)) as log,
        ):
            count = _write(out, request_rows(log, **period), REQUESTS, format_)
        _say_written({"rows": count}, as_json=as_json)


def _write(
    out: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], form: Format
) -> int:
    """How many rows. Raises SettingsInvalid, ParquetMissing."""
    count = 0

    def counted() -> Iterable[Mapping[str, Any]]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    write_whole(out, exported(counted(), columns, form))
    return count


def _say_written(document: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        console.print(f"{document['rows']} rows")


def _history(lapse: Lapse, session_id: str) -> Sequence[Recorded]:
    history = lapse.log.history(session_id)
    if policy_of(history) is None:
        say_error(nothing_known(session_id))
        raise typer.Exit(FAILED)
    return history


def _shown(lapse: Lapse, policy: str | None) -> Sequence[str] | None:
    """Raises PolicyUnknown."""
    if policy is None:
        return None
    lapse.policies.versions(policy)
    return [policy]


def _period(since: str | None, until: str | None) -> dict[str, int | None]:
    """Raises SettingsInvalid."""
    begin = parse_instant(since, "--since") if since is not None else None
    end = parse_instant(until, "--until") if until is not None else None
    if begin is not None and end is not None and begin >= end:
        raise SettingsInvalid("--since must lie before --until")
    return {"since": begin, "until": end}
