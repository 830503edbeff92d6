"""People's rows move under a new index key, on both databases, while others write.

Nobody is found twice, nobody is lost, nobody who was erased comes back; and once the key before is
destroyed, an old copy of the rows does not tell whether a guessed name was there.
"""

import threading
from collections.abc import Callable
from functools import partial

import pytest

from adapters.keyring import generation_keys, steps
from adapters.keyring.generation_keys import STORED, GenerationKeys, Kept, moved
from adapters.keyring.keyring import Keyring
from adapters.keyring.moving import Moving, begin
from adapters.keyring.rotation import SETTLE, Rotation
from adapters.log.engine import open_engines
from adapters.vault.keys_in_use import KeysInUse
from adapters.vault.lookups import SubjectLookups
from adapters.vault.rows import SqlVault
from domain.errors import Conflict, KeyUnavailable, StoreBusy
from domain.policy import DAY
from domain.ports import Admission, Append, Appended, Changes
from tests.contracts.authors import TEN, apply_policies, at_once, erased, opening
from tests.contracts.key_stores import WINDOW, KeyStore, admitting, people_of
from tests.contracts.stores import SqlStore

NAMES = tuple(f"person-{number}" for number in range(8))


@pytest.fixture
def keyring(key_store: KeyStore, sql_store: SqlStore) -> Keyring:
    keyring = key_store.open(sql_store.engines)
    sql_store.unlock(keyring)
    return keyring


@pytest.fixture
def indexed(sql_store: SqlStore, keyring: Keyring) -> Keyring:
    """A database that has an index key from its first day, as every new one."""
    begin(sql_store.engines, keyring.keks)
    return keyring


def kept(store: SqlStore) -> Kept:
    with store.engines.read() as connection:
        return generation_keys.read(connection)


def opened(store: SqlStore, keyring: Keyring) -> GenerationKeys:
    name = store.execute("SELECT value FROM meta WHERE name = 'store'")[0][0]
    return generation_keys.open_keys(kept(store), keyring.keks, bytes(name).decode(), {})


def rows(store: SqlStore) -> list[bytes]:
    return sorted(bytes(row[0]) for row in store.execute("SELECT lookup FROM subjects"))


def found(store: SqlStore, keyring: Keyring, *names: str) -> list[str]:
    """Those of these names whom the vault finds, and whose row names them."""
    lookups = {keyring.lookup("subject", name): name for name in names}
    people = store.vault.subjects(list(lookups))
    assert all(person.lookup == lookup for lookup, person in people.items())
    return sorted(lookups[lookup] for lookup in people)


def read_then_admit(store: SqlStore, keyring: Keyring, session_id: str, name: str) -> Append:
    """As use cases do: look for the person, seal for them, and decide again if that is stale."""
    while True:
        lookup = keyring.lookup("subject", name)
        person = store.vault.subjects([lookup]).get(lookup) or keyring.new_subject(lookup)
        token = f"token-{session_id}"
        sealed, wrapped = keyring.seal_identity(person, session_id, token, name)
        who = Admission(token, "participant", person, sealed, wrapped, TEN)
        append = opening(session_id, changes=Changes(admitted=(who,)))
        try:
            assert store.log.submit(append, TEN) == Appended(session_id, 1)
        except Conflict:
            continue
        return append


def at_each_step(rotation: Rotation, act: Callable[[int], None]) -> None:
    """Rotate, and do something between any two transactions."""
    number = iter(range(1_000))
    rotation._step = lambda: act(next(number))  # type: ignore[method-assign]
    rotation.rotate()


# -- what a row holds -------------------------------------------------------------------------


def test_a_row_holds_the_hash_behind_the_index_key(sql_store: SqlStore, indexed: Keyring) -> None:
    """Not one byte string of the static hash stands in the table; everybody is found."""
    sql_store.log.submit(admitting(indexed, "room", *NAMES), TEN)
    keys = opened(sql_store, indexed)
    hashes = {indexed.lookup("subject", name)[:16] for name in NAMES}
    assert {keys.hash_of(row) for row in rows(sql_store)} == hashes
    assert all(len(row) == STORED and row[4:] not in hashes for row in rows(sql_store))
    assert found(sql_store, indexed, *NAMES, "nobody") == list(NAMES)
    assert people_of(sql_store, indexed, "room") == set(NAMES)


