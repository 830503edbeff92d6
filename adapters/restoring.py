"""Finds out whether the database was restored from a backup, and does again what it has forgotten.

Three things outside the database know more than a backup: the erasure ledger, the key store, which
keeps how long the ledger and the log were, and what evidence was published. Nothing is served, and
no command writes, before the ledger is repeated:

    the ledger is shorter than the database or the key store says  -> refused: restore it, too
    the log is shorter than any of the three says                  -> a new epoch is opened
    the ledger holds what the database does not contain            -> it is done again, in order
    an epoch was opened                                            -> the ledger is told, at last

Every step leaves a state from which the next start goes on. Several processes may do this at once:
each entry is done in the transaction that says it is.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from adapters.keyring.keks import Counter, KekProvider
from adapters.log import remembering
from adapters.log.engine import Engines, StoreDeadlock
from adapters.log.event_log import SqlLog, append_facts
from adapters.log.remembering import Remembering, Repeating
from adapters.vault.lookups import SubjectLookups
from domain.errors import (
    KeyUnavailable,
    LedgerTooShort,
    OnHold,
    RestorePending,
    StoreBusy,
    StoreError,
)
from domain.facts import EpochOpened
from domain.ledger import Deed, Entry, Kind
from domain.policy import MINUTE, Versions
from domain.use_cases.policies import PolicyBook
from domain.use_cases.restore import LEDGER, apply_again, repeat

_log = structlog.get_logger(component="restore")

PAGE = 500
COLLISIONS, PAUSE = 100, 0.05
"""How often a step is tried again that another process is at, while nothing changes; and seconds
between two of these attempts."""
STREAM = "log"
"""Under which facts about the log itself stand in it."""
_UNTOLD = "epoch-untold"
"""The row of `meta` that says: an epoch was opened that the ledger does not know of."""
_IS_UNTOLD = f"SELECT 1 FROM meta WHERE name = '{_UNTOLD}'"  # noqa: S608 - a name of ours
_NOW_TOLD = f"DELETE FROM meta WHERE name = '{_UNTOLD}'"  # noqa: S608 - a name of ours

Reach = tuple[int, int]
"""How far a log reaches: epoch and position."""


class State(StrEnum):
    """How a database stands to the ledger and the key store."""

    FRESH = "fresh"  # nothing was ever written
    CURRENT = "current"
    BEHIND = "needs-replay"
    OLDER = "older"  # than the ledger, the key store or the evidence say
    SHORT = "ledger-too-short"


@dataclass(frozen=True)
class Standing:
    """What was found. entries: in the ledger. contained: of those in the database. counted: what
    the key store says there were (None: it keeps no count). log: how far it reaches. known: how far
    it reached, as anybody outside the database knows."""

    state: State
    entries: int
    contained: int
    counted: int | None
    log: Reach
    known: Reach

    @property
    def missing(self) -> int:
        """How many entries are to be done again."""
        return max(0, self.entries - self.contained)


Again = Callable[[SqlLog, PolicyBook, Entry], bool]
"""Does again what an entry says of people, through this log: whether it changed anything."""
_OF_PEOPLE = (
    Kind.REDACTED,
    Kind.REQUEST_OPEN,
    Kind.REQUEST_REFUSED,
    Kind.REQUEST,
    Kind.PERSON_HELD,
    Kind.PERSON_RELEASED,
)


class Restoring:
    """Looks after one database.

    remembering: how the ledger is written. keks: the key store, which counts. clock: microseconds.
    evidence: how far the newest published checkpoint reaches. erased: told which subjects are gone.
    people: does again what was done to people; it may be asked twice. on_epoch: called in the
    transaction that opens one, for the tree.
    """

    def __init__(
        self,
        engines: Engines,
        ledger: Remembering,
        keks: KekProvider,
        clock: Callable[[], int],
        people: Again,
        *,
        evidence: Callable[[], Reach | None] = lambda: None,
        erased: Callable[[Collection[str]], None] = lambda subjects: None,
        on_epoch: Callable[[Connection, int], None] = lambda connection, epoch: None,
    ) -> None:
        self._engines = engines
        self._ledger = ledger
        self._keks = keks
        self._clock = clock
        self._evidence = evidence
        self._erased = erased
        self._people = people
        self._on_epoch = on_epoch
        self._noted_at = 0
        self._noted: Counter | None = None
        self.epoch = 1
        self.is_pending = False

    def look(self) -> Standing:
        """How the database stands; changes nothing. Raises StoreError, KeyUnavailable.

        The database is asked last: what others knew before is then committed there, unless it was
        restored. An entry whose transaction is about to commit looks like one that is missing.
        """
        entries, counter, others = self._outside()
        with self._engines.snapshot() as connection:
            contained = remembering.number_in(connection)
            self.epoch = remembering.epoch_in(connection)
            log = (self.epoch, remembering.head_in(connection))
            untold = _is_untold(connection)
        if contained > entries:
            entries = self._ledger.ledger.length()  # it grew meanwhile, or is too short indeed
        known = max([log, *others])
        state = State.CURRENT
        if entries < max(contained, counter.entries if counter else 0):
            state = State.SHORT
        elif known > log:
            state = State.OLDER
        elif entries > contained or untold:
            state = State.BEHIND
        elif log == (1, 0) and not entries:
            state = State.FRESH
        counted = counter.entries if counter else None
        return Standing(state, entries, contained, counted, log, known)

    def check_ledger(self) -> None:
        """Read the ledger from its first entry to its last: one that was changed is known before it
        is needed. Raises LedgerDamaged, LedgerUnavailable."""
        for _ in self._ledger.ledger.read(0):
            pass

    def _outside(self) -> tuple[int, Counter | None, list[Reach]]:
        """What is known beside the database: entries, the key store's count, how far the log
        reached."""
        with self._engines.read() as connection:
            contained = remembering.number_in(connection)
        counter, reaches = self._keks.counter(), []
        entries = self._ledger.ledger.length()
        if entries > contained:
            reaches += [(last.epoch, last.head) for last in self._ledger.ledger.read(entries - 1)]
        if counter is not None:
            reaches.append((counter.epoch, counter.position))
        if (published := self._evidence()) is not None:
            reaches.append(published)
        return entries, counter, reaches

    def _is_behind(self) -> bool:
        """Whether entries are missing for good: nobody writes to the ledger while this looks."""
        with self._engines.write() as connection:
            contained = remembering.locked_number(connection)
            return self._ledger.ledger.length() > contained or _is_untold(connection)

    def is_needed(self) -> bool:
        """Whether something must be done again before anything is served. Raises LedgerTooShort,
        with what to restore, if entries are missing that others know of."""
        standing = self.look()
        _refuse_short(standing)
        self.is_pending = standing.state not in (State.CURRENT, State.FRESH)
        return self.is_pending

    def close(self) -> None:
        """Let the key store count what was done since it was asked last, if that can be known."""
        try:
            self.note(self.look())
        except (StoreError, KeyUnavailable) as error:
            _log.error("restore", operation="count", result=type(error).__name__)

    def run(self, keep_on: Callable[[], bool] = lambda: True) -> int:
        """Do again what is missing, until nothing is; how many entries that were. keep_on: asked
        between two steps. Raises LedgerTooShort, KeyUnavailable, StoreError: StoreBusy if another
        process that does the same gets nowhere."""
        done, collisions = 0, 0
        before: Standing | None = None
        while keep_on():
            standing = self.look()
            collisions, before = (collisions if standing == before else 0), standing
            self.is_pending = standing.state in (State.OLDER, State.SHORT) or (
                standing.state is State.BEHIND and self._is_behind()
            )
            if not self.is_pending:
                self._ledger.is_behind = False
                self.note(standing)
                break
            _refuse_short(standing)
            try:
                if standing.state is State.OLDER:
                    self._open_epoch(standing)
                elif standing.missing:
                    done += self._repeat(standing, keep_on)
                else:
                    self._tell_epoch(standing)
            except (RestorePending, StoreDeadlock):
                # Another process does the same.
                collisions += 1
                if collisions == COLLISIONS:
                    raise StoreBusy("another process repeats the ledger and gets nowhere") from None
                time.sleep(PAUSE)
        if done:
            _log.info("restore", operation="replay", result="done", entries=done)
        return done

    def watch(self, keep_on: Callable[[], bool] = lambda: True) -> None:
        """Call it every second: repeats what a failed commit left, keeps the key store's count,
        notices an epoch that another process opened. keep_on, errors: as `run`."""
        with self._engines.read() as connection:
            epoch, position = remembering.epoch_in(connection), remembering.head_in(connection)
            contained = remembering.number_in(connection)
        was, self.epoch = self.epoch, epoch
        noted = self._noted
        is_older = noted is not None and (epoch, position) < (noted.epoch, noted.position)
        is_old_count = noted is None or noted.entries != contained
        is_wrong = self._ledger.is_behind or is_older or epoch != was
        if is_wrong or is_old_count or self._clock() - self._noted_at > MINUTE:
            self.run(keep_on)

    def note(self, standing: Standing) -> None:
        """Let the key store count how far ledger and log reach."""
        counter = Counter(standing.entries, *standing.log)
        if counter != self._keks.counter():
            self._keks.note_counter(counter)
        self._noted, self._noted_at = counter, self._clock()

    # -- the steps ----------------------------------------------------------------------------

    def _open_epoch(self, standing: Standing) -> None:
        epoch = standing.known[0] + 1
        now = self._clock()
        fact = EpochOpened(
            STREAM, epoch, now, "", LEDGER, epoch, standing.known[1], standing.missing
        )
        try:
            with self._engines.write() as connection:
                append_facts(connection, [fact], now)
                # Behind the head, like whoever writes entries: one of several processes opens it.
                remembering.locked_number(connection)
                if remembering.epoch_in(connection) != standing.log[0]:
                    raise RestorePending
                remembering.put(connection, remembering.EPOCH, epoch)
                remembering.put(connection, _UNTOLD, epoch)
                self._on_epoch(connection, epoch)
        except IntegrityError:  # the event of this epoch is there: another process was first
            raise RestorePending from None
        _log.warning("restore", operation="open epoch", result="done", epoch=epoch)

    def _tell_epoch(self, standing: Standing) -> None:
        deed = Deed(Kind.EPOCH, self._clock(), {"epoch": standing.log[0]})
        with self._engines.write() as connection:
            remembering.locked_number(connection)
            if _is_untold(connection):
                connection.exec_driver_sql(_NOW_TOLD)
                self._ledger.write(connection, [deed])

    def _repeat(self, standing: Standing, keep_on: Callable[[], bool]) -> int:
        """Do a page of entries again; how many changed something."""
        repeating = Repeating()
        lookups = SubjectLookups(self._engines, self._keks)
        log = SqlLog(self._engines, self._clock, self._erased, repeating, lookups)
        book = PolicyBook(log)
        page = list(islice(self._ledger.ledger.read(standing.contained), PAGE))
        _must_follow(page, standing.contained)
        concerned, done = _concerned(log, page), 0
        for entry in page:
            if not keep_on():
                return done
            repeating.upto = entry.number
            if entry.number in concerned:
                done += self._do_again(log, book, entry)
        with self._engines.write() as connection:
            if remembering.locked_number(connection) < page[-1].number:
                remembering.put_number(connection, page[-1].number)
            epoch = remembering.epoch_in(connection)
            if any(one.kind is Kind.EPOCH and one.fields["epoch"] == epoch for one in page):
                connection.exec_driver_sql(_NOW_TOLD)  # by somebody whose commit was lost
        return done

    def _do_again(self, log: SqlLog, book: PolicyBook, entry: Entry) -> bool:
        now = self._clock()
        if entry.kind is Kind.POLICY:
            changed = apply_again(log, entry, now)
            book.refresh()
            return changed
        if entry.kind in _OF_PEOPLE:
            return self._do_again_for_people(log, book, entry)
        versions: Callable[[str], Versions] = book.versions
        return repeat(log, versions, entry, now)

    def _do_again_for_people(self, log: SqlLog, book: PolicyBook, entry: Entry) -> bool:
        """A hold wins, as over the erasure of a session: what it keeps stays, and the rest is done
        again all the same."""
        try:
            return self._people(log, book, entry)
        except OnHold:
            kind, number = str(entry.kind), entry.number
            _log.warning("restore", operation="replay", result="held", kind=kind, entry=number)
            return False


def _concerned(log: SqlLog, page: Sequence[Entry]) -> set[int]:
    """Numbers of the entries that may change something: most are about sessions that began after
    the backup, or were erased before it, and are passed over at once."""
    ids = sorted({str(entry.fields["session"]) for entry in page if "session" in entry.fields})
    found = log.find(ids)
    others = (Kind.POLICY, *_OF_PEOPLE)
    return {
        entry.number
        for entry in page
        if entry.kind in others or entry.fields.get("session") in found
    }


def _must_follow(page: Sequence[Entry], contained: int) -> None:
    if not page or page[0].number != contained + 1:
        raise LedgerTooShort("the erasure ledger changed while it was read: start again")


def _refuse_short(standing: Standing) -> None:
    if standing.state is not State.SHORT:
        return
    wanted = max(standing.contained, standing.counted or 0)
    raise LedgerTooShort(
        f"the erasure ledger ends at entry {standing.entries}, but {wanted} were written: set "
        "LAPSE_LEDGER_URL to the ledger that belongs to this database, or restore the newest copy "
        "of it; without it nobody can tell who was erased. Nothing was changed"
    )


def _is_untold(connection: Connection) -> bool:
    return connection.exec_driver_sql(_IS_UNTOLD).fetchone() is not None
