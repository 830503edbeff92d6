"""Live: events and progress as they come, by server-sent events and WebSocket.

Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html. The id of an
event is a cursor: who comes again with `Last-Event-ID` misses nothing and sees nothing twice; a
cursor of another log is answered with `reset` and the earliest position there is.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response, WebSocket
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from adapters.clock import format_instant
from adapters.documents import event_document
from adapters.http.access import Someone, authorize, may_touch, principal_of_socket
from adapters.http.cursors import cursor, position_of
from adapters.http.feed import Feed, Passing, Watcher
from adapters.http.models import ByPolicy, Progress, SessionId
from adapters.http.problems import Refused, answer_to, option_to_extend
from adapters.http.requests import Entry
from adapters.http.service import Service, service_of, the_service
from adapters.http.tokens import Principal
from domain.errors import LapseError
from domain.facts import Pruned
from domain.policy import MINUTE, SECOND, in_force
from domain.ports import Recorded
from domain.session import Scope

router = APIRouter(prefix="/v1", dependencies=[Depends(authorize)])
sockets = APIRouter(prefix="/v1")

Here = Annotated[Service, Depends(the_service)]
_CURSOR = "eyJlIjoiNGY1MyIsInAiOnsiMCI6NDJ9fQ"
LastEvent = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=200,
        description="`id` of the last event that came.",
        examples=[_CURSOR],
    ),
]
Cursor = Annotated[
    str | None,
    Query(
        max_length=200,
        description="Where to begin; by default, with what is new.",
        examples=[_CURSOR],
    ),
]

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {EventSourceResponse.media_type: {}}, "description": "Server-sent events."}
}
_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
WATCH = "/v1/sessions/{session_id}/watch"
KEEP_ALIVE = 15.0
"""Seconds without anything after which a comment keeps proxies from hanging up."""
NOTICE = MINUTE + 5 * SECOND
"""How long before its end those who watch a session are told, if not sooner."""
_PROGRESS = (
    "chunk_received",
    "processing_started",
    "frames_extracted",
    "analysis_progress",
    "analysis_complete",
    "error",
)


@dataclass(frozen=True)
class Message:
    """One thing that is sent. id: the cursor behind it; None for what is only passing."""

    kind: str
    id: str | None
    data: Mapping[str, Any]

    def as_event(self) -> bytes:
        text = orjson.dumps(self.data).decode()
        return bytes(format_sse_event(data_str=text, event=self.kind, id=self.id))

    def as_text(self) -> str:
        return orjson.dumps({"event": self.kind, "id": self.id, "data": self.data}).decode()


KEPT_ALIVE = b": still here\n\n"


# -- one session ------------------------------------------------------------------------------


@router.get(
    "/sessions/{session_id}/watch", response_class=Response, responses=_STREAM, operation_id="watch"
)
async def watch(
    session_id: SessionId,
    request: Request,
    who: Someone,
    here: Here,
    last_event: LastEvent = None,
    after: Cursor = None,
) -> EventSourceResponse:
    """The session's events and progress as they come, `expiring` at least a minute before its end,
    until it is erased. 410 when it is over already."""
    await run_in_threadpool(_must_be_watchable, here, who, session_id)
    begin = await _begin(here, request, last_event or after)
    watcher = _watcher_of(request, session_id)
    return EventSourceResponse(
        _encoded(
            _of_session(here, request, session_id, begin, watcher, who),
            cursor(here.epoch, begin.position),
        ),
        headers=_UNBUFFERED,
    )


@sockets.websocket("/sessions/{session_id}/watch")
async def watch_by_socket(socket: WebSocket, session_id: SessionId, after: Cursor = None) -> None:
    """The same over WebSocket (RFC 6455), and back: `{"seen": true}` is a heartbeat."""
    here = service_of(socket)
    # Accepted first: a refusal before that reaches a browser without its code.
    await socket.accept(subprotocol=_subprotocol(socket))
    try:
        who = principal_of_socket(socket, WATCH)
        await run_in_threadpool(_must_be_watchable, here, who, session_id)
        begin = await _begin(here, socket, after)
    except Refused as error:
        await socket.close(4000 + error.status, error.title)
        return
    except LapseError as error:
        await socket.close(4000 + answer_to(error).status_code, type(error).__name__)
        return
    watcher = _watcher_of(socket, session_id)
    sending = _send_all(socket, _of_session(here, socket, session_id, begin, watcher, who))
    began, at = time.perf_counter(), here.now()
    try:
        await _until_one_ends(socket, sending, _heartbeats(socket, here, who, session_id))
    finally:
        duration = round((time.perf_counter() - began) * SECOND)
        here.requests.record(_entry_of_socket(who, session_id, at, duration))


def _entry_of_socket(who: Principal, session_id: str, at: int, duration: int) -> Entry:
    """A socket is a request that was answered with 101, for as long as it was open."""
    return Entry(
        at, who.actor, str(who.role), "GET", WATCH, 101, duration, session_id, None, "watch"
    )


@router.post(
    "/sessions/{session_id}/progress",
    status_code=202,
    response_class=Response,
    operation_id="progress",
)
def progress(
    session_id: SessionId, body: Progress, who: Someone, here: Here, request: Request
) -> Response:
    """Tell those who watch how far the work is. Kept nowhere: who does not watch misses it."""
    here.guard(who, session_id)
    view = here.lapse.sessions.view(session_id, here.now())
    session = view.session
    if session.expired_at is not None:
        raise here.lapse.sessions.over(session, session.expired_at, here.now())
    policy = in_force(here.versions(session.policy), here.now()).policy
    if body.type not in (*_PROGRESS, *policy.progress):
        raise Refused(
            422,
            "progress-unknown",
            "There is no such kind of progress",
            "use one of the usual six, or declare it in the policy under `progress`",
        )
    note = Passing(body.type, session_id, session.policy, here.now(), body.data)
    try:
        feed_of(request).publish(note)
    except ValueError:
        raise Refused(422, "invalid", "The request is not as described", "too much data") from None
    return Response(status_code=202)


# -- many sessions ----------------------------------------------------------------------------


@router.get("/events/stream", response_class=Response, responses=_STREAM, operation_id="stream")
async def stream(
    request: Request,
    who: Someone,
    here: Here,
    policy: ByPolicy = None,
    last_event: LastEvent = None,
    after: Cursor = None,
) -> EventSourceResponse:
    """The whole log as it grows, or one policy's part of it."""
    if policy is not None:
        may_touch(who, policy)
    begin = await _begin(here, request, last_event or after)
    allowed = {policy} if policy is not None else who.policies

    def wants(recorded: Recorded) -> bool:
        if isinstance(recorded.event, Pruned):
            return False
        return allowed is None or recorded.event.policy in allowed

    def takes(note: Passing) -> bool:
        return allowed is None or note.policy in allowed

    watcher = feed_of(request).watch(wants, takes)
    return EventSourceResponse(
        _encoded(_messages(here, request, begin, watcher, who), cursor(here.epoch, begin.position)),
        headers=_UNBUFFERED,
    )


