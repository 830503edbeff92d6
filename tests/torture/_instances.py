"""`kill -9` of one of two instances under load. What clients were told is compared with the log,
the database, and what the service answers afterwards."""

import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx2

from adapters.clock import parse_instant
from adapters.http.cursors import cursor
from adapters.http.opening import open_tokens
from adapters.http.tokens import Role
from adapters.keyring.opening import store_of
from adapters.settings import load_settings
from adapters.wiring import Lapse, open_lapse
from domain.policy import HOUR
from domain.session import Created, Joined, Stored
from tests.acceptance.databases import PEOPLE
from tests.benchmarks._ours import database_of
from tests.benchmarks._report import Row, exactly
from tests.benchmarks._service import Served, serving
from tests.servers import PostgresServer, wait_until
from tests.torture._evidence import Lives, soundness, whole_log
from tests.torture._http_scale import HttpScale
from tests.torture._traffic import (
    POLICIES,
    RUSH,
    STEADY,
    Acknowledged,
    Application,
    Watcher,
)

SEED = 20261122
SHORTEST, LONGEST = 0.5, 4.0
"""Seconds from one restart to the next kill."""
DOWN = 1.0
"""Seconds for which an instance stays away, at most."""
LAST_ENDINGS = 60.0
"""Seconds in which the last sessions of `rush` are erased."""


class Pair:
    """Two instances at fixed addresses, one of which is killed and started again."""

    def __init__(self, server: PostgresServer, url: str, folder: Path) -> None:
        self._server = server
        self._url = url
        self._folder = folder
        self._numbers = count(1)
        self._ports = [_free_port(), _free_port()]
        self._running: list[ExitStack] = [ExitStack(), ExitStack()]
        self._served: list[Served | None] = [None, None]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._ports]

    def start(self, number: int) -> None:
        log = self._folder / f"log-{next(self._numbers)}"
        policies = str(self._folder / "policies.toml")
        self._served[number] = self._running[number].enter_context(
            serving(
                self._server,
                self._url,
                self._folder / "keys",
                log,
                port=self._ports[number],
                settings={"LAPSE_POLICY_FILE": policies},
            )
        )

    def kill(self, number: int) -> None:
        served = self._served[number]
        assert served is not None
        os.kill(served.pid, signal.SIGKILL)
        self._running[number].close()

    def close(self) -> None:
        for running in self._running:
            running.close()


@dataclass
class Traffic:
    """Clients and watchers that run."""

    told: Acknowledged
    watchers: Sequence[Watcher]
    stop_clients: threading.Event = field(default_factory=threading.Event)
    stop_watchers: threading.Event = field(default_factory=threading.Event)
    clients: list["Future[None]"] = field(default_factory=list)
    streams: list["Future[None]"] = field(default_factory=list)


def killed_instance(scale: HttpScale, server: PostgresServer) -> Iterator[Row]:
    """It dies at any moment and comes back; the other one and all clients go on."""
    what = f"PostgreSQL, two instances, kill -9 of one at {scale.kills} moments"
    with (
        tempfile.TemporaryDirectory(prefix="lapse-torture-") as name,
        database_of(server) as url,
    ):
        folder = Path(name)
        (folder / "keys").mkdir(mode=0o700)
        (folder / "policies.toml").write_text(POLICIES)
        with _opened(url, folder) as lapse:
            tokens = open_tokens(lapse)
            producer = tokens.mint(Role.PRODUCER, HOUR, "torture")
            subscriber = tokens.mint(Role.SUBSCRIBER, HOUR, "torture")
            first = lapse.log.head()
            begin = cursor(store_of(lapse.engines), first)
        pair = Pair(server, url, folder)
        try:
            for number in (0, 1):
                pair.start(number)
            told = Acknowledged()
            watchers = [
                Watcher(pair.urls[:: 1 if n % 2 else -1], subscriber, begin)
                for n in range(scale.watchers)
            ]
            with _running(scale, pair, producer, Traffic(told, watchers)) as traffic:
                _kill_in_turns(scale, pair)
                _end(traffic, url, folder)
            unread = _unread(pair.urls[0], producer, told)
        finally:
            pair.close()
        with _opened(url, folder) as lapse:
            yield from _evidence(what, lapse, told, unread)
            yield from _watched(what, watchers, first, lapse.log.head())


@contextmanager
def _running(scale: HttpScale, pair: Pair, token: str, traffic: Traffic) -> Iterator[Traffic]:
    with ThreadPoolExecutor(scale.clients + scale.watchers) as pool:
        for number in range(scale.clients):
            urls = pair.urls[:: 1 if number % 2 else -1]
            one = Application(urls, token, traffic.told, f"{SEED}/{number}")
            traffic.clients.append(pool.submit(one.work, traffic.stop_clients))
        for watcher in traffic.watchers:
            traffic.streams.append(pool.submit(watcher.work, traffic.stop_watchers))
        try:
            yield traffic
        finally:
            traffic.stop_clients.set()
            traffic.stop_watchers.set()


def _kill_in_turns(scale: HttpScale, pair: Pair) -> None:
    dice = random.Random(SEED)
    for moment in range(scale.kills):
        time.sleep(dice.uniform(SHORTEST, LONGEST))
        number = moment % 2
        pair.kill(number)
        time.sleep(dice.uniform(0, DOWN))
        pair.start(number)


