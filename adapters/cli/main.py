"""The `lapse` command. Each group of commands has a file of its own; this one joins them."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from adapters.cli import (
    auditing,
    certificates,
    cleaning,
    demo,
    erasures,
    exporting,
    imports,
    keys,
    look,
    operate,
    policies,
    proof,
    serving,
    tokens,
)
from adapters.cli.options import AboutSomebody
from adapters.wiring import settle_memory

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed or not verified, 2 wrong usage, 3 refused because something "
    "changed or is pending, 4 stopped by a guard."
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a stack trace with local variables would show people's data
    help="Sessions that forget on time, and can prove it.",
    epilog=f"{EXIT_CODES} See something at once: lapse demo --for 60s",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("lapse"))
        raise typer.Exit


@app.callback()
def lapse(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """Sessions that forget on time, and can prove it."""


def _example(command: str) -> str:
    return f"Example: lapse {command}"


app.command(
    epilog=_example(
        "ingest access.log --format combined --policy web-visit --rejects rejects.jsonl"
    )
)(imports.ingest)
app.command(
    epilog=_example("simulate access.log --format combined --policy web-visit --html what-if.html")
)(imports.simulate)
app.command(epilog=_example("serve --ready-file ready.json"))(serving.serve)
app.command(epilog=_example("sweep --dry-run"))(operate.sweep)
app.command(epilog=_example("status --json"))(operate.status)
app.command(epilog=_example("sessions --policy web-visit --state active"))(look.sessions)
app.command(epilog=_example("show df28b1c3"))(look.show)
app.command(epilog=_example("demo --for 60s"))(demo.demo)

app.command(cls=AboutSomebody, epilog=_example("export --stdin --out copy.zip < name.txt"))(
    exporting.export
)
app.command(epilog=_example("token --role producer --ttl 8h"))(tokens.token)

erase = typer.Typer(no_args_is_help=True, help="Erase a session, or everything of a person.")
erase.command("session", epilog=_example("erase session df28b1c3df28b1c3df28b1c3df28b1c3"))(
    erasures.erase_session
)
erase.command("subject", cls=AboutSomebody, epilog=_example("erase subject --stdin < person.txt"))(
    erasures.erase_subject
)
app.add_typer(erase, name="erase")

request = typer.Typer(no_args_is_help=True, help="Requests for erasure, and how far they are.")
request.command("list", epilog=_example("request list --status requested"))(erasures.request_list)
request.command("show", epilog=_example("request show df28b1c3df28b1c3df28b1c3df28b1c3"))(
    erasures.request_show
)
request.command(
    "refuse",
    epilog=_example("request refuse df28b1c3df28b1c3df28b1c3df28b1c3 --ground legal-claim"),
)(erasures.request_refuse)
request.command("run", epilog=_example("request run"))(erasures.request_run)
app.add_typer(request, name="request")

hold = typer.Typer(no_args_is_help=True, help="Holds: what must not be deleted for now.")
hold.command(
    "add",
    cls=AboutSomebody,
    epilog=_example("hold add --subject-stdin --ground legal-claim < person.txt"),
)(erasures.hold_add)
hold.command("release", epilog=_example("hold release df28b1c3df28b1c3df28b1c3df28b1c3"))(
    erasures.hold_release
)
hold.command("list", epilog=_example("hold list"))(erasures.hold_list)
app.add_typer(hold, name="hold")

audit = typer.Typer(no_args_is_help=True, help="What happened, when and why.")
audit.command("show", epilog=_example("audit show policy:web-visit"))(look.audit_show)
audit.command("replay", epilog=_example("audit replay --until 2026-11-10T12:00:00Z"))(
    auditing.replay
)
audit.command("why", epilog=_example("audit why df28b1c36f60a182bf85563d1ecf9722"))(auditing.why)
audit.command("completeness", epilog=_example("audit completeness --since 2026-11-01T00:00:00Z"))(
    auditing.completeness
)
audit.command("policies", epilog=_example("audit policies web-visit"))(auditing.policies)
audit.command("requests", epilog=_example("audit requests --out requests.jsonl"))(auditing.requests)
audit.command(
    "export", epilog=_example("audit export --format parquet --out audit.parquet --proofs")
)(auditing.export)
audit.command("checkpoint", epilog=_example("audit checkpoint > checkpoint.txt"))(proof.checkpoint)
audit.command("prove", epilog=_example("audit prove 42 --out 42.tlog-proof"))(proof.prove)
audit.command("verify", epilog=_example("audit verify --against checkpoint.txt"))(proof.verify)
audit.command("publish", epilog=_example("audit publish --out public"))(proof.publish)
audit.command("key", epilog=_example("audit key --json"))(proof.keys)
app.add_typer(audit, name="audit")

certificate = typer.Typer(no_args_is_help=True, help="Proof of what ended and what was erased.")
certificate.command(
    "get", epilog=_example("certificate get df28b1c36f60a182bf85563d1ecf9722 --out c.json")
)(certificates.get)
certificate.command("verify", epilog=_example("certificate verify c.json --key certificates.pem"))(
    certificates.verify
)
app.add_typer(certificate, name="certificate")

policy = typer.Typer(no_args_is_help=True, help="Check, preview and apply retention policies.")
policy.command("check", epilog=_example("policy check policies.toml"))(policies.check)
policy.command("show", epilog=_example("policy show web-visit"))(policies.show)
policy.command("impact", epilog=_example("policy impact policies.toml"))(policies.impact)
policy.command(
    "apply",
    epilog=_example("policy apply policies.toml --effective-from 2027-01-01T00:00:00Z"),
)(policies.apply)
app.add_typer(policy, name="policy")

key = typer.Typer(no_args_is_help=True, help="The keys that wrap all others.")
key.command("status", epilog=_example("key status --json"))(keys.status)
key.command("rotate", epilog=_example("key rotate"))(keys.rotate)
app.add_typer(key, name="key")

db = typer.Typer(no_args_is_help=True, help="The database: schema, checks, rebuilding.")
db.command("upgrade", epilog=_example("db upgrade --db postgresql://localhost/lapse"))(
    operate.db_upgrade
)
db.command("check", epilog=_example("db check"))(operate.db_check)
db.command("rebuild", epilog=_example("db rebuild sessions"))(operate.db_rebuild)
db.command("clean", epilog=_example("db clean"))(cleaning.clean)
db.command(
    "search-canaries", epilog=_example("db search-canaries --stdin --folder exports < canaries.txt")
)(cleaning.search_canaries)
db.command("restore-check", epilog=_example("db restore-check --json"))(operate.db_restore_check)
app.add_typer(db, name="db")


def main() -> None:
    """The entry point of the installed command."""
    settle_memory()
    sys.exit(app())
