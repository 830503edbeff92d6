"""What was deleted leaves the files of the database too, in bounded time and beside its use."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from adapters.log.engine import open_engines
from adapters.log.migrate import upgrade
from adapters.vault.maintenance import Maintenance
from adapters.vault.stores import STORES
from domain.erasure import Reach
from domain.policy import MINUTE, SECOND
from domain.ports import Pending, ScanResult
from tests.acceptance import databases
from tests.adapters.installations import Opened, opened
from tests.servers import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def lonely_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database whose files hold nothing else."""
    if request.param == "sqlite":
        (tmp_path / "alone").mkdir()
        yield f"sqlite:///{tmp_path / 'alone' / 'lapse.db'}"
        return
    with PostgresServer() as server:
        yield server.create_database()


@pytest.fixture
def here(database_url: str, key_url: str, tmp_path: Path) -> Iterator[Opened]:
    with opened(database_url, key_url, tmp_path) as lapse:
        yield lapse


def erased_room(here: Opened) -> tuple[str, bytes]:
    """A room in which Ann was, erased; and the wrapped key she had."""
    sessions, now = here.lapse.sessions, here.now
    session = sessions.create("reading-room", now, "operator")
    sessions.join(session.id, "ann", now, "operator", name="Ann")
    [[wrapped]] = here.execute("SELECT wrapped FROM subject_keys")
    sessions.erase(session.id, now, "operator")
    return session.id, bytes(wrapped)


def bring_to_files(here: Opened, url: str) -> None:
    """What the server has in memory; SQLite has all of it in its own files."""
    if here.is_postgresql:
        databases.change(url, "CHECKPOINT")


def in_tables(url: str, canary: bytes) -> bool:
    """Whether these bytes stand in a file of the database but for PostgreSQL's write-ahead log,
    which it recycles in its own time."""
    folder = databases.folder_of(url)
    files = [path for path in folder.rglob("*") if path.is_file() and "pg_wal" not in path.parts]
    return any(canary in path.read_bytes() for path in files)


def test_a_wrapped_key_that_was_deleted_is_in_no_file_after_a_clean_up(
    lonely_url: str, key_url: str, tmp_path: Path
) -> None:
    """Neither in a page of its table nor, with SQLite, in the write-ahead log."""
    with opened(lonely_url, key_url, tmp_path) as here:
        _, wrapped = erased_room(here)
        bring_to_files(here, lonely_url)
        assert in_tables(lonely_url, wrapped)
        assert here.lapse.maintenance.run() is None
        bring_to_files(here, lonely_url)
        assert not in_tables(lonely_url, wrapped)
        assert databases.is_sqlite(lonely_url) is not databases.holds(lonely_url, wrapped)


def test_who_is_alive_reads_on_after_a_clean_up(here: Opened) -> None:
    """Keys move, and open what they opened."""
    sessions = here.lapse.sessions
    session = sessions.create("reading-room", here.now, "operator")
    sessions.join(session.id, "bob", here.now, "operator", name="Bob")
    assert here.lapse.maintenance.run() is None
    here.lapse.keyring.forget()
    (bob,) = sessions.participants(session.id, here.now, limit=10)
    assert bob.name == "Bob"


def test_a_reader_of_an_older_state_keeps_it_from_being_clean(
    here: Opened, database_url: str
) -> None:
    """A backup that runs still sees what was deleted: it is told apart, and done when it ended."""
    with here.lapse.engines.snapshot() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM meta").fetchall()
        erased_room(here)
        maintenance = here.lapse.maintenance
        executed_at = here.now
        here.wait(MINUTE)
        assert here.lapse.verification.pending(executed_at, here.now, None) is Pending.CLEANUP
        assert maintenance.run() is Pending.READER
        assert here.lapse.verification.pending(executed_at, here.now, None) is Pending.READER
        assert maintenance.last() is None
    assert maintenance.run() is None
    assert maintenance.last() is not None


def test_it_runs_when_something_was_erased_and_no_more_often_than_it_should(here: Opened) -> None:
    """A database in which nothing goes is left alone; many erasures take one clean-up."""
    maintenance = here.lapse.maintenance
    here.wait(20 * MINUTE)
    maintenance.run_due()
    assert maintenance.last() is None

    erased_room(here)
    maintenance.run_due()
    first = maintenance.last()
    assert first is not None and first.began_at == here.now

    here.wait(MINUTE)
    erased_room(here)
    maintenance.run_due()
    assert maintenance.last() == first
    here.wait(14 * MINUTE)
    maintenance.run_due()
    assert maintenance.last() != first

    second = maintenance.last()
    here.wait(60 * MINUTE)
    maintenance.run_due()
    assert maintenance.last() == second


