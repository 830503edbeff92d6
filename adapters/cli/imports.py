"""`lapse ingest` and `lapse simulate`: real logs in, sessions or figures out."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import orjson
import typer

from adapters.cli.errors import FAILED, refusals, say_error
from adapters.cli.look import due_now, say_due
from adapters.cli.options import Database, Json, load
from adapters.cli.output import (
    console,
    format_second,
    import_progress,
    print_json,
    print_table,
)
from adapters.cli.simulation_page import Outcome, outcome, page
from adapters.clock import format_instant, parse_instant
from adapters.importers.driver import LEASE, ClockLease, Job, Report, Target, run
from adapters.importers.formats import FORMATS, VISITORS, VisitorBy
from adapters.keyring.plain import PlainKeyring
from adapters.log.memory import MemoryLog, MemoryStore, MemoryVault
from adapters.settings import environment
from adapters.wiring import Lapse, configured_policies, open_lapse, read_policy_file
from domain.errors import PolicyUnknown, SettingsInvalid, SourceUnreadable
from domain.policy import SECOND, RetentionPolicy, Version, parse
from domain.use_cases.simulate import Simulation

Files = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Logs, plain or gzip; - is standard input.")
]
Format = Annotated[
    str,
    typer.Option("--format", metavar="FORMAT", help=f"How lines are read: {', '.join(FORMATS)}."),
]
Visitor = Annotated[
    str,
    typer.Option(
        "--visitor",
        metavar="VISITOR",
        help=f"What makes a visitor in web logs: {', '.join(VISITORS)}.",
    ),
]
Until = Annotated[
    str,
    typer.Option(
        "--until",
        metavar="WHEN",
        help="How far the clock runs on after the last record: last (not at all), now, or an "
        "RFC 3339 time.",
    ),
]


def job_of(files: list[str], format_name: str, visitor: str) -> Job:
    """The job behind the options. Raises SettingsInvalid, SourceUnreadable."""
    if format_name not in FORMATS:
        raise SettingsInvalid(f"--format must be one of {', '.join(FORMATS)}")
    if visitor not in VISITORS:
        raise SettingsInvalid(f"--visitor must be one of {', '.join(VISITORS)}")
    if files.count("-") > 1:
        raise SettingsInvalid("standard input (-) can be read once")
    for number, path in enumerate(files, start=1):
        _require_readable(number, path)
    return Job(files, format_name, VisitorBy(visitor))


def _require_another(option: str, path: Path | None, files: list[str]) -> None:
    """What is written must not be one of the logs. Raises SettingsInvalid."""
    if path is not None and path.exists() and any(_is_same(path, file) for file in files):
        raise SettingsInvalid(f"{option} names one of the logs, which it would spoil")


def _is_same(path: Path, file: str) -> bool:
    return file != "-" and path.samefile(file)


def _require_readable(number: int, path: str) -> None:
    """Known before the first of several files is imported. Raises SourceUnreadable.

    Pipes are left alone: opened once more they would lose what they hold.
    """
    try:
        if path != "-" and not stat.S_ISFIFO(Path(path).stat().st_mode):
            Path(path).open("rb").close()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not the name of a file"
        raise SourceUnreadable(
            f"file {number} cannot be read: {reason}; nothing was imported"
        ) from None


def end_of(until: str, now: int) -> Callable[[int], int]:
    """Where the clock runs to after the last record. Raises SettingsInvalid."""
    if until == "last":
        return lambda last: last
    if until == "now":
        return lambda last: max(last, now)
    instant = parse_instant(until, "--until")
    return lambda last: max(last, instant)


def ingest(
    files: Files,
    format_name: Format,
    policy: Annotated[
        str, typer.Option("--policy", metavar="NAME", help="The policy sessions get.")
    ],
    visitor: Visitor = "host",
    until: Until = "now",
    rejects: Annotated[
        Path | None,
        typer.Option(
            "--rejects",
            metavar="FILE",
            help="Append every rejected line's number and reason to this file (JSON Lines).",
        ),
    ] = None,
    wait: Annotated[
        int,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            max=3600,
            help="Seconds to wait for another import; one that was killed is in the way for 60.",
        ),
    ] = LEASE // SECOND + 5,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Turn a real log into sessions, with the log's own time as the clock.

    Killed in the middle, the same command goes on where it stopped and doubles nothing; run again
    on a file that grew, it reads what is new.
    """
    with refusals():
        settings = load(db)
        job = job_of(files, format_name, visitor)
        _require_another("--rejects", rejects, files)
        began = time.perf_counter()
        with (
            _reject_file(rejects) as on_reject,
            open_lapse(settings) as lapse,
            import_progress() as progress,
        ):
            wall = lapse.clock()
            end = end_of(until, wall)
            lapse.policies.versions(policy)
            target = _target(lapse, policy, wall, on_reject)
            target.lease.take(wait, lambda: _say_waiting(wait))
            [report] = run(job, [target], end, progress)
            hidden = due_now(lapse, policy)
        _show(report, time.perf_counter() - began, as_json=as_json)
        if hidden and not as_json:
            say_due(hidden)
        if report.broken is not None:
            say_error(f"{report.broken}; everything before it was imported")
            raise typer.Exit(FAILED)
        _require_a_match(report)


