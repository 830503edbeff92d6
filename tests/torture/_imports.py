"""`lapse ingest`: all IRC logs at once, and an import that is killed again and again; compared with
counts that were made without Lapse."""

import gzip
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from adapters.wiring import Lapse
from domain.policy import HOUR
from tests.benchmarks._command import say
from tests.benchmarks._ours import POLICY, lapse_on, new_databases
from tests.benchmarks._report import Row, exactly
from tests.benchmarks._weblog import lines
from tests.independent import readers
from tests.independent.counts import MINUTE, rooms, visits
from tests.servers import PostgresServer, wait_until
from tests.torture._command_line import LONGEST, lapse_command
from tests.torture._evidence import soundness
from tests.torture._scale import Scale

CHECKOUT = Path(__file__).resolve().parents[2]
ARCHIVE = CHECKOUT.parent / "shared/data/irc_ubuntu_cc/ubuntu-irc-raw.tar.gz"
SEED = 20261122


def irc(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """One file is one room; the clock runs on to the present, when every room is erased."""
    if not ARCHIVE.exists():
        say("  left out: the real input, ../shared/data, is not beside this checkout")
        return
    with tempfile.TemporaryDirectory() as folder:
        files = readers.irc_files(ARCHIVE, Path(folder))[: scale.rooms]
        counted = rooms(readers.irc(files), HOUR)
        expected = {name: counted[name] for name in ("created", "joined", "left", "expired")}
        expected["erased"] = counted["created"]
        for database, new in new_databases(server).items():
            what = f"{database}, {len(files)} IRC logs"
            with new() as url, tempfile.TemporaryDirectory() as keys:
                report = _ingested(files, "irc", "reading-room", url, Path(keys))
                for name, number in expected.items():
                    found = report["events"].get(name, 0)
                    yield exactly(f"{what}: {name} (peer: independent count)", found, number)
                name = f"{what}: participants (peer: independent count)"
                yield exactly(name, report["participants"], counted["participants"])
                with lapse_on(url, Path(keys)) as lapse:
                    yield from soundness(what, lapse)


def killed_import(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """Each time it goes on where it was; in the end nothing is missing and nothing is doubled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "access.log.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.writelines(f"{line}\n" for line in lines(scale.imported))
        expected = visits(readers.web(path), 30 * MINUTE)["sessions"]
        for database, new in new_databases(server).items():
            what = f"{database}, import of {scale.imported:,} lines killed {scale.stops} times"
            with new() as url, tempfile.TemporaryDirectory() as keys:
                # Short enough that an import is not done by then.
                longest = min(0.3, scale.imported / 100_000)
                killed = _kill_imports(scale.stops, longest, path, url, Path(keys))
                report = _ingested([path], "combined", POLICY, url, Path(keys))
                with lapse_on(url, Path(keys)) as lapse:
                    yield exactly(f"{what}: runs cut short (peer: kills)", killed, scale.stops)
                    name = f"{what}: lines read (peer: lines)"
                    yield exactly(name, report["lines"], scale.imported)
                    for event in ("created", "joined", "expired", "erased"):
                        found = report["events"][event]
                        yield exactly(f"{what}: {event} (peer: independent count)", found, expected)
                    yield from soundness(what, lapse)


def _kill_imports(kills: int, longest: float, path: Path, url: str, keys: Path) -> int:
    """How many runs were killed before they were done, each up to `longest` seconds after it wrote
    something."""
    dice = random.Random(SEED)
    killed = 0
    with lapse_on(url, keys) as lapse:
        for _ in range(kills):
            before = lapse.log.head()
            arguments = ["ingest", str(path), "--format", "combined", "--policy", POLICY]
            with lapse_command(arguments, url, keys) as process:
                wait_until(partial(_has_grown, lapse, before), 60, "an append")
                with suppress(TimeoutExpired):
                    process.wait(dice.uniform(0, longest))
                process.kill()
                killed += process.wait() != 0
            _let_the_lease_run_out(lapse)
    return killed


def _has_grown(lapse: Lapse, position: int) -> bool:
    return lapse.log.head() > position


def _let_the_lease_run_out(lapse: Lapse) -> None:
    """A dead import holds the clock for up to a minute; here that minute is over at once."""
    with lapse.engines.write() as connection:
        connection.exec_driver_sql("UPDATE leases SET until = 0")


def _ingested(
    files: Sequence[Path], kind: str, policy: str, url: str, keys: Path
) -> dict[str, Any]:
    """What the command reports."""
    arguments = ["ingest", *map(str, files), "--format", kind, "--policy", policy, "--json"]
    with lapse_command(arguments, url, keys) as process:
        output, _ = process.communicate(timeout=LONGEST)
        assert process.returncode == 0
        report: dict[str, Any] = json.loads(output)
    return report
