"""Facts of the log that are about no single session: requests of people, keys, restored databases.

They stand in the same log, in the same order and under the same proofs as the events of sessions.
Like those they carry no personal data: random ids, counts and closed enums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


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


FACTS: tuple[type[Fact], ...] = (AccessReceived, AccessReady, AccessSent, AccessErased)
"""All kinds there are."""
