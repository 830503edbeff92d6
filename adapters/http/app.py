"""The HTTP application: routes, refusals, and what happens around every request."""

from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from adapters.http import (
    access_requests,
    auditing,
    certificates,
    erasures,
    events,
    items,
    operations,
    pages,
    policies,
    problems,
    proof,
    sessions,
    watching,
)
from adapters.http.access import ACCESS, METHODS
from adapters.http.bodies import InFlight
from adapters.http.feed import Feed
from adapters.http.hot import Hot
from adapters.http.metrics import Metrics
from adapters.http.middleware import Recorded, Unforeseen
from adapters.http.models import ProblemView
from adapters.http.rates import Rates
from adapters.http.restoring import Gate
from adapters.http.service import Service

_AGAIN = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}


def _refusal(
    description: str, headers: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> dict[str, Any]:
    """How a response that is a problem is described."""
    schema = {"$ref": "#/components/schemas/ProblemView"}
    content = {problems.MEDIA_TYPE: {"schema": schema}}
    return {"description": description, "content": content, "headers": dict(headers)}


_CHALLENGE = {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}}
_COMMON: Mapping[int | str, dict[str, Any]] = {
    401: _refusal("No token, or one that is refused.", _CHALLENGE),
    403: _refusal("The token's role, policy or session does not allow it."),
    413: _refusal("Too large: the body, or what the policy allows."),
    422: _refusal("Not as described; says where, never repeats what was sent."),
    429: _refusal("Too many requests, or a limit of the policy.", _AGAIN),
    500: _refusal("Lapse failed; its log says where."),
    503: _refusal("The database or the keys cannot be reached; try again.", _AGAIN),
}
_OF_A_SESSION: Mapping[int | str, dict[str, Any]] = {
    404: _refusal("There is no such session, or nothing of this name in it."),
    409: _refusal("Not in this state, held, or somebody else was faster."),
    410: _refusal("The session is over; `options` says what can be done."),
}
_OF_CONTENT: Mapping[int | str, dict[str, Any]] = {
    408: _refusal("The body came too slowly."),
}
_OF_A_COPY: Mapping[int | str, dict[str, Any]] = {
    404: _refusal("There is no such request."),
    409: _refusal("The copy is not made yet.", _AGAIN),
    410: _refusal("The copy is gone; ask for another one."),
}
_OF_THE_LOG: Mapping[int | str, dict[str, Any]] = {
    404: _refusal("Nothing is known of it."),
    409: _refusal("The log was restored, or somebody else was faster."),
}


_OF_A_REQUEST: Mapping[int | str, dict[str, Any]] = {
    404: _refusal("There is no such request, hold, session, or nothing is known of this person."),
    409: _refusal("Not in this state, or somebody else was faster."),
    410: _refusal("The session was erased."),
}


def create_app(service: Service, feed: Feed) -> FastAPI:
    """The application over an open Lapse. Nothing is started here."""
    settings = service.lapse.settings
    app = FastAPI(
        title="Lapse",
        version=version("lapse"),
        description="Sessions that forget on time, and can prove it.",
        docs_url=None,
        redoc_url=None,
        responses=dict(_COMMON),
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.service = service
    app.state.feed = feed
    app.state.rates = Rates(settings.rate_limit)
    app.state.metrics = Metrics()
    app.state.in_flight = InFlight(
        settings.upload_memory,
        settings.upload_memory // 4,
        lambda: service.lapse.alerts.standing()["memory"],
    )
    problems.install(app, METHODS)
    app.include_router(sessions.other_methods)
    app.include_router(sessions.router, responses=dict(_OF_A_SESSION))
    app.include_router(items.router, responses={**_OF_A_SESSION, **_OF_CONTENT})
    app.include_router(watching.router, responses=dict(_OF_A_SESSION))
    app.include_router(watching.sockets)
    app.include_router(access_requests.router, responses=dict(_OF_A_COPY))
    for module in (policies, proof, certificates, auditing, events):
        app.include_router(module.router, responses=dict(_OF_THE_LOG))
    app.include_router(erasures.router, responses=dict(_OF_A_REQUEST))
    app.include_router(operations.router)
    app.include_router(pages.router(settings))
    # From the innermost to the outermost.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.http_body)
    app.add_middleware(Hot, fastapi=app, routes=sessions.HOT, most=settings.http_body)
    app.add_middleware(Unforeseen)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=[
                *("Authorization", "Content-Digest", "Content-Type"),
                *("Idempotency-Key", "If-None-Match", "Last-Event-ID"),
            ],
            expose_headers=["ETag", "Location", "Retry-After"],
            max_age=600,
        )
    app.add_middleware(
        Recorded, requests=service.requests, metrics=app.state.metrics, clock=service.now
    )
    app.add_middleware(Gate, is_pending=lambda: service.lapse.restoring.is_pending)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """The OpenAPI document says how refusals look, and which roles a path is for; the log of
    requests knows operations by their names in it."""
    document = app.openapi()
    app.state.operations = {
        (method.upper(), path): operation["operationId"]
        for path, operations_of in document["paths"].items()
        for method, operation in operations_of.items()
    }
    components = document.setdefault("components", {})
    components["schemas"]["ProblemView"] = ProblemView.model_json_schema()
    schemes = components.setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    for path, operations_of in document["paths"].items():
        for method, operation in operations_of.items():
            roles = ACCESS.get((method.upper(), path), frozenset())
            if roles:
                operation["security"] = [{"bearer": []}]
                operation["x-roles"] = sorted(roles)
            else:
                operation["security"] = []
    app.openapi_schema = document
