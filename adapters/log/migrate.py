"""Brings a database to the schema of this version, and refuses one that is newer."""

from enum import StrEnum
from importlib.resources import files

from sqlalchemy import Connection, inspect

from adapters.log import postgres
from adapters.log.engine import Engines
from adapters.log.schema import meta
from adapters.log.transcoder import STATE_FORMAT
from domain.errors import SchemaTooNew, SchemaTooOld
from migrations import REVISIONS

LATEST = REVISIONS[-1]

_STATE_FORMAT = "state-format"


class Schema(StrEnum):
    """How the schema of a database stands to this version."""

    ABSENT = "absent"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


def schema_of(engines: Engines) -> Schema:
    """Look at the database; changes nothing."""
    with engines.read() as connection:
        revision = _revision(connection)
    if revision is None:
        return Schema.ABSENT
    if revision == LATEST:
        return Schema.CURRENT
    return Schema.OLDER if revision in REVISIONS else Schema.NEWER


def require_current(engines: Engines, *, create: bool) -> None:
    """Make sure the schema fits. create: an empty database gets it, and the folded state must fit
    too. Without, somebody only looks, or makes the folded state anew.

    Raises SchemaTooNew, SchemaTooOld.
    """
    found = schema_of(engines)
    if found is Schema.NEWER:
        raise SchemaTooNew(
            "this database was written by a newer version of Lapse: use that version, or restore "
            "a backup; nothing was changed"
        )
    if found is Schema.OLDER or (found is Schema.ABSENT and not create):
        raise SchemaTooOld("this database needs `lapse db upgrade` first; nothing was changed")
    if found is Schema.ABSENT:
        upgrade(engines)
    if create and state_format(engines) != STATE_FORMAT:
        raise SchemaTooOld(
            "the folded state of this database was written by another version of Lapse: run "
            "`lapse db rebuild sessions` first; nothing was changed"
        )


def state_format(engines: Engines) -> int:
    """The format of the folded state; databases from before there was a number have the first."""
    with engines.read() as connection:
        row = connection.execute(meta.select().where(meta.c.name == _STATE_FORMAT)).fetchone()
    return 1 if row is None else int(bytes(row.value))


def note_state_format(connection: Connection) -> None:
    """Every folded state is in the format of this version from now on."""
    connection.execute(meta.delete().where(meta.c.name == _STATE_FORMAT))
    connection.execute(meta.insert().values(name=_STATE_FORMAT, value=b"%d" % STATE_FORMAT))


def upgrade(engines: Engines, revision: str = "head") -> None:
    """Run the migrations up to `revision`, each in a transaction."""
    _run(engines, "upgrade", revision)


def downgrade(engines: Engines, revision: str) -> None:
    """Run the migrations down to `revision` (`base`: an empty database)."""
    _run(engines, "downgrade", revision)


def _run(engines: Engines, direction: str, revision: str) -> None:
    from alembic import command  # noqa: PLC0415 - a third of a second, paid only when it migrates
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    with engines.write() as connection:
        if connection.dialect.name == "postgresql":
            # Two instances that start at once: one migrates, the other then finds it done.
            postgres.lock_schema_changes(connection)
        is_new = _revision(connection) is None
        config.attributes["connection"] = connection
        getattr(command, direction)(config, revision)
        if is_new and direction == "upgrade":
            note_state_format(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None
