"""A reader that follows sixteen writing processes misses nothing and sees nothing out of order.

The writers pause, conflict, and roll back a tenth of their transactions, some of which had raised
the head and inserted events by then and dawdled: that is how readers of other stores come to miss
what commits late.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from eventsourcing.persistence import Notification

from adapters.log.engine import open_engines
from adapters.log.event_log import SqlLog
from adapters.wiring import Lapse
from domain.errors import Conflict, StoreBusy
from domain.policy import HOUR, Versions
from domain.ports import Append, Appended, Bookmark, Recorded, SweepCount
from domain.session import Session, create, evolve
from domain.timeline import advance
from domain.use_cases.sweep import sweep_once
from tests.benchmarks._ours import (
    ACTOR,
    POLICY,
    START,
    NewDatabase,
    lapse_on,
    new_databases,
    recorder_on,
)
from tests.benchmarks._report import Row, exactly
from tests.contracts.writers import append_from_processes
from tests.servers import PostgresServer
from tests.torture._evidence import Acknowledged, kept, soundness
from tests.torture._processes import Child, Outbox, Patience, running
from tests.torture._scale import Scale

WRITERS = 16
PAGE = 500
LONGEST_PAUSE = 0.003
"""Seconds, between appends and inside transactions."""
ROLLBACKS = 0.1
SEED = 20261122


def tailing(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """The recorder of the library's applications, then Lapse's own log; both databases."""
    for database, new in new_databases(server).items():
        yield from _beside_recorders(f"{database}, reader beside {WRITERS} recorders", new, scale)
        yield from _beside_logs(
            f"{database}, reader beside {WRITERS} writers of the log", new, scale
        )


# -- the recorder -----------------------------------------------------------------------------


def _beside_recorders(what: str, new: NewDatabase, scale: Scale) -> Iterator[Row]:
    acknowledged = read = wrong = rounds = 0
    started = time.monotonic()
    with new() as url, recorder_on(url) as recorder:

        def page(after: int) -> Sequence[Notification]:
            return recorder.select_notifications(after, PAGE, inclusive_of_start=False)

        while not rounds or time.monotonic() < started + scale.tail:
            lines, seen = _follow_recorders(url, page, read, scale.appends, SEED + rounds)
            wrong += _out_of_place([notification.id for notification in seen], read)
            wrong += lines != [notification.id for notification in seen]
            acknowledged += len(lines)
            read += len(seen)
            rounds += 1
        again = 0
        while notifications := page(again):
            again = notifications[-1].id
    yield exactly(
        f"{what}: events read while they were written (peer: acknowledged)", read, acknowledged
    )
    yield exactly(f"{what}: positions skipped, repeated or out of order (peer: none)", wrong, 0)
    yield exactly(f"{what}: events read again at the end (peer: read before)", again, read)


def _follow_recorders(
    url: str,
    page: Callable[[int], Sequence[Notification]],
    after: int,
    appends: int,
    seed: int,
) -> tuple[list[int], list[Notification]]:
    """The positions acknowledged to the writers, in order, and what the reader saw meanwhile."""
    seen: list[Notification] = []
    writing = append_from_processes(url, "bench", writers=WRITERS, appends=appends, seed=seed)
    patience = Patience()
    with writing, ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        assert writing.stdout is not None
        lines = pool.submit(writing.stdout.readlines)  # else the writers wait for the pipe
        stack.callback(writing.kill)
        while True:
            patience.check()
            ended = writing.poll() is not None
            found = page(after + len(seen))
            seen += found
            if ended and not found:
                break
    assert writing.returncode == 0
    return sorted(int(n) for line in lines.result() for n in line.split()[1:]), seen


def _out_of_place(positions: Sequence[int], after: int) -> int:
    """How many do not follow the one before."""
    expected = range(after + 1, after + len(positions) + 1)
    return sum(found != wanted for found, wanted in zip(positions, expected, strict=True))


# -- the log ----------------------------------------------------------------------------------


def _beside_logs(what: str, new: NewDatabase, scale: Scale) -> Iterator[Row]:
    seen: list[tuple[str, int]] = []
    acknowledged: Acknowledged = set()
    wrong = rounds = 0
    started = time.monotonic()
    with new() as url, tempfile.TemporaryDirectory() as keys, lapse_on(url, Path(keys)) as lapse:
        first = lapse.log.head()
        _begin_due_sessions(lapse)
        while not rounds or time.monotonic() < started + scale.tail:
            for page in _follow_logs(
                lapse, url, scale.appends, rounds, first + len(seen), acknowledged
            ):
                wrong += _out_of_place([one.position for one in page], first + len(seen))
                seen += [(one.event.originator_id, one.event.originator_version) for one in page]
            rounds += 1
        yield exactly(
            f"{what}: versions out of order (peer: none)", _versions_out_of_order(seen), 0
        )
        yield exactly(f"{what}: positions skipped, repeated or out of order (peer: none)", wrong, 0)
        yield kept(f"{what}, as it read", acknowledged, acknowledged - set(seen))
        yield exactly(
            f"{what}: events it read (peer: the head's position)",
            first + len(seen),
            lapse.log.head(),
        )
        yield from soundness(what, lapse)


def _follow_logs(
    lapse: Lapse, url: str, appends: int, number: int, after: int, acknowledged: Acknowledged
) -> Iterator[Sequence[Recorded]]:
    """The pages that the reader sees until all writers have ended."""
    seeds = [f"{SEED}/{number}/{writer}" for writer in range(WRITERS)]
    patience = Patience()
    with running(*(Child(_write, url, appends, seed) for seed in seeds)) as children:
        while True:
            patience.check()
            ended = all(child.exit_code is not None for child in children)
            for child in children:
                acknowledged.update(child.messages(0))
            page = lapse.log.read(after, PAGE)
            if page:
                after = page[-1].position
                yield page
            elif ended:
                break
        assert all(child.exit_code == 0 for child in children)
        for child in children:
            acknowledged.update(child.rest())


def _versions_out_of_order(seen: Sequence[tuple[str, int]]) -> int:
    versions: dict[str, int] = {}
    wrong = 0
    for session_id, version in seen:
        wrong += version != versions.get(session_id, 0) + 1
        versions[session_id] = version
    return wrong


def _begin_due_sessions(lapse: Lapse) -> None:
    """Sessions that are due, for sweeps that are rolled back each time."""
    for number in range(3 * WRITERS):
        append = _beginning(f"due-{number}", START, lapse.policies.versions(POLICY))
        lapse.log.submit(append, START)


# -- a writer ---------------------------------------------------------------------------------


class Abort(Exception):
    """Rolls a transaction back."""


class _Writer:
    """Appends to sessions of its own, which are not due when those of `_begin_due_sessions` are."""

    def __init__(self, log: SqlLog, dice: random.Random) -> None:
        self._log = log
        self._dice = dice
        self._policies = log.policies()
        self._session: Session | None = None

    def append(self) -> Appended:
        """A session begins, or goes on by one to three events."""
        before = self._session if self._dice.random() < 0.8 else None
        append = self._going_on(before) if before else self._beginning()
        answer = self._log.submit(append, START)
        self._session = append.after
        return answer

    def roll_back(self) -> None:
        """A transaction that leaves nothing behind."""
        self._dice.choice([self._conflict, self._abort])()

    def pause(self) -> None:
        time.sleep(self._dice.uniform(0, LONGEST_PAUSE))

    def _conflict(self) -> None:
        """Two sessions, both or none, of which one is stale: found only after the other's events
        were written."""
        if self._session is None:
            return
        stale = self._session.changed(version=self._session.version + 7)
        both = [self._beginning(), self._going_on(stale)]
        try:
            self._log.append(both, START, together=True)
        except Conflict:
            return
        raise AssertionError("a conflict was not noticed")

    def _abort(self) -> None:
        """A sweep that raised the head and wrote its events dawdles, and fails."""

        def dawdle(count: SweepCount) -> Bookmark:
            self.pause()
            raise Abort

        try:
            sweep_once(self._log, self._policies, START + HOUR, "writer", limit=3, mark=dawdle)
        except Abort:
            return
        raise AssertionError("a transaction was not rolled back")

    def _beginning(self) -> Append:
        session_id = f"{self._dice.getrandbits(128):032x}"
        return _beginning(session_id, START + 2 * HOUR, self._policies[POLICY])

    def _going_on(self, before: Session) -> Append:
        after, events = before, []
        for _ in range(self._dice.randint(1, 3)):
            [event] = after.store(1, 100, START + 2 * HOUR, ACTOR)
            after = evolve(after, event)
            events.append(event)
        return Append(before, after, tuple(events), before.created_at + HOUR // 2)


def _write(outbox: Outbox, url: str, appends: int, seed: str) -> None:
    """So many appends, and a tenth as many transactions that are rolled back."""
    log = SqlLog(open_engines(url), lambda: START)
    dice = random.Random(seed)
    writer = _Writer(log, dice)
    done = 0
    while done < appends:
        writer.pause()
        try:
            if dice.random() < ROLLBACKS:
                writer.roll_back()
            answer = writer.append()
        except StoreBusy:
            continue  # the others held an SQLite file for too long
        outbox.put((answer.session_id, answer.version))
        done += 1
    log.close()


def _beginning(session_id: str, at: int, versions: Versions) -> Append:
    events = create(None, session_id, POLICY, 1, at, ACTOR)
    session = evolve(None, events[0])
    return Append(None, session, events, advance(session, versions, at, at).next_at)
