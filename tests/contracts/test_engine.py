"""Opening databases, and what their troubles are called."""

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.exc import IntegrityError

from adapters.log.engine import DatabaseUrlInvalid, Engines, StoreClosed, open_engines, parse_url
from adapters.log.notices import Notices
from adapters.log.wakeups import Wakeups
from domain.errors import StoreBusy, StoreFull, StoreReadOnly, StoreUnavailable
from tests.servers import PostgresServer, wait_until


@pytest.fixture
def engines(database_url: str) -> Iterator[Engines]:
    with closing(open_engines(database_url)) as engines:
        with engines.write() as connection:
            connection.exec_driver_sql("CREATE TABLE t (n integer PRIMARY KEY, filler text)")
        yield engines


def insert(engines: Engines, number: int) -> None:
    with engines.write() as connection:
        connection.exec_driver_sql(f"INSERT INTO t (n) VALUES ({number})")


def numbers(engines: Engines) -> list[int]:
    with engines.read() as connection:
        return list(connection.exec_driver_sql("SELECT n FROM t ORDER BY n").scalars())


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg2"),
        ("postgresql://u:p@h:1/d?sslmode=require", "postgresql+psycopg2"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg2"),
        ("sqlite:///relative.db", "sqlite+pysqlite"),
        ("sqlite:////absolute.db", "sqlite+pysqlite"),
    ],
)
def test_the_driver_of_a_url_is_pinned(url: str, driver: str) -> None:
    assert parse_url(url).drivername == driver


@pytest.mark.parametrize(
    "url",
    [
        "",
        "secret",
        "mysql://u:secret@h/d",
        "postgresql+psycopg://u:secret@h/d",
        "postgresql://u:pass@secret:secret@h:secret/d",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:secret?uri=true",
        "sqlite://u:secret@h/d",
    ],
)
def test_any_other_url_is_refused_without_quoting_it(url: str) -> None:
    """It may hold a password."""
    with pytest.raises(DatabaseUrlInvalid) as refusal:
        open_engines(url)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def test_a_commit_on_sqlite_is_on_disk_and_deleting_overwrites(tmp_path: Path) -> None:
    with (
        closing(open_engines(f"sqlite:///{tmp_path / 'x.db'}")) as engines,
        engines.read() as connection,
    ):
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        }
    full = 2
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": full,
        "secure_delete": 1,
        "foreign_keys": 1,
    }


def test_an_error_rolls_everything_back(engines: Engines) -> None:
    insert(engines, 1)
    with pytest.raises(IntegrityError), engines.write() as connection:
        connection.exec_driver_sql("INSERT INTO t (n) VALUES (2)")
        connection.exec_driver_sql("INSERT INTO t (n) VALUES (1)")
    assert numbers(engines) == [1]


def test_a_snapshot_does_not_move_while_others_commit(engines: Engines) -> None:
    insert(engines, 1)
    query = "SELECT count(*) FROM t"
    with engines.snapshot() as connection:
        assert connection.exec_driver_sql(query).scalar() == 1
        insert(engines, 2)
        assert connection.exec_driver_sql(query).scalar() == 1
    assert numbers(engines) == [1, 2]


def test_errors_do_not_show_values(engines: Engines) -> None:
    """Neither the refused row nor the one it collides with."""
    mark = "?" if engines.dialect == "sqlite" else "%s"
    with pytest.raises(IntegrityError) as refused, engines.write() as connection:
        connection.exec_driver_sql(f"INSERT INTO t VALUES (1, {mark})", ("personal",))
        connection.exec_driver_sql(f"INSERT INTO t VALUES (1, {mark})", ("personal",))
    assert "personal" not in str(refused.value)


def test_after_close_nothing_is_reopened(engines: Engines) -> None:
    engines.close()
    for use in (engines.read, engines.snapshot, engines.write):
        with pytest.raises(StoreClosed), use():
            pass


def test_a_full_disk(tmp_path: Path) -> None:
    with closing(open_engines(f"sqlite:///{tmp_path / 'x.db'}")) as engines:
        with engines.write() as connection:
            connection.exec_driver_sql("CREATE TABLE t (n integer, filler text)")
        with pytest.raises(StoreFull), engines.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            connection.exec_driver_sql("INSERT INTO t VALUES (1, ?)", ("x" * 100_000,))
        assert numbers(engines) == []


def test_a_database_that_may_only_be_read(engines: Engines) -> None:
    with pytest.raises(StoreReadOnly), engines.write() as connection:
        if engines.dialect == "postgresql":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        else:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.exec_driver_sql("INSERT INTO t (n) VALUES (1)")


