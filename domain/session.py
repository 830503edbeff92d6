"""The Session: its events, its state, and what may happen when.

Read top to bottom: the facts (events), the state they fold into (`Session`, `evolve`), and the
commands, each a method that answers with new events or raises a typed refusal. No method does I/O
or reads a clock. Times are microseconds since the epoch, UTC.

Every event is a frozen dataclass that satisfies `eventsourcing.domain.DomainEventProtocol`, with an
explicit versioned topic, so that module paths never reach stored bytes. `Session` is immutable in
the sense of `ImmutableAggregateProtocol`; `project` is the projector function with which the
library's `Repository` rebuilds any session from the log.

No event carries personal data: owners and participants are random tokens that only the vault can
resolve, reasons and grounds are closed enums.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Self

from domain.errors import NotAllowed, OnHold, SessionErased, SessionExists, SessionExpired

NEVER = 2**62
"""A time later than all others (year 148 108), for comparisons."""


class Scope(StrEnum):
    """What an erasure takes away."""

    CHUNKS = "chunks"
    FULL = "full"
    SUMMARY = "summary"
    FILES = "files"
    EVERYTHING = "everything"


class Tier(StrEnum):
    """What is still kept."""

    FULL = "full"
    SUMMARY = "summary"
    NOTHING = "nothing"


class Phase(StrEnum):
    """Where a session stands in its life."""

    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    ERASED = "erased"


class Failure(StrEnum):
    """Why a session failed; closed, so that no message of an application enters the log."""

    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INVALID = "invalid"


class Ground(StrEnum):
    """Why a hold stands (GDPR Art. 17(3) and 18(1))."""

    LEGAL_OBLIGATION = "legal-obligation"
    LEGAL_CLAIM = "legal-claim"
    PUBLIC_INTEREST = "public-interest"
    RESTRICTION = "restriction"


class By(StrEnum):
    """What ended something when it was no rule of the policy."""

    REQUEST = "request"
    LIMIT = "limit"
    EMERGENCY = "emergency"


SCHEDULER = "scheduler"
"""The actor of everything a sweep emits."""
IMPORTER = "importer"
"""The actor of everything an import records."""


# -- events -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """A fact about one session.

    originator_id, originator_version: the session and its version after this event, from 1.
    effective_at: when it happened or was due. policy: its policy, so that a stream can be filtered
    without state. actor: a token, or one of the names above.
    """

    TOPIC: ClassVar[str]

    originator_id: str
    originator_version: int
    effective_at: int
    policy: str
    actor: str


@dataclass(frozen=True)
class Created(Event):
    """The session began under `policy_version`; owner: a token, or None."""

    TOPIC: ClassVar[str] = "session.created.v1"
    policy_version: int
    owner: str | None = None


@dataclass(frozen=True)
class Joined(Event):
    """A participant is present from now on."""

    TOPIC: ClassVar[str] = "session.joined.v1"
    token: str


@dataclass(frozen=True)
class Seen(Event):
    """Somebody was seen at `effective_at`: a sample of presence, not every heartbeat."""

    TOPIC: ClassVar[str] = "session.seen.v1"


@dataclass(frozen=True)
class Left(Event):
    """A participant went."""

    TOPIC: ClassVar[str] = "session.left.v1"
    token: str


@dataclass(frozen=True)
class Stored(Event):
    """Items were put into the vault. size: bytes.

    scope: which erasure takes them (None: not said, whoever keeps them elsewhere; then any may).
    summary_size: bytes of the summary's partial figures from now on (None: there are none).
    commitment: binds the content without telling it, hex; it dies with the key it was made under.
    """

    TOPIC: ClassVar[str] = "session.stored.v2"
    items: int
    size: int
    scope: Scope | None = None
    summary_size: int | None = None
    commitment: str | None = None


@dataclass(frozen=True)
class Completed(Event):
    """The application finished its work on the session."""

    TOPIC: ClassVar[str] = "session.completed.v1"


@dataclass(frozen=True)
class Failed(Event):
    """The application gave up on the session."""

    TOPIC: ClassVar[str] = "session.failed.v1"
    reason: Failure


@dataclass(frozen=True)
class Summarized(Event):
    """The full tier was reduced to its summary and deleted. bytes_freed: bytes."""

    TOPIC: ClassVar[str] = "session.summarized.v1"
    rule: str
    policy_version: int
    bytes_freed: int = 0


@dataclass(frozen=True)
class Compressed(Event):
    """The stored data was compressed without loss. bytes_freed: bytes."""

    TOPIC: ClassVar[str] = "session.compressed.v1"
    rule: str
    policy_version: int
    bytes_freed: int = 0


@dataclass(frozen=True)
class Expiring(Event):
    """A warning: unless something happens, the session expires at `deadline`."""

    TOPIC: ClassVar[str] = "session.expiring.v1"
    rule: str
    policy_version: int
    deadline: int


@dataclass(frozen=True)
class Extended(Event):
    """The session does not expire before `until`."""

    TOPIC: ClassVar[str] = "session.extended.v1"
    until: int


@dataclass(frozen=True)
class Expired(Event):
    """The session is over. last_seen: the presence this was decided on."""

    TOPIC: ClassVar[str] = "session.expired.v1"
    rule: str
    policy_version: int
    last_seen: int


@dataclass(frozen=True)
class Recovered(Event):
    """An expired session lives again, as if last seen at `effective_at`."""

    TOPIC: ClassVar[str] = "session.recovered.v1"


@dataclass(frozen=True)
class Held(Event):
    """No deletion happens while hold `hold` stands (until `until`; None: until released)."""

    TOPIC: ClassVar[str] = "session.held.v1"
    hold: str
    ground: Ground
    until: int | None = None


@dataclass(frozen=True)
class Released(Event):
    """Hold `hold` stands no more; what it suspended is due now."""

    TOPIC: ClassVar[str] = "session.released.v1"
    hold: str


@dataclass(frozen=True)
class Erased(Event):
    """The data in `scope` is gone and its keys are destroyed; EVERYTHING is final.

    oldest_left: items that were not due yet stay; from when the oldest of them counts (None: none
    is left). The timeline knows the newest item only and says that; the vault knows each.
    """

    TOPIC: ClassVar[str] = "session.erased.v1"
    scope: Scope
    rule: str
    policy_version: int
    bytes_freed: int = 0
    oldest_left: int | None = None


EVENTS: tuple[type[Event], ...] = (
    Created,
    Joined,
    Seen,
    Left,
    Stored,
    Completed,
    Failed,
    Summarized,
    Compressed,
    Expiring,
    Extended,
    Expired,
    Recovered,
    Held,
    Released,
    Erased,
)
TOPICS: dict[str, type[Event]] = {cls.TOPIC: cls for cls in EVENTS}


def _stored_v1(fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """It did not say what was stored."""
    return Stored.TOPIC, {**fields, "scope": None, "summary_size": None, "commitment": None}


UPCASTERS: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "session.stored.v1": _stored_v1
}
"""Superseded topic -> a function from its stored fields to those of the next version's topic.

