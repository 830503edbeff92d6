"""People who join shared rooms and store there, some of whom are erased by request meanwhile, while
instances are killed. What was acknowledged is compared with what is left."""

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from adapters.http.opening import open_tokens
from adapters.http.tokens import Role
from adapters.restoring import State
from adapters.settings import load_settings
from adapters.vault.scan import SqlScanner
from adapters.wiring import Lapse, open_lapse
from domain.erasure import Reach
from domain.ledger import Kind
from domain.policy import HOUR
from tests.acceptance import databases
from tests.benchmarks._command import say
from tests.benchmarks._ours import database_of
from tests.benchmarks._report import Row, exactly
from tests.servers import PostgresServer, wait_until
from tests.torture._evidence import soundness
from tests.torture._http_scale import HttpScale
from tests.torture._instances import DOWN, LONGEST, SHORTEST, Pair
from tests.torture._processes import Patience
from tests.torture._traffic import PAUSE, TIMEOUT

SEED = 20261123
CANARY = "canary-7f3d1c"
"""What the name of everybody here begins with: sealed, it stands nowhere."""
POLICIES = """
[policy.room]
shared = "redact"
rules = [
  { since = "created", after = "1h",  do = "expire" },
  { since = "expired", after = "24h", do = "erase" },
]
"""
KNOWN = 12
"""Rooms that people go to at a time, whoever opened them."""
STAYING = 0.5
"""The share of people who are not erased."""
GONE = 410
EXECUTED = 120.0
"""Seconds in which the last requests are carried out."""


@dataclass(eq=False)
class Person:
    """stays: is not erased. tokens: room -> theirs."""

    name: str
    stays: bool
    tokens: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """What was stored. records: by the token of whom each is about."""

    room: str
    id: str
    records: Mapping[str, Mapping[str, Any]]


@dataclass
class Told:
    """What was acknowledged. open: rooms to which people go. asked: (request, person). again:
    attempts that were not answered."""

    rooms: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    asked: list[tuple[str, Person]] = field(default_factory=list)
    again: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def erased(self) -> set[Person]:
        return {person for _, person in self.asked}


class Caller:
    """Sends a command under one key until somebody acknowledges it; None: the room is gone."""

    def __init__(self, urls: Sequence[str], token: str, told: Told, seed: str) -> None:
        self._urls = list(urls)
        self._told = told
        self.dice = random.Random(seed)
        self._http = httpx2.Client(headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT)

    def command(self, path: str, body: Any) -> Any:
        headers = {"Idempotency-Key": f"{self.dice.getrandbits(128):032x}"}
        patience = Patience(120)
        while True:
            patience.check()
            try:
                answer = self._http.post(self._urls[0] + path, json=body, headers=headers)
            except httpx2.TransportError:
                answer = None
            if answer is not None and answer.is_success:
                return answer.json()
            if answer is not None and answer.status_code == GONE:
                return None
            if answer is not None and answer.status_code < 500:
                raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")
            with self._told.lock:
                self._told.again += 1
            self._urls.reverse()
            time.sleep(PAUSE)

    def close(self) -> None:
        self._http.close()


def live(caller: Caller, told: Told, number: int, stop: threading.Event) -> None:
    """One person after the other comes, goes into a few rooms, and stores there: about themselves,
    and about them and somebody who stays."""
    met: Person | None = None
    count = 0
    while not stop.wait(PAUSE):
        stays = caller.dice.random() < STAYING
        person = Person(f"{CANARY}-{number}-{count}@example.org", stays)
        count += 1
        for room in _rooms(caller, told):
            body = {"subject": person.name, "name": person.name}
            joined = caller.command(f"/v1/sessions/{room}/participants", body)
            if joined is None:
                _avoid(told, room)
                continue
            person.tokens[room] = joined["token"]
            tokens = [joined["token"]]
            _store(caller, told, room, tokens)
            if met is not None and room in met.tokens:
                _store(caller, told, room, [*tokens, met.tokens[room]])
        # Only now others may know of them: who is to be erased is not joining any more.
        with told.lock:
            told.people.append(person)
        met = person if stays else met


def _rooms(caller: Caller, told: Told) -> list[str]:
    if len(told.open) < KNOWN or caller.dice.random() < 0.1:
        room = caller.command("/v1/sessions", {"policy": "room"})["id"]
        with told.lock:
            told.rooms.append(room)
            told.open.append(room)
    with told.lock:
        known = told.open[-KNOWN:]
    return caller.dice.sample(known, min(3, len(known)))


