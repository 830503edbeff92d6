"""`lapse policy`: check a file, show what stands, preview a change, apply it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli.errors import FAILED, refusals, say_error
from adapters.cli.options import Database, Json, load
from adapters.cli.output import (
    console,
    count_progress,
    format_second,
    print_json,
    print_table,
)
from adapters.clock import format_instant, parse_instant
from adapters.settings import environment
from adapters.vault.summaries import check_aggregates
from adapters.wiring import (
    OPERATOR,
    configured_policies,
    has_database,
    open_lapse,
    read_policy_file,
)
from domain.errors import PolicyInvalid, PolicyUnknown
from domain.policy import (
    RetentionPolicy,
    Version,
    Versions,
    format_duration,
    in_force,
    notes,
    parse,
    to_document,
)
from domain.use_cases import policies as use_case

File = Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file of policies.")]


def read(path: Path | str) -> list[RetentionPolicy]:
    """The policies of a file. Raises PolicyInvalid, SettingsInvalid."""
    policies = list(parse(read_policy_file(Path(path)), environment()).values())
    check_aggregates(policies)
    return policies


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
            said = [
                {"place": f"policy.{policy.name}", "what": note}
                for policy in found
                for note in notes(policy)
            ]
            print_json({"ok": True, "policies": names, "problems": [], "notes": said})
        else:
            for policy in found:
                for note in notes(policy):
                    console.print(f"note: policy.{policy.name}: {note}", markup=False)
            console.print(f"{len(found)} {'policy' if len(found) == 1 else 'policies'}, no errors")


def show(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE", help="A policy, or a policy file.")
    ] = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Show policies: those in use, one of them with all of its keys, or those of a file."""
    with refusals():
        if name is not None and Path(name).suffix == ".toml":
            shown = [_Shown([Version(0, 0, policy)], "as the file has it") for policy in read(name)]
        else:
            shown = _in_use(db)
            if name is not None:
                known = sorted(one.name for one in shown)
                shown = [one for one in shown if one.name == name]
                if not shown:
                    raise PolicyUnknown(name, known)
        if as_json:
            print_json({one.name: one.document() for one in shown})
            return
        for one in shown:
            one.print()


@dataclass(frozen=True)
class _Shown:
    """A policy as `show` tells of it. versions: all there are; stands: where it comes from, if it
    is not from the database. now: decides which version is in force."""

    versions: Versions
    stands: str | None = None
    now: int = 0

    @property
    def name(self) -> str:
        return self.versions[0].policy.name

    def document(self) -> list[dict[str, Any]]:
        holding = use_case.holding(self.versions)
        return [
            {
                "version": version.number,
                "effective_from": format_instant(version.effective_from or None),
                "superseded": version not in holding,
                "policy": to_document(version.policy),
            }
            for version in self.versions
        ]

    def print(self) -> None:
        """The version in force with all of its keys, and each that is to come."""
        if self.stands is not None:
            _print_policy(f"{self.name}, {self.stands}", self.versions[0].policy)
            return
        holding = use_case.holding(self.versions)
        current = in_force(holding, self.now)
        since = format_second(current.effective_from) if current.effective_from else "ever"
        title = f"{self.name}, version {current.number}, in force since {since}"
        _print_policy(title, current.policy)
        for version in holding:
            if version.effective_from > self.now:
                since = format_second(version.effective_from)
                title = f"{self.name}, version {version.number}, takes effect at {since}"
                _print_policy(title, version.policy)


def _in_use(db: str | None) -> list[_Shown]:
    """What the database has recorded, and what is configured and not recorded yet."""
    settings = load(db)
    configured = {policy.name: policy for policy in configured_policies(settings)}
    recorded: Mapping[str, Versions] = {}
    now = 0
    if has_database(settings):
        with open_lapse(settings, create=False) as lapse:
            recorded, now = lapse.log.policies(), lapse.clock()
    new = [
        _Shown([Version(0, 0, policy)], "configured, not recorded yet")
        for name, policy in configured.items()
        if name not in recorded
    ]
    known = [_Shown(versions, now=now) for versions in recorded.values()]
    return sorted([*known, *new], key=lambda one: one.name)


def _print_policy(title: str, policy: RetentionPolicy) -> None:
    rules = [
        (rule.name, rule.since, format_duration(rule.after), rule.do, rule.scope)
        for rule in policy.rules
    ]
    print_table(title, ("rule", "since", "after", "do", "scope"), rules)
    document = to_document(policy)
    del document["rules"]
    for key, value in sorted(document.items()):
        console.print(f"  {key:<16} {_in_words(value)}", markup=False, soft_wrap=True)
    console.print()


def _in_words(value: Any) -> str:
    """A value of a policy on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {inner}" for key, inner in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_list_item, value)) or "-"
    return str(value)


def _list_item(item: Any) -> str:
    return f"{item['name']} sets {item['sets']}" if isinstance(item, dict) else str(item)


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
        typer.Option(
            "--effective-from",
            metavar="TIME",
            help="RFC 3339; at least, and by default, 5 s ahead.",
        ),
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
        with (
            open_lapse(load(db), applying=found) as lapse,
            count_progress("re-arming") as progress,
        ):
            for policy in found:
                version = use_case.apply(lapse.log, policy, lapse.clock(), OPERATOR, at)
                rearmed = 0
                for looked_at in use_case.rearm(
                    lapse.log, policy.name, lapse.policies.refresh()[policy.name], lapse.clock()
                ):
                    rearmed += looked_at
                    progress(rearmed, max(rearmed, lapse.log.live(policy.name)))
                rows.append((policy.name, version, rearmed))
            newest = lapse.log.policies()
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
            _show_applied(name, version, rearmed, newest[name])


def _show_applied(name: str, version: Version | None, rearmed: int, versions: Versions) -> None:
    """What became of one policy. versions: all that are recorded of it, the new one included."""
    if version is None:
        pending = f" (version {versions[-1].number}, {_since(versions[-1])})"
        console.print(f"{name}: unchanged{pending}; {rearmed} sessions looked at")
        return
    console.print(
        f"{name}: version {version.number} {_since(version)}; {rearmed} sessions re-armed"
    )
    holding = use_case.holding(versions)
    before = use_case.holding(versions[:-1])
    for lost in before:
        if lost not in holding:
            console.print(f"{name}: version {lost.number} {_since(lost)} is superseded")


def _since(version: Version) -> str:
    since = format_second(version.effective_from) if version.effective_from else "ever"
    return f"from {since}"