When an event changes shape it gets a new topic (`session.seen.v2`), and the old one stands here:
stored bytes are never rewritten, their hashes are in the tree.
"""


# -- state ------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """Items of one scope that were stored at one instant. size: bytes of all of them."""

    scope: Scope
    stored_at: int
    size: int


@dataclass(frozen=True)
class Hold:
    """A hold as the session knows it: standing from `since` until `until` (None: released)."""

    id: str
    since: int
    until: int | None


@dataclass(frozen=True)
class Session:
    """One session as its events say. `version` counts them; a tombstone has `erased_at`.

    size: bytes of the full tier, of which chunk_size are chunks. summary_size: bytes of the
    summary's partial figures, result_size: of results beside them. stored_at: when something was
    last stored. oldest_item_at, oldest_chunk_at, oldest_file_at: since when there is something
    that an erasure of full, chunks, files can take (None: nothing).
    reduced_at: when the full tier went, with or without a summary. warned_at: warnings up to this
    instant were given, or an extension made them pointless. erased: the scopes of which nothing is
    left. holds_of_people: holds of somebody who takes part in it; they stand in no event of it, so
    that the log does not connect the sessions of a person, and come from the vault with each
    reading.
    """

    id: str
    version: int
    policy: str
    policy_version: int
    owner: str | None
    created_at: int
    last_seen_at: int
    joined: int = 0
    present: int = 0
    items: int = 0
    size: int = 0
    chunk_size: int = 0
    summary_size: int = 0
    result_size: int = 0
    stored_at: int | None = None
    oldest_item_at: int | None = None
    oldest_chunk_at: int | None = None
    oldest_file_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    summarized_at: int | None = None
    reduced_at: int | None = None
    compressed_at: int | None = None
    warned_at: int | None = None
    extended_until: int | None = None
    expired_at: int | None = None
    expired_by: str | None = None
    recovered_at: int | None = None
    released_at: int | None = None
    erased_at: int | None = None
    erased: frozenset[Scope] = frozenset()
    holds: tuple[Hold, ...] = ()
    holds_of_people: tuple[Hold, ...] = ()

    @property
    def phase(self) -> Phase:
        if self.erased_at is not None:
            return Phase.ERASED
        if self.expired_at is not None:
            return Phase.EXPIRED
        if self.failed_at is not None:
            return Phase.FAILED
        if self.completed_at is not None:
            return Phase.COMPLETED
        return Phase.ACTIVE

    @property
    def tier(self) -> Tier:
        if self.erased_at is not None or {Scope.FULL, Scope.SUMMARY} <= self.erased:
            return Tier.NOTHING
        return Tier.SUMMARY if Scope.FULL in self.erased else Tier.FULL

    @property
    def stored_bytes(self) -> int:
        """Everything the vault holds of it."""
        return self.size + self.summary_size + self.result_size

    @property
    def held(self) -> bool:
        """Whether there is a hold on it or on somebody in it, which may have ended by itself."""
        return bool(self.holds or self.holds_of_people)

    @property
    def live(self) -> bool:
        """Whether it counts against limits: neither expired nor erased."""
        return self.expired_at is None and self.erased_at is None

    def held_until(self, at: int) -> int | None:
        """When the last hold that stands at `at` ends; `at` if none stands, None if open-ended."""
        end = at
        holds = self.holds + self.holds_of_people
        for hold in sorted(holds, key=lambda hold: hold.since):
            if hold.since <= end:
                if hold.until is None:
                    return None
                end = max(end, hold.until)
        return end

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """A session with these fields; those left out keep the defaults of the class.

        The frozen constructor assigns all 29 fields one by one: 5 us against 0.4 us, and a sweep
        makes two sessions for every row it touches.
        """
        session = object.__new__(cls)
        session.__dict__.update(fields)
        return session

    def changed(self, **changes: Any) -> Self:
        """A copy with `changes` (`dataclasses.replace` runs the constructor, see `of`)."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(changes)
        return copy

    # -- commands: each answers with new events, or () if it happened before -------------------

    def join(self, token: str, at: int, actor: str, *, present: bool) -> tuple[Event, ...]:
        """Someone comes in. present: whether `token` is in already (then nothing happens)."""
        self.must_live("join")
        if present:
            return ()
        return (Joined(self.id, self.version + 1, at, self.policy, actor, token),)

    def leave(self, token: str, at: int, actor: str, *, present: bool) -> tuple[Event, ...]:
        """Someone goes. present: whether `token` is in (if not, nothing happens)."""
        self.must_live("leave")
        if not present:
            return ()
        return (Left(self.id, self.version + 1, at, self.policy, actor, token),)

    def see(self, at: int, actor: str, *, every: int) -> tuple[Event, ...]:
        """Somebody was seen at `at`; recorded at most once per `every` microseconds."""
        self.must_live("see")
        if at < self.last_seen_at + max(every, 1):
            return ()
        return (Seen(self.id, self.version + 1, at, self.policy, actor),)

    def store(
        self,
        items: int,
        size: int,
        at: int,
        actor: str,
        *,
        scope: Scope | None = None,
        summary_size: int | None = None,
        commitment: str | None = None,
    ) -> tuple[Event, ...]:
        """Items came in, see `Stored`. A result (scope SUMMARY) may come after completion too."""
        self.must_live("store in")
        phases = (Phase.ACTIVE, Phase.COMPLETED) if scope is Scope.SUMMARY else (Phase.ACTIVE,)
        tiers = (Tier.FULL, Tier.SUMMARY) if scope is Scope.SUMMARY else (Tier.FULL,)
        if self.phase not in phases or self.tier not in tiers:
            raise NotAllowed(self.id, "store in", f"it is {self.phase}, tier {self.tier}")
        summed = (self.summary_size if summary_size is None else summary_size) or None
        head = (self.id, self.version + 1, at, self.policy, actor)
        return (Stored(*head, items, size, scope, summed, commitment),)

    def summarize(self, policy_version: int, at: int, actor: str) -> tuple[Event, ...]:
        """The full tier is reduced to its summary now, on demand. Raises OnHold."""
        if self.erased_at is None and Scope.FULL in self.erased:
            return ()
        self.must_live("summarize")
        until = self.held_until(at)
        if until != at:
            raise OnHold(self.id, until)
        head = (self.id, self.version + 1, at, self.policy, actor)
        return (Summarized(*head, By.REQUEST, policy_version, self.size),)

    def complete(self, at: int, actor: str) -> tuple[Event, ...]:
        """The application is done with it."""
        self.must_live("complete")
        if self.completed_at is not None:
            return ()
        if self.failed_at is not None:
            raise NotAllowed(self.id, "complete", "it has failed")
        return (Completed(self.id, self.version + 1, at, self.policy, actor),)

    def fail(self, reason: Failure, at: int, actor: str) -> tuple[Event, ...]:
        """The application gave up on it."""
        self.must_live("fail")
        if self.failed_at is not None:
            return ()
        if self.completed_at is not None:
            raise NotAllowed(self.id, "fail", "it is completed")
        return (Failed(self.id, self.version + 1, at, self.policy, actor, reason),)

    def extend(self, until: int, at: int, actor: str) -> tuple[Event, ...]:
        """It shall not expire before `until`."""
        self.must_live("extend")
        if until <= at:
            raise NotAllowed(self.id, "extend", "the new end lies in the past")
        if self.extended_until is not None and until <= self.extended_until:
            return ()
        return (Extended(self.id, self.version + 1, at, self.policy, actor, until),)

    def expire(self, rule: str, policy_version: int, at: int, actor: str) -> tuple[Event, ...]:
        """It ends now, by other means than its rules (those are `timeline`'s)."""
        if self.erased_at is None and self.expired_at is not None:
            return ()
        self.must_live("expire")
        last_seen = self.last_seen_at
        return (
            Expired(
                self.id, self.version + 1, at, self.policy, actor, rule, policy_version, last_seen
            ),
        )

    def erase(
        self, policy_version: int, at: int, actor: str, *, by: By = By.REQUEST
    ) -> tuple[Event, ...]:
        """All its data goes now, by other means than its rules. Raises OnHold."""
        if self.erased_at is not None:
            return ()
        until = self.held_until(at)
        if until != at:
            raise OnHold(self.id, until)
        return (
            Erased(
                self.id,
                self.version + 1,
                at,
                self.policy,
                actor,
                Scope.EVERYTHING,
                by,
                policy_version,
                self.stored_bytes,
            ),
        )

    def recover(self, within: int, at: int, actor: str) -> tuple[Event, ...]:
        """It lives again. within: microseconds after expiry in which this is possible."""
        if self.erased_at is not None:
            raise SessionErased(self.id, self.erased_at)
        if self.expired_at is None:
            return ()
        if at >= self.expired_at + within:
            raise SessionExpired(self.id, self.expired_at, str(self.expired_by))
        return (Recovered(self.id, self.version + 1, at, self.policy, actor),)

    def hold(
        self, hold: str, ground: Ground, until: int | None, at: int, actor: str
    ) -> tuple[Event, ...]:
        """Nothing of it may be deleted while the hold stands.

        A hold that has ended may be placed again. One that stands keeps its term: to change it,
        place another beside it, so that nothing is unprotected in between.
        """
        if self.erased_at is not None:
            raise SessionErased(self.id, self.erased_at)
        if until is not None and until <= at:
            raise NotAllowed(self.id, "hold", "the hold would end in the past")
        for known in self.holds:
            if known.id == hold and (known.until is None or known.until > at):
                if known.until == until:
                    return ()
                raise NotAllowed(self.id, "hold", "this hold stands already, with another end")
        return (Held(self.id, self.version + 1, at, self.policy, actor, hold, ground, until),)

    def release(self, hold: str, at: int, actor: str) -> tuple[Event, ...]:
        """The hold stands no more."""
        if self.erased_at is not None:
            raise SessionErased(self.id, self.erased_at)
        if all(known.id != hold for known in self.holds):
            return ()
        return (Released(self.id, self.version + 1, at, self.policy, actor, hold),)

    def must_live(self, command: str) -> None:
        """Raises SessionErased, SessionExpired."""
        if self.erased_at is not None:
            raise SessionErased(self.id, self.erased_at)
        if self.expired_at is not None:
            raise SessionExpired(self.id, self.expired_at, str(self.expired_by))


