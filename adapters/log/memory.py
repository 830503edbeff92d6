"""The log and the vault in memory: for `lapse simulate` and for tests.

They answer exactly as the SQL ones do (adapters/log/event_log.py, adapters/vault/rows.py): the same
refusals in the same order, checked by the same contract suites (tests/contracts). A batch is judged
as a whole before any of it is written, which stands in for the transaction; one lock stands in for
those of the database. Nothing outlives the process.
"""

from bisect import insort
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush, nsmallest
from operator import attrgetter
from threading import RLock

from adapters.log.event_log import COMMAND_TTL, back_off
from domain.errors import ClockHeld, Conflict, InviteRefused, LimitReached, SessionExists
from domain.policy import Applied, Version, Versions, from_document
from domain.ports import (
    NO_CHANGES,
    PARTITION,
    Append,
    Appended,
    Bookmark,
    Changes,
    DataKey,
    Decide,
    Deletion,
    Found,
    Invite,
    Item,
    ItemHead,
    Joint,
    Logged,
    Mark,
    Member,
    Partial,
    Rearm,
    Recorded,
    SealedIdentity,
    SubjectKey,
    SweepCount,
    Upload,
    Verdict,
    policy_scope,
)
from domain.session import NEVER, Kept, Phase, Scope, Session
from domain.timeline import covers

Answer = Appended | Exception | None


@dataclass(slots=True)
class _Row:
    """A session's folded state. queued_at: the deadline under which it stands in the queue."""

    session: Session
    due_at: int | None
    owner: str | None
    failures: int = 0
    queued_at: int | None = None


@dataclass(slots=True)
class _Presence:
    joined_at: int
    last_seen_at: int
    left_at: int | None = None


@dataclass(slots=True)
class _Name:
    """A name of somebody in a session, sealed, with its data key: a row of the subject index."""

    role: str
    current: bool
    sealed: bytes
    wrapped: bytes


@dataclass(slots=True)
class _Person:
    """A subject. names: session -> token -> the name under which they are known there."""

    key: SubjectKey
    names: dict[str, dict[str, _Name]] = field(default_factory=dict)


@dataclass(slots=True)
class _Stored:
    """What the vault holds of what one session stores."""

    joint: SubjectKey | None = None
    keys: dict[tuple[Scope, str], DataKey] = field(default_factory=dict)
    items: dict[tuple[str, int], Item] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    partials: dict[str, Partial] = field(default_factory=dict)

    def add(self, changes: Changes) -> None:
        if changes.joint is not None:
            self.joint = replace(changes.joint, fresh=False)
        for key in changes.keys:
            person = replace(key.subject, fresh=False)
            self.keys[key.tier, key.token] = replace(key, subject=person)
        self.items.update({(one.head.item_id, one.head.part): one for one in changes.items})
        self.uploads.update({one.upload_id: one for one in changes.uploads})
        self.partials.update({one.token: one for one in changes.partials})

    def delete(self, deletion: Deletion) -> None:
        before, scope = deletion.before, deletion.scope
        self.items = {
            place: item
            for place, item in self.items.items()
            if not covers(scope, item.head.scope)
            or (before is not None and item.head.stored_at >= before)
        }
        if before is None:
            self.keys = {
                place: key for place, key in self.keys.items() if not covers(scope, place[0])
            }
            if scope is Scope.SUMMARY:
                self.partials = {}
            elif deletion.ended and scope is not Scope.FILES:
                self.uploads = {}


@dataclass(slots=True)
class _People:
    """What the vault holds of one session. last_seen: the newest presence of all members."""

    last_seen: int = 0
    members: dict[str, _Presence] = field(default_factory=dict)
    subjects: set[bytes] = field(default_factory=set)
    aliases: set[bytes] = field(default_factory=set)
    stored: _Stored = field(default_factory=_Stored)

    def see(self, token: str, at: int) -> None:
        """Presence never moves back."""
        member = self.members.get(token)
        if member is None:
            self.members[token] = _Presence(at, at)
        elif member.last_seen_at < at:
            member.last_seen_at = at
        self.last_seen = max(self.last_seen, at)


