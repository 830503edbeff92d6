"""The two requests that producers send thousands of times a second, on a path of their own.

FastAPI finds out for each request anew what an endpoint's signature wants, behind a dozen layers
that each wrap the next: two thirds of what a creation cost. The endpoints stay ordinary ones: in
the OpenAPI document, with the same models. A request that is plain (JSON that fits its model, of a
known length, without an Idempotency-Key) is handed to its endpoint straight away;
whatever is not plain goes the usual way, so every refusal of a request is the usual one.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.http.access import authorize
from adapters.http.problems import Refused
from adapters.http.service import service_of
from adapters.http.tokens import Principal

_UNUSUAL = frozenset({b"idempotency-key", b"transfer-encoding", b"expect"})
_JSON = b"application/json"

Model = TypeVar("Model", bound=BaseModel)
Body = TypeVar("Body")


@dataclass(frozen=True)
class HotRoute(Generic[Body]):
    """parse: the body, None if it is not plain. endpoint: called with `body`, `request`, `who` and
    `here`."""

    path: str
    parse: Callable[[bytes], Body | None]
    endpoint: Callable[..., Awaitable[Response]]


def parser_of(model: type[Model]) -> Callable[[bytes], Model | None]:
    """Parses what fits a model."""

    def parse(content: bytes) -> Model | None:
        try:
            return model.model_validate_json(content)
        except ValidationError:
            return None

    return parse


class Hot:
    """Answers plain requests to `routes` (all are POST), hands everything else on to `app`.

    fastapi: whose state and exception handlers are used. most: bytes of a body that is plain.
    """

    def __init__(
        self, app: ASGIApp, fastapi: FastAPI, routes: Mapping[str, HotRoute[Any]], most: int
    ) -> None:
        self._app = app
        self._fastapi = fastapi
        self._routes = routes
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST" or not self._is_plain(scope):
            await self._app(scope, receive, send)
            return
        usual = dict(scope)
        scope["app"], scope["route"] = self._fastapi, route
        request = Request(scope, receive)
        try:
            who = await authorize(request)  # before the body is read, and taken apart
        except Refused as refusal:
            await self._refused(request, refusal)(scope, receive, send)
            return
        content = await _content(receive)
        body = route.parse(content) if content is not None else None
        if body is None:
            await self._app(usual, _again(content, receive), send)
            return
        response = await self._answer(route, request, who, body)
        await response(scope, receive, send)

    def _is_plain(self, scope: Scope) -> bool:
        length, is_json = self._most + 1, False
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = int(value) if value.isdigit() and len(value) < 16 else length
            elif name == b"content-type":
                is_json = value == _JSON
            elif name in _UNUSUAL:
                return False
        return is_json and length <= self._most and not scope["query_string"]

    async def _answer(
        self, route: HotRoute[Body], request: Request, who: Principal | None, body: Body
    ) -> Response:
        try:
            return await route.endpoint(
                body=body, request=request, who=who, here=service_of(request)
            )
        except Exception as error:  # noqa: BLE001 - raised again unless a handler knows it
            return self._refused(request, error)

    def _refused(self, request: Request, error: Exception) -> Response:
        for kind in type(error).__mro__:
            if (handler := self._fastapi.exception_handlers.get(kind)) is not None:
                answer: Any = handler(request, error)  # ours are not async
                return answer  # type: ignore[no-any-return]
        raise error


async def _content(receive: Receive) -> bytes | None:
    """The whole body; None if the client has gone. Its length was checked, and the server holds
    clients to it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(content: bytes | None, receive: Receive) -> Receive:
    """The same body for whoever reads next."""
    first: list[Message] = []
    if content is None:
        first = [{"type": "http.disconnect"}]
    else:
        first = [{"type": "http.request", "body": content, "more_body": False}]

    async def read() -> Message:
        return first.pop() if first else await receive()

    return read
