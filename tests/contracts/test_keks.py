"""The contract of the providers of key-encryption keys (KEKs), on each one and both databases."""

import secrets
from dataclasses import replace

import pytest

from adapters.keyring.keks import KekProvider, WrappedKey
from adapters.keyring.keyring import Keyring
from domain.errors import KeyUnavailable, SealBroken
from domain.policy import DAY, HOUR
from tests.contracts.key_stores import KeyStore
from tests.contracts.stores import SqlStore

PLACE, ELSEWHERE = b"here", b"there"


@pytest.fixture
def keyring(key_store: KeyStore, sql_store: SqlStore) -> Keyring:
    return key_store.open(sql_store.engines)


@pytest.fixture
def keks(keyring: Keyring) -> KekProvider:
    return keyring.keks


def wrapped(keks: KekProvider, key: bytes = b"k" * 32, place: bytes = PLACE) -> WrappedKey:
    (one,) = keks.wrap([(place, key)])
    return one


def test_keys_come_back_in_order(keks: KekProvider) -> None:
    """Any number of them, more than one request to a server takes."""
    keys = [(b"place %d" % number, secrets.token_bytes(32)) for number in range(1_100)]
    made = keks.wrap(keys)
    assert [one.place for one in made] == [place for place, _ in keys]
    assert [bytes(key) for key in keks.unwrap(made)] == [key for _, key in keys]
    assert len({one.wrapped for one in made}) == len(keys)


def test_nothing_asked_is_nothing_answered(keks: KekProvider) -> None:
    """An empty batch asks nobody."""
    assert [keks.wrap([]), keks.unwrap([]), keks.rewrap([])] == [[], [], []]


def test_a_wrapped_key_shows_nothing(keks: KekProvider) -> None:
    """Not the key, and not twice the same."""
    key = secrets.token_bytes(32)
    first, second = wrapped(keks, key), wrapped(keks, key)
    assert key not in first.wrapped
    assert first.wrapped != second.wrapped


@pytest.mark.parametrize("byte", [0, 15, -1])
def test_a_wrapped_key_that_was_changed_does_not_open(keks: KekProvider, byte: int) -> None:
    """In the nonce, the text or the tag."""
    one = wrapped(keks)
    changed = bytearray(one.wrapped)
    changed[byte] ^= 1
    for wrong in (bytes(changed), b"", one.wrapped[:5]):
        with pytest.raises(SealBroken):
            keks.unwrap([replace(one, wrapped=wrong)])


def test_a_wrapped_key_that_was_moved_does_not_open(keks: KekProvider) -> None:
    """It belongs to one place."""
    with pytest.raises(SealBroken):
        keks.unwrap([replace(wrapped(keks), place=ELSEWHERE)])


@pytest.mark.parametrize("kek", ["ffff", "vault:v9", ""])
def test_an_unknown_kek_is_said_by_name(keks: KekProvider, kek: str) -> None:
    """Nothing is broken: a key is missing."""
    with pytest.raises(KeyUnavailable, match="not in the key store") as refused:
        keks.unwrap([replace(wrapped(keks), kek=kek)])
    assert kek in str(refused.value)


def test_a_new_kek_wraps_and_the_old_one_still_opens(
    key_store: KeyStore, keks: KekProvider
) -> None:
    """The times say since when each is there."""
    (first,) = keks.keks()
    old = wrapped(keks)
    key_store.wall.now += DAY
    second = keks.rotate(key_store.wall())
    assert [kek.id for kek in keks.keks()] == [first.id, second]
    assert first.created_at is not None
    assert keks.keks()[-1].created_at == first.created_at + DAY
    new = wrapped(keks)
    assert (old.kek, new.kek) == (first.id, second)
    assert [bytes(key) for key in keks.unwrap([old, new])] == [b"k" * 32] * 2