def test_an_existing_database_is_converted_by_its_first_rotation(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring
) -> None:
    """Until then rows with the hash alone are found beside those of people who came later."""
    sql_store.log.submit(admitting(keyring, "room", *NAMES), TEN)
    hashes = sorted(keyring.lookup("subject", name) for name in NAMES)
    assert rows(sql_store) == hashes
    begin(sql_store.engines, keyring.keks)
    sql_store.log.submit(admitting(keyring, "later", "ann"), TEN)
    assert {len(row) for row in rows(sql_store)} == {32, STORED}
    assert found(sql_store, keyring, *NAMES, "ann") == ["ann", *NAMES]
    key_store.rotation(sql_store.engines, keyring=keyring).rotate()
    assert {len(row) for row in rows(sql_store)} == {STORED}
    assert not kept(sql_store).plain
    assert found(sql_store, keyring, *NAMES, "ann") == ["ann", *NAMES]


def test_a_service_converts_without_a_rotation(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring
) -> None:
    """The first look of a worker does it, although the key-encryption key is young."""
    sql_store.log.submit(admitting(keyring, "room", *NAMES), TEN)
    key_store.rotation(sql_store.engines, keyring=keyring).run_due()
    assert {len(row) for row in rows(sql_store)} == {STORED}
    assert found(sql_store, keyring, *NAMES) == list(NAMES)


def test_two_processes_that_begin_at_once_make_one_key(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring
) -> None:
    """The second finds the first one's."""
    answers = at_once([partial(begin, sql_store.engines, keyring.keks)] * 4)
    assert answers == [None] * 4
    assert len(kept(sql_store).keys) == 1


def test_whoever_was_given_no_keys_is_told(sql_store: SqlStore, indexed: Keyring) -> None:
    """It does not say that somebody is unknown."""
    blind = SqlVault(sql_store.engines, SubjectLookups(sql_store.engines))
    with pytest.raises(KeyUnavailable):
        blind.subjects([indexed.lookup("subject", "ann")])


# -- while it moves ---------------------------------------------------------------------------


def test_everybody_is_found_at_every_step(
    key_store: KeyStore, sql_store: SqlStore, indexed: Keyring
) -> None:
    """By a process that has known the keys for long, and by one that begins at that moment."""
    sql_store.log.submit(admitting(indexed, "room", *NAMES), TEN)
    assert found(sql_store, indexed, *NAMES) == list(NAMES)
    under: set[int] = set()

    def look(_: int) -> None:
        under.add(len({row[:4] for row in rows(sql_store)}))
        assert found(sql_store, indexed, *NAMES) == list(NAMES)
        fresh = SqlVault(sql_store.engines, SubjectLookups(sql_store.engines, indexed.keks))
        assert len(fresh.subjects([indexed.lookup("subject", name) for name in NAMES])) == 8

    at_each_step(key_store.rotation(sql_store.engines), look)
    look(0)
    assert under == {1, 2}


def test_nobody_enters_twice_at_any_step(
    key_store: KeyStore, sql_store: SqlStore, indexed: Keyring
) -> None:
    """Who decided that somebody is new, and is wrong, is told to decide again, under whichever key
    the row is just then; who looks again is let in."""
    sql_store.log.submit(admitting(indexed, "room", *NAMES), TEN)

    def enter(number: int) -> None:
        for name in (NAMES[0], NAMES[-1]):
            with pytest.raises(Conflict):
                sql_store.log.submit(admitting(indexed, f"wrong-{number}", name), TEN)
        read_then_admit(sql_store, indexed, f"right-{number}", NAMES[number % 8])
        newcomer = f"new-{number}"
        read_then_admit(sql_store, indexed, f"first-{number}", newcomer)
        with pytest.raises(Conflict):
            sql_store.log.submit(admitting(indexed, f"second-{number}", newcomer), TEN)

    at_each_step(key_store.rotation(sql_store.engines), enter)
    keys = opened(sql_store, indexed)
    hashes = [keys.hash_of(row) for row in rows(sql_store)]
    assert len(hashes) == len(set(hashes))
    assert {row[:4] for row in rows(sql_store)} == {kept(sql_store).keys[-1].kid}
    orphans = "SELECT 1 FROM subject_keys WHERE subject NOT IN (SELECT subject FROM subjects)"
    assert sql_store.execute(orphans) == []


def test_who_is_erased_at_any_step_is_gone(
    key_store: KeyStore, sql_store: SqlStore, indexed: Keyring
) -> None:
    """And comes back as somebody else."""
    apply_policies(sql_store.log)
    rooms = {}
    for name in NAMES:
        rooms[name] = admitting(indexed, f"room-of-{name}", name)
        sql_store.log.submit(rooms[name], TEN)
    standing, gone = list(NAMES), []

    def erase(number: int) -> None:
        if standing:
            gone.append(standing.pop(-1 if number % 2 else 0))
            sql_store.log.submit(erased(rooms[gone[-1]]), TEN)
        assert found(sql_store, indexed, *NAMES) == sorted(standing)

    at_each_step(key_store.rotation(sql_store.engines), erase)
    assert len(gone) > 5
    assert len(rows(sql_store)) == len(standing)
    before = rooms[gone[0]].changes.admitted[0].subject.subject
    again = read_then_admit(sql_store, indexed, "again", gone[0])
    assert again.changes.admitted[0].subject.subject != before


