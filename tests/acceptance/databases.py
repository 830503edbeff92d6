"""Looks into the database beside Lapse, with the bare drivers."""

import sqlite3
from contextlib import closing
from typing import Any

import psycopg2

PEOPLE = ("presence", "subject_index", "subjects", "subject_keys", "data_keys", "aliases")
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


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def hold_all_writers(url: str) -> Any:
    """A connection that keeps everybody from writing until it is closed."""
    connection = _connect(url)
    if is_sqlite(url):
        connection.execute("BEGIN IMMEDIATE")
    else:
        _run(connection, url, "LOCK TABLE heads, sessions IN ACCESS EXCLUSIVE MODE", ())
    return connection


def _connect(url: str) -> Any:
    if is_sqlite(url):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=60)
    return psycopg2.connect(url)


def _run(connection: Any, url: str, statement: str, values: tuple[Any, ...]) -> Rows:
    cursor = connection.cursor()
    cursor.execute(statement if is_sqlite(url) else statement.replace("?", "%s"), values)
    return [] if cursor.description is None else [tuple(map(_plain, row)) for row in cursor]


def _plain(found: Any) -> Any:
    return bytes(found) if isinstance(found, memoryview) else found