def test_a_file_without_write_permission() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with closing(sqlite3.connect(folder / "x.db")) as connection:
            connection.execute("CREATE TABLE t (n)")
        (folder / "x.db").chmod(0o444)
        with (
            unprivileged(),
            closing(open_engines(f"sqlite:///{folder / 'x.db'}")) as engines,
            pytest.raises(StoreReadOnly),
        ):
            insert(engines, 1)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions mean nothing to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_database_that_others_keep_locked(database_url: str, engines: Engines) -> None:
    """A writer gives up after its time-out, whoever holds the lock."""
    with closing(open_engines(database_url, lock_timeout=0.05)) as impatient:
        with engines.write() as connection:
            if engines.dialect == "postgresql":
                connection.exec_driver_sql("LOCK TABLE t")
            with pytest.raises(StoreBusy):
                insert(impatient, 1)
        insert(impatient, 2)
    assert numbers(engines) == [2]


def test_a_file_that_another_process_keeps_locked(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(open_engines(f"sqlite:///{path}", lock_timeout=0.05)) as engines:
        with engines.write() as connection:
            connection.exec_driver_sql("CREATE TABLE t (n)")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                insert(engines, 1)
            other.execute("ROLLBACK")
        insert(engines, 2)
        assert numbers(engines) == [2]


def test_all_connections_in_use(database_url: str) -> None:
    with (
        closing(open_engines(database_url, pool_size=1, pool_timeout=0.01)) as engines,
        engines.read(),
        pytest.raises(StoreBusy),
        engines.read(),
    ):
        pass


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/x.db", "postgresql://u:secret@127.0.0.1:1/d?connect_timeout=2"]
)
def test_a_database_that_is_not_there(url: str) -> None:
    with (
        closing(open_engines(url)) as engines,
        pytest.raises(StoreUnavailable) as trouble,
        engines.read(),
    ):
        pass
    assert "secret" not in str(trouble.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database " * 1000)
    with (
        closing(open_engines(f"sqlite:///{path}")) as engines,
        pytest.raises(StoreUnavailable),
        engines.read(),
    ):
        pass


def test_a_session_the_server_ended(postgres_server: PostgresServer) -> None:
    """The connection that broke is replaced by the next use."""
    url = postgres_server.create_database()
    with closing(open_engines(url)) as engines:
        with pytest.raises(StoreUnavailable), engines.write() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            connection.exec_driver_sql("SELECT 1")
        with engines.write() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    postgres_server.drop_database(url)


def test_a_commit_wakes_listeners_of_this_and_of_other_instances(database_url: str) -> None:
    """Until they no longer listen."""
    with closing(open_engines(database_url)) as here, closing(open_engines(database_url)) as there:
        with here.write() as connection:
            connection.exec_driver_sql("CREATE TABLE t (n integer)")
        near, far = Wakeups(here, "tested"), Wakeups(there, "tested")
        nearby, faraway = threading.Event(), threading.Event()
        near.listen(nearby)
        far.listen(faraway)
        assert faraway.wait(10), "a listener is woken when its watch begins"
        for number in range(3):
            nearby.clear()
            faraway.clear()
            insert(here, number)
            near.notify()
            assert nearby.is_set()
            assert faraway.wait(10)
        near.unlisten(nearby)
        nearby.clear()
        near.notify()
        assert not nearby.is_set()
        near.close()
        far.close()
        assert faraway.is_set(), "closing wakes whoever still waits"
        near.close()


def test_who_listens_does_so_again_after_the_server_ended_it(
    postgres_server: PostgresServer,
) -> None:
    """To commits and to notices."""
    url = postgres_server.create_database()
    with closing(open_engines(url)) as here, closing(open_engines(url)) as there:
        wakeups, woken = Wakeups(here, "tested"), threading.Event()
        wakeups.listen(woken)
        heard: list[str] = []
        notices, others = Notices(here, "told", heard.append), Notices(there, "told", heard.append)
        with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        def both_heard() -> bool:
            with suppress(StoreUnavailable):  # the pooled connections were ended, too
                others.publish("hello")
            return heard.count("hello") >= 2

        wait_until(both_heard, 20, "a notice")
        woken.clear()
        far = Wakeups(there, "tested")
        far.notify()
        assert woken.wait(10)
        for one in (wakeups, far, notices, others):
            one.close()
    postgres_server.drop_database(url)


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """The WAL, too. A file that is there keeps the mode its owner gave it."""
    for path, mode in ((tmp_path / "new.db", 0o600), (tmp_path / "old.db", 0o640)):
        if mode == 0o640:
            path.touch(mode=0o640)
            path.chmod(0o640)
        with closing(open_engines(f"sqlite:///{path}")) as engines:
            with engines.write() as connection:
                connection.exec_driver_sql("CREATE TABLE t (n integer)")
            for file in tmp_path.glob(f"{path.name}*"):
                assert file.stat().st_mode & 0o777 == mode, file.name


def test_a_server_that_is_away_is_said_however_one_asks(tmp_path: Path) -> None:
    """Also past SQLAlchemy, on the driver's own connection."""
    nowhere = f"postgresql://lapse@/lapse?host={tmp_path}"
    with closing(open_engines(nowhere)) as engines:
        with pytest.raises(StoreUnavailable), engines.driver():
            pass
        with pytest.raises(StoreUnavailable):
            engines.detached()
        with pytest.raises(StoreUnavailable), engines.read():
            pass
