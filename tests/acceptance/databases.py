"""Looks into the database beside Lapse, with the bare drivers."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2

PEOPLE = (
    "presence",
    "subject_index",
    "subjects",
    "subject_keys",
    "data_keys",
    "aliases",
    "items",
    "uploads",
    "partials",
)
"""The tables that hold something about a person."""

Rows = list[tuple[Any, ...]]


def rows(url: str, query: str, *values: Any) -> Rows:
    """What a query answers with. `?` stands for a value; bytes are bytes on both databases."""
    with closing(_connect(url)) as connection:
        return _run(connection, url, query, values)


def value(url: str, query: str, *values: Any) -> Any:
    """The only column of the only row."""
    [[found]] = rows(url, query, *values)
    return found


def change(url: str, statement: str, *values: Any) -> None:
    """Run a statement and commit."""
    with closing(_connect(url)) as connection:
        _run(connection, url, statement, values)
        connection.commit()


def contents(url: str) -> dict[str, Rows]:
    """Every row of every table."""
    names = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if is_sqlite(url)
        else "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    )
    return {
        name: sorted(rows(url, f"SELECT * FROM {name}"), key=repr) for (name,) in rows(url, names)
    }


def row_counts(url: str, tables: tuple[str, ...]) -> dict[str, int]:
    """How many rows each table has."""
    return {name: value(url, f"SELECT count(*) FROM {name}") for name in tables}


def events(url: str) -> dict[str, int]:
    """How many events of each kind stand in the log, sessions' only."""
    counted = rows(
        url, "SELECT topic, count(*) FROM events WHERE topic LIKE 'session.%' GROUP BY topic"
    )
    return {topic.split(".")[1]: number for topic, number in counted}


def per_session(url: str, topic: str) -> Rows:
    """(session, number of events of this topic), the sessions that have any."""
    query = "SELECT session_id, count(*) FROM events WHERE topic = ? GROUP BY session_id"
    return rows(url, query, topic)


def positions(url: str) -> list[int]:
    """The positions of all events, in order."""
    return [found for (found,) in rows(url, "SELECT position FROM events ORDER BY position")]


def folder_of(url: str) -> Path:
    """Where all files of the database are: of a server its cluster, write-ahead log and log."""
    if is_sqlite(url):
        return Path(url.removeprefix("sqlite:///")).parent
    [folder] = parse_qs(urlsplit(url).query)["host"]
    return Path(folder)


def holds(url: str, canary: bytes) -> bool:
    """Whether these bytes stand in any file of the database: tables, write-ahead log, log."""
    files = (path for path in folder_of(url).rglob("*") if path.is_file())
    return any(canary in path.read_bytes() for path in files)


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


@contextmanager
def counting(url: str, query: str) -> Iterator[Callable[[], int]]:
    """A function that answers with the number a query gives at that moment."""
    with closing(_connect(url)) as connection:

        def count() -> int:
            [[number]] = _run(connection, url, query, ())
            connection.rollback()  # PostgreSQL: see what others commit from now on
            return int(number or 0)

        yield count


@contextmanager
def writers_kept_waiting(url: str) -> Iterator[None]:
    """Nobody can write while the block runs; reading goes on."""
    with closing(_connect(url)) as connection:
        locked = "BEGIN IMMEDIATE" if is_sqlite(url) else "LOCK TABLE heads, sessions"
        _run(connection, url, locked + ("" if is_sqlite(url) else " IN EXCLUSIVE MODE"), ())
        yield


def _connect(url: str) -> Any:
    if is_sqlite(url):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=60)
    return psycopg2.connect(url)


def _run(connection: Any, url: str, statement: str, values: tuple[Any, ...]) -> Rows:
    cursor = connection.cursor()
    if is_sqlite(url):
        cursor.execute(statement, values)
    else:  # without values psycopg2 takes % for what it is
        cursor.execute(statement.replace("?", "%s"), values or None)
    return [] if cursor.description is None else [tuple(map(_plain, row)) for row in cursor]


def _plain(found: Any) -> Any:
    return bytes(found) if isinstance(found, memoryview) else found
