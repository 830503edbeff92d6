"""What ours is measured beside: the library's own recorders, and the bare drivers.

Raw tables have the columns and the uniqueness that event sourcing needs and keep no order:
positions come from a sequence, so a reader may miss what commits late.
"""

import io
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

import psycopg2
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import StoredEvent
from psycopg2.extras import register_uuid

from tests.servers import PORT, ROLE, PostgresServer

Write = Callable[[Sequence[StoredEvent]], object]

LARGEST_CALL = 500
"""Events per call of the library's recorder on PostgreSQL: given 5 000 at once, psycopg 3 hangs for
ever in Pipeline.sync."""


# -- the library ------------------------------------------------------------------------------


class Visit(Aggregate):
    """The like of a Lapse session, with the library's own mutable aggregate."""

    @event("Begun")
    def __init__(self, policy: str, actor: str, policy_version: int, owner: str | None) -> None:
        self.policy = policy
        self.actor = actor
        self.policy_version = policy_version
        self.owner = owner
        self.joined = 0
        self.last_seen_by = ""
        self.ended_by = ""

    @event("Joined")
    def join(self, token: str, actor: str) -> None:
        """Someone comes in."""
        self.joined += 1
        self.last_seen_by = actor

    @event("Seen")
    def see(self, actor: str) -> None:
        """Somebody was seen."""
        self.last_seen_by = actor

    @event("Expired")
    def expire(self, rule: str, policy_version: int, last_seen: int) -> None:
        """It ends."""
        self.ended_by = rule


@contextmanager
def library_on_postgres(
    server: PostgresServer, url: str, threads: int
) -> Iterator[Application[UUID]]:
    """The library's application with a connection for each thread."""
    environment = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": url.partition("?")[0].rpartition("/")[2],
        "POSTGRES_HOST": str(server.folder),
        "POSTGRES_PORT": str(PORT),
        "POSTGRES_USER": ROLE,
        "POSTGRES_PASSWORD": "",
        "POSTGRES_POOL_SIZE": str(threads),
    }
    application: Application[UUID] = Application(environment)
    try:
        yield application
    finally:
        application.close()


@contextmanager
def library_on_sqlite(path: Path) -> Iterator[Application[UUID]]:
    application: Application[UUID] = Application(
        {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    )
    try:
        yield application
    finally:
        application.close()


# -- the bare drivers -------------------------------------------------------------------------

_TABLE = (
    "CREATE TABLE raw (id {serial} PRIMARY KEY, originator_id {uuid} NOT NULL, "
    "originator_version bigint NOT NULL, topic text NOT NULL, state {bytes} NOT NULL, "
    "UNIQUE (originator_id, originator_version))"
)


def create_raw_table(url: str) -> None:
    """On PostgreSQL."""
    with _connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(_TABLE.format(serial="bigserial", uuid="uuid", bytes="bytea"))


@contextmanager
def raw_insert(url: str) -> Iterator[Write]:
    """INSERT and commit, event by event, on a connection of its own."""
    with _connected(url) as connection:

        def write(events: Sequence[StoredEvent]) -> None:
            with connection.cursor() as cursor:
                for one in events:
                    cursor.execute(
                        "INSERT INTO raw (originator_id, originator_version, topic, state) "
                        "VALUES (%s, %s, %s, %s) RETURNING id",
                        (one.originator_id, one.originator_version, one.topic, one.state),
                    )

        yield write


@contextmanager
def raw_copy(url: str) -> Iterator[Write]:
    """One binary COPY and commit per call."""
    with _connected(url) as connection:

        def write(events: Sequence[StoredEvent]) -> None:
            rows = b"".join(map(_copy_row, events))
            stream = io.BytesIO(b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows + b"\xff\xff")
            with connection.cursor() as cursor:
                cursor.copy_expert(
                    "COPY raw (originator_id, originator_version, topic, state) "
                    "FROM STDIN (FORMAT binary)",
                    stream,
                )

        yield write


def _copy_row(one: StoredEvent) -> bytes:
    """https://www.postgresql.org/docs/current/sql-copy.html: fields, each behind its length."""
    assert isinstance(one.originator_id, UUID)
    topic, version = one.topic.encode(), one.originator_version
    return (
        struct.pack(">hi16siqi", 4, 16, one.originator_id.bytes, 8, version, len(topic))
        + topic
        + struct.pack(">i", len(one.state))
        + one.state
    )


@contextmanager
def _connected(url: str) -> Iterator["psycopg2.extensions.connection"]:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
    try:
        yield connection
    finally:
        connection.close()


class RawSQLite:
    """One transaction per call: WAL, synchronous FULL, a connection for each thread.

    Threads queue at a lock of Python's, as an experienced author would have them: SQLite's own busy
    time-out sleeps.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        with closing(self._connect()) as connection:
            connection.execute(_TABLE.format(serial="INTEGER", uuid="BLOB", bytes="BLOB"))

    @contextmanager
    def connected(self) -> Iterator[Write]:
        """For one thread."""
        with closing(self._connect()) as connection:

            def write(events: Sequence[StoredEvent]) -> None:
                rows = [
                    (one.originator_id.bytes, one.originator_version, one.topic, one.state)
                    for one in events
                    if isinstance(one.originator_id, UUID)
                ]
                with self._turn:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany(
                        "INSERT INTO raw (originator_id, originator_version, topic, state) "
                        "VALUES (?, ?, ?, ?)",
                        rows,
                    )
                    connection.execute("COMMIT")

            yield write

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection
