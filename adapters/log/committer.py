"""Group commit: many authors, one transaction at a time.

Whatever waits when a transaction ends becomes the next one; nobody is delayed on purpose. One
fsync then serves every author of the batch, which is why eight threads append as fast in order
as they would with unordered single inserts (figures: docs/explanation/performance.md).
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Generic, TypeVar

from adapters.log.engine import StoreBusy, StoreClosed

_log = logging.getLogger(__name__)

IDLE_SECONDS = 5.0
"""After this long without work the thread ends; the next unit starts another."""

GATHER = 0.25
"""Of the time the last commit took: how long the next one waits for those just answered."""

Unit = TypeVar("Unit")
Answer = TypeVar("Answer")


class Pending(Generic[Answer]):
    """The answer one author waits for.

    Only what group commit needs of `concurrent.futures.Future`, whose condition variable costs a
    quarter of the throughput at 8 threads and a third at 64 (measured on two cores).
    """

    __slots__ = ("_answer", "_error", "_is_done", "_on_done", "_undone")

    def __init__(self, on_done: Callable[["Pending[Answer]"], None] | None = None) -> None:
        self._undone = Lock()
        self._undone.acquire()
        self._is_done = False
        self._on_done = on_done
        self._answer: Answer
        self._error: BaseException | None = None

    def result(self, timeout: float | None = None) -> Answer:
        """The answer, waiting up to `timeout` seconds (None: for ever).

        Raises TimeoutError, or the error with which this unit was refused.
        """
        if not self._undone.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError("the commit was not answered in time; it may still happen")
        self._undone.release()
        if self._error is not None:
            raise self._error
        return self._answer

    def done(self) -> bool:
        return self._is_done

    def exception(self) -> BaseException | None:
        """The error of a unit that is done, None when it was committed."""
        return self._error

    def resolve(self, answer: Answer) -> None:
        self._answer = answer
        self._finish()

    def refuse(self, error: BaseException) -> None:
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._is_done = True
        self._undone.release()
        if self._on_done is not None:
            try:
                self._on_done(self)
            except Exception as error:  # noqa: BLE001 - a closed event loop; others wait behind it
                _log.error("an author could not be answered: %s", type(error).__name__)


class Committer(Generic[Unit, Answer]):
    """Collects units from any number of threads and writes them in batches from one thread.

    write: takes the units of one batch in the order they were submitted, writes them in one
        transaction, and returns one answer or one exception per unit, in the same order. An
        exception among the answers reaches only the author of that unit. If `write` raises,
        everybody in the batch gets that error.
    name: of the thread.
    weigh: the weight of a unit, at least 1; say, its number of events.
    batch_units, batch_weight: a batch ends before it would exceed either. A heavier unit goes
        alone.
    queue_weight: what may wait. Beyond it authors wait in `submit`.
    patience: seconds an author waits there before StoreBusy.

    The thread starts with the first unit and ends when nothing came for a while, so that an owner
    who forgets `close` leaves nothing behind. A unit is safe only when it was answered.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Unit]], Sequence[Answer | Exception]],
        *,
        name: str,
        weigh: Callable[[Unit], int] = lambda unit: 1,
        batch_units: int = 512,
        batch_weight: int = 5_000,
        queue_weight: int = 50_000,
        patience: float = 30.0,
    ) -> None:
        self._write = write
        self._name = name
        self._weigh = weigh
        self._batch_units = batch_units
        self._batch_weight = batch_weight
        self._queue_weight = queue_weight
        self._patience = patience
        self._queue: deque[tuple[int, Unit, Pending[Answer]]] = deque()
        self._queued_weight = 0
        self._lock = Lock()
        self._work_arrived = Condition(self._lock)
        self._room_made = Condition(self._lock)
        # Units the sleeping thread wants to be woken for; 0 while it works.
        self._wanted = 0
        self._gather_until = 0.0
        self._gather_units = 0
        self._authors_waiting = 0
        self._closed = False
        self._thread: Thread | None = None

    def submit(
        self, unit: Unit, on_done: Callable[[Pending[Answer]], None] | None = None
    ) -> Pending[Answer]:
        """Hand over one unit.

        on_done: called from the committer's thread once the unit is answered, so it must be quick;
            `loop.call_soon_threadsafe` bridges to asyncio.
        Raises StoreBusy when the queue stayed full for `patience` seconds, StoreClosed after
        `close`.
        """
        pending: Pending[Answer] = Pending(on_done)
        weight = self._weigh(unit)
        with self._lock:
            if self._queued_weight >= self._queue_weight:
                self._wait_for_room()
            if self._closed:
                raise StoreClosed("the log was closed; nothing was written")
            self._queue.append((weight, unit, pending))
            self._queued_weight += weight
            if self._thread is None:
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            elif 0 < self._wanted <= len(self._queue):
                self._wanted = 0
                self._work_arrived.notify()
        return pending

    def close(self) -> None:
        """Accept nothing more, finish what was accepted, end the thread. May be called twice."""
        with self._lock:
            self._closed = True
            self._work_arrived.notify()
            self._room_made.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _wait_for_room(self) -> None:
        deadline = monotonic() + self._patience
        self._authors_waiting += 1
        try:
            while self._queued_weight >= self._queue_weight and not self._closed:
                if not self._room_made.wait(deadline - monotonic()):
                    raise StoreBusy("the log's queue stayed full; nothing was written, try again")
        finally:
            self._authors_waiting -= 1

    def _run(self) -> None:
        while batch := self._next_batch():
            self._commit(batch)

    def _next_batch(self) -> list[tuple[int, Unit, Pending[Answer]]]:
        """Whatever waits, up to the limits; empty when the thread shall end."""
        with self._lock:
            while not self._queue:
                self._wanted = 1
                woken = not self._closed and self._work_arrived.wait(IDLE_SECONDS)
                if not woken and not self._queue:
                    self._thread = None
                    return []
            self._gather()
            self._wanted = 0
            batch = [self._queue.popleft()]
            weight = batch[0][0]
            while (
                self._queue
                and len(batch) < self._batch_units
                and weight + self._queue[0][0] <= self._batch_weight
            ):
                batch.append(self._queue.popleft())
                weight += batch[-1][0]
            self._queued_weight -= weight
            if self._authors_waiting:
                self._room_made.notify_all()
            return batch

    def _gather(self) -> None:
        """Let the authors just answered come back, if they do so at once.

        Else two groups of authors would take turns, each waiting for the commit of the other, in
        batches of half the size. Costs at most a fraction of the commit before.
        """
        while (
            len(self._queue) < self._gather_units
            and self._queued_weight < self._batch_weight
            and not self._closed
        ):
            left = self._gather_until - monotonic()
            if left <= 0:
                return
            self._wanted = self._gather_units
            self._work_arrived.wait(left)

    def _commit(self, batch: list[tuple[int, Unit, Pending[Answer]]]) -> None:
        started = monotonic()
        try:
            answers = self._write([unit for _, unit, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers for a batch of {len(batch)} units")
        except BaseException as error:  # noqa: BLE001 - it belongs to the authors; the thread lives on
            for _, _, pending in batch:
                pending.refuse(error)
            return
        now = monotonic()
        self._gather_until = now + GATHER * (now - started)
        self._gather_units = min(len(batch) + len(self._queue), self._batch_units)
        for (_, _, pending), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                pending.refuse(answer)
            else:
                pending.resolve(answer)
