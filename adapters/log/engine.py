"""Opens the database behind a URL, the same way for SQLite and PostgreSQL.

Everything that differs between the two when a connection is opened or a transaction begins is
here, and so is the one function that turns a driver's complaint into a typed error.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock
from typing import Any, Literal
from weakref import WeakValueDictionary, finalize

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    PoolProxiedConnection,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from adapters.log import postgres
from domain.errors import (
    SettingsInvalid,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)

__all__ = [
    "DatabaseUrlInvalid",
    "Engines",
    "StoreBusy",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "open_engines",
    "parse_url",
    "translate",
    "translated",
]


class DatabaseUrlInvalid(SettingsInvalid, ValueError):
    """A database URL Lapse cannot use. The text never contains the URL: it may hold a password."""


class StoreDeadlock(StoreBusy):
    """The server chose this transaction to end a deadlock; nothing of it was written."""


class StoreClosed(StoreError):
    """This program closed the database already; nothing was written."""


class Engines:
    """One database: connections for reading and for writing.

    Errors of the environment (read-only, full, busy, unreachable) leave every context manager here
    as a StoreError; what the caller may have caused (IntegrityError, DataError, ...) stays an
    exception of SQLAlchemy. Not usable in a forked child: open its own there.
    """

    def __init__(
        self, reading: Engine, writing: Engine, write_lock: Lock | None, write_timeout: float
    ) -> None:
        self.dialect: Literal["sqlite", "postgresql"] = (
            "sqlite" if writing.dialect.name == "sqlite" else "postgresql"
        )
        self._reading = reading
        self._writing = self._snapshots = writing
        self._write_lock = write_lock
        self._write_timeout = write_timeout
        self._closed = False
        # For owners that forget to close. Not at exit: in a forked child that would end the
        # sessions of its parent.
        finalize(self, _dispose, reading, writing).atexit = False
        if self.dialect == "sqlite":
            self._snapshots = reading
            self._writing = writing.execution_options(begin="BEGIN IMMEDIATE")
        else:
            # Not also read-only: the connection would go back into the pool as one that writes,
            # whatever the server's own default is.
            self._snapshots = writing.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """For single statements: on PostgreSQL each sees the newest commits (no BEGIN, so one
        round trip); on SQLite all of them see the same snapshot."""
        self._check_open()
        with translated(), self._reading.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """For several statements that must see the same state of the database."""
        self._check_open()
        with translated(), self._snapshots.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed at the end, rolled back on an error.

        On SQLite it holds the file's only write lock from its first instant (BEGIN IMMEDIATE), and
        threads of this process queue for it here instead of polling the file.
        """
        self._check_open()
        with (
            self._turn(),
            translated(),
            _dropping_lost(self._writing),
            self._writing.begin() as connection,
        ):
            yield connection

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """PostgreSQL only: every statement is its own transaction and its own round trip."""
        if self.dialect == "sqlite":
            raise NotImplementedError("SQLite writes through Engines.write() only")
        with self.read() as connection:
            yield connection

    @contextmanager
    def driver(self) -> Iterator[PoolProxiedConnection]:
        """The driver's own connection, for what runs thousands of times a second: SQLAlchemy takes
        40 to 80 us per statement, half of an append on SQLite.

        On PostgreSQL every statement commits by itself; run it with `postgres.run`. On SQLite it is
        one transaction as in `write`.
        """
        self._check_open()
        if self.dialect == "postgresql":
            with translated(), _dropping_lost(self._reading), _pooled(self._reading) as connection:
                yield connection
            return
        with self._turn(), translated(), _sqlite_errors(), _pooled(self._writing) as connection:
            cursor = connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            yield connection
            cursor.execute("COMMIT")

    def detached(self) -> Any:
        """A driver's connection of its own, outside the pool and in autocommit mode, for a
        thread that keeps it for long. The caller closes it."""
        self._check_open()
        with translated(), postgres.connecting():
            fairy = self._reading.raw_connection()
            fairy.detach()
            return fairy.dbapi_connection

    def close(self) -> None:
        """Close every pooled connection and refuse further use (StoreClosed)."""
        self._closed = True
        _dispose(self._reading, self._writing)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("the database was closed by this program")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._write_lock is None:
            yield
            return
        if not self._write_lock.acquire(timeout=self._write_timeout):
            raise StoreBusy(
                f"other threads kept the database busy for {self._write_timeout:g} s; try again"
            )
        try:
            yield
        finally:
            self._write_lock.release()


def _dispose(*engines: Engine) -> None:
    for engine in engines:
        engine.dispose()


def open_engines(
    url: str,
    *,
    pool_size: int = 10,
    lock_timeout: float = 10.0,
    statement_timeout: float = 0.0,
    pool_timeout: float = 30.0,
) -> Engines:
    """Engines for `sqlite:///path` or `postgresql://...`. Connects only when first used.

    pool_size: most connections at once; on PostgreSQL this many for reading and for writing each.
    pool_timeout: seconds a caller waits for one of them.
    lock_timeout: seconds a writer waits for another one.
    statement_timeout: seconds one statement may take on PostgreSQL; 0 means no limit.
    Raises DatabaseUrlInvalid.
    """
    parsed = parse_url(url)
    build = partial(
        create_engine,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        pool_use_lifo=True,
        pool_pre_ping=False,
    )
    if parsed.get_backend_name() == "sqlite":
        engine = build(parsed, connect_args={"timeout": lock_timeout, "isolation_level": None})
        event.listen(engine, "do_connect", partial(_make_private, str(parsed.database)))
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin_explicitly)
        return Engines(engine, engine, _write_lock_of(parsed), lock_timeout)
    arguments = postgres.connect_arguments(
        lock_timeout=lock_timeout,
        statement_timeout=statement_timeout,
        more_options=str(parsed.query.get("options", "")),
    )
    build = partial(build, parsed, connect_args=arguments, use_native_hstore=False)
    # Two pools, because switching a connection to autocommit and back is a round trip each time.
    return Engines(build(isolation_level="AUTOCOMMIT"), build(), None, lock_timeout)


