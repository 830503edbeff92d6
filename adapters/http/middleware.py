"""What happens around every request: an entry in the log of requests, and its figures.

Plain ASGI, since Starlette's BaseHTTPMiddleware buffers streams.
"""

import time
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.http.metrics import Metrics
from adapters.http.problems import problem
from adapters.http.requests import Entry, RequestLog
from domain.errors import StoreError

TOO_LARGE = "LAPSE_HTTP_BODY says how many bytes are taken"
UNKNOWN = "(unknown)"
"""Stands for a path that is none of ours: it may hold anything."""

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
]


class Recorded:
    """Writes an entry for every request that was answered, and its figures."""

    def __init__(
        self, app: ASGIApp, requests: RequestLog, metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        self.app = app
        self._requests = requests
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        began, at = time.perf_counter(), self._clock()
        too_large: Response | None = None

        async def after_entry(message: Message) -> None:
            """The entry comes before the answer, so that nothing is read in secret."""
            nonlocal too_large
            if message["type"] != "http.response.start":
                if too_large is not None:
                    message = {"type": "http.response.body", "body": too_large.body}
                await send(message)
                return
            if message["status"] == 413:
                # Starlette's own is plain text, unlike every other refusal.
                too_large = problem(413, "too-large", "The body is too large", TOO_LARGE)
                message["headers"] = too_large.raw_headers
            message["headers"] = [*message.get("headers", []), *_HEADERS]
            entry = self._entry(scope, message["status"], at, time.perf_counter() - began)
            if entry is not None:
                try:
                    await self._write(entry)
                except StoreError:
                    if entry.read is not None:
                        raise
            await send(message)

        await self.app(scope, receive, after_entry)

    async def _write(self, entry: Entry) -> None:
        if entry.read is None:
            self._requests.record(entry)
        else:
            await run_in_threadpool(self._requests.record, entry)

    def _entry(self, scope: Scope, status: int, at: int, seconds: float) -> Entry | None:
        route = scope.get("route")
        path = getattr(route, "path", UNKNOWN)
        state = scope["state"]
        self._metrics.observe(scope["method"], path, status, seconds)
        if path.startswith("/health/"):
            return None  # asked every few seconds, by nobody
        who = state.get("principal")
        session = scope.get("path_params", {}).get("session_id") or state.get("session")
        return Entry(
            at=at,
            actor=who.actor if who is not None else None,
            role=str(who.role) if who is not None else None,
            method=scope["method"],
            path=path,
            status=status,
            duration=round(seconds * 1_000_000),
            session=session if isinstance(session, str) and len(session) == 32 else None,
            read=state.get("read") if status < 400 else None,
        )
