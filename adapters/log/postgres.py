"""What only PostgreSQL has, and the only file that imports psycopg2: COPY, LISTEN, error codes."""

import selectors
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

import psycopg2
from sqlalchemy import Connection, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

ErrorKind = Literal["read_only", "full", "busy", "deadlock", "unreachable", "lost"]

SCHEMA_LOCK = 0x6C617073  # "laps": any number nobody else uses

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_KINDS: dict[str, ErrorKind] = {
    "25006": "read_only",  # read_only_sql_transaction
    "53100": "full",  # disk_full
    "40001": "busy",  # serialization_failure
    "40P01": "deadlock",  # deadlock_detected
    "55P03": "busy",  # lock_not_available: lock_timeout
    "57014": "busy",  # query_canceled: statement_timeout
    "53300": "busy",  # too_many_connections
    "57P03": "unreachable",  # cannot_connect_now
    "28000": "unreachable",  # invalid_authorization_specification
    "28P01": "unreachable",  # invalid_password
    "3D000": "unreachable",  # invalid_catalog_name
    "57P01": "lost",  # admin_shutdown
    "57P02": "lost",  # crash_shutdown
    "57P05": "lost",  # idle_session_timeout
    "25P03": "lost",  # idle_in_transaction_session_timeout
}


def kind_of_error(error: BaseException, *, lost: bool) -> ErrorKind | None:
    """What a driver's error means for the store; None when the statement itself was at fault.

    lost: the caller knows that the connection broke.
    """
    code = getattr(error, "pgcode", None)
    if code is not None:
        return _KINDS.get(code) or ("lost" if lost else None)
    if lost:
        return "lost"
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) or _broke(error):
        return "unreachable"  # without a code it never came to a conversation
    return None


def _broke(error: BaseException) -> bool:
    """Whether the server ended the connection, and the driver still takes it for open: so it is
    after an immediate shutdown. The error has no code then and is of no particular class."""
    return type(error) is psycopg2.DatabaseError and error.pgcode is None


def connect_arguments(
    *, lock_timeout: float, statement_timeout: float, more_options: str = ""
) -> dict[str, Any]:
    """Arguments for psycopg2.connect. Time-outs in seconds, 0 means none.

    A peer that vanished is noticed after about 30 s + 3 x 10 s. A session that sits in a
    transaction without doing anything would block every writer, so it is ended after 60 s.
    """
    options = {
        "lock_timeout": int(lock_timeout * 1000),
        "statement_timeout": int(statement_timeout * 1000),
        "idle_in_transaction_session_timeout": 60_000,
        # The commit protocol reads what others committed while it waited for a lock.
        "default_transaction_isolation": r"read\ committed",
        # Every hot statement looks keys up. Left to itself the planner joins a batch of 1 000 ids
        # by reading the whole table, which costs more the more sessions are alive.
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "jit": "off",
    }
    return {
        "options": " ".join([*(f"-c {k}={v}" for k, v in options.items()), more_options]).strip(),
        "application_name": "lapse",
        "connect_timeout": 10,
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }


