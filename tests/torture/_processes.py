"""Processes that work on a database and tell what was acknowledged, until they are killed."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Concatenate, ParamSpec

# A server without threads forks them, so that each starts in milliseconds with all its modules and
# inherits no lock and no connection of this process.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.torture._load", "tests.torture._tail"])

SILENCE = 120.0
"""Seconds after which a process that says nothing counts as stuck."""
LONGEST = 1_800.0
"""Seconds after which processes that are waited for count as stuck, whatever they say."""

P = ParamSpec("P")


class Outbox:
    """Where a process says what it did. Any of its threads may.

    Each message is one write to a pipe, so a process that is killed leaves no half of one.
    """

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe
        self._lock = Lock()

    def put(self, message: Any) -> None:
        with self._lock:
            self._pipe.send(message)


class Child:
    """A process that runs `work(outbox, ...)`. It ends by itself, by `kill`, or with this one."""

    def __init__(
        self,
        work: Callable[Concatenate[Outbox, P], None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        self._inbox, pipe = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(work, pipe, args, kwargs), daemon=True)
        self._process.start()
        pipe.close()

    @property
    def exit_code(self) -> int | None:
        """Negative: the signal that ended it. None: it runs."""
        return self._process.exitcode

    def first(self) -> Any:
        """The next message. Raises EOFError if the process ended, TimeoutError if it is stuck."""
        if not self._inbox.poll(SILENCE):
            raise TimeoutError(f"a process said nothing for {SILENCE} s")
        return self._inbox.recv()

    def messages(self, seconds: float) -> Iterator[Any]:
        """What it says within so many seconds, or until it ends."""
        until = time.monotonic() + seconds
        while self._inbox.poll(max(0.0, until - time.monotonic())):
            try:
                yield self._inbox.recv()
            except EOFError:
                return

    def rest(self) -> Iterator[Any]:
        """What it says until it ends. Raises TimeoutError if it is stuck."""
        while True:
            try:
                yield self.first()
            except EOFError:
                self._process.join(SILENCE)
                return

    def kill(self) -> Iterator[Any]:
        """`kill -9`; what it had said by then."""
        self._process.kill()
        return self.rest()

    def close(self) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._inbox.close()


@contextmanager
def running(*children: Child) -> Iterator[tuple[Child, ...]]:
    """None of them outlives the block."""
    try:
        yield children
    finally:
        for child in children:
            child.close()


class Patience:
    """Ends a wait that would otherwise have no end."""

    def __init__(self, seconds: float = LONGEST) -> None:
        self._until = time.monotonic() + seconds

    def check(self) -> None:
        """Raises TimeoutError when it has come to its end."""
        if time.monotonic() > self._until:
            raise TimeoutError("the processes do not come to an end")


def gate(parties: int) -> Any:
    """A barrier for so many processes."""
    return _CONTEXT.Barrier(parties)


def _run(
    work: Callable[..., None],
    pipe: "Connection[Any, Any]",
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    os.dup2(2, 1)  # standard output belongs to the report
    work(Outbox(pipe), *args, **kwargs)