def create(
    session: Session | None,
    session_id: str,
    policy: str,
    policy_version: int,
    at: int,
    actor: str,
    owner: str | None = None,
) -> tuple[Event, ...]:
    """A session begins.

    Raises SessionExists if it did before under other terms; the same command again is ().
    """
    if session is None:
        return (Created(session_id, 1, at, policy, actor, policy_version, owner),)
    if session.policy == policy:
        return ()
    raise SessionExists(session_id)


# -- evolve -----------------------------------------------------------------------------------


def evolve(session: Session | None, event: Event) -> Session:
    """The state after `event`."""
    at, version = event.effective_at, event.originator_version
    if session is None:
        if not isinstance(event, Created):
            raise ValueError(f"history of {event.originator_id} does not start with created")
        return Session.of(
            {
                "id": event.originator_id,
                "version": version,
                "policy": event.policy,
                "policy_version": event.policy_version,
                "owner": event.owner,
                "created_at": at,
                "last_seen_at": at,
            }
        )
    if version != session.version + 1:
        raise ValueError(f"history of {session.id} jumps from {session.version} to {version}")
    match event:
        case Seen():
            return session.changed(version=version, last_seen_at=max(session.last_seen_at, at))
        case Joined():
            return session.changed(
                version=version,
                last_seen_at=max(session.last_seen_at, at),
                joined=session.joined + 1,
                present=session.present + 1,
            )
        case Left():
            return session.changed(
                version=version,
                last_seen_at=max(session.last_seen_at, at),
                present=session.present - 1,
            )
        case Expired():
            return session.changed(
                version=version,
                expired_at=at,
                expired_by=event.rule,
                last_seen_at=max(session.last_seen_at, event.last_seen),
            )
        case Erased(scope=Scope.EVERYTHING):
            return session.changed(
                version=version, erased_at=at, items=0, size=0, **_no_sizes(session)
            )
        case Erased(scope=Scope.SUMMARY):
            return session.changed(
                version=version,
                **_no_sizes(session, "summary_size", "result_size"),
                **_left_of(event.scope, event.oldest_left, at, session),
            )
        case Erased():
            return session.changed(
                version=version,
                size=max(0, session.size - event.bytes_freed),
                **_chunks_left(event, session),
                **_left_of(event.scope, event.oldest_left, at, session),
            )
        case Stored():
            return session.changed(
                version=version,
                items=session.items + event.items,
                stored_at=at,
                **_more(event, session),
            )
        case Completed():
            return session.changed(version=version, completed_at=at)
        case Failed():
            return session.changed(version=version, failed_at=at)
        case Summarized():
            return session.changed(
                version=version,
                summarized_at=at,
                size=max(0, session.size - event.bytes_freed),
                **_no_sizes(session, "chunk_size"),
                **_left_of_full(None, at, session),
            )
        case Compressed():
            return session.changed(
                version=version,
                compressed_at=at,
                size=max(0, session.size - event.bytes_freed),
            )
        case Expiring():
            return session.changed(version=version, warned_at=at)
        case Extended():
            # Who extends knows the end: a warning of the new one that would be late is none.
            return session.changed(version=version, extended_until=event.until, warned_at=at)
        case Recovered():
            return session.changed(
                version=version,
                expired_at=None,
                expired_by=None,
                recovered_at=at,
                last_seen_at=max(session.last_seen_at, at),
            )
        case Held():
            others = tuple(hold for hold in session.holds if hold.id != event.hold)
            hold = Hold(event.hold, at, event.until)
            return session.changed(version=version, holds=(*others, hold))
        case Released():
            others = tuple(hold for hold in session.holds if hold.id != event.hold)
            return session.changed(version=version, holds=others, released_at=at)
        case _:
            raise ValueError(f"{type(event).__name__} cannot follow in the life of a session")