def test_writers_and_moves_go_on_side_by_side(
    key_store: KeyStore, sql_store: SqlStore, indexed: Keyring
) -> None:
    """The same few people come and go by several writers while four moves run: each stands in one
    row at most, and exactly those who are in a session stand at all."""
    apply_policies(sql_store.log)
    ended = threading.Event()
    inside: dict[str, str] = {}

    def write(writer: int) -> None:
        mine: list[tuple[str, Append]] = []
        number = 0
        while not ended.is_set() or number < 9:
            name = NAMES[(number * 3 + writer) % len(NAMES)]
            mine.append((name, read_then_admit(sql_store, indexed, f"{writer}-{number}", name)))
            if len(mine) > 2:
                _, append = mine.pop(number % 3)
                sql_store.log.submit(erased(append), TEN)
            number += 1
        inside.update({append.session_id: name for name, append in mine})

    def rotate() -> None:
        try:
            for number in range(4):
                engines = open_engines(sql_store.url)
                key_store.rotation(engines, holder=f"rotator-{number}", page=2).rotate()
                engines.close()
        finally:
            ended.set()

    working: list[Callable[[], object]] = [rotate, *(partial(write, n) for n in range(3))]
    answers = at_once(working, threads=4)
    assert answers == [None] * 4
    for session_id, name in inside.items():
        assert people_of(sql_store, indexed, session_id) == {name}
    assert found(sql_store, indexed, *NAMES) == sorted(set(inside.values()))
    assert len(rows(sql_store)) == len(set(inside.values()))
    assert len(kept(sql_store).keys) == 1


