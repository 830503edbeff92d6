"""Live: how soon a watcher has what was appended, and how soon after its instant a session expires,
with thousands of sessions alive. Redis key expiry stands beside it."""

import asyncio
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from adapters.clock import format_instant, parse_instant, system_clock
from adapters.http.opening import open_tokens
from adapters.http.tokens import Role
from adapters.wiring import Lapse
from domain.policy import HOUR, MINUTE, SECOND
from domain.timeline import next_due
from tests.benchmarks._command import say
from tests.benchmarks._http_scale import HttpScale
from tests.benchmarks._ours import POLICY, database_of, lapse_on
from tests.benchmarks._population import populate, settle
from tests.benchmarks._report import Row, at_most
from tests.benchmarks._service import Served, serving
from tests.benchmarks._sockets import Connection, connect, followed, lines, post
from tests.servers import PostgresServer, wait_until

SEEN_WITHIN, EXPIRED_WITHIN = 50.0, 250.0
"""Promised 99th percentiles, milliseconds."""
CLIENTS = 16
"""Connections that append."""
AFTERWARDS = 5.0
"""Seconds in which the last ones may come."""
NEVER_CAME = 60_000.0
"""Milliseconds; stands for what did not come from us at all."""


@dataclass
class Heard:
    """What watchers and subscribers got. sent: the new end of a session -> when that was asked for,
    both in microseconds. The rest is milliseconds: since a request was sent, since the service
    recorded the event (`recorded_at`, before its commit), since a session was due."""

    sent: dict[int, int] = field(default_factory=dict)
    asked: list[float] = field(default_factory=list)
    appended: list[float] = field(default_factory=list)
    expired: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A service with sessions. begins: the first deadline."""

    served: Served
    watched: Sequence[str]
    producer: str
    subscriber: str
    begins: int


def live(scale: HttpScale, server: PostgresServer) -> Iterator[Row]:
    """Watchers of a session each, one who appends, one subscriber of the whole log."""
    with _stage(server, scale) as stage:
        heard = asyncio.run(_played(scale, stage))
    expected = scale.per_second * scale.watched
    seen, lateness = _p99(heard.appended, expected), _p99(heard.expired, expected)
    beside = (
        f"beside {scale.alive:,} sessions alive, {scale.per_second} appends/s, "
        f"{scale.per_second} deadlines/s, {scale.watchers} watchers"
    )
    yield at_most(
        f"append -> at its watcher, p99 in ms, {beside} (peer: promised)", seen, SEEN_WITHIN
    )
    asked, middle = _p99(heard.asked, expected), statistics.median(heard.asked or [NEVER_CAME])
    yield Row(
        "the same since the client sent its request, p99 in ms (peer: median)",
        asked,
        middle,
        middle / asked,
        None,
        ok=True,
    )
    yield at_most(
        f"due instant -> `expired` at a subscriber, p99 in ms, {beside} (peer: promised)",
        lateness,
        EXPIRED_WITHIN,
    )
    if not has_redis():
        say("  redis-server is not installed: there is no peer for lateness")
        return
    redis = _p99(_redis_lateness(scale), expected)
    yield Row(
        "due instant -> `expired` at a subscriber, p99 in ms (peer: Redis key expiry, as many keys "
        "and deadlines)",
        lateness,
        redis,
        redis / lateness,
        None,
        ok=True,
    )


def _p99(latencies: Sequence[float], expected: int) -> float:
    """Those that never came count as the worst."""
    missing = [NEVER_CAME] * (expected - len(latencies))
    return sorted([*latencies, *missing])[int(0.99 * (expected - 1))]


@contextmanager
def _stage(server: PostgresServer, scale: HttpScale) -> Iterator[Stage]:
    with (
        tempfile.TemporaryDirectory(prefix="lapse-bench-") as name,
        database_of(server) as url,
    ):
        folder = Path(name)
        keys = folder / "keys"
        keys.mkdir(mode=0o700)
        with lapse_on(url, keys) as lapse:
            tokens = open_tokens(lapse)
            producer = tokens.mint(Role.PRODUCER, HOUR, "benchmark")
            subscriber = tokens.mint(Role.SUBSCRIBER, HOUR, "benchmark")
            now = system_clock()
            populate(lapse, scale.alive, now - MINUTE, now)
            watched = _some_sessions(lapse, scale.watchers)
            begins = (system_clock() + scale.ready * SECOND) // SECOND * SECOND
            last = begins + scale.watched * SECOND
            idle = _idle(lapse)
            populate(lapse, scale.per_second * scale.watched, begins - idle, last - idle)
            lapse.projector.catch_up()
            settle(lapse)
        with serving(server, url, keys, folder / "log") as served:
            yield Stage(served, watched, producer, subscriber, begins)


def _some_sessions(lapse: Lapse, count: int) -> Sequence[str]:
    query = "SELECT session_id FROM sessions WHERE partition = 0 ORDER BY session_id LIMIT %s"
    with lapse.engines.read() as connection:
        return [row[0] for row in connection.exec_driver_sql(query, (count,))]


def _idle(lapse: Lapse) -> int:
    """After how long without anybody a session of the policy is due."""
    [some] = _some_sessions(lapse, 1)
    session = lapse.log.find([some])[some].session
    versions = lapse.policies.versions(POLICY)
    due = next_due(session, versions, session.last_seen_at, session.last_seen_at)
    assert due is not None
    return due.at - session.last_seen_at


# -- playing ----------------------------------------------------------------------------------


async def _played(scale: HttpScale, stage: Stage) -> Heard:
    heard = Heard()
    streams = [
        await followed(stage.served, f"/v1/sessions/{session}/watch", stage.producer)
        for session in stage.watched
    ]
    log = await followed(stage.served, "/v1/events/stream", stage.subscriber)
    listening = [asyncio.ensure_future(_hear_appends(one, heard)) for one in streams]
    listening.append(asyncio.ensure_future(_hear_expiries(log, heard, stage.begins)))
    if system_clock() > stage.begins:
        raise RuntimeError("not everybody watched before the first deadline")
    await _append_often(scale, stage, heard)
    await asyncio.sleep(AFTERWARDS)
    for one in listening:
        one.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    for stream in (*streams, log):
        await stream.close()
    return heard


async def _append_often(scale: HttpScale, stage: Stage, heard: Heard) -> None:
    clients: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CLIENTS):
        clients.put_nowait(await connect(stage.served))
    tasks = []
    for number in range(scale.per_second * scale.watched):
        at = stage.begins + number * SECOND // scale.per_second
        await asyncio.sleep(max(0.0, (at - system_clock()) / SECOND))
        session = stage.watched[number % len(stage.watched)]
        tasks.append(asyncio.ensure_future(_extend(stage, heard, clients, session, number)))
    await asyncio.gather(*tasks)
    while not clients.empty():
        await clients.get_nowait().close()


async def _extend(
    stage: Stage, heard: Heard, clients: "asyncio.Queue[Connection]", session: str, number: int
) -> None:
    """One append: the session shall live a little longer still."""
    until = stage.begins + HOUR + number * SECOND  # each is another one
    body = orjson.dumps({"until": format_instant(until)})
    heard.sent[until] = system_clock()
    client = await clients.get()
    status, answer = await post(client, f"/v1/sessions/{session}/extend", stage.producer, body)
    clients.put_nowait(client)
    if status != 200:
        raise RuntimeError(f"an append was refused: {answer.decode()}")


async def _hear_appends(stream: Connection, heard: Heard) -> None:
    async for line in lines(stream):
        event = orjson.loads(line)
        if event.get("event") == "extended":
            now = system_clock()
            recorded = parse_instant(event["recorded_at"], "recorded_at")
            heard.asked.append((now - heard.sent[event["data"]["until"]]) / 1_000)
            heard.appended.append((now - recorded) / 1_000)


async def _hear_expiries(stream: Connection, heard: Heard, begins: int) -> None:
    async for line in lines(stream):
        event = orjson.loads(line)
        if event["event"] == "expired":
            due = parse_instant(event["effective_at"], "effective_at")
            heard.expired.append((system_clock() - due) / 1_000)


# -- Redis ------------------------------------------------------------------------------------


def has_redis() -> bool:
    return shutil.which("redis-server") is not None


def _redis_lateness(scale: HttpScale) -> Sequence[float]:
    """How late, in milliseconds, a subscriber hears of keys that expire: Debian's Redis as it comes
    but for notifications, with nothing kept on disk."""
    with tempfile.TemporaryDirectory(prefix="lapse-redis-") as folder:
        path = Path(folder) / "socket"
        process = subprocess.Popen(
            [
                *("redis-server", "--port", "0", "--unixsocket", str(path), "--dir", folder),
                *("--save", "", "--appendonly", "no", "--notify-keyspace-events", "Ex"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: _accepts(path), 10, "redis-server")
            return asyncio.run(_expired_keys(scale, path))
        finally:
            process.terminate()
            process.wait()


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


async def _expired_keys(scale: HttpScale, path: Path) -> Sequence[float]:
    """What has not come when our patience ends counts as coming then."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    first = time.time_ns() // 1_000_000 + 2_000
    dues = [first + 1_000 * n // scale.per_second for n in range(scale.per_second * scale.watched)]
    commands = [_command("SET", f"alive:{n}", "x", "EX", "3600") for n in range(scale.alive)]
    commands += [_command("SET", f"due:{n}", "x", "PXAT", str(due)) for n, due in enumerate(dues)]
    commands.append(_command("SUBSCRIBE", "__keyevent@0__:expired"))
    writer.write(b"".join(commands))
    late: dict[int, float] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(2 + scale.watched + scale.patience):
            while len(late) < len(dues):
                line = await reader.readline()
                if line.startswith(b"due:"):
                    number = int(line[4:])
                    late[number] = time.time_ns() / 1e6 - dues[number]
    writer.close()
    await writer.wait_closed()
    now = time.time_ns() / 1e6
    return [late.get(number, now - due) for number, due in enumerate(dues)]


def _command(*words: str) -> bytes:
    """See the protocol of Redis, RESP."""
    parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
    return "".join(parts).encode()