class MemoryStore:
    """What a log and a vault share, as they share one database elsewhere."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.position = 0
        self.events: list[Recorded] = []
        self.histories: dict[str, list[Recorded]] = {}
        self.sessions: dict[str, _Row] = {}
        self.deadlines: list[tuple[int, str]] = []
        self.owned: dict[str, dict[str, None]] = {}
        self.counters: dict[str, int] = {}
        self.commands: dict[bytes, tuple[Appended, int]] = {}  # and when it is forgotten
        self.policies: dict[str, list[Version]] = {}
        self.bookmarks: dict[str, bytes] = {}
        self.lease: tuple[str, int] | None = None
        self.people: dict[str, _People] = {}
        self.invites: dict[bytes, Invite] = {}
        self.persons: dict[bytes, _Person] = {}
        self.aliases: dict[bytes, str] = {}

    def row_counts(self) -> dict[str, int]:
        """How many rows of each table of adapters/log/schema.py a database would hold for this."""
        with self.lock:
            people = self.people.values()
            names = sum(
                len(tokens) for person in self.persons.values() for tokens in person.names.values()
            )
            return {
                "events": len(self.events),
                "sessions": len(self.sessions),
                "counters": len(self.counters),
                "commands": len(self.commands),
                "policies": sum(map(len, self.policies.values())),
                "bookmarks": len(self.bookmarks),
                "leases": int(self.lease is not None),
                "items": sum(len(session.stored.items) for session in people),
                "uploads": sum(len(session.stored.uploads) for session in people),
                "partials": sum(len(session.stored.partials) for session in people),
                "presence": sum(len(session.members) for session in people),
                "subjects": len(self.persons),
                "subject_index": names,
                "aliases": len(self.aliases),
                "subject_keys": len(self.persons)
                + sum(session.stored.joint is not None for session in people),
                "data_keys": names + sum(len(session.stored.keys) for session in people),
            }


def _standing_still() -> int:
    return 0


class MemoryLog:
    """The log behind `domain.ports.Log`.

    wall: the wall clock in microseconds, for leases only (by default one that stands still, so that
    no lease runs out). keep_events: whether what is written can
    be read back; without, memory is bounded by the sessions alive, `history` and `read` raise
    RuntimeError, and an erased session is as if it had never been. observe: told of everything
    that was accepted, batch by batch.
    """

    def __init__(
        self,
        store: MemoryStore,
        wall: Callable[[], int] = _standing_still,
        *,
        keep_events: bool = True,
        observe: Callable[[Sequence[Append]], None] | None = None,
    ) -> None:
        self._store = store
        self._wall = wall
        self._keep_events = keep_events
        self._observe = observe

    # -- writing ------------------------------------------------------------------------------

    def submit(self, append: Append, now: int) -> Appended:
        (answer,) = self.append([append], now)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def append(
        self,
        appends: Sequence[Append],
        now: int,
        bookmark: Bookmark | None = None,
        *,
        together: bool = False,
        holder: str | None = None,
    ) -> Sequence[Appended | Exception]:
        if len({append.session_id for append in appends}) != len(appends):
            raise ValueError("a batch holds one append per session")
        with self._store.lock:
            if holder is not None:
                self._must_hold_clock(holder)
            answers: list[Answer] = [None] * len(appends)
            self._refuse_stale(appends, answers)
            self._answer_repeated(appends, answers)
            accepted = self._judge(appends, answers)
            if together:
                _raise_refusal(answers)
            self._write(accepted, now)
            self._save(bookmark)
            return [
                Appended(append.session_id, append.after.version) if answer is None else answer
                for append, answer in zip(appends, answers, strict=True)
            ]

    def _refuse_stale(self, appends: Sequence[Append], answers: list[Answer]) -> None:
        for index, append in enumerate(appends):
            if append.before is not None:
                row = self._store.sessions.get(append.session_id)
                if row is None or row.session.version != append.before.version:
                    answers[index] = Conflict(append.session_id)
                elif append.decided_on is not None:
                    people = self._store.people.get(append.session_id)
                    if people is not None and people.last_seen > append.decided_on:
                        answers[index] = Conflict(append.session_id)

    def _answer_repeated(self, appends: Sequence[Append], answers: list[Answer]) -> None:
        first: set[bytes] = set()
        for index, append in _waiting(appends, answers):
            if append.command is None:
                continue
            if append.command in first:
                answers[index] = Conflict(append.session_id)  # twice in one batch: ask again
                continue
            first.add(append.command)
            known, _ = self._store.commands.get(append.command, (None, 0))
            if known is not None:
                answers[index] = known._replace(repeated=True)

    def _judge(self, appends: Sequence[Append], answers: list[Answer]) -> list[Append]:
        """From the limits on, as event_log.py has it: what is to be written."""
        self._refuse_over_limit(appends, answers)
        for index, append in _waiting(appends, answers):
            if append.before is None and self._was_created(append.session_id):
                answers[index] = SessionExists(append.session_id)
        self._refuse_changed_subjects(appends, answers)
        for index, append in _waiting(appends, answers):
            invite = append.changes.invite
            if invite is not None:
                known = self._store.invites.get(invite)
                if known is None or known.uses < 1:
                    answers[index] = InviteRefused("used-up")
                else:
                    self._store.invites[invite] = known._replace(uses=known.uses - 1)
        return [append for _, append in _waiting(appends, answers)]

    def _was_created(self, session_id: str) -> bool:
        return session_id in self._store.sessions or session_id in self._store.histories

    def _refuse_over_limit(self, appends: Sequence[Append], answers: list[Answer]) -> None:
        if not any(append.limits for append in appends):
            return
        used: dict[str, int] = {}
        for index, append in _waiting(appends, answers):
            for limit in append.limits:
                taken = used.get(limit.scope, self._store.counters.get(limit.scope, 0))
                if taken + dict(append.counts).get(limit.scope, 0) > limit.most:
                    refusal = LimitReached(append.after.policy, limit.name, limit.most)
                    answers[index] = refusal
                    break
            else:
                for scope, by in append.counts:
                    used[scope] = used.get(scope, self._store.counters.get(scope, 0)) + by

    def _refuse_changed_subjects(self, appends: Sequence[Append], answers: list[Answer]) -> None:
        """Whose subjects another author created or deleted since they were read."""
        concerned = [
            (index, append)
            for index, append in _waiting(appends, answers)
            if append.changes.admitted
        ]
        wanted = {a.subject.lookup: a.subject for _, c in concerned for a in c.changes.admitted}
        for index, append in concerned:
            for admission in append.changes.admitted:
                lookup = admission.subject.lookup
                person, other = self._store.persons.get(lookup), wanted[lookup]
                standing = person.key if person is not None else other if other.fresh else None
                if standing is None or standing.subject != admission.subject.subject:
                    answers[index] = Conflict(append.session_id)
                    break

    def _write(self, accepted: Sequence[Append], now: int) -> None:
        for append in accepted:
            self._count(append)
            self._fold(append)
            if append.command is not None:
                answer = Appended(append.session_id, append.after.version)
                self._store.commands[append.command] = (answer, self._wall() + COMMAND_TTL)
            people = self._store.people.get(append.session_id)
            if people is not None:
                for deletion in append.deletes:
                    people.stored.delete(deletion)
            if append.changes is not NO_CHANGES:
                _admit(self._store, append)
                _move(self._store, append)
            self._record(append.events, now)
        for append in accepted:
            if append.erases:
                _forget(self._store, append.session_id)
        if accepted and self._observe is not None:
            self._observe(accepted)

    def _count(self, append: Append) -> None:
        counters = self._store.counters
        for scope, by in append.counts:
            counters[scope] = counters.get(scope, 0) + by
            if not counters[scope]:
                del counters[scope]

    def _fold(self, append: Append) -> None:
        """Erased sessions leave, their history stays."""
        store, session_id = self._store, append.session_id
        if append.after.erased_at is not None:
            row = store.sessions.pop(session_id, None)
            if row is not None and row.owner is not None:
                store.owned[row.owner].pop(session_id)
                if not store.owned[row.owner]:
                    del store.owned[row.owner]
        elif append.before is None:
            row = _Row(append.after, append.due_at, append.owner)
            store.sessions[session_id] = row
            if append.owner is not None:
                store.owned.setdefault(append.owner, {})[session_id] = None
            self._queue(row)
        elif append.events:
            row = store.sessions[session_id]
            row.session, row.due_at, row.failures = append.after, append.due_at, 0
            self._queue(row)

    def _record(self, events: Iterable[Logged], now: int) -> None:
        store = self._store
        for event in events:
            store.position += 1
            if self._keep_events:
                recorded = Recorded(PARTITION, store.position, now, event)
                store.events.append(recorded)
                store.histories.setdefault(event.originator_id, []).append(recorded)

    def _save(self, bookmark: Bookmark | None) -> None:
        if bookmark is not None:
            self._store.bookmarks[bookmark.name] = bookmark.value

    def apply_policy(self, applied: Applied, now: int, bookmark: Bookmark | None = None) -> None:
        with self._store.lock:
            versions = self._store.policies.setdefault(applied.policy, [])
            number = applied.originator_version
            if any(version.number == number for version in versions):
                raise Conflict(applied.originator_id)
            policy = from_document(applied.policy, applied.document)
            version = Version(number, applied.effective_at, policy)
            insort(versions, version, key=attrgetter("number"))
            self._record([applied], now)
            self._save(bookmark)

    # -- reading ------------------------------------------------------------------------------

    def find(self, session_ids: Sequence[str]) -> Mapping[str, Found]:
        with self._store.lock:
            sessions = self._store.sessions
            return {
                session_id: self._found(sessions[session_id])
                for session_id in session_ids
                if session_id in sessions
            }

    def _found(self, row: _Row) -> Found:
        session = row.session
        people = self._store.people.get(session.id)
        last_seen = max(session.last_seen_at, people.last_seen if people is not None else 0)
        return Found(session, last_seen, row.due_at, row.owner)

    def live(self, policy: str) -> int:
        with self._store.lock:
            return self._store.counters.get(policy_scope(policy), 0)

    def owned(self, policy: str, subject: str) -> Sequence[Found]:
        with self._store.lock:
            rows = [self._store.sessions[id_] for id_ in self._store.owned.get(subject, ())]
            mine = [
                self._found(row)
                for row in rows
                if row.session.phase is not Phase.EXPIRED and row.session.policy == policy
            ]
        return sorted(mine, key=lambda found: found.session.created_at)

    def oldest(self, policy: str, limit: int) -> Sequence[Found]:
        with self._store.lock:
            live = [
                self._found(row)
                for row in self._store.sessions.values()
                if row.session.policy == policy and row.session.phase is not Phase.EXPIRED
            ]
        return sorted(live, key=lambda one: (one.session.created_at, one.session.id))[:limit]

    def kept(self, session_ids: Sequence[str]) -> Mapping[str, Sequence[Kept]]:
        with self._store.lock:
            return {session_id: self._kept(session_id) for session_id in session_ids}

    def _kept(self, session_id: str) -> Sequence[Kept]:
        people = self._store.people.get(session_id)
        sizes: dict[tuple[Scope, int], int] = {}
        for item in people.stored.items.values() if people is not None else ():
            place = (item.head.scope, item.head.stored_at)
            sizes[place] = sizes.get(place, 0) + item.head.size
        return [Kept(scope, stored_at, size) for (scope, stored_at), size in sizes.items()]

    def stored_bytes(self) -> int:
        with self._store.lock:
            counters = self._store.counters.items()
            return sum(used for scope, used in counters if scope.startswith("bytes:"))

    def relievable(self, limit: int) -> Sequence[Found]:
        with self._store.lock:
            rows = [row for row in self._store.sessions.values() if row.session.stored_bytes]
        finished = [row for row in rows if row.session.phase is not Phase.ACTIVE]
        idle = [row for row in rows if row.session.phase is Phase.ACTIVE]
        finished.sort(key=lambda row: row.session.created_at)
        idle.sort(key=lambda row: row.session.last_seen_at)
        return [self._found(row) for row in (finished + idle)[:limit]]

    def history(self, session_id: str) -> Sequence[Recorded]:
        self._must_keep_events()
        with self._store.lock:
            return list(self._store.histories.get(session_id, ()))

    def read(self, after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
        self._must_keep_events()
        with self._store.lock:
            end = after + limit if upto is None else min(after + limit, upto)
            return self._store.events[after:end]

    def _must_keep_events(self) -> None:
        if not self._keep_events:
            raise RuntimeError("this log was told to keep no events")

    def head(self) -> int:
        return self._store.position

    def policies(self) -> Mapping[str, Versions]:
        with self._store.lock:
            return {name: tuple(versions) for name, versions in self._store.policies.items()}

    def bookmark(self, name: str) -> bytes | None:
        return self._store.bookmarks.get(name)

    # -- sweeping -----------------------------------------------------------------------------

    def sweep(
        self, now: int, limit: int, decide: Decide, holder: str, mark: Mark | None = None
    ) -> SweepCount:
        with self._store.lock:
            self._check_clock(holder)
            claimed = self._claim(now, limit)
            try:
                return self._sweep(claimed, now, limit, decide, mark)
            finally:
                for row in claimed:
                    if self._store.sessions.get(row.session.id) is row:
                        self._queue(row)

    def _sweep(
        self, claimed: Sequence[_Row], now: int, limit: int, decide: Decide, mark: Mark | None
    ) -> SweepCount:
        decided = decide([self._found(row) for row in claimed])
        appends = [answer for answer in decided if isinstance(answer, Append)]
        rearms = [answer for answer in decided if isinstance(answer, Rearm)]
        accepted = self._judge(appends, [None] * len(appends))
        verdicts = [rearm.verdict for rearm in rearms]
        count = SweepCount(
            due=len(claimed),
            done=len(accepted),
            held=verdicts.count(Verdict.HELD),
            rearmed=verdicts.count(Verdict.REARMED),
            failed=verdicts.count(Verdict.FAILED) + len(appends) - len(accepted),
            events=_topics(accepted),
            more=len(claimed) == limit,
        )
        self._save(mark(count) if mark is not None else None)
        self._write(accepted, now)
        for rearm in rearms:
            row = self._store.sessions[rearm.session_id]
            if rearm.verdict is Verdict.FAILED:
                row.due_at = now + back_off(row.failures)
                row.failures += 1
            else:
                row.due_at, row.failures = rearm.due_at, 0
        return count

    def _claim(self, now: int, limit: int) -> list[_Row]:
        """Due rows in order of their deadline. They leave the queue until they are decided."""
        deadlines = self._store.deadlines
        claimed: list[_Row] = []
        while deadlines and deadlines[0][0] <= now and len(claimed) < limit:
            row = self._standing(*heappop(deadlines))
            if row is not None:
                row.queued_at = None
                claimed.append(row)
        return claimed

    def _standing(self, due_at: int, session_id: str) -> _Row | None:
        """The row behind an entry of the queue; None if its deadline moved or it is gone."""
        row = self._store.sessions.get(session_id)
        return row if row is not None and row.queued_at == due_at else None

    def _queue(self, row: _Row) -> None:
        """A heap whose entries are never changed: those of the past are passed over when met."""
        if row.due_at == row.queued_at:
            return
        row.queued_at = row.due_at
        if row.due_at is None:
            return
        store = self._store
        heappush(store.deadlines, (row.due_at, row.session.id))
        if len(store.deadlines) > 1_000 + 2 * len(store.sessions):
            kept = {entry for entry in store.deadlines if self._standing(*entry) is not None}
            store.deadlines = list(kept)
            heapify(store.deadlines)

    def next_due(self) -> int | None:
        with self._store.lock:
            deadlines = self._store.deadlines
            while deadlines and self._standing(*deadlines[0]) is None:
                heappop(deadlines)
            return deadlines[0][0] if deadlines else None

    def due_of_policy(self, policy: str, after: str, limit: int) -> Sequence[Found]:
        with self._store.lock:
            ids = (
                session_id
                for session_id, row in self._store.sessions.items()
                if row.session.policy == policy and session_id > after
            )
            return [self._found(self._store.sessions[id_]) for id_ in nsmallest(limit, ids)]

    def rearm(self, rearms: Sequence[Rearm], bookmark: Bookmark | None = None) -> None:
        with self._store.lock:
            for rearm in rearms:
                row = self._store.sessions.get(rearm.session_id)
                if row is not None and rearm.due_at is not None:
                    row.due_at = min(NEVER if row.due_at is None else row.due_at, rearm.due_at)
                    self._queue(row)
            self._save(bookmark)

    def is_known(self, command: bytes) -> bool:
        with self._store.lock:
            return command in self._store.commands

    def forget_commands(self, now: int) -> int:
        with self._store.lock:
            commands = self._store.commands
            over = [name for name, (_, until) in commands.items() if until <= now]
            for name in over:
                del commands[name]
            return len(over)

    # -- the clock lease ----------------------------------------------------------------------

    def lease_clock(self, holder: str, until: int) -> None:
        with self._store.lock:
            lease = self._store.lease
            if lease is not None and lease[0] != holder and lease[1] >= self._wall():
                raise ClockHeld("another import is running here; wait until it is done")
            self._store.lease = (holder, until)

    def release_clock(self, holder: str) -> None:
        with self._store.lock:
            if self._store.lease is not None and self._store.lease[0] == holder:
                self._store.lease = None

    def _must_hold_clock(self, holder: str) -> None:
        lease = self._store.lease
        if lease is None or lease[0] != holder or lease[1] <= self._wall():
            raise ClockHeld("the import lost the clock")

    def _check_clock(self, holder: str) -> None:
        lease = self._store.lease
        if lease is not None and lease[0] != holder and lease[1] > self._wall():
            raise ClockHeld("an import holds the clock; sweeps wait until it is done")


def _waiting(appends: Sequence[Append], answers: Sequence[Answer]) -> Iterable[tuple[int, Append]]:
    return ((index, append) for index, append in enumerate(appends) if answers[index] is None)


def _raise_refusal(answers: Iterable[Answer]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def _topics(appends: Iterable[Append]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for append in appends:
        for event in append.events:
            counts[event.TOPIC] = counts.get(event.TOPIC, 0) + 1
    return counts


# -- the vault's part of a batch --------------------------------------------------------------


def _admit(store: MemoryStore, append: Append) -> None:
    """Who becomes known, which names lead to their tokens no more, and the session's alias."""
    session_id, changes = append.session_id, append.changes
    people = store.people.setdefault(session_id, _People())
    for admission in changes.admitted:
        subject = admission.subject
        person = store.persons.get(subject.lookup)
        if person is None:
            stored = SubjectKey(
                subject.lookup, subject.subject, subject.kek, subject.wrapped, fresh=False
            )
            person = store.persons[subject.lookup] = _Person(stored)
        names = person.names.setdefault(session_id, {})
        known = names.get(admission.token)
        role = admission.role if known is None else known.role
        name = _Name(role, True, admission.sealed, admission.wrapped)
        names[admission.token] = name
        people.subjects.add(subject.lookup)
        if admission.joined_at is not None and admission.token not in people.members:
            people.see(admission.token, admission.joined_at)
    for token, lookup in changes.retired:
        person = store.persons.get(lookup)
        if person is not None and token in person.names.get(session_id, {}):
            person.names[session_id][token].current = False
    people.stored.add(changes)
    if changes.invited is not None:
        store.invites[changes.invited.name] = changes.invited
    if changes.alias is not None:
        earlier = store.people.get(store.aliases.get(changes.alias, ""))
        if earlier is not None:
            earlier.aliases.discard(changes.alias)
        store.aliases[changes.alias] = session_id
        people.aliases.add(changes.alias)


