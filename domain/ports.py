"""What the use cases need of the world: Protocols that adapters implement.

The log and the vault share one database and one transaction, so that an event and the rows that
change with it are written together or not at all. Three implementations of each pass the same
contract suite (tests/contracts): SQLite, PostgreSQL and in memory (for `lapse simulate`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from domain.access import AccessRequest
from domain.erasure import ErasureRequest, Reach, Status
from domain.facts import Fact
from domain.ledger import Deed, Entry
from domain.policy import Applied, Versions
from domain.session import Event, Ground, Hold, Kept, Scope, Session

Logged = Event | Applied | Fact
"""Whatever stands in the log."""

PARTITION = 0
"""The only partition accepted until a distributed store needs more; it stands in every key."""


# -- what is written --------------------------------------------------------------------------


Whom = bytes | str
"""A person: by the keyed hash of their name, or by the random id that the vault gave them."""


@dataclass(frozen=True)
class SubjectKey:
    """A natural person in the vault: found by `lookup`, a keyed hash; `wrapped` is their key.

    fresh: whether this row is to be written (False: it was read).
    """

    lookup: bytes
    subject: str
    kek: str
    wrapped: bytes
    fresh: bool


@dataclass(frozen=True)
class Admission:
    """Someone becomes known to a session under a random token.

    role: `participant` or `owner`. sealed: who it is, under the data key `wrapped` (itself under
    the subject's key). joined_at: None for an owner who is not present, and for a further name.
    """

    token: str
    role: str
    subject: SubjectKey
    sealed: bytes
    wrapped: bytes
    joined_at: int | None


@dataclass(frozen=True)
class DataKey:
    """A key that seals one tier of one participant in one session, wrapped under their own.

    token: whose; empty: of what belongs to nobody in particular, then the subject is the session
    itself.
    """

    session_id: str
    tier: Scope
    token: str
    subject: SubjectKey
    wrapped: bytes


@dataclass(frozen=True)
class ItemHead:
    """An item without its content. part: which chunk of an upload, else 0. count: records in it,
    None for bytes. participants: tokens of those it is about. size: bytes, sealed."""

    item_id: str
    part: int
    scope: Scope
    kind: str
    stored_at: int
    size: int
    participants: tuple[str, ...] = ()
    media_type: str | None = None
    count: int | None = None

    @property
    def token(self) -> str:
        """Whose key seals it: that of the only one it is about, else the joint key."""
        return self.participants[0] if len(self.participants) == 1 else ""


@dataclass(frozen=True)
class Item:
    """An item as the vault keeps it."""

    head: ItemHead
    sealed: bytes


@dataclass(frozen=True)
class Upload:
    """Bytes that come in chunks. size: of all of them, in clear."""

    upload_id: str
    kind: str
    size: int
    created_at: int
    participants: tuple[str, ...] = ()
    media_type: str | None = None


@dataclass(frozen=True)
class Partial:
    """What one participant (token; empty: nobody in particular) adds to the summary, sealed.

    contributors: of what belongs to nobody in particular, the tokens of those whom any of it named.
    """

    token: str
    sealed: bytes
    contributors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Joint:
    """What belongs to nobody in particular in one session: the keys of its tiers, and the figures
    of what nobody or several people stored."""

    keys: Mapping[Scope, DataKey]
    partial: Partial | None


class Invite(NamedTuple):
    """Lets `uses` people into a session until `expires_at`. name: a keyed hash of its secret."""

    name: bytes
    session_id: str
    uses: int
    expires_at: int


@dataclass(frozen=True)
class Changes:
    """Rows of the vault that change with an append. seen, left, back: token -> when.

    admitted: who becomes known, or known under one more name (then without `joined_at`). retired:
    (token, lookup) of names that lead to their token no more. back: who came again after leaving.
    alias: the keyed hash of the source's own name for this session. invited: an invite that is
    made. invite: the keyed hash of the one that is used; the append is refused if it is used up.
    joint: the session's own key, if this append makes it. relies_on: joint keys that were there and
    sealed some of this; the append is refused if others took their place. keys, items, uploads,
    partials: what is stored, and how far the summary's figures are.
    """

    admitted: tuple[Admission, ...] = ()
    retired: tuple[tuple[str, bytes], ...] = ()
    seen: Mapping[str, int] | None = None
    left: Mapping[str, int] | None = None
    back: Mapping[str, int] | None = None
    alias: bytes | None = None
    invited: Invite | None = None
    invite: bytes | None = None
    joint: SubjectKey | None = None
    keys: tuple[DataKey, ...] = ()
    relies_on: tuple[DataKey, ...] = ()
    items: tuple[Item, ...] = ()
    uploads: tuple[Upload, ...] = ()
    partials: tuple[Partial, ...] = ()

    @property
    def stores(self) -> bool:
        """Whether something is stored, beside who takes part."""
        return bool(self.keys or self.items or self.uploads or self.partials)


NO_CHANGES = Changes()


@dataclass(frozen=True)
class Limit:
    """A count that must not rise above `most` by this append. scope: see `scope_of`."""

    scope: str
    most: int
    name: str


def policy_scope(policy: str) -> str:
    """The counter of the live sessions of a policy."""
    return f"policy:{policy}"


def owner_scope(policy: str, subject: str) -> str:
    """The counter of one owner's live sessions under a policy."""
    return f"owner:{policy}:{subject}"


def bytes_scope(policy: str) -> str:
    """The counter of the bytes that sessions of a policy store."""
    return f"bytes:{policy}"


class Deletion(NamedTuple):
    """Which rows of the vault go.

    before: those stored earlier than this (None: all). ended: whether nothing more will be stored,
    so that uploads that were announced go too.
    """

    scope: Scope
    before: int | None = None
    ended: bool = True


class Append(NamedTuple):
    """What one author wants written: events of one session and the rows that change with them.

    before: the state it was decided on (None: a new session). after: the state the events lead
    to. due_at: when the session is due next, or earlier. owner: the owner's subject. command: a
    hash that makes the command happen once. decided_on: the newest presence that the timeline was
    asked with, if what it said is among the events; the append is stale if somebody was seen since.
    deletes: which of the vault's rows of this session go (only `use_cases/erase.py` sets it).
    """

    before: Session | None
    after: Session
    events: tuple[Event, ...]
    due_at: int | None
    changes: Changes = NO_CHANGES
    limits: tuple[Limit, ...] = ()
    owner: str | None = None
    command: bytes | None = None
    deletes: tuple[Deletion, ...] = ()
    decided_on: int | None = None

    @property
    def session_id(self) -> str:
        return self.after.id

    @property
    def expected_version(self) -> int:
        return self.before.version if self.before is not None else 0

    @property
    def live_delta(self) -> int:
        """How the number of live sessions changes: +1, 0 or -1."""
        return int(self.after.live) - int(self.before is not None and self.before.live)

    @property
    def erases(self) -> bool:
        """Whether everything of the session goes."""
        return any(one.scope is Scope.EVERYTHING for one in self.deletes)

    @property
    def counts(self) -> Sequence[tuple[str, int]]:
        """(counter, by how much it moves) of all that this changes."""
        counts = []
        after, before = self.after, self.before
        live = self.live_delta
        if live:
            counts.append((policy_scope(after.policy), live))
            if self.owner is not None:
                counts.append((owner_scope(after.policy, self.owner), live))
        more = after.stored_bytes - (before.stored_bytes if before is not None else 0)
        if more:
            counts.append((bytes_scope(after.policy), more))
        return counts


class Appended(NamedTuple):
    """What was written, or what the same command wrote before (then `repeated`)."""

    session_id: str
    version: int
    repeated: bool = False


@dataclass(frozen=True)
class Bookmark:
    """A small value that is written in the same transaction: how far a long job has come."""

    name: str
    value: bytes


# -- what is read -----------------------------------------------------------------------------


class Found(NamedTuple):
    """A session as commands decide on it. last_seen: the newest presence, sampled or not.

    due_at: the stored deadline, never later than the true one. owner: the owner's subject.
    """

    session: Session
    last_seen: int
    due_at: int | None
    owner: str | None = None


class Member(NamedTuple):
    """A participant of a session. token: how the log knows them."""

    session_id: str
    token: str
    joined_at: int
    last_seen_at: int
    left_at: int | None


class SealedIdentity(NamedTuple):
    """Who a participant is, sealed, with the keys to open it."""

    member: Member
    subject: SubjectKey
    wrapped: bytes
    sealed: bytes


class Recorded(NamedTuple):
    """An event as it stands in the log.

    recorded_at: when it was written, by the clock of its writer: an import lives by its log's own.
    """

    partition: int
    position: int
    recorded_at: int
    event: Logged


# -- erasing one person -----------------------------------------------------------------------


@dataclass(frozen=True)
class Belongings:
    """What the vault holds of one person in one session, as it was read.

    tokens: theirs, sorted. names: (token, subject, role) of each name behind those. others: how
    many other people ever took part. owner: whose session it is, as a subject. items: those that
    name them, and those that name nobody or several. uploads: those that name them. contributors:
    those whom the joint partial figures name (None: there are no such figures).
    """

    session_id: str
    tokens: tuple[str, ...]
    names: tuple[tuple[str, str, str], ...] = ()
    others: int = 0
    owner: str | None = None
    items: tuple[ItemHead, ...] = ()
    uploads: tuple[Upload, ...] = ()
    contributors: tuple[str, ...] | None = None

    @property
    def subjects(self) -> frozenset[str]:
        """Who they are, under all the names they had here."""
        return frozenset(subject for _, subject, _ in self.names)


@dataclass(frozen=True)
class Part:
    """What goes of one person from a session that goes on (only `use_cases/erase.py` makes it).

    found: what was decided on; if the vault holds something else meanwhile, the author decides
    again. items: that go, with all their chunks. rewritten: as they stand from now on. uploads:
    that go. renamed: that stay without them. keys: new joint keys, for those that sealed what
    goes. partial: the joint figures from now on (None: none, if there were any). live: whether the
    session counts against limits. holds, version: of the session as it was decided on.
    """

    found: Belongings
    items: tuple[str, ...] = ()
    rewritten: tuple[Item, ...] = ()
    uploads: tuple[str, ...] = ()
    renamed: tuple[Upload, ...] = ()
    keys: tuple[DataKey, ...] = ()
    partial: Partial | None = None
    policy: str = ""
    live: bool = False
    holds: tuple[Hold, ...] = ()
    version: int = 0

    @property
    def session_id(self) -> str:
        return self.found.session_id

    @property
    def owned_by(self) -> str | None:
        """The owner, if it is they who go."""
        owner = self.found.owner
        return owner if owner in self.found.subjects else None


@dataclass(frozen=True)
class RequestRow:
    """A request as it is kept. due_at: when to look at it next (None: never again).

    failures: how often in a row it did not go on. key: a keyed hash that makes it happen once.
    target: a keyed hash of what it is about, while it is open. session_id: of one that is about a
    session. sealed: identifiers of people, under a key of the request's own, until it is verified.
    keks: see `Reach`. told: whether the erasure ledger knows that it waits.
    """

    request: ErasureRequest
    due_at: int | None
    failures: int = 0
    key: bytes | None = None
    target: bytes | None = None
    session_id: str | None = None
    sealed: bytes | None = None
    keks: tuple[str, ...] = ()
    told: bool = False


@dataclass(frozen=True)
class HoldRow:
    """A hold that stands, on a session or on a person (whose id says nothing by itself)."""

    hold: str
    ground: Ground
    since: int
    until: int | None
    session_id: str | None = None
    subject: str | None = None


# -- sweeping ---------------------------------------------------------------------------------


class Verdict(StrEnum):
    """Why a claimed session got no event."""

    REARMED = "rearmed"  # it was seen meanwhile, or the stored deadline was early
    HELD = "held"  # a hold suspends what is due
    FAILED = "failed"  # it could not be decided; tried again later


class Rearm(NamedTuple):
    """Nothing is written for this session; look again at `due_at` (None: never)."""

    session_id: str
    due_at: int | None
    verdict: Verdict = Verdict.REARMED


@dataclass(frozen=True)
class SweepCount:
    """What a sweep did: due = done + held + rearmed + failed, always.

    events: how many of each topic were written. more: whether due rows may be left.
    """

    due: int = 0
    done: int = 0
    held: int = 0
    rearmed: int = 0
    failed: int = 0
    events: Mapping[str, int] | None = None
    more: bool = False

    def __add__(self, other: "SweepCount") -> "SweepCount":
        events = dict(self.events or {})
        for topic, count in (other.events or {}).items():
            events[topic] = events.get(topic, 0) + count
        return SweepCount(
            self.due + other.due,
            self.done + other.done,
            self.held + other.held,
            self.rearmed + other.rearmed,
            self.failed + other.failed,
            events,
            other.more,
        )


Decide = Callable[[Sequence[Found]], Sequence[Append | Rearm]]
"""What a sweep does with what it claimed: one answer per session, in any order."""
Mark = Callable[[SweepCount], Bookmark]


class Log(Protocol):
    """The append-only store of events with the folded state beside it."""

    def append(
        self,
        appends: Sequence[Append],
        now: int,
        bookmark: Bookmark | None = None,
        *,
        together: bool = False,
        holder: str | None = None,
    ) -> Sequence[Appended | Exception]:
        """Write a batch, one append per session, in one transaction; one answer each, in order.

        A stale or refused append is left out and answered with Conflict, LimitReached or
        SessionExists; the others are written. together: all or none; then the first refusal is
        raised. holder: who must hold the clock for this; raises ClockHeld if they lost it. Raises
        StoreError if nothing was written.
        """
        ...

    def submit(self, append: Append, now: int) -> Appended:
        """Write one append together with whatever else waits (group commit). Raises as above."""
        ...

    def find(self, session_ids: Sequence[str]) -> Mapping[str, Found]:
        """Live state by id; erased and unknown sessions are absent."""
        ...

    def live(self, policy: str) -> int:
        """How many sessions of a policy count against its limit now."""
        ...

    def owned(self, policy: str, subject: str) -> Sequence[Found]:
        """The live sessions of one owner under a policy, the oldest first."""
        ...

    def oldest(self, policy: str, limit: int) -> Sequence[Found]:
        """Live sessions of a policy, the oldest first, at most `limit`. Reads all that are alive:
        for what happens at a limit only."""
        ...

    def kept(self, session_ids: Sequence[str]) -> Mapping[str, Sequence[Kept]]:
        """What the vault holds of each session, by scope and time of storing."""
        ...

    def stored_bytes(self) -> int:
        """What all sessions store, in bytes."""
        ...

    def relievable(self, limit: int) -> Sequence[Found]:
        """Sessions that store something: first those that are finished, the oldest first, then the
        others, those that were not seen for longest first; at most `limit`."""
        ...

    def history(self, session_id: str) -> Sequence[Recorded]:
        """Every event of one session, in order."""
        ...

    def read(self, after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
        """Events behind position `after`, in commit order, at most `limit`. Never skips one."""
        ...

    def head(self) -> int:
        """The position of the newest event; 0 in an empty log."""
        ...

    def sweep(
        self, now: int, limit: int, decide: Decide, holder: str, mark: Mark | None = None
    ) -> SweepCount:
        """Claim at most `limit` rows whose deadline has passed, decide, write: one transaction.

        Rows that another sweeper holds are passed over. holder: who may sweep although the clock
        is leased. Raises ClockHeld when somebody else holds the clock.
        """
        ...

    def next_due(self) -> int | None:
        """The earliest stored deadline."""
        ...

    def policies(self) -> Mapping[str, Versions]:
        """Every policy that was ever applied, with all its versions."""
        ...

    def apply_policy(self, applied: Applied, now: int, bookmark: Bookmark | None = None) -> None:
        """Record a version of a policy. Raises Conflict if the version exists."""
        ...

    def due_of_policy(self, policy: str, after: str, limit: int) -> Sequence["Found | Rearm"]:
        """Live sessions of a policy in order of id: to re-arm them under a new version.

        One that cannot be read comes as a failed `Rearm`, so that it stops none of the others.
        """
        ...

    def rearm(self, rearms: Sequence[Rearm], bookmark: Bookmark | None = None) -> None:
        """Store deadlines, where they are earlier than the stored ones."""
        ...

    def bookmark(self, name: str) -> bytes | None:
        """The value of a bookmark, None if there is none."""
        ...

    def is_known(self, command: bytes) -> bool:
        """Whether this command happened already, within the term command ids are kept for."""
        ...

    def forget_commands(self, now: int) -> int:
        """Drop command ids whose time is over; how many."""
        ...

    def lease_clock(self, holder: str, until: int) -> None:
        """Hold the clock until the wall-clock time `until`. Raises ClockHeld if another does."""
        ...

    def release_clock(self, holder: str) -> None:
        """Give the clock back."""
        ...


class Ledger(Protocol):
    """The erasure ledger, see `domain.ledger`: append-only, outside the database."""

    def append(self, entries: Sequence[Entry]) -> int:
        """Write what belongs to one transaction, durable when this returns; the new length.

        The first number is the one that follows the newest entry. Raises RestorePending if that is
        taken, LedgerTooShort if those before it are missing, LedgerUnavailable; then nothing was
        written, or it cannot be told.
        """
        ...

    def read(self, after: int) -> Iterator[Entry]:
        """Entries behind number `after`, in order. Raises LedgerUnavailable, LedgerDamaged."""
        ...

    def length(self) -> int:
        """The number of the newest entry, 0 if there is none. Raises as `read`."""
        ...


class Vault(Protocol):
    """Where the people are: participants, their presence, who they are (sealed)."""

    def subjects(self, lookups: Sequence[bytes]) -> Mapping[bytes, SubjectKey]:
        """Known subjects by lookup."""
        ...

    def sessions_of(self, lookups: Sequence[bytes], policy: str) -> Mapping[bytes, tuple[str, str]]:
        """The live session and token of each subject under a policy (the newest, if several)."""
        ...

    def sessions_named(self, aliases: Sequence[bytes]) -> Mapping[bytes, str]:
        """The live session behind each alias."""
        ...

    def tokens(self, pairs: Collection[tuple[str, bytes]]) -> Mapping[tuple[str, bytes], Member]:
        """The participant that a subject (by lookup) is in a session, where there is one."""
        ...

    def members(self, session_id: str) -> Sequence[Member]:
        """All participants of a session, those who left included."""
        ...

    def identities(self, session_id: str, after: str, limit: int) -> Sequence[SealedIdentity]:
        """Participants of a session under the names they have now, in order of token: at most
        `limit` behind token `after`."""
        ...

    def invite(self, name: bytes) -> Invite | None:
        """An invite by its keyed hash, with the uses that are left."""
        ...

    def data_keys(
        self, session_id: str, tier: Scope, token: str | None = None
    ) -> Mapping[str, DataKey]:
        """The keys of one tier that were made, by token: all, or that of one token."""
        ...

    def joint(self, session_ids: Sequence[str]) -> Mapping[str, Joint]:
        """What belongs to nobody in particular, of those of these sessions that have any of it."""
        ...

    def taking_part(self, session_id: str, tokens: Sequence[str]) -> Mapping[str, bool]:
        """Those of these tokens that ever joined the session, and whether they are present."""
        ...

    def counted(self, session_id: str, upload_id: str | None) -> int:
        """How many chunks of an upload are here; without one, how many uploads there are."""
        ...

    def subject_of(self, session_id: str, token: str) -> SubjectKey | None:
        """Whose token this is in a session (empty: the session itself); None if nobody's."""
        ...

    def item(self, session_id: str, item_id: str, part: int) -> Item | None:
        """An item with its content, sealed."""
        ...

    def items_at(
        self, places: Sequence[tuple[str, str, int]]
    ) -> Mapping[tuple[str, str, int], Item]:
        """Those that are here of these items, each by (session, id, part), with their content,
        sealed: all of it comes into memory."""
        ...

    def items(
        self, session_id: str, after: str, limit: int, kind: str | None = None
    ) -> Sequence[ItemHead]:
        """Items of a session but for the chunks of uploads, in order of id, at most `limit` behind
        id `after`."""
        ...

    def upload(self, session_id: str, upload_id: str) -> Upload | None:
        """An upload."""
        ...

    def chunks(self, session_id: str, upload_id: str) -> Sequence[ItemHead]:
        """The chunks of an upload that are here, in order."""
        ...

    def partials(self, session_id: str, token: str | None = None) -> Sequence[Partial]:
        """What each participant (or the one of this token) adds to the summary, in order of
        token."""
        ...

    def see(self, seen: Mapping[tuple[str, str], int]) -> set[tuple[str, str]]:
        """Heartbeats: (session, token) -> when. Answers with those that counted.

        One does not count when the session is unknown, expired or erased.
        """
        ...


class RequestStore(Protocol):
    """Requests of people, and what carries them out. Everything here raises StoreError."""

    def add(
        self, row: RequestRow, joint: SubjectKey | None, key: DataKey | None, facts: Sequence[Fact]
    ) -> RequestRow:
        """Write a new request with its facts; the one that stands, if another came before it by
        the same key or about the same target. joint, key: what seals its identifiers."""
        ...

    def find(self, request_id: str) -> RequestRow | None:
        """A request by id."""
        ...

    def by_key(self, key: bytes) -> RequestRow | None:
        """The request that came by this key."""
        ...

    def about_session(self, session_id: str) -> Sequence[RequestRow]:
        """The requests about one session as a whole."""
        ...

    def key_of(self, request_id: str) -> DataKey | None:
        """What seals its identifiers; None once it is gone."""
        ...

    def page(self, after: str, limit: int, status: Status | None = None) -> Sequence[RequestRow]:
        """Requests in order of id, at most `limit` behind id `after`."""
        ...

    def due(self, now: int, limit: int) -> Sequence[str]:
        """Those to be looked at by now, the longest overdue first."""
        ...

    def overdue(self, now: int) -> int:
        """How many were not answered by their deadline."""
        ...

    def save(
        self,
        row: RequestRow,
        facts: Sequence[Fact],
        now: int,
        *,
        forget: bool,
        was: bytes | None,
        deeds: Sequence[Deed] = (),
    ) -> None:
        """Write a request with what happened to it. forget: its identifiers, with their key. was:
        what was sealed of it when it was read. deeds: what the erasure ledger is told.

        Raises Conflict if somebody else moved it meanwhile, or took something in its name.
        """
        ...

    def of_subject(self, whom: Whom) -> Sequence[tuple[str, tuple[str, ...]]]:
        """(session, tokens) wherever this person takes part or is the owner."""
        ...

    def belongings(self, places: Sequence[tuple[str, tuple[str, ...]]]) -> Mapping[str, Belongings]:
        """What the vault holds of somebody, by session, given (session, tokens)."""
        ...

    def erase(
        self,
        wholes: Sequence[Append],
        parts: Sequence[Part],
        now: int,
        settle: Callable[[Sequence[str]], tuple[RequestRow, Sequence[Fact]]],
        *,
        gone: Whom | None = None,
    ) -> RequestRow:
        """Whole sessions, parts of others and the request that asked for it, in one transaction;
        the request as it was written.

        settle: told the subjects of whom nothing is left; the request as it is then, with its
        facts. gone: of a person who must be in no session after this. Raises Conflict if anything
        changed since it was read; then nothing was written.
        """
        ...

    def wake(self, now: int) -> None:
        """Look again at all that are not executed: a hold was released."""
        ...

    def erase_again(self, part: Part, now: int) -> None:
        """A person's part once more, on a restored database. Raises Conflict as `erase`."""
        ...

    def restore(
        self,
        row: RequestRow,
        facts: Sequence[Fact],
        now: int,
        joint: SubjectKey | None = None,
        key: DataKey | None = None,
    ) -> bool:
        """A request that a restored database does not know; False if it does. joint, key: what
        seals its identifiers, if it has any."""
        ...


class HoldStore(Protocol):
    """Holds of people, and where to find those of sessions."""

    def sessions_of(self, lookup: bytes) -> Sequence[str]:
        """The sessions in which a person of this name takes part, or which are theirs."""
        ...

    def place(self, lookup: bytes, row: HoldRow, fact: Fact, now: int) -> None:
        """A hold on a person from now on. Raises SubjectUnknown."""
        ...

    def place_again(self, subject: str, row: HoldRow, fact: Fact, now: int) -> bool:
        """The same on a restored database; False if it knows no such person."""
        ...

    def release(self, hold: str, fact: Fact, now: int) -> None:
        """It ends now; what it suspended falls due. Raises HoldUnknown."""
        ...

    def find(self, hold: str, now: int) -> HoldRow | None:
        """A hold that stands, on whatever it does."""
        ...

    def page(self, now: int, after: str, limit: int) -> Sequence[HoldRow]:
        """Holds that stand, in order of id, at most `limit` behind id `after`."""
        ...


class Keyring(Protocol):
    """Keys that can forget: KEK -> subject key -> data key."""

    def lookup(self, kind: str, name: str) -> bytes:
        """The keyed hash under which a name is found again. kind separates uses."""
        ...

    def new_subject(self, lookup: bytes) -> SubjectKey:
        """A subject with a key of its own."""
        ...

    def seal_identity(
        self, subject: SubjectKey, session_id: str, token: str, identity: str
    ) -> tuple[bytes, bytes]:
        """(sealed identity, wrapped data key) of one person in one session."""
        ...

    def open_identity(
        self, subject: SubjectKey, session_id: str, token: str, wrapped: bytes, sealed: bytes
    ) -> str:
        """Who it was. Raises SealBroken if anything was changed or moved."""
        ...

    def token(self) -> str:
        """A random token, 128 bits."""
        ...

    def joint_subject(self, session_id: str) -> SubjectKey:
        """A key for what belongs to nobody in particular: the subject is the session itself."""
        ...

    def new_data_key(
        self, subject: SubjectKey, session_id: str, tier: Scope, token: str
    ) -> DataKey:
        """A key for one tier of one participant."""
        ...

    def seal(self, key: DataKey, item: str, field: str, content: "Buffer") -> bytes:
        """The content, sealed: it opens under this key, and as this field of this item, only."""
        ...

    def open(self, key: DataKey, item: str, field: str, sealed: bytes) -> bytearray:
        """What was sealed, in a buffer that whoever asked overwrites. Raises SealBroken."""
        ...

    def commitment(self, key: DataKey, item: str, field: str, content: "Buffer") -> str:
        """What binds the content without telling it, hex; it dies with the key."""
        ...


class Summaries(Protocol):
    """The figures of a summary, from records that are forgotten at once."""

    def add(
        self, summary: Mapping[str, str], partial: "Buffer | None", records: "Records", at: int
    ) -> bytes:
        """The partial figures with these records, stored at `at`, added to them."""
        ...

    def figures(
        self, summary: Mapping[str, str], partials: "Sequence[Buffer]", began: int
    ) -> Mapping[str, Any]:
        """The figures that all partials make together. began: when the session did."""
        ...


Buffer = bytes | bytearray | memoryview
Records = Sequence[Mapping[str, Any]]


# -- a copy of what is held about somebody ----------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where somebody is in the vault: a token in a session, and who that is, sealed.

    current: whether it is the name they have there now. wrapped: the key of `sealed`.
    """

    session_id: str
    token: str
    role: str
    current: bool
    subject: SubjectKey
    wrapped: bytes
    sealed: bytes


class Holdings(Protocol):
    """What the vault holds of one person, expired or held or not."""

    def places(self, subject: str) -> Sequence[Place]:
        """In order of session and token."""
        ...

    def members(self, session_id: str, tokens: Collection[str]) -> Sequence[Member]:
        """Their presence in a session."""
        ...

    def heads(self, session_id: str, after: tuple[str, int], limit: int) -> Sequence[ItemHead]:
        """All items of a session, chunks of uploads too, in order of id and part, behind one."""
        ...

    def uploads(self, session_id: str) -> Sequence[Upload]:
        """All uploads of a session."""
        ...


class CopyStore(Protocol):
    """Requests for a copy, and the copies that wait, sealed. Everything raises StoreError."""

    def add(self, request: AccessRequest, fact: Fact, now: int) -> None:
        """A new request."""
        ...

    def find(self, request_id: str) -> AccessRequest | None:
        """A request by id."""
        ...

    def waiting(self, now: int, limit: int) -> Sequence[AccessRequest]:
        """Those to be looked at: without a copy yet, with one that is over or outdated."""
        ...

    def begin(
        self, request: AccessRequest, joint: SubjectKey, key: DataKey, of: Sequence[str]
    ) -> None:
        """A copy of these sessions will be written under this key. From now on whatever erases any
        of them makes it outdated. What an earlier attempt left goes."""
        ...

    def put(self, request_id: str, part: int, sealed: bytes) -> bool:
        """Write one part; False if the copy became outdated meanwhile."""
        ...

    def finish(self, request: AccessRequest, fact: Fact, now: int) -> bool:
        """The copy is whole; False if it became outdated meanwhile."""
        ...

    def note(self, request: AccessRequest, fact: Fact, now: int) -> None:
        """Write what happened to a request. Raises Conflict if somebody else did meanwhile."""
        ...

    def key_of(self, request_id: str) -> DataKey | None:
        """What seals the copy; None once it is gone."""
        ...

    def part(self, request_id: str, part: int) -> bytes | None:
        """One part of the copy, sealed."""
        ...

    def drop(self, request: AccessRequest, fact: Fact | None, now: int) -> None:
        """The copy goes, with its key (only `use_cases/erase.py` calls this)."""
        ...


# -- verifying --------------------------------------------------------------------------------


class Fault(StrEnum):
    """What a scan found."""

    LEFT = "left"  # rows of what was erased
    NOT_A_FACT = "not-a-fact"  # something in a store of facts that is none
    UNCLASSIFIED = "unclassified"  # nobody said what of whom can be here


class Pending(StrEnum):
    """Why it is not known yet whether an erasure is verified."""

    CACHES = "caches"  # processes keep keys for seconds
    CLEANUP = "cleanup"  # none began since
    KEYS = "keys"  # a rotation is moving them
    READER = "reader"  # somebody still reads what was deleted, such as a backup that runs


class ScanProblem(NamedTuple):
    """store: a table (with its schema, if that is not ours) or a part of this process. column: the
    one that is not known, if it is about one. rows: how many were seen, not how many there are."""

    store: str
    fault: Fault
    column: str | None = None
    rows: int = 0


@dataclass(frozen=True)
class ScanResult:
    """What a look at every store found. stores: `clean` or the worst fault of each."""

    ok: bool
    stores: Mapping[str, str]
    problems: Sequence[ScanProblem] = ()


class Scanner(Protocol):
    """Reads back every store after an erasure."""

    def scan(self, reach: Reach) -> ScanResult:
        """Whether nothing is left of what an erasure took, and every store is known."""
        ...


class Verifier(Protocol):
    """Says whether an erasure that was carried out is verified."""

    def verify(self, reach: Reach, executed_at: int, now: int) -> ScanResult | Pending:
        """What the scan after the first clean-up behind it found, or why there was none yet.

        Raises StoreError: then it is not known.
        """
        ...
