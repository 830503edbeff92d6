"""The keyring with its key-encryption key (KEK) in a file outside the database.

KEK -> subject key -> data key; one data key per session, tier and token. Everything is AES-256-GCM
(NIST SP 800-38D) with a random 96-bit nonce before the ciphertext, and additional data that names
what the value is and where it belongs: a sealed value that is moved or changed does not open.

The key file is JSON, mode 0600, in a folder of mode 0700 that must not lie under the folder of the
database, or a copy of that one would hold both. It is named after the random id of its store, and
the database keeps a check value of every KEK it uses: a key file that is missing, foreign or
damaged is refused at the start. New keys are made only for a store that has none.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adapters.keyring.sealing import Sealing
from domain.errors import KeyUnavailable, SealBroken
from domain.ports import SubjectKey

_NONCE = 12
_KEY = 32
_FORMAT = "lapse/keys/v1"


@dataclass(frozen=True)
class KeyFile:
    """What a key file holds. keks: id -> key, the newest last. lookup_secret: for keyed hashes."""

    store: str
    keks: dict[str, bytes]
    lookup_secret: bytes

    @property
    def current(self) -> str:
        return list(self.keks)[-1]

    def check_value(self, kek: str) -> bytes:
        """What the database keeps to recognise a KEK by, without learning it."""
        return hmac.digest(self.keks[kek], b"lapse/kek-check/v1" + self.store.encode(), "sha256")

    def lookup_check_value(self) -> bytes:
        """The same for the secret under which names are found again."""
        message = b"lapse/lookup-check/v1" + self.store.encode()
        return hmac.digest(self.lookup_secret, message, "sha256")


def create_key_file(folder: Path, store: str) -> KeyFile:
    """Make the keys of a new store. Raises KeyUnavailable if they cannot be kept safely."""
    keys = KeyFile(
        store, {secrets.token_hex(8): secrets.token_bytes(_KEY)}, secrets.token_bytes(_KEY)
    )
    body = orjson.dumps(
        {
            "format": _FORMAT,
            "store": store,
            "keks": {name: key.hex() for name, key in keys.keks.items()},
            "lookup_secret": keys.lookup_secret.hex(),
        },
        option=orjson.OPT_INDENT_2,
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = _path(folder, store)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise KeyUnavailable(
            f"the key folder of LAPSE_KEY_URL cannot be written ({error.strerror}): "
            "name a folder that this user may write"
        ) from None
    return keys


def discard_key_file(folder: Path, store: str) -> None:
    """Take back the keys of a store that never came to be."""
    _path(folder, store).unlink(missing_ok=True)


def read_key_file(folder: Path, store: str) -> KeyFile:
    """The keys of a store. Raises KeyUnavailable with what is wrong and what to do."""
    path = _path(folder, store)
    try:
        # Not through a link: it could lead below the database's folder, or to another's file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            body = file.read()
        folder_mode = folder.stat().st_mode
    except FileNotFoundError:
        raise KeyUnavailable(
            f"the key file {path.name} of this database is missing from the key folder: set "
            "LAPSE_KEY_URL to the folder that holds it, or restore it; without it nothing sealed "
            "can be read, and no new keys are made for data that exists"
        ) from None
    except OSError as error:
        raise KeyUnavailable(
            f"the key file {path.name} cannot be read ({error.strerror})"
        ) from None
    if mode & 0o077:
        raise KeyUnavailable(
            f"the key file {path.name} may be read by other users: run chmod 600 on it"
        )
    if folder_mode & 0o022:
        raise KeyUnavailable(
            "other users may replace what is in the key folder: run chmod 700 on it"
        )
    try:
        fields = orjson.loads(body)
        keys = KeyFile(
            fields["store"],
            {name: bytes.fromhex(key) for name, key in fields["keks"].items()},
            bytes.fromhex(fields["lookup_secret"]),
        )
        sound = (
            fields["format"] == _FORMAT
            and keys.keks
            and all(len(key) == _KEY for key in [*keys.keks.values(), keys.lookup_secret])
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise KeyUnavailable(f"the key file {path.name} is damaged: restore it from its copy")
    if keys.store != store:
        raise KeyUnavailable(f"the key file {path.name} belongs to another database")
    return keys


def _path(folder: Path, store: str) -> Path:
    return folder / f"{store}.keys.json"


class FileKeyring(Sealing):
    """The keyring behind `domain.ports.Keyring`."""

    def __init__(self, keys: KeyFile) -> None:
        self._keys = keys
        self._kek = AESGCM(keys.keks[keys.current])

    def lookup(self, kind: str, name: str) -> bytes:
        message = kind.encode() + b"\0" + name.encode("utf-8", "surrogateescape")
        return hmac.digest(self._keys.lookup_secret, message, hashlib.sha256)

    def token(self) -> str:
        return secrets.token_hex(16)

    def new_subject(self, lookup: bytes) -> SubjectKey:
        subject = secrets.token_hex(16)
        wrapped = _seal(self._kek, os.urandom(_KEY), _subject_place(subject))
        return SubjectKey(lookup, subject, self._keys.current, wrapped, fresh=True)

    def joint_subject(self, session_id: str) -> SubjectKey:
        wrapped = _seal(self._kek, os.urandom(_KEY), _subject_place(session_id))
        return SubjectKey(b"", session_id, self._keys.current, wrapped, fresh=True)

    def seal_identity(
        self, subject: SubjectKey, session_id: str, token: str, identity: str
    ) -> tuple[bytes, bytes]:
        data_key = os.urandom(_KEY)
        place = _identity_place(session_id, token)
        sealed = _seal(AESGCM(data_key), identity.encode("utf-8", "surrogateescape"), place)
        subject_key = AESGCM(self._subject_key(subject))
        return sealed, _seal(subject_key, data_key, _data_key_place(subject, session_id, token))

    def open_identity(
        self, subject: SubjectKey, session_id: str, token: str, wrapped: bytes, sealed: bytes
    ) -> str:
        subject_key = AESGCM(self._subject_key(subject))
        data_key = _open(subject_key, wrapped, _data_key_place(subject, session_id, token))
        identity = _open(AESGCM(data_key), sealed, _identity_place(session_id, token))
        return identity.decode("utf-8", "surrogateescape")

    def _subject_key(self, subject: SubjectKey) -> bytes:
        if subject.kek not in self._keys.keks:
            raise KeyUnavailable(f"key-encryption key {subject.kek} is not in the key store")
        kek = AESGCM(self._keys.keks[subject.kek])
        return _open(kek, subject.wrapped, _subject_place(subject.subject))


def _subject_place(subject: str) -> bytes:
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


def _seal(key: AESGCM, plaintext: bytes, place: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + key.encrypt(nonce, plaintext, place)


def _open(key: AESGCM, sealed: bytes, place: bytes) -> bytes:
    try:
        return key.decrypt(sealed[:_NONCE], sealed[_NONCE:], place)
    except (InvalidTag, ValueError):
        raise SealBroken(
            "a sealed value does not open: it was changed, moved, or sealed under another key"
        ) from None
