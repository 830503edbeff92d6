"""The newest events of the log for everybody in this process who watches, and what is only passing.

One thread reads the log, however many watch; a watcher who is behind the events kept here reads the
log itself, so nobody misses or sees twice what is committed. Progress is never stored: who is not
watching has missed it. It passes through the database sealed, since a server that logs statements,
or a queue that it writes to its disk, would keep it.
"""

import asyncio
import threading
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from weakref import WeakSet

import orjson
import structlog
from starlette.concurrency import run_in_threadpool

from adapters.keyring.aead import seal, unseal
from adapters.log.engine import Engines
from adapters.log.event_log import SqlLog
from adapters.log.notices import Notices
from adapters.log.wakeups import POLL_SECONDS
from adapters.logs import Failures
from domain.errors import LapseError, SealBroken
from domain.ports import Recorded

_log = structlog.get_logger(component="feed")

CHANNEL = "lapse_progress"
_PLACE = b"lapse/progress/v1"
KEPT = 20_000
"""Events kept in memory for those who watch."""
PAGE = 500
"""Events one look at the log takes."""
MOST_PASSING = 100
"""Progress notes that may wait for one watcher; older ones are dropped."""


@dataclass(frozen=True)
class Passing:
    """Something that happens and is not stored: a note of progress. at: microseconds."""

    kind: str
    session_id: str
    policy: str
    at: int
    data: Mapping[str, Any]

    def to_text(self) -> str:
        return orjson.dumps(vars(self)).decode()

    @staticmethod
    def from_text(text: str) -> "Passing":
        return Passing(**orjson.loads(text))


@dataclass(eq=False)
class Watcher:
    """Who watches what. wants: asked for every event; takes: for every passing note.

    session: the only one whose events it wants (None: of several). position: up to where it has
    seen the log; whoever reads the log moves it over what it does not want, so that it sleeps on.
    """

    wants: Callable[[Recorded], bool]
    takes: Callable[[Passing], bool]
    loop: asyncio.AbstractEventLoop
    session: str | None = None
    position: int = -1
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    passing: deque[Passing] = field(default_factory=lambda: deque(maxlen=MOST_PASSING))


class Feed:
    """Start it with `with`; `follow` it from any event loop."""

    def __init__(self, log: SqlLog, engines: Engines, key: bytes) -> None:
        """key: 32 bytes that all instances share. The database, its files and its log see notes
        sealed only."""
        self._key = key
        self._log = log
        self._engines = engines
        self._notices: Notices | None = None
        self._newest: deque[Recorded] = deque(maxlen=KEPT)
        self._head = 0
        self._lock = threading.Lock()
        self._watchers: WeakSet[Watcher] = WeakSet()
        self._woken = threading.Event()
        self._closed = False
        self._failures = Failures(_log, "feed", operation="read")
        self._thread = threading.Thread(target=self._read, name="lapse-feed", daemon=True)

    def __enter__(self) -> "Feed":
        self._head = self._log.head()
        self._log.wakeups.listen(self._woken)
        self._notices = Notices(self._engines, CHANNEL, self._hear)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self._notices is not None:
            self._notices.close()
        self._thread.join()
        self._log.wakeups.unlisten(self._woken)

    def end(self) -> None:
        """Ends every stream after what is known was sent."""
        self._closed = True
        self._woken.set()
        self._wake_all()

    @property
    def head(self) -> int:
        """The newest position known here."""
        return self._head

    def publish(self, note: Passing) -> None:
        """Tell everybody who watches now, at every instance. Raises ValueError if it is too long,
        and StoreError."""
        if self._notices is not None:
            sealed = seal(self._key, note.to_text().encode(), _PLACE)
            self._notices.publish(b64encode(sealed).decode())

    def _hear(self, text: str) -> None:
        try:
            note = Passing.from_text(unseal(self._key, b64decode(text), _PLACE).decode())
        except (ValueError, TypeError, SealBroken):
            _log.error("feed", operation="hear", result="not a note")  # of another version
            return
        with self._lock:
            watchers = [watcher for watcher in self._watchers if watcher.takes(note)]
        for watcher in watchers:
            watcher.passing.append(note)
            _wake(watcher)

    def watch(
        self,
        wants: Callable[[Recorded], bool],
        takes: Callable[[Passing], bool],
        session: str | None = None,
    ) -> Watcher:
        """From now on notes wait for this watcher; it is forgotten when nobody refers to it.

        session: if `wants` wants only events of this one.
        """
        watcher = Watcher(wants, takes, asyncio.get_running_loop(), session)
        with self._lock:
            self._watchers.add(watcher)
        return watcher

    async def follow(
        self, watcher: Watcher, after: int, patience: Callable[[], float]
    ) -> AsyncGenerator[Recorded | Passing | None]:
        """Events behind `after` and notes as they come; None whenever `patience` seconds passed
        without any. Ends when the feed is closed."""
        watcher.position = after
        while True:
            watcher.woken.clear()
            closed = self._closed
            found = self._newer(watcher)
            if found is None or (closed and not found):
                # When it ended, the reader may not have come to the last commits.
                found = await run_in_threadpool(self._log.read, watcher.position, PAGE)
            for one in found:
                watcher.position = one.position
                if watcher.wants(one):
                    yield one
            while watcher.passing:
                yield watcher.passing.popleft()
            if found:
                continue
            if closed:
                return
            try:
                async with asyncio.timeout(max(0.0, patience())):
                    await watcher.woken.wait()
            except TimeoutError:
                yield None

    def _newer(self, watcher: Watcher) -> Sequence[Recorded] | None:
        """What is kept and not seen yet; None if some of it is not kept any more."""
        with self._lock:
            missing = self._head - watcher.position
            if missing <= 0:
                return []
            if missing > len(self._newest):
                return None
            start = len(self._newest) - missing
            return list(islice(self._newest, start, start + PAGE))

    def _read(self) -> None:
        while not self._closed:
            self._woken.wait(POLL_SECONDS)
            self._woken.clear()
            try:
                while page := self._log.read(self._head, PAGE):
                    for watcher in self._take(page):
                        _wake(watcher)
            except LapseError as error:
                # The streams stay open: the database may be back in a moment.
                self._failures.failed(result=type(error).__name__)
            else:
                self._failures.worked()

    def _take(self, page: Sequence[Recorded]) -> Sequence[Watcher]:
        """Keep these events; who must wake for them. With 200 watchers, and 200 commits a second of
        which each concerns one, waking all took all of a core."""
        sessions = {one.event.originator_id for one in page}
        concerned = []
        with self._lock:
            before, self._head = self._head, page[-1].position
            self._newest.extend(page)
            for watcher in self._watchers:
                if watcher.position != before or _wants_some(watcher, page, sessions):
                    concerned.append(watcher)
                else:
                    watcher.position = self._head
        return concerned

    def _wake_all(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            _wake(watcher)


def _wants_some(watcher: Watcher, page: Sequence[Recorded], sessions: set[str]) -> bool:
    if watcher.session is not None:
        return watcher.session in sessions
    return any(map(watcher.wants, page))


def _wake(watcher: Watcher) -> None:
    if not watcher.loop.is_closed():
        watcher.loop.call_soon_threadsafe(watcher.woken.set)
