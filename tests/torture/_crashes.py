"""`kill -9` under load: of the process that writes, and of PostgreSQL under it."""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from domain.policy import HOUR
from tests.benchmarks._ours import START, lapse_on, new_databases
from tests.benchmarks._report import Row, exactly
from tests.servers import PostgresServer
from tests.torture._evidence import (
    Acknowledged,
    Lives,
    acknowledged_in,
    kept,
    missing_of,
    soundness,
)
from tests.torture._load import Clock, Role, load
from tests.torture._processes import Child, running
from tests.torture._scale import Scale

SEED = 20261122
THREADS = 8
SPEED = 1_200.0
"""An hour of the business passes in three seconds, so that policies expire and erase."""
LONGEST_LIFE = 600.0
"""Seconds after which a process ends by itself, should nobody kill it."""
HOW = (Role.EVERYTHING, THREADS, LONGEST_LIFE)
SHORTEST, LONGEST = 0.05, 0.8
"""Seconds between the first acknowledgement and the kill."""


def killed_process(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """The process dies at any moment, the next one goes on with the same database."""
    for database, new in new_databases(server).items():
        with new() as url, tempfile.TemporaryDirectory() as keys:
            what = f"{database}, kill -9 of the process at {scale.kills} moments"
            yield from _kill_processes(what, url, Path(keys), scale.kills)


def _kill_processes(what: str, url: str, keys: Path, kills: int) -> Iterator[Row]:
    dice = random.Random(SEED)
    acknowledged: Acknowledged = set()
    missing: Acknowledged = set()
    with lapse_on(url, keys):
        pass  # makes the tables, the keys and the policies
    for moment in range(kills):
        clock = Clock(START + moment * HOUR, time.time(), SPEED)
        child = Child(load, url, keys, clock, SEED + moment, *HOW)
        with running(child):
            said = [child.first(), *child.messages(dice.uniform(SHORTEST, LONGEST)), *child.kill()]
        told = acknowledged_in(said)
        with lapse_on(url, keys) as lapse:
            missing |= missing_of(lapse, told)
        acknowledged |= told
    yield from _evidence(what, url, keys, acknowledged, missing)


def killed_server(scale: Scale, _shared: PostgresServer) -> Iterator[Row]:
    """PostgreSQL dies at any moment and is started again; the process that writes lives on."""
    dice = random.Random(SEED)
    what = f"PostgreSQL, kill -9 of PostgreSQL at {scale.crashes} moments"
    acknowledged: Acknowledged = set()
    missing: Acknowledged = set()
    went_on = 0
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(fsync=scale.fsync))
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = server.create_database()
        with lapse_on(url, keys):
            clock = Clock(START, time.time(), SPEED)
        child = Child(load, url, keys, clock, SEED, *HOW)
        stack.enter_context(running(child))
        for _ in range(scale.crashes):
            said = [child.first(), *child.messages(dice.uniform(SHORTEST, LONGEST))]
            server.kill()
            acknowledged |= acknowledged_in([*said, *child.messages(0)])
            server.start()
            with lapse_on(url, keys) as lapse:
                missing |= missing_of(lapse, acknowledged)
            went_on += _next_acknowledged(child) not in acknowledged
        acknowledged |= acknowledged_in(child.kill())
        name = f"{what}: times the process went on afterwards (peer: moments)"
        yield exactly(name, went_on, scale.crashes)
        yield from _evidence(what, url, keys, acknowledged, missing)


def _next_acknowledged(child: Child) -> tuple[str, int]:
    """The next event that it says was acknowledged; it may wait for the server."""
    while True:
        told = acknowledged_in([child.first()])
        if told:
            return told.pop()


def _evidence(
    what: str, url: str, keys: Path, acknowledged: Acknowledged, missing: Acknowledged
) -> Iterator[Row]:
    with lapse_on(url, keys) as lapse:
        missing |= missing_of(lapse, acknowledged)
        yield kept(what, acknowledged, missing)
        yield from soundness(what, lapse)
        lives = Lives.of(lapse)
    yield exactly(f"{what}: ends of lives that had ended (peer: none)", lives.again, 0)
