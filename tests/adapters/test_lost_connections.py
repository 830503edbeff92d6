"""Connections to a PostgreSQL that was shut down at once (`pg_ctl stop -m immediate`)."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest

from adapters.log import postgres
from adapters.log.engine import Engines, open_engines
from domain.errors import StoreUnavailable
from tests.servers import PostgresServer


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def shut_down_at_once(server: PostgresServer) -> None:
    """The sessions are told, which clients do not expect, and end."""
    os.kill(server.pid, signal.SIGQUIT)
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)


def read(engines: Engines) -> bytes:
    with engines.read() as connection:
        return postgres.copy_out(connection, "SELECT 1")


def run(engines: Engines) -> tuple[object, ...] | None:
    with engines.driver() as connection:
        return postgres.run(connection, "SELECT 1")


@pytest.mark.parametrize("ask", [read, run])
def test_what_was_asked_for_is_unavailable_until_the_server_is_back(
    server: PostgresServer, ask: Callable[[Engines], object]
) -> None:
    """As after every other way in which a connection breaks: a thread that waits for the database
    must be able to tell, or it ends for good."""
    with closing(open_engines(server.create_database())) as engines:
        before = ask(engines)
        shut_down_at_once(server)
        with pytest.raises(StoreUnavailable):
            ask(engines)
        server.restart()
        assert ask(engines) == before


def test_who_begins_to_listen_is_told_that_the_connection_is_lost(server: PostgresServer) -> None:
    """And connects again, instead of staying deaf."""
    sender, receiver = socket.socketpair()
    with sender, receiver, closing(psycopg2.connect(server.create_database())) as connection:
        connection.autocommit = True
        shut_down_at_once(server)
        with pytest.raises(postgres.ConnectionLost):
            postgres.hear(connection, "told", lambda _: None, receiver, lambda: None)
