"""Rotation of the key-encryption keys, on each provider and both databases.

Nobody who stands in a session is lost by it, nobody who was erased comes back, wherever it is
killed and whatever others write meanwhile.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

from adapters.keyring import generation_keys, generations
from adapters.keyring.generations import NEXT
from adapters.keyring.keyring import Keyring
from adapters.keyring.rotation import LEASE, SETTLE, Rotation
from adapters.log.engine import Engines, open_engines
from adapters.log.schema import metadata
from domain.errors import KeyUnavailable, RotationHeld, StoreBusy
from domain.policy import DAY, HOUR, SECOND
from domain.ports import Append
from tests.contracts.authors import TEN, apply_policies, at_once, erased
from tests.contracts.key_stores import (
    WINDOW,
    KeyStore,
    admitting,
    people_of,
    subject_of,
)
from tests.contracts.stores import SqlStore, open_sql_store
from tests.servers import PostgresServer

NAMES = tuple(f"person-{number}" for number in range(8))


@pytest.fixture
def keyring(key_store: KeyStore, sql_store: SqlStore) -> Keyring:
    keyring = key_store.open(sql_store.engines)
    sql_store.unlock(keyring)
    return keyring


@pytest.fixture
def rotation(key_store: KeyStore, sql_store: SqlStore, keyring: Keyring) -> Rotation:
    return key_store.rotation(sql_store.engines, keyring=keyring)


@pytest.fixture
def room(sql_store: SqlStore, keyring: Keyring) -> Append:
    """A session with everybody in it."""
    append = admitting(keyring, "room", *NAMES)
    sql_store.log.submit(append, TEN)
    return append


def rows(store: SqlStore) -> dict[str, str]:
    """Subject -> KEK of every wrapped key."""
    return {row[0]: row[1] for row in store.execute("SELECT subject, kek FROM subject_keys")}


def wrapped_bytes(store: SqlStore) -> set[bytes]:
    return {bytes(row[0]) for row in store.execute("SELECT wrapped FROM subject_keys")}


def generation_keks(store: SqlStore) -> list[str]:
    """The KEKs of the generation keys under which people and data keys are."""
    with store.engines.read() as connection:
        kept = generation_keys.read(connection)
    for column, table in (("lookup", "subjects"), ("wrapped", "data_keys")):
        ids = {bytes(row[0])[:4] for row in store.execute(f"SELECT {column} FROM {table}")}
        assert ids == {one.kid for one in kept.keys}, table
    assert kept.is_settled
    return [one.kek for one in kept.keys]


def tables(engines: Engines) -> set[str]:
    with engines.read() as connection:
        return set(inspect(connection).get_table_names())


# -- at once ----------------------------------------------------------------------------------


def test_every_key_moves_and_everybody_still_opens(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, rotation: Rotation, room: Append
) -> None:
    """Under the new KEK, in other bytes; here and in a process that starts afterwards."""
    (first,), before = set(rows(sql_store).values()), wrapped_bytes(sql_store)
    done = rotation.rotate()
    assert (done.moved, done.kept) == (len(NAMES), 0)
    assert set(rows(sql_store).values()) == {done.kek} != {first}
    assert not wrapped_bytes(sql_store) & before
    for one in (keyring, key_store.open(sql_store.engines)):
        assert people_of(sql_store, one, "room") == set(NAMES)


def test_a_process_that_was_running_opens_what_another_moved(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, room: Append
) -> None:
    """It reads the key file again, or asks Vault, when it meets the new KEK."""
    key_store.rotation(sql_store.engines).rotate()
    assert people_of(sql_store, keyring, "room") == set(NAMES)


def test_the_new_table_is_the_old_one_in_all_its_names(
    sql_store: SqlStore, rotation: Rotation, room: Append
) -> None:
    """Columns, key and indexes are those of the schema, twice in a row; no other table is left."""
    for _ in range(2):
        rotation.rotate()
        with sql_store.engines.write() as connection:
            context = MigrationContext.configure(connection)
            key = inspect(connection).get_pk_constraint("subject_keys")
            assert compare_metadata(context, metadata) == []
        assert key["name"] == ("subject_keys_pkey" if sql_store.is_postgresql else None)
        assert tables(sql_store.engines) == set(metadata.tables)
        assert not rotation.is_unfinished()


def test_an_empty_table_is_rotated_too(sql_store: SqlStore, rotation: Rotation) -> None:
    """Nobody is there yet."""
    assert rotation.rotate().moved == 0
    assert [kek.retired_at is None for kek in rotation.status()] == [False, True]


def test_status_counts_the_keys_of_each_kek(
    key_store: KeyStore, sql_store: SqlStore, rotation: Rotation, room: Append
) -> None:
    """And says from when the old one is destroyed."""
    rotation.rotate()
    old, new = rotation.status()
    assert (old.rows, new.rows) == (0, len(NAMES))
    assert (old.retired_at, old.destroy_at) == (key_store.wall(), key_store.wall() + WINDOW)
    assert (new.retired_at, new.destroy_at) == (None, None)


# -- every day --------------------------------------------------------------------------------


def live(rotation: Rotation, key_store: KeyStore, micros: int) -> None:
    """Time passes, and the service looks twice a minute at its beginning and end."""
    key_store.wall.now += micros
    for _ in range(3):
        rotation.run_due()
        key_store.wall.now += SETTLE


def test_a_kek_lives_a_day_and_the_window_of_backups(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, rotation: Rotation, room: Append
) -> None:
    """A new one after 24 h, the old one destroyed a week after that, and nobody is lost."""
    key_store.wall.now = TEN + DAY - 1
    rotation.run_due()
    (first,) = rotation.status()
    key_store.wall.now = TEN + DAY
    live(rotation, key_store, 0)
    assert [kek.id == first.id for kek in rotation.status()] == [True, False]
    retired_at = rotation.status()[0].retired_at
    assert retired_at is not None
    assert TEN + DAY <= retired_at <= TEN + DAY + 3 * SETTLE
    while key_store.wall() < retired_at + WINDOW - DAY:
        live(rotation, key_store, DAY)
    assert rotation.status()[0].id == first.id
    live(rotation, key_store, DAY)
    assert first.id not in {kek.id for kek in rotation.status()}
    assert len(rotation.status()) in (8, 9)
    assert people_of(sql_store, keyring, "room") == set(NAMES)
    assert people_of(sql_store, key_store.open(sql_store.engines), "room") == set(NAMES)


def test_a_key_that_was_written_late_is_moved_a_minute_later(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, rotation: Rotation, room: Append
) -> None:
    """By a process that had wrapped it before it knew of the new KEK."""
    late = admitting(keyring, "late", "latecomer")
    live(rotation, key_store, DAY)
    (current,) = set(rows(sql_store).values())
    sql_store.log.submit(late, TEN)
    assert set(rows(sql_store).values()) > {current}
    assert people_of(sql_store, keyring, "late") == {"latecomer"}
    restarted = key_store.rotation(sql_store.engines)
    live(restarted, key_store, SETTLE)
    assert set(rows(sql_store).values()) == {current}
    assert people_of(sql_store, keyring, "late") == {"latecomer"}


def test_keys_of_a_restored_backup_are_moved_and_not_destroyed_under(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, rotation: Rotation, room: Append
) -> None:
    """Its rows name a KEK that was retired days ago: it lives on until they name another."""
    kept = sql_store.execute("SELECT partition, subject, kek, wrapped FROM subject_keys")
    (first,) = {row[2] for row in kept}
    live(rotation, key_store, DAY)
    key_store.wall.now += WINDOW - HOUR
    sql_store.execute("DELETE FROM subject_keys")
    for row in kept:
        sql_store.execute("INSERT INTO subject_keys VALUES (?, ?, ?, ?)", *row)
    restored = key_store.rotation(sql_store.engines)
    live(restored, key_store, 2 * HOUR)
    live(restored, key_store, SETTLE)
    assert first not in rows(sql_store).values()
    assert first in {kek.id for kek in restored.status()}
    assert people_of(sql_store, key_store.open(sql_store.engines), "room") == set(NAMES)


def test_a_database_whose_keks_are_gone_is_refused(
    key_store: KeyStore, sql_store: SqlStore, rotation: Rotation, room: Append
) -> None:
    """A backup older than the window: its check value names a KEK that was destroyed."""
    old = sql_store.execute("SELECT name, value FROM meta WHERE substr(name, 1, 4) = 'kek:'")
    live(rotation, key_store, DAY)
    live(rotation, key_store, WINDOW)
    assert len(sql_store.execute("SELECT 1 FROM meta WHERE name = ?", old[0][0])) == 0
    sql_store.execute("INSERT INTO meta VALUES (?, ?)", *old[0])
    with pytest.raises(KeyUnavailable, match="LAPSE_RESTORE_WINDOW"):
        key_store.open(sql_store.engines)


def test_a_key_that_does_not_open_is_carried_over(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, rotation: Rotation, room: Append
) -> None:
    """Somebody changed the row: rotation goes on for all others, and does not hide the damage."""
    broken = subject_of(sql_store, keyring, NAMES[0]).subject
    sql_store.execute("UPDATE subject_keys SET wrapped = ? WHERE subject = ?", b"x" * 60, broken)
    done = rotation.rotate()
    assert (done.moved, done.kept) == (len(NAMES) - 1, 1)
    (row,) = sql_store.execute("SELECT kek, wrapped FROM subject_keys WHERE subject = ?", broken)
    assert (row[0] != done.kek, bytes(row[1])) == (True, b"x" * 60)
    live(rotation, key_store, WINDOW)
    assert row[0] in {kek.id for kek in rotation.status()}


# -- one at a time ----------------------------------------------------------------------------


def test_one_of_several_processes_rotates(
    key_store: KeyStore, sql_store: SqlStore, room: Append
) -> None:
    """All of them find it due at the same moment; there is one new KEK."""
    key_store.wall.now += DAY
    running = [
        key_store.rotation(open_engines(sql_store.url), holder=f"process-{number}")
        for number in range(4)
    ]
    answers = at_once([one.run_due for one in running])
    assert answers == [None] * 4
    assert len(running[0].status()) == 2
    assert len(set(rows(sql_store).values())) == 1
    for one in running:
        one._engines.close()


def test_a_second_rotation_is_refused_while_one_runs(
    key_store: KeyStore, sql_store: SqlStore, room: Append
) -> None:
    """Whoever asks for it is told; what runs goes on."""
    one, other = (key_store.rotation(sql_store.engines, holder=name) for name in ("one", "other"))
    refused = []

    def meanwhile() -> None:
        with pytest.raises(RotationHeld):
            other.rotate()
        refused.append(True)

    one._step = meanwhile  # type: ignore[method-assign]
    one.rotate()
    assert refused
    assert len(one.status()) == 2


def test_one_that_stood_still_writes_nothing_when_it_wakes(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, room: Append
) -> None:
    """Its lease ran out and another process rotated meanwhile."""
    slow, fast = (key_store.rotation(sql_store.engines, holder=name) for name in ("slow", "fast"))
    steps = iter(range(100))

    def stand_still() -> None:
        if next(steps) == 1:
            key_store.wall.now += LEASE + 1
            fast.rotate()

    slow._step = stand_still  # type: ignore[method-assign]
    with pytest.raises(RotationHeld):
        slow.rotate()
    assert set(rows(sql_store).values()) == {fast.status()[-1].id}
    assert people_of(sql_store, keyring, "room") == set(NAMES)


def test_a_service_that_ends_leaves_its_rotation_to_the_next(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, room: Append
) -> None:
    """It does not wait for the last page."""
    ending = key_store.rotation(sql_store.engines)
    ending.close()
    with pytest.raises(RotationHeld):
        ending.rotate()
    assert ending.is_unfinished()
    following = key_store.rotation(sql_store.engines, holder="the next")
    live(following, key_store, 0)
    assert not following.is_unfinished()
    assert set(rows(sql_store).values()) == {following.status()[-1].id}


# -- killed -----------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Counts what reaches disk or a key server, and kills the process before or after one."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.done = 0

    def pass_one(self) -> None:
        self.done += 1
        if self.done >= self.fatal:
            raise Killed  # and everything after it, as a dead process does nothing either

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any) -> Any:
            self.pass_one()
            result = act(*arguments)
            self.pass_one()
            return result

        return acting

    @contextmanager
    def writing(self, write: Callable[[], Any]) -> Iterator[Connection]:
        with write() as connection:
            yield connection
            self.pass_one()  # before the commit
        self.pass_one()


def killed_at(fatal: int, key_store: KeyStore, store: SqlStore) -> bool:
    """Rotate and destroy in a process that is killed at this step; whether it was."""
    engines = open_engines(store.url)
    rotation, steps = key_store.rotation(engines, holder="killed", page=5), Steps(fatal)
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(engines, "write", partial(steps.writing, engines.write))
        for name in ("rotate", "retire", "destroy"):
            patch.setattr(rotation._keks, name, steps.around(getattr(rotation._keks, name)))
        try:
            rotation.rotate()
        except Killed:
            return True
        finally:
            engines.close()
    return False


def test_a_rotation_that_is_killed_anywhere_is_finished_by_the_next(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, rotation: Rotation, room: Append
) -> None:
    """Before and after every commit and every change of the key store. One KEK is over when it is
    killed, so that destroying is among the steps."""
    apply_policies(sql_store.log)
    fatal = 0
    killed = True
    while killed:
        fatal += 1
        key_store.wall.now += WINDOW + DAY  # those before are over now
        killed = killed_at(fatal, key_store, sql_store)
        somebody = f"came-after-{fatal}"
        keyring.forget()  # days went by for it, too
        another = admitting(keyring, f"room-{fatal}", somebody)
        sql_store.log.submit(another, TEN)
        key_store.wall.now += LEASE + SECOND
        following = key_store.rotation(sql_store.engines, holder="the next")
        live(following, key_store, 0)
        keks = [kek.id for kek in following.status()]
        assert set(rows(sql_store).values()) == {keks[-1]}, fatal
        assert tables(sql_store.engines) == set(metadata.tables), fatal
        assert people_of(sql_store, keyring, "room") == set(NAMES), fatal
        assert people_of(sql_store, keyring, f"room-{fatal}") == {somebody}, fatal
        assert generation_keks(sql_store) == [keks[-1]], fatal
        assert all(subject_of(sql_store, keyring, name) for name in (*NAMES, somebody)), fatal
        sql_store.log.submit(erased(another), TEN)
        live(following, key_store, WINDOW + SECOND)
        assert {kek.retired_at for kek in following.status()} >= {None}
        assert keks[0] not in {kek.id for kek in following.status()}, fatal
    assert fatal > 15


# -- while others write -----------------------------------------------------------------------


def test_nobody_is_lost_and_nobody_comes_back_while_it_rotates(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring
) -> None:
    """Writers admit and erase as fast as they can; in the end those who should be there open, and
    of the others there is no row in any table."""
    apply_policies(sql_store.log)
    ended = threading.Event()
    standing: dict[str, str] = {}
    gone: list[str] = []

    def write(writer: int) -> int:
        mine: list[tuple[str, str, Append]] = []
        number = 0
        while not ended.is_set() or number < 12:
            name = f"person-{writer}-{number}"
            append = admitting(keyring, f"room-{writer}-{number}", name)
            sql_store.log.submit(append, TEN)
            mine.append((append.session_id, name, append))
            if number % 3:
                _, name, append = mine.pop(number % len(mine))
                gone.append(subject_of(sql_store, keyring, name).subject)
                sql_store.log.submit(erased(append), TEN)
            number += 1
        standing.update({session_id: name for session_id, name, _ in mine})
        return number

    def rotate() -> None:
        try:
            for number in range(4):
                engines = open_engines(sql_store.url)
                key_store.rotation(engines, holder=f"rotator-{number}", page=7).rotate()
                engines.close()
        finally:
            ended.set()

    working: list[Callable[[], object]] = [rotate, *(partial(write, n) for n in range(3))]
    answers = at_once(working, threads=4)
    assert not [one for one in answers if isinstance(one, Exception)], answers
    assert {session_id: people_of(sql_store, keyring, session_id) for session_id in standing} == {
        session_id: {name} for session_id, name in standing.items()
    }
    assert len(rows(sql_store)) == len(standing)
    for table in ("subjects", "subject_index", "subject_keys", "data_keys"):
        left = {row[0] for row in sql_store.execute(f"SELECT subject FROM {table}")}
        assert not left & set(gone), table
    assert tables(sql_store.engines) == set(metadata.tables)
    final = key_store.rotation(sql_store.engines).rotate()
    assert set(rows(sql_store).values()) <= {final.kek}


def test_who_is_erased_during_a_rotation_does_not_come_back(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring, room: Append
) -> None:
    """Their key was copied into the new table already."""
    apply_policies(sql_store.log)
    rotation, steps = key_store.rotation(sql_store.engines, page=100), iter(range(100))

    def erase_after_the_copy() -> None:
        if next(steps) == 1:
            assert len(sql_store.execute(f"SELECT 1 FROM {NEXT}")) == len(NAMES)
            sql_store.log.submit(erased(room), TEN)
            sql_store.log.submit(admitting(keyring, "another", "ann"), TEN)

    rotation._step = erase_after_the_copy  # type: ignore[method-assign]
    rotation.rotate()
    assert len(rows(sql_store)) == 1
    assert people_of(sql_store, keyring, "another") == {"ann"}
    assert people_of(sql_store, keyring, "room") == set()


# -- what is left of old keys -----------------------------------------------------------------


def found_in(folder: Path, searched: Sequence[bytes]) -> int:
    """How many of these byte strings stand in the files of a folder."""
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return sum(any(one in content for content in contents) for one in searched)


def test_old_wrapped_keys_leave_the_file_of_sqlite(key_store: KeyStore, tmp_path: Path) -> None:
    """Neither the file nor its write-ahead log holds one of them."""
    folder = tmp_path / "data"
    folder.mkdir()
    with open_sql_store(f"sqlite:///{folder / 'lapse.db'}") as store:
        keyring = key_store.open(store.engines)
        store.unlock(keyring)
        store.log.submit(admitting(keyring, "room", *NAMES), TEN)
        before = list(wrapped_bytes(store))
        assert found_in(folder, before) == len(NAMES)
        key_store.rotation(store.engines, keyring=keyring).rotate()
        assert found_in(folder, before) == 0
        assert found_in(folder, list(wrapped_bytes(store))) == len(NAMES)


def test_a_reader_of_sqlite_delays_the_overwriting(
    key_store: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody looks at an older state; when they are done, it happens."""
    monkeypatch.setattr(generations, "LOCK_SECONDS", 0.01)
    folder = tmp_path / "data"
    folder.mkdir()
    with open_sql_store(f"sqlite:///{folder / 'lapse.db'}") as store:
        keyring = key_store.open(store.engines)
        store.unlock(keyring)
        store.log.submit(admitting(keyring, "room", *NAMES), TEN)
        before, rotation = list(wrapped_bytes(store)), key_store.rotation(store.engines)
        with store.engines.snapshot() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM subject_keys").scalar()
            rotation.rotate()
            assert found_in(folder, before) == len(NAMES)
        live(rotation, key_store, SETTLE)
        assert found_in(folder, before) == 0


