"""The `lapse` command. Each group of commands has a file of its own; this one joins them."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from adapters.cli import demo, imports, look, operate, policies
from adapters.wiring import settle_memory

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a stack trace with local variables would show people's data
    help="Sessions that forget on time, and can prove it.",
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
    """Exit codes: 0 done, 1 failed or not verified, 2 wrong usage, 3 refused because something
    changed or is pending, 4 stopped by a guard."""


app.command()(imports.ingest)
app.command()(imports.simulate)
app.command()(operate.serve)
app.command()(operate.sweep)
app.command()(operate.status)
app.command()(look.sessions)
app.command()(look.show)
app.command()(demo.demo)

audit = typer.Typer(no_args_is_help=True, help="What happened, when and why.")
audit.command("show")(look.audit_show)
app.add_typer(audit, name="audit")

policy = typer.Typer(no_args_is_help=True, help="Check, preview and apply retention policies.")
policy.command("check")(policies.check)
policy.command("show")(policies.show)
policy.command("impact")(policies.impact)
policy.command("apply")(policies.apply)
app.add_typer(policy, name="policy")

db = typer.Typer(no_args_is_help=True, help="The database: schema, checks, rebuilding.")
db.command("upgrade")(operate.db_upgrade)
db.command("check")(operate.db_check)
db.command("rebuild")(operate.db_rebuild)
app.add_typer(db, name="db")


def main() -> None:
    """The entry point of the installed command."""
    settle_memory()
    sys.exit(app())