def _end(traffic: Traffic, url: str, folder: Path) -> None:
    """Clients stop; the sessions of `rush` end; watchers get the rest."""
    traffic.stop_clients.set()
    for client in traffic.clients:
        client.result()
    with _opened(url, folder) as lapse:
        wait_until(lambda: lapse.log.live(RUSH) == 0, LAST_ENDINGS, "the last expiries")
        query = f"SELECT count(*) FROM sessions WHERE policy = '{RUSH}'"

        def erased() -> bool:
            with lapse.engines.read() as connection:
                return bool(connection.exec_driver_sql(query).scalar_one() == 0)

        wait_until(erased, LAST_ENDINGS, "the last erasures")
        head = lapse.log.head()
    for stream in traffic.streams:
        if stream.done():
            stream.result()  # what it broke off with
    for watcher in traffic.watchers:
        wait_until(
            lambda one=watcher: bool(one.positions) and one.positions[-1] >= head,  # type: ignore[misc]
            LAST_ENDINGS,
            "a watcher to have everything",
        )


def _unread(url: str, token: str, told: Acknowledged) -> int:
    """How many acknowledged items cannot be read as they were stored, and acknowledged heartbeats
    that do not count: sessions that do not say that they were seen then."""
    wrong = 0
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=30.0) as http:
        for (session, item), records in told.items.items():
            answer = http.get(f"/v1/sessions/{session}/items/{item}")
            wrong += not answer.is_success or answer.json()["records"] != records
        for session in told.created[STEADY]:
            sent = [at for (one, _), at in told.beats.items() if one == session]
            if sent:
                seen = http.get(f"/v1/sessions/{session}").json()["last_seen_at"]
                # Shown in milliseconds.
                wrong += parse_instant(seen, "last_seen_at") + 1_000 <= max(sent)
    return wrong


def _evidence(what: str, lapse: Lapse, told: Acknowledged, unread: int) -> Iterator[Row]:
    events = [one.event for one in whole_log(lapse)]
    created = {one.originator_id for one in events if isinstance(one, Created)}
    joined = {(one.originator_id, one.token) for one in events if isinstance(one, Joined)}
    stored = sum(one.items for one in events if isinstance(one, Stored))
    acknowledged = told.created[STEADY] | told.created[RUSH]
    begun = [one for one in events if isinstance(one, Created) and one.policy in (STEADY, RUSH)]
    yield Row(f"{what}: commands sent again, unanswered", told.again, None, None, None, ok=True)
    name = f"{what}: acknowledged sessions in the log (peer: acknowledged)"
    yield exactly(name, len(acknowledged & created), len(acknowledged))
    yield exactly(f"{what}: sessions begun (peer: asked for)", len(begun), len(acknowledged))
    name = f"{what}: acknowledged participants in the log (peer: acknowledged)"
    yield exactly(name, len(told.joined & joined), len(told.joined))
    yield exactly(f"{what}: items stored (peer: acknowledged)", stored, len(told.items))
    name = f"{what}: acknowledged items unreadable, heartbeats that do not count (peer: none)"
    yield exactly(name, unread, 0)
    lives = Lives.of(lapse)
    yield exactly(f"{what}: ends of lives that had ended (peer: none)", lives.again, 0)
    rush = told.created[RUSH]
    name = f"{what}: short sessions that expired and were erased (peer: acknowledged)"
    yield exactly(name, len(rush & lives.expired & lives.erased), len(rush))
    early = sum(
        lives.last_seen[session] < sent
        for (session, _), sent in told.beats.items()
        if session in lives.last_seen
    )
    name = f"{what}: sessions that expired in spite of an acknowledged heartbeat (peer: none)"
    yield exactly(name, early, 0)
    yield exactly(f"{what}: rows about people of no session (peer: none)", _orphans(lapse), 0)
    yield from soundness(what, lapse)


def _orphans(lapse: Lapse) -> int:
    """Rows about people of sessions that are gone, and of subjects that no session has; and bytes
    that are counted but not there, or there and not counted."""
    of_sessions = ("presence", "data_keys", "items", "uploads", "partials")
    assert set(of_sessions) <= set(PEOPLE)
    with lapse.engines.read() as connection:
        rows = sum(
            connection.exec_driver_sql(
                f"SELECT count(*) FROM {table} WHERE session_id NOT IN "
                "(SELECT session_id FROM sessions)"
            ).scalar_one()
            for table in of_sessions
        )
        kept = connection.exec_driver_sql(
            "SELECT (SELECT coalesce(sum(size), 0) FROM items)"
        ).scalar_one()
    return int(rows) + abs(int(kept) - lapse.log.stored_bytes())


def _watched(what: str, watchers: Sequence[Watcher], first: int, head: int) -> Iterator[Row]:
    resumed = sum(watcher.resumed for watcher in watchers)
    yield Row(f"{what}: streams that were resumed", resumed, None, None, None, ok=resumed > 0)
    expected = list(range(first + 1, head + 1))
    holes = sum(len(set(expected) - set(watcher.positions)) for watcher in watchers)
    again = sum(len(one.positions) - len(set(one.positions)) for one in watchers)
    order = sum(one.positions != sorted(one.positions) for one in watchers)
    resets = sum(watcher.resets for watcher in watchers)
    yield exactly(f"{what}: events that a watcher missed (peer: none)", holes, 0)
    name = f"{what}: events that a watcher got again or out of order, resets (peer: none)"
    yield exactly(name, again + order + resets, 0)


@contextmanager
def _opened(url: str, folder: Path) -> Iterator[Lapse]:
    keys = (folder / "keys").as_uri()
    policies = folder / "policies.toml"
    settings = load_settings(database_url=url, key_url=keys, policy_file=policies)
    with open_lapse(settings) as lapse:
        yield lapse


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
