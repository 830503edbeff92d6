"""Applications that go on whatever happens to the instance they talk to, and those who watch.

A command is sent under one key until somebody acknowledges it: the same one again, to the other
instance when one does not answer.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from adapters.clock import system_clock
from tests.torture._processes import Patience

STEADY, RUSH = "steady", "rush"
"""Policies: sessions that live for the whole run, and those that expire and are erased in it."""

POLICIES = """
[policy.steady]
rules = [
  { since = "last_seen", after = "1h",  do = "expire" },
  { since = "expired",   after = "24h", do = "erase" },
]
[policy.rush]
presence = "1s"
rules = [
  { since = "last_seen", after = "3s", do = "expire" },
  { since = "expired",   after = "3s", do = "erase" },
]
"""
RUSH_LASTS = 3_000_000
"""Microseconds from a heartbeat until a session of `rush` expires."""
TIMEOUT = 10.0
PAUSE = 0.02
"""Seconds between two attempts, and between two commands of one client."""
KNOWN = 30
"""Sessions that a client has in mind."""


@dataclass
class Acknowledged:
    """What clients were told. created: sessions by policy. items: (session, item) -> records.
    beats: (session, participant) -> when the newest heartbeat that counted was sent, microseconds.
    again: attempts that were not answered and sent again.
    """

    created: dict[str, set[str]] = field(default_factory=lambda: {STEADY: set(), RUSH: set()})
    items: dict[tuple[str, str], Any] = field(default_factory=dict)
    joined: set[tuple[str, str]] = field(default_factory=set)
    beats: dict[tuple[str, str], int] = field(default_factory=dict)
    again: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, change: Callable[["Acknowledged"], None]) -> None:
        with self._lock:
            change(self)


class Application:
    """One client, with sessions of its own. urls: of all instances."""

    def __init__(self, urls: Sequence[str], token: str, told: Acknowledged, seed: str) -> None:
        self._urls = list(urls)
        self._told = told
        self._dice = random.Random(seed)
        self._http = httpx2.Client(headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT)
        self._steady: list[tuple[str, str]] = []
        self._rush: list[tuple[str, str]] = []

    def work(self, stop: threading.Event) -> None:
        """Commands at random, until it is told to stop; the last one is acknowledged, too."""
        with self._http:
            while not stop.wait(PAUSE):
                self._dice.choice((self._begin, self._store, self._beat, self._beat))()

    def _begin(self) -> None:
        policy = self._dice.choice((STEADY, RUSH))
        session = self._command("/v1/sessions", {"policy": policy})["id"]
        self._told.note(lambda told: told.created[policy].add(session))
        joined = self._command(f"/v1/sessions/{session}/participants", {"subject": "ann"})
        if joined is None:
            return  # one of `rush` that nobody joined in time
        pair = (session, joined["token"])
        self._told.note(lambda told: told.joined.add(pair))
        known = self._steady if policy == STEADY else self._rush
        known.append(pair)
        del known[:-KNOWN]

    def _store(self) -> None:
        if self._steady:
            session, participant = self._dice.choice(self._steady)
            records = [{"n": self._dice.random()} for _ in range(20)]
            body = {"kind": "figures", "records": records, "participants": [participant]}
            item = self._command(f"/v1/sessions/{session}/items", body)["id"]
            self._told.note(lambda told: told.items.update({(session, item): records}))

    def _beat(self) -> None:
        known = self._dice.choice((self._steady, self._rush))
        if not known:
            return
        session, participant = pair = self._dice.choice(known)
        sent = system_clock()
        answer = self._command(f"/v1/sessions/{session}/seen", {"participant": participant})
        if answer is None:
            known.remove(pair)
            return
        self._told.note(lambda told: told.beats.update({pair: max(sent, told.beats.get(pair, 0))}))

    def _command(self, path: str, body: Any) -> Any:
        """The answer of whoever gives one; None: the session is over."""
        key = f"{self._dice.getrandbits(128):032x}"
        patience = Patience(120)
        while True:
            patience.check()
            try:
                answer = self._http.post(
                    self._urls[0] + path, json=body, headers={"Idempotency-Key": key}
                )
            except httpx2.TransportError:
                answer = None
            if answer is None or answer.status_code >= 500:
                self._told.note(_sent_again)
                self._urls.reverse()
                time.sleep(PAUSE)
            elif answer.status_code == 410:
                return None
            elif answer.is_success:
                return answer.json()
            else:
                raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")


def _sent_again(told: Acknowledged) -> None:
    told.again += 1


class Watcher:
    """Follows the whole log by server-sent events; goes on at another instance, behind the last
    event it had, when a stream breaks. positions: of what it got, in order."""

    def __init__(self, urls: Sequence[str], token: str, begin: str) -> None:
        self._urls = list(urls)
        self._token = token
        self._last = begin
        self._open: httpx2.Response | None = None
        self.positions: list[int] = []
        self.resumed = 0
        self.resets = 0

    def work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._follow(stop)
            except httpx2.TransportError:
                time.sleep(PAUSE)
            self._urls.reverse()
            self.resumed += not stop.is_set()

    def _follow(self, stop: threading.Event) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Last-Event-ID": self._last}
        url = self._urls[0] + "/v1/events/stream"
        # Comments come every 15 s, so that a stream that says nothing for longer is broken.
        with httpx2.stream("GET", url, headers=headers, timeout=20.0) as response:
            if response.status_code >= 500:
                return
            response.raise_for_status()
            event: dict[str, str] = {}
            for line in response.iter_lines():
                if stop.is_set():
                    return
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                else:
                    self._take(event)
                    event = {}

    def _take(self, event: Mapping[str, str]) -> None:
        """An id alone says where the stream begins."""
        self._last = event.get("id", self._last)
        if event.get("event") == "reset":
            self.resets += 1
        elif "id" in event and "data" in event:
            self.positions.append(json.loads(event["data"])["position"])
