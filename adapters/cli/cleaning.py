"""`lapse db clean` and `lapse db search-canaries`: what is left in the files of the database."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.errors import FAILED, REFUSED, refusals
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, print_json, print_table
from adapters.log.engine import Engines
from adapters.vault.canaries import Searched, read_canaries, search
from adapters.wiring import database_file, open_database, open_lapse, require_database
from domain.errors import SettingsInvalid


def clean(db: Database = None, as_json: Json = False) -> None:
    """Clean the database up physically now: what was deleted leaves its files. With SQLite the file
    is written anew, and nobody else can write meanwhile."""
    with refusals():
        settings = load(db)
        require_database(settings)
        with open_lapse(settings, create=False) as lapse:
            pending = lapse.maintenance.compact()
        if as_json:
            print_json({"done": pending is None, "pending": pending})
        elif pending is None:
            console.print("clean")
        else:
            console.print(f"not clean yet: {_WHY[str(pending)]}")
        if pending is not None:
            raise typer.Exit(REFUSED)


_WHY = {
    "cleanup": "another process is cleaning up",
    "keys": "keys are being moved",
    "reader": "somebody still reads what was deleted, such as a backup that runs",
}


def search_canaries(
    stdin: Annotated[
        bool,
        typer.Option("--stdin", help="Read them from standard input: text:, hex: or base64:."),
    ] = False,
    folder: Annotated[
        list[Path] | None,
        typer.Option("--folder", metavar="PATH", help="Also search this file or folder."),
    ] = None,
    data_directory: Annotated[
        Path | None,
        typer.Option(
            "--data-directory", metavar="PATH", help="That of PostgreSQL, if it is on this machine."
        ),
    ] = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Search the raw files of the database, and others, for planted bytes. Exit code 1 if any is
    there, or if not everything could be looked into."""
    with refusals():
        if not stdin:
            raise SettingsInvalid("write the canaries to standard input, and say --stdin")
        canaries = read_canaries(sys.stdin)
        settings = load(db)
        file = database_file(settings)
        paths = list(folder or ())
        missing = [path for path in (*paths, data_directory) if path and not path.exists()]
        if missing:
            raise SettingsInvalid("--folder or --data-directory names what is not there")
        if file is not None:
            require_database(settings)
            paths.append(file.parent)
        else:
            with open_database(settings) as engines:
                _bring_to_files(engines)
                paths.append(data_directory or _data_directory(engines))
        done = search(paths, canaries)
        _show(done, as_json=as_json)
        if done.found or done.unreadable:
            raise typer.Exit(FAILED)


def _bring_to_files(engines: Engines) -> None:
    """What the server still has in memory, where it lets us."""
    with engines.autocommit() as connection:
        if connection.exec_driver_sql(_MAY_CHECKPOINT).scalar_one():
            connection.exec_driver_sql("CHECKPOINT")


# PostgreSQL 15 has superusers only; whoever may not leaves it to the server's own next one.
_MAY_CHECKPOINT = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"


def _data_directory(engines: Engines) -> Path:
    with engines.autocommit() as connection:
        query = "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
        row = connection.exec_driver_sql(query).fetchone()
    path = Path(row[0]) if row is not None and row[0] else None
    if path is None or not path.exists():
        raise SettingsInvalid(
            "--data-directory: name that of the server; it does not tell, or is another machine"
        )
    return path


def _show(done: Searched, *, as_json: bool) -> None:
    found = [
        {"canary": one.canary, "form": one.form, "file": str(one.path), "offset": one.offset}
        for one in done.found
    ]
    unreadable = [str(path) for path in done.unreadable]
    if as_json:
        print_json(
            {
                "ok": not found and not unreadable,
                "files": done.files,
                "bytes": done.size,
                "found": found,
                "unreadable": unreadable,
            }
        )
        return
    console.print(f"{done.files} files, {done.size} bytes searched")
    columns = ("canary", "form", "file", "offset")
    print_table("Found", columns, [[one[name] for name in columns] for one in found])
    if unreadable:
        print_table("Not readable", ("file",), [[one] for one in unreadable])
