"""The keys under which people are looked up in `subjects`; they change and die as KEKs do.

A name's keyed hash never changes, so whoever has the key store and an old copy of `subjects` could
test a guessed name for ever. Therefore a row holds the hash only behind one more step:

    lookup = id of an index key (4 bytes) || AES-256 (index key, first 16 bytes of the hash)

AES on exactly one block is a pseudo-random permutation of 16 bytes: whoever has the key turns it
round, so rows move under a new key without anybody's name; whoever has not learns nothing, and two
names never meet. An index key is made with every KEK, wrapped by that KEK and by no other, in one
row of `meta`: it is gone with the KEK, and a backup brings its own along.

Before the first index key a row holds the hash alone, as long as it is.
"""

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from sqlalchemy import Connection

from adapters.keyring.aead import KEY, wiping
from adapters.keyring.keks import KekProvider, WrappedKey
from domain.errors import KeyUnavailable

ROW = "subject-index"
"""Of `meta`: the index keys that rows may be under, the current one last."""
KID = 4
BLOCK = 16
STORED = KID + BLOCK
"""Bytes of a lookup under an index key. A hash without is longer."""
STAMP = 8
"""Bytes before the list, by which a look recognises it."""
_PLACE = b"lapse/index-key/v1"


@dataclass(frozen=True)
class KeptKey:
    """An index key as `meta` keeps it."""

    kid: bytes
    kek: str
    wrapped: bytes


@dataclass(frozen=True)
class Kept:
    """What rows of `subjects` may be under. plain: also the hash alone, as before there were index
    keys. keys: the current one last. stamp: another one with every change; None: never written."""

    plain: bool
    keys: tuple[KeptKey, ...]
    stamp: bytes | None = None

    @property
    def kek(self) -> str | None:
        """The KEK of the current key; None while there is none."""
        return self.keys[-1].kek if self.keys else None


@dataclass(frozen=True, repr=False)
class IndexKeys:
    """The opened keys. keys: by id, the current one last."""

    kept: Kept
    keys: Mapping[bytes, bytes]

    @property
    def is_moving(self) -> bool:
        """Whether rows may be under something else than the current key."""
        return len(self.keys) + self.kept.plain > 1

    def current(self, lookups: Sequence[bytes]) -> list[bytes]:
        """How rows hold these hashes that are written now."""
        if not self.keys:
            return list(lookups)
        return self._under(list(self.keys)[-1], lookups)

    def places(self, lookups: Iterable[bytes]) -> dict[bytes, bytes]:
        """Everything under which a row may hold one of these hashes -> the hash."""
        wanted = list(lookups)
        found = dict(zip(wanted, wanted, strict=True)) if self.kept.plain else {}
        for kid in self.keys:
            found.update(zip(self._under(kid, wanted), wanted, strict=True))
        return found

    def hash_of(self, stored: bytes) -> bytes | None:
        """The hash behind what a row holds, as far as it is kept; None if its key is not known."""
        if len(stored) != STORED:
            return stored
        key = self.keys.get(stored[:KID])
        return None if key is None else _backwards(key, [stored[KID:]])[0]

    def _under(self, kid: bytes, lookups: Sequence[bytes]) -> list[bytes]:
        return [kid + one for one in _forwards(self.keys[kid], [x[:BLOCK] for x in lookups])]


def open_keys(kept: Kept, keks: KekProvider, store: str, known: Mapping[bytes, bytes]) -> IndexKeys:
    """known: those that were opened before. Raises KeyUnavailable, SealBroken."""
    closed = [one for one in kept.keys if one.kid not in known]
    wrapped = [WrappedKey(_place(store, one.kid), one.kek, one.wrapped) for one in closed]
    opened = dict(known)
    if wrapped:
        buffers = keks.unwrap(wrapped)
        with wiping(*buffers):
            opened.update((one.kid, bytes(key)) for one, key in zip(closed, buffers, strict=True))
    return IndexKeys(kept, {one.kid: opened[one.kid] for one in kept.keys})


