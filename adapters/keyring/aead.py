"""AES-256-GCM (NIST SP 800-38D) as everything of ours is sealed: a random 96-bit nonce before the
ciphertext, and additional data that names what the value is and where it belongs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.errors import SealBroken
from domain.ports import Buffer

KEY = 32
_NONCE = 12
_TAG = 16
OVERHEAD = _NONCE + _TAG
"""Bytes by which a sealed value is longer than what is in it."""


def seal(key: bytes | bytearray, plaintext: Buffer, place: bytes) -> bytes:
    """The plaintext, sealed for one place."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, place)


def unseal(key: bytes | bytearray, sealed: bytes, place: bytes) -> bytearray:
    """The plaintext, in a buffer that the caller can overwrite. Raises SealBroken."""
    plaintext = bytearray(max(0, len(sealed) - _NONCE - _TAG))
    try:
        AESGCM(key).decrypt_into(sealed[:_NONCE], sealed[_NONCE:], place, plaintext)
    except (InvalidTag, ValueError):
        raise SealBroken(
            "a sealed value does not open: it was changed, moved, or sealed under another key"
        ) from None
    return plaintext


def new_key() -> bytearray:
    """A random key."""
    return bytearray(os.urandom(KEY))


def wipe(*secrets: bytearray) -> None:
    """Overwrite what is no longer needed. docs/explanation/keys.md says what this cannot reach."""
    for secret in secrets:
        secret[:] = bytes(len(secret))


@contextmanager
def wiping(*secrets: bytearray) -> Iterator[None]:
    """Overwrite them in the end, whatever happens."""
    try:
        yield
    finally:
        wipe(*secrets)
