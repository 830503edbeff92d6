"""A keyring that keeps no secrets, for `lapse simulate`: nothing is stored, so nothing is sealed.

Never use it beside a database: what it calls sealed is empty, and its tokens can be guessed.
"""

from hashlib import blake2b
from itertools import count

from domain.errors import SealBroken
from domain.ports import Buffer, DataKey, SubjectKey
from domain.session import Scope


class PlainKeyring:
    """The keyring behind `domain.ports.Keyring`, without keys.

    seed: of the tokens; the same seed gives the same tokens in the same order, so that a simulation
    can be repeated.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._numbers = count()

    def lookup(self, kind: str, name: str) -> bytes:
        """A digest under no key. Not the name itself: ids are made of its first 16 bytes."""
        message = kind.encode() + b"\0" + name.encode("utf-8", "surrogateescape")
        return blake2b(message, digest_size=32).digest()

    def token(self) -> str:
        return f"{self._seed:016x}{next(self._numbers):016x}"

    def new_subject(self, lookup: bytes) -> SubjectKey:
        return SubjectKey(lookup, self.token(), kek="", wrapped=b"", fresh=True)

    def joint_subject(self, session_id: str) -> SubjectKey:
        return SubjectKey(b"", session_id, kek="", wrapped=b"", fresh=True)

    def new_data_key(
        self, subject: SubjectKey, session_id: str, tier: Scope, token: str
    ) -> DataKey:
        return DataKey(session_id, tier, token, subject, b"")

    def seal(self, key: DataKey, item: str, field: str, content: Buffer) -> bytes:
        return b""

    def open(self, key: DataKey, item: str, field: str, sealed: bytes) -> bytearray:
        """Raises SealBroken, as `open_identity`."""
        raise SealBroken("the keyring of a simulation seals nothing, so nothing can be opened")

    def commitment(self, key: DataKey, item: str, field: str, content: Buffer) -> str:
        return ""

    def seal_identity(
        self, subject: SubjectKey, session_id: str, token: str, identity: str
    ) -> tuple[bytes, bytes]:
        return b"", b""

    def open_identity(
        self, subject: SubjectKey, session_id: str, token: str, wrapped: bytes, sealed: bytes
    ) -> str:
        """Raises SealBroken, always: the identity was thrown away when it should be sealed."""
        raise SealBroken("the keyring of a simulation seals nothing, so nothing can be opened")