def _move(store: MemoryStore, append: Append) -> None:
    """Presence: who was seen, who left, who came back."""
    people, changes = store.people[append.session_id], append.changes
    for token, at in (changes.seen or {}).items():
        people.see(token, at)
    for token, at in (changes.left or {}).items():
        if token not in people.members:
            people.see(token, at)
        people.members[token].left_at = at
    for token, at in (changes.back or {}).items():
        if token not in people.members:
            people.see(token, at)
        people.members[token].left_at = None


def _forget(store: MemoryStore, session_id: str) -> None:
    """Everything of a session, and subjects who are left in no session."""
    people = store.people.pop(session_id, None)
    if people is None:
        return
    for alias in people.aliases:
        del store.aliases[alias]
    for name in [name for name, one in store.invites.items() if one.session_id == session_id]:
        del store.invites[name]
    for lookup in people.subjects:
        person = store.persons[lookup]
        del person.names[session_id]
        if not person.names:
            del store.persons[lookup]


class MemoryVault:
    """The vault behind `domain.ports.Vault`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def subjects(self, lookups: Sequence[bytes]) -> Mapping[bytes, SubjectKey]:
        with self._store.lock:
            persons = self._store.persons
            return {lookup: persons[lookup].key for lookup in lookups if lookup in persons}

    def sessions_of(self, lookups: Sequence[bytes], policy: str) -> Mapping[bytes, tuple[str, str]]:
        with self._store.lock:
            newest: dict[bytes, tuple[int, str, str]] = {}
            for lookup, session_id, token, name in self._names(lookups):
                row = self._store.sessions.get(session_id)
                if row is None or not name.current or name.role != "participant":
                    continue
                session = row.session
                if session.policy != policy or session.phase is Phase.EXPIRED:
                    continue
                if lookup not in newest or newest[lookup][0] < session.created_at:
                    newest[lookup] = (session.created_at, session_id, token)
        return {lookup: (session_id, token) for lookup, (_, session_id, token) in newest.items()}

    def sessions_named(self, aliases: Sequence[bytes]) -> Mapping[bytes, str]:
        with self._store.lock:
            named: dict[bytes, str] = {}
            for alias in aliases:
                session_id = self._store.aliases.get(alias)
                row = self._store.sessions.get(session_id) if session_id is not None else None
                if row is not None and row.session.phase is not Phase.EXPIRED:
                    named[alias] = row.session.id
            return named

    def _names(self, lookups: Sequence[bytes]) -> Iterable[tuple[bytes, str, str, _Name]]:
        """(lookup, session, token, name) of everything these subjects are known as."""
        for lookup in lookups:
            person = self._store.persons.get(lookup)
            if person is not None:
                for session_id, names in person.names.items():
                    for token, name in names.items():
                        yield lookup, session_id, token, name

    def tokens(self, pairs: Collection[tuple[str, bytes]]) -> Mapping[tuple[str, bytes], Member]:
        found = {}
        with self._store.lock:
            for session_id, lookup in pairs:
                person, people = self._store.persons.get(lookup), self._store.people.get(session_id)
                if person is None or people is None:
                    continue
                for token, name in person.names.get(session_id, {}).items():
                    if name.current and token in people.members:
                        member = _member(session_id, token, people.members[token])
                        found[session_id, lookup] = member
        return found

    def members(self, session_id: str) -> Sequence[Member]:
        with self._store.lock:
            people = self._store.people.get(session_id)
            if people is None:
                return []
            members = [_member(session_id, *pair) for pair in people.members.items()]
        return sorted(members, key=lambda member: (member.joined_at, member.token))

    def identities(self, session_id: str, after: str, limit: int) -> Sequence[SealedIdentity]:
        with self._store.lock:
            people = self._store.people.get(session_id, _People())
            found = []
            for lookup in people.subjects:
                person = self._store.persons[lookup]
                for token, name in person.names[session_id].items():
                    if name.role == "participant" and name.current and token in people.members:
                        member = _member(session_id, token, people.members[token])
                        one = SealedIdentity(member, person.key, name.wrapped, name.sealed)
                        found.append(one)
        found.sort(key=lambda one: one.member.token)
        return [one for one in found if one.member.token > after][:limit]

    def _stored(self, session_id: str) -> _Stored:
        people = self._store.people.get(session_id)
        return people.stored if people is not None else _Stored()

    def data_keys(
        self, session_id: str, tier: Scope, token: str | None = None
    ) -> Mapping[str, DataKey]:
        with self._store.lock:
            keys = self._stored(session_id).keys.values()
            return {k.token: k for k in keys if k.tier is tier and token in (None, k.token)}

    def joint(self, session_ids: Sequence[str]) -> Mapping[str, Joint]:
        with self._store.lock:
            stored = {session_id: self._stored(session_id) for session_id in session_ids}
            return {
                session_id: Joint(
                    {key.tier: key for key in one.keys.values() if not key.token},
                    one.partials.get(""),
                )
                for session_id, one in stored.items()
            }

    def taking_part(self, session_id: str, tokens: Sequence[str]) -> Mapping[str, bool]:
        with self._store.lock:
            members = self._store.people.get(session_id, _People()).members
            return {token: members[token].left_at is None for token in tokens if token in members}

    def counted(self, session_id: str, upload_id: str | None) -> int:
        with self._store.lock:
            stored = self._stored(session_id)
            if upload_id is None:
                return len(stored.uploads)
            return sum(item_id == upload_id for item_id, _ in stored.items)

    def subject_of(self, session_id: str, token: str) -> SubjectKey | None:
        with self._store.lock:
            if not token:
                return self._stored(session_id).joint
            people = self._store.people.get(session_id, _People())
            for lookup in people.subjects:
                person = self._store.persons[lookup]
                name = person.names[session_id].get(token)
                if name is not None and name.current and name.role == "participant":
                    return person.key
        return None

    def item(self, session_id: str, item_id: str, part: int) -> Item | None:
        with self._store.lock:
            return self._stored(session_id).items.get((item_id, part))

    def items_at(
        self, places: Sequence[tuple[str, str, int]]
    ) -> Mapping[tuple[str, str, int], Item]:
        found = {place: self.item(*place) for place in places}
        return {place: item for place, item in found.items() if item is not None}

    def items(
        self, session_id: str, after: str, limit: int, kind: str | None = None
    ) -> Sequence[ItemHead]:
        with self._store.lock:
            heads = [item.head for item in self._stored(session_id).items.values()]
        heads.sort(key=lambda head: head.item_id)
        return [
            head
            for head in heads
            if head.item_id > after and head.scope is not Scope.CHUNKS and kind in (None, head.kind)
        ][:limit]

    def upload(self, session_id: str, upload_id: str) -> Upload | None:
        with self._store.lock:
            return self._stored(session_id).uploads.get(upload_id)

    def chunks(self, session_id: str, upload_id: str) -> Sequence[ItemHead]:
        with self._store.lock:
            heads = [item.head for item in self._stored(session_id).items.values()]
        chunks = [h for h in heads if h.item_id == upload_id and h.scope is Scope.CHUNKS]
        return sorted(chunks, key=lambda head: head.part)

    def partials(self, session_id: str, token: str | None = None) -> Sequence[Partial]:
        with self._store.lock:
            partials = self._stored(session_id).partials
            return [partials[name] for name in sorted(partials) if token in (None, name)]

    def invite(self, name: bytes) -> Invite | None:
        with self._store.lock:
            return self._store.invites.get(name)

    def see(self, seen: Mapping[tuple[str, str], int]) -> set[tuple[str, str]]:
        counted = set()
        with self._store.lock:
            for (session_id, token), at in seen.items():
                row = self._store.sessions.get(session_id)
                people = self._store.people.get(session_id)
                if row is None or people is None or row.session.phase is Phase.EXPIRED:
                    continue
                if token in people.members:
                    people.see(token, at)
                    counted.add((session_id, token))
        return counted


def _member(session_id: str, token: str, presence: _Presence) -> Member:
    return Member(session_id, token, presence.joined_at, presence.last_seen_at, presence.left_at)
