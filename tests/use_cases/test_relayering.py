"""The layer around data keys changes with every key-encryption key, while people store and read.

Everything opens and everything can be written at every moment of a move, whichever keys a process
knows; nothing is left under the key before.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event

from adapters.keyring import generation_keys, steps
from adapters.keyring.generation_keys import KID, LAYERED, WRAPPED, GenerationKeys, Kept
from adapters.keyring.keyring import Keyring
from adapters.keyring.moving import begin
from adapters.keyring.rotation import SETTLE, Rotation
from adapters.log.engine import open_engines
from adapters.log.event_log import SqlLog
from adapters.vault import layers
from adapters.vault.keys_in_use import KeysInUse
from adapters.vault.lookups import SubjectLookups
from domain.errors import SealBroken, StoreBusy
from domain.ports import DataKey
from domain.session import Scope
from tests.contracts.authors import at_once
from tests.contracts.conftest import (  # noqa: F401 - fixtures of every test
    key_store,
    postgresql_store,
    sql_store,
)
from tests.contracts.key_stores import KeyStore, people_of
from tests.contracts.stores import SqlStore
from tests.contracts.test_rotation import live
from tests.use_cases.offices import TEN, Office, another_process, opened_office

NAMES = ("ann", "bob", "eve")
SAID = [{"x": 1}]


@pytest.fixture
def office(sql_store: SqlStore, key_store: KeyStore, tmp_path: Path) -> Office:  # noqa: F811
    return new_office(sql_store, key_store, tmp_path)


def new_office(store: SqlStore, keys: KeyStore, folder: Path) -> Office:
    """On a database that has a generation key from its first day, as every new one."""
    keyring = keys.open(store.engines)
    store.unlock(keyring)
    begin(store.engines, keyring.keks)
    return opened_office(store, folder, keyring=keyring)


def as_another_process(office: Office) -> Office:
    """One that knows nothing yet."""
    log = SqlLog(
        office.store.engines,
        office.store.wall,
        lookups=SubjectLookups(office.store.engines, office.keyring.keks),
    )
    store = SqlStore(**{**vars(office.store), "log": log})
    return another_process(store, office.keyring)


class Room:
    """A session with everybody in it, who stored something; and everybody together something."""

    def __init__(self, office: Office) -> None:
        self.id, self.tokens = office.room(*NAMES)
        self.items = [office.put(self.id, SAID, token) for token in self.tokens.values()]
        self.items.append(office.put(self.id, SAID))

    def opens(self, office: Office) -> bool:
        """Whether this process reads who is there and what they stored."""
        people = people_of(office.store, office.keyring, self.id)
        read = [office.read(self.id, item) for item in self.items]
        return people == set(NAMES) and read == [SAID] * len(self.items)


def kept(store: SqlStore) -> Kept:
    with store.engines.read() as connection:
        return generation_keys.read(connection)


def rows(store: SqlStore) -> dict[tuple[str, ...], bytes]:
    query = "SELECT session_id, tier, token, subject, wrapped FROM data_keys"
    return {tuple(row[:4]): bytes(row[4]) for row in store.execute(query)}


def generations(store: SqlStore) -> set[bytes]:
    """The ids under which rows are; of one without a layer, nothing."""
    held = rows(store).values()
    return {stored[:KID] if len(stored) == LAYERED else b"" for stored in held}


def current(store: SqlStore) -> set[bytes]:
    return {kept(store).keys[-1].kid}


def as_before_there_were_layers(store: SqlStore, keyring: Keyring) -> None:
    """What the version before left: wrapped keys alone, beside a finished index of names."""
    name = bytes(store.execute("SELECT value FROM meta WHERE name = 'store'")[0][0]).decode()
    keys = generation_keys.open_keys(kept(store), keyring.keks, name, {})
    for place, stored in rows(store).items():
        wrapped = keys.wrapped_in((place[0], place[1], place[2], place[3]), stored)
        assert len(wrapped) == WRAPPED
        where = "session_id = ? AND tier = ? AND token = ? AND subject = ?"
        store.execute(f"UPDATE data_keys SET wrapped = ? WHERE {where}", wrapped, *place)
    value = bytes(store.execute("SELECT value FROM meta WHERE name = 'subject-index'")[0][0])
    earlier = value.replace(b'"bare":true,', b"").replace(b'"bare":false,', b"")
    assert earlier != value
    store.execute("UPDATE meta SET value = ? WHERE name = 'subject-index'", earlier)


def at_each_step(rotation: Rotation, act: Callable[[int], None]) -> int:
    """Rotate, and do something between any two transactions; how often."""
    done = [0]

    def step() -> None:
        act(done[0])
        done[0] += 1

    rotation._step = step  # type: ignore[method-assign]
    rotation.rotate()
    return done[0]


# -- what a row holds -------------------------------------------------------------------------


def test_a_row_holds_the_wrapped_key_behind_a_layer(
    office: Office,
    sql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
) -> None:
    """Whoever asks for the key gets the same before and after a rotation; the bytes that the row
    holds are others, and not for another row."""
    room = Room(office)
    before, key = rows(sql_store), office.store.vault.data_keys(room.id, Scope.FULL, "")[""]
    assert generations(sql_store) == current(sql_store)
    assert all(key.wrapped not in stored for stored in before.values())
    key_store.rotation(sql_store.engines).rotate()
    assert generations(sql_store) == current(sql_store)
    after = rows(sql_store)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert office.store.vault.data_keys(room.id, Scope.FULL, "")[""].wrapped == key.wrapped
    assert kept(sql_store).is_settled
    one, other = list(after)[:2]
    query = "UPDATE data_keys SET wrapped = ? WHERE token = ? AND tier = ? AND session_id = ?"
    sql_store.execute(query, after[one], other[2], other[1], other[0])
    assert not_opening(office, room) == 1


def not_opening(office: Office, room: Room) -> int:
    """Of its names and items, those that are reported as damaged."""
    broken = 0
    for one in office.store.vault.identities(room.id, "", 99):
        try:
            office.keyring.open_identity(
                one.subject, room.id, one.member.token, one.wrapped, one.sealed
            )
        except SealBroken:
            broken += 1
    for item in room.items:
        try:
            office.read(room.id, item)
        except SealBroken:
            broken += 1
    return broken


@pytest.mark.parametrize("by", ["the first look", "a rotation"])
def test_rows_of_before_are_read_and_moved(
    office: Office,
    sql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
    by: str,
) -> None:
    """They hold the wrapped key alone. The first look of a worker is enough, although the index of
    names needs nothing."""
    room = Room(office)
    as_before_there_were_layers(sql_store, office.keyring)
    assert generations(sql_store) == {b""}
    assert kept(sql_store).bare
    assert room.opens(office)
    assert room.opens(as_another_process(office))
    later = Room(office)
    assert generations(sql_store) == {b"", *current(sql_store)}
    rotation = key_store.rotation(sql_store.engines)
    (rotation.run_due if by == "the first look" else rotation.rotate)()
    assert generations(sql_store) == current(sql_store)
    assert kept(sql_store).is_settled
    assert room.opens(office)
    assert later.opens(office)


def test_a_damaged_row_does_not_stop_a_move(
    office: Office,
    sql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
) -> None:
    """Under a key that nobody knows, changed, or cut: all others move, it is left as it is, and
    whoever needs it is told."""
    room = Room(office)
    kid = next(iter(current(sql_store)))
    damages = (b"\0" * LAYERED, kid + b"x" * (LAYERED - KID), b"x" * 7)
    damaged = dict(zip(sorted(rows(sql_store)), damages, strict=False))
    for place, wrapped in damaged.items():
        where = "session_id = ? AND tier = ? AND token = ? AND subject = ?"
        sql_store.execute(f"UPDATE data_keys SET wrapped = ? WHERE {where}", wrapped, *place)
    key_store.rotation(sql_store.engines).rotate()
    after = rows(sql_store)
    assert {place: after.pop(place) for place in damaged} == damaged
    assert {stored[:KID] for stored in after.values()} == current(sql_store)
    assert not_opening(office, room) == len(damaged)
    assert not_opening(as_another_process(office), room) == len(damaged)


# -- while it moves ---------------------------------------------------------------------------


def test_everything_is_read_and_written_at_every_step(
    office: Office,
    sql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
) -> None:
    """By a process that has known the keys for long, and by one that begins at that moment; also
    what came in the middle of it."""
    stale = [as_another_process(office) for _ in range(20)]
    rooms = [Room(office)]
    assert all(rooms[0].opens(process) for process in stale)
    under = set()

    def go_on(number: int) -> None:
        under.add(len(generations(sql_store)))
        fresh = as_another_process(office)
        last = rooms[-2:]
        assert all(room.opens(fresh) for room in last)
        assert all(room.opens(stale[number]) for room in last)  # since before the first step
        last[0].items.append(fresh.put(last[0].id, SAID, last[0].tokens["ann"]))
        rooms.append(Room(fresh if number % 2 else office))

    assert at_each_step(key_store.rotation(sql_store.engines, page=5), go_on) > 5
    assert under == {1, 2}
    assert generations(sql_store) == current(sql_store)
    for process in (office, as_another_process(office), stale[-1]):
        assert all(room.opens(process) for room in rooms)


def test_what_is_erased_at_any_step_is_gone(
    office: Office,
    sql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
) -> None:
    """A move writes no row that a deletion took, and what is alive opens."""
    rooms = [Room(office) for _ in range(12)]
    gone = []

    def erase(number: int) -> None:
        if len(rooms) > 1:
            gone.append(rooms.pop(-1 if number % 2 else 0).id)
            office.sessions.erase(gone[-1], TEN + 1, "officer")
        assert not {place[0] for place in rows(sql_store)} & set(gone)

    at_each_step(key_store.rotation(sql_store.engines), erase)
    assert len(gone) > 5
    assert {place[0] for place in rows(sql_store)} == {room.id for room in rooms}
    assert all(room.opens(office) for room in rooms)


def test_writers_and_moves_go_on_side_by_side(
    office: Office,
    sql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
) -> None:
    """Several processes begin sessions, store, read and erase while four moves run."""
    ended = threading.Event()
    standing: list[Room] = []

    def work(process: Office) -> int:
        mine: list[Room] = []
        while not ended.is_set() or len(mine) < 3:
            mine.append(Room(process))
            assert all(room.opens(process) for room in mine)
            if len(mine) > 4:
                process.sessions.erase(mine.pop(1).id, TEN + 1, "officer")
        standing.extend(mine)
        return len(mine)

    def rotate() -> None:
        try:
            for number in range(4):
                engines = open_engines(sql_store.url)
                key_store.rotation(engines, holder=f"rotator-{number}", page=2).rotate()
                engines.close()
        finally:
            ended.set()

    working: list[Callable[[], object]] = [rotate]
    working += [partial(work, as_another_process(office)) for _ in range(2)]
    answers = at_once(working, threads=3)
    assert not [one for one in answers if isinstance(one, Exception)], answers
    assert generations(sql_store) == current(sql_store)
    assert {place[0] for place in rows(sql_store)} == {room.id for room in standing}
    assert all(room.opens(office) for room in standing)


def test_rows_that_moved_between_two_statements_are_asked_for_again(
    postgresql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A rotation goes by between the rows and the list: their key is in it no more. (On SQLite
    both statements see the same state.)"""
    store, office = postgresql_store, new_office(postgresql_store, key_store, tmp_path)
    room = Room(office)
    in_use = KeysInUse(office.keyring.keks)
    asked: list[int] = []

    def fetch() -> list[tuple[tuple[str, ...], bytes]]:
        found = list(rows(store).items())
        key_store.rotation(store.engines).rotate()
        asked.append(len(found))
        return found

    with store.engines.read() as connection:
        found = layers.select(in_use, connection, fetch, lambda row: row)
    assert len(asked) == 2
    assert {len(wrapped) for _, wrapped in found} == {WRAPPED}
    assert room.opens(office)


