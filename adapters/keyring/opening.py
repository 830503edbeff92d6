"""Opens the keyring of a database, or refuses to: never new keys for data that exists."""

import secrets
from pathlib import Path

from sqlalchemy import Connection

from adapters.keyring.file_keyring import (
    FileKeyring,
    KeyFile,
    create_key_file,
    discard_key_file,
    read_key_file,
)
from adapters.log.engine import Engines
from adapters.log.schema import meta
from domain.errors import KeyUnavailable

_STORE = "store"
_CHECK = "kek:"
_LOOKUP_CHECK = "lookup-check"


def open_keyring(engines: Engines, folder: Path, database: Path | None) -> FileKeyring:
    """The keyring for this database. database: its file, if it is one.

    A database that was never opened before gets an id and keys of its own. Raises KeyUnavailable.
    """
    _refuse_beside(folder, database)
    store = _known_store(engines)
    if store is None:
        store = _new_store(engines, folder)
    keys = read_key_file(folder, store)
    _compare(engines, keys)
    return FileKeyring(keys)


def _refuse_beside(folder: Path, database: Path | None) -> None:
    if database is None:
        return
    below = database.resolve().parent
    if folder.resolve().is_relative_to(below):
        raise KeyUnavailable(
            "the key folder lies below the folder of the database, so a copy of that folder would "
            "hold both the sealed data and its keys: set LAPSE_KEY_URL to a folder elsewhere"
        )


def store_of(engines: Engines) -> str:
    """The random id of the store behind a database that was opened before."""
    return _known_store(engines) or ""


def _known_store(engines: Engines) -> str | None:
    with engines.read() as connection:
        row = connection.execute(meta.select().where(meta.c.name == _STORE)).fetchone()
    return bytes(row.value).decode() if row else None


def _new_store(engines: Engines, folder: Path) -> str:
    """Keys first, then the database's knowledge of them: a crash between leaves a spare file."""
    store = secrets.token_hex(8)
    keys = create_key_file(folder, store)
    try:
        with engines.write() as connection:
            won = _claim(connection, store)
            if won:
                for name, check in (
                    (_CHECK + keys.current, keys.check_value(keys.current)),
                    (_LOOKUP_CHECK, keys.lookup_check_value()),
                ):
                    connection.execute(meta.insert().values(name=name, value=check))
    except BaseException:
        discard_key_file(folder, store)
        raise
    if won:
        return store
    discard_key_file(folder, store)
    return _known_store(engines) or store


def _claim(connection: Connection, store: str) -> bool:
    """Whether this process is the first to open the database."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    claimed = connection.exec_driver_sql(
        f"INSERT INTO meta (name, value) VALUES ('{_STORE}', {mark}) "  # noqa: S608
        "ON CONFLICT (name) DO NOTHING",
        (store.encode(),),
    )
    return claimed.rowcount == 1


def _compare(engines: Engines, keys: KeyFile) -> None:
    """Every KEK the database was sealed with must be in the file, and the secret of its lookups,
    unchanged."""
    with engines.read() as connection:
        rows = connection.execute(meta.select().where(meta.c.name.startswith(_CHECK))).fetchall()
        lookup = connection.execute(meta.select().where(meta.c.name == _LOOKUP_CHECK)).fetchone()
    if lookup is None or keys.lookup_check_value() != bytes(lookup.value):
        raise KeyUnavailable(
            "the key file does not hold the lookup secret of this database: restore the key file "
            "that belongs to it; nothing was changed"
        )
    for row in rows:
        kek = row.name.removeprefix(_CHECK)
        if kek not in keys.keks or keys.check_value(kek) != bytes(row.value):
            raise KeyUnavailable(
                f"the key file does not hold key {kek} with which this database was sealed: "
                "restore the key file that belongs to it; nothing was changed"
            )
