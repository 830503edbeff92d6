"""Group commit: who is answered what, and when."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from adapters.log.committer import Committer, Pending
from adapters.log.engine import StoreBusy, StoreClosed


class Refused(Exception):
    pass


class Store:
    """Answers `n` with `n * 10`, refuses negative numbers, fails as a whole at 0.

    While `gate` is clear a batch waits inside its transaction; `entered` tells that one does.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def write(self, units: Sequence[int]) -> Sequence[int | Exception]:
        self.entered.release()
        assert self.gate.wait(10)
        self.batches.append(list(units))
        if 0 in units:
            raise ConnectionError("the store is gone")
        return [unit * 10 if unit > 0 else Refused(str(unit)) for unit in units]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def committer(store: Store) -> Iterator[Committer[int, int]]:
    with closing(Committer(store.write, name="test")) as committer:
        yield committer


def hold_the_next_batch(store: Store, committer: Committer[int, int]) -> Pending[int]:
    """A batch of the unit 1 that waits inside its transaction, so that what follows queues up."""
    store.gate.clear()
    held = committer.submit(1)
    assert store.entered.acquire(timeout=10)
    return held


def test_what_waits_becomes_one_batch_in_order(store: Store) -> None:
    committer = Committer(store.write, name="test")
    with closing(committer):
        held = hold_the_next_batch(store, committer)
        waiting = [committer.submit(unit) for unit in (4, 2, 3)]
        assert not held.done()
        store.gate.set()
        assert [held.result(10), *(pending.result(10) for pending in waiting)] == [10, 40, 20, 30]
    assert store.batches == [[1], [4, 2, 3]]


def test_only_the_author_of_a_refused_unit_gets_its_error(
    store: Store, committer: Committer[int, int]
) -> None:
    hold_the_next_batch(store, committer)
    fresh, stale, also_fresh = (committer.submit(unit) for unit in (2, -5, 3))
    store.gate.set()
    assert [fresh.result(10), also_fresh.result(10)] == [20, 30]
    with pytest.raises(Refused, match="-5"):
        stale.result(10)
    assert store.batches[1] == [2, -5, 3]


def test_when_the_batch_fails_everybody_in_it_is_told_and_nobody_else(
    store: Store, committer: Committer[int, int]
) -> None:
    held = hold_the_next_batch(store, committer)
    unlucky = [committer.submit(unit) for unit in (2, 0, 3)]
    store.gate.set()
    assert held.result(10) == 10
    for pending in unlucky:
        with pytest.raises(ConnectionError):
            pending.result(10)
    assert committer.submit(7).result(10) == 70


def test_an_answer_too_few_is_an_error_for_everybody() -> None:
    """Else one author would get another one's answer, or none at all."""
    short: Committer[int, int] = Committer(lambda units: [1] * (len(units) - 1), name="test")
    with closing(short), pytest.raises(RuntimeError, match="0 answers for a batch of 1"):
        short.submit(1).result(10)


def test_a_batch_ends_at_its_number_of_units(store: Store) -> None:
    with closing(Committer(store.write, name="test", batch_units=2)) as committer:
        hold_the_next_batch(store, committer)
        last = [committer.submit(unit) for unit in (2, 3, 4, 5, 6)][-1]
        store.gate.set()
        last.result(10)
    assert store.batches == [[1], [2, 3], [4, 5], [6]]


def test_a_batch_ends_at_its_weight_and_a_heavier_unit_goes_alone(store: Store) -> None:
    committer = Committer(store.write, name="test", weigh=lambda unit: unit, batch_weight=10)
    with closing(committer):
        hold_the_next_batch(store, committer)
        last = [committer.submit(unit) for unit in (4, 6, 5, 50, 1, 2)][-1]
        store.gate.set()
        last.result(10)
    assert store.batches == [[1], [4, 6], [5], [50], [1, 2]]


def test_a_full_queue_makes_authors_wait_and_then_gives_up(store: Store) -> None:
    """Back-pressure: memory stays bounded, and the author learns that nothing was written."""
    with closing(Committer(store.write, name="test", queue_weight=2, patience=0.05)) as committer:
        hold_the_next_batch(store, committer)
        accepted = [committer.submit(2), committer.submit(3)]
        with pytest.raises(StoreBusy):
            committer.submit(4)
        store.gate.set()
        assert [pending.result(10) for pending in accepted] == [20, 30]
    assert store.batches == [[1], [2, 3]]


