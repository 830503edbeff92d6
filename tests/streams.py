"""Those who watch a service: server-sent events and WebSocket."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

PATIENCE = 20.0
"""Seconds without a word after which a stream is taken to hang."""


class Events:
    """A stream of server-sent events, read one by one."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.iter_lines()
        self.last_id: str | None = None

    def next(self) -> tuple[str, dict[str, Any]]:
        """The next event: its name and its data."""
        name, data = "", ""
        for line in self._lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = line.removeprefix("data: ")
            elif line.startswith("id: "):
                self.last_id = line.removeprefix("id: ")
            elif not line and name:
                return name, json.loads(data)
        raise EOFError("the stream ended")

    def begin(self) -> str:
        """The cursor where the stream begins."""
        for line in self._lines:
            if line.startswith("id: "):
                return line.removeprefix("id: ")
        raise EOFError("the stream ended")

    def names(self, count: int) -> list[str]:
        return [self.next()[0] for _ in range(count)]


@contextmanager
def watching(
    live: str, path: str, token: str, *, expect: int = 200, **headers: str
) -> Iterator[Events]:
    """A stream that is open: what happens from now on is told."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers["Authorization"] = f"Bearer {token}"
    with httpx2.stream("GET", live + path, headers=headers, timeout=PATIENCE) as response:
        assert response.status_code == expect, response.read()
        yield Events(response)


@contextmanager
def socket(live: str, path: str, token: str) -> Iterator[ClientConnection]:
    """As a browser opens it: the token among the subprotocols."""
    address = live.replace("http://", "ws://") + path
    offered = [Subprotocol("lapse"), Subprotocol(f"bearer.{token}")]
    with connect(address, subprotocols=offered) as connection:
        yield connection
