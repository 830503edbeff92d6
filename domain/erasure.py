"""What a privacy officer does: requests of data subjects, and what an erasure reaches.

Read top to bottom: what an erasure took (`Reach`), the request with its commands, each a method
that answers with new facts or raises a typed refusal, and `evolve`. No method does I/O or reads a
clock. Times are microseconds since the epoch, UTC.

    requested -> executed -> verified -> final          requested -> refused

A request that cannot go on stays where it is, with a reason; nothing is said to be done that is
not.
"""

from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from domain.errors import RequestNotOpen
from domain.facts import (
    About,
    Fact,
    Refusal,
    RequestExecuted,
    RequestFinal,
    RequestReceived,
    RequestRefused,
    RequestSuspended,
    RequestVerified,
    Verification,
    Waiting,
)

MONTHS = 1
"""Within which whoever asked must be answered (GDPR Art. 12(3))."""


@dataclass(frozen=True)
class Reach:
    """What an erasure took, in ids that say nothing by themselves.

    sessions: erased whole. parts: (session, token) of people whose part went from sessions that go
    on. subjects: ids of people of whom nothing is left. keks: every key-encryption key there was
    when it was carried out; once none of them is left, no copy of the database opens what it took.
    """

    sessions: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()
    subjects: tuple[str, ...] = ()
    keks: tuple[str, ...] = ()

    def and_also(self, other: "Reach") -> "Reach":
        """What two steps of one erasure took."""
        return Reach(
            self.sessions + other.sessions,
            self.parts + other.parts,
            self.subjects + other.subjects,
            tuple(dict.fromkeys(self.keks + other.keks)),
        )


class Status(StrEnum):
    """How far a request is."""

    REQUESTED = "requested"
    EXECUTED = "executed"
    VERIFIED = "verified"
    FINAL = "final"
    REFUSED = "refused"


VAULT, KEYRING = "vault", "keyring"
"""The stores that an execution deletes from; a scan may name more."""
_PENDING, _ERASED = "pending", "erased"


@dataclass(frozen=True)
class ErasureRequest:
    """One request as its facts say. `version` counts them.

    deadline_at: by when whoever asked must be answered. reason: why it does not go on (None: it
    does, or is done). sessions, parts, items, subjects: what its execution took. stores: how far
    each store is.
    """

    id: str
    version: int
    about: About
    verified_by: Verification
    requested_at: int
    deadline_at: int
    status: Status = Status.REQUESTED
    reason: Waiting | None = None
    ground: Refusal | None = None
    executed_at: int | None = None
    verified_at: int | None = None
    final_at: int | None = None
    refused_at: int | None = None
    sessions: int = 0
    parts: int = 0
    items: int = 0
    subjects: int = 0
    stores: Mapping[str, str] = field(default_factory=lambda: {VAULT: _PENDING, KEYRING: _PENDING})

    @property
    def is_done(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in (Status.FINAL, Status.REFUSED)

    # -- commands: each answers with new facts, or () if it happened before --------------------

    def execute(
        self, sessions: int, parts: int, items: int, subjects: int, at: int, actor: str
    ) -> tuple[Fact, ...]:
        """All that it is about is deleted, keys included."""
        if self.executed_at is not None:
            return ()
        self._must_be(Status.REQUESTED, "execute")
        head = (self.id, self.version + 1, at, "", actor)
        return (RequestExecuted(*head, sessions, parts, items, subjects),)

    def suspend(self, reason: Waiting, at: int, actor: str) -> tuple[Fact, ...]:
        """It cannot go on for now. Said once, however often it is tried again."""
        if self.is_done:
            raise RequestNotOpen(self.id, "suspend", self.status)
        if self.reason is reason:
            return ()
        return (RequestSuspended(self.id, self.version + 1, at, "", actor, reason),)

    def verify(self, stores: Mapping[str, str], at: int, actor: str) -> tuple[Fact, ...]:
        """A scan of every store found nothing. stores: what it says of each."""
        if self.verified_at is not None:
            return ()
        self._must_be(Status.EXECUTED, "verify")
        return (RequestVerified(self.id, self.version + 1, at, "", actor, dict(stores)),)

    def finish(self, keks: int, at: int, actor: str) -> tuple[Fact, ...]:
        """Every key under which a copy could be opened is destroyed. keks: how many those were."""
        if self.final_at is not None:
            return ()
        self._must_be(Status.VERIFIED, "finish")
        return (RequestFinal(self.id, self.version + 1, at, "", actor, keks),)

    def refuse(self, ground: Refusal, at: int, actor: str) -> tuple[Fact, ...]:
        """It is not carried out. Raises RequestNotOpen once it was."""
        if self.ground is ground:
            return ()
        self._must_be(Status.REQUESTED, "refuse")
        return (RequestRefused(self.id, self.version + 1, at, "", actor, ground),)

    def _must_be(self, status: Status, command: str) -> None:
        if self.status is not status:
            raise RequestNotOpen(self.id, command, self.status)


def receive(
    request_id: str, about: About, verified_by: Verification, at: int, actor: str
) -> tuple[Fact, ...]:
    """Somebody asks."""
    deadline_at = months_later(at, MONTHS)
    return (RequestReceived(request_id, 1, at, "", actor, about, verified_by, deadline_at),)


def evolve(request: ErasureRequest | None, fact: Fact) -> ErasureRequest:
    """The state after `fact`."""
    at, version = fact.effective_at, fact.originator_version
    if request is None:
        if not isinstance(fact, RequestReceived):
            raise ValueError(f"history of {fact.originator_id} does not start with received")
        return ErasureRequest(
            fact.originator_id, version, fact.about, fact.verified_by, at, fact.deadline_at
        )
    if version != request.version + 1:
        raise ValueError(f"history of {request.id} jumps from {request.version} to {version}")
    match fact:
        case RequestExecuted():
            return replace(
                request,
                version=version,
                status=Status.EXECUTED,
                reason=None,
                executed_at=at,
                sessions=fact.sessions,
                parts=fact.parts,
                items=fact.items,
                subjects=fact.subjects,
                stores={VAULT: _ERASED, KEYRING: _ERASED},
            )
        case RequestSuspended():
            return replace(request, version=version, reason=fact.reason)
        case RequestVerified():
            return replace(
                request,
                version=version,
                status=Status.VERIFIED,
                reason=None,
                verified_at=at,
                stores=dict(fact.stores),
            )
        case RequestFinal():
            return replace(request, version=version, status=Status.FINAL, reason=None, final_at=at)
        case RequestRefused():
            return replace(
                request,
                version=version,
                status=Status.REFUSED,
                reason=None,
                ground=fact.ground,
                refused_at=at,
            )
        case _:
            raise ValueError(f"{type(fact).__name__} cannot follow in the life of a request")


def project(request: ErasureRequest | None, facts: tuple[Fact, ...]) -> ErasureRequest:
    """Fold `facts` in order; there is a request, or one begins."""
    for fact in facts:
        request = evolve(request, fact)
    if request is None:
        raise ValueError("nothing happened yet")
    return request


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def months_later(at: int, months: int) -> int:
    """The same day and time so many months on; the last day of the month where it has fewer."""
    begin = _EPOCH + timedelta(microseconds=at)
    year, month = divmod(begin.year * 12 + begin.month - 1 + months, 12)
    day = min(begin.day, monthrange(year, month + 1)[1])
    end = begin.replace(year=year, month=month + 1, day=day)
    return at + (end - begin) // timedelta(microseconds=1)