def _avoid(told: Told, room: str) -> None:
    """It went whole: nobody but the erased had ever been there."""
    with told.lock:
        if room in told.open:
            told.open.remove(room)


def _store(caller: Caller, told: Told, room: str, tokens: list[str]) -> None:
    records = {token: {"participant": token, "x": caller.dice.random()} for token in tokens}
    body = {"kind": "figures", "records": list(records.values()), "participants": tokens}
    item = caller.command(f"/v1/sessions/{room}/items", body)["id"]
    with told.lock:
        told.items.append(Item(room, item, records))


def erase(caller: Caller, told: Told, stop: threading.Event) -> None:
    """Who came and does not stay asks to be erased."""
    looked_at = 0
    while not stop.wait(PAUSE):
        with told.lock:
            coming = told.people[looked_at:]
        looked_at += len(coming)
        for person in coming:
            if not person.stays:
                body = {"subject": person.name, "verified_by": "controller"}
                request = caller.command("/v1/erasure-requests", body)["request_id"]
                with told.lock:
                    told.asked.append((request, person))


def requests(scale: HttpScale, server: PostgresServer) -> Iterator[Row]:
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
            officer = tokens.mint(Role.PRIVACY, HOUR, "torture")
        pair, told = Pair(server, url, folder), Told()
        try:
            for number in (0, 1):
                pair.start(number)
            with _running(scale, pair, producer, officer, told):
                _kill_in_turns(scale, pair)
            _await_execution(pair.urls, officer, told)
            lost = _lost(pair.urls[0], producer, told)
        finally:
            pair.close()
        with _opened(url, folder) as lapse:
            yield from _evidence(what, lapse, url, told, lost)


@contextmanager
def _running(
    scale: HttpScale, pair: Pair, producer: str, officer: str, told: Told
) -> Iterator[None]:
    stop = threading.Event()
    work: list[tuple[str, Callable[[Caller], None]]] = [
        (producer, partial(live, told=told, number=number, stop=stop))
        for number in range(scale.clients)
    ]
    work.append((officer, partial(erase, told=told, stop=stop)))
    with ThreadPoolExecutor(len(work)) as pool:
        futures: list[Future[None]] = []
        for number, (token, act) in enumerate(work):
            urls = pair.urls[:: 1 if number % 2 else -1]
            futures.append(pool.submit(_act, Caller(urls, token, told, f"{SEED}/{number}"), act))
        try:
            yield
        finally:
            stop.set()
    for future in futures:
        future.result()


def _act(caller: Caller, act: Callable[[Caller], None]) -> None:
    try:
        act(caller)
    finally:
        caller.close()


def _kill_in_turns(scale: HttpScale, pair: Pair) -> None:
    dice = random.Random(SEED)
    for moment in range(scale.kills):
        time.sleep(dice.uniform(SHORTEST, LONGEST))
        pair.kill(moment % 2)
        time.sleep(dice.uniform(0, DOWN))
        pair.start(moment % 2)


def _await_execution(urls: Sequence[str], token: str, told: Told) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=urls[0], headers=headers, timeout=30.0) as http:

        def none_is_open() -> bool:
            answer = http.get("/v1/erasure-requests", params={"status": "requested"})
            return answer.is_success and not answer.json()["requests"]

        wait_until(none_is_open, EXECUTED, "the last requests")


# -- what is left -------------------------------------------------------------------------------


@dataclass
class Lost:
    """items: of those who stay, that cannot be read as they were stored. people: of those who stay,
    that are not where they were. there: of those who were erased, that are."""

    items: int = 0
    people: int = 0
    there: int = 0


def _lost(url: str, token: str, told: Told) -> Lost:
    """What an application finds."""
    lost = Lost()
    gone = {token for person in told.erased() for token in person.tokens.values()}
    staying = [person for person in told.people if person not in told.erased()]
    with httpx2.Client(
        base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0
    ) as http:
        for item in told.items:
            left = [record for token, record in item.records.items() if token not in gone]
            answer = http.get(f"/v1/sessions/{item.room}/items/{item.id}")
            if left:
                lost.items += not answer.is_success or answer.json()["records"] != left
            else:
                lost.there += answer.is_success
        for room in told.rooms:
            found = _names(http, room)
            wanted = {person.name for person in staying if room in person.tokens}
            lost.people += len(wanted - found)
            lost.there += len(found & {person.name for person in told.erased()})
    return lost


