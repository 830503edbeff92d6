"""Options that every command shares, and the settings they lead to."""

from typing import Annotated

import typer

from adapters.logs import configure_logs
from adapters.settings import Settings, load_settings

Database = Annotated[
    str | None,
    typer.Option("--db", metavar="URL", help="The database; LAPSE_DATABASE_URL otherwise."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def load(db: str | None, log_level: str = "warning") -> Settings:
    """The settings of this run, logs set up (at `log_level` unless a setting says otherwise).

    Raises SettingsInvalid.
    """
    settings = load_settings(database_url=db)
    configure_logs(settings.log_level or log_level)
    return settings
