"""What sessions store: items, uploads in chunks, and the figures that stay of them.

Everything is sealed before it reaches the vault, under the key of the one participant it is about,
or under the session's joint key. It is about those whom the caller names and those whom its records
name, so that whoever erases one of them finds it. An item is hidden at the instant its rule takes
it, swept or not.

The figures of a summary grow with every item: each participant's part is opened, added to and
sealed again in the same append. So a summary costs a sweep nothing - it deletes the full tier and
its keys, without a look at what they held - and no memory grows with the length of a session.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from domain.errors import (
    ContentRefused,
    ItemErased,
    ItemUnknown,
    LimitReached,
    NotAllowed,
    ParticipantUnknown,
    SessionErased,
)
from domain.policy import RetentionPolicy, in_force
from domain.ports import (
    NO_CHANGES,
    Changes,
    DataKey,
    Found,
    Item,
    ItemHead,
    Keyring,
    Partial,
    Records,
    SubjectKey,
    Summaries,
    Upload,
    Vault,
)
from domain.session import Event, Scope, Session, Tier
from domain.timeline import taken
from domain.use_cases.policies import PolicyBook
from domain.use_cases.redact import tokens_in
from domain.use_cases.sessions import Decision, Sessions, named

CHUNK = 1_048_576
"""Bytes of every chunk of an upload but the last."""
MOST_CHUNKS = 100_000
"""Of one upload."""
MOST_UPLOADS = 1_000
"""Of one session."""

_SUMMARY = "summary"
"""The item under whose name partial figures are sealed."""


@dataclass(frozen=True)
class Content:
    """Something to store. plaintext: whoever made it overwrites it. records: what it holds, for the
    figures of the summary; None for bytes."""

    kind: str
    plaintext: bytearray
    scope: Scope = Scope.FULL
    participants: tuple[str, ...] = ()
    media_type: str | None = None
    records: Records | None = None


@dataclass(frozen=True)
class Ends:
    """When something is hidden, when it is erased, and by which rule; None: by none."""

    expires_at: int | None
    erases_at: int | None
    rule: str | None
    policy_version: int


@dataclass(frozen=True)
class StoredItem:
    """An item that can be read now."""

    head: ItemHead
    ends: Ends


@dataclass(frozen=True)
class StoredUpload:
    """An upload that can be gone on with. received: the chunks that are here, in order."""

    upload: Upload
    received: tuple[int, ...]
    ends: Ends

    @property
    def chunks(self) -> int:
        return chunks_of(self.upload)

    @property
    def complete(self) -> bool:
        return len(self.received) == self.chunks


@dataclass(frozen=True)
class Received:
    """What became of a chunk. policy: of its session. repeated: the same one was here already."""

    policy: str
    index: int
    size: int
    received: int
    chunks: int
    repeated: bool


@dataclass(frozen=True)
class Figures:
    """A summary. contributors: participants whose records are in it, beside those of nobody."""

    tier: Tier
    figures: Mapping[str, Any]
    contributors: int
    ends: Ends


def chunks_of(upload: Upload) -> int:
    return -(-upload.size // CHUNK)


@dataclass
class _Writing:
    """What one append stores, as it comes together."""

    joint: SubjectKey | None = None
    keys: list[DataKey] = field(default_factory=list)
    relies_on: list[DataKey] = field(default_factory=list)


class Items:
    """The commands, and what can be read. `actor` is who asks, as in `Sessions`."""

    def __init__(
        self,
        vault: Vault,
        keyring: Keyring,
        policies: PolicyBook,
        sessions: Sessions,
        summaries: Summaries,
    ) -> None:
        self._vault = vault
        self._keyring = keyring
        self._policies = policies
        self._sessions = sessions
        self._summaries = summaries

    # -- storing ------------------------------------------------------------------------------

    def store(
        self, session_id: str, content: Content, now: int, actor: str, *, key: str | None = None
    ) -> StoredItem:
        """Keep something. key: makes it happen once; asked again, it is the same item.

        Raises LimitReached, NotAllowed, ParticipantUnknown, and as every command on a session.
        """
        item_id, command = self._keyring.token(), None
        if key is not None:
            digest = sha256(content.plaintext).hexdigest()
            about = (content.scope, content.media_type, *content.participants)
            command = named("item", key, content.kind, digest, *about)
            item_id = self._named_id(actor, session_id, str(command))
        head: ItemHead | None = None
        about_whom = content

        def decide(session: Session) -> Decision:
            nonlocal head, about_whom
            if key is not None and self._vault.item(session_id, item_id, 0) is not None:
                return (), NO_CHANGES  # by the same key, longer ago than commands are remembered
            # Kept for when this is decided again: whoever was erased meanwhile is unknown then.
            about_whom = self._with_all_named(session_id, about_whom)
            events, changes = self._storing(session, about_whom, item_id, 0, now, actor)
            head = changes.items[0].head
            return events, changes

        self._sessions.command(session_id, now, actor, command, decide)
        if head is None or key is not None:  # it may have come before, and stands as it did then
            stored, plaintext = self.get(session_id, item_id, now)
            _wipe(plaintext)
            return stored
        found = self._sessions.find(session_id)
        return StoredItem(head, self._ends(found, content.scope, now, now))

    def _with_all_named(self, session_id: str, content: Content) -> Content:
        """It is about those of this session, too, whom its records name. What else they name is
        left as it is."""
        told = set(content.participants)
        more = [token for token in tokens_in(content.records or ()) if token not in told]
        known = self._vault.taking_part(session_id, more) if more else {}
        here = (token for token in more if token in known)
        return replace(content, participants=(*content.participants, *here))

    def _named_id(self, actor: str, session_id: str, command: str) -> str:
        """The id of what a named command stores: the same each time it comes."""
        name = f"{actor}\0{session_id}\0{command}"
        return self._keyring.lookup("stored", name)[:16].hex()

    def must_be_open(self, session_id: str, now: int, participant: str | None) -> None:
        """Before a body is read. participant: who wants to store, or to look; they must be present.

        Raises as `get`, and ParticipantUnknown.
        """
        self._readable(session_id, now)
        if participant is not None and not self._vault.taking_part(session_id, [participant]).get(
            participant
        ):
            raise ParticipantUnknown(session_id, participant)

    def _storing(
        self, session: Session, content: Content, item_id: str, part: int, now: int, actor: str
    ) -> Decision:
        versions = self._policies.versions(session.policy)
        policy = in_force(versions, now).policy
        # Before anything is sealed; what is sealed is larger, and looked at again.
        size = len(content.plaintext)
        session.store(1, size, now, actor, scope=content.scope)
        _must_fit(policy, session, content.scope, size)
        end = taken(session, versions, session.last_seen_at, content.scope, now)
        if end is not None and end.effective_at <= now:
            raise NotAllowed(session.id, "store in", "what is stored now would be erased at once")
        self._must_take_part(session.id, content.participants)
        writing = _Writing()
        token = content.participants[0] if len(content.participants) == 1 else ""
        key = self._key(session.id, content.scope, token, writing)
        sealed = self._keyring.seal(key, item_id, str(part), content.plaintext)
        commitment = self._keyring.commitment(key, item_id, str(part), content.plaintext)
        partials, summary_size = self._summed(policy, session, content, token, now, writing)
        grown = summary_size - session.summary_size
        _must_fit(policy, session, content.scope, len(sealed) + grown)
        head = ItemHead(
            item_id,
            part,
            content.scope,
            content.kind,
            now,
            len(sealed),
            content.participants,
            content.media_type,
            None if content.records is None else len(content.records),
        )
        events = session.store(
            1,
            len(sealed),
            now,
            actor,
            scope=content.scope,
            summary_size=summary_size,
            commitment=commitment,
        )
        changes = Changes(
            joint=writing.joint,
            keys=tuple(writing.keys),
            relies_on=tuple(writing.relies_on),
            items=(Item(head, sealed),),
            partials=partials,
        )
        return events, changes

    def _summed(
        self,
        policy: RetentionPolicy,
        session: Session,
        content: Content,
        token: str,
        now: int,
        writing: _Writing,
    ) -> tuple[tuple[Partial, ...], int]:
        """The participant's partial figures with this content, and the size of all partials."""
        none = Scope.SUMMARY in session.erased  # whoever took the summary takes no new one
        if none or not policy.summary or content.records is None or content.scope is not Scope.FULL:
            return (), session.summary_size
        key = self._key(session.id, Scope.SUMMARY, token, writing)
        before = next(iter(self._vault.partials(session.id, token)), None)
        opened = None
        if before is not None:
            opened = self._keyring.open(key, _SUMMARY, "partial", before.sealed)
        after = self._summaries.add(policy.summary, opened, content.records, now)
        sealed = self._keyring.seal(key, _SUMMARY, "partial", after)
        _wipe(opened or bytearray())
        size = session.summary_size + len(sealed) - (len(before.sealed) if before else 0)
        named = set(before.contributors if before else ()) | set(content.participants)
        contributors = () if token else tuple(sorted(named))
        return (Partial(token, sealed, contributors),), size

    def _must_take_part(self, session_id: str, tokens: Sequence[str]) -> None:
        known = self._vault.taking_part(session_id, tokens) if tokens else ()
        for token in tokens:
            if token not in known:
                raise ParticipantUnknown(session_id, token)

    def _key(self, session_id: str, tier: Scope, token: str, writing: _Writing) -> DataKey:
        """The key that seals this, made if there is none yet."""
        known = self._vault.data_keys(session_id, tier, token).get(token)
        if known is not None:
            if not token:
                writing.relies_on.append(known)
            return known
        subject = self._vault.subject_of(session_id, token) or writing.joint
        if subject is None:
            if token:
                raise ParticipantUnknown(session_id, token)
            subject = writing.joint = self._keyring.joint_subject(session_id)
        key = self._keyring.new_data_key(subject, session_id, tier, token)
        writing.keys.append(key)
        return key

    # -- uploads ------------------------------------------------------------------------------

    def begin_upload(
        self,
        session_id: str,
        kind: str,
        size: int,
        now: int,
        actor: str,
        *,
        participants: tuple[str, ...] = (),
        media_type: str | None = None,
        key: str | None = None,
    ) -> StoredUpload:
        """Announce bytes that come in chunks, in any order. size: of all of them.

        Raises LimitReached if the session has no room for them, and as `store`.
        """
        upload_id = self._keyring.token()
        command = named("upload", key, kind, size, media_type, *participants)
        if command is not None:
            upload_id = self._named_id(actor, session_id, command)
        if not 0 < size <= CHUNK * MOST_CHUNKS:
            raise ContentRefused(f"an upload is 1 to {CHUNK * MOST_CHUNKS} bytes")
        upload = Upload(upload_id, kind, size, now, participants, media_type)

        def decide(session: Session) -> Decision:
            policy = in_force(self._policies.versions(session.policy), now).policy
            session.store(0, 0, now, actor, scope=Scope.CHUNKS)
            if key is not None and self._vault.upload(session_id, upload_id) is not None:
                return (), NO_CHANGES
            _must_fit(policy, session, Scope.CHUNKS, size)
            if self._vault.counted(session_id, None) >= MOST_UPLOADS:
                raise NotAllowed(session_id, "upload to", f"it has {MOST_UPLOADS} uploads")
            self._must_take_part(session_id, participants)
            return (), Changes(uploads=(upload,))

        self._sessions.command(session_id, now, actor, command, decide)
        return self.upload(session_id, upload_id, now)

    def put_chunk(
        self,
        session_id: str,
        upload_id: str,
        index: int,
        plaintext: bytearray,
        now: int,
        actor: str,
        participant: str | None = None,
    ) -> Received:
        """Keep one chunk; the same again changes nothing. participant: who sends it, if they may
        for an upload about them alone. Raises ContentRefused, and as `store`."""
        self._readable(session_id, now)
        upload = self._upload(session_id, upload_id)
        if participant is not None and upload.participants != (participant,):
            raise ItemUnknown(session_id, upload_id)
        expected = min(CHUNK, upload.size - index * CHUNK)
        if not 0 <= index < chunks_of(upload):
            raise ContentRefused(f"this upload has chunks 0 to {chunks_of(upload) - 1}")
        if len(plaintext) != expected:
            raise ContentRefused(f"chunk {index} of this upload is {expected} bytes")
        content = Content(
            upload.kind, plaintext, Scope.CHUNKS, upload.participants, upload.media_type
        )
        repeated = False

        def decide(session: Session) -> Decision:
            nonlocal repeated
            session.must_live("store in")
            known = self._vault.item(session_id, upload_id, index)
            repeated = known is not None
            if known is None:
                return self._storing(session, content, upload_id, index, now, actor)
            here = self._opened(session_id, known)
            same = compare_digest(here, plaintext)
            _wipe(here)
            if not same:
                raise NotAllowed(session_id, "store in", f"chunk {index} is here with other bytes")
            return (), NO_CHANGES

        view = self._sessions.command(session_id, now, actor, None, decide)
        here = self._vault.counted(session_id, upload_id)
        return Received(
            view.session.policy, index, len(plaintext), here, chunks_of(upload), repeated
        )

    def upload(self, session_id: str, upload_id: str, now: int) -> StoredUpload:
        """How far an upload is. Raises ItemUnknown, ItemErased once its time is over and that of
        all its chunks, and as `get`."""
        found = self._readable(session_id, now)
        upload = self._upload(session_id, upload_id)
        received, ends = [], self._ends(found, Scope.CHUNKS, upload.created_at, now)
        known: dict[int, Ends] = {}  # chunks that came together end together
        for chunk in self._vault.chunks(session_id, upload_id):
            if chunk.stored_at not in known:
                known[chunk.stored_at] = self._ends(found, chunk.scope, chunk.stored_at, now)
            chunk_ends = known[chunk.stored_at]
            if not _over(chunk_ends, now):
                received.append(chunk.part)
                ends = chunk_ends if len(received) == 1 else _earlier(ends, chunk_ends)
        if not received and ends.erases_at is not None and _over(ends, now):
            raise ItemErased(session_id, upload_id, ends.erases_at, str(ends.rule))
        return StoredUpload(upload, tuple(received), ends)

    def chunk(self, session_id: str, upload_id: str, index: int, now: int) -> bytearray:
        """The bytes of a chunk. Raises ItemUnknown, ItemErased, and as `get`."""
        found = self._readable(session_id, now)
        return self._content(found, upload_id, index, now, chunk=True)[1]

    def whole(
        self, session_id: str, upload_id: str, clock: Callable[[], int]
    ) -> tuple[StoredUpload, Iterator[bytearray]]:
        """All bytes of a complete upload, one chunk at a time; what is due meanwhile is not given.

        Raises NotAllowed if chunks are missing, and as `chunk`, also while it is read.
        """
        stored = self.upload(session_id, upload_id, clock())
        if not stored.complete:
            missing = stored.chunks - len(stored.received)
            raise NotAllowed(session_id, "read an upload of", f"{missing} chunks are missing")
        chunks = (
            self.chunk(session_id, upload_id, index, clock()) for index in range(stored.chunks)
        )
        return stored, chunks

    def _upload(self, session_id: str, upload_id: str) -> Upload:
        upload = self._vault.upload(session_id, upload_id)
        if upload is None:
            raise ItemUnknown(session_id, upload_id)
        return upload

    # -- reading ------------------------------------------------------------------------------

    def get(self, session_id: str, item_id: str, now: int) -> tuple[StoredItem, bytearray]:
        """An item with its content, which whoever asked overwrites.

        Raises ItemUnknown, ItemErased, SessionExpired, SessionErased, SessionNotFound.
        """
        found = self._readable(session_id, now)
        return self._content(found, item_id, 0, now, chunk=False)

    def list(
        self,
        session_id: str,
        now: int,
        *,
        after: str = "",
        limit: int = 100,
        kind: str | None = None,
    ) -> tuple[Sequence[StoredItem], str | None]:
        """Items that can be read now but for the chunks of uploads, in order of id, and behind
        which id the next page begins. Raises as `get`."""
        found = self._readable(session_id, now)
        heads = self._vault.items(session_id, after, limit + 1, kind)
        known: dict[tuple[Scope, int], Ends] = {}
        items = []
        for head in heads[:limit]:
            place = (head.scope, head.stored_at)
            if place not in known:
                known[place] = self._ends(found, *place, now)
            if not _over(known[place], now):
                items.append(StoredItem(head, known[place]))
        return items, heads[limit - 1].item_id if len(heads) > limit else None

    def summary(self, session_id: str, now: int) -> Figures:
        """The figures of all records so far, or of all there were. Raises as `get`; ItemUnknown if
        there is no summary."""
        found = self._readable(session_id, now)
        view = self._sessions.seen_as(found, now)
        policy = in_force(self._policies.versions(found.session.policy), now).policy
        if not policy.summary or Scope.SUMMARY in view.session.erased:
            raise ItemUnknown(session_id, _SUMMARY)
        keys = self._vault.data_keys(session_id, Scope.SUMMARY)
        # Written with their keys; some may be deleted with them meanwhile.
        partials = [one for one in self._vault.partials(session_id) if one.token in keys]
        people = sum(1 for one in partials if one.token)
        opened = [
            self._keyring.open(keys[one.token], _SUMMARY, "partial", one.sealed) for one in partials
        ]
        figures = self._summaries.figures(policy.summary, opened, found.session.created_at)
        for partial in opened:
            _wipe(partial)
        ends = self._ends(found, Scope.SUMMARY, found.session.created_at, now)
        return Figures(view.session.tier, figures, people, ends)

    def _readable(self, session_id: str, now: int) -> Found:
        """Raises SessionNotFound, SessionErased, SessionExpired: from then on all is hidden."""
        found = self._sessions.find(session_id)
        session = self._sessions.seen_as(found, now).session
        if session.erased_at is not None:
            raise SessionErased(session_id, session.erased_at)
        if session.expired_at is not None:
            raise self._sessions.over(session, session.expired_at, now)
        return found

    def _content(
        self, found: Found, item_id: str, part: int, now: int, *, chunk: bool
    ) -> tuple[StoredItem, bytearray]:
        session_id = found.session.id
        item = self._vault.item(session_id, item_id, part)
        if item is None or (item.head.scope is Scope.CHUNKS) is not chunk:
            raise ItemUnknown(session_id, item_id)
        ends = self._ends(found, item.head.scope, item.head.stored_at, now)
        if ends.erases_at is not None and _over(ends, now):
            raise ItemErased(session_id, item_id, ends.erases_at, str(ends.rule))
        return StoredItem(item.head, ends), self._opened(session_id, item)

    def _opened(self, session_id: str, item: Item) -> bytearray:
        head = item.head
        key = self._vault.data_keys(session_id, head.scope, head.token).get(head.token)
        if key is None:
            raise ItemUnknown(session_id, head.item_id)
        return self._keyring.open(key, head.item_id, str(head.part), item.sealed)

    def _ends(self, found: Found, scope: Scope, stored_at: int, now: int) -> Ends:
        session, versions = found.session, self._policies.versions(found.session.policy)
        event: Event | None = taken(session, versions, found.last_seen, scope, stored_at)
        forecast = self._sessions.seen_as(found, now).forecast
        erases_at = event.effective_at if event is not None else None
        hidden = [at for at in (forecast.expires_at, erases_at) if at is not None]
        first = min(hidden, default=None)
        if event is not None and first == erases_at:
            rule, number = getattr(event, "rule", None), getattr(event, "policy_version", 0)
        else:
            rule, number = forecast.rule, forecast.policy_version
        return Ends(first, erases_at, rule, number or session.policy_version)


def _over(ends: Ends, now: int) -> bool:
    return ends.expires_at is not None and ends.expires_at <= now


def _earlier(one: Ends, other: Ends) -> Ends:
    return min(one, other, key=lambda ends: (ends.expires_at is None, ends.expires_at or 0))


def _must_fit(policy: RetentionPolicy, session: Session, scope: Scope, size: int) -> None:
    """Raises LimitReached if the session may not store this many bytes more."""
    limits = policy.limits
    if limits.session_bytes is not None and session.stored_bytes + size > limits.session_bytes:
        raise LimitReached(policy.name, "bytes", limits.session_bytes)
    results = session.result_size + size
    if scope is Scope.SUMMARY and results > (limits.result_bytes or results):
        raise LimitReached(policy.name, "result", limits.result_bytes or 0)


def _wipe(buffer: bytearray) -> None:
    """Leave nothing of it in this memory."""
    buffer[:] = bytes(len(buffer))
