"""Seals what sessions store: one data key per session, tier and participant.

The additional data of every value names session, item, field, tier and token, so that one that is
moved or changed does not open. Data keys are wrapped under the subject's key, or under the
session's own (the joint key). The commitment is HMAC-SHA-256 (RFC 2104) under a key of its own,
derived from the data key by HKDF (RFC 5869): it tells nothing, and proves nothing any more once the
data key is gone.
"""

import hmac
from abc import abstractmethod

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adapters.keyring.aead import KEY, new_key, seal, unseal, wiping
from domain.ports import Buffer, DataKey, SubjectKey
from domain.session import Scope


class Sealing:
    """The part of `domain.ports.Keyring` that seals items, whoever keeps the subjects' keys."""

    @abstractmethod
    def _subject_key(self, subject: SubjectKey) -> bytearray:
        """A copy for the caller, who overwrites it. Raises KeyUnavailable, SealBroken."""

    def new_data_key(
        self, subject: SubjectKey, session_id: str, tier: Scope, token: str
    ) -> DataKey:
        place = _key_place(subject.subject, session_id, tier, token)
        subject_key, key = self._subject_key(subject), new_key()
        with wiping(subject_key, key):
            wrapped = seal(subject_key, key, place)
        return DataKey(session_id, tier, token, subject, wrapped)

    def seal(self, key: DataKey, item: str, field: str, content: Buffer) -> bytes:
        opened = self._data_key(key)
        with wiping(opened):
            return seal(opened, content, _place(key, item, field))

    def open(self, key: DataKey, item: str, field: str, sealed: bytes) -> bytearray:
        opened = self._data_key(key)
        with wiping(opened):
            return unseal(opened, sealed, _place(key, item, field))

    def commitment(self, key: DataKey, item: str, field: str, content: Buffer) -> str:
        info = b"lapse/commitment/v1\0" + item.encode() + b"\0" + field.encode()
        opened = self._data_key(key)
        with wiping(opened):
            derived = HKDF(SHA256(), KEY, salt=None, info=info).derive(opened)
            return hmac.digest(derived, content, "sha256").hex()

    def _data_key(self, key: DataKey) -> bytearray:
        """A copy for the caller, who overwrites it. Raises KeyUnavailable, SealBroken."""
        place = _key_place(key.subject.subject, key.session_id, key.tier, key.token)
        subject_key = self._subject_key(key.subject)
        with wiping(subject_key):
            return unseal(subject_key, key.wrapped, place)


def _key_place(subject: str, session_id: str, tier: Scope, token: str) -> bytes:
    parts = ("lapse/data-key/v1", subject, session_id, tier, token)
    return "\0".join(parts).encode()


def _place(key: DataKey, item: str, field: str) -> bytes:
    """Session, item, field, tier and token: what the design binds every sealed value to."""
    parts = ("lapse/sealed/v1", key.session_id, item, field, key.tier, key.token)
    return "\0".join(parts).encode()
