"""Lapse's own log on SQLite and PostgreSQL: events, folded state, counters, vault rows.

One transaction writes a batch, always in this order, so that no two writers can wait for each
other in a circle:

1. lock the sessions that exist, by id; drop stale appends
2. look up command ids; drop what happened before
3. lock the counters, by scope, of limits and of all that this batch will count; drop what would
   exceed a limit
4. insert new sessions, by id; drop those that another writer created meanwhile
5. fold: sessions, vault rows, counters
6. raise the head by what was accepted, insert the events; no lock is taken after the head

So positions are gapless and in commit order on every database, only the author of a stale append is
told to decide again, and counters are exact. (The design had the counters locked before the
sessions; this way a stale append never takes a slot. docs/decisions/0003.)
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from struct import Struct
from typing import Any

import orjson
import stamina
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from adapters.log import bulk, postgres, sweep_counts
from adapters.log.beginnings import begin, only_begin
from adapters.log.committer import Committer, Pending
from adapters.log.engine import Engines, StoreDeadlock, StoreUnavailable
from adapters.log.merkle import leaf_of_row
from adapters.log.remembering import Remembering, Repeating
from adapters.log.schema import (
    bookmarks,
    commands,
    counters,
    events,
    policies,
    session_holds,
    sessions,
)
from adapters.log.transcoder import (
    Unreadable,
    decode_event,
    decode_state,
    encode_event,
    encode_state,
)
from adapters.log.wakeups import Wakeups
from adapters.vault import item_rows, parts
from adapters.vault import rows as vault_rows
from adapters.vault.holds import fold_holds, holds_of_people
from adapters.vault.keys_in_use import Writing
from adapters.vault.lookups import SubjectLookups
from domain.errors import (
    ClockHeld,
    Conflict,
    CorruptEvent,
    CorruptState,
    InviteRefused,
    LedgerTooShort,
    LedgerUnavailable,
    LimitReached,
    RestorePending,
    SessionExists,
    StoreError,
)
from domain.facts import Fact, Pruned
from domain.ledger import Deed, deed_of_part, deed_of_policy, deeds_of
from domain.policy import DAY, SECOND, Applied, Version, Versions, from_document
from domain.ports import (
    NO_CHANGES,
    Append,
    Appended,
    Bookmark,
    Decide,
    Found,
    Logged,
    Mark,
    Part,
    Rearm,
    Recorded,
    SweepCount,
    Verdict,
    owner_scope,
    policy_scope,
)
from domain.session import NEVER, Hold, Kept, Session

COPY_FROM_ROWS = 128
"""From here on COPY beats one INSERT with arrays, though it costs a round trip more."""

DEADLOCKS = 5
"""How often in a row a batch may be the victim of a deadlock."""

COMMAND_TTL = DAY
"""How long a command id is remembered."""

BACK_OFF_FIRST = 2 * SECOND
BACK_OFF_LAST = 3_600 * SECOND

_EVENT_COLUMNS = (
    "position",
    "session_id",
    "version",
    "topic",
    "effective_at",
    "recorded_at",
    "nonce",
    "state",
    "leaf",
)
_SESSION_COLUMNS = (
    "session_id",
    "version",
    "policy",
    "phase",
    "created_at",
    "last_seen_at",
    "due_at",
    "owner_subject",
    "failures",
    "stored_bytes",
    "state",
)
# An upsert finds each row by its key whatever the planner believes about the table; an UPDATE
# joined with the batch may read the whole table until its statistics are right.
_SESSION_UPSERT = (
    "ON CONFLICT (partition, session_id) DO UPDATE SET version = excluded.version, "
    "phase = excluded.phase, last_seen_at = excluded.last_seen_at, due_at = excluded.due_at, "
    "failures = excluded.failures, stored_bytes = excluded.stored_bytes, state = excluded.state"
)
SELECT_EVENTS = (
    "SELECT position, version, effective_at, recorded_at, session_id, topic, state "
    "FROM events WHERE partition = 0 AND "
)
# Whether any person is held, asked once per statement: hardly ever somebody is.
_ROW = (
    "SELECT s.session_id, s.version, s.due_at, s.owner_subject, s.state, s.failures, "
    "(SELECT EXISTS (SELECT 1 FROM subject_holds WHERE partition = 0))"
)
_FOUND = (
    f"{_ROW}, (SELECT max(p.last_seen_at) FROM presence p "
    "WHERE p.partition = s.partition AND p.session_id = s.session_id) "
    "FROM sessions s WHERE s.partition = 0 AND "
)


Beside = Callable[[Connection, Sequence[str]], tuple[Sequence[Fact], Sequence[Deed]]]
"""What else an erasure writes in its transaction, see `SqlLog.erase`."""


@dataclass
class _Batch:
    """What one transaction is about to write."""

    appends: Sequence[Append]
    now: int
    answers: list[Appended | Exception | None]
    accepted: list[int] = field(default_factory=list)
    # Position of an append -> the nonce of its first event: whether it was written, if COMMIT's
    # answer is lost.
    nonces: dict[int, bytes] = field(default_factory=dict)
    # Also look for sessions whose state is gone and whose events are still there.
    careful: bool = False
    counters: Sequence[str] = ()
    gone: list[str] = field(default_factory=list)
    # What goes of people from sessions that go on, and what is written with it.
    parts: Sequence[Part] = ()
    beside: Beside = lambda connection, gone: ((), ())
    facts: Sequence[Fact] = ()
    deeds: Sequence[Deed] = ()

    def refuse(self, index: int, error: Exception) -> None:
        self.answers[index] = error

    def waiting(self) -> Iterable[tuple[int, Append]]:
        return (
            (index, append)
            for index, append in enumerate(self.appends)
            if self.answers[index] is None
        )


class SqlLog:
    """The log behind `domain.ports.Log`. Close it to finish what was submitted.

    wall: the wall clock in microseconds, for leases only. erased: told which subjects are gone,
    once that is committed. ledger: told what a restored database would not find again, before that
    is committed. lookups: find people, whose keys change.
    """

    def __init__(
        self,
        engines: Engines,
        wall: Callable[[], int],
        erased: Callable[[Collection[str]], None] = lambda subjects: None,
        ledger: Remembering | Repeating | None = None,
        lookups: SubjectLookups | None = None,
    ) -> None:
        self._erased = erased
        self.lookups = lookups or SubjectLookups(engines)
        self._ledger = ledger
        self._engines = engines
        self._wall = wall
        self._versions: dict[tuple[str, int], Version] = {}
        self.wakeups = Wakeups(engines, "lapse_log")
        self._committer: Committer[tuple[Append, int], Appended] = Committer(
            self._write_units,
            name="lapse-log",
            weigh=lambda unit: max(1, len(unit[0].events)),
        )

    def close(self) -> None:
        self._committer.close()
        self.wakeups.close()
        self._engines.close()

    # -- writing ------------------------------------------------------------------------------

    def submit(self, append: Append, now: int) -> Appended:
        return self._committer.submit((append, now)).result()

    def enqueue(
        self, append: Append, now: int, on_done: Callable[[Pending[Appended]], None]
    ) -> None:
        """As `submit`, for an event loop: returns at once, and `on_done` is called from the
        committer's thread with the answer or the refusal."""
        self._committer.submit((append, now), on_done)

    def append(
        self,
        appends: Sequence[Append],
        now: int,
        bookmark: Bookmark | None = None,
        *,
        together: bool = False,
        holder: str | None = None,
    ) -> Sequence[Appended | Exception]:
        return self._in_one_transaction(appends, now, bookmark, together=together, holder=holder)

    def erase(
        self,
        wholes: Sequence[Append],
        erased: Sequence[Part],
        now: int,
        beside: Beside,
    ) -> None:
        """Whole sessions and parts of others in one transaction, or nothing of it.

        beside: told the subjects of whom nothing is left, while they are locked; writes what else
        belongs into the transaction, and answers with facts and with what the ledger is told
        of them. Raises Conflict, StoreError, and whatever `beside` raises.
        """
        for attempt in range(DEADLOCKS):
            batch = _Batch(wholes, now, [None] * len(wholes), parts=erased, beside=beside)
            try:
                with self._engines.write() as connection:
                    self._write(connection, batch)
                    _raise_refusal(batch)
                    self._remember_appended(connection, batch)
                break
            except StoreDeadlock:
                if attempt + 1 == DEADLOCKS:
                    raise
        self.wakeups.notify()
        self._erased(batch.gone)

    def _write_units(self, units: Sequence[tuple[Append, int]]) -> Sequence[Appended | Exception]:
        """At most one append per session in a transaction; a second one waits a round."""
        answers: list[Appended | Exception | None] = [None] * len(units)
        waiting = list(range(len(units)))
        while waiting:
            this_round: dict[str, int] = {}
            later = []
            for index in waiting:
                session_id = units[index][0].session_id
                if session_id in this_round:
                    later.append(index)
                else:
                    this_round[session_id] = index
            chosen = list(this_round.values())
            now = max(units[index][1] for index in chosen)
            written: Sequence[Appended | Exception]
            try:
                written = self._in_one_transaction([units[index][0] for index in chosen], now, None)
            except Exception as error:
                if not any(answers):
                    raise
                for index in waiting:
                    answers[index] = error
                break
            for index, answer in zip(chosen, written, strict=True):
                answers[index] = answer
            waiting = later
        return answers  # type: ignore[return-value]

    def _in_one_transaction(
        self,
        appends: Sequence[Append],
        now: int,
        bookmark: Bookmark | None,
        *,
        together: bool = False,
        holder: str | None = None,
    ) -> Sequence[Appended | Exception]:
        alone = bookmark is None and holder is None and not together
        if alone and self._engines.dialect == "postgresql" and only_begin(appends):
            answers = self._begin(appends, now)
            if answers is not None:
                return answers
        careful, deadlocks = False, 0
        while True:
            batch = _Batch(appends, now, [None] * len(appends), careful=careful)
            try:
                with self._engines.write() as connection:
                    if holder is not None:
                        self._must_hold_clock(connection, holder)
                    self._write(connection, batch)
                    if together:
                        _raise_refusal(batch)
                    _save_bookmark(connection, bookmark)
                    self._remember_appended(connection, batch)
            except IntegrityError:
                # An id whose session was erased: its events are still there. Look first, then.
                if not careful:
                    careful = True
                    continue
                if not alone or len(appends) == 1:
                    raise
                # A row of one author's contradicts the database: it must not fail the others.
                return [self._alone(append, now) for append in appends]
            except StoreDeadlock:
                # Two authors create the same session, one of them in a batch that had to lock its
                # counters first. The server undid this transaction whole: it is begun anew.
                deadlocks += 1
                if deadlocks == DEADLOCKS:
                    raise
                continue
            except StoreUnavailable as lost:
                return self._after_lost_commit(batch, lost)
            except (LedgerUnavailable, LedgerTooShort, RestorePending) as refusal:
                if not alone or all(deeds_of(append.events) for append in appends):
                    raise
                return self._without_deeds(appends, now, refusal)
            break
        if batch.accepted:
            self.wakeups.notify()
        if batch.gone:
            self._erased(batch.gone)
        return batch.answers  # type: ignore[return-value]

    def _remember_appended(self, connection: Connection, batch: _Batch) -> None:
        """Creations, heartbeats and what rules do are found again by themselves: most batches end
        here without a look at anything but their own events."""
        if self._ledger is None:
            return
        deeds = []
        accepted = [batch.appends[index] for index in batch.accepted]
        telling = [(append, found) for append in accepted if (found := deeds_of(append.events))]
        seen = newest_presence(connection, [append.session_id for append, _ in telling])
        for append, found in telling:
            last_seen = max(append.after.last_seen_at, seen.get(append.session_id, 0))
            deeds += [one._replace(fields={**one.fields, "last_seen": last_seen}) for one in found]
        deeds += [deed_of_part(one.session_id, one.found.tokens, batch.now) for one in batch.parts]
        deeds += batch.deeds
        if deeds or isinstance(self._ledger, Repeating):
            written = sum(len(batch.appends[index].events) for index in batch.accepted)
            written += len(batch.facts)
            self._ledger.write(connection, deeds, written)

    def _without_deeds(
        self, appends: Sequence[Append], now: int, refusal: StoreError
    ) -> Sequence[Appended | Exception]:
        """The ledger refuses what some of these authors want; the others have no part in that."""
        answers: list[Appended | Exception] = [refusal] * len(appends)
        others = [n for n, append in enumerate(appends) if not deeds_of(append.events)]
        written = self._in_one_transaction([appends[n] for n in others], now, None)
        for index, answer in zip(others, written, strict=True):
            answers[index] = answer
        return answers

    def remember(self, connection: Connection, deeds: Sequence[Deed], written: int = 0) -> None:
        """Write into the erasure ledger, as the last step of the caller's transaction; see
        `adapters.log.remembering.Remembering.write`."""
        if self._ledger is not None:
            self._ledger.write(connection, deeds, written)

    def _alone(self, append: Append, now: int) -> Appended | Exception:
        """Whose row it was is told to decide again: it may stand there already."""
        try:
            return self._in_one_transaction([append], now, None)[0]
        except IntegrityError:
            return Conflict(append.session_id)

    def _begin(self, appends: Sequence[Append], now: int) -> Sequence[Appended | Exception] | None:
        """See adapters/log/beginnings.py; None if one of the sessions is not new."""
        batch = _Batch(appends, now, [None] * len(appends))
        batch.accepted = list(range(len(appends)))
        counts: dict[str, int] = {}
        rows = []
        for append in sorted(appends, key=lambda append: append.session_id):
            scope = policy_scope(append.after.policy)
            counts[scope] = counts.get(scope, 0) + 1
            row = _session_row(append.after, append.due_at, None)
            rows.append((*row[:7], row[-1]))
        events = _numberless_rows(batch)
        for index, append in enumerate(appends):
            batch.answers[index] = Appended(append.session_id, append.after.version)
        try:
            with self._engines.driver() as connection:
                begin(connection, rows, sorted(counts.items()), events)
        except IntegrityError:
            return None
        except StoreUnavailable as lost:
            return self._after_lost_commit(batch, lost)
        self.wakeups.notify()
        return batch.answers  # type: ignore[return-value]

    def _after_lost_commit(
        self, batch: _Batch, lost: StoreUnavailable
    ) -> Sequence[Appended | Exception]:
        """The connection broke. What stands in the log decides what the authors are told.

        Behind the head's lock, since the server may still be at that commit. Raises `lost` if
        nothing was written, or if that cannot be found out.
        """
        if not batch.nonces:
            raise lost
        ids = [batch.appends[index].session_id for index in batch.nonces]
        found: set[bytes] = set()
        try:
            for attempt in stamina.retry_context(on=StoreError, attempts=6, timeout=20.0):
                with attempt, self._engines.write() as connection:
                    _lock_head(connection)
                    query = "SELECT nonce FROM events WHERE partition = 0 AND session_id IN ({ids})"
                    found = {bytes(row[0]) for row in bulk.select_in(connection, query, ids)}
        except StoreError:
            raise lost from None
        if found.isdisjoint(batch.nonces.values()):
            raise lost
        self.wakeups.notify()
        return batch.answers  # type: ignore[return-value]

    def _write(self, connection: Connection, batch: _Batch) -> None:
        self._drop_stale(connection, batch)
        commanded = self._drop_repeated(connection, batch)
        self._write_fresh(connection, batch)
        # A command that was refused did not happen: it may come again.
        refused = commanded - {batch.appends[index].command for index in batch.accepted}
        bulk.delete_in(connection, commands, "command", sorted(refused))

    def _write_fresh(self, connection: Connection, batch: _Batch) -> None:
        """From step 3 on: the sessions that exist are locked and their versions are right."""
        self._drop_over_limit(connection, batch)
        self._insert_sessions(connection, batch)
        writing = self.lookups.in_use.writing(connection)
        self._admit(connection, batch, writing)
        batch.accepted = [index for index, _ in batch.waiting()]
        accepted = [batch.appends[index] for index in batch.accepted]
        _fold(connection, accepted)
        batch.gone = vault_rows.write(connection, self.lookups, writing, accepted)
        batch.gone += parts.erase(connection, writing, batch.parts, batch.now)
        batch.facts, batch.deeds = batch.beside(connection, batch.gone)
        # Every session of a policy counts on the same row: locked last, so that the rest of two
        # batches goes on side by side.
        _count(connection, accepted, batch.parts, batch.counters)
        self._insert_events(connection, batch)
        for index, append in zip(batch.accepted, accepted, strict=True):
            batch.answers[index] = Appended(append.session_id, append.after.version)

    def _drop_stale(self, connection: Connection, batch: _Batch) -> None:
        known = {a.session_id for _, a in batch.waiting() if a.before is not None}
        ids = sorted(known | {part.session_id for part in batch.parts})
        lock = "" if self._engines.dialect == "sqlite" else " ORDER BY session_id FOR UPDATE"
        query = (
            "SELECT session_id, version, owner_subject FROM sessions "
            f"WHERE partition = 0 AND session_id IN ({{ids}}){lock}"
        )
        rows = {row[0]: row[1:] for row in bulk.select_in(connection, query, ids)}
        for index, append in batch.waiting():
            if append.before is None:
                continue
            version, owner = rows.get(append.session_id, (0, None))
            # An owner who was erased since is nobody's to count against.
            if version != append.before.version or (append.owner is not None and owner is None):
                batch.refuse(index, Conflict(append.session_id))
        for part in batch.parts:
            if rows.get(part.session_id, (0,))[0] != part.version:
                raise Conflict(part.session_id)
        self._drop_unaware(connection, batch)
        # Only now that they are locked: a heartbeat that was answered before this counts.
        on_rules = {a.session_id for _, a in batch.waiting() if a.decided_on is not None}
        seen = newest_presence(connection, sorted(on_rules))
        for index, append in batch.waiting():
            if append.decided_on is not None and (
                seen.get(append.session_id, 0) > append.decided_on
            ):
                batch.refuse(index, Conflict(append.session_id))

    def _drop_unaware(self, connection: Connection, batch: _Batch) -> None:
        """Those whose authors know nothing of what left no event: that somebody was erased from the
        session, or is held."""
        appends = [append for _, append in batch.waiting()]
        stale = parts.without_members(connection, appends) | parts.with_old_keys(
            connection, self.lookups.in_use, appends
        )
        deleting = {a.session_id for _, a in batch.waiting() if a.deletes and a.before is not None}
        deleting |= {part.session_id for part in batch.parts}
        held = holds_of_people(connection, sorted(deleting))
        for part in batch.parts:
            if held.get(part.session_id, ()) != part.holds:
                raise Conflict(part.session_id)
        for index, append in batch.waiting():
            if append.session_id in stale or (
                append.before is not None
                and append.deletes
                and held.get(append.session_id, ()) != append.before.holds_of_people
            ):
                batch.refuse(index, Conflict(append.session_id))

    def _drop_reborn(self, connection: Connection, batch: _Batch) -> None:
        ids = [a.session_id for _, a in batch.waiting() if a.before is None]
        query = (
            "SELECT session_id FROM events "
            "WHERE partition = 0 AND version = 1 AND session_id IN ({ids})"
        )
        known = {row[0] for row in bulk.select_in(connection, query, ids)}
        for index, append in batch.waiting():
            if append.before is None and append.session_id in known:
                batch.refuse(index, SessionExists(append.session_id))

    def _drop_repeated(self, connection: Connection, batch: _Batch) -> set[bytes]:
        """The commands that are new, which are written."""
        named = [(index, append) for index, append in batch.waiting() if append.command]
        if not named:
            return set()
        rows, first = [], {}
        for index, append in sorted(named, key=lambda pair: bytes(pair[1].command or b"")):
            if append.command in first:
                batch.refuse(index, Conflict(append.session_id))  # twice in one batch: ask again
                continue
            first[append.command] = index
            expires_at = self._wall() + COMMAND_TTL
            rows.append((append.command, append.session_id, append.after.version, expires_at))
        columns = ("command", "session_id", "version", "expires_at")
        fresh = bulk.insert_new(connection, commands, columns, "command", rows)
        repeated = [row[0] for row in rows if row[0] not in fresh]
        query = (
            "SELECT command, session_id, version FROM commands "
            "WHERE partition = 0 AND command IN ({ids})"
        )
        for command, session_id, version in bulk.select_in(connection, query, repeated):
            batch.answers[first[bytes(command)]] = Appended(session_id, version, repeated=True)
        return fresh

    def _lock_counters(self, connection: Connection, batch: _Batch) -> dict[str, int]:
        """What the counters of this batch stand at; empty if none needs to be locked this early.

        Only subjects are waited for between here and `_count`, so a batch without limits that
        concerns no subject may take its counters there.
        """
        appends = [append for _, append in batch.waiting()]
        limits = {limit.scope for append in appends for limit in append.limits}
        people = any(append.changes.admitted or append.erases for append in appends)
        if not limits and not people and not batch.parts:
            return {}
        counted = {scope for append in appends for scope, _ in append.counts}
        counted |= {scope for scope, _ in _left_behind(batch.parts)}
        batch.counters = sorted(limits | counted)
        # Not DO NOTHING and then FOR UPDATE: in between another may delete an owner's counter.
        tail = "ON CONFLICT (partition, scope) DO UPDATE SET used = counters.used"
        rows = [(scope, 0) for scope in batch.counters]
        bulk.insert(connection, counters, ("scope", "used"), rows, tail)
        query = "SELECT scope, used FROM counters WHERE partition = 0 AND scope IN ({ids})"
        return {row[0]: row[1] for row in bulk.select_in(connection, query, batch.counters)}

    def _drop_over_limit(self, connection: Connection, batch: _Batch) -> None:
        used = self._lock_counters(connection, batch)
        for index, append in batch.waiting() if used else ():
            over = next(
                (
                    limit
                    for limit in append.limits
                    if used[limit.scope] + dict(append.counts).get(limit.scope, 0) > limit.most
                ),
                None,
            )
            if over is not None:
                batch.refuse(index, LimitReached(append.after.policy, over.name, over.most))
                continue
            for scope, by in append.counts:
                if scope in used:
                    used[scope] += by

    def _insert_sessions(self, connection: Connection, batch: _Batch) -> None:
        if batch.careful:
            self._drop_reborn(connection, batch)
        new = {a.session_id: index for index, a in batch.waiting() if a.before is None}
        rows = []
        for session_id in sorted(new):
            append = batch.appends[new[session_id]]
            rows.append(_session_row(append.after, append.due_at, append.owner))
        inserted = bulk.insert_new(connection, sessions, _SESSION_COLUMNS, "session_id", rows)
        for session_id, index in new.items():
            if session_id not in inserted:
                batch.refuse(index, SessionExists(session_id))

    def _admit(self, connection: Connection, batch: _Batch, writing: Writing) -> None:
        """Drop those whose subjects changed since they were read; their new sessions go again."""
        concerned = [a for _, a in batch.waiting() if a.changes is not NO_CHANGES or a.erases]
        leaving = sorted({subject for part in batch.parts for subject in part.found.subjects})
        if not concerned and not leaving:
            return
        stale = vault_rows.admit(connection, writing, concerned, leaving)
        for index, append in batch.waiting():
            if append.session_id in stale:
                batch.refuse(index, Conflict(append.session_id))
        inviting = [a for a in concerned if a.changes.invite is not None]
        used_up = vault_rows.use_invites(
            connection, [a for a in inviting if a.session_id not in stale]
        )
        for index, append in batch.waiting():
            if append.session_id in used_up:
                batch.refuse(index, InviteRefused("used-up"))
        unborn = [a.session_id for a in concerned if a.before is None and a.session_id in stale]
        bulk.delete_in(connection, sessions, "session_id", unborn)

    def _insert_events(self, connection: Connection, batch: _Batch) -> None:
        rows = _numberless_rows(batch)
        if rows:
            _append_rows(connection, rows)
        append_facts(connection, batch.facts, batch.now)

    def apply_policy(self, applied: Applied, now: int, bookmark: Bookmark | None = None) -> None:
        document = orjson.dumps(applied.document, option=orjson.OPT_SORT_KEYS)
        row = (applied.policy, applied.originator_version, applied.effective_at, document)
        columns = ("name", "version", "effective_from", "document")
        try:
            with self._engines.write() as connection:
                bulk.insert(connection, policies, columns, [row])
                _append_rows(connection, [_event_row(applied, now, os.urandom(16))])
                _save_bookmark(connection, bookmark)
                self.remember(connection, [deed_of_policy(applied, now)], 1)
        except IntegrityError:
            raise Conflict(applied.originator_id) from None
        self.wakeups.notify()

    # -- reading ------------------------------------------------------------------------------

    def find(self, session_ids: Sequence[str]) -> Mapping[str, Found]:
        with self._engines.read() as connection:
            rows = bulk.select_in(connection, _FOUND + "s.session_id IN ({ids})", list(session_ids))
            return {found.session.id: found for found in _founds(connection, rows)}

    def live(self, policy: str) -> int:
        query = "SELECT used FROM counters WHERE partition = 0 AND scope IN ({ids})"
        with self._engines.read() as connection:
            rows = bulk.select_in(connection, query, [policy_scope(policy)])
        return int(rows[0][0]) if rows else 0

    def owned(self, policy: str, subject: str) -> Sequence[Found]:
        query = _FOUND + "s.phase <> 'expired' AND s.owner_subject IN ({ids}) ORDER BY s.created_at"
        with self._engines.read() as connection:
            rows = bulk.select_in(connection, query, [subject])
            return [one for one in _founds(connection, rows) if one.session.policy == policy]

    def oldest(self, policy: str, limit: int) -> Sequence[Found]:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        query = (
            f"{_FOUND}s.policy = {mark} AND s.phase <> 'expired' "
            f"ORDER BY s.created_at, s.session_id LIMIT {mark}"
        )
        with self._engines.read() as connection:
            return _founds(connection, _raw_rows(connection, query, (policy, limit)))

    def kept(self, session_ids: Sequence[str]) -> Mapping[str, Sequence[Kept]]:
        with self._engines.read() as connection:
            return item_rows.kept(connection, session_ids)

    def stored_bytes(self) -> int:
        query = (
            "SELECT coalesce(sum(used), 0) FROM counters "
            "WHERE partition = 0 AND scope >= 'bytes:' AND scope < 'bytes;'"
        )
        with self._engines.read() as connection:
            return int(connection.exec_driver_sql(query).scalar_one())

    def relievable(self, limit: int) -> Sequence[Found]:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        finished = f"{_FOUND}s.stored_bytes > 0 AND s.phase <> 'active' ORDER BY s.created_at"
        idle = f"{_FOUND}s.stored_bytes > 0 AND s.phase = 'active' ORDER BY s.last_seen_at"
        rows: list[Any] = []
        with self._engines.read() as connection:
            for query in (finished, idle):
                if len(rows) < limit:
                    rows += _raw_rows(connection, f"{query} LIMIT {mark}", (limit - len(rows),))
            return _founds(connection, rows)

    def history(self, session_id: str) -> Sequence[Recorded]:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        query = f"{SELECT_EVENTS}session_id = {mark} ORDER BY version"
        with self._engines.read() as connection:
            return [recorded(row) for row in _raw_rows(connection, query, (session_id,))]

    def read(self, after: int, limit: int, upto: int | None = None) -> Sequence[Recorded]:
        # Bounded by position, not by LIMIT: without statistics PostgreSQL would sort all that
        # follows. Positions have no gaps, so a page is full all the same.
        last = after + limit if upto is None else min(upto, after + limit)
        where = f"position > {int(after)} AND position <= {int(last)} ORDER BY position"
        with self._engines.read() as connection:
            if self._engines.dialect == "postgresql":
                page = postgres.copy_out(connection, f"{SELECT_EVENTS}{where}")
                found = [recorded(row) for row in _copied_events(page)]
            else:
                rows = _raw_rows(connection, SELECT_EVENTS + where, ())
                found = [recorded(row) for row in rows]
            if found and found[-1].position - after == len(found):
                return found
            return _with_pruned(connection, found, where)

    def head(self) -> int:
        with self._engines.read() as connection:
            row = connection.exec_driver_sql(
                "SELECT position FROM heads WHERE partition = 0"
            ).fetchone()
        return int(row[0]) if row else 0

    def policies(self) -> Mapping[str, Versions]:
        with self._engines.read() as connection:
            rows = connection.exec_driver_sql(
                "SELECT name, version, effective_from, document FROM policies "
                "WHERE partition = 0 ORDER BY name, version"
            ).fetchall()
        known: dict[str, list[Version]] = {}
        for name, number, effective_from, document in rows:
            # A version never changes: it is parsed once, though this is read every second.
            version = self._versions.get((name, number))
            if version is None:
                policy = from_document(name, orjson.loads(bytes(document)))
                version = Version(number, effective_from, policy)
                self._versions[name, number] = version
            known.setdefault(name, []).append(version)
        return known

    def due(self, now: int, page: int) -> Iterator[Sequence[Found | Rearm]]:
        """What is stored as due by `now`, page by page in order of deadline; nothing is locked.

        What cannot be read comes as the failure that a sweep would count.
        """
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        query = (
            f"{_FOUND}s.due_at <= {mark} AND (s.due_at, s.session_id) > ({mark}, {mark}) "
            f"ORDER BY s.due_at, s.session_id LIMIT {mark}"
        )
        behind = (-1, "")
        while True:
            with self._engines.read() as connection:
                rows = connection.exec_driver_sql(query, (now, *behind, page)).fetchall()
                found = _found_or_failed(connection, rows)
            if not rows:
                return
            yield found
            behind = (rows[-1][2], rows[-1][0])

    def next_due(self) -> int | None:
        with self._engines.read() as connection:
            row = connection.exec_driver_sql(
                "SELECT due_at FROM sessions WHERE partition = 0 AND due_at IS NOT NULL "
                "ORDER BY due_at LIMIT 1"
            ).fetchone()
        return int(row[0]) if row else None

    def bookmark(self, name: str) -> bytes | None:
        with self._engines.read() as connection:
            rows = bulk.select_in(
                connection,
                "SELECT value FROM bookmarks WHERE partition = 0 AND name IN ({ids})",
                [name],
            )
        return bytes(rows[0][0]) if rows else None

    # -- sweeping -----------------------------------------------------------------------------

    def sweep(
        self, now: int, limit: int, decide: Decide, holder: str, mark: Mark | None = None
    ) -> SweepCount:
        try:
            with self._engines.write() as connection:
                self._check_clock(connection, holder)
                count, gone = self._sweep(connection, now, limit, decide)
                if mark is not None:
                    _save_bookmark(connection, mark(count))
        except IntegrityError:
            return self._sweep_singly(now, limit, decide, holder, mark)
        if gone:
            self._erased(gone)
        if count.events:
            self.wakeups.notify()
        return count

    def _sweep(
        self,
        connection: Connection,
        now: int,
        limit: int,
        decide: Decide,
        only: str | None = None,
    ) -> tuple[SweepCount, Sequence[str]]:
        """The count, and which subjects are gone."""
        rows = self._claim(connection, now, limit, only)
        failures = {row[0]: row[5] for row in rows}
        read = _found_or_failed(connection, rows)
        found = [one for one in read if isinstance(one, Found)]
        failed = [
            (one.session_id, now + back_off(failures[one.session_id]))
            for one in read
            if isinstance(one, Rearm)
        ]
        rearms: list[Rearm] = []
        appends: list[Append] = []
        for answer in decide(found):
            if isinstance(answer, Append):
                appends.append(answer)
            elif answer.verdict is Verdict.FAILED:
                failed.append((answer.session_id, now + back_off(failures[answer.session_id])))
            else:
                rearms.append(answer)
        batch = _Batch(appends, now, [None] * len(appends))
        self._write_fresh(connection, batch)
        by_id = {row.session.id: row for row in found}
        again = [(by_id[id_].session, due_at, by_id[id_].owner) for id_, due_at, _ in rearms]
        save_sessions(connection, again)
        _postpone(connection, failed)
        count = SweepCount(
            due=len(rows),
            done=len(batch.accepted),
            held=sum(rearm.verdict is Verdict.HELD for rearm in rearms),
            rearmed=sum(rearm.verdict is Verdict.REARMED for rearm in rearms),
            failed=len(failed) + len(appends) - len(batch.accepted),
            events=_topics(appends),
            more=len(rows) == limit,
        )
        sweep_counts.add(connection, now, count)
        return count, batch.gone

    def _sweep_singly(
        self, now: int, limit: int, decide: Decide, holder: str, mark: Mark | None
    ) -> SweepCount:
        """A row contradicts the log: sweep one by one, so that it stops none of the others."""
        with self._engines.write() as connection:
            failures = {row[0]: row[5] for row in self._claim(connection, now, limit, None)}
        total = SweepCount()
        for session_id, times in failures.items():
            try:
                with self._engines.write() as connection:
                    self._check_clock(connection, holder)
                    count, gone = self._sweep(connection, now, 1, decide, only=session_id)
                    if mark is not None:
                        _save_bookmark(connection, mark(total + count))
                if gone:
                    self._erased(gone)
            except IntegrityError:
                count = SweepCount(due=1, failed=1)
                with self._engines.write() as connection:
                    _postpone(connection, [(session_id, now + back_off(times))])
                    sweep_counts.add(connection, now, count)
                    if mark is not None:
                        _save_bookmark(connection, mark(total + count))
            total += count
        self.wakeups.notify()
        return SweepCount(**{**vars(total), "more": len(failures) == limit})

    def _claim(
        self, connection: Connection, now: int, limit: int, only: str | None
    ) -> Sequence[Any]:
        """Due rows in order of their deadline, locked; those another sweeper holds are skipped."""
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        skip = "" if self._engines.dialect == "sqlite" else " FOR UPDATE OF s SKIP LOCKED"
        which = f"s.session_id = {mark} AND " if only is not None else ""
        query = (
            f"{_ROW} FROM sessions s WHERE s.partition = 0 AND {which}s.due_at <= {mark} "
            f"ORDER BY s.due_at LIMIT {mark}{skip}"
        )
        params = (now, limit) if only is None else (only, now, limit)
        rows = _raw_rows(connection, query, params)
        # Only now that they are locked: a heartbeat that was answered before this counts.
        seen = newest_presence(connection, [row[0] for row in rows])
        return [(*row, seen.get(row[0])) for row in rows]

    def due_of_policy(self, policy: str, after: str, limit: int) -> Sequence[Found | Rearm]:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        query = (
            f"{_FOUND}s.policy = {mark} AND s.session_id > {mark} "
            f"ORDER BY s.session_id LIMIT {mark}"
        )
        with self._engines.read() as connection:
            rows = connection.exec_driver_sql(query, (policy, after, limit)).fetchall()
            return _found_or_failed(connection, rows)

    def rearm(self, rearms: Sequence[Rearm], bookmark: Bookmark | None = None) -> None:
        earlier = [(rearm.session_id, rearm.due_at) for rearm in rearms if rearm.due_at is not None]
        with self._engines.write() as connection:
            # Only ever earlier: the stored deadline must not pass the true one of a session that
            # changed since it was read.
            least = "min" if self._engines.dialect == "sqlite" else "least"
            setting = f"{{column}} = {least}(coalesce(sessions.due_at, {NEVER}), {{value}})"
            bulk.update(connection, sessions, ("session_id",), ("due_at",), earlier, setting)
            _save_bookmark(connection, bookmark)

    def is_known(self, command: bytes) -> bool:
        query = "SELECT 1 FROM commands WHERE partition = 0 AND command IN ({ids})"
        with self._engines.read() as connection:
            return bool(bulk.select_in(connection, query, [command]))

    def forget_commands(self, now: int) -> int:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        with self._engines.write() as connection:
            return connection.exec_driver_sql(
                f"DELETE FROM commands WHERE partition = 0 AND expires_at <= {mark}", (now,)
            ).rowcount

    # -- the clock lease ----------------------------------------------------------------------

    def lease_clock(self, holder: str, until: int) -> None:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        query = (
            f"INSERT INTO leases (name, holder, until) VALUES ('clock', {mark}, {mark}) "
            "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until "
            f"WHERE leases.holder = excluded.holder OR leases.until < {mark}"
        )
        with self._engines.write() as connection:
            taken = connection.exec_driver_sql(query, (holder, until, self._wall())).rowcount
        if not taken:
            raise ClockHeld("another import is running on this database; wait until it is done")

    def release_clock(self, holder: str) -> None:
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        with self._engines.write() as connection:
            connection.exec_driver_sql(
                f"DELETE FROM leases WHERE name = 'clock' AND holder = {mark}", (holder,)
            )

    def _must_hold_clock(self, connection: Connection, holder: str) -> None:
        lease = _clock_lease(connection)
        if lease is None or lease[0] != holder or lease[1] <= self._wall():
            raise ClockHeld(
                "the import lost the clock, because it stood still for too long; run it again: it "
                "goes on where it stopped"
            )

    def _check_clock(self, connection: Connection, holder: str) -> None:
        lease = _clock_lease(connection)
        if lease is not None and lease[0] != holder and lease[1] > self._wall():
            raise ClockHeld("an import holds the clock; sweeps wait until it is done")


