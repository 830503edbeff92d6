"""Keys that rows of the database are under besides their own; they change and die as KEKs do.

Some rows outlive many KEKs, and would open or tell something for ever to whoever has an old copy of
them and today's keys. So a *generation key* is made with every KEK, wrapped by that KEK and by no
other, in one row of `meta`: it is gone with the KEK, and a backup brings its own along. Rows are
under the newest one, and move when there is another. What is under it:

    subjects.lookup = id of the key (4 bytes) || AES-256 (key, first 16 bytes of the hash of a name)
    data_keys.wrapped = id of the key (4 bytes) || AES-256-GCM (key derived from it, wrapped key)

AES on exactly one block is a pseudo-random permutation of 16 bytes: whoever has the key turns it
round, so rows move without anybody's name; whoever has not learns nothing, and two names never
meet. The layer around a wrapped data key is bound to the row's place, comes off without the
subject's key, and is never seen by the keyring: what is inside stays the same for as long as the
data key lives.

Before the first generation key a row holds the hash, or the wrapped key, alone.
"""

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection

from adapters.keyring.aead import KEY, OVERHEAD, seal, unseal, wiping
from adapters.keyring.keks import KekProvider, WrappedKey
from domain.errors import KeyUnavailable, SealBroken

ROW = "subject-index"
"""Of `meta`: the keys that rows may be under, the current one last. Named by its first use."""
KID = 4
BLOCK = 16
STORED = KID + BLOCK
"""Bytes of a lookup under a generation key. A hash without is longer."""
WRAPPED = KEY + OVERHEAD
"""Bytes of a wrapped data key without the layer around it."""
LAYERED = KID + WRAPPED + OVERHEAD
STAMP = 8
"""Bytes before the list, by which a look recognises it."""
_PLACE = b"lapse/index-key/v1"
_LAYER = b"lapse/data-key-layer/v1"

KeyPlace = tuple[str, str, str, str]
"""Of a row of `data_keys`: session, tier, token, subject."""


@dataclass(frozen=True)
class KeptKey:
    """A generation key as `meta` keeps it."""

    kid: bytes
    kek: str
    wrapped: bytes


@dataclass(frozen=True)
class Kept:
    """What rows may be under. plain: rows of `subjects` may also hold the hash alone, as before
    there were generation keys. bare: rows of `data_keys` the wrapped key alone. keys: the current
    one last. stamp: another one with every change; None: never written."""

    plain: bool
    keys: tuple[KeptKey, ...]
    stamp: bytes | None = None
    bare: bool = True

    @property
    def is_settled(self) -> bool:
        """Whether all rows are under the current key."""
        return len(self.keys) == 1 and not self.plain and not self.bare

    @property
    def kek(self) -> str | None:
        """The KEK of the current key; None while there is none."""
        return self.keys[-1].kek if self.keys else None


@dataclass(frozen=True, repr=False)
class GenerationKeys:
    """The opened keys. keys: by id, the current one last."""

    kept: Kept
    keys: Mapping[bytes, bytes]

    @cached_property
    def _current(self) -> bytes:
        return list(self.keys)[-1]

    # -- subjects.lookup ----------------------------------------------------------------------

    @property
    def is_moving(self) -> bool:
        """Whether rows of `subjects` may be under something else than the current key."""
        return len(self.keys) + self.kept.plain > 1

    def current(self, lookups: Sequence[bytes]) -> list[bytes]:
        """How rows hold these hashes that are written now."""
        if not self.keys:
            return list(lookups)
        return self._under(self._current, lookups)

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

    # -- data_keys.wrapped --------------------------------------------------------------------

    @cached_property
    def _layers(self) -> Mapping[bytes, bytes]:
        """The keys of the layers around data keys."""
        return {kid: _layer_key(key) for kid, key in self.keys.items()}

    def layered(self, place: KeyPlace, wrapped: bytes) -> bytes:
        """How a row holds this wrapped data key that is written now."""
        if not self.keys:
            return wrapped
        kid = self._current
        return kid + seal(self._layers[kid], wrapped, _layer_place(place))

    def knows(self, stored: bytes) -> bool:
        """Whether what a row holds is under no layer, or under one of a key that is known."""
        return len(stored) != LAYERED or stored[:KID] in self.keys

    def is_current(self, stored: bytes) -> bool:
        """Whether a row need not be moved."""
        return len(stored) == LAYERED and stored[:KID] == self._current

    def wrapped_in(self, place: KeyPlace, stored: bytes) -> bytes:
        """The wrapped data key behind what a row holds. What is damaged stays as it is: it does not
        open with the subject's key either, and whoever needs it is told there."""
        if len(stored) != LAYERED or stored[:KID] not in self.keys:
            return stored
        try:
            return bytes(unseal(self._layers[stored[:KID]], stored[KID:], _layer_place(place)))
        except SealBroken:
            return stored


def open_keys(
    kept: Kept, keks: KekProvider, store: str, known: Mapping[bytes, bytes]
) -> GenerationKeys:
    """known: those that were opened before. Raises KeyUnavailable, SealBroken."""
    closed = [one for one in kept.keys if one.kid not in known]
    wrapped = [WrappedKey(_place(store, one.kid), one.kek, one.wrapped) for one in closed]
    opened = dict(known)
    if wrapped:
        buffers = keks.unwrap(wrapped)
        with wiping(*buffers):
            opened.update((one.kid, bytes(key)) for one, key in zip(closed, buffers, strict=True))
    return GenerationKeys(kept, {one.kid: opened[one.kid] for one in kept.keys})


def new_key(keks: KekProvider, store: str) -> KeptKey:
    """A new generation key under the current KEK. Raises KeyUnavailable."""
    kid, key = secrets.token_bytes(KID), bytearray(os.urandom(KEY))
    with wiping(key):
        (wrapped,) = keks.wrap([(_place(store, kid), key)])
    return KeptKey(kid, wrapped.kek, wrapped.wrapped)


def moved(lookups: Sequence[bytes], keys: GenerationKeys) -> dict[bytes, bytes]:
    """What rows hold -> what they hold under the current key."""
    hashes = {one: keys.hash_of(one) for one in lookups}
    standing = {one: found for one, found in hashes.items() if found is not None}
    return dict(zip(standing, keys.current(list(standing.values())), strict=True))


def _place(store: str, kid: bytes) -> bytes:
    return b"\0".join((_PLACE, store.encode(), kid))


def _layer_key(key: bytes) -> bytes:
    return HKDF(SHA256(), KEY, salt=None, info=_LAYER).derive(key)


def _layer_place(place: KeyPlace) -> bytes:
    return b"\0".join((_LAYER, *(part.encode() for part in place)))


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
    return orjson.dumps({"plain": kept.plain, "bare": kept.bare, "keys": keys})


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
        # Written by a version that put no layer around data keys.
        bare = bool(fields.get("bare", True))
        return Kept(bool(fields["plain"]), keys, stamp, bare)
    except (ValueError, KeyError, TypeError):
        raise KeyUnavailable(
            "the generation keys are damaged: restore the database from a backup"
        ) from None