OLDEST: dict[Scope | None, str] = {
    Scope.FULL: "oldest_item_at",
    Scope.CHUNKS: "oldest_chunk_at",
    Scope.FILES: "oldest_file_at",
}
"""Where a session keeps since when an erasure of these scopes has something to take."""

_FULL_TIER = frozenset(OLDEST)
"""Chunks and files belong to the full tier: they go with it."""


def _no_sizes(session: Session, *names: str) -> dict[str, Any]:
    """These sizes (all, if none is named) are 0 now. Those that were are left out, so that the
    states of sessions that store nothing stay small."""
    names = names or ("chunk_size", "summary_size", "result_size")
    return {name: 0 for name in names if getattr(session, name)}


def _more(event: Stored, session: Session) -> dict[str, Any]:
    """What changes when something is stored."""
    at, scope = event.effective_at, event.scope
    changes: dict[str, Any] = {}
    summary_size = event.summary_size or 0
    if summary_size != session.summary_size:
        changes["summary_size"] = summary_size
    if scope is Scope.SUMMARY:
        changes["result_size"] = session.result_size + event.size
        changes["erased"] = session.erased - {Scope.SUMMARY}
        return changes
    changes["size"] = session.size + event.size
    if scope is Scope.CHUNKS:
        changes["chunk_size"] = session.chunk_size + event.size
    for part, field in OLDEST.items():
        if scope in (None, part) or part is Scope.FULL:
            changes[field] = getattr(session, field) or at
    changes["erased"] = session.erased - (_FULL_TIER if scope is None else {Scope.FULL, scope})
    return changes