def _clock_lease(connection: Connection) -> Any:
    query = "SELECT holder, until FROM leases WHERE name = 'clock'"
    return connection.exec_driver_sql(query).fetchone()


def _raise_refusal(batch: _Batch) -> None:
    for answer in batch.answers:
        if isinstance(answer, Exception):
            raise answer


# -- rows -------------------------------------------------------------------------------------


def _event_row(event: Logged, now: int, nonce: bytes) -> tuple[Any, ...]:
    """A row of `events` but for its position; its leaf is hashed before the head is locked."""
    columns = (
        event.originator_id,
        event.originator_version,
        event.TOPIC,
        event.effective_at,
        now,
        nonce,
        encode_event(event),
    )
    return (*columns, leaf_of_row(*columns))


def _numberless_rows(batch: _Batch) -> list[tuple[Any, ...]]:
    """The events of what was accepted, without positions; their nonces are noted."""
    total = sum(len(batch.appends[index].events) for index in batch.accepted)
    nonces = os.urandom(16 * total)
    rows: list[tuple[Any, ...]] = []
    for index in batch.accepted:
        batch.nonces[index] = nonces[16 * len(rows) : 16 * len(rows) + 16]
        for event in batch.appends[index].events:
            start = 16 * len(rows)
            rows.append(_event_row(event, batch.now, nonces[start : start + 16]))
    return rows