def test_an_author_who_waited_is_served_when_there_is_room(store: Store) -> None:
    with (
        closing(Committer(store.write, name="test", queue_weight=1, patience=10)) as committer,
        ThreadPoolExecutor(3) as authors,
    ):
        hold_the_next_batch(store, committer)
        answers = [
            authors.submit(lambda waiting: committer.submit(waiting).result(10), unit)
            for unit in (2, 3, 4)
        ]
        store.gate.set()
        assert [answer.result(10) for answer in answers] == [20, 30, 40]


def test_close_finishes_what_was_accepted_and_accepts_nothing_more(store: Store) -> None:
    committer = Committer(store.write, name="test", batch_units=3)
    held = hold_the_next_batch(store, committer)
    accepted = [committer.submit(unit) for unit in range(2, 10)]
    with ThreadPoolExecutor(1) as closer:
        closing_down = closer.submit(committer.close)
        store.gate.set()
        closing_down.result(10)
    assert all(pending.done() for pending in (held, *accepted))
    assert [pending.result() for pending in accepted] == [unit * 10 for unit in range(2, 10)]
    with pytest.raises(StoreClosed):
        committer.submit(10)
    committer.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]


def test_close_turns_away_authors_who_wait_for_room(store: Store) -> None:
    committer = Committer(store.write, name="test", queue_weight=1, patience=10)
    hold_the_next_batch(store, committer)
    accepted = committer.submit(2)
    with ThreadPoolExecutor(2) as others:
        turned_away = others.submit(committer.submit, 3)
        while not committer._authors_waiting:
            pass
        closing_down = others.submit(committer.close)
        with pytest.raises(StoreClosed):
            turned_away.result(10)
        store.gate.set()
        closing_down.result(10)
    assert accepted.result(0) == 20


def test_a_pending_answer_can_be_waited_for_with_a_limit(
    store: Store, committer: Committer[int, int]
) -> None:
    held = hold_the_next_batch(store, committer)
    with pytest.raises(TimeoutError):
        held.result(0.01)
    store.gate.set()
    assert held.result(10) == 10
    assert held.result(0) == 10


def test_a_coroutine_can_wait_for_its_answer(committer: Committer[int, int]) -> None:
    """`on_done` bridges to an event loop without blocking it."""

    async def author(unit: int) -> int:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[int] = loop.create_future()

        def done(pending: Pending[int]) -> None:
            loop.call_soon_threadsafe(settle, pending)

        def settle(pending: Pending[int]) -> None:
            if error := pending.exception():
                answered.set_exception(error)
            else:
                answered.set_result(pending.result())

        committer.submit(unit, done)
        return await answered

    async def authors() -> list[int | BaseException]:
        return await asyncio.gather(*map(author, (1, -2, 3)), return_exceptions=True)

    first, refused, last = asyncio.run(authors())
    assert (first, last) == (10, 30)
    assert isinstance(refused, Refused)


def test_a_failing_callback_harms_nobody_else(
    store: Store, committer: Committer[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    """Such as that of an event loop which was closed meanwhile."""
    loop = asyncio.new_event_loop()
    loop.close()
    hold_the_next_batch(store, committer)

    def call_back(_: object) -> None:
        loop.call_soon_threadsafe(print)

    committer.submit(2, call_back)
    other = committer.submit(3)
    store.gate.set()
    assert other.result(10) == 30
    assert "could not be answered: RuntimeError" in caplog.text


def test_many_authors_lose_nothing_and_get_their_own_answers(store: Store) -> None:
    """Every unit is written exactly once, whatever the interleaving."""
    with closing(Committer(store.write, name="test", batch_units=5, queue_weight=7)) as committer:

        def author(number: int) -> list[int]:
            units = range(number * 1000 + 1, number * 1000 + 201)
            return [committer.submit(unit).result(10) for unit in units]

        with ThreadPoolExecutor(12) as threads:
            answers = [answer for own in threads.map(author, range(12)) for answer in own]
    written = [unit for batch in store.batches for unit in batch]
    assert sorted(answers) == sorted(unit * 10 for unit in written)
    assert len(set(written)) == len(written) == 12 * 200
