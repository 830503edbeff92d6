"""Heartbeats that come one by one, written together: at most one transaction per 100 ms."""

import asyncio
import re
import threading
from collections.abc import Callable, Mapping

import orjson
import structlog

from adapters.http.models import MOST_HEARTBEATS
from adapters.logs import Failures
from domain.errors import LapseError

_log = structlog.get_logger(component="heartbeats")

FLUSH_SECONDS = 0.1
"""How long a heartbeat may wait for others."""
MOST = 10_000
"""Heartbeats of one transaction; beyond it the next one begins at once."""

_HEX = re.compile(r"[0-9a-f]*")


def plain_batch(content: bytes) -> list[tuple[str, str]] | None:
    """(session, participant) of each heartbeat of a batch; None unless it is one of heartbeats that
    happen now and are as described. Half the time that the models take, which say what is wrong and
    take everything else."""
    try:
        body = orjson.loads(content)
        seen = body["seen"]
        pairs = [(one["session"], one["participant"]) for one in seen]
        texts = [text for pair in pairs for text in pair]
        plain = (
            len(body) == 1
            and type(seen) is list
            and len(seen) <= MOST_HEARTBEATS
            and all(map(_has_both_fields, seen))
            and set(map(len, texts)) <= {32}
            and _HEX.fullmatch("".join(texts)) is not None
        )
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
    return pairs if plain else None


def _has_both_fields(one: Mapping[str, object]) -> bool:
    return len(one) == 2


Write = Callable[[Mapping[tuple[str, str], int]], set[tuple[str, str]]]
"""Writes heartbeats, (session, token) -> when; answers with those that counted."""


class Heartbeats:
    """Collects heartbeats of many connections. Close it to write what waits.

    write: called from one thread. clock: microseconds.
    """

    def __init__(self, write: Write, clock: Callable[[], int]) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], int] = {}
        self._answers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[bool], tuple[str, str]]]
        self._answers = []
        self._failures = Failures(_log, "heartbeats", operation="write")
        self._work = threading.Event()
        self._full = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lapse-heartbeats", daemon=True)
        self._thread.start()

    async def beat(self, session_id: str, token: str) -> bool:
        """Whether the heartbeat counted; answered once it is committed. Raises StoreError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        pair = (session_id, token)
        with self._lock:
            self._waiting[pair] = self._clock()
            self._answers.append((loop, future, pair))
            full = len(self._waiting) >= MOST
        self._work.set()
        if full:
            self._full.set()
        return await future

    def close(self) -> None:
        self._closed.set()
        self._work.set()
        self._full.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._work.wait()
            if not self._closed.is_set():
                self._full.wait(FLUSH_SECONDS)
            self._full.clear()
            with self._lock:
                waiting, self._waiting = self._waiting, {}
                answers, self._answers = self._answers, []
                self._work.clear()
            if waiting:
                self._flush(waiting, answers)
            if self._closed.is_set():
                return

    def _flush(
        self,
        waiting: Mapping[tuple[str, str], int],
        answers: list[tuple[asyncio.AbstractEventLoop, "asyncio.Future[bool]", tuple[str, str]]],
    ) -> None:
        failure: LapseError | None = None
        counted: set[tuple[str, str]] = set()
        try:
            counted = self._write(waiting)
        except LapseError as error:
            failure = error
            self._failures.failed(result=type(error).__name__)
        else:
            self._failures.worked()
        for loop, future, pair in answers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_answer, future, pair in counted, failure)


def _answer(future: "asyncio.Future[bool]", counted: bool, failure: LapseError | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(counted)
