"""Short texts from one process to all that work on the same database; stored nowhere.

On PostgreSQL by NOTIFY, whose payload may have 8 000 bytes
(https://www.postgresql.org/docs/current/sql-notify.html). On SQLite one process serves, and hears
itself. Who does not listen has missed it.
"""

import socket
from collections.abc import Callable
from threading import Event
from typing import Any

from adapters.log import postgres
from adapters.log.engine import Engines
from adapters.log.listener import Listener

LONGEST = 7_950
"""Bytes of one text."""
LISTENING_SECONDS = 5.0
"""How long to wait for the database to listen: what is said from then on is heard."""


class Notices:
    """One channel. take: told every text, from a thread of its own. Close it."""

    def __init__(self, engines: Engines, channel: str, take: Callable[[str], None]) -> None:
        self._engines = engines
        self._channel = channel
        self._take = take
        self._listener: Listener | None = None
        if engines.dialect == "postgresql":
            self._listening = Event()
            self._listener = Listener(engines, f"notices-{channel}", self._listen)
            self._listening.wait(LISTENING_SECONDS)

    def publish(self, text: str) -> None:
        """Tell everybody. Raises ValueError beyond `LONGEST` bytes, and StoreError."""
        if len(text.encode()) > LONGEST:
            raise ValueError(f"a notice has at most {LONGEST} bytes")
        if self._listener is None:
            self._take(text)
            return
        with self._engines.autocommit() as connection:
            connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (self._channel, text))

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _listen(self, connection: Any, stop: socket.socket) -> None:
        postgres.hear(connection, self._channel, self._take, stop, self._listening.set)
