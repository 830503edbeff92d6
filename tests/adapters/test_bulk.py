"""Many rows at once go by the whole key, however large the table is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.log import bulk
from adapters.log.engine import Engines, open_engines
from adapters.log.migrate import require_current
from adapters.log.schema import presence

KEY = ("session_id", "token")


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    opened = open_engines(f"sqlite:///{tmp_path / 'lapse.db'}")
    require_current(opened, create=True)
    yield opened
    opened.close()


def test_rows_are_found_by_every_part_of_their_key(engines: Engines) -> None:
    """SQLite takes `(a, b) IN (VALUES ...)` for a look at all of partition 0."""
    statements: list[str] = []
    with engines.read() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.set_trace_callback(statements.append)
        bulk.select_rows(connection, presence, KEY, KEY, [("s1", "t1"), ("s2", "t2")])
        driver.set_trace_callback(None)
        (query,) = [one for one in statements if "presence" in one]
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").fetchall()
    assert any("partition=? AND session_id=? AND token=?" in row[3] for row in plan)


def test_those_that_are_there_are_found(engines: Engines) -> None:
    """Once each, with the columns that were asked for."""
    with engines.write() as connection:
        columns = ("session_id", "token", "joined_at", "last_seen_at")
        bulk.insert(connection, presence, columns, [("s1", "t1", 1, 2), ("s1", "t2", 3, 4)])
        wanted = [("s1", "t2"), ("s1", "t3"), ("s2", "t1")]
        found = bulk.select_rows(connection, presence, KEY, ("token", "joined_at"), wanted)
    assert [tuple(row) for row in found] == [("t2", 3)]
