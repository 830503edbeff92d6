"""Seals what sessions store: one data key per session, tier and participant.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce before the ciphertext; the additional data
names session, item, field, tier and token, so that a value that is moved or changed does not open.
Data keys are wrapped under the subject's key, or under the session's own (the joint key). The
commitment is HMAC-SHA-256 (RFC 2104) under a key of its own, derived from the data key by HKDF (RFC
5869): it tells nothing, and proves nothing any more once the data key is gone.

Keys and contents pass through bytearrays that are overwritten after use. What Python and OpenSSL
copy inside themselves is not in our hands; see docs/explanation/privacy.md.
"""

import hmac
import os
from abc import abstractmethod

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from domain.errors import SealBroken
from domain.ports import Buffer, DataKey, SubjectKey
from domain.session import Scope

NONCE = 12
TAG = 16
KEY = 32


def overwrite(buffer: bytearray) -> None:
    """Leave nothing of it in this memory."""
    buffer[:] = bytes(len(buffer))


class Sealing:
    """The part of `domain.ports.Keyring` that seals items, whoever keeps the subjects' keys."""

    @abstractmethod
    def _subject_key(self, subject: SubjectKey) -> bytes:
        """The key of a subject. Raises KeyUnavailable, SealBroken."""

    def new_data_key(
        self, subject: SubjectKey, session_id: str, tier: Scope, token: str
    ) -> DataKey:
        place = _key_place(subject.subject, session_id, tier, token)
        nonce = os.urandom(NONCE)
        key = bytearray(os.urandom(KEY))
        try:
            wrapped = nonce + AESGCM(self._subject_key(subject)).encrypt(nonce, key, place)
        finally:
            overwrite(key)
        return DataKey(session_id, tier, token, subject, wrapped, fresh=True)

    def seal(self, key: DataKey, item: str, field: str, content: Buffer) -> bytes:
        opened = self._opened(key)
        try:
            nonce = os.urandom(NONCE)
            return nonce + AESGCM(opened).encrypt(nonce, content, _place(key, item, field))
        finally:
            overwrite(opened)

    def open(self, key: DataKey, item: str, field: str, sealed: bytes) -> bytearray:
        opened = self._opened(key)
        try:
            return _decrypted(opened, sealed, _place(key, item, field))
        finally:
            overwrite(opened)

    def commitment(self, key: DataKey, item: str, field: str, content: Buffer) -> str:
        opened = self._opened(key)
        try:
            info = b"lapse/commitment/v1\0" + item.encode() + b"\0" + field.encode()
            derived = HKDF(SHA256(), KEY, salt=None, info=info).derive(opened)
            return hmac.digest(derived, content, "sha256").hex()
        finally:
            overwrite(opened)

    def _opened(self, key: DataKey) -> bytearray:
        place = _key_place(key.subject.subject, key.session_id, key.tier, key.token)
        return _decrypted(self._subject_key(key.subject), key.wrapped, place)


def _decrypted(key: Buffer, sealed: bytes, place: bytes) -> bytearray:
    """Raises SealBroken."""
    content = bytearray(max(0, len(sealed) - NONCE - TAG))
    view = memoryview(sealed)
    try:
        AESGCM(key).decrypt_into(view[:NONCE], view[NONCE:], place, content)
    except (InvalidTag, ValueError):
        raise SealBroken(
            "a sealed value does not open: it was changed, moved, or sealed under another key"
        ) from None
    return content


def _key_place(subject: str, session_id: str, tier: Scope, token: str) -> bytes:
    parts = ("lapse/data-key/v1", subject, session_id, tier, token)
    return "\0".join(parts).encode()


def _place(key: DataKey, item: str, field: str) -> bytes:
    """Session, item, field, tier and token: what the design binds every sealed value to."""
    parts = ("lapse/sealed/v1", key.session_id, item, field, key.tier, key.token)
    return "\0".join(parts).encode()
