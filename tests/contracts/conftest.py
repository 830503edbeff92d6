"""What the contract suites run on: every implementation of the log and the vault."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.key_stores import KeyStore, open_key_store
from tests.contracts.stores import SqlStore, Store, open_memory_store, open_sql_store
from tests.servers import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A new, empty store; the test runs on each kind."""
    if request.param == "memory":
        yield open_memory_store()
    elif request.param == "sqlite":
        with open_sql_store(f"sqlite:///{tmp_path / 'lapse.db'}") as opened:
            yield opened
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database()
        with open_sql_store(url) as opened:
            yield opened
        server.drop_database(url)


@pytest.fixture
def sql_store(database_url: str) -> Iterator[SqlStore]:
    """A new, empty store in a database; the test runs on each kind."""
    with open_sql_store(database_url) as opened:
        yield opened


@pytest.fixture
def postgresql_store(postgres_server: PostgresServer) -> Iterator[SqlStore]:
    """A new, empty store in PostgreSQL, for what only a server can do to us."""
    url = postgres_server.create_database()
    with open_sql_store(url) as opened:
        yield opened
    postgres_server.drop_database(url)


@pytest.fixture(params=["file", "transit"])
def key_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    """A place for key-encryption keys; the test runs on each kind."""
    with open_key_store(request.param, tmp_path) as opened:
        yield opened
