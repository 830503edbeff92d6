"""What happens around every request: an entry in the log of requests, its figures, and an answer to
what nobody foresaw.

Plain ASGI, since Starlette's BaseHTTPMiddleware buffers streams.
"""

import re
import time
from collections.abc import Callable, Mapping

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from adapters.http.metrics import Metrics
from adapters.http.problems import MEDIA_TYPE, problem, too_large, unforeseen
from adapters.http.requests import Entry, RequestLog
from domain.errors import StoreError

UNKNOWN = "(unknown)"
"""Stands for a path that is none of ours: it may hold anything."""

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
]
_ID = re.compile("[0-9a-f]{32}")
"""Of a session. Whatever else stands in its place in a path may be anything."""
_SOCKET_FAILED = 1011  # RFC 6455, 7.4.1


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
        answered = False

        async def after_entry(message: Message) -> None:
            """The entry comes before the answer, so that nothing is read in secret."""
            nonlocal answered
            if message["type"] != "http.response.start":
                if not answered:
                    await send(message)
                return
            seconds = time.perf_counter() - began
            # Starlette's own refusal is plain text, unlike every other one.
            plain = message["status"] == 413 and _content_type(message) != MEDIA_TYPE
            instead = too_large() if plain else None
            entry = _entry(scope, message["status"], at, seconds)
            if entry is not None and not await self._is_written(entry):
                instead = problem(503, "store", "The database did not do it", "nothing was read")
            if instead is not None:
                message = _start_of(instead, message)
            self._metrics.observe(scope["method"], _path(scope), message["status"], seconds)
            headers = list(message.get("headers", []))
            given = {name for name, _ in headers}  # a page brings a policy of its own
            message["headers"] = headers + [one for one in _HEADERS if one[0] not in given]
            await send(message)
            if instead is not None:
                answered = True
                await send({"type": "http.response.body", "body": instead.body})

        await self.app(scope, receive, after_entry)

    async def _is_written(self, entry: Entry) -> bool:
        """False if the answer holds personal data and that could not be written down."""
        try:
            if entry.read is None:
                self._requests.record(entry)
            else:
                await run_in_threadpool(self._requests.record, entry)
        except (StoreError, SQLAlchemyError):  # the log of requests has said so
            return entry.read is None
        return True


def _content_type(message: Message) -> str:
    return Headers(raw=message.get("headers", [])).get("content-type", "")


def _start_of(instead: Response, message: Message) -> Message:
    """How another answer begins than the one that was made; a page of another origin may read it
    as it might have read that one."""
    cors = [one for one in message.get("headers", []) if one[0].startswith(b"access-control-")]
    headers = [*instead.raw_headers, *cors]
    return {"type": message["type"], "status": instead.status_code, "headers": headers}


def _path(scope: Scope) -> str:
    """The template, such as `/v1/sessions/{session_id}`."""
    return getattr(scope.get("route"), "path", UNKNOWN)


def _entry(scope: Scope, status: int, at: int, seconds: float) -> Entry | None:
    path, state = _path(scope), scope["state"]
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
        session=session if isinstance(session, str) and _ID.fullmatch(session) else None,
        read=state.get("read") if status < 400 else None,
        operation=_operation(scope, path),
    )


def _operation(scope: Scope, path: str) -> str | None:
    known: Mapping[tuple[str, str], str] = scope["app"].state.operations
    return known.get((scope["method"], path))


class Unforeseen:
    """Answers what no route foresaw. It goes no further: the server would log its traceback, whose
    texts may quote personal data."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def noting(message: Message) -> None:
            nonlocal answered
            answered = answered or message["type"] in ("http.response.start", "websocket.close")
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except WebSocketDisconnect:
            return  # nobody is there any more
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may quote anything
            answer = unforeseen(error)
            if answered:
                return  # the server cuts an answer short that was not finished
            if scope["type"] == "http":
                await answer(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": _SOCKET_FAILED})
