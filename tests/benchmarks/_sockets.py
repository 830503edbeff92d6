"""WebSocket and server-sent events by hand, so that a thousand clients cost little beside the
service they measure. RFC 6455 and the event-stream format, no more than Lapse speaks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from tests.benchmarks._service import Served

_UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_GET = "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
_POST = (
    "POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)
_CLOSE = 0x8
_KEY_OF_ZEROS = bytes(4)
"""Clients must mask what they send; with this key the bytes stay as they are."""


@dataclass(frozen=True)
class Connection:
    """One connection to the service."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str

    async def head(self) -> int:
        """The status of an answer, read up to its body."""
        status = await self.reader.readline()
        while await self.reader.readline() not in (b"\r\n", b""):
            pass
        return int(status.split()[1])

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def connect(served: Served) -> Connection:
    reader, writer = await asyncio.open_connection(served.host, served.port)
    return Connection(reader, writer, served.host)


# -- WebSocket --------------------------------------------------------------------------------


async def upgraded(served: Served, path: str, token: str) -> Connection:
    """A WebSocket. Raises ConnectionError."""
    one = await connect(served)
    one.writer.write(_UPGRADE.format(path=path, host=one.host, token=token).encode())
    if await one.head() != 101:
        raise ConnectionError(f"no WebSocket at {path}")
    return one


def frame(text: bytes) -> bytes:
    """A text of at most 125 bytes, as a client sends it."""
    return bytes((0x81, 0x80 | len(text))) + _KEY_OF_ZEROS + text


async def until_closed(one: Connection) -> None:
    """Read and forget what the service says until it closes."""
    while True:
        try:
            first, length = await one.reader.readexactly(2)
            if length == 126:
                length = int.from_bytes(await one.reader.readexactly(2))
            await one.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            break
        if first & 0xF == _CLOSE:
            break
    await one.close()


# -- HTTP -------------------------------------------------------------------------------------


async def followed(served: Served, path: str, token: str) -> Connection:
    """A stream of server-sent events, to be read with `lines`. Raises ConnectionError."""
    one = await connect(served)
    one.writer.write(_GET.format(path=path, host=one.host, token=token).encode())
    if await one.head() != 200:
        raise ConnectionError(f"no stream at {path}")
    return one


async def lines(one: Connection) -> AsyncIterator[bytes]:
    """The `data` of each event, until the connection ends."""
    while line := await one.reader.readline():
        if line.startswith(b"data: "):
            yield line[6:]


async def post(one: Connection, path: str, token: str, body: bytes) -> tuple[int, bytes]:
    """The answer's status and body, over a connection that stays open."""
    head = _POST.format(path=path, host=one.host, token=token, length=len(body))
    one.writer.write(head.encode() + body)
    status, length = int((await one.reader.readline()).split()[1]), 0
    while (line := await one.reader.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, await one.reader.readexactly(length)