def parse_url(url: str) -> URL:
    """The URL with its driver pinned: a bare `postgresql://` would mean psycopg 3 to SQLAlchemy.

    Raises DatabaseUrlInvalid.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # from None: the parser's own text may quote the URL, password included.
        raise DatabaseUrlInvalid(
            "the database URL cannot be read; it looks like sqlite:///path or "
            "postgresql://user:password@host:port/database"
        ) from None
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg2"):
        return parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _checked_sqlite_url(parsed)
    raise DatabaseUrlInvalid(
        "the database URL must start with sqlite:/// or postgresql://; "
        "no other database or driver is supported"
    )


def _checked_sqlite_url(parsed: URL) -> URL:
    if parsed.host or parsed.username or parsed.password or parsed.port:
        raise DatabaseUrlInvalid(
            "an SQLite URL has three slashes before a relative path (sqlite:///lapse.db) "
            "and four before an absolute one (sqlite:////var/lib/lapse.db)"
        )
    if parsed.query:
        raise DatabaseUrlInvalid("an SQLite URL takes no ?options")
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise DatabaseUrlInvalid("an SQLite URL must name a file: sqlite:///path")
    return parsed.set(drivername="sqlite+pysqlite")


@contextmanager
def _pooled(engine: Engine) -> Iterator[PoolProxiedConnection]:
    """Given back to the pool at the end, which rolls back what was not committed."""
    with postgres.connecting():
        connection = engine.raw_connection()
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    """Errors of the bare driver, as SQLAlchemy would have raised them."""
    try:
        yield
    except sqlite3.Error as error:
        raise DBAPIError.instance(None, None, error, sqlite3.Error, hide_parameters=True) from error


@contextmanager
def _dropping_lost(engine: Engine) -> Iterator[None]:
    """When one connection broke, the idle ones of its pool most likely did too. SQLAlchemy drops
    them itself, but not for what runs past it on the driver."""
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            engine.dispose()
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Whatever SQLAlchemy raises inside leaves as `translate` says."""
    try:
        yield
    except SQLAlchemyError as error:
        typed = translate(error)
        if typed is error:
            raise
        raise typed from error


def translate(error: SQLAlchemyError) -> Exception:
    """The StoreError behind a database error, or the error itself when it is none of those.

    The driver's own text is left out: it can contain values, paths and hosts.
    """
    if isinstance(error, PoolTimeoutError):
        return StoreBusy("no database connection became free in time; try again")
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    if isinstance(error.orig, sqlite3.Error):
        kind = _sqlite_kind(error.orig)
    else:
        kind = postgres.kind_of_error(error.orig, lost=error.connection_invalidated)
    if kind is None:
        return error
    failure, text = _STORE_ERRORS[kind]
    return failure(text)


_STORE_ERRORS: dict[str, tuple[type[StoreError], str]] = {
    "read_only": (
        StoreReadOnly,
        "the database is read-only: check the permissions of its file and folder, or that the "
        "server is not a standby; nothing was written",
    ),
    "full": (StoreFull, "the disk of the database is full: make room; nothing was written"),
    "busy": (StoreBusy, "others kept the database busy for too long; try again"),
    "deadlock": (StoreDeadlock, "others kept the database busy; try again"),
    "unreachable": (
        StoreUnavailable,
        "the database cannot be opened: check that its folder exists or its server runs, and the "
        "user, password and database name",
    ),
    "lost": (
        StoreUnavailable,
        "the connection to the database broke; it is not known whether the last change was kept",
    ),
    "damaged": (
        StoreUnavailable,
        "the database file is damaged or no database at all: restore it from a backup",
    ),
    "io": (StoreUnavailable, "the disk of the database reports errors: check it"),
}

# https://www.sqlite.org/rescode.html, primary codes
_SQLITE_KINDS = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "read_only",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_CANTOPEN: "unreachable",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_IOERR: "io",
}


def _sqlite_kind(error: sqlite3.Error) -> str | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return "full"  # the WAL index is grown page by page: this is how a full disk shows there
    return _SQLITE_KINDS.get(code & 0xFF)


def _make_private(file: str, *_: object) -> None:
    """A new file is for its owner alone: it says who was there when, if only by tokens. SQLite
    gives its WAL the same mode."""
    with suppress(OSError):  # there already, or nowhere: the statement says so
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    """synchronous=FULL: a commit is on disk when it is answered. secure_delete: deleted rows are
    overwritten, not just unlinked. temp_store: what a statement sets aside stays in memory."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_explicitly(connection: Connection) -> None:
    """The driver is told to begin nothing (isolation_level None): its own BEGIN comes late and is
    always deferred, so two writers could each hold a read lock and fail to upgrade."""
    begin = connection.get_execution_options().get("begin", "BEGIN")
    connection.exec_driver_sql(begin)


# Keyed by process too, so that a forked child never inherits a lock somebody held.
_write_locks: WeakValueDictionary[tuple[int, str], Lock] = WeakValueDictionary()
_write_locks_guard = Lock()


def _write_lock_of(url: URL) -> Lock:
    """The lock that all writers to one SQLite file in this process share."""
    key = (os.getpid(), os.path.realpath(str(url.database)))
    with _write_locks_guard:
        lock = _write_locks.get(key)
        if lock is None:
            lock = _write_locks[key] = Lock()
        return lock
