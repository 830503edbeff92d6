"""Import: turn the records of some other system's log into sessions, with event time as the clock.

Records come in file order; now is the greatest time read. A session expires *at* its due instant
(`now >= due`), a later record of the same visitor opens a new one. A record older than now is
recorded without moving anything back; one that opens a session has created = last_seen = its own
time. The first record of a visitor is created + joined, the others are presence, sampled as `seen`
events as in live use.

Everything a batch of records changes is written in one transaction together with a bookmark, so an
import that was killed goes on at the line after the last one written and doubles nothing. Memory is
bounded by the batch: open sessions are looked up per batch, never kept.

Where records name a `room`, that room is the session and visitors are its participants; where they
do not, each visitor has a session of their own.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from domain.errors import Conflict, LimitReached, SessionExists
from domain.policy import DAY, Versions, in_force
from domain.ports import (
    NO_CHANGES,
    Admission,
    Append,
    Bookmark,
    Changes,
    Found,
    Keyring,
    Limit,
    Log,
    SubjectKey,
    SweepCount,
    Vault,
    policy_scope,
)
from domain.records import Activity, Record, Reject, Rejected
from domain.session import IMPORTER, Event, Failure, Session, create, evolve
from domain.timeline import advance
from domain.use_cases.erase import deletes, due_by
from domain.use_cases.sweep import sweep_once

BATCH = 2_000
"""Records per transaction: large enough that fsync costs little, small enough for live progress."""
REJECTS_LISTED = 100
"""How many rejected lines a report lists; all are counted."""
CLOCK_TOLERANCE = DAY
"""Records later than this beyond the wall clock are rejected: one garbage date in a log must not
run the clock into the future and end every session with it."""
ATTEMPTS = 20
SWEPT = ("due", "done", "held", "rearmed", "failed")
"""due = done + held + rearmed + failed, always."""


@dataclass
class Tally:
    """What an import has done so far; it stands in the bookmark.

    line: the last line read. headers: how many of the lines were a header. now: the greatest time
    read, microseconds. refused: records that found the policy's limit used up. swept: the
    reconciled count of all sweeps of this import.
    """

    line: int = 0
    headers: int = 0
    now: int = 0
    rejected: int = 0
    refused: int = 0
    sessions: int = 0
    participants: int = 0
    swept: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SWEPT, 0))
    events: dict[str, int] = field(default_factory=dict)
    rejects: list[tuple[int, str]] = field(default_factory=list)

    @property
    def lines(self) -> int:
        """Lines read, headers apart."""
        return self.line - self.headers

    def to_bytes(self) -> bytes:
        return json.dumps(vars(self), sort_keys=True).encode()

    @staticmethod
    def from_bytes(value: bytes) -> "Tally":
        fields = json.loads(value)
        fields["rejects"] = [(line, reason) for line, reason in fields["rejects"]]
        return Tally(**fields)

    def copy(self) -> "Tally":
        return Tally(
            **{
                **vars(self),
                "swept": dict(self.swept),
                "events": dict(self.events),
                "rejects": list(self.rejects),
            }
        )

    def count(self, topic: str, number: int = 1) -> None:
        name = topic.split(".")[1]
        self.events[name] = self.events.get(name, 0) + number


@dataclass
class _Member:
    """A participant of an open session. lookup: the current name's."""

    token: str
    present: bool


