"""The escrow copy of a key file follows it, and is never the last place where a key still is."""

import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from adapters.keyring.escrow import Escrow
from adapters.keyring.keks import EscrowState
from adapters.keyring.keyring import Keyring
from adapters.keyring.opening import open_keyring
from adapters.keyring.rotation import LEASE, SETTLE
from domain.errors import KeyUnavailable
from domain.policy import DAY, SECOND
from tests.contracts.authors import TEN
from tests.contracts.key_stores import WINDOW, KeyStore, admitting, open_key_store, people_of
from tests.contracts.stores import SqlStore
from tests.contracts.test_destruction import destroyed
from tests.contracts.test_rotation import Killed, Steps, killed_at, live


@pytest.fixture
def told() -> list[bool]:
    """What the operator heard of the escrow."""
    return []


@pytest.fixture
def store(tmp_path: Path, told: list[bool]) -> Iterator[KeyStore]:
    """A key file with an escrow."""
    (tmp_path / "escrow").mkdir(mode=0o700)
    with open_key_store("file", tmp_path) as found:
        found.escrow = Escrow(tmp_path / "escrow", told.append)
        yield found


def keks_in(folder: Path) -> set[str]:
    (path,) = folder.glob("*.keys.json")
    return set(orjson.loads(path.read_bytes())["keks"])


def test_it_follows_every_change(store: KeyStore, sql_store: SqlStore, tmp_path: Path) -> None:
    """Readable by its owner alone; made when there is none."""
    rotation = store.rotation(sql_store.engines)
    assert rotation.escrow() is EscrowState.BEHIND
    for _ in range(3):
        rotation.rotate()
        assert rotation.escrow() is EscrowState.CURRENT
        assert keks_in(tmp_path / "escrow") == keks_in(tmp_path / "keys")
    (copy,) = (tmp_path / "escrow").iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600


def test_what_was_destroyed_is_overwritten_there(
    store: KeyStore, sql_store: SqlStore, tmp_path: Path
) -> None:
    """Whoever still had the copy open reads nothing."""
    rotation = store.rotation(sql_store.engines)
    rotation.rotate()
    (copy,) = (tmp_path / "escrow").iterdir()
    with copy.open("rb", buffering=0) as old:
        live(rotation, store, WINDOW)
        assert keks_in(tmp_path / "escrow") == keks_in(tmp_path / "keys")
        assert set(os.pread(old.fileno(), 10_000, 0)) == {0}


def test_one_that_is_behind_is_brought_up_to_date(
    store: KeyStore, sql_store: SqlStore, tmp_path: Path
) -> None:
    """Somebody took it away, or put an older one there."""
    rotation = store.rotation(sql_store.engines)
    rotation.rotate()
    (copy,) = (tmp_path / "escrow").iterdir()
    older = copy.read_bytes()
    rotation.rotate()
    copy.write_bytes(older)
    assert rotation.escrow() is EscrowState.BEHIND
    live(rotation, store, SETTLE)
    assert rotation.escrow() is EscrowState.CURRENT
    copy.write_bytes(b"")
    assert store.open(sql_store.engines).keks.keep_escrow() is EscrowState.CURRENT
    assert keks_in(tmp_path / "escrow") == keks_in(tmp_path / "keys")


def test_what_cannot_be_destroyed_there_is_not_destroyed_here(
    store: KeyStore, sql_store: SqlStore, tmp_path: Path, told: list[bool]
) -> None:
    """Its disk is away: keys rotate and people come and go; the operator is told. When it is back
    both go."""
    keyring = opened(store, sql_store)
    sql_store.log.submit(admitting(keyring, "room", "ann"), TEN)
    rotation = store.rotation(sql_store.engines, keyring=keyring)
    rotation.rotate()
    first = rotation.status()[0].id
    (tmp_path / "escrow").rename(tmp_path / "away")
    for _ in range(9):
        live(rotation, store, DAY)
    assert rotation.escrow() is EscrowState.UNAVAILABLE
    assert told[-1] is False
    assert not (tmp_path / "escrow").exists()
    assert first in {kek.id for kek in rotation.status()}
    assert len(rotation.status()) > 8
    assert people_of(sql_store, keyring, "room") == {"ann"}
    assert destroyed(sql_store) == []
    (tmp_path / "away").rename(tmp_path / "escrow")
    live(rotation, store, SETTLE)
    assert told[-1] is True
    told.clear()
    live(rotation, store, SETTLE)
    assert set(told) == {True}
    assert first not in keks_in(tmp_path / "escrow") | keks_in(tmp_path / "keys")
    assert first in {fact.kek for fact in destroyed(sql_store)}


