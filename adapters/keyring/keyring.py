"""The keyring: KEK -> subject key -> data key; one data key per session, tier and token.

The KEK lies with a provider outside the database (adapters/keyring/keks.py), which may be a server
far away. So subject keys are unwrapped once and kept for seconds, and new ones are wrapped some in
advance. Whatever is kept is overwritten when it goes.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adapters.keyring.aead import new_key, seal, unseal, wipe, wiping
from adapters.keyring.keks import KekProvider, WrappedKey
from adapters.keyring.sealing import Sealing
from domain.ports import SubjectKey

KEPT_SECONDS = 30.0
"""How long an unwrapped subject key is kept at most."""
MOST_KEPT = 10_000
STOCK_SECONDS = 5.0
"""How long keys made in advance are good: so soon every process uses a new KEK."""
LARGEST_STOCK = 256


def seconds_since_boot() -> float:
    """A clock that also counts while the machine sleeps: what is kept must not outlive its term."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Keyring(Sealing):
    """The keyring behind `domain.ports.Keyring`.

    lookup_secret: for keyed hashes. uptime: seconds, for what is kept.
    """

    def __init__(
        self,
        keks: KekProvider,
        lookup_secret: bytes,
        uptime: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self.keks = keks
        self._lookup_secret = lookup_secret
        self._kept = KeptKeys(uptime)
        self._stock = Stock(keks, uptime)

    def lookup(self, kind: str, name: str) -> bytes:
        message = kind.encode() + b"\0" + name.encode("utf-8", "surrogateescape")
        return hmac.digest(self._lookup_secret, message, hashlib.sha256)

    def shared_key(self, use: str) -> bytes:
        """A key that every process with this key store has, and nobody else: for what passes
        between them and is not stored."""
        return HKDF(SHA256(), 32, salt=None, info=f"lapse/shared/{use}/v1".encode()).derive(
            self._lookup_secret
        )

    def token(self) -> str:
        return secrets.token_hex(16)

    def new_subject(self, lookup: bytes) -> SubjectKey:
        made = self._stock.take()
        subject = SubjectKey(lookup, made.subject, made.kek, made.wrapped, fresh=True)
        self._kept.put(subject, made.key)
        return subject

    def joint_subject(self, session_id: str) -> SubjectKey:
        key = new_key()
        (made,) = self.keks.wrap([(subject_place(session_id), key)])
        subject = SubjectKey(b"", session_id, made.kek, made.wrapped, fresh=True)
        self._kept.put(subject, key)
        return subject

    def seal_identity(
        self, subject: SubjectKey, session_id: str, token: str, identity: str
    ) -> tuple[bytes, bytes]:
        subject_key, data_key = self._subject_key(subject), new_key()
        with wiping(subject_key, data_key):
            place = _identity_place(session_id, token)
            sealed = seal(data_key, identity.encode("utf-8", "surrogateescape"), place)
            wrapped = seal(subject_key, data_key, _data_key_place(subject, session_id, token))
        return sealed, wrapped

    def open_identity(
        self, subject: SubjectKey, session_id: str, token: str, wrapped: bytes, sealed: bytes
    ) -> str:
        subject_key = self._subject_key(subject)
        with wiping(subject_key):
            data_key = unseal(subject_key, wrapped, _data_key_place(subject, session_id, token))
        with wiping(data_key):
            identity = unseal(data_key, sealed, _identity_place(session_id, token))
        with wiping(identity):
            return identity.decode("utf-8", "surrogateescape")

    def forget_subjects(self, subjects: Collection[str]) -> None:
        """Overwrite the keys of those who were erased."""
        self._kept.forget(subjects)

    def kept(self, subjects: Collection[str]) -> Collection[str]:
        """Of these subjects, those whose key is in memory."""
        return self._kept.among(subjects)

    def forget(self) -> None:
        """Overwrite every key that is kept: the KEK is another one, or all is over."""
        self._kept.clear()
        self._stock.clear()

    def forget_old(self) -> None:
        """Overwrite keys that were kept for long enough; call it every second or so."""
        self._kept.clear_old()
        self._stock.clear_old()

    def close(self) -> None:
        """Overwrite what is kept, and let go of the provider."""
        self.forget()
        self.keks.close()

    def _subject_key(self, subject: SubjectKey) -> bytearray:
        """A copy for the caller, who overwrites it. Raises KeyUnavailable, SealBroken."""
        kept = self._kept.get(subject)
        if kept is not None:
            return kept
        place = subject_place(subject.subject)
        (key,) = self.keks.unwrap([WrappedKey(place, subject.kek, subject.wrapped)])
        self._kept.put(subject, bytearray(key))
        return key


class KeptKeys:
    """Keys of subjects, few and for seconds. Gives out copies, since it overwrites what it drops.

    The wrapped key goes with each, so that a row which somebody changed is never answered from
    memory.
    """

    def __init__(self, uptime: Callable[[], float]) -> None:
        self._uptime = uptime
        self._lock = threading.Lock()
        # Oldest first: a key is put once and is not renewed by its use.
        self._keys: OrderedDict[str, tuple[float, str, bytes, bytearray]] = OrderedDict()

    def get(self, subject: SubjectKey) -> bytearray | None:
        with self._lock:
            kept = self._keys.get(subject.subject)
            if kept is None:
                return None
            until, kek, wrapped, key = kept
            same = kek == subject.kek and wrapped == subject.wrapped
            return bytearray(key) if same and self._uptime() < until else None

    def put(self, subject: SubjectKey, key: bytearray) -> None:
        """Keep this buffer; the caller must not use it any more."""
        with self._lock:
            self._drop([subject.subject])
            until = self._uptime() + KEPT_SECONDS
            self._keys[subject.subject] = (until, subject.kek, subject.wrapped, key)
            if len(self._keys) > MOST_KEPT:
                self._drop([next(iter(self._keys))])

    def forget(self, subjects: Collection[str]) -> None:
        with self._lock:
            self._drop(subjects)

    def among(self, subjects: Collection[str]) -> Collection[str]:
        with self._lock:
            return self._keys.keys() & set(subjects)

    def clear(self) -> None:
        with self._lock:
            self._drop(list(self._keys))

    def clear_old(self) -> None:
        now = self._uptime()
        with self._lock:
            self._drop([name for name, (until, *_) in self._keys.items() if until <= now])

    def _drop(self, subjects: Collection[str]) -> None:
        for subject in subjects:
            if subject in self._keys:
                wipe(self._keys.pop(subject)[-1])


@dataclass(frozen=True)
class NewKey:
    """The key of a subject who is nobody yet."""

    subject: str
    key: bytearray
    kek: str
    wrapped: bytes


class Stock:
    """Subject keys wrapped in advance: one by one while few are needed, many at once when a batch
    of people arrives, so that a key server far away is asked once for all of them."""

    def __init__(self, keks: KekProvider, uptime: Callable[[], float]) -> None:
        self._keks = keks
        self._uptime = uptime
        self._lock = threading.Lock()
        self._ready: deque[NewKey] = deque()
        self._size = 1
        self._until = 0.0

    def take(self) -> NewKey:
        """Raises KeyUnavailable."""
        with self._lock:
            if self._uptime() >= self._until:
                self._drop()
            if not self._ready:
                self._make()
            return self._ready.popleft()

    def clear(self) -> None:
        with self._lock:
            self._drop()

    def clear_old(self) -> None:
        with self._lock:
            if self._ready and self._uptime() >= self._until:
                self._drop()

    def _make(self) -> None:
        subjects = [secrets.token_hex(16) for _ in range(self._size)]
        keys = [new_key() for _ in subjects]
        places = map(subject_place, subjects)
        wrapped = self._keks.wrap(list(zip(places, keys, strict=True)))
        self._ready.extend(
            NewKey(subject, key, one.kek, one.wrapped)
            for subject, key, one in zip(subjects, keys, wrapped, strict=True)
        )
        self._size = min(self._size * 2, LARGEST_STOCK)
        self._until = self._uptime() + STOCK_SECONDS

    def _drop(self) -> None:
        wipe(*(one.key for one in self._ready))
        self._ready.clear()
        self._size = 1


# -- places -----------------------------------------------------------------------------------


def subject_place(subject: str) -> bytes:
    """What a wrapped subject key is bound to."""
    return b"lapse/subject-key/v1\0" + subject.encode()


def _data_key_place(subject: SubjectKey, session_id: str, token: str) -> bytes:
    return b"\0".join(
        (
            b"lapse/data-key/v1",
            subject.subject.encode(),
            session_id.encode(),
            b"identity",
            token.encode(),
        )
    )


def _identity_place(session_id: str, token: str) -> bytes:
    """Session, item, field, tier and token: what the design binds every sealed value to."""
    return b"\0".join(
        (
            b"lapse/sealed/v1",
            session_id.encode(),
            b"subject-index",
            b"identity",
            b"identity",
            token.encode(),
        )
    )
