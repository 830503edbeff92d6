"""`lapse sweep`, `status` and `db`: running Lapse."""

import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from adapters.cli.errors import DONE, FAILED, REFUSED, refusals
from adapters.cli.look import due_now
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, count_progress, print_json, print_table
from adapters.clock import format_instant
from adapters.log.checks import Finding, check_log, rebuild_sessions
from adapters.log.migrate import Schema, schema_of, upgrade
from adapters.log.tree import Tree
from adapters.restoring import Standing, State
from adapters.scheduler.ticker import log_sweep
from adapters.vault.holds import state_decoder
from adapters.wiring import (
    Lapse,
    database_file,
    has_database,
    make_folder,
    open_database,
    open_lapse,
    require_database,
)
from domain.errors import CorruptEvent, SchemaTooNew, SettingsInvalid
from domain.ports import SweepCount
from domain.use_cases import sweep as use_case
from projections import active_sessions, usage
from projections.catalogue import PROJECTIONS


def sweep(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is due; write nothing.")
    ] = False,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Emit everything that is due now. due = done + held + rearmed + failed."""
    with refusals():
        settings = load(db, "info")
        require_database(settings)
        with open_lapse(settings, create=not dry_run) as lapse:
            began = time.perf_counter()
            if dry_run:
                count = _preview(lapse)
            else:
                count = use_case.sweep(
                    lapse.log,
                    lapse.policies.known,
                    lapse.clock(),
                    lapse.holder,
                    limit=settings.sweep_batch,
                )
                log_sweep(count, time.perf_counter() - began)
        _show_count(count, dry_run=dry_run, as_json=as_json)
        if count.failed:
            raise typer.Exit(FAILED)


def _preview(lapse: Lapse) -> SweepCount:
    """The same decisions as a sweep, page by page, written nowhere."""
    now, total = lapse.clock(), SweepCount()
    for found in lapse.log.due(now, lapse.settings.sweep_batch):
        total += use_case.preview(lapse.log, lapse.policies.known, found, now)
    return total


def sweep_document(count: SweepCount) -> dict[str, Any]:
    fields: dict[str, Any] = {**vars(count), "events": _by_name(count)}
    del fields["more"]
    return fields


def _by_name(count: SweepCount) -> dict[str, int]:
    events = {topic.split(".")[1]: number for topic, number in (count.events or {}).items()}
    return dict(sorted(events.items()))


def _show_count(count: SweepCount, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({**sweep_document(count), "dry_run": dry_run})
        return
    title = "Due (nothing was written)" if dry_run else "Swept"
    columns = ("due", "done", "held", "rearmed", "failed")
    print_table(title, columns, [[getattr(count, column) for column in columns]])
    if count.events:
        print_table("Events", ("event", "number"), _by_name(count).items())


def status(db: Database = None, as_json: Json = False) -> None:
    """Say how things stand: schema, log, sessions per policy, what is due, projections."""
    with refusals(), open_lapse(load(db), create=False) as lapse:
        now = lapse.clock()
        with lapse.engines.snapshot() as connection:
            per_policy = active_sessions.statistics(
                connection, lapse.policies.known, state_decoder(connection), now
            )
            totals = usage.totals(connection)
        due = lapse.log.next_due()
        lag = lapse.projector.lag()
        found: dict[str, Any] = {
            "now": format_instant(now),
            "schema": str(schema_of(lapse.engines)),
            "position": lapse.log.head(),
            "next_due": format_instant(due),
            "due_now": due_now(lapse),
            "lateness_seconds": max(0, now - due) / 1e6 if due is not None else 0.0,
            "policies": {
                name: {
                    "total": counted.total,
                    "active": counted.active,
                    "inactive": counted.inactive,
                    "participants": counted.participants,
                    "participants_per_session": round(counted.participants_per_session, 2),
                    "last_activity": format_instant(counted.last_activity),
                    "stored_bytes": counted.stored_bytes,
                }
                for name, counted in sorted(per_policy.items())
            },
            "projections": {
                name: {
                    "position": one.position,
                    "events_behind": one.events_behind,
                    "seconds_behind": one.seconds_behind,
                    "state": str(one.state),
                }
                for name, one in sorted(lag.items())
            },
            "usage": [
                {
                    "policy": one.policy,
                    "event": one.event,
                    "count": one.count,
                    "bytes_freed": one.bytes_freed,
                }
                for one in totals
            ],
        }
        if as_json:
            print_json(found)
        else:
            _show_status(found)


def _show_status(found: dict[str, Any]) -> None:
    head = {**found, "late by": _in_words(found["lateness_seconds"])}
    columns = ("now", "schema", "position", "next_due", "due_now", "late by")
    print_table("Lapse", columns, [[head[name] for name in columns]], first_to_go=("schema",))
    for title, key, first_to_go in (
        ("Sessions", "policies", ("participants_per_session", "participants", "stored_bytes")),
        ("Projections", "projections", ()),
    ):
        rows = found[key]
        columns = ("name", *(next(iter(rows.values())) if rows else ()))
        cells = [[name, *map(_rounded, row.values())] for name, row in rows.items()]
        print_table(title, columns, cells, first_to_go=first_to_go)
    if any(row["state"] == "behind" for row in found["projections"].values()):
        console.print("projections catch up in `lapse serve`")


def _rounded(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


_UNITS = (
    (365 * 86_400, "year", "years"),
    (86_400, "day", "days"),
    (3_600, "h", "h"),
    (60, "min", "min"),
    (1, "s", "s"),
)


def _in_words(seconds: float) -> str:
    """A duration by its two greatest units: `2 h 5 min`; years and days stand alone."""
    rest, parts = int(seconds), []
    for size, one, several in _UNITS:
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number} {one if number == 1 else several}")
        if parts and (size >= 86_400 or len(parts) == 2):
            break
    return " ".join(parts) or "-"


# -- the database -----------------------------------------------------------------------------


def db_upgrade(db: Database = None, as_json: Json = False) -> None:
    """Bring the database to the schema of this version. Safe to run again."""
    with refusals():
        settings = load(db)
        file = database_file(settings)
        if file is not None:
            make_folder(file.parent)
        with open_database(settings) as engines:
            before = schema_of(engines)
            if before is Schema.NEWER:
                raise SchemaTooNew(
                    "this database was written by a newer version of Lapse: use that version"
                )
            upgrade(engines)
            after = schema_of(engines)
            # What the log held before there was a tree; a damaged log is upgraded all the same.
            with suppress(CorruptEvent), count_progress("hashing") as progress:
                Tree(engines).follow(progress)
        if as_json:
            print_json({"before": str(before), "after": str(after)})
        else:
            console.print(f"schema: {before} before, {after} now")


def db_check(db: Database = None, as_json: Json = False) -> None:
    """Read the whole log and compare: positions without a gap, every event readable, the folded
    state equal to replay. Exit code 1 and every finding if something is wrong."""
    with refusals(), open_lapse(load(db), create=False) as lapse:
        with count_progress("checking") as progress:
            findings = list(check_log(lapse.engines, lapse.log, lapse.clock(), progress))
        if as_json:
            print_json({"ok": not findings, "findings": [vars(finding) for finding in findings]})
        else:
            _show_findings(findings)
        if findings:
            raise typer.Exit(FAILED)


def _show_findings(findings: list[Finding]) -> None:
    if not findings:
        console.print("the log is whole, and the folded state is what it says")
        return
    print_table(
        "Findings", ("kind", "where", "what"), [(f.kind, f.where, f.what) for f in findings]
    )


def db_rebuild(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="sessions, or the name of a projection.")
    ] = "all",
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Make derived data anew from the log: the folded state, then projections beside the copy that
    is served. Killed in the middle, a projection goes on where it stopped."""
    names = [projection.name for projection in PROJECTIONS]
    with refusals():
        if what not in ("all", "sessions", *names):
            raise SettingsInvalid(f"WHAT must be all, sessions, {', '.join(names)}")
        rebuilt: dict[str, int] = {}
        with open_lapse(load(db), create=False) as lapse:
            if what in ("all", "sessions"):
                with count_progress("sessions") as progress:
                    rebuilt["sessions"] = rebuild_sessions(
                        lapse.engines, lapse.log, lapse.policies.known, lapse.clock(), progress
                    )
            for name in names:
                if what in ("all", name):
                    with count_progress(name) as progress:
                        lapse.projector.rebuild(name, progress)
                    rebuilt[name] = lapse.log.head()
        if as_json:
            print_json({"rebuilt": rebuilt})
        else:
            print_table("Rebuilt", ("what", "rows or events"), list(rebuilt.items()))