def _require_a_match(report: Report) -> None:
    """Fail where no line at all could be read, though there are some.

    Blank lines count as read, so a few of them beside those that were rejected prove nothing.
    """
    nothing_came = not (report.sessions or report.participants or report.refused)
    if nothing_came and report.rejected > report.lines / 2:
        say_error("no line matches; is --format right?")
        raise typer.Exit(FAILED)


def _say_waiting(seconds: int) -> None:
    say_error(f"another import holds the clock; waiting for it, up to {seconds} s")


def _target(
    lapse: Lapse, policy: str, wall: int, on_reject: Callable[[int, int, str], None] | None
) -> Target:
    return Target(
        lapse.log,
        lapse.vault,
        lapse.keyring,
        lapse.policies.refresh,
        policy,
        ClockLease(lapse.log, lapse.holder, lapse.clock),
        lapse.holder,
        wall,
        on_reject=on_reject,
    )


def _show(report: Report, seconds: float, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "lines": report.lines,
                "rejected": report.rejected,
                "refused": report.refused,
                "sessions": report.sessions,
                "participants": report.participants,
                "swept": report.swept,
                "events": dict(sorted(report.events.items())),
                "last": format_instant(report.last),
                "rejects": [
                    {"file": number, "line": line, "reason": reason}
                    for number, line, reason in report.rejects
                ],
                "seconds": round(seconds, 3),
            }
        )
        return
    print_table(
        "Imported",
        ("lines", "rejected", "refused", "sessions", "participants", "seconds"),
        [
            (
                report.lines,
                report.rejected,
                report.refused,
                report.sessions,
                report.participants,
                f"{seconds:.1f}",
            )
        ],
    )
    print_table("Events", ("event", "number"), sorted(report.events.items()))
    if report.swept["due"]:
        print_table("Swept", list(report.swept), [list(report.swept.values())])
    for number, line, reason in report.rejects[:20]:
        console.print(f"file {number}, line {line}: {reason}", markup=False)
    if len(report.rejects) > 20:
        console.print(f"… {report.rejected} in all; --rejects FILE lists them")