def test_an_erasure_is_verified_by_a_clean_up_after_it_and_a_scan(here: Opened) -> None:
    """Not while a process may still have its key, not by an earlier clean-up; then every store is
    named."""
    maintenance = here.lapse.maintenance
    verification = here.lapse.verification
    assert maintenance.run() is None
    here.wait(SECOND)
    session, _ = erased_room(here)
    executed_at, reach = here.now, Reach(sessions=(session,))
    assert verification.verify(reach, executed_at, here.now) is Pending.CACHES
    here.wait(MINUTE)
    assert verification.verify(reach, executed_at, here.now) is Pending.CLEANUP
    here.wait(15 * MINUTE)
    maintenance.run_due()
    found = verification.verify(reach, executed_at, here.now)
    assert isinstance(found, ScanResult)
    assert found.ok
    assert set(found.stores.values()) == {"clean"}


def test_who_waits_gets_a_clean_up_even_if_the_log_names_no_erasure(here: Opened) -> None:
    """A clock that differs between instances must not leave a request pending for ever."""
    maintenance = here.lapse.maintenance
    erased_room(here)
    assert maintenance.run() is None
    later = here.now + SECOND
    verification = here.lapse.verification
    here.wait(20 * MINUTE)
    assert verification.verify(Reach(), later, here.now) is Pending.CLEANUP
    maintenance.run_due()
    assert isinstance(verification.verify(Reach(), later, here.now), ScanResult)


def test_the_planner_has_no_samples_of_sealed_bytes_and_wrapped_keys(
    key_url: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """PostgreSQL: neither after ANALYZE nor after the keys moved; of ids, only of those alive."""
    with opened(postgres_server.create_database(), key_url, tmp_path) as here:
        sessions = here.lapse.sessions
        for number in range(50):
            room = sessions.create("reading-room", here.now, "operator")
            sessions.join(room.id, f"user-{number}", here.now, "operator", name="Ann")
        sealed = {(name, column) for name, one in STORES.items() for column in one.sealed}
        for _ in range(2):
            here.execute("ANALYZE")
            sampled = {
                (row[0], row[1]) for row in here.execute("SELECT tablename, attname FROM pg_stats")
            }
            assert ("subjects", "lookup") in sampled
            assert not sampled & sealed
            assert here.lapse.maintenance.run() is None
        sampled_ids = (
            "SELECT unnest(histogram_bounds::text::text[]) FROM pg_stats "
            "WHERE tablename = 'subjects' AND attname = 'subject'"
        )
        assert len(here.execute(sampled_ids)) == 50
        # One stays: of an empty table PostgreSQL keeps the samples it has.
        for (room_id,) in here.execute("SELECT session_id FROM sessions OFFSET 1"):
            sessions.erase(room_id, here.now, "operator")
        assert here.lapse.maintenance.run() is None
        assert len(here.execute(sampled_ids)) <= 1


def test_samples_from_before_go_with_the_upgrade(
    key_url: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """PostgreSQL: that no more are taken leaves those that were; and content stays uncompressed."""
    with closing(open_engines(postgres_server.create_database())) as engines:
        upgrade(engines, "0003")
        with engines.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO subject_keys SELECT 0, n::text, 'k', decode(md5(n::text), 'hex') "
                "FROM generate_series(1, 100) n"
            )
        sampled = "SELECT attname FROM pg_stats WHERE tablename = 'subject_keys'"
        with engines.autocommit() as connection:
            connection.exec_driver_sql("ANALYZE")
            assert ("wrapped",) in [tuple(row) for row in connection.exec_driver_sql(sampled)]
        upgrade(engines)
        with engines.autocommit() as connection:
            left = [tuple(row) for row in connection.exec_driver_sql(sampled)]
            assert ("subject",) in left
            assert ("wrapped",) not in left
            storage = (
                "SELECT attstorage::text FROM pg_attribute "
                "WHERE attrelid = 'items'::regclass AND attname = 'sealed'"
            )
            assert connection.exec_driver_sql(storage).scalar_one() == "e"


def test_the_file_is_written_anew_on_demand(here: Opened, database_url: str) -> None:
    """`lapse db clean`: with SQLite pages that are free go back to the file system."""
    here.execute("CREATE TABLE large (content TEXT)")
    here.execute("INSERT INTO large VALUES (?)", "x" * 1_000_000)
    here.execute("DROP TABLE large")
    assert here.lapse.maintenance.run() is None
    before = sum(p.stat().st_size for p in databases.folder_of(database_url).rglob("lapse.db"))
    assert here.lapse.maintenance.compact() is None
    after = sum(p.stat().st_size for p in databases.folder_of(database_url).rglob("lapse.db"))
    assert after < before or here.is_postgresql


def test_two_processes_do_not_clean_at_once(here: Opened) -> None:
    """The other one is told to wait."""
    mine = here.lapse.maintenance
    other = Maintenance(
        here.lapse.engines, mine.want, here.lapse.clock, "somebody else", every=MINUTE
    )
    with mine._leases.lease("cleanup"):
        assert other.run() is Pending.CLEANUP
    assert other.run() is None
