"""Sweeping a backlog: expiries per second with events and state, on PostgreSQL."""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psycopg2

from adapters.wiring import Lapse, settle_memory
from domain.policy import HOUR
from domain.ports import SweepCount
from domain.session import Expired
from domain.use_cases.sweep import sweep
from tests.benchmarks._ours import START, lapse_on
from tests.benchmarks._population import populate, settle
from tests.benchmarks._report import Row, alike, compared, required
from tests.benchmarks._rounds import in_turns
from tests.benchmarks._scale import Scale
from tests.servers import PostgresServer

PROMISED = 15_000
"""Expiries per second."""
NOW = START + 2 * HOUR
"""When the sweep comes: sessions of the first hour are due, those of the third are not."""


def sweeping(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """The same backlog beside few and beside many sessions that are alive. The databases are
    prepared once and copied for each run."""
    with ExitStack() as stack:
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        few = _prepared(server, keys, scale.due, scale.alive)
        many = _prepared(server, keys, scale.due, scale.crowd)
        figures = in_turns(
            scale.rounds,
            {
                "few": partial(_swept, server, keys, few, scale.due, 1),
                "many": partial(_swept, server, keys, many, scale.due, 1),
                "two": partial(_swept, server, keys, few, scale.due, 2),
                "threads": partial(_swept_by_threads, server, keys, few, scale.due, 2),
            },
        )
    what = f"PostgreSQL, expiries/s over {scale.due:,} due"
    beside = f"beside {scale.alive:,} alive"
    yield required(f"{what}, {beside}, two processes (peer: promised)", figures["two"], PROMISED)
    yield compared(f"{what}, {beside}, two processes (peer: one)", figures["two"], figures["few"])
    yield compared(f"{what}, {beside}, two threads (peer: one)", figures["threads"], figures["few"])
    yield alike(
        f"{what}, beside {scale.crowd:,} alive (peer: {beside}; must be the same)",
        figures["many"],
        figures["few"],
        0.35,
    )


def _prepared(server: PostgresServer, keys: Path, due: int, alive: int) -> str:
    """The URL of a database to copy from."""
    url = server.create_database()
    with lapse_on(url, keys) as lapse:
        populate(lapse, due, START, START + HOUR)
        populate(lapse, alive, NOW, NOW + HOUR)
        settle(lapse)
    return url


def _swept(server: PostgresServer, keys: Path, prepared: str, due: int, processes: int) -> float:
    """Expiries per second by processes of their own, as instances of `lapse serve` would."""
    spawn = get_context("spawn")
    with _copy_of(server, prepared) as url:
        ready = spawn.Barrier(processes)
        answers: Queue[tuple[int, float, float]] = spawn.Queue()
        sweepers = [
            spawn.Process(target=_sweep_as_process, args=(url, str(keys), number, ready, answers))
            for number in range(processes)
        ]
        for sweeper in sweepers:
            sweeper.start()
        results = [answers.get(timeout=600) for _ in sweepers]
        for sweeper in sweepers:
            sweeper.join()
        _check(server, url, due, sum(done for done, _, _ in results))
    return due / (max(end for _, _, end in results) - min(start for _, start, _ in results))


def _sweep_as_process(
    url: str, keys: str, number: int, ready: Barrier, answers: "Queue[tuple[int, float, float]]"
) -> None:
    settle_memory()
    with lapse_on(url, Path(keys)) as lapse:
        ready.wait(60)
        started = time.monotonic()  # one clock for all processes
        count = _sweep(lapse, number)
        answers.put((count.done, started, time.monotonic()))


def _swept_by_threads(
    server: PostgresServer, keys: Path, prepared: str, due: int, threads: int
) -> float:
    with _copy_of(server, prepared) as url, lapse_on(url, keys) as lapse:
        started = time.monotonic()
        with ThreadPoolExecutor(threads) as pool:
            counts = list(pool.map(partial(_sweep, lapse), range(threads)))
        seconds = time.monotonic() - started
        _check(server, url, due, sum(count.done for count in counts))
    return due / seconds


def _check(server: PostgresServer, url: str, due: int, done: int) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM events WHERE topic = %s", (Expired.TOPIC,))
        [(expired,)] = cursor.fetchall()
    assert (done, expired) == (due, due), f"{done} of {due} were swept, {expired} events"


def _sweep(lapse: Lapse, number: int) -> SweepCount:
    return sweep(lapse.log, lapse.policies.known, NOW, f"sweeper-{number}")


@contextmanager
def _copy_of(server: PostgresServer, url: str) -> Iterator[str]:
    copied, original = "swept", url.partition("?")[0].rpartition("/")[2]
    _administer(server, f"CREATE DATABASE {copied} TEMPLATE {original} STRATEGY file_copy")
    try:
        yield server.url(copied)
    finally:
        server.drop_database(server.url(copied))


def _administer(server: PostgresServer, statement: str) -> None:
    connection = psycopg2.connect(server.url("postgres"))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()