def test_old_wrapped_keys_leave_the_tables_of_postgresql(
    key_store: KeyStore, postgresql_store: SqlStore, postgres_server: PostgresServer
) -> None:
    """The old table's files are gone with it. Its write-ahead log keeps what it has for a while:
    that is what the KEK is destroyed for."""
    keyring = key_store.open(postgresql_store.engines)
    postgresql_store.unlock(keyring)
    postgresql_store.log.submit(admitting(keyring, "room", *NAMES), TEN)
    before = list(wrapped_bytes(postgresql_store))
    with postgresql_store.engines.autocommit() as connection:
        connection.exec_driver_sql("CHECKPOINT")
        tables = postgres_server.folder / "cluster" / "base"
        assert found_in(tables, before) == len(NAMES)
        key_store.rotation(postgresql_store.engines, keyring=keyring).rotate()
        connection.exec_driver_sql("CHECKPOINT")
    assert found_in(tables, before) == 0


def test_a_long_reader_of_postgresql_is_given_way(
    key_store: KeyStore, postgresql_store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup holds the table for an hour: nobody waits behind us for that long, and the rotation
    is finished when the backup is."""
    monkeypatch.setattr(generations, "LOCK_SECONDS", 0.05)
    store = postgresql_store
    keyring = key_store.open(store.engines)
    store.unlock(keyring)
    store.log.submit(admitting(keyring, "room", *NAMES), TEN)
    rotation = key_store.rotation(store.engines)
    with store.engines.snapshot() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM subject_keys").scalar()
        with pytest.raises(StoreBusy):
            rotation.rotate()
        store.log.submit(admitting(keyring, "meanwhile", "ann"), TEN)
    live(rotation, key_store, SETTLE)
    assert len(set(rows(store).values())) == 1
    assert people_of(store, keyring, "room") == set(NAMES)
    assert people_of(store, keyring, "meanwhile") == {"ann"}
