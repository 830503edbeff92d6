"""What an old copy of the rows is worth together with today's keys, once an erasure is final."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.keyring import generation_keys
from adapters.keyring.generation_keys import GenerationKeys, Kept, KeyPlace
from adapters.keyring.keyring import Keyring
from adapters.keyring.moving import begin
from adapters.keyring.rotation import SETTLE
from domain.errors import KeyUnavailable, SealBroken
from domain.policy import DAY, HOUR, Shared
from domain.ports import DataKey, SubjectKey
from domain.session import Scope
from tests.contracts.conftest import key_store, sql_store  # noqa: F401 - fixtures of every test
from tests.contracts.key_stores import WINDOW, KeyStore
from tests.contracts.stores import SqlStore
from tests.use_cases.offices import OFFICER, TEN, Office, opened_office

Sealed = tuple[str, ...]
"""What is sealed: `identity` with session and token, or `item` with session and id."""


@dataclass
class Copy:
    """Rows as a backup holds them. kept: the generation keys in it."""

    kept: Kept
    subject_keys: list[SubjectKey]
    data_keys: list[tuple[str, str, str, str, bytes]]
    values: Mapping[Sealed, tuple[str, bytes]]


def copy_of(store: SqlStore) -> Copy:
    keys = store.execute("SELECT subject, kek, wrapped FROM subject_keys")
    data_keys = store.execute("SELECT session_id, tier, token, subject, wrapped FROM data_keys")
    names = store.execute("SELECT session_id, token, sealed FROM subject_index")
    items = store.execute("SELECT session_id, item_id, participants, sealed FROM items")
    values: dict[Sealed, tuple[str, bytes]] = {
        ("identity", row[0], row[1]): (row[1], bytes(row[2])) for row in names
    }
    for session, item, people, sealed in items:
        token = people if " " not in people else ""
        values["item", session, item] = (token, bytes(sealed))
    with store.engines.read() as connection:
        kept = generation_keys.read(connection)
    return Copy(
        kept,
        [SubjectKey(b"", row[0], row[1], bytes(row[2]), fresh=False) for row in keys],
        [(row[0], row[1], row[2], row[3], bytes(row[4])) for row in data_keys],
        values,
    )


def opened(copy: Copy, copies: Iterable[Copy], keyring: Keyring, store: str) -> set[Sealed]:
    """What of a copy opens with every key in these copies and this key store, each tried with each
    other."""
    sources = list(copies)
    generations = list(openable(sources, keyring, store))
    found = set()
    for *parts, stored in {row for source in sources for row in source.data_keys}:
        place = (parts[0], parts[1], parts[2], parts[3])
        wrapped = {stored, *(one.wrapped_in(place, stored) for one in generations)}
        for subject in (one for source in sources for one in source.subject_keys):
            for key in wrapped if subject.subject == place[3] else ():
                found |= set(opened_with(copy, place, subject, key, keyring))
    return found


def openable(copies: Iterable[Copy], keyring: Keyring, store: str) -> Iterator[GenerationKeys]:
    """The generation keys that the key store opens."""
    for one in (key for copy in copies for key in copy.kept.keys):
        with suppress(KeyUnavailable, SealBroken):
            yield generation_keys.open_keys(Kept(False, (one,)), keyring.keks, store, {})


def opened_with(
    copy: Copy, place: KeyPlace, subject: SubjectKey, wrapped: bytes, keyring: Keyring
) -> Iterator[Sealed]:
    session, tier, token = place[:3]
    for what, (whose, sealed) in copy.values.items():
        if what[1] != session or whose != token or (what[0] == "identity") != (tier == "identity"):
            continue
        with suppress(KeyUnavailable, SealBroken):
            if what[0] == "identity":
                keyring.open_identity(subject, session, token, wrapped, sealed)
            else:
                key = DataKey(session, Scope(tier), token, subject, wrapped)
                keyring.open(key, what[2], "0", sealed)
            yield what


# -- three ways to erase ----------------------------------------------------------------------


@dataclass
class Rooms:
    """Two sessions, with the same people in both. Each stored something of their own there, and
    everybody something together, and nobody in particular something."""

    office: Office
    first: str
    second: str
    tokens: dict[str, str]
    own: dict[str, str]
    joint: list[str]


@pytest.fixture
def rooms(sql_store: SqlStore, key_store: KeyStore, tmp_path: Path) -> Rooms:  # noqa: F811
    keyring = key_store.open(sql_store.engines)
    sql_store.unlock(keyring)
    begin(sql_store.engines, keyring.keks)
    office = opened_office(sql_store, tmp_path, keyring=keyring)
    first, tokens = office.room("ann", "bob", "eve", policy=str(Shared.REDACT))
    second, others = office.room("ann", "bob", "eve", policy="lead")
    own = {name: office.put(first, said(token), token) for name, token in tokens.items()}
    joint = [office.put(first, said(*tokens.values()), *tokens.values()), office.put(first, [])]
    for token in others.values():
        office.put(second, said(token), token)
    office.put(second, said(*others.values()), *others.values())
    return Rooms(office, first, second, tokens, own, joint)


def said(*tokens: str) -> list[dict[str, Any]]:
    return [{"participant": token, "x": 1} for token in tokens]


def end_a_tier(rooms: Rooms) -> set[Sealed]:
    """The session lives on with its summary; its people are known."""
    rooms.office.sweep(TEN + 6 * HOUR)
    return {("item", rooms.first, item) for item in (*rooms.own.values(), *rooms.joint)}


def erase_a_session(rooms: Rooms) -> set[Sealed]:
    """Everybody in it lives on in another."""
    rooms.office.sessions.erase(rooms.first, TEN + 1, OFFICER)
    names = {("identity", rooms.first, token) for token in rooms.tokens.values()}
    return names | {("item", rooms.first, item) for item in (*rooms.own.values(), *rooms.joint)}


def erase_a_part(rooms: Rooms) -> set[Sealed]:
    """The session lives on without her, and what they said together is sealed anew."""
    rooms.office.erase("ann")
    items = [rooms.own["ann"], rooms.joint[0]]
    return {("identity", rooms.first, rooms.tokens["ann"])} | {
        ("item", rooms.first, item) for item in items
    }


@pytest.mark.parametrize("erase", [end_a_tier, erase_a_session, erase_a_part])
def test_an_old_copy_with_todays_keys_opens_nothing_that_was_erased(
    rooms: Rooms,
    sql_store: SqlStore,  # noqa: F811
    key_store: KeyStore,  # noqa: F811
    erase: Callable[[Rooms], set[Sealed]],
) -> None:
    """Of people and sessions that live on. Before the key-encryption key of that day is destroyed
    the same opens, that is what a backup is; and what is alive opens from the old rows for ever."""
    engines = sql_store.engines
    store = bytes(sql_store.execute("SELECT value FROM meta WHERE name = 'store'")[0][0]).decode()
    copy = copy_of(sql_store)
    lost = erase(rooms)
    assert lost < copy.values.keys()
    standing = copy_of(sql_store).values.items()
    living = {what for what, sealed in standing if copy.values.get(what) == sealed} - lost
    assert len({key[1] for key in living}) == (1 if erase is erase_a_session else 2)
    rotation = key_store.rotation(engines)
    rotation.rotate()
    both = [copy, copy_of(sql_store)]
    assert opened(copy, both, key_store.open(engines), store) == set(copy.values)

    key_store.wall.now += WINDOW + DAY
    for _ in range(3):
        rotation.run_due()
        key_store.wall.now += SETTLE
    today = key_store.open(engines)
    assert copy.kept.keys[0].kek not in {kek.id for kek in today.keks.keks()}
    with_both = opened(copy, [copy, copy_of(sql_store)], today, store)
    assert not with_both & lost
    assert with_both >= living
    assert with_both == opened(copy, [copy_of(sql_store)], today, store)