def simulate(
    files: Files,
    format_name: Format,
    policy: Annotated[
        list[str],
        typer.Option("--policy", metavar="NAME", help="A policy; say it again to compare several."),
    ],
    visitor: Visitor = "host",
    until: Until = "now",
    policy_file: Annotated[
        Path | None,
        typer.Option("--policy-file", metavar="FILE", help="Policies beside the configured ones."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Draw it into this file: one page, no network."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What would happen: run a real log through policies without any database."""
    with refusals():
        settings = load(None)
        job = job_of(files, format_name, visitor)
        _require_another("--html", html, files)
        known = {one.name: one for one in configured_policies(settings)}
        if policy_file is not None:
            known.update(parse(read_policy_file(policy_file), environment()))
        wall = settings.make_clock()()
        end = end_of(until, wall)
        runs = [_Run(name, known, wall) for name in dict.fromkeys(policy)]
        began = time.perf_counter()
        with import_progress() as progress:
            reports = run(job, [one.target for one in runs], end, progress)
        seconds = time.perf_counter() - began
        found = [outcome(one.simulation, report) for one, report in zip(runs, reports, strict=True)]
        if html is not None:
            _write_page(html, page(found))
        if as_json:
            print_json(
                {
                    "lines": reports[0].lines,
                    "rejected": reports[0].rejected,
                    "policies": {one.policy: one.document() for one in found},
                    "seconds": round(seconds, 3),
                }
            )
        else:
            _show_read(reports[0], found)
            _show_simulation(found)
        if reports[0].broken is not None:
            say_error(f"{reports[0].broken}; the figures cover everything before it")
            raise typer.Exit(FAILED)
        _require_a_match(reports[0])


class _Run:
    """One policy of a simulation: a log that keeps only what is alive, and who watches it."""

    def __init__(self, name: str, known: dict[str, RetentionPolicy], wall: int) -> None:
        if name not in known:
            raise PolicyUnknown(name, sorted(known))
        self.simulation = Simulation(name)
        store = MemoryStore()
        log = MemoryLog(store, lambda: wall, keep_events=False, observe=self.simulation.observe)
        self.target = Target(
            log,
            MemoryVault(store),
            PlainKeyring(),
            partial(dict, {name: (Version(1, 0, known[name]),)}),
            name,
            ClockLease(log, "simulation", lambda: wall),
            "simulation",
            wall,
            on_record=self.simulation.on_record,
        )


def _show_read(report: Report, found: list[Outcome]) -> None:
    """What the figures are about: lines, and the period from the first session to the end."""
    begins = min((at for one in found for at, _ in one.active), default=None)
    ends = report.last if begins is not None else None
    print_table(
        "Read",
        ("lines", "rejected", "from", "until"),
        [(report.lines, report.rejected, format_second(begins), format_second(ends))],
    )


def _show_simulation(found: list[Outcome]) -> None:
    columns = ("policy", "sessions", "participants", "peak active", "expired", "erased", "refused")
    rows = [
        (
            one.policy,
            one.sessions,
            one.participants,
            one.peak_active,
            sum(one.expiries.values()),
            sum(one.erasures.values()),
            one.refused,
        )
        for one in found
    ]
    print_table("What would happen", columns, rows)
    rules = [
        (one.policy, what, rule, number)
        for one in found
        for what, counts in (("expired", one.expiries), ("erased", one.erasures))
        for rule, number in sorted(counts.items())
    ]
    print_table("By rule", ("policy", "what", "rule", "sessions"), rules)
    kept = [
        (one.policy, tier, max((level for _, level in points), default=0))
        for one in found
        for tier, points in one.kept.items()
        if points
    ]
    print_table("Most records kept at once", ("policy", "tier", "records"), kept)


def _write_page(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsInvalid(f"--html: the file cannot be written ({error.strerror})") from None


@contextmanager
def _reject_file(path: Path | None) -> Iterator[Callable[[int, int, str], None] | None]:
    """Writes every rejected line's number and reason, never what it held. For its owner alone."""
    if path is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise SettingsInvalid(f"--rejects: the file cannot be written ({error.strerror})") from None
    with os.fdopen(descriptor, "wb") as file:

        def write(number: int, line: int, reason: str) -> None:
            file.write(orjson.dumps({"file": number, "line": line, "reason": reason}) + b"\n")

        yield write
