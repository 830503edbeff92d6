"""Ingesting web logs: parsing, sessions, presence, sealing who it was, sweeping on the way."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adapters.importers.driver import ClockLease, Job, Target, run
from adapters.importers.formats import VisitorBy
from adapters.wiring import Lapse
from domain.policy import DAY
from tests.benchmarks._ours import POLICY, NewDatabase, new_databases, new_lapse_on
from tests.benchmarks._report import Row, required
from tests.benchmarks._rounds import in_turns
from tests.benchmarks._scale import Scale
from tests.benchmarks._weblog import lines
from tests.servers import PostgresServer

PROMISED = {"SQLite": 5_000, "PostgreSQL": 3_000}
"""Records per second."""
CHECKOUT = Path(__file__).resolve().parents[2]
NASA = CHECKOUT.parent / "shared/data/weblog_nasa_19950709/access_09jul1995.txt.gz"


@dataclass(frozen=True)
class Log:
    """A log file. run_on: how long the clock runs on after its last record, microseconds."""

    name: str
    path: Path
    format: str
    lines: int
    run_on: int = 0


def ingesting(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """The made-up log and the real one, on both databases."""
    with tempfile.TemporaryDirectory() as folder:
        logs = _logs(scale, Path(folder))
        figures = in_turns(
            scale.rounds,
            {
                f"{database} {log.name}": partial(_ingested, new, log)
                for log in logs
                for database, new in new_databases(server).items()
            },
        )
    for log in logs:
        for database, least in PROMISED.items():
            name = f"{database}, records/s ingested of {log.name} (peer: promised)"
            yield required(name, figures[f"{database} {log.name}"], least)


def _logs(scale: Scale, folder: Path) -> list[Log]:
    path = folder / "made-up.log"
    with path.open("w") as file:
        file.writelines(f"{line}\n" for line in lines(scale.lines))
    made_up = f"a made-up log of {scale.lines:,} lines"
    logs = [
        Log(made_up, path, "combined", scale.lines),
        Log(f"{made_up} until all are erased", path, "combined", scale.lines, 3 * DAY),
    ]
    if scale.real and NASA.exists():
        logs.append(Log("the NASA log of 9 July 1995", NASA, "common", 35_272))
    return logs


def _ingested(new: NewDatabase, log: Log) -> float:
    with new() as url, new_lapse_on(url) as lapse:
        target = _target(lapse)
        started = time.perf_counter()
        job = Job([str(log.path)], log.format, VisitorBy.HOST)
        [report] = run(job, [target], lambda last: last + log.run_on, lambda *_: None)
        seconds = time.perf_counter() - started
        assert (report.lines, report.rejected) == (log.lines, 0)
        assert not log.run_on or report.events["erased"] == report.sessions
    return log.lines / seconds


def _target(lapse: Lapse) -> Target:
    return Target(
        lapse.log,
        lapse.vault,
        lapse.keyring,
        lapse.policies.refresh,
        POLICY,
        ClockLease(lapse.log, lapse.holder, lapse.clock),
        lapse.holder,
        lapse.clock(),
    )