def test_a_key_is_rewrapped_under_the_new_kek(key_store: KeyStore, keks: KekProvider) -> None:
    """It stays the same key in the same place; one that does not open is left out."""
    good, other = wrapped(keks), wrapped(keks, b"o" * 32, ELSEWHERE)
    broken, foreign = replace(good, wrapped=b"x" * 60), replace(good, kek="ffff")
    second = keks.rotate(key_store.wall())
    fresh = keks.rewrap([good, broken, foreign, other])
    assert [one is None for one in fresh] == [False, True, True, False]
    moved = [one for one in fresh if one is not None]
    assert [(one.place, one.kek) for one in moved] == [(PLACE, second), (ELSEWHERE, second)]
    assert [bytes(key) for key in keks.unwrap(moved)] == [b"k" * 32, b"o" * 32]
    with pytest.raises(SealBroken):
        keks.unwrap([replace(moved[0], place=ELSEWHERE)])


def test_a_retired_kek_says_since_when(
    key_store: KeyStore, sql_store: SqlStore, keks: KekProvider
) -> None:
    """And says so after a restart; a later time replaces an earlier one."""
    (first,) = keks.keks()
    keks.rotate(key_store.wall())
    for now in (key_store.wall(), key_store.wall() + HOUR):
        keks.retire([first.id], now)
        for one in (keks, key_store.open(sql_store.engines).keks):
            assert [kek.retired_at for kek in one.keks()] == [now, None]


def test_a_destroyed_kek_opens_nothing_any_more(
    key_store: KeyStore, sql_store: SqlStore, keks: KekProvider
) -> None:
    """Here and in every other process; the others stay."""
    other = key_store.open(sql_store.engines).keks
    first = wrapped(keks)
    keks.rotate(key_store.wall())
    second = wrapped(keks)
    keks.rotate(key_store.wall())
    assert list(keks.destroy([first.kek])) == [first.kek]
    assert first.kek not in {kek.id for kek in keks.keks()}
    for one in (keks, other):
        assert bytes(one.unwrap([second])[0]) == b"k" * 32
    with pytest.raises(KeyUnavailable):
        keks.unwrap([first])
    assert keks.rewrap([first]) == [None]


def test_the_current_kek_is_never_destroyed(keks: KekProvider) -> None:
    """Whoever asks for it."""
    one = wrapped(keks)
    assert not keks.destroy([one.kek])
    assert not keks.destroy([])
    assert bytes(keks.unwrap([one])[0]) == b"k" * 32


def test_a_check_value_recognises_one_kek(key_store: KeyStore, keks: KekProvider) -> None:
    """Not another one, nor one that is gone."""
    kek, check = keks.check_value()
    assert check != b"k" * 32
    assert keks.recognises(kek, check)
    second = keks.rotate(key_store.wall())
    assert keks.recognises(kek, check)
    assert not keks.recognises(second, check)
    assert not keks.recognises(kek, bytes(len(check)))
    assert not keks.recognises("ffff", check)
    keks.destroy([kek])
    assert not keks.recognises(kek, check)


def test_another_process_meets_a_new_kek(key_store: KeyStore, sql_store: SqlStore) -> None:
    """It has been running since before: a row that names an unknown KEK makes it look again."""
    here, there = (key_store.open(sql_store.engines) for _ in range(2))
    assert len(there.keks.keks()) == 1
    here.keks.rotate(key_store.wall())
    assert bytes(there.keks.unwrap([wrapped(here.keks)])[0]) == b"k" * 32


def test_names_are_found_again_after_a_restart_and_a_rotation(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring
) -> None:
    """The secret of the lookups is the installation's, whatever wraps it."""
    before = keyring.lookup("subject", "ada")
    key_store.rotation(sql_store.engines, keyring=keyring).rotate()
    assert keyring.lookup("subject", "ada") == before
    assert key_store.open(sql_store.engines).lookup("subject", "ada") == before


def test_a_database_is_not_opened_with_the_keys_of_another(
    key_store: KeyStore, sql_store: SqlStore, keyring: Keyring
) -> None:
    """The check value in the database is not that of these keys."""
    sql_store.execute("UPDATE meta SET value = ? WHERE substr(name, 1, 4) = 'kek:'", b"x" * 60)
    with pytest.raises(KeyUnavailable, match="does not hold key"):
        key_store.open(sql_store.engines)
