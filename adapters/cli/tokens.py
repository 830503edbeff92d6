"""`lapse token`: a token for the HTTP API, signed with the installation's own key."""

from typing import Annotated

import typer

from adapters.cli.errors import refusals
from adapters.cli.options import Database, Json, load
from adapters.cli.output import print_json
from adapters.clock import format_instant
from adapters.wiring import open_lapse
from domain.errors import SettingsInvalid
from domain.policy import SECOND, parse_duration

ROLES = ("producer", "subscriber", "auditor", "privacy", "operator", "admin")


def token(
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help=f"What it is for: {', '.join(ROLES)}.")
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", metavar="NAME", help="Only for this policy; say it again for several."
        ),
    ] = None,
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="DURATION", help="How long it is good, up to 365d.")
    ] = "1h",
    name: Annotated[
        str,
        typer.Option(
            "--name", metavar="NAME", help="Whose it is; the log knows a keyed hash of it only."
        ),
    ] = "operator",
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Make a token for the HTTP API and print nothing else."""
    with refusals():
        from adapters.http.opening import open_tokens  # noqa: PLC0415 - imports FastAPI
        from adapters.http.tokens import LONGEST, Role  # noqa: PLC0415

        if role not in ROLES:
            raise SettingsInvalid(f"--role must be one of {', '.join(ROLES)}")
        term = _term(ttl, LONGEST)
        with open_lapse(load(db), create=False) as lapse:
            for one in policy or ():
                lapse.policies.versions(one)
            made = open_tokens(lapse).mint(Role(role), term, name, policies=policy or None)
            until = format_instant(lapse.clock() // SECOND * SECOND + term)
    if as_json:
        print_json({"token": made, "role": role, "policies": policy or None, "expires_at": until})
    else:
        typer.echo(made)


def _term(text: str, longest: int) -> int:
    try:
        term = parse_duration(text)
    except ValueError as error:
        raise SettingsInvalid(f"--ttl: {error}") from None
    if not SECOND <= term <= longest:
        raise SettingsInvalid("--ttl must be from 1s to 365d")
    return term