def test_who_relies_on_a_joint_key_is_not_refused_because_it_moved(
    office: Office,
    sql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the reading of the key and the writing of the item a whole rotation goes by; they
    decide once."""
    room = Room(office)
    seal, sealed = office.keyring.seal, []

    def slowly(key: DataKey, item: str, field: str, content: bytes) -> bytes:
        sealed.append(key)
        key_store.rotation(sql_store.engines).rotate()
        return seal(key, item, field, content)

    with monkeypatch.context() as patch:
        patch.setattr(office.keyring, "seal", slowly)
        room.items.append(office.put(room.id, SAID))
    assert len(sealed) == 1
    assert room.opens(office)


def test_a_new_key_waits_for_those_who_store_under_the_old_one(
    postgresql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gives way after a while, and the next look finishes it; what they wrote is moved, too."""
    monkeypatch.setattr(steps, "LOCK_SECONDS", 0.05)
    store, office = postgresql_store, new_office(postgresql_store, key_store, tmp_path)
    room, rotation = Room(office), key_store.rotation(postgresql_store.engines)
    with open_engines(store.url).write() as connection:
        writing = KeysInUse(office.keyring.keks).writing(connection)
        layers.insert(connection, writing, [("late", "full", "", "late", b"w" * WRAPPED)])
        with pytest.raises(StoreBusy):
            rotation.rotate()
        assert len(kept(store).keys) == 1
    live(rotation, key_store, SETTLE)
    assert kept(store).keys[-1].kek == rotation.status()[-1].id
    assert ("late", "full", "", "late") in rows(store)
    assert generations(store) == current(store)
    assert room.opens(office)


def test_a_row_that_somebody_holds_is_moved_when_they_let_go(
    postgresql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Meanwhile all others are under the new key, and everything opens."""
    monkeypatch.setattr(steps, "LOCK_SECONDS", 0.05)
    store, office = postgresql_store, new_office(postgresql_store, key_store, tmp_path)
    room, rotation = Room(office), key_store.rotation(postgresql_store.engines)
    before = rows(store)
    held = sorted(before)[2]
    with open_engines(store.url).write() as connection:
        which = "session_id = %s AND tier = %s AND token = %s"
        lock = f"SELECT 1 FROM data_keys WHERE {which} FOR SHARE"
        connection.exec_driver_sql(lock, held[:3]).scalar()
        with pytest.raises(StoreBusy):
            rotation.rotate()
        after = rows(store)
        assert {place for place in before if after[place] == before[place]} == {held}
        assert room.opens(office)
        assert room.opens(as_another_process(office))
    live(rotation, key_store, SETTLE)
    assert generations(store) == current(store)
    assert room.opens(office)


# -- what it costs ----------------------------------------------------------------------------


@contextmanager
def statements(store: SqlStore) -> Iterator[list[str]]:
    """Every statement that is run meanwhile."""
    run: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        run.append(statement)

    engines = [store.engines._reading]  # on SQLite what writes is derived from it
    engines += [store.engines._writing] if store.is_postgresql else []
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield run
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def test_the_list_of_keys_is_asked_for_only_by_who_writes_one(
    office: Office,
    sql_store: SqlStore,  # noqa: F811
) -> None:
    """Once in a batch that admits somebody and writes their keys; never by who stores under a key
    that is there, and never by who reads."""
    room = Room(office)

    def asked(act: Callable[[], object]) -> int:
        with statements(sql_store) as run:
            act()
        return sum("'subject-index'" in one and "keys.stamp" not in one for one in run)

    assert asked(lambda: office.put(room.id, SAID, room.tokens["ann"])) == 0
    assert asked(lambda: room.opens(office)) == 0
    assert asked(lambda: office.sessions.join(room.id, "new", TEN, "application")) == 1
    empty, tokens = office.room("ann")
    assert asked(lambda: office.put(empty, SAID, tokens["ann"])) == 1


def test_the_layer_is_aes_gcm_under_a_derived_key() -> None:
    """For one place: the same key opens it nowhere else."""
    keys = GenerationKeys(Kept(plain=False, keys=()), {b"kid1": bytes(range(32))})
    place, wrapped = ("session", "full", "token", "subject"), bytes(WRAPPED)
    stored = keys.layered(place, wrapped)
    assert (len(stored), stored[:KID]) == (LAYERED, b"kid1")
    assert keys.wrapped_in(place, stored) == wrapped
    for number in range(4):
        other = [*place]
        other[number] = "other"
        assert keys.wrapped_in((other[0], other[1], other[2], other[3]), stored) == stored
