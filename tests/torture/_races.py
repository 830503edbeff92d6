"""Everybody against everybody: two writers, two sweepers and heartbeats on the same sessions, each
a process of its own, with commands at random."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.wiring import Lapse
from tests.benchmarks._ours import START, lapse_on, new_databases
from tests.benchmarks._report import Row, at_most, exactly
from tests.servers import PostgresServer
from tests.torture._evidence import (
    Acknowledged,
    Lives,
    acknowledged_in,
    kept,
    missing_of,
    soundness,
)
from tests.torture._load import Clock, Counted, Role, load
from tests.torture._processes import Child, Patience, running
from tests.torture._scale import Scale

SEED = 20261122
SPEED = 1_200.0
THREADS = 2
ROLES = (Role.WRITER, Role.WRITER, Role.SWEEPER, Role.SWEEPER, Role.HEART)


def races(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """On both databases."""
    for database, new in new_databases(server).items():
        what = f"{database}, writers, sweepers and heartbeats for {scale.races:g} s"
        with new() as url, tempfile.TemporaryDirectory() as keys:
            acknowledged, heartbeats = _race(url, Path(keys), scale.races)
            with lapse_on(url, Path(keys)) as lapse:
                yield kept(what, acknowledged, missing_of(lapse, acknowledged))
                yield from soundness(what, lapse)
                yield from _lives(what, lapse, heartbeats)


def _race(url: str, keys: Path, seconds: float) -> tuple[Acknowledged, list[Counted]]:
    """What the processes were told."""
    with lapse_on(url, keys):
        pass  # makes the tables, the keys and the policies
    clock = Clock(START, time.time(), SPEED)
    children = [
        Child(load, url, keys, clock, SEED + number, role, THREADS, seconds)
        for number, role in enumerate(ROLES)
    ]
    said: list[Any] = []
    patience = Patience()
    with running(*children):
        while any(child.exit_code is None for child in children):
            patience.check()
            for child in children:
                said += child.messages(0.01)
        for child in children:
            said += child.rest()
            assert child.exit_code == 0
    heartbeats = [one for one in said if isinstance(one, Counted)]
    return acknowledged_in(said), heartbeats


def _lives(what: str, lapse: Lapse, heartbeats: list[Counted]) -> Iterator[Row]:
    """What must hold for each session, read from the log in its order."""
    lives = Lives.of(lapse)
    yield exactly(f"{what}: ends of lives that had ended (peer: none)", lives.again, 0)
    for policy, versions in lapse.policies.known.items():
        limit = versions[-1].policy.limits.concurrent
        if limit is not None:
            name = f"{what}: {policy} sessions alive at most (peer: allowed)"
            yield at_most(name, lives.most[policy], limit)
    ignored = sum(
        one.at > lives.last_seen.get(one.session_id, one.at)
        for one in heartbeats
        if one.session_id not in lives.recovered
    )
    name = f"{what}: of {len(heartbeats):,} heartbeats that counted, ignored when a rule expired"
    yield exactly(f"{name} their session (peer: none)", ignored, 0)
