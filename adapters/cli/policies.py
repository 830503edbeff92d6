"""`lapse policy`: check a file, show what stands, preview a change, apply it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli.errors import FAILED, refusals, say_error
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, count_progress, print_json, print_table
from adapters.clock import format_instant, parse_instant
from adapters.presets import PRESETS, preset_text
from adapters.settings import environment
from adapters.wiring import (
    OPERATOR,
    configured_policies,
    has_database,
    open_lapse,
    read_policy_file,
)
from domain.errors import PolicyInvalid, PolicyUnknown
from domain.policy import RetentionPolicy, Version, format_duration, parse, to_document
from domain.use_cases import policies as use_case

File = Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file of policies.")]


def read(path: Path) -> list[RetentionPolicy]:
    """The policies of a file. Raises PolicyInvalid, SettingsInvalid."""
    return list(parse(read_policy_file(path), environment()).values())


def check(file: File, as_json: Json = False) -> None:
    """Validate a policy file as a whole; every error with its place. Exit code 1 if it is wrong."""
    with refusals():
        try:
            found = read(file)
        except PolicyInvalid as error:
            if as_json:
                problems = [{"place": p.place, "what": p.what} for p in error.problems]
                print_json({"ok": False, "problems": problems})
            else:
                say_error(str(error))
            raise typer.Exit(FAILED) from None
        if as_json:
            names = [policy.name for policy in found]
            print_json({"ok": True, "policies": names, "problems": []})
        else:
            console.print(f"{len(found)} {'policy' if len(found) == 1 else 'policies'}, no errors")


def show(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="A policy, or a policy file.")
    ] = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Show policies: the presets and those of the database, all versions, or those of a file."""
    with refusals():
        if name is not None and Path(name).suffix == ".toml":
            versions = {policy.name: [Version(0, 0, policy)] for policy in read(Path(name))}
        else:
            versions = _recorded(db)
            if name is not None:
                if name not in versions:
                    raise PolicyUnknown(name, sorted(versions))
                versions = {name: versions[name]}
        if as_json:
            print_json({key: [_document(v) for v in found] for key, found in versions.items()})
            return
        for key, found in sorted(versions.items()):
            _show_policy(key, found[-1])
        if name in PRESETS and console.is_terminal:
            console.print(preset_text(str(name)), markup=False)


def _recorded(db: str | None) -> dict[str, list[Version]]:
    """All versions in the database; before there is one, what is configured."""
    settings = load(db)
    if not has_database(settings):
        return {one.name: [Version(0, 0, one)] for one in configured_policies(settings)}
    with open_lapse(settings, create=False) as lapse:
        return {name: list(versions) for name, versions in lapse.policies.known.items()}


def _show_policy(name: str, version: Version) -> None:
    rows = [
        (rule.name, rule.since, format_duration(rule.after), rule.do, rule.scope)
        for rule in version.policy.rules
    ]
    title = f"{name}, version {version.number}"
    if version.effective_from:
        title += f", from {format_instant(version.effective_from)}"
    print_table(title, ("rule", "since", "after", "do", "scope"), rows)


def _document(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "effective_from": format_instant(version.effective_from)
        if version.effective_from
        else None,
        "policy": to_document(version.policy),
    }


def impact(file: File, db: Database = None, as_json: Json = False) -> None:
    """Show what applying the file would change for sessions that are open now; writes nothing."""
    with refusals():
        found = read(file)
        rows = _impacts(found, db)
        if as_json:
            print_json({name: vars(change) for name, change in rows})
            return
        print_table(
            "Open sessions",
            ("policy", "sessions", "end sooner", "end later", "end at once"),
            [(name, i.sessions, i.sooner, i.later, i.at_once) for name, i in rows],
        )


def _impacts(found: list[RetentionPolicy], db: str | None) -> list[tuple[str, use_case.Impact]]:
    settings = load(db)
    if not has_database(settings):
        return [(policy.name, use_case.Impact(0, 0, 0, 0)) for policy in found]
    with open_lapse(settings, create=False) as lapse:
        now = lapse.clock()
        return [(policy.name, use_case.impact(lapse.log, policy, now)) for policy in found]


def apply(
    file: File,
    effective_from: Annotated[
        str | None,
        typer.Option("--effective-from", help="RFC 3339; at least, and by default, 5 s ahead."),
    ] = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Record the file's policies as new versions and re-arm the sessions open under them.

    Run again after a kill, it goes on where it stopped.
    """
    with refusals():
        found = read(file)
        at = parse_instant(effective_from, "--effective-from") if effective_from else None
        rows = []
        with open_lapse(load(db)) as lapse, count_progress("re-arming") as progress:
            for policy in found:
                version = use_case.apply(lapse.log, policy, lapse.clock(), OPERATOR, at)
                rearmed = 0
                for looked_at in use_case.rearm(
                    lapse.log, policy.name, lapse.policies.refresh()[policy.name], lapse.clock()
                ):
                    rearmed += looked_at
                    progress(rearmed, max(rearmed, lapse.log.live(policy.name)))
                rows.append((policy.name, version, rearmed))
        if as_json:
            print_json(
                {
                    name: {
                        "version": version.number if version else None,
                        "effective_from": format_instant(version.effective_from or None)
                        if version
                        else None,
                        "changed": version is not None,
                        "rearmed": rearmed,
                    }
                    for name, version, rearmed in rows
                }
            )
            return
        for name, version, rearmed in rows:
            if version is None:
                console.print(f"{name}: unchanged; {rearmed} sessions looked at")
            else:
                since = format_instant(version.effective_from) if version.effective_from else "ever"
                console.print(
                    f"{name}: version {version.number} from {since}; {rearmed} sessions re-armed"
                )
