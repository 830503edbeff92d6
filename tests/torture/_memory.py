"""Memory stays flat, however much is imported or made anew.

Measured from outside on the command itself: its resident set (VmRSS of proc(5)), at most during
the first part of the work and at most from then on to its end.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adapters.wiring import Lapse
from tests.benchmarks._ours import POLICY, START, lapse_on, lives, new_databases
from tests.benchmarks._report import Figure, Row, alike, at_most, exactly
from tests.benchmarks._weblog import lines
from tests.servers import PostgresServer
from tests.torture._command_line import LONGEST, lapse_command
from tests.torture._scale import Scale

ALLOWED = 300.0
"""MB of resident memory."""
TOLERANCE = 0.2
LOOK_EVERY = 1_000
"""Lines."""
LOOK_AGAIN = 0.1
"""Seconds."""
LIVES = 1_000
"""Whole lives of five events, copied to make a long log."""


@dataclass
class Memory:
    """The greatest resident sets seen of a process, in MB."""

    pid: int
    early: float = 0.0
    late: float = 0.0

    def look(self, *, early: bool) -> None:
        with suppress(OSError, StopIteration):  # it has just ended
            status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            resident = next(line for line in status if line.startswith("VmRSS:"))
            megabytes = int(resident.split()[1]) / 1024
            if early:
                self.early = max(self.early, megabytes)
            else:
                self.late = max(self.late, megabytes)

    def rows(self, what: str, then: str) -> Iterator[Row]:
        early, late = Figure((self.early,)), Figure((self.late,))
        name = f"{what}: MB at most from {then} on (peer: before; must be the same)"
        yield alike(name, late, early, TOLERANCE)
        yield at_most(f"{what}: MB at most (peer: allowed)", max(self.early, self.late), ALLOWED)


def ingesting(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """`lapse ingest -`: the log comes through a pipe, which shows how far it was read."""
    for database, new in new_databases(server).items():
        what = f"{database}, ingesting {scale.late:,} records"
        with new() as url, tempfile.TemporaryDirectory() as keys:
            memory, read = _ingest(scale, url, Path(keys))
        yield exactly(f"{what}: lines read (peer: written)", read, scale.late)
        yield from memory.rows(what, f"record {scale.early:,}")


def _ingest(scale: Scale, url: str, keys: Path) -> tuple[Memory, int]:
    arguments = ["ingest", "-", "--format", "combined", "--policy", POLICY, "--json"]
    with lapse_command(arguments, url, keys, subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        memory = Memory(process.pid)
        for number, line in enumerate(lines(scale.late), start=1):
            process.stdin.write(line.encode() + b"\n")
            if number % LOOK_EVERY == 0:
                memory.look(early=number <= scale.early)
        process.stdin.close()
        _watch(process, memory)
        return memory, json.loads(process.stdout.read())["lines"]


def rebuilding(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """`lapse db rebuild audit` from a long log."""
    for database, new in new_databases(server).items():
        what = f"{database}, rebuilding a projection from {scale.rebuilt:,} events"
        with (
            new() as url,
            tempfile.TemporaryDirectory() as keys,
            lapse_on(url, Path(keys)) as lapse,
        ):
            _copy_lives(lapse, scale.rebuilt)
            memory = _rebuild(lapse, url, Path(keys))
            shown = lapse.projector.lag()["audit"].position
            yield exactly(f"{what}: events shown (peer: in the log)", shown, lapse.log.head())
        yield from memory.rows(what, "a fifth")


def _rebuild(lapse: Lapse, url: str, keys: Path) -> Memory:
    with lapse_command(["db", "rebuild", "audit"], url, keys) as process:
        memory = Memory(process.pid)
        early, fifth = True, lapse.log.head() // 5
        while process.poll() is None:
            early = early and (lapse.projector.lag()["audit"].building or 0) <= fifth
            memory.look(early=early)
            time.sleep(LOOK_AGAIN)
        assert process.returncode == 0
        return memory


def _watch(process: "subprocess.Popen[bytes]", memory: Memory) -> None:
    """Until it ends."""
    until = time.monotonic() + LONGEST
    while process.poll() is None:
        memory.look(early=False)
        assert time.monotonic() < until, "the command does not end"
        time.sleep(LOOK_AGAIN)
    assert process.returncode == 0


def _copy_lives(lapse: Lapse, events: int) -> None:
    """A log of at least so many events: some lives, copied by SQL under other ids and hours."""
    first = lapse.log.head()
    for answer in lapse.log.append(lives(lapse, LIVES), START):
        assert not isinstance(answer, Exception), answer
    copied = lapse.log.head() - first
    copies = -(-events // copied) - 1
    for start in range(1, copies + 1, 100):
        stop = min(start + 99, copies)
        with lapse.engines.write() as connection:
            connection.exec_driver_sql(
                f"WITH RECURSIVE copy(n) AS (SELECT {start} UNION ALL "
                f"SELECT n + 1 FROM copy WHERE n < {stop}) "
                "INSERT INTO events (partition, position, session_id, version, topic, "
                "effective_at, recorded_at, nonce, state, leaf) "
                f"SELECT partition, position + n * {copied}, session_id || '-' || n, version, "
                "topic, effective_at + n * 3600000000, recorded_at + n * 3600000000, nonce, state, "
                "leaf "
                f"FROM events, copy WHERE position > {first} AND position <= {first + copied}"
            )
            connection.exec_driver_sql(
                f"UPDATE heads SET position = {first + copied * (stop + 1)} WHERE partition = 0"
            )
