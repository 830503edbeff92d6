"""What is answered while a restored database is told again what it has forgotten: 503 to all but
whether the process lives. It could show people who were erased."""

from collections.abc import Callable

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.http.problems import problem

RETRY_SECONDS = "2"
_LIVE, _READY = "/health/live", "/health/ready"
_AWAY = 1013  # try again later: the registry of RFC 6455, 11.7


class Gate:
    """Lets nobody through while `is_pending`. app: what is behind it; None: it never opens."""

    def __init__(self, app: ASGIApp | None, is_pending: Callable[[], bool]) -> None:
        self._app = app
        self._is_pending = is_pending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is not None and not self._is_pending():
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _answer(scope["path"])(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _AWAY})


def _answer(path: str) -> Response:
    if path == _LIVE:
        return Response(orjson.dumps({"status": "live"}), media_type="application/json")
    if path == _READY:
        checks = {"database": "ok", "restore": "restore-pending"}
        body = orjson.dumps({"status": "not ready", "checks": checks})
        return Response(body, 503, media_type="application/json")
    return problem(
        503,
        "restore-pending",
        "The database was restored",
        "what it has forgotten is being done again; try again",
        headers={"Retry-After": RETRY_SECONDS},
    )
