"""A real `lapse serve` on a PostgreSQL, as the benchmark of HTTP starts it, and what it costs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import PostgresServer, is_gone, wait_until

_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = 60.0


@dataclass(frozen=True)
class Served:
    """A service that runs. host, port: where it answers."""

    pid: int
    host: str
    port: int
    server: PostgresServer

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def cpu(self) -> float:
        """CPU-seconds of its process until now, in user mode and in the kernel."""
        return _seconds(self.pid, ended_children=False)

    def database_cpu(self) -> float:
        """The same of PostgreSQL: all of its processes, those that ended too."""
        children = _children_of(self.server.pid)
        own = _seconds(self.server.pid, ended_children=True)
        return own + sum(_seconds(pid, ended_children=False) for pid in children)


@dataclass(frozen=True)
class Spent:
    """CPU-seconds that something cost: service, database."""

    service: float
    database: float


def spent(served: Served, work: Callable[[], None]) -> Spent:
    """What `work` cost the two of them."""
    service, database = served.cpu(), served.database_cpu()
    work()
    return Spent(served.cpu() - service, served.database_cpu() - database)


@contextmanager
def serving(
    server: PostgresServer,
    url: str,
    keys: Path,
    log: Path,
    *,
    port: int = 0,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """`lapse serve`, everything in one process, with the settings of an installation but for the
    rate limit: one client stands for all here. log: where its output goes, one of its own for every
    service beside others. port: where it answers; 0: somewhere. settings: more variables."""
    ready = log.with_suffix(".ready")
    environment = {
        **os.environ,
        "LAPSE_DATABASE_URL": url,
        "LAPSE_KEY_URL": keys.as_uri(),
        "LAPSE_RATE_LIMIT": "1000000/second",
        **(settings or {}),
    }
    program = str(Path(sys.executable).with_name("lapse"))
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, program, "serve", "--port", str(port), "--ready-file", str(ready)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None, _PATIENCE, "lapse serve")
        if process.poll() is not None:
            raise RuntimeError(f"lapse serve did not start: {log.read_text()[-2000:]}")
        host, _, port = json.loads(ready.read_bytes())["url"].rpartition("/")[2].rpartition(":")
        yield Served(process.pid, host, int(port), server)
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _seconds(pid: int, *, ended_children: bool) -> float:
    """See proc(5): utime and stime are the fields 14 and 15, those of ended children 16 and 17."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, fields[11 : 15 if ended_children else 13]))
    return ticks / _TICKS


def _children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, found) if not is_gone(child)]
