"""What many sessions cost in each tier, measured from outside: bytes that the service says are
stored, pages of the database in use, and the resident set (VmRSS of proc(5)) of `lapse serve`.

The service holds no content of a session between two requests, so its memory does not fall from a
tier to the next one: it must not have grown with what was stored in the first place. What a process
keeps for itself - imported code, connections, and what Python's allocator does not give back - is
there after a first round of the same sessions; the growth over that in a second round is what the
sessions of that round cost.
"""

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from adapters.clock import format_instant
from adapters.http.opening import open_tokens
from adapters.http.tokens import Role
from adapters.settings import load_settings
from adapters.wiring import Lapse, open_lapse
from domain.policy import DAY, MINUTE
from tests.benchmarks._ours import START, new_databases
from tests.benchmarks._report import Figure, Row, at_most, exactly, required
from tests.benchmarks._service import serving
from tests.servers import PostgresServer, wait_until
from tests.torture._http_scale import HttpScale

CLIENTS = 4
FRAMES = 25
"""Of one batch: landmarks of one person, 25 points each."""
FALLS_BY = 80.0
"""Per cent that must go when the full tier becomes a summary (row P1.5)."""
NOISE = 8.0
"""MB that a service may grow by whatever is stored: SQLite keeps 2 MB of pages per connection."""
PATIENCE = 120.0
SEED = 20261122
MB = 1_000_000


@dataclass(frozen=True)
class Cost:
    """What everything costs at one moment, in bytes: as the service counts it, in pages of the
    database's tables of the vault, and resident in the service."""

    stored: int
    pages: int
    resident: int


@dataclass(frozen=True)
class Stage:
    """A service, its database beside it, and the clock that it lives by."""

    http: httpx2.Client
    lapse: Lapse
    pid: int
    clock: Path

    def now_is(self, now: int) -> None:
        partial_ = self.clock.with_suffix(".new")  # renamed, so that nobody reads half a time
        partial_.write_text(str(format_instant(now)))
        partial_.replace(self.clock)

    def rows(self, query: str) -> int:
        with self.lapse.engines.read() as connection:
            return int(connection.exec_driver_sql(query).scalar_one())

    def cost(self) -> Cost:
        return Cost(self.lapse.log.stored_bytes(), self._pages(), _resident(self.pid))

    def _pages(self) -> int:
        if self.lapse.engines.dialect == "sqlite":
            used = "(SELECT page_count FROM pragma_page_count()) - "
            used += "(SELECT freelist_count FROM pragma_freelist_count())"
            return self.rows(f"SELECT ({used}) * (SELECT page_size FROM pragma_page_size())")
        with self.lapse.engines.write() as connection:  # what was deleted is free from then on
            connection.exec_driver_sql("COMMIT")
            for table in _TABLES:
                connection.exec_driver_sql(f"VACUUM {table}")
        sizes = " + ".join(f"pg_total_relation_size('{table}')" for table in _TABLES)
        return self.rows(f"SELECT {sizes}")


_TABLES = ("items", "partials", "data_keys")


def tiers(scale: HttpScale, server: PostgresServer) -> Iterator[Row]:
    """Two rounds of so many sessions, each from its landmarks to its erasure."""
    for database, new in new_databases(server).items():
        with (
            new() as url,
            tempfile.TemporaryDirectory(prefix="lapse-torture-") as folder,
            _stage(server, url, Path(folder), scale) as stage,
        ):
            _round(stage, scale, START)
            begins = START + DAY
            stage.now_is(begins)
            idle = stage.cost()
            costs = _round(stage, scale, begins)
        yield from _compared(database, scale, idle, *costs)


def _round(
    stage: Stage, scale: HttpScale, begins: int
) -> tuple[Sequence[int], Cost, Cost, Cost, Sequence[int]]:
    """Bytes of each session, the cost of all in each tier, and the bytes of each that remain in the
    summary."""
    sessions = _stored(stage, scale)
    full_of_each = _each(stage)
    full = stage.cost()
    stage.now_is(begins + 5 * MINUTE)
    of_chunks = "SELECT count(*) FROM items"
    wait_until(lambda: stage.rows(of_chunks) == 0, PATIENCE, "the summaries")
    summary_of_each = _each(stage)
    summarized = stage.cost()
    stage.now_is(begins + 35 * MINUTE)
    left = "SELECT count(*) FROM sessions"
    wait_until(lambda: stage.rows(left) == 0, PATIENCE, "the erasures")
    assert set(full_of_each) == set(summary_of_each) == set(sessions)
    of_each = [full_of_each[one] for one in sessions]
    return of_each, full, summarized, stage.cost(), [summary_of_each[one] for one in sessions]


