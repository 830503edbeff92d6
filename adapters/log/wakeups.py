"""Wakes readers when something was committed, in this process and in others.

A wake-up is only a hint: it says "look again", never what happened, and may come for nothing or
not at all. Readers therefore also look on their own once a second (`POLL_SECONDS`).
"""

import secrets
import selectors
import socket
import sqlite3
from collections.abc import Callable
from threading import Condition, Event, Thread
from typing import Any

from adapters.log import postgres
from adapters.log.engine import Engines
from adapters.log.listener import Listener, close_quietly
from domain.errors import StoreError

POLL_SECONDS = 1.0
"""How often a reader looks without being woken."""

NOTIFY_INTERVAL = 0.01
"""Seconds between two NOTIFYs. Each is a small transaction: at 8 000 commits a second, one per
commit would cost more than the commits. The first of a burst goes out at once."""

DATA_VERSION_INTERVAL = 0.05
IDLE_SECONDS = 5.0
"""After this long without a commit the sending thread ends."""


class Wakeups:
    """Connects writers and readers of one channel of one database.

    The sending thread runs while there are commits, the watching thread while somebody listens;
    both are daemons. An owner who forgets `close` leaves nothing behind for long.
    """

    def __init__(self, engines: Engines, channel: str) -> None:
        self._engines = engines
        self._channel = channel
        self._listeners: set[Event] = set()
        self._changed = Condition()
        self._unsent = False
        self._closed = Event()
        self._sender: Thread | None = None
        self._watcher: Listener | None = None
        self._name = secrets.token_hex(8)

    def listen(self, listener: Event) -> None:
        """From now on `listener` is set after every commit, until `unlisten`."""
        with self._changed:
            self._listeners.add(listener)
            if self._watcher is None and not self._closed.is_set():
                self._watcher = Listener(self._engines, f"watch-{self._channel}", self._watch)

    def unlisten(self, listener: Event) -> None:
        with self._changed:
            self._listeners.discard(listener)
            if self._listeners or self._watcher is None:
                return
            watcher, self._watcher = self._watcher, None
        watcher.close()

    def notify(self) -> None:
        """Tell every reader that something was committed. Never waits, never fails."""
        self._wake_all()
        if self._engines.dialect == "sqlite" or self._unsent:
            return
        with self._changed:
            self._unsent = True
            self._changed.notify()
            if self._sender is None and not self._closed.is_set():
                self._sender = Thread(
                    target=self._send, name=f"notify-{self._channel}", daemon=True
                )
                self._sender.start()

    def close(self) -> None:
        """End the threads and wake every listener a last time. May be called twice."""
        self._closed.set()
        with self._changed:
            self._changed.notify()
            sender = self._sender
            watcher, self._watcher = self._watcher, None
        if sender is not None:
            sender.join()
        if watcher is not None:
            watcher.close()
        self._wake_all()

    def _wake_all(self) -> None:
        for listener in tuple(self._listeners):
            listener.set()

    def _watch(self, connection: Any, stop: socket.socket) -> None:
        if self._engines.dialect == "postgresql":
            # Woken at first for what was committed before LISTEN took effect.
            postgres.hear(connection, self._channel, self._hear, stop, self._wake_all)
        else:
            _watch_data_version(connection, self._wake_all, stop)

    def _hear(self, sender: str) -> None:
        """Whoever sent it themselves has been told already: looking twice at each commit cost a
        tenth of a busy service."""
        if sender != self._name:
            self._wake_all()

    def _send(self) -> None:
        """Outside the writers' transactions: a NOTIFY inside takes a lock on the whole database at
        commit, which ends group commit between processes."""
        connection: Any = None
        while self._wait_for_unsent():
            try:
                if connection is None:
                    connection = self._engines.detached()
                postgres.notify(connection, self._channel, self._name)
            except (StoreError, *postgres.ConnectionLost):
                close_quietly(connection)  # the readers' own poll stands in
                connection = None
            self._closed.wait(NOTIFY_INTERVAL)
        close_quietly(connection)

    def _wait_for_unsent(self) -> bool:
        with self._changed:
            while not self._unsent:
                woken = not self._closed.is_set() and self._changed.wait(IDLE_SECONDS)
                if not woken and not self._unsent:
                    self._sender = None
                    return False
            self._unsent = False
            return True


def _watch_data_version(
    connection: sqlite3.Connection, wake: Callable[[], None], stop: socket.socket
) -> None:
    """`PRAGMA data_version` changes when any other connection committed; it reads no page."""
    seen: int | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(stop, selectors.EVENT_READ)
        while not selector.select(DATA_VERSION_INTERVAL if seen is not None else 0):
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != seen:
                seen = version
                wake()
