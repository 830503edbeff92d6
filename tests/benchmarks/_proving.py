"""What the tree costs an append, and how long a proof takes in a large one."""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from adapters.background import repeating
from adapters.log import event_log, merkle
from adapters.log.tree import Tree, save_tiles
from adapters.wiring import Lapse
from tests.benchmarks._ours import START, command_of, lives, new_databases, new_lapse_on
from tests.benchmarks._report import Row, at_most, compared
from tests.benchmarks._rounds import from_threads, in_turns, rate
from tests.servers import PostgresServer

ADDED = 1.15
"""The tree may make an append this much slower."""
MOST_MILLISECONDS = 5.0
"""A proof in a tree of a million leaves, 99 times of 100."""
FOLLOW_SECONDS = 1.0


@dataclass(frozen=True)
class ProofScale:
    """How much is measured. sessions: of a bulk append, five events each."""

    sessions: int
    rounds: int
    seconds: float
    leaves: int
    proofs: int


FULL = ProofScale(sessions=4_000, rounds=5, seconds=3.0, leaves=1_000_000, proofs=5_000)
QUICK = ProofScale(sessions=1_000, rounds=3, seconds=1.0, leaves=100_000, proofs=1_000)
TINY = ProofScale(sessions=20, rounds=1, seconds=0.05, leaves=2_000, proofs=20)


def appending(scale: ProofScale, server: PostgresServer) -> Iterator[Row]:
    """With the tree: every leaf hashed, and a follower behind the log. Without: neither."""
    for kind, new_database in new_databases(server).items():
        with new_database() as url, new_lapse_on(url) as lapse:
            bulk = in_turns(
                scale.rounds,
                {name: _bulk(lapse, scale, way) for name, way in _ways(lapse).items()},
            )
            name = f"{kind}, bulk, events/s: with the tree, without"
            yield compared(name, bulk["with"], bulk["without"], round(1 / ADDED, 3))
            single = in_turns(
                scale.rounds,
                {name: _single(lapse, scale, way) for name, way in _ways(lapse).items()},
            )
            name = f"{kind}, 8 threads one by one, events/s: with the tree, without"
            yield compared(name, single["with"], single["without"], round(1 / ADDED, 3))


Way = Callable[[], ExitStack]


def _ways(lapse: Lapse) -> dict[str, Way]:
    return {"with": lambda: _following(lapse), "without": lambda: _without(lapse)}


def _following(lapse: Lapse) -> ExitStack:
    lapse.tree.follow()
    stack = ExitStack()
    stack.enter_context(repeating("tree", lapse.tree.follow, FOLLOW_SECONDS))
    return stack


def _without(_lapse: Lapse) -> ExitStack:
    stack = ExitStack()
    leaf = bytes(merkle.HASH)
    stack.enter_context(patch.object(event_log, "leaf_of_row", lambda *columns: leaf))
    return stack


def _bulk(lapse: Lapse, scale: ProofScale, way: Way) -> Callable[[], float]:
    def measured() -> float:
        appends = lives(lapse, scale.sessions)
        with way():
            return rate(5 * scale.sessions, lambda: lapse.log.append(appends, START))

    return measured


def _single(lapse: Lapse, scale: ProofScale, way: Way) -> Callable[[], float]:
    @contextmanager
    def author() -> Iterator[Callable[[], int]]:
        yield command_of(lapse)

    def measured() -> float:
        with way():
            return from_threads(8, scale.seconds, author)

    return measured


def proving(scale: ProofScale, server: PostgresServer) -> Iterator[Row]:
    """Proofs of random leaves, one after the other, in a tree that was filled for it."""
    for kind, new_database in new_databases(server).items():
        with new_database() as url, new_lapse_on(url) as lapse:
            _fill(lapse, scale.leaves)
            tree, chance = Tree(lapse.engines), random.Random(1)
            taken = []
            for _ in range(scale.proofs):
                position = chance.randint(1, scale.leaves)
                started = time.perf_counter()
                tree.inclusion(position, scale.leaves)
                taken.append((time.perf_counter() - started) * 1_000)
            name = f"{kind}, proof of inclusion among {scale.leaves:,} leaves, p99, ms"
            yield at_most(name, statistics.quantiles(taken, n=100)[-1], MOST_MILLISECONDS)


def _fill(lapse: Lapse, leaves: int) -> None:
    """A tree of random leaves, in the place of that of the log."""
    kept: dict[tuple[int, int], bytes] = {}
    hashes = merkle.split(os.urandom(merkle.HASH * leaves))
    kept.update(merkle.grown(lambda level, tile: kept[level, tile], 0, hashes))
    with lapse.engines.write() as connection:
        connection.exec_driver_sql("DELETE FROM tiles")
        connection.exec_driver_sql("DELETE FROM trees")
        connection.exec_driver_sql(
            f"INSERT INTO trees (partition, epoch, size) VALUES (0, 1, {leaves})"
        )
        save_tiles(connection, kept)
        connection.exec_driver_sql(f"UPDATE heads SET position = {leaves}")
