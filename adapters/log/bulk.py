"""Many rows in one statement, on SQLite and PostgreSQL.

A batch of a thousand sessions is a handful of statements, never a thousand: on PostgreSQL the rows
travel as arrays (`unnest`), on SQLite through `executemany` in one transaction. The statements are
made from the tables of `schema.py` and kept.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, LargeBinary, SmallInteger, Table
from sqlalchemy.types import TypeEngine

Rows = Sequence[tuple[Any, ...]]

_IN_CHUNK = 10_000
"""Ids per statement on SQLite, which takes at most 32 766 parameters."""
_STREAMED = 2_000
"""Rows that a stream holds at once."""


def insert(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Rows, tail: str = ""
) -> None:
    """Insert `rows`. tail: such as `ON CONFLICT DO NOTHING`."""
    if not rows:
        return
    if _is_sqlite(connection):
        connection.exec_driver_sql(_insert_one(table.name, columns, tail), list(rows))
    else:
        connection.exec_driver_sql(_insert_all(table, columns, tail), array_literals(rows))


def insert_new(
    connection: Connection, table: Table, columns: tuple[str, ...], key: str, rows: Rows
) -> set[Any]:
    """Insert the rows whose `key` is not there yet; the keys of those that were inserted.

    `key` must be among `columns`. On PostgreSQL this waits for another transaction that is just
    inserting the same key.
    """
    if not rows:
        return set()
    position = columns.index(key)
    if _is_sqlite(connection):
        keys = [row[position] for row in rows]
        query = f"SELECT {key} FROM {table.name} WHERE partition = 0 AND {key} IN ({{ids}})"
        known = {_plain(row[0]) for row in select_in(connection, query, keys)}
        fresh = [row for row in rows if row[position] not in known]
        insert(connection, table, columns, fresh)
        return {row[position] for row in fresh}
    tail = f"ON CONFLICT DO NOTHING RETURNING {key}"
    result = connection.exec_driver_sql(_insert_all(table, columns, tail), array_literals(rows))
    return {_plain(row[0]) for row in result}


def update(
    connection: Connection,
    table: Table,
    keys: tuple[str, ...],
    values: tuple[str, ...],
    rows: Rows,
    setting: str = "{column} = {value}",
) -> None:
    """Update the rows of partition 0 found by `keys`: each row is keys then values.

    setting: how a column is set, `{value}` standing for the new one.
    """
    if not rows:
        return
    if _is_sqlite(connection):
        reordered = [row[len(keys) :] + row[: len(keys)] for row in rows]
        connection.exec_driver_sql(_update_one(table.name, keys, values, setting), reordered)
    else:
        statement = _update_all(table, keys, values, setting)
        connection.exec_driver_sql(statement, array_literals(rows))


def select_in(connection: Connection, sql: str, ids: Sequence[Any]) -> list[Any]:
    """Rows of `sql`, whose `IN ({ids})` names the ids; any number of them."""
    if not ids:
        return []
    if not _is_sqlite(connection):
        query = sql.replace("IN ({ids})", "= ANY(%s)")
        return list(connection.exec_driver_sql(query, (_literal(tuple(ids)),)))
    rows: list[Any] = []
    for start in range(0, len(ids), _IN_CHUNK):
        chunk = tuple(ids[start : start + _IN_CHUNK])
        marks = ",".join("?" * len(chunk))
        rows += connection.exec_driver_sql(sql.replace("{ids}", marks), chunk)
    return rows


def select_rows(
    connection: Connection,
    table: Table,
    keys: tuple[str, ...],
    columns: tuple[str, ...],
    rows: Rows,
) -> list[Any]:
    """`columns` of the rows of partition 0 whose `keys` are among `rows`."""
    if not rows:
        return []
    if not _is_sqlite(connection):
        return list(
            connection.exec_driver_sql(_select_all(table, keys, columns), array_literals(rows))
        )
    found: list[Any] = []
    found_by = " AND ".join(f"t.{name} = u.{name}" for name in keys)
    for start in range(0, len(rows), _IN_CHUNK // len(keys)):
        chunk = rows[start : start + _IN_CHUNK // len(keys)]
        marks = ",".join([f"({','.join('?' * len(keys))})"] * len(chunk))
        # Not `(a, b) IN (VALUES ...)`: for that SQLite reads all of partition 0.
        query = (
            f"WITH u({','.join(keys)}) AS (VALUES {marks}) "
            f"SELECT {','.join(f't.{name}' for name in columns)} "
            f"FROM u CROSS JOIN {table.name} t ON t.partition = 0 AND {found_by}"
        )
        found += connection.exec_driver_sql(query, tuple(v for row in chunk for v in row))
    return found


def stream_in(connection: Connection, sql: str, ids: Sequence[Any]) -> Iterator[Any]:
    """As `select_in`, in bounded memory however many rows there are; within a transaction.

    The order holds within `_IN_CHUNK` ids.
    """
    if _is_sqlite(connection):
        for start in range(0, len(ids), _IN_CHUNK):
            chunk = tuple(ids[start : start + _IN_CHUNK])
            yield from connection.exec_driver_sql(
                sql.replace("{ids}", ",".join("?" * len(chunk))), chunk
            )
    elif ids:
        yield from connection.exec_driver_sql(
            sql.replace("IN ({ids})", "= ANY(%s)"),
            (_literal(tuple(ids)),),
            execution_options={"stream_results": True, "max_row_buffer": _STREAMED},
        )


def delete_in(connection: Connection, table: Table, key: str, ids: Sequence[Any]) -> int:
    """Delete the rows of partition 0 whose `key` is among `ids`; how many went."""
    sql = f"DELETE FROM {table.name} WHERE partition = 0 AND {key} IN ({{ids}})"
    return execute_in(connection, sql, ids)


def delete_rows(connection: Connection, table: Table, keys: tuple[str, ...], rows: Rows) -> None:
    """Delete the rows of partition 0 whose `keys` are among `rows`."""
    if not rows:
        return
    if _is_sqlite(connection):
        found = " AND ".join(f"{name} = ?" for name in keys)
        statement = f"DELETE FROM {table.name} WHERE partition = 0 AND {found}"
        connection.exec_driver_sql(statement, list(rows))
    else:
        arrays = ",".join(f"%s::{_array_type(table.c[name].type)}[]" for name in keys)
        found = " AND ".join(f"t.{name} = u.{name}" for name in keys)
        connection.exec_driver_sql(
            f"DELETE FROM {table.name} t USING unnest({arrays}) AS u({','.join(keys)}) "
            f"WHERE t.partition = 0 AND {found}",
            array_literals(rows),
        )


def execute_in(connection: Connection, sql: str, ids: Sequence[Any]) -> int:
    """Run a statement whose `IN ({ids})` names the ids, any number of them; rows it changed."""
    if not ids:
        return 0
    if not _is_sqlite(connection):
        query = sql.replace("IN ({ids})", "= ANY(%s)")
        return connection.exec_driver_sql(query, (_literal(tuple(ids)),)).rowcount
    deleted = 0
    for start in range(0, len(ids), _IN_CHUNK):
        chunk = tuple(ids[start : start + _IN_CHUNK])
        marks = ",".join("?" * len(chunk))
        deleted += connection.exec_driver_sql(sql.replace("{ids}", marks), chunk).rowcount
    return deleted


def _is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def array_literals(rows: Rows) -> tuple[str, ...]:
    """Each column of `rows` as the text of a PostgreSQL array.

    One literal per column instead of the driver's `ARRAY[...]`, whose every element the server
    parses and plans as an expression of its own: an update of 1 000 sessions takes a third of the
    time. Format: PostgreSQL manual, 8.15.6.
    """
    return tuple(_literal(column) for column in zip(*rows, strict=True))


def array_literal(values: Sequence[Any]) -> str:
    """These values as the text of one PostgreSQL array."""
    return _literal(tuple(values))


def _literal(column: tuple[Any, ...]) -> str:
    """A column of one type, nothing among it, is joined at once; any other goes one by one."""
    kinds = set(map(type, column))
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is bytes:
            return '{"\\\\x' + '","\\\\x'.join(map(bytes.hex, column)) + '"}'
        if kind is int:
            return "{" + ",".join(map(str, column)) + "}"
        if kind is str:
            joined = "".join(column)
            if '"' not in joined and "\\" not in joined:
                return '{"' + '","'.join(column) + '"}'
    return "{" + ",".join(map(_element, column)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return f'"\\\\x{value.hex()}"' if isinstance(value, bytes) else str(value)


def _array_type(kind: TypeEngine[Any]) -> str:
    for cls, name in (
        (SmallInteger, "smallint"),
        (BigInteger, "bigint"),
        (Integer, "integer"),
        (LargeBinary, "bytea"),
    ):
        if isinstance(kind, cls):
            return name
    return "text"


@lru_cache
def _insert_one(table: str, columns: tuple[str, ...], tail: str) -> str:
    marks = ",".join("?" * len(columns))
    names = ",".join(columns)
    return f"INSERT INTO {table} (partition,{names}) VALUES (0,{marks}) {tail}"


@lru_cache
def _insert_all(table: Table, columns: tuple[str, ...], tail: str) -> str:
    arrays = ",".join(f"%s::{_array_type(table.c[name].type)}[]" for name in columns)
    names = ",".join(columns)
    return (
        f"INSERT INTO {table.name} (partition,{names}) "
        f"SELECT 0,{names} FROM unnest({arrays}) AS u({names}) {tail}"
    )


@lru_cache
def _select_all(table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> str:
    arrays = ",".join(f"%s::{_array_type(table.c[name].type)}[]" for name in keys)
    found = " AND ".join(f"t.{name} = u.{name}" for name in keys)
    return (
        f"SELECT {','.join(f't.{name}' for name in columns)} "
        f"FROM unnest({arrays}) AS u({','.join(keys)}) "
        f"JOIN {table.name} t ON t.partition = 0 AND {found}"
    )


@lru_cache
def _update_one(table: str, keys: tuple[str, ...], values: tuple[str, ...], setting: str) -> str:
    settings = ",".join(setting.format(column=name, value="?") for name in values)
    found = " AND ".join(f"{name} = ?" for name in keys)
    return f"UPDATE {table} SET {settings} WHERE partition = 0 AND {found}"


@lru_cache
def _update_all(table: Table, keys: tuple[str, ...], values: tuple[str, ...], setting: str) -> str:
    arrays = ",".join(f"%s::{_array_type(table.c[name].type)}[]" for name in keys + values)
    names = ",".join(keys + values)
    settings = ",".join(setting.format(column=name, value=f"u.{name}") for name in values)
    found = " AND ".join(f"{table.name}.{name} = u.{name}" for name in keys)
    return (
        f"UPDATE {table.name} SET {settings} FROM unnest({arrays}) AS u({names}) "
        f"WHERE {table.name}.partition = 0 AND {found}"
    )