def test_a_new_key_waits_for_those_who_write_under_the_old_one(
    key_store: KeyStore, postgresql_store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives way after a while, and the next look finishes it; what they wrote is moved, too."""
    monkeypatch.setattr(steps, "LOCK_SECONDS", 0.05)
    store = postgresql_store
    keyring = key_store.open(store.engines)
    store.unlock(keyring)
    begin(store.engines, keyring.keks)
    rotation = key_store.rotation(store.engines)
    lookup = keyring.lookup("subject", "ann")
    with open_engines(store.url).write() as connection:
        keys = KeysInUse(keyring.keks).writing(connection).keys
        (stored,) = keys.current([lookup])
        insert = "INSERT INTO subjects (partition, lookup, subject) VALUES (0, %s, 'subject-ann')"
        with pytest.raises(StoreBusy):
            rotation.rotate()
        assert len(kept(store).keys) == 1
        connection.exec_driver_sql(insert, (stored,))
    key_store.wall.now += SETTLE
    rotation.run_due()
    assert kept(store).keys[-1].kek == rotation.status()[-1].id
    assert rows(store) == list(moved([rows(store)[0]], opened(store, keyring)).values())
    assert rows(store) != [stored]


def test_a_row_that_somebody_holds_is_moved_when_they_let_go(
    key_store: KeyStore, postgresql_store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile all others are under the new key, and everybody is found."""
    monkeypatch.setattr(steps, "LOCK_SECONDS", 0.05)
    store = postgresql_store
    keyring = key_store.open(store.engines)
    store.unlock(keyring)
    begin(store.engines, keyring.keks)
    store.log.submit(admitting(keyring, "room", *NAMES), TEN)
    rotation, held = key_store.rotation(store.engines), rows(store)[3]
    with open_engines(store.url).write() as connection:
        lock = "SELECT 1 FROM subjects WHERE lookup = %s FOR SHARE"
        connection.exec_driver_sql(lock, (held,)).scalar()
        with pytest.raises(StoreBusy):
            rotation.rotate()
        assert [row for row in rows(store) if row[:4] == held[:4]] == [held]
        assert found(store, keyring, *NAMES) == list(NAMES)
    key_store.wall.now += SETTLE
    rotation.run_due()
    assert {row[:4] for row in rows(store)} == {one.kid for one in kept(store).keys}
    assert found(store, keyring, *NAMES) == list(NAMES)


def test_a_damaged_row_does_not_stop_a_move(
    key_store: KeyStore, sql_store: SqlStore, indexed: Keyring
) -> None:
    """Under a key that nobody knows: all others move, and it is left as it is."""
    sql_store.log.submit(admitting(indexed, "room", *NAMES), TEN)
    damaged = b"\0" * STORED
    sql_store.execute(
        "UPDATE subjects SET lookup = ? WHERE lookup = ?", damaged, rows(sql_store)[0]
    )
    key_store.rotation(sql_store.engines).rotate()
    assert len({row[:4] for row in rows(sql_store)} - {damaged[:4]}) == 1
    assert damaged in rows(sql_store)
    assert len(found(sql_store, indexed, *NAMES)) == len(NAMES) - 1


# -- what an old copy is worth ----------------------------------------------------------------


def guesses(keys: GenerationKeys, hashed: bytes) -> set[bytes]:
    """Everything that a row of this person could hold."""
    return {*keys.places([hashed]), hashed, hashed[:16]}


def test_an_old_copy_tells_nothing_once_its_key_is_destroyed(
    key_store: KeyStore, sql_store: SqlStore, indexed: Keyring
) -> None:
    """Who has a copy of the database, meta and all, and today's key store tries every key there is.
    Before the destruction that finds the person: that is what a backup is; afterwards nothing does.
    """
    sql_store.log.submit(admitting(indexed, "room", "ann"), TEN)
    hashed = indexed.lookup("subject", "ann")
    copy, copied = rows(sql_store), kept(sql_store)
    store = bytes(sql_store.execute("SELECT value FROM meta WHERE name = 'store'")[0][0]).decode()
    rotation = key_store.rotation(sql_store.engines)
    rotation.rotate()
    before = generation_keys.open_keys(copied, key_store.open(sql_store.engines).keks, store, {})
    assert guesses(before, hashed) & set(copy)
    key_store.wall.now += WINDOW + DAY
    for _ in range(3):
        rotation.run_due()
        key_store.wall.now += SETTLE
    today = key_store.open(sql_store.engines)
    assert copied.keys[0].kek not in {kek.id for kek in today.keks.keks()}
    with pytest.raises(KeyUnavailable):
        generation_keys.open_keys(copied, today.keks, store, {})
    assert not guesses(opened(sql_store, today), hashed) & set(copy)
    assert guesses(opened(sql_store, today), hashed) & set(rows(sql_store))


def test_a_backup_within_the_window_brings_its_key_along(
    key_store: KeyStore, sql_store: SqlStore, indexed: Keyring
) -> None:
    """Restored after a rotation, it finds everybody, and its rows move under today's key."""
    sql_store.log.submit(admitting(indexed, "room", *NAMES), TEN)
    tables = {
        name: sql_store.execute(f"SELECT * FROM {name}")
        for name in ("meta", "subjects", "subject_keys", "data_keys")
    }
    rotation = key_store.rotation(sql_store.engines)
    rotation.rotate()
    for name, copied in tables.items():
        sql_store.execute(f"DELETE FROM {name}")
        for row in copied:
            sql_store.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", *row)
    assert found(sql_store, indexed, *NAMES) == list(NAMES)
    key_store.wall.now += SETTLE
    key_store.rotation(sql_store.engines, holder="restored").run_due()
    assert [one.kek for one in kept(sql_store).keys] == [rotation.status()[-1].id]
    assert found(sql_store, indexed, *NAMES) == list(NAMES)
    assert people_of(sql_store, indexed, "room") == set(NAMES)


def test_the_index_key_outlives_no_kek_that_it_needs(
    key_store: KeyStore, sql_store: SqlStore, indexed: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move that cannot be finished keeps the KEK of the old index key alive, however late."""
    sql_store.log.submit(admitting(indexed, "room", *NAMES), TEN)
    (old,) = kept(sql_store).keys
    rotation = key_store.rotation(sql_store.engines)
    with monkeypatch.context() as patch:

        def refuse(_: Moving) -> None:
            raise StoreBusy("held")

        patch.setattr(Moving, "move", refuse)
        with pytest.raises(StoreBusy):
            rotation.rotate()
        for _ in range(3):
            key_store.wall.now += WINDOW
            rotation.run_due()
    assert old.kek in {kek.id for kek in rotation.status()}
    assert found(sql_store, indexed, *NAMES) == list(NAMES)


# -- the permutation --------------------------------------------------------------------------


def test_the_permutation_is_aes_of_one_block() -> None:
    """FIPS 197, appendix C.3, and back."""
    key, plain = bytes(range(32)), bytes.fromhex("00112233445566778899aabbccddeeff")
    keys = GenerationKeys(Kept(plain=False, keys=()), {b"kid1": key})
    (stored,) = keys.current([plain + b"the rest of a hash"])
    assert stored == b"kid1" + bytes.fromhex("8ea2b7ca516745bfeafc49904b496089")
    assert keys.hash_of(stored) == plain
