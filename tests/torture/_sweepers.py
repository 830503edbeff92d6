"""Four processes sweep the same backlog: exactly one expiry for each session."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.log.engine import open_engines
from adapters.log.event_log import SqlLog
from adapters.wiring import Lapse
from domain.errors import StoreBusy
from domain.policy import HOUR
from domain.ports import Append
from domain.session import Expired, create, evolve
from domain.timeline import advance
from domain.use_cases.sweep import sweep_once
from tests.benchmarks._ours import ACTOR, POLICY, START, lapse_on, new_databases
from tests.benchmarks._report import Row, exactly
from tests.servers import PostgresServer
from tests.torture._evidence import Lives, soundness
from tests.torture._processes import Child, Outbox, gate, running
from tests.torture._scale import Scale

PROCESSES = 4
NOW = START + 2 * HOUR
"""When all sessions are due and no erasure is."""


def sweepers(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """On both databases."""
    for database, new in new_databases(server).items():
        what = f"{database}, {PROCESSES} processes sweep {scale.due:,} due sessions"
        with new() as url, tempfile.TemporaryDirectory() as keys:
            with lapse_on(url, Path(keys)) as lapse:
                _begin_sessions(lapse, scale.due)
            done = _sweep_in_processes(url)
            with lapse_on(url, Path(keys)) as lapse:
                yield from _evidence(what, lapse, scale.due, done)


def _begin_sessions(lapse: Lapse, count: int) -> None:
    versions = lapse.policies.versions(POLICY)
    appends = []
    for number in range(count):
        at = START + number * HOUR // count
        events = create(None, secrets.token_hex(16), POLICY, 1, at, ACTOR)
        session = evolve(None, events[0])
        appends.append(Append(None, session, events, advance(session, versions, at, at).next_at))
    for start in range(0, count, 1_000):
        for answer in lapse.log.append(appends[start : start + 1_000], START):
            assert not isinstance(answer, Exception), answer


def _sweep_in_processes(url: str) -> int:
    """How many sessions the processes say they expired, together."""
    start = gate(PROCESSES)
    children = [Child(_sweep_all, url, start) for _ in range(PROCESSES)]
    with running(*children):
        done = sum(sum(child.rest()) for child in children)
        assert all(child.exit_code == 0 for child in children)
    return done


def _sweep_all(outbox: Outbox, url: str, start: Any) -> None:
    """Sweep until nothing is due; sends how many each batch did."""
    log = SqlLog(open_engines(url), lambda: NOW)
    policies = log.policies()
    start.wait(60)
    while (due := log.next_due()) is not None and due <= NOW:
        try:
            outbox.put(sweep_once(log, policies, NOW, f"sweeper-{os.getpid()}").done)
        except StoreBusy:
            continue  # the others held an SQLite file for too long
    log.close()


def _evidence(what: str, lapse: Lapse, due: int, done: int) -> Iterator[Row]:
    lives = Lives.of(lapse)
    query = f"SELECT count(*) FROM events WHERE topic = '{Expired.TOPIC}'"
    with lapse.engines.read() as connection:
        [(expiries,)] = connection.exec_driver_sql(query).fetchall()
    yield exactly(f"{what}: sessions that expired (peer: sessions)", len(lives.expired), due)
    yield exactly(f"{what}: `expired` events (peer: sessions)", expiries, due)
    yield exactly(f"{what}: done, as the processes count it (peer: sessions)", done, due)
    yield from soundness(what, lapse)
