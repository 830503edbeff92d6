"""What an installation signs with: one Ed25519 key for checkpoints, another for certificates.

Both are made with the key store and stay there: in the key file, or, with Vault, wrapped in the
database. The database keeps the public halves in the clear, so that whoever verifies needs no key
store, and a key store that holds others is refused: a new key would sign what nobody trusts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from adapters.keyring import known
from adapters.log.engine import Engines
from adapters.log.note import VerifierKey
from domain.errors import KeyUnavailable

CHECKPOINTS, CERTIFICATES = "checkpoints", "certificates"
PURPOSES = (CHECKPOINTS, CERTIFICATES)
SEED = 32

_PUBLIC = "signer:"


@dataclass(frozen=True, repr=False)
class Signer:
    """Signs under a name. `public_key`: 32 bytes."""

    name: str
    _private: Ed25519PrivateKey

    @property
    def public_key(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return self._private.sign(message)

    def verifier_key(self, name: str | None = None) -> VerifierKey:
        """As verifiers of signed notes are given it. name: of the log, if not the signer's own."""
        return VerifierKey(name or self.name, self.public_key)


@dataclass(frozen=True, repr=False)
class Signers:
    """The two keys of an installation."""

    checkpoints: Signer
    certificates: Signer


def origin(store: str, epoch: int) -> str:
    """How checkpoints name the log of a store: its partition, and its epoch from the second on."""
    later = f"/epoch-{epoch}" if epoch > 1 else ""
    return f"lapse/{store}/0{later}"


def open_signers(engines: Engines, store: str, seeds: Mapping[str, bytes]) -> Signers:
    """The keys of a store. seeds: 32 secret bytes for each purpose, always the same ones.

    Raises KeyUnavailable if they are not those that signed before.
    """
    signers = Signers(
        Signer(origin(store, 1), Ed25519PrivateKey.from_private_bytes(seeds[CHECKPOINTS])),
        Signer(
            f"lapse/{store}/certificates",
            Ed25519PrivateKey.from_private_bytes(seeds[CERTIFICATES]),
        ),
    )
    for purpose in PURPOSES:
        _recognise(engines, purpose, getattr(signers, purpose).public_key)
    return signers


def _recognise(engines: Engines, purpose: str, public_key: bytes) -> None:
    kept = known.value(engines, _PUBLIC + purpose)
    if kept is None:
        with engines.write() as connection:
            known.put_new(connection, _PUBLIC + purpose, public_key)
        kept = known.value(engines, _PUBLIC + purpose)
    if kept != public_key:
        raise KeyUnavailable(
            f"the key store does not hold the key that signs the {purpose} of this database: "
            "restore the key file that belongs to it; nothing was changed"
        )


def public_keys(engines: Engines) -> Mapping[str, bytes]:
    """The public keys by purpose, as the database knows them; empty before it was ever opened."""
    found = {purpose: known.value(engines, _PUBLIC + purpose) for purpose in PURPOSES}
    return {purpose: key for purpose, key in found.items() if key is not None}


def spki(public_key: bytes) -> bytes:
    """A public key in PEM (SubjectPublicKeyInfo), as openssl reads it."""
    der = bytes.fromhex("302a300506032b6570032100") + public_key  # RFC 8410, section 4
    return load_der_public_key(der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