def _each(stage: Stage) -> Mapping[str, int]:
    with stage.lapse.engines.read() as connection:
        query = "SELECT session_id, stored_bytes FROM sessions"
        return {row[0]: row[1] for row in connection.exec_driver_sql(query)}


def _stored(stage: Stage, scale: HttpScale) -> list[str]:
    """Sessions with their landmarks, sent by a few clients at once."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(partial(_session, stage, scale), range(scale.sessions)))


def _session(stage: Stage, scale: HttpScale, number: int) -> str:
    dice = random.Random(f"{SEED}/{number}")
    session = _posted(stage, "/v1/sessions", {"policy": "biometric-coach"})["id"]
    for _ in range(scale.batches):
        item = {"kind": "landmarks", "records": [_frame(dice) for _ in range(FRAMES)]}
        _posted(stage, f"/v1/sessions/{session}/items", item)
    return str(session)


def _frame(dice: random.Random) -> dict[str, Any]:
    points = [[dice.uniform(0, 1920), dice.uniform(0, 1080), dice.random()] for _ in range(25)]
    return {"stillness": dice.random(), "landmarks": points}


def _posted(stage: Stage, path: str, body: Any) -> Any:
    answer = stage.http.post(path, json=body)
    answer.raise_for_status()
    return answer.json()


def _compared(
    database: str,
    scale: HttpScale,
    idle: Cost,
    of_each: Sequence[int],
    full: Cost,
    summarized: Cost,
    erased: Cost,
    summary_of_each: Sequence[int],
) -> Iterator[Row]:
    what = f"{database}, {scale.sessions} sessions of {full.stored / scale.sessions / 1000:,.0f} kB"
    falls = [
        100 - 100 * after / before for before, after in zip(of_each, summary_of_each, strict=True)
    ]
    of_all = Figure((100 - 100 * summarized.stored / full.stored,))
    yield _shown(
        f"{what}: stored bytes of all, full (peer: summary)", full.stored, summarized.stored
    )
    name = f"{what}: fall of stored bytes at the summary, %, "
    yield required(f"{name}all (peer: promised)", of_all, FALLS_BY)
    yield required(f"{name}least of any session (peer: promised)", Figure((min(falls),)), FALLS_BY)
    yield exactly(f"{what}: stored bytes after the erasure (peer: none)", erased.stored, 0)
    name = f"{what}: MB of the vault's pages in the database, "
    for tier, cost in (("full", full), ("summary", summarized), ("erased", erased)):
        yield _shown(f"{name}{tier} (peer: before)", cost.pages / MB, idle.pages / MB)
    name = f"{what}: MB resident in the service, "
    for tier, cost in (("full", full), ("summary", summarized), ("erased", erased)):
        yield _shown(f"{name}{tier} (peer: before)", cost.resident / MB, idle.resident / MB)
    allowed = max(NOISE, (100 - FALLS_BY) / 100 * full.stored / MB)
    name = f"{what}: MB that the service grew by, "
    for tier, cost in (("full", full), ("summary", summarized), ("erased", erased)):
        grown = max(0.0, (cost.resident - idle.resident) / MB)
        yield at_most(
            f"{name}{tier} (peer: a fifth of what they store, at least 8)", grown, allowed
        )


def _shown(name: str, ours: float, peer: float) -> Row:
    return Row(name, ours, peer, None, None, ok=True)


@contextmanager
def _stage(server: PostgresServer, url: str, folder: Path, scale: HttpScale) -> Iterator[Stage]:
    keys, clock = folder / "keys", folder / "clock"
    keys.mkdir(mode=0o700)
    clock.write_text(str(format_instant(START)))
    given = {"env": "test", "clock": f"file:{clock}", "database_url": url, "key_url": keys.as_uri()}
    environment = {
        "LAPSE_ENV": "test",
        "LAPSE_CLOCK": f"file:{clock}",
        "MAX_CONCURRENT_SESSIONS": str(scale.sessions),
    }
    with (
        serving(server, url, keys, folder / "log", settings=environment) as served,
        # Without creating: this process would put its own policies in force.
        open_lapse(load_settings(**given), create=False) as lapse,
    ):
        token = open_tokens(lapse).mint(Role.PRODUCER, 100 * DAY, "torture")
        headers = {"Authorization": f"Bearer {token}"}
        with httpx2.Client(base_url=served.url, headers=headers, timeout=PATIENCE) as http:
            yield Stage(http, lapse, served.pid, clock)


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [one for one in status if one.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