def killed_around_copies(fatal: int, store: KeyStore, sql_store: SqlStore) -> bool:
    """Rotate and destroy in a process that is killed before or after a write of either file."""
    engines, steps = sql_store.engines, Steps(fatal)
    with pytest.MonkeyPatch.context() as patch:
        rotation = store.rotation(engines, holder="killed")
        patch.setattr(rotation._keks, "_write", steps.around(rotation._keks._write))  # type: ignore[attr-defined]
        patch.setattr(store.escrow, "keep", steps.around(store.escrow.keep))  # type: ignore[union-attr]
        try:
            rotation.rotate()
        except Killed:
            return True
    return False


def opened(store: KeyStore, sql_store: SqlStore) -> Keyring:
    """The keyring, of which the database is told."""
    keyring = store.open(sql_store.engines)
    sql_store.unlock(keyring)
    return keyring


@pytest.mark.parametrize("killing", [killed_at, killed_around_copies])
def test_wherever_it_is_killed_no_destroyed_key_is_left(
    store: KeyStore, sql_store: SqlStore, tmp_path: Path, killing: object
) -> None:
    """The file never lacks what the escrow holds, but what is younger: that goes there first. What
    the log calls gone is in neither, and in the end the two are the same."""
    assert callable(killing)
    fatal, killed = 0, True
    while killed:
        fatal += 1
        store.wall.now += WINDOW + DAY
        killed = killing(fatal, store, sql_store)
        gone = {fact.kek for fact in destroyed(sql_store)}
        if fatal > 1:
            left = keks_in(tmp_path / "escrow")
            assert left <= keks_in(tmp_path / "keys"), fatal
            assert not gone & left, fatal
        store.wall.now += LEASE + SECOND
        following = store.rotation(sql_store.engines, holder="the next")
        live(following, store, 0)
        assert following.escrow() is EscrowState.CURRENT, fatal
        assert not {fact.kek for fact in destroyed(sql_store)} & keks_in(tmp_path / "keys"), fatal
    assert fatal > 8


def test_a_newer_copy_is_left_alone(
    store: KeyStore, sql_store: SqlStore, tmp_path: Path, told: list[bool]
) -> None:
    """Somebody put an older key file there, whose newer keys are only in the escrow now."""
    rotation = store.rotation(sql_store.engines)
    rotation.rotate()
    (path,) = (tmp_path / "keys").glob("*.keys.json")
    older = path.read_bytes()
    store.wall.now += DAY
    rotation.rotate()
    path.write_bytes(older)
    (copy,) = (tmp_path / "escrow").iterdir()
    newest = copy.read_bytes()
    rotation._keks.look_again()
    assert rotation._keks.keep_escrow() is EscrowState.AHEAD
    assert told[-1] is False
    assert copy.read_bytes() == newest
    with pytest.raises(KeyUnavailable):
        store.open(sql_store.engines)
    path.write_bytes(newest)
    assert store.open(sql_store.engines).keks.keep_escrow() is EscrowState.CURRENT


def test_the_copy_opens_what_the_file_opened(
    store: KeyStore, sql_store: SqlStore, tmp_path: Path
) -> None:
    """The key file is lost, and its copy put there by hand; until then nothing opens."""
    keyring = opened(store, sql_store)
    sql_store.log.submit(admitting(keyring, "room", "ann"), TEN)
    store.rotation(sql_store.engines, keyring=keyring).rotate()
    (path,) = (tmp_path / "keys").glob("*.keys.json")
    path.unlink()
    with pytest.raises(KeyUnavailable, match="missing"):
        store.open(sql_store.engines)
    path.write_bytes((tmp_path / "escrow" / path.name).read_bytes())
    path.chmod(0o600)
    reopened = opened(store, sql_store)
    assert people_of(sql_store, reopened, "room") == {"ann"}


def test_a_link_in_the_escrow_is_not_followed(
    store: KeyStore, sql_store: SqlStore, tmp_path: Path
) -> None:
    """What it leads to is not overwritten."""
    rotation = store.rotation(sql_store.engines)
    rotation.rotate()
    (copy,) = (tmp_path / "escrow").iterdir()
    other = tmp_path / "other"
    other.write_text("kept")
    copy.unlink()
    copy.symlink_to(other)
    assert rotation._keks.keep_escrow() is EscrowState.UNAVAILABLE
    assert other.read_text() == "kept"


def test_it_does_not_lie_with_the_database(sql_store: SqlStore, tmp_path: Path) -> None:
    """A copy of that folder would hold both."""
    database = tmp_path / "data" / "lapse.db"
    escrow = Escrow(tmp_path / "data" / "escrow")
    with pytest.raises(KeyUnavailable, match="LAPSE_KEY_ESCROW_URL"):
        open_keyring(sql_store.engines, tmp_path / "keys", database, TEN, escrow)
