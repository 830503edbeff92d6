"""Stands between a log and its PostgreSQL, and breaks the connection around a COMMIT.

It reads as much of the protocol as that needs: every message of the client but the first has a type
(1 byte) and its length (4 bytes, itself included); a commit is the simple query `COMMIT`
(PostgreSQL manual, 55.7).
"""

import contextlib
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

# Begins sessions in one statement, which commits by itself: adapters/log/beginnings.py.
BEGINNING = b"EXECUTE lapse_begin "
COMMIT = b"Q" + struct.pack(">I", 4 + len(b"COMMIT\0")) + b"COMMIT\0"


def _commits(message: bytes) -> bool:
    return message == COMMIT or message[5:].startswith(BEGINNING)


class Loss(Enum):
    """What becomes of the next COMMIT. Its author is cut off in any case."""

    ANSWER = auto()  # the server commits, its answer is lost
    REQUEST = auto()  # the server never hears of it
    DELAY = auto()  # the server hears of it when `deliver` is called


class CommitProxy:
    """`with CommitProxy(url) as proxy: engines = open_engines(proxy.url)`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        name = f".s.PGSQL.{query['port'][0]}"
        self._server = str(Path(query["host"][0]) / name)
        self._folder = Path(tempfile.mkdtemp(prefix="lapse-proxy-"))  # a socket's path is short
        self._path = str(self._folder / name)
        host = quote(str(self._folder), "")
        self.url = f"postgresql://{parts.netloc}{parts.path}?host={host}&port={query['port'][0]}"
        self._loss: Loss | None = None
        self._deliver = Event()
        self._threads: list[Thread] = []
        self._sockets: list[socket.socket] = []
        self._unanswered: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deliver.set()
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # the other side may have closed it
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()
        shutil.rmtree(self._folder)

    def lose(self, loss: Loss) -> None:
        """Break the connection of whoever commits next."""
        self._loss = loss

    def deliver(self) -> None:
        """Let the delayed COMMIT reach the server."""
        self._deliver.set()

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._sockets += (client, server)
            self._start(self._answers, server, client)
            self._start(self._requests, client, server)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (received := server.recv(65_536)) and client not in self._unanswered:
                client.sendall(received)
        _cut(client)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), client.makefile("rb") as stream:
            server.sendall(_message(stream.read, kind=b""))
            while True:
                message = _message(stream.read, kind=stream.read(1))
                if _commits(message) and self._loss is not None:
                    loss, self._loss = self._loss, None
                    self._break(loss, message, client, server)
                    return
                server.sendall(message)
        _cut(server)

    def _break(
        self, loss: Loss, message: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        self._unanswered.add(client)
        if loss is Loss.REQUEST:
            _cut(server)
            return
        if loss is Loss.DELAY:
            _cut(client)
            self._deliver.wait()
        server.sendall(message)


def _message(read: Callable[[int], bytes], *, kind: bytes) -> bytes:
    length = read(4)
    if len(length) < 4:
        raise EOFError
    return kind + length + read(struct.unpack(">I", length)[0] - 4)


def _cut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