@dataclass
class _Open:
    """A session while a batch works on it. before: as it stands in the log (None: not yet).

    known_seen: the newest presence that was read with it. decided_on: the same, once a rule spoke.
    """

    before: Session | None
    session: Session
    last_seen: int
    due_at: int | None
    members: dict[bytes, _Member]
    known_seen: int = 0
    owner: str | None = None
    events: list[Event] = field(default_factory=list)
    admitted: list[Admission] = field(default_factory=list)
    retired: set[tuple[str, bytes]] = field(default_factory=set)
    seen: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    back: dict[str, int] = field(default_factory=dict)
    alias: bytes | None = None
    limits: tuple[Limit, ...] = ()
    decided_on: int | None = None

    def record(self, events: Sequence[Event]) -> None:
        for event in events:
            self.session = evolve(self.session, event)
        self.events += events

    @property
    def touched(self) -> bool:
        return bool(self.events or self.seen or self.left or self.back or self.retired)

    def append(self) -> Append:
        changes = NO_CHANGES
        if self.admitted or self.seen or self.left or self.back or self.retired or self.alias:
            changes = Changes(
                tuple(self.admitted),
                tuple(self.retired),
                self.seen,
                self.left,
                self.back,
                self.alias,
            )
        return Append(
            self.before,
            self.session,
            tuple(self.events),
            self.due_at,
            changes,
            self.limits,
            owner=self.owner,
            deletes=deletes(self.before, tuple(self.events)),
            decided_on=self.decided_on,
        )


class Ingest:
    """One source under one policy. `feed` batches of parsed lines, then `run_until` the end.

    policies: reads all there are, since a sweep meets whatever is due; asked again for every batch,
    so that a version that appears meanwhile is known in time. name: of the bookmark, unique per
    source. holder: of the clock lease. wall: the wall clock's time in microseconds when the import
    began. now: where the clock stands already. on_record: told (session, time) of every record that
    becomes part of a session, just before it is written. on_reject: told (line, reason) of every
    rejected line before that is written.
    """

    def __init__(
        self,
        log: Log,
        vault: Vault,
        keyring: Keyring,
        policies: Callable[[], Mapping[str, Versions]],
        policy: str,
        *,
        name: str,
        holder: str,
        wall: int,
        now: int = 0,
        on_record: Callable[[str, int], None] | None = None,
        on_reject: Callable[[int, str], None] | None = None,
    ) -> None:
        self._log = log
        self._vault = vault
        self._keyring = keyring
        self._read_policies = policies
        self._policies = policies()
        self._policy = policy
        self._name = name
        self._holder = holder
        self._latest = wall + CLOCK_TOLERANCE
        self._on_record = on_record
        self._on_reject = on_reject
        self._told = 0
        stored = log.bookmark(name)
        self.tally = Tally.from_bytes(stored) if stored else Tally()
        self.tally.now = max(self.tally.now, now)

    def feed(self, records: Sequence[Record | Rejected], line: int, headers: int = 0) -> None:
        """Work one batch off.

        line: the number of its last line, whatever it held. headers: header lines up to there.
        """
        self._policies = self._read_policies()
        # Gone on with behind the header, a parser has not met it.
        self.tally.headers = max(self.tally.headers, headers)
        waiting: Sequence[Record | Rejected] = records
        while waiting:
            waiting = self._feed_some(waiting, line)
        if not records:
            self._commit(_Work(self, ()), self.tally.copy(), line)
        self._sweep(self.tally.now)

    def run_until(self, until: int) -> None:
        """The clock runs on to `until`, or stays where the records left it if that is later."""
        self._policies = self._read_policies()
        self.tally.now = max(self.tally.now, until)
        self._sweep(self.tally.now)

    def _feed_some(
        self, records: Sequence[Record | Rejected], line: int
    ) -> Sequence[Record | Rejected]:
        """As many records as fit one transaction; the rest.

        A limit that is reached ends the batch early: what is due elsewhere is swept at this very
        instant of the log before the record is refused.
        """
        for _ in range(ATTEMPTS):
            tally = self.tally.copy()
            work = _Work(self, records)
            done = work.through(records, tally)
            rest = records[done:]
            try:
                self._commit(work, tally, rest[0].line - 1 if rest else line)
            except (Conflict, LimitReached, SessionExists):
                continue  # somebody else changed one of these sessions: read and decide again
            if rest:
                self._sweep(tally.now)
                if done == 0 and not work.room_made(self._log.live(self._policy)):
                    return self._refuse_first(records)
            return rest
        raise Conflict(self._name)

    def _refuse_first(self, records: Sequence[Record | Rejected]) -> Sequence[Record | Rejected]:
        """The limit stands even after a sweep: this record opens no session."""
        self.tally.refused += 1
        self.tally.line = records[0].line
        return records[1:]

    def _commit(self, work: "_Work", tally: Tally, line: int) -> None:
        tally.line = max(line, tally.line)
        appends = work.appends()
        for append in appends:
            for event in append.events:
                tally.count(event.TOPIC)
        tally.sessions += work.sessions
        tally.participants += work.participants
        # Before they are acknowledged: told twice after a kill, they are told once at least.
        if self._on_reject is not None:
            for rejected_line, reason in work.rejects:
                if rejected_line > self._told:
                    self._on_reject(rejected_line, reason)
                    self._told = rejected_line
        bookmark = Bookmark(self._name, tally.to_bytes())
        if self._on_record is not None:
            for session_id, at in work.records:
                self._on_record(session_id, at)
        self._log.append(appends, tally.now, bookmark, together=True, holder=self._holder)
        self.tally = tally

    def _sweep(self, now: int) -> None:
        while True:
            due = self._log.next_due()
            if due is None or due > now:
                return
            pending: list[Tally] = []

            def mark(count: SweepCount, pending: list[Tally] = pending) -> Bookmark:
                tally = self.tally.copy()
                for name in SWEPT:
                    tally.swept[name] += getattr(count, name)
                for topic, number in (count.events or {}).items():
                    tally.count(topic, number)
                pending.append(tally)
                return Bookmark(self._name, tally.to_bytes())

            count = sweep_once(self._log, self._policies, now, self._holder, mark=mark)
            if pending:  # none: other sweepers took what was due
                self.tally = pending[-1]
            if not count.due:
                return