# -- what is sent -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """Where a stream begins. reset: a cursor was sent that is none of this log."""

    position: int
    reset: bool = False


async def _begin(here: Service, request: Request | WebSocket, text: str | None) -> Begin:
    feed = feed_of(request)
    if text is None:
        return Begin(feed.head)
    try:
        position = position_of(text, here.epoch)
    except Refused:
        return Begin(0, reset=True)
    if position <= feed.head:
        return Begin(position)
    # Another instance may have told of what this one has not read yet. A cursor from the future is
    # one of a log that was cut: there is nothing to go on from.
    head = await run_in_threadpool(here.lapse.log.head)
    return Begin(position) if position <= head else Begin(0, reset=True)


async def _messages(
    here: Service,
    request: Request | WebSocket,
    begin: Begin,
    watcher: Watcher,
    who: Principal,
    patience: Callable[[], float] = lambda: KEEP_ALIVE,
) -> AsyncGenerator[Message | None]:
    """Until the token of who watches expires: they come again with another one."""
    if begin.reset:
        yield Message("reset", cursor(here.epoch, 0), {"earliest": 1})

    def until_something() -> float:
        return min(patience(), max(0.05, (who.expires_at - here.now()) / SECOND))

    following = feed_of(request).follow(watcher, begin.position, until_something)
    async with aclosing(following):
        async for one in following:
            if here.now() >= who.expires_at:
                return
            yield _message(here, one)


def _message(here: Service, one: Recorded | Passing | None) -> Message | None:
    if one is None:
        return None
    if isinstance(one, Passing):
        at = format_instant(one.at)
        return Message(
            one.kind,
            None,
            {"session": one.session_id, "type": one.kind, "at": at, "data": one.data},
        )
    document = event_document(one)
    return Message(document["event"], cursor(here.epoch, one.position), document)


def _watcher_of(connection: Request | WebSocket, session_id: str) -> Watcher:
    return feed_of(connection).watch(
        lambda recorded: recorded.event.originator_id == session_id,
        lambda note: note.session_id == session_id,
        session_id,
    )