def lock_schema_changes(connection: Connection) -> None:
    """Until the transaction ends: CREATE TABLE IF NOT EXISTS fails when two do it at once."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})")


def quoted(identifier: str) -> str:
    """An SQL identifier, quoted. Raises ValueError beyond the 63 bytes PostgreSQL keeps."""
    if len(identifier.encode()) > 63:
        raise ValueError(f"identifier of {len(identifier)} characters; PostgreSQL keeps 63 bytes")
    return '"' + identifier.replace('"', '""') + '"'


# -- many rows at once ------------------------------------------------------------------------

COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_TRAILER = b"\xff\xff"


def copy_in(
    connection: Connection, table: str, columns: Sequence[str], tuples: list[bytes]
) -> None:
    """COPY tuples in binary format (https://www.postgresql.org/docs/current/sql-copy.html).

    tuples: each the number of its fields (int16), then per field its length (int32) and bytes.
    Twice as fast as INSERT with arrays for 1 000 rows and more, slower below about 128.
    """
    names = ",".join(quoted(column) for column in columns)
    statement = f"COPY {quoted(table)} ({names}) FROM STDIN (FORMAT binary)"
    stream = BytesIO(b"".join([COPY_SIGNATURE, *tuples, COPY_TRAILER]))
    try:
        with connection.connection.dbapi_connection.cursor() as cursor:  # type: ignore[union-attr]
            cursor.copy_expert(statement, stream, size=1 << 18)
    except psycopg2.Error as error:
        raise _as_sqlalchemy_error(connection, statement, error) from error


def copy_out(connection: Connection, query: str) -> bytes:
    """The rows of `query` in COPY's binary format, from behind the header to before the trailer.

    A page of events read this way takes half the time of a SELECT, whose values the driver makes
    one by one from text.
    """
    statement = f"COPY ({query}) TO STDOUT (FORMAT binary)"
    stream = BytesIO()
    try:
        with connection.connection.dbapi_connection.cursor() as cursor:  # type: ignore[union-attr]
            cursor.copy_expert(statement, stream, size=1 << 18)
    except psycopg2.Error as error:
        raise _as_sqlalchemy_error(connection, statement, error) from error
    return stream.getvalue()[len(COPY_SIGNATURE) : -len(COPY_TRAILER)]


def run(
    connection: PoolProxiedConnection, statement: str, values: tuple[Any, ...] | None = None
) -> tuple[Any, ...] | None:
    """Run a statement on a connection of `Engines.driver()`; its first row, if it answers any."""
    try:
        with connection.dbapi_connection.cursor() as cursor:  # type: ignore[union-attr]
            cursor.execute(statement, values)
            return cursor.fetchone() if cursor.description else None
    except psycopg2.Error as error:
        raise _as_sqlalchemy_error(connection, statement, error) from error


@contextmanager
def connecting() -> Iterator[None]:
    """SQLAlchemy hands out the driver's own connection with the driver's own errors."""
    try:
        yield
    except psycopg2.Error as error:
        raise DBAPIError.instance(
            None, None, error, psycopg2.Error, hide_parameters=True
        ) from error


def _as_sqlalchemy_error(
    connection: Connection | PoolProxiedConnection, statement: str, error: psycopg2.Error
) -> BaseException:
    """What SQLAlchemy would have raised, had it run the statement."""
    proxied = connection.connection if isinstance(connection, Connection) else connection
    closed = bool(proxied.dbapi_connection and proxied.dbapi_connection.closed)
    lost = closed or _broke(error)
    if lost:
        connection.invalidate(error)
    return DBAPIError.instance(
        statement,
        None,
        error,
        psycopg2.Error,
        hide_parameters=True,
        connection_invalidated=lost,
    )


# -- notifications ----------------------------------------------------------------------------


def notify(connection: Any, channel: str, payload: str) -> None:
    """NOTIFY on a driver's connection in autocommit mode.

    synchronous_commit off: nothing is lost that would need an fsync.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off; SELECT pg_notify(%s, %s)", (channel, payload))


def hear(
    connection: Any,
    channel: str,
    take: Callable[[str], None],
    stop: socket.socket,
    begun: Callable[[], None],
) -> None:
    """Calls `take` with the payload of every notification, until `stop` becomes readable.

    connection: a driver's connection in autocommit mode, used by nobody else. begun: called once
    none is missed any more. Raises one of ConnectionLost when the connection breaks.
    """
    for payloads in _notifications(connection, channel, stop, begun):
        for payload in payloads:
            take(payload)


def _notifications(
    connection: Any, channel: str, stop: socket.socket, begun: Callable[[], None]
) -> Iterator[list[str]]:
    with connection.cursor() as cursor:
        cursor.execute(f"LISTEN {quoted(channel)}")
    begun()
    with selectors.DefaultSelector() as selector:
        selector.register(stop, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        while True:
            readable = [key.fileobj for key, _ in selector.select()]
            if stop in readable:
                return
            connection.poll()
            if connection.notifies:
                payloads = [notification.payload for notification in connection.notifies]
                connection.notifies.clear()
                yield payloads


# Of a bare connection any error of the database is one: see `_broke`.
ConnectionLost = (psycopg2.DatabaseError, psycopg2.InterfaceError)
