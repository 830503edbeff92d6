"""Facts of the log that are about no single session: requests of people, keys, restored databases.

They stand in the same log, in the same order and under the same proofs as the events of sessions.
Like those they carry no personal data: random ids, counts and closed enums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from domain.session import Ground


@dataclass(frozen=True)
class Fact:
    """A fact about the installation.

    originator_id, originator_version: the stream it belongs to, such as a request, and its number
    there, from 1. effective_at: when it happened. policy: empty, unless it is about one. actor: as
    in `domain.session.Event`. ENUMS: which fields are closed enums.
    """

    TOPIC: ClassVar[str]
    ENUMS: ClassVar[Mapping[str, type[StrEnum]]] = {}

    originator_id: str
    originator_version: int
    effective_at: int
    policy: str
    actor: str


@dataclass(frozen=True)
class Pruned(Fact):
    """In the place of an event whose body was pruned: its hash, and nothing of what happened.

    It is never written: the log answers with it, so that nobody takes a hole for the end.
    effective_at: when it was pruned.
    """

    TOPIC: ClassVar[str] = "log.pruned.v1"

    leaf: bytes


# -- requests of people -----------------------------------------------------------------------


class About(StrEnum):
    """What a request is about."""

    SESSION = "session"
    SUBJECT = "subject"
    PARTICIPANT = "participant"


class Verification(StrEnum):
    """Who made sure that the request comes from whom it concerns, or how (Art. 11, 12(6))."""

    CONTROLLER = "controller"
    IDENTITY_PROVIDER = "identity-provider"
    TOKEN_PROOF = "token-proof"  # noqa: S105 - the name of a way, no secret
    COURT = "court"


# -- requests for a copy (GDPR Art. 15, 20) ---------------------------------------------------


class CopyEnded(StrEnum):
    """Why a copy that waited is gone."""

    TERM = "term"
    OUTDATED = "outdated"  # something in it was erased, or fell due


@dataclass(frozen=True)
class AccessReceived(Fact):
    """Somebody asked for a copy of what is held about them."""

    TOPIC: ClassVar[str] = "access.received.v1"
    ENUMS: ClassVar[Mapping[str, type[StrEnum]]] = {"verified_by": Verification}
    verified_by: Verification


@dataclass(frozen=True)
class AccessReady(Fact):
    """The copy waits, sealed. size: bytes."""

    TOPIC: ClassVar[str] = "access.ready.v1"
    sessions: int
    items: int
    size: int


@dataclass(frozen=True)
class AccessSent(Fact):
    """The actor was given the copy."""

    TOPIC: ClassVar[str] = "access.sent.v1"


@dataclass(frozen=True)
class AccessErased(Fact):
    """The copy is gone."""

    TOPIC: ClassVar[str] = "access.erased.v1"
    ENUMS: ClassVar[Mapping[str, type[StrEnum]]] = {"reason": CopyEnded}
    reason: CopyEnded


# -- requests for erasure (GDPR Art. 17) ------------------------------------------------------


class Refusal(StrEnum):
    """On which ground a request is refused."""

    FREEDOM_OF_EXPRESSION = "freedom-of-expression"  # Art. 17(3)(a)
    LEGAL_OBLIGATION = "legal-obligation"  # (b)
    PUBLIC_HEALTH = "public-health"  # (c)
    ARCHIVING = "archiving"  # (d): archiving in the public interest, research, statistics
    LEGAL_CLAIM = "legal-claim"  # (e)
    MANIFESTLY_UNFOUNDED = "manifestly-unfounded"  # Art. 12(5)
    HOLD = "hold"  # a hold stood, and whoever asked does not wait
    NOT_IDENTIFIED = "not-identified"  # Art. 11(2), 12(2)


class Waiting(StrEnum):
    """Why a request does not go on."""

    HELD = "held"  # a hold stands; the deletion was refused
    STORE = "store"  # a store did not do what was asked
    KEYS = "keys"  # the key store cannot be reached
    RESIDUE = "residue"  # the scan found something that should be gone


@dataclass(frozen=True)
class RequestReceived(Fact):
    """Somebody asked. deadline_at: by when they must be answered (Art. 12(3))."""

    TOPIC: ClassVar[str] = "request.received.v1"
    ENUMS: ClassVar[Mapping[str, type[StrEnum]]] = {"about": About, "verified_by": Verification}
    about: About
    verified_by: Verification
    deadline_at: int


@dataclass(frozen=True)
class RequestSuspended(Fact):
    """It does not go on for now: a deletion was refused by a hold, or something failed."""

    TOPIC: ClassVar[str] = "request.suspended.v1"
    ENUMS: ClassVar[Mapping[str, type[StrEnum]]] = {"reason": Waiting}
    reason: Waiting


@dataclass(frozen=True)
class RequestExecuted(Fact):
    """All of it is deleted, keys included. sessions: erased whole. parts: of shared sessions.
    items: that went or were redacted in those. subjects: people of whom nothing is left."""

    TOPIC: ClassVar[str] = "request.executed.v1"
    sessions: int
    parts: int
    items: int
    subjects: int


@dataclass(frozen=True)
class RequestVerified(Fact):
    """Every store was read back, and nothing was found. stores: name -> what the scan says."""

    TOPIC: ClassVar[str] = "request.verified.v1"
    stores: Mapping[str, str]


@dataclass(frozen=True)
class RequestFinal(Fact):
    """No copy of the database opens any of it any more. keks: keys that are destroyed now."""

    TOPIC: ClassVar[str] = "request.final.v1"
    keks: int


@dataclass(frozen=True)
class RequestRefused(Fact):
    """It is not carried out."""

    TOPIC: ClassVar[str] = "request.refused.v1"
    ENUMS: ClassVar[Mapping[str, type[StrEnum]]] = {"ground": Refusal}
    ground: Refusal


# -- holds of people --------------------------------------------------------------------------


@dataclass(frozen=True)
class HoldPlaced(Fact):
    """Nothing of some person may be deleted (until `until`; None: until released). Holds of
    sessions stand in the histories of those."""

    TOPIC: ClassVar[str] = "hold.placed.v1"
    ENUMS: ClassVar[Mapping[str, type[StrEnum]]] = {"ground": Ground}
    ground: Ground
    until: int | None = None


@dataclass(frozen=True)
class HoldReleased(Fact):
    """It stands no more; what it suspended is due."""

    TOPIC: ClassVar[str] = "hold.released.v1"


# -- the installation -------------------------------------------------------------------------


@dataclass(frozen=True)
class EpochOpened(Fact):
    """The database was found to be an older state of itself: from here on the log is another one.

    Cursors, and checkpoints of the tree, of the epochs before do not count any more. epoch: from 2.
    known: how far the log reached before, as far as anybody knows. missing: how many entries of the
    erasure ledger are done again.
    """

    TOPIC: ClassVar[str] = "log.epoch.v1"
    epoch: int
    known: int
    missing: int


@dataclass(frozen=True)
class KeyDestroyed(Fact):
    """A key-encryption key is gone, and with it what it wrapped, wherever copies of that are.

    kek: its id. created_at, retired_at: None if nobody noted it. asked_at: when its destruction
    began; `effective_at` is when it was found to be gone.
    """

    TOPIC: ClassVar[str] = "key.destroyed.v1"
    kek: str
    created_at: int | None
    retired_at: int | None
    asked_at: int


FACTS: tuple[type[Fact], ...] = (
    EpochOpened,
    KeyDestroyed,
    AccessReceived,
    AccessReady,
    AccessSent,
    AccessErased,
    RequestReceived,
    RequestSuspended,
    RequestExecuted,
    RequestVerified,
    RequestFinal,
    RequestRefused,
    HoldPlaced,
    HoldReleased,
)
"""All kinds there are."""
