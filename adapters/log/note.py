"""Signed notes, checkpoints and proofs as text, in the formats of C2SP.

signed-note, tlog-checkpoint, tlog-cosignature (version 1, Ed25519) and tlog-proof: see
https://c2sp.org. Pure functions; who signs brings `Sign`.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from adapters.log.merkle import HASH

Sign = Callable[[bytes], bytes]

_ED25519, _COSIGNATURE = 0x01, 0x04
_DASH = "\u2014 "
_PROOF = "c2sp.org/tlog-proof@v1\n"


class NoteInvalid(ValueError):
    """A text that is no note of this format, or is not signed by who should have."""


@dataclass(frozen=True)
class VerifierKey:
    """A public key with its name, as verifiers are given it: `name+hash+base64`.

    cosigner: whether it cosigns checkpoints (timestamped), instead of signing notes.
    """

    name: str
    public_key: bytes
    cosigner: bool = False

    @property
    def _algorithm(self) -> int:
        return _COSIGNATURE if self.cosigner else _ED25519

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature names its key."""
        typed = bytes([self._algorithm]) + self.public_key
        return sha256(self.name.encode() + b"\n" + typed).digest()[:4]

    def __str__(self) -> str:
        typed = bytes([self._algorithm]) + self.public_key
        return f"{self.name}+{self.id.hex()}+{_base64(typed)}"

    def signature(self, text: str, sign: Sign) -> str:
        """The line that signs `text`."""
        return self._line(sign(text.encode()))

    def cosignature(self, text: str, seconds: int, sign: Sign) -> str:
        """The line that cosigns a checkpoint at a time (POSIX)."""
        stamped = seconds.to_bytes(8, "big") + sign(_cosigned(text, seconds))
        return self._line(stamped)

    def _line(self, signature: bytes) -> str:
        return f"{_DASH}{self.name} {_base64(self.id + signature)}\n"

    def verifies(self, text: str, signature: bytes) -> bool:
        """Whether these bytes of a signature line are a signature of `text` by this key."""
        message = text.encode()
        if self.cosigner:
            if len(signature) != 8 + 64:
                return False
            message = _cosigned(text, int.from_bytes(signature[:8], "big"))
            signature = signature[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def verifier_key(text: str) -> VerifierKey:
    """The key that `name+hash+base64` describes. Raises NoteInvalid."""
    name, _, rest = text.strip().partition("+")
    id_, _, encoded = rest.partition("+")
    typed = _bytes(encoded)
    if len(typed) != 1 + 32 or typed[0] not in (_ED25519, _COSIGNATURE):
        raise NoteInvalid("not a verifier key of Ed25519: NAME+HASH+BASE64")
    key = VerifierKey(name, typed[1:], typed[0] == _COSIGNATURE)
    if not _is_name(name) or key.id.hex() != id_:
        raise NoteInvalid("the name or the hash of the verifier key is wrong")
    return key


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


# -- notes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """text: what is signed, ending in a newline. lines: of the signatures, with their newlines."""

    text: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(self.lines)}"

    def is_signed_by(self, key: VerifierKey) -> bool:
        """Whether there is a line of this key, and none of it is wrong."""
        found = [
            raw[4:] for name, raw in self._signatures() if (name, raw[:4]) == (key.name, key.id)
        ]
        return bool(found) and all(key.verifies(self.text, signature) for signature in found)

    def _signatures(self) -> Iterator[tuple[str, bytes]]:
        for line in self.lines:
            name, _, encoded = line.removeprefix(_DASH).rstrip("\n").partition(" ")
            yield name, _bytes(encoded)


def parse_note(text: str) -> Note:
    """Raises NoteInvalid."""
    body, blank, signatures = text.rpartition("\n\n")
    lines = tuple(signatures.splitlines(keepends=True))
    if not blank or not lines or any(not _is_line(line) for line in lines):
        raise NoteInvalid("not a signed note")
    return Note(f"{body}\n", lines)


def _is_line(line: str) -> bool:
    """Whether this is a signature line."""
    name, _, encoded = line.removeprefix(_DASH).rstrip("\n").partition(" ")
    if not line.startswith(_DASH) or not line.endswith("\n") or not _is_name(name):
        return False
    try:
        return len(_bytes(encoded)) > 4
    except NoteInvalid:
        return False


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() for c in name)


# -- checkpoints ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TreeHead:
    """What a checkpoint says: the root over the first `size` leaves of the log `origin`."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"


def tree_head(text: str) -> TreeHead:
    """The head in the text of a checkpoint, which may say more behind it. Raises NoteInvalid."""
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0]:
        raise NoteInvalid("not a checkpoint")
    size, root = lines[1], _bytes(lines[2])
    if not (size.isascii() and size.isdecimal()) or str(int(size)) != size or len(root) != HASH:
        raise NoteInvalid("not a checkpoint")
    return TreeHead(lines[0], int(size), root)


# -- proofs -----------------------------------------------------------------------------------


def proof_text(index: int, hashes: Sequence[bytes], note: str) -> str:
    """A tlog-proof: that leaf `index` is in the tree of the checkpoint `note`."""
    return f"{_PROOF}index {index}\n{base64_lines(hashes)}\n{note}"


def base64_lines(hashes: Sequence[bytes]) -> str:
    """Hashes as proofs list them: each in base64 on a line of its own."""
    return "".join(f"{_base64(one)}\n" for one in hashes)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(encoded: str) -> bytes:
    """Raises NoteInvalid unless this is the one base64 form of some bytes."""
    try:
        value = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise NoteInvalid("not base64") from None
    if _base64(value) != encoded:
        raise NoteInvalid("not base64")
    return value
