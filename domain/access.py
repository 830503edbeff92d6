"""What a person may ask for: a copy of all that is held about them (GDPR Art. 15 and 20)."""

from dataclasses import dataclass
from enum import StrEnum

from domain.facts import CopyEnded, Verification


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
