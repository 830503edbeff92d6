"""Options that commands share, and what they lead to."""

import shlex
import sys
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from adapters.logs import configure_logs
from adapters.settings import Settings, load_settings
from domain.errors import SettingsInvalid
from domain.facts import Verification

Database = Annotated[
    str | None,
    typer.Option("--db", metavar="URL", help="The database; LAPSE_DATABASE_URL otherwise."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
SessionId = Annotated[str, typer.Argument(metavar="ID", help="A session's id.")]
AfterId = Annotated[str, typer.Option("--after", metavar="ID", help="Go on behind this page.")]
PageSize = Annotated[
    int, typer.Option("--limit", metavar="NUMBER", min=1, max=1000, help="How many.")
]
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

Choice = TypeVar("Choice", bound=StrEnum)


def load(db: str | None, log_level: str = "warning") -> Settings:
    """The settings of this run, logs set up (at `log_level` unless a setting says otherwise).

    Raises SettingsInvalid.
    """
    settings = load_settings(database_url=db)
    configure_logs(settings.log_level or log_level)
    return settings


def choice(kind: type[Choice], value: str, option: str) -> Choice:
    """What an option names. Raises SettingsInvalid."""
    if value not in list(kind):
        raise SettingsInvalid(f"{option} must be one of {', '.join(kind)}")
    return kind(value)


def person_on_stdin(*, stdin: bool, option: str) -> str:
    """Whom a command is about, the first line of standard input; never an argument: those stand in
    lists of processes and in histories of shells. Raises SettingsInvalid."""
    if not stdin:
        raise SettingsInvalid(
            f"{option} is required: a name in an argument would be seen by others"
        )
    name = sys.stdin.readline(_LONGEST + 2).rstrip("\r\n")
    if not 0 < len(name) <= _LONGEST or not name.isprintable():
        raise SettingsInvalid(f"standard input must be one line of 1 to {_LONGEST} characters")
    return name


class AboutSomebody(TyperCommand):
    """A command about a person, who is read from standard input. Who writes the name behind it is
    told so, and the name is not repeated on the screen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if rest:
            option = next(one.opts[0] for one in self.params if one.opts[0].endswith("stdin"))
            ctx.fail(
                "a name in an argument would be seen by others: write it to standard input, in one "
                f"line, and give {option}"
            )
        return rest


def given(db: str | None, **options: str | int | None) -> str:
    """Options as they would be typed again, but for the URL: it may hold a password."""
    database = ["--db URL"] if db is not None else []
    others = [
        f"--{name} {shlex.quote(str(value))}"
        for name, value in options.items()
        if value is not None
    ]
    return " ".join([*database, *others])
