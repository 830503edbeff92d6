"""Short texts from one process to all that work on the same database; stored nowhere.

On PostgreSQL by NOTIFY, whose payload may have 8 000 bytes
(https://www.postgresql.org/docs/current/sql-notify.html). On SQLite one process serves, and hears
itself. Who does not listen has missed it.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Any

from adapters.log import postgres
from adapters.log.engine import Engines
from domain.errors import StoreError

LONGEST = 7_000
"""Bytes of one text."""
FIRST_BACK_OFF = 0.05
LONGEST_BACK_OFF = 5.0


class Notices:
    """One channel. take: told every text, from a thread of its own. Close it."""

    def __init__(self, engines: Engines, channel: str, take: Callable[[str], None]) -> None:
        self._engines = engines
        self._channel = channel
        self._take = take
        self._closed = Event()
        self._stop_sender, self._stop_receiver = socket.socketpair()
        self._thread: Thread | None = None
        if engines.dialect == "postgresql":
            self._listening = Event()
            self._thread = Thread(target=self._listen, name=f"notices-{channel}", daemon=True)
            self._thread.start()
            self._listening.wait(LONGEST_BACK_OFF)  # what is said from now on is heard here

    def publish(self, text: str) -> None:
        """Tell everybody. Raises ValueError beyond `LONGEST` bytes, and StoreError."""
        if len(text.encode()) > LONGEST:
            raise ValueError(f"a notice has at most {LONGEST} bytes")
        if self._thread is None:
            self._take(text)
            return
        with self._engines.autocommit() as connection:
            connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (self._channel, text))

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._stop_sender.send(b"x")
            self._thread.join()
        self._stop_sender.close()
        self._stop_receiver.close()

    def _listen(self) -> None:
        """Reconnects for ever: whoever listens must not stay deaf because a server restarted."""
        back_off = FIRST_BACK_OFF
        while not self._closed.is_set():
            connection: Any = None
            try:
                connection = self._engines.detached()
                postgres.hear(
                    connection, self._channel, self._take, self._stop_receiver, self._listening.set
                )
                back_off = FIRST_BACK_OFF
            except (StoreError, *postgres.ConnectionLost):
                self._closed.wait(back_off)
                back_off = min(back_off * 2, LONGEST_BACK_OFF)
            finally:
                if connection is not None:
                    with suppress(*postgres.ConnectionLost):
                        connection.close()