class _Work:
    """One batch: the open sessions it concerns, looked up at once, and what becomes of them."""

    def __init__(self, ingest: Ingest, records: Sequence[Record | Rejected]) -> None:
        self._ingest = ingest
        self._keyring = ingest._keyring
        self._vault = ingest._vault
        self._versions = ingest._policies[ingest._policy]
        self._policy = ingest._policy
        self.sessions = 0
        self.participants = 0
        self.records: list[tuple[str, int]] = []
        self.rejects: list[tuple[int, str]] = []
        self._done: list[_Open] = []
        self._open: dict[bytes, _Open] = {}
        self._subjects: dict[bytes, SubjectKey] = {}
        self._lookups: dict[tuple[str, str], bytes] = {}
        self._load([record for record in records if isinstance(record, Record)])
        self._most = self._versions[-1].policy.limits.concurrent
        self._limits: tuple[Limit, ...] = ()
        if self._most is not None:
            self._limits = (Limit(policy_scope(self._policy), self._most, "concurrent"),)
        self._live = ingest._log.live(self._policy) if self._most is not None else 0

    # -- looking up -----------------------------------------------------------------------------

    def _lookup(self, kind: str, name: str) -> bytes:
        key = (kind, name)
        found = self._lookups.get(key)
        if found is None:
            found = self._lookups[key] = self._keyring.lookup(kind, name)
        return found

    def _alias(self, room: str) -> bytes:
        return self._lookup("alias", f"{self._policy}\0{room}")

    def _load(self, records: Iterable[Record]) -> None:
        names: set[str] = set()
        rooms: dict[str, set[str]] = {}
        alone: set[str] = set()
        for record in records:
            named = {name for name in (record.visitor, record.new_name) if name is not None}
            names |= named
            if record.room is not None:
                rooms.setdefault(record.room, set()).update(named)
            else:
                alone |= named
        lookups = [self._lookup("subject", name) for name in sorted(names)]
        self._subjects.update(self._vault.subjects(lookups))
        self._load_alone([self._lookup("subject", name) for name in sorted(alone)])
        self._load_rooms(
            {
                self._alias(room): [self._lookup("subject", name) for name in sorted(named)]
                for room, named in sorted(rooms.items())
            }
        )

    def _load_alone(self, lookups: Sequence[bytes]) -> None:
        if not lookups:
            return
        known = self._vault.sessions_of(lookups, self._policy)
        found = self._ingest._log.find([session_id for session_id, _ in known.values()])
        for lookup, (session_id, token) in known.items():
            if session_id in found:
                member = {lookup: _Member(token, present=True)}
                self._open[lookup] = _opened(found[session_id], member)

    def _load_rooms(self, rooms: Mapping[bytes, Sequence[bytes]]) -> None:
        """rooms: alias -> the lookups of whom its records name."""
        if not rooms:
            return
        named = self._vault.sessions_named(list(rooms))
        found = self._ingest._log.find(list(named.values()))
        members: dict[str, dict[bytes, _Member]] = {}
        pairs = {(id_, lookup) for alias, id_ in named.items() for lookup in rooms[alias]}
        for (session_id, lookup), member in self._vault.tokens(pairs).items():
            present = member.left_at is None
            members.setdefault(session_id, {})[lookup] = _Member(member.token, present)
        for alias, session_id in named.items():
            if session_id in found:
                self._open[alias] = _opened(found[session_id], members.get(session_id, {}))

    # -- working through ------------------------------------------------------------------------

    def through(self, records: Sequence[Record | Rejected], tally: Tally) -> int:
        """Take records in order until all are done or a limit stops one; how many were done."""
        latest = self._ingest._latest
        for index, record in enumerate(records):
            if isinstance(record, Record) and record.at <= latest:
                tally.now = max(tally.now, record.at)
                if not self._take(record, tally.now):
                    return index
            else:
                reason = record.reason if isinstance(record, Rejected) else Reject.FUTURE
                tally.rejected += 1
                self.rejects.append((record.line, str(reason)))
                if len(tally.rejects) < REJECTS_LISTED:
                    tally.rejects.append((record.line, str(reason)))
        return len(records)

    def _take(self, record: Record, now: int) -> bool:
        """One record at the instant `now`; False if a limit keeps its session from opening."""
        visitor = record.visitor
        lookup = self._lookup("subject", visitor) if visitor is not None else b""
        key = lookup if record.room is None else self._alias(record.room)
        opened = self._open.get(key)
        if opened is not None and opened.due_at is not None and now >= opened.due_at:
            opened = self._fire(key, opened, now)
        activity = record.activity
        if activity in (Activity.COMPLETED, Activity.FAILED) or visitor is None:
            if opened is not None:
                self._finish(key, opened, record, now)
            return True
        if activity is Activity.LEFT:
            if opened is not None:
                self._leave(opened, lookup, record.at)
            return True
        if opened is None:
            if self._most is not None and self._live >= self._most:
                return False
            opened = self._begin(key, record)
        if activity is Activity.RENAMED and record.new_name is not None:
            self._rename(opened, lookup, record)
        else:
            self._see(opened, lookup, visitor, record.at)
        self.records.append((opened.session.id, record.at))
        return True

    def _fire(self, key: bytes, opened: _Open, now: int) -> _Open | None:
        """Carry out what is due; None if that ended the session."""
        outcome = due_by(
            self._ingest._log, opened.session, self._versions, opened.last_seen, now, opened.events
        )
        opened.session, opened.due_at = outcome.session, outcome.next_at
        opened.events += outcome.events
        if outcome.events and opened.before is not None:
            opened.decided_on = opened.known_seen
        if opened.session.live:
            return opened
        self._live -= 1
        self._done.append(opened)
        del self._open[key]
        return None

    def _begin(self, key: bytes, record: Record) -> _Open:
        session_id = self._keyring.token()
        number = in_force(self._versions, record.at).number
        events = create(None, session_id, self._policy, number, record.at, IMPORTER)
        session = evolve(None, events[0])
        opened = _Open(None, session, record.at, None, {}, events=list(events))
        opened.alias = key if record.room is not None else None
        opened.limits = self._limits
        opened.due_at = advance(session, self._versions, record.at, record.at).next_at
        self._open[key] = opened
        self._live += 1
        self.sessions += 1
        return opened

    def _see(self, opened: _Open, lookup: bytes, name: str, at: int) -> None:
        member = opened.members.get(lookup)
        if member is None:
            token = self._keyring.token()
            self._admit(opened, token, lookup, name, at)
            opened.members[lookup] = _Member(token, present=True)
            opened.record(opened.session.join(token, at, IMPORTER, present=False))
            self.participants += 1
        elif not member.present:
            member.present = True
            opened.left.pop(member.token, None)
            opened.back[member.token] = at
            opened.seen[member.token] = max(opened.seen.get(member.token, 0), at)
            opened.record(opened.session.join(member.token, at, IMPORTER, present=False))
        else:
            opened.seen[member.token] = max(opened.seen.get(member.token, 0), at)
            if at > opened.session.last_seen_at:
                every = in_force(self._versions, at).policy.sample_every
                opened.record(opened.session.see(at, IMPORTER, every=every))
        opened.last_seen = max(opened.last_seen, at)

    def _admit(self, opened: _Open, token: str, lookup: bytes, name: str, at: int | None) -> None:
        subject = self._subjects.get(lookup)
        if subject is None:
            subject = self._subjects[lookup] = self._keyring.new_subject(lookup)
        session_id = opened.session.id
        sealed, wrapped = self._keyring.seal_identity(subject, session_id, token, name)
        opened.admitted.append(Admission(token, "participant", subject, sealed, wrapped, at))

    def _leave(self, opened: _Open, lookup: bytes, at: int) -> None:
        member = opened.members.get(lookup)
        if member is None or not member.present:
            return
        member.present = False
        opened.back.pop(member.token, None)
        opened.left[member.token] = at
        opened.record(opened.session.leave(member.token, at, IMPORTER, present=True))
        opened.last_seen = max(opened.last_seen, at)

    def _rename(self, opened: _Open, lookup: bytes, record: Record) -> None:
        """The same participant under a new name, which leads to nobody else any more."""
        new_name = str(record.new_name)
        member = opened.members.get(lookup)
        if member is None or not member.present:
            self._see(opened, lookup, str(record.visitor), record.at)
            member = opened.members[lookup]
        new_lookup = self._lookup("subject", new_name)
        if new_lookup != lookup:
            replaced = opened.members.get(new_lookup)
            if replaced is not None and replaced.token != member.token:
                opened.retired.add((replaced.token, new_lookup))
            opened.retired.add((member.token, lookup))
            opened.retired.discard((member.token, new_lookup))
            if not any(
                known.token == member.token and known.subject.lookup == new_lookup
                for known in opened.admitted
            ):
                self._admit(opened, member.token, new_lookup, new_name, None)
            opened.members[new_lookup] = opened.members.pop(lookup)
        self._see(opened, new_lookup, new_name, record.at)

    def _finish(self, key: bytes, opened: _Open, record: Record, now: int) -> None:
        session = opened.session
        if session.completed_at is not None or session.failed_at is not None:
            return
        if record.activity is Activity.COMPLETED:
            opened.record(session.complete(record.at, IMPORTER))
        else:
            opened.record(session.fail(Failure.ERROR, record.at, IMPORTER))
        self._fire(key, opened, now)

    # -- writing --------------------------------------------------------------------------------

    def appends(self) -> list[Append]:
        touched = [opened for opened in self._open.values() if opened.touched]
        return [opened.append() for opened in [*self._done, *touched]]

    def room_made(self, live: int) -> bool:
        return self._most is None or live < self._most


def _opened(found: Found, members: dict[bytes, _Member]) -> _Open:
    return _Open(
        found.session,
        found.session,
        found.last_seen,
        found.due_at,
        members,
        known_seen=found.last_seen,
        owner=found.owner,
    )
