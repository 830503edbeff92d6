"""The port to whoever keeps key-encryption keys (KEKs): a file, or HashiCorp Vault Transit.

A KEK wraps keys and never leaves its provider. One is current and wraps what is new; those before
it still open what they wrapped, until they are destroyed.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class Kek:
    """A key-encryption key by its id. Times in microseconds.

    created_at: None if nobody noted it. retired_at: since when no wrapped key in the database has
    named it (None: one may).
    """

    id: str
    created_at: int | None
    retired_at: int | None


@dataclass(frozen=True)
class WrappedKey:
    """What a KEK made of a key that belongs to `place`."""

    place: bytes
    kek: str
    wrapped: bytes


@dataclass(frozen=True)
class TransitKey:
    """A key of HashiCorp Vault, and how to ask for it.

    address: `https://host:port`. mount: of the Transit engine. token: asked for once, and again
    when Vault refuses it, since agents renew it. ca_file: certificate authorities in PEM (None:
    those of the machine). timeout: seconds per request.
    """

    address: str
    mount: str
    name: str
    token: Callable[[], str]
    ca_file: Path | None = None
    timeout: float = 5.0


class Counter(NamedTuple):
    """How far ledger and log reached, kept where no backup of the database is: entries of the
    erasure ledger, epoch and position of the log."""

    entries: int
    epoch: int
    position: int


class EscrowState(StrEnum):
    """How the copy of the keys stands to the keys. ahead: it knows newer keys, or those of another
    store, and is left alone. unavailable: its folder cannot be read or written."""

    CURRENT = "current"
    BEHIND = "behind"
    AHEAD = "ahead"
    UNAVAILABLE = "unavailable"


Placed = tuple[bytes, bytes | bytearray]
"""A place, and the key that belongs there."""


class KekProvider(Protocol):
    """Where KEKs are. Everything here raises KeyUnavailable if it cannot be reached."""

    def keks(self) -> Sequence[Kek]:
        """All that still open something, oldest first; the last is the current one."""
        ...

    def look_again(self) -> None:
        """Whatever `keks` answers next is how it stands then: another process may have rotated."""
        ...

    def wrap(self, keys: Sequence[Placed]) -> list[WrappedKey]:
        """Under the current KEK."""
        ...

    def unwrap(self, keys: Sequence[WrappedKey]) -> list[bytearray]:
        """The keys, in buffers that the caller can overwrite.

        Raises SealBroken if one does not belong to its place, KeyUnavailable if its KEK is unknown.
        """
        ...

    def rewrap(self, keys: Sequence[WrappedKey]) -> list[WrappedKey | None]:
        """The same keys under the current KEK; None for one that does not open."""
        ...

    def rotate(self, now: int) -> str:
        """Make a new current KEK; its id."""
        ...

    def retire(self, keks: Collection[str], now: int) -> None:
        """Note that no wrapped key in the database names these any more."""
        ...

    def destroy(self, keks: Collection[str]) -> Collection[str]:
        """Destroy KEKs that are not current, for good, first in the copy of the keys; those that
        are gone now."""
        ...

    def escrow_state(self) -> EscrowState | None:
        """How our copy of the keys stands; None if there is none."""
        ...

    def keep_escrow(self) -> EscrowState | None:
        """Bring the copy up to date if it is behind; how it stands then. Said loudly if it cannot
        be done."""
        ...

    def counter(self) -> Counter | None:
        """What was noted last; None if nothing was, or nothing can be kept here."""
        ...

    def note_counter(self, counter: Counter) -> None:
        """Keep this, if something can be kept here."""
        ...

    def check_value(self) -> tuple[str, bytes]:
        """The current KEK, and what it can be recognised by without learning it."""
        ...

    def recognises(self, kek: str, check: bytes) -> bool:
        """Whether `check` is a check value of this KEK."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
