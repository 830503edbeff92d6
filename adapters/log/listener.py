"""A thread that listens on a database connection of its own, for as long as somebody wants it."""

import socket
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread, current_thread
from typing import Any

from adapters.log import postgres
from adapters.log.engine import Engines
from domain.errors import StoreError

FIRST_BACK_OFF = 0.05
LONGEST_BACK_OFF = 5.0

Listen = Callable[[Any, socket.socket], None]
"""(a driver's connection in autocommit mode, a socket): listens until the socket is readable."""


class Listener:
    """Runs `listen` in a daemon thread. Close it."""

    def __init__(self, engines: Engines, name: str, listen: Listen) -> None:
        self._engines = engines
        self._listen = listen
        self._closed = Event()
        self._stop_sender, self._stop_receiver = socket.socketpair()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._stop_sender.send(b"x")
        if self._thread is not current_thread():  # the garbage collector may close us from anywhere
            self._thread.join()
        self._stop_sender.close()
        self._stop_receiver.close()

    def _run(self) -> None:
        """Reconnects for ever: whoever listens must not stay deaf because a server restarted."""
        back_off = FIRST_BACK_OFF
        while not self._closed.is_set():
            connection: Any = None
            try:
                connection = self._engines.detached()
                back_off = FIRST_BACK_OFF
                self._listen(connection, self._stop_receiver)
            except (StoreError, sqlite3.Error, *postgres.ConnectionLost):
                self._closed.wait(back_off)
                back_off = min(back_off * 2, LONGEST_BACK_OFF)
            finally:
                close_quietly(connection)


def close_quietly(connection: Any) -> None:
    """Whatever state it is in. None: there is none."""
    if connection is not None:
        with suppress(sqlite3.Error, *postgres.ConnectionLost):
            connection.close()