def new_key(keks: KekProvider, store: str) -> KeptKey:
    """A new index key under the current KEK. Raises KeyUnavailable."""
    kid, key = secrets.token_bytes(KID), bytearray(os.urandom(KEY))
    with wiping(key):
        (wrapped,) = keks.wrap([(_place(store, kid), key)])
    return KeptKey(kid, wrapped.kek, wrapped.wrapped)


def moved(lookups: Sequence[bytes], keys: IndexKeys) -> dict[bytes, bytes]:
    """What rows hold -> what they hold under the current key."""
    hashes = {one: keys.hash_of(one) for one in lookups}
    standing = {one: found for one, found in hashes.items() if found is not None}
    return dict(zip(standing, keys.current(list(standing.values())), strict=True))


def _place(store: str, kid: bytes) -> bytes:
    return b"\0".join((_PLACE, store.encode(), kid))


# -- one block --------------------------------------------------------------------------------
# Every block stands for itself: what makes ECB wrong for texts, equal blocks that stay equal, is
# what an index is for.


def _forwards(key: bytes, blocks: Sequence[bytes]) -> list[bytes]:
    return _permuted(_aes(key).encryptor(), blocks)


def _backwards(key: bytes, blocks: Sequence[bytes]) -> list[bytes]:
    return _permuted(_aes(key).decryptor(), blocks)


def _aes(key: bytes) -> "Cipher[modes.ECB]":
    return Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - one block each, see above


def _permuted(cipher: CipherContext, blocks: Sequence[bytes]) -> list[bytes]:
    done = cipher.update(b"".join(blocks)) + cipher.finalize()
    return [done[start : start + BLOCK] for start in range(0, len(done), BLOCK)]


# -- the row ----------------------------------------------------------------------------------

STAMP_QUERY = f"SELECT substr(value, 1, {STAMP}) FROM meta WHERE name = '{ROW}'"
_READ = f"SELECT value FROM meta WHERE name = '{ROW}'"


def read(connection: Connection) -> Kept:
    return _decoded(connection.exec_driver_sql(_READ).scalar())


def read_locked(connection: Connection) -> Kept:
    """As it stands until this transaction ends: whoever adds a key waits for us, or we for them.

    One round trip: PostgreSQL looks anew for the second statement, behind the lock. SQLite has one
    writer, and that is us.
    """
    if connection.dialect.name == "sqlite":
        return read(connection)
    lock = "LOCK TABLE subjects IN ROW EXCLUSIVE MODE; "
    return _decoded(connection.exec_driver_sql(lock + _READ).scalar())


def write(connection: Connection, kept: Kept) -> None:
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    connection.exec_driver_sql(
        f"INSERT INTO meta (name, value) VALUES ({mark}, {mark}) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (ROW, secrets.token_bytes(STAMP) + _encoded(kept)),
    )


def _encoded(kept: Kept) -> bytes:
    keys = [
        {"id": one.kid.hex(), "kek": one.kek, "wrapped": one.wrapped.hex()} for one in kept.keys
    ]
    return orjson.dumps({"plain": kept.plain, "keys": keys})


def _decoded(value: Any) -> Kept:
    """Raises KeyUnavailable."""
    if value is None:
        return Kept(plain=True, keys=())
    try:
        stamp, fields = bytes(value)[:STAMP], orjson.loads(bytes(value)[STAMP:])
        keys = tuple(
            KeptKey(bytes.fromhex(one["id"]), one["kek"], bytes.fromhex(one["wrapped"]))
            for one in fields["keys"]
        )
        return Kept(bool(fields["plain"]), keys, stamp)
    except (ValueError, KeyError, TypeError):
        raise KeyUnavailable(
            "the keys of the subject index are damaged: restore the database from a backup"
        ) from None