def db_restore_check(db: Database = None, as_json: Json = False) -> None:
    """Say whether this database was restored from a backup, and what follows; writes nothing. Exit
    code 3 if something has to be done again first, 1 if the erasure ledger must be restored: it
    ends too early, or was changed."""
    with refusals():
        settings = load(db)
        standing = _FRESH
        if has_database(settings):
            with open_lapse(settings, create=False) as lapse:
                standing = lapse.restoring.look()
                lapse.restoring.check_ledger()
        if as_json:
            print_json(_standing_document(standing))
        else:
            _show_standing(standing)
        if (code := _CODE_OF[standing.state]) != DONE:
            raise typer.Exit(code)


_FRESH = Standing(State.FRESH, 0, 0, None, (1, 0), (1, 0))
_CODE_OF = {
    State.FRESH: DONE,
    State.CURRENT: DONE,
    State.BEHIND: REFUSED,
    State.OLDER: REFUSED,
    State.SHORT: FAILED,
}
_MEANING = {
    State.FRESH: "nothing was written yet",
    State.CURRENT: "it contains all that is known of it",
    State.BEHIND: "the next `lapse serve`, or command that writes, does again what is missing",
    State.OLDER: "it is an older state of itself: the next `lapse serve`, or command that writes, "
    "opens a new epoch and does again what is missing",
    State.SHORT: "entries of the erasure ledger are missing: restore its newest copy, or set "
    "LAPSE_LEDGER_URL; until then nothing is served",
}


def _standing_document(standing: Standing) -> dict[str, Any]:
    return {
        "state": str(standing.state),
        "ledger": {
            "entries": standing.entries,
            "contained": standing.contained,
            "missing": standing.missing,
            "counted": standing.counted,
        },
        "log": {
            "epoch": standing.log[0],
            "position": standing.log[1],
            "known_epoch": standing.known[0],
            "known_position": standing.known[1],
        },
    }


def _show_standing(standing: Standing) -> None:
    found = _standing_document(standing)
    rows = [
        [part, name, "-" if value is None else value]
        for part in ("ledger", "log")
        for name, value in found[part].items()
    ]
    print_table(found["state"], ("of", "what", "number"), rows)
    console.print(_MEANING[standing.state])
