"""What a person may ask for: a copy of all that is held about them (GDPR Art. 15 and 20)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from domain.facts import CopyEnded, Verification
from domain.policy import Shared


class AccessStatus(StrEnum):
    """How far a request is."""

    REQUESTED = "requested"
    READY = "ready"
    OUTDATED = "outdated"  # something in the copy was erased, so the copy is gone too
    ERASED = "erased"


@dataclass(frozen=True)
class AccessRequest:
    """One request. subject: a random id, empty if nobody of that name is known. version: facts of
    it in the log so far. ready_at: since when the copy waits. erases_at: when the copy goes at the
    latest. sessions, items, size: what is in it, and its bytes. reason: why it is gone."""

    id: str
    version: int
    subject: str
    verified_by: Verification
    status: AccessStatus
    requested_at: int
    ready_at: int | None = None
    erases_at: int | None = None
    sessions: int = 0
    items: int = 0
    size: int = 0
    reason: CopyEnded | None = None

    def is_over(self, at: int) -> bool:
        """Whether the copy must not be given out any more, gone or not yet."""
        return self.erases_at is not None and at >= self.erases_at


@dataclass(frozen=True)
class Involvement:
    """How somebody is in a session, and so what of it is theirs to get. tokens: of theirs who take
    part. owns: whether the session is theirs. participants: the tokens that an item names."""

    tokens: frozenset[str]
    owns: bool

    def is_about(self, participants: Sequence[str]) -> bool:
        """What names them; what names nobody is its owner's."""
        return not self.tokens.isdisjoint(participants) or (self.owns and not participants)

    def is_about_others(self, participants: Sequence[str]) -> bool:
        """Whether it names anybody else."""
        return not self.tokens.issuperset(participants)

    def may_have(self, participants: Sequence[str], shared: Shared) -> bool:
        """Whether its content is in their copy. What is about others too is theirs as well (Art.
        15(4)), unless the policy keeps it whole when one of them goes."""
        return shared is Shared.KEEP or not self.is_about_others(participants)