def append_facts(connection: Connection, facts: Sequence[Fact], now: int) -> None:
    """Write facts in the caller's transaction, as the last thing it locks; wake readers then."""
    if facts:
        nonces = [os.urandom(16) for _ in facts]
        _append_rows(connection, [_event_row(*row) for row in zip(facts, repeat(now), nonces)])


def _lock_head(connection: Connection) -> None:
    """Wait until no other transaction is about to append. SQLite: that is so in any write."""
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql("SELECT position FROM heads WHERE partition = 0 FOR SHARE")


def _append_rows(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    """Raise the head and write the events behind it."""
    if connection.dialect.name == "sqlite":
        head = connection.exec_driver_sql(
            "UPDATE heads SET position = position + ? WHERE partition = 0 RETURNING position",
            (len(rows),),
        ).scalar_one()
        first = head - len(rows) + 1
        numbered = [(first + offset, *row) for offset, row in enumerate(rows)]
        bulk.insert(connection, events, _EVENT_COLUMNS, numbered)
        return
    if len(rows) >= COPY_FROM_ROWS:
        query = "UPDATE heads SET position = position + %s WHERE partition = 0 RETURNING position"
        head = connection.exec_driver_sql(query, (len(rows),)).scalar_one()
        first = head - len(rows) + 1
        tuples = [_copied_in(first + offset, row) for offset, row in enumerate(rows)]
        postgres.copy_in(connection, events.name, ("partition", *_EVENT_COLUMNS), tuples)
        return
    # One statement, so that the head is held for one round trip and the commit, no longer.
    arrays = bulk.array_literals(rows)
    connection.exec_driver_sql(_APPEND, (len(rows), len(rows), *arrays))


_APPEND = (
    "WITH head AS (UPDATE heads SET position = position + %s WHERE partition = 0 "
    "RETURNING position - %s AS base) "
    "INSERT INTO events (partition, position, session_id, version, topic, effective_at, "
    "recorded_at, nonce, state, leaf) "
    "SELECT 0, head.base + u.n, u.session_id, u.version, u.topic, u.effective_at, u.recorded_at, "
    "u.nonce, u.state, u.leaf FROM head, unnest(%s::text[], %s::integer[], %s::text[], "
    "%s::bigint[], %s::bigint[], %s::bytea[], %s::bytea[], %s::bytea[]) WITH ORDINALITY "
    "AS u(session_id, version, topic, effective_at, recorded_at, nonce, state, leaf, n)"
)


def _session_row(session: Session, due_at: int | None, owner: str | None) -> tuple[Any, ...]:
    return (
        session.id,
        session.version,
        session.policy,
        str(session.phase),
        session.created_at,
        session.last_seen_at,
        due_at,
        owner,
        0,
        session.stored_bytes,
        encode_state(session),
    )


def newest_presence(connection: Connection, session_ids: Sequence[str]) -> dict[str, int]:
    """When anybody was last seen in each of these sessions."""
    query = (
        "SELECT session_id, max(last_seen_at) FROM presence "
        "WHERE partition = 0 AND session_id IN ({ids}) GROUP BY session_id"
    )
    return dict(map(tuple, bulk.select_in(connection, query, session_ids)))


def _left_behind(erased: Sequence[Part]) -> Iterable[tuple[str, int]]:
    """Sessions that count against an owner no more, since the owner goes."""
    return (
        (owner_scope(part.policy, part.owned_by), -1)
        for part in erased
        if part.owned_by is not None and part.live
    )


def _count(
    connection: Connection,
    accepted: Sequence[Append],
    erased: Sequence[Part],
    locked: Sequence[str],
) -> None:
    """Move the counters of sessions and bytes; those of owners go when they count nothing.

    locked: counters that were locked before, and made if need be, for whoever was refused too.
    """
    deltas: dict[str, int] = {}
    moved = [append.counts for append in accepted]
    for counts in (*moved, _left_behind(erased)):
        for scope, by in counts:
            deltas[scope] = deltas.get(scope, 0) + by
    rows = [(scope, deltas[scope]) for scope in sorted(deltas)]
    bulk.insert(
        connection,
        counters,
        ("scope", "used"),
        rows,
        "ON CONFLICT (partition, scope) DO UPDATE SET used = counters.used + excluded.used",
    )
    owners = sorted(
        scope
        for scope in {*locked, *deltas}
        if scope.startswith("owner:") and deltas.get(scope, 0) <= 0
    )
    query = "SELECT scope FROM counters WHERE partition = 0 AND used = 0 AND scope IN ({ids})"
    empty = [row[0] for row in bulk.select_in(connection, query, owners)]
    bulk.delete_in(connection, counters, "scope", empty)


def save_sessions(
    connection: Connection, rows: Sequence[tuple[Session, int | None, str | None]]
) -> None:
    """Write folded state as it is: (session, deadline, owner's subject)."""
    bulk.insert(
        connection,
        sessions,
        _SESSION_COLUMNS,
        [_session_row(*row) for row in sorted(rows, key=lambda row: row[0].id)],
        _SESSION_UPSERT,
    )


def _fold(connection: Connection, accepted: Sequence[Append]) -> None:
    """Write the state of the sessions that existed; erased ones leave, their history stays."""
    changed, gone = [], []
    for append in accepted:
        after = append.after
        if after.erased_at is not None:
            gone.append(after)
        elif append.before is not None and append.events:
            changed.append((after, append.due_at, append.owner))
    save_sessions(connection, changed)
    fold_holds(connection, (event for append in accepted for event in append.events))
    bulk.delete_in(connection, sessions, "session_id", [after.id for after in gone])
    # Hardly any session was ever held: most batches need no statement for this.
    held = [after.id for after in gone if after.holds]
    bulk.delete_in(connection, session_holds, "session_id", held)


def _postpone(connection: Connection, failed: Sequence[tuple[str, int]]) -> None:
    """Rows that could not be decided fall due again later, ever later."""
    bulk.update(
        connection,
        sessions,
        ("session_id",),
        ("due_at",),
        failed,
        "{column} = {value}, failures = CASE WHEN failures < 30 THEN failures + 1 ELSE 30 END",
    )


def back_off(failures: int) -> int:
    return int(min(BACK_OFF_FIRST * 2 ** min(failures, 30), BACK_OFF_LAST))


def _topics(appends: Sequence[Append]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for append in appends:
        for event in append.events:
            counts[event.TOPIC] = counts.get(event.TOPIC, 0) + 1
    return counts


def _save_bookmark(connection: Connection, bookmark: Bookmark | None) -> None:
    if bookmark is not None:
        bulk.insert(
            connection,
            bookmarks,
            ("name", "value"),
            [(bookmark.name, bookmark.value)],
            "ON CONFLICT (partition, name) DO UPDATE SET value = excluded.value",
        )


def _found(row: Any) -> Found:
    session_id, version, due_at, owner, state, _, _, last_seen = row
    session = decode_state(session_id, version, _plain(state))
    try:
        return Found(session, max(session.last_seen_at, last_seen or 0), due_at, owner)
    except TypeError:  # SQLite keeps whatever somebody writes into a column
        raise CorruptState(session_id, "its presence holds no times") from None


def _founds(connection: Connection, rows: Sequence[Any]) -> list[Found]:
    """The sessions of these rows of `_FOUND`, held if somebody in them is."""
    held = _held_people(connection, rows)
    return [_held(_found(row), held) for row in rows]


def _found_or_failed(connection: Connection, rows: Sequence[Any]) -> list[Found | Rearm]:
    held = _held_people(connection, rows)
    read: list[Found | Rearm] = []
    for row in rows:
        try:
            read.append(_held(_found(row), held))
        except CorruptState:
            read.append(Rearm(row[0], None, Verdict.FAILED))
    return read


def _held_people(connection: Connection, rows: Sequence[Any]) -> Mapping[str, tuple[Hold, ...]]:
    """The holds of people in the sessions of these rows; asked only if there are any at all."""
    if not rows or not rows[0][6]:
        return {}
    return holds_of_people(connection, [row[0] for row in rows])


def _held(found: Found, held: Mapping[str, tuple[Hold, ...]]) -> Found:
    holds = held.get(found.session.id)
    if holds is None:
        return found
    return found._replace(session=found.session.changed(holds_of_people=holds))


def _raw_rows(connection: Connection, query: str, params: tuple[Any, ...]) -> list[Any]:
    """The driver's own tuples: a million of SQLAlchemy's rows take a second more."""
    result = connection.exec_driver_sql(query, params)
    rows = list(result.cursor.fetchall()) if result.cursor is not None else []
    result.close()
    return rows


_BEFORE_ID = Struct(">hihiqi")
_BETWEEN_ID_AND_TOPIC = Struct(">iii")
_BEHIND_TOPIC = Struct(">iqiqi16si")
_LEAF_LENGTH = Struct(">i").pack(32)


def _copied_in(position: int, row: tuple[Any, ...]) -> bytes:
    """A row of `_event_row` as COPY takes it, see `_copied_events`."""
    session_id, version, topic, effective_at, recorded_at, nonce, state, leaf = row
    id_, name = session_id.encode(), topic.encode()
    return b"".join(
        (
            _BEFORE_ID.pack(10, 2, 0, 8, position, len(id_)),
            id_,
            _BETWEEN_ID_AND_TOPIC.pack(4, version, len(name)),
            name,
            _BEHIND_TOPIC.pack(8, effective_at, 8, recorded_at, 16, nonce, len(state)),
            state,
            _LEAF_LENGTH,
            leaf,
        )
    )


_COPIED_HEAD = Struct(">hiqiiiqiqi")
_COPIED_LENGTH = Struct(">i")


def _copied_events(page: bytes) -> Iterator[tuple[int, int, int, int, str, str, bytes]]:
    """The rows of `SELECT_EVENTS` in COPY's binary format: per row the number of fields (int16),
    then each field after its length (int32).

    https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY
    """
    at, end = 0, len(page)
    head, length, head_size = (
        _COPIED_HEAD.unpack_from,
        _COPIED_LENGTH.unpack_from,
        _COPIED_HEAD.size,
    )
    topics: dict[bytes, str] = {}
    while at < end:
        _, _, position, _, version, _, effective_at, _, recorded_at, size = head(page, at)
        at += head_size
        session_id = page[at : at + size].decode()
        at += size
        (size,) = length(page, at)
        at += 4
        raw = page[at : at + size]
        topic = topics.get(raw)
        if topic is None:
            topic = topics[raw] = raw.decode()
        at += size
        (size,) = length(page, at)
        at += 4
        yield position, version, effective_at, recorded_at, session_id, topic, page[at : at + size]
        at += size


def _with_pruned(connection: Connection, found: list[Recorded], where: str) -> list[Recorded]:
    """Nobody may take events that were pruned for the end of the log, or for a damaged one."""
    query = f"SELECT position, leaf, pruned_at FROM pruned WHERE partition = 0 AND {where}"
    whole = {
        position: Recorded(0, position, at, Pruned("", 0, at, "", "", bytes(leaf)))
        for position, leaf, at in _raw_rows(connection, query, ())
    }
    # What is pruned while this reads may be in both.
    whole.update((one.position, one) for one in found)
    return [whole[position] for position in sorted(whole)]


def recorded(row: Any) -> Recorded:
    """The event of a row (position, version, times, session, topic, state). Raises CorruptEvent."""
    position, version, effective_at, recorded_at, session_id, topic, state = row
    try:
        event = decode_event(session_id, version, topic, effective_at, _plain(state))
    except Unreadable as error:
        raise CorruptEvent(0, position, str(error)) from None
    return Recorded(0, position, recorded_at, event)


def _plain(state: Any) -> bytes | str:
    return bytes(state) if isinstance(state, memoryview) else state