def _chunks_left(event: Erased, session: Session) -> dict[str, Any]:
    """Chunks go with the full tier and by rules of their own."""
    if not session.chunk_size or event.scope not in (Scope.FULL, Scope.CHUNKS):
        return {}
    if event.oldest_left is None:
        nothing_else = event.scope is Scope.CHUNKS and session.size == session.chunk_size
        return {"chunk_size": 0, **({"oldest_item_at": None} if nothing_else else {})}
    if event.scope is Scope.FULL:
        return {}
    return {"chunk_size": max(0, session.chunk_size - event.bytes_freed)}


def _left_of(scope: Scope, oldest_left: int | None, at: int, session: Session) -> dict[str, Any]:
    """What changes when `scope` is erased at `at`, up to items that count from `oldest_left`."""
    if scope is Scope.FULL:
        return _left_of_full(oldest_left, at, session)
    changes: dict[str, Any] = {}
    if session.stored_at is not None and scope in OLDEST:
        changes[OLDEST[scope]] = oldest_left
    if oldest_left is None:
        changes["erased"] = session.erased | {scope}
    return changes


def _left_of_full(oldest_left: int | None, at: int, session: Session) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if session.stored_at is not None:
        changes = {field: _later(session, field, oldest_left) for field in OLDEST.values()}
    if oldest_left is None:
        changes["erased"] = session.erased | _FULL_TIER
        changes["reduced_at"] = at
    return changes


def _later(session: Session, field: str, oldest_left: int | None) -> int | None:
    current: int | None = getattr(session, field)
    return None if current is None or oldest_left is None else max(current, oldest_left)


def project(session: Session | None, events: Iterable[Event]) -> Session | None:
    """Fold `events` in order: the projector function for the library's `Repository.get`."""
    for event in events:
        session = evolve(session, event)
    return session