async def _of_session(
    here: Service,
    request: Request | WebSocket,
    session_id: str,
    begin: Begin,
    watcher: Watcher,
    who: Principal,
) -> AsyncGenerator[Message | None]:
    """Events of one session until it is erased, and when its end is near."""
    ending = _Ending(here, session_id)
    await run_in_threadpool(ending.look)
    stream = _messages(here, request, begin, watcher, who, ending.patience)
    async with aclosing(stream) as messages:
        if (notice := ending.notice()) is not None:
            yield notice
        async for message in messages:
            if message is not None:
                if message.kind != "expiring" or ending.is_news(message):
                    yield message
                if _is_the_end(message):
                    return
            if message is None or message.id is not None:
                await run_in_threadpool(ending.look)
            if (notice := ending.notice()) is not None:
                yield notice
            elif message is None:
                yield None


def _is_the_end(message: Message) -> bool:
    scope = message.data.get("data", {}).get("scope")
    return message.kind == "erased" and scope == Scope.EVERYTHING


class _Ending:
    """When a session's watchers must be told that its end is near: once per deadline.

    Presence moves the deadline without an event, so it is looked at again when it comes near.
    """

    def __init__(self, here: Service, session_id: str) -> None:
        self._here = here
        self._session_id = session_id
        self._deadline: int | None = None
        self._told: set[int] = set()

    def look(self) -> None:
        try:
            view = self._here.lapse.sessions.view(self._session_id, self._here.now())
        except LapseError:
            self._deadline = None
            return
        alive = view.session.expired_at is None
        self._deadline = (view.forecast.expires_at or view.forecast.erases_at) if alive else None

    def is_news(self, message: Message) -> bool:
        """Whether the policy's own warning is the first one of its deadline."""
        deadline = message.data["data"]["deadline"]
        known = deadline in self._told
        self._told.add(deadline)
        return not known

    def patience(self) -> float:
        """Seconds until something may have to be said."""
        if self._deadline is None or self._deadline in self._told:
            return KEEP_ALIVE
        return min(KEEP_ALIVE, max(0.05, (self._deadline - NOTICE - self._here.now()) / SECOND))

    def notice(self) -> Message | None:
        deadline = self._deadline
        if deadline is None or deadline in self._told or self._here.now() < deadline - NOTICE:
            return None
        self._told.add(deadline)
        data = {
            "session": self._session_id,
            "deadline": format_instant(deadline),
            "options": [option_to_extend(self._session_id)],
        }
        return Message("expiring", None, data)


async def _encoded(messages: AsyncIterator[Message | None], begin: str) -> AsyncIterator[bytes]:
    """begin: the cursor where the stream begins, so that who is cut off before the first event can
    go on from there."""
    yield f"retry: 1000\nid: {begin}\n\n".encode()
    async for message in messages:
        yield KEPT_ALIVE if message is None else message.as_event()


# -- how it is sent ---------------------------------------------------------------------------


def feed_of(connection: Request | WebSocket) -> Feed:
    feed: Feed = connection.app.state.feed
    return feed


def _must_be_watchable(here: Service, who: Principal, session_id: str) -> None:
    """Raises Refused; SessionNotFound, SessionErased, SessionExpired: what is over is not shown."""
    here.guard(who, session_id)
    now = here.now()
    session = here.lapse.sessions.view(session_id, now).session
    if session.expired_at is not None:
        raise here.lapse.sessions.over(session, session.expired_at, now)


def _subprotocol(socket: WebSocket) -> str | None:
    """What a browser offers beside the one that carries its token."""
    return "lapse" if "lapse" in socket.scope.get("subprotocols", ()) else None


async def _send_all(socket: WebSocket, messages: AsyncIterator[Message | None]) -> None:
    async for message in messages:
        if message is not None:
            await socket.send_text(message.as_text())


async def _heartbeats(socket: WebSocket, here: Service, who: Principal, session_id: str) -> None:
    """What the client says: only that somebody is there."""
    while True:
        said = await socket.receive_text()
        if len(said) > 1_000:
            return
        try:
            body = orjson.loads(said)
        except orjson.JSONDecodeError:
            return
        if body != {"seen": True} or who.participant is None:
            return
        await here.heartbeats.beat(session_id, who.participant)


async def _until_one_ends(socket: WebSocket, *parts: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, WebSocketDisconnect):
                raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(RuntimeError, WebSocketDisconnect):  # the other side closed first
            await socket.close()