def _names(http: httpx2.Client, room: str) -> set[str]:
    """Of everybody in it; nobody is in a room that is gone."""
    found: set[str] = set()
    after = None
    while True:
        params = {"limit": 1000} if after is None else {"limit": 1000, "after": after}
        answer = http.get(f"/v1/sessions/{room}/participants", params=params)
        if answer.status_code in (404, 410):
            return found
        page = answer.raise_for_status().json()
        found |= {one["name"] for one in page["participants"]}
        after = page.get("next")
        if after is None:
            return found


def _evidence(what: str, lapse: Lapse, url: str, told: Told, lost: Lost) -> Iterator[Row]:
    erased = told.erased()
    people = f"{len(told.people)} people, {len(told.items)} items"
    yield Row(f"{what}: commands sent again; {people}", told.again, None, None, None, ok=True)
    executed = sum(
        lapse.requests.find(request).request.executed_at is not None for request, _ in told.asked
    )
    yield exactly(f"{what}: requests carried out (peer: acknowledged)", executed, len(told.asked))
    name = f"{what}: names and items of the erased that are answered (peer: none)"
    yield exactly(name, lost.there, 0)
    yield exactly(f"{what}: rows of the erased (peer: none)", _rows(lapse, url, erased), 0)
    scanned = _scan(lapse, erased)
    yield exactly(f"{what}: stores in which a scan finds the erased (peer: none)", scanned, 0)
    name = f"{what}: files of the database with a name in clear (peer: none)"
    yield exactly(name, _files_with_names(url), 0)
    name = f"{what}: items and names of others that are lost (peer: none)"
    yield exactly(name, lost.items + lost.people, 0)
    yield from _ledger(what, lapse)
    lapse.checkpoints.make(lapse.clock())
    verdict = lapse.verifier().verify()
    for finding in verdict.findings[:10]:
        say(f"  {finding}")
    yield exactly(f"{what}: findings of `audit verify` (peer: none)", len(verdict.findings), 0)
    yield from soundness(what, lapse)


def _rows(lapse: Lapse, url: str, erased: set[Person]) -> int:
    """In which a token of theirs stands, the log and its audit trail left out: they keep tokens,
    which nothing can resolve; and their entries in the index of people."""
    tokens = {token for person in erased for token in person.tokens.values()}
    found = 0
    for table, rows in databases.contents(url).items():
        if table not in ("events", "audit"):
            left = sum(not tokens.isdisjoint(map(str, row)) for row in rows)
            if left:
                say(f"  {table}: {left}")
            found += left
    lookups = [lapse.keyring.lookup("subject", person.name) for person in erased]
    return found + len(lapse.vault.subjects(lookups))


def _scan(lapse: Lapse, erased: set[Person]) -> int:
    parts = tuple((room, token) for one in erased for room, token in one.tokens.items())
    result = SqlScanner(lapse.engines, lapse.keyring.kept).scan(Reach(parts=parts))
    for problem in result.problems[:10]:
        say(f"  {problem}")
    return len({problem.store for problem in result.problems})


def _files_with_names(url: str) -> int:
    files = (path for path in databases.folder_of(url).rglob("*") if path.is_file())
    return sum(CANARY.encode() in path.read_bytes() for path in files)


def _ledger(what: str, lapse: Lapse) -> Iterator[Row]:
    """The database contains all of it, and each session and part was erased once."""
    standing = lapse.restoring.look()
    current = int(standing.state is State.CURRENT)
    yield exactly(f"{what}: database stands to the ledger as one in use", current, 1)
    deeds = [
        (one.kind, one.fields["session"], str(one.fields.get("tokens")))
        for one in lapse.restoring._ledger.ledger.read(0)
        if one.kind in (Kind.ERASED, Kind.REDACTED)
    ]
    again = len(deeds) - len(set(deeds))
    yield Row(f"{what}: erasures in the ledger", len(deeds), None, None, None, ok=bool(deeds))
    yield exactly(f"{what}: erasures that the ledger has twice (peer: none)", again, 0)


@contextmanager
def _opened(url: str, folder: Path) -> Iterator[Lapse]:
    keys, policies = (folder / "keys").as_uri(), folder / "policies.toml"
    with open_lapse(load_settings(database_url=url, key_url=keys, policy_file=policies)) as lapse:
        yield lapse
