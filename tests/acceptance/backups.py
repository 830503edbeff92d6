"""Backups of a database, taken and restored as operators do it: nothing runs meanwhile."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance import databases
from tests.acceptance.commands import Installation
from tests.servers import PostgresServer

Restore = Callable[[], None]


def back_up(site: Installation, request: pytest.FixtureRequest) -> Restore:
    """Copy the database as it is; the answer puts that in the place of what is there then."""
    url = site.database_url
    if databases.is_sqlite(url):
        return _back_up_file(Path(url.removeprefix("sqlite:///")), site.folder / "backups")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    backup = server.copy_database(url)
    request.addfinalizer(lambda: server.drop_database(backup))
    return partial(_replace, server, backup, url)


def _replace(server: PostgresServer, backup: str, url: str) -> None:
    server.copy_database(backup, over=url)


def _back_up_file(database: Path, folder: Path) -> Restore:
    folder.mkdir(exist_ok=True)
    backup = folder / f"{len(list(folder.iterdir()))}.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))

    def restore() -> None:
        for path in database.parent.glob(f"{database.name}*"):
            path.unlink()
        shutil.copy(backup, database)

    return restore


def back_up_folder(folder: Path, to: Path) -> Restore:
    """The same for a folder, such as that of the ledger."""
    shutil.copytree(folder, to)

    def restore() -> None:
        shutil.rmtree(folder)
        shutil.copytree(to, folder)

    return restore
