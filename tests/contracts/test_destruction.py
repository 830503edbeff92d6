"""The log says when a key-encryption key is gone: once, with what was known of it, and never before
it is, on each provider and both databases."""

from pathlib import Path

import orjson
import pytest

from adapters.keyring.rotation import LEASE, Rotation
from domain.facts import KeyDestroyed
from domain.policy import DAY, SECOND
from tests.contracts.authors import TEN, at_once
from tests.contracts.key_stores import WINDOW, KeyStore, admitting, open_key_store
from tests.contracts.stores import SqlStore
from tests.contracts.test_rotation import killed_at, live


def destroyed(store: SqlStore) -> list[KeyDestroyed]:
    """What the log says, in its order."""
    found = [one.event for one in store.log.read(0, 10_000)]
    return [one for one in found if isinstance(one, KeyDestroyed)]


def test_a_destroyed_kek_stands_in_the_log(key_store: KeyStore, sql_store: SqlStore) -> None:
    """Since when it was, since when it was unused, when it was asked for and when it was gone."""
    rotation = key_store.rotation(sql_store.engines)
    rotation.rotate()
    first, _ = rotation.status()
    assert destroyed(sql_store) == []
    live(rotation, key_store, WINDOW)
    (fact,) = destroyed(sql_store)
    assert fact.kek not in {kek.id for kek in rotation.status()}
    assert (fact.kek, fact.originator_id, fact.originator_version) == (first.id, first.id, 1)
    assert (fact.created_at, fact.retired_at) == (first.created_at, first.retired_at)
    assert first.destroy_at is not None
    assert first.destroy_at <= fact.asked_at <= fact.effective_at


def test_wherever_it_is_killed_each_destroyed_kek_is_said_once(
    key_store: KeyStore, sql_store: SqlStore
) -> None:
    """Before and after every commit and every change of the key store."""
    sql_store.log.submit(admitting(key_store.open(sql_store.engines), "room", "ann"), TEN)
    keks, fatal, killed = set[str](), 0, True
    while killed:
        fatal += 1
        key_store.wall.now += WINDOW + DAY  # those before are over now
        killed = killed_at(fatal, key_store, sql_store)
        key_store.wall.now += LEASE + SECOND
        following = key_store.rotation(sql_store.engines, holder="the next")
        live(following, key_store, 0)
        alive = {kek.id for kek in following.status()}
        keks |= alive
        said = [fact.kek for fact in destroyed(sql_store)]
        assert sorted(said) == sorted(keks - alive), fatal
        assert {fact.originator_version for fact in destroyed(sql_store)} <= {1}
    assert fatal > 15


def test_of_several_processes_one_says_it(key_store: KeyStore, sql_store: SqlStore) -> None:
    """All of them find it due at the same moment."""
    key_store.rotation(sql_store.engines).rotate()
    key_store.wall.now += WINDOW
    running = [
        key_store.rotation(sql_store.engines, holder=f"process-{number}") for number in range(4)
    ]
    assert at_once([one.run_due for one in running]) == [None] * 4
    for one in running:
        live(one, key_store, 0)
    assert len(destroyed(sql_store)) == 1


def test_one_that_the_key_store_still_has_is_not_said_to_be_gone(
    key_store: KeyStore, sql_store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered, and destroyed nothing; a later time it does."""
    rotation = key_store.rotation(sql_store.engines)
    rotation.rotate()
    with monkeypatch.context() as patch:
        patch.setattr(rotation._keks, "destroy", lambda keks: ())
        live(rotation, key_store, WINDOW)
        assert destroyed(sql_store) == []
    before = key_store.wall()
    live(rotation, key_store, DAY)
    (fact, *_) = destroyed(sql_store)
    assert fact.asked_at < before < fact.effective_at


def test_one_that_came_back_is_destroyed_and_said_again(
    sql_store: SqlStore, tmp_path: Path
) -> None:
    """Somebody took it into the key file from an old copy, while nobody looked."""
    with open_key_store("file", tmp_path) as files:
        rotation = files.rotation(sql_store.engines)
        rotation.rotate()
        (path,) = (tmp_path / "keys").glob("*.keys.json")
        copy = orjson.loads(path.read_bytes())["keks"]
        live(rotation, files, WINDOW)
        newest = orjson.loads(path.read_bytes())
        path.write_bytes(orjson.dumps({**newest, "keks": {**copy, **newest["keks"]}}))
        live(rotation, files, SECOND)
        first, again = destroyed(sql_store)
        assert (first.kek, 1) == (again.kek, first.originator_version)
        assert again.originator_version == 2
        assert first.kek not in {kek.id for kek in rotation.status()}


def test_readers_are_woken(key_store: KeyStore, sql_store: SqlStore) -> None:
    """Once a fact was written, and only then."""
    woken: list[bool] = []
    keyring = key_store.open(sql_store.engines)
    rotation = Rotation(
        sql_store.engines,
        keyring,
        key_store.wall,
        "waking",
        every=DAY,
        restore_window=WINDOW,
        wake=lambda: woken.append(True),
    )
    rotation.rotate()
    assert not woken
    live(rotation, key_store, WINDOW)
    assert woken == [True]
