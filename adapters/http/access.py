"""Who may do what: one table, asked for every request, and closed where it says nothing.

`tests/adapters/http/test_access.py` walks the OpenAPI document along it, and
docs/reference/http.md shows it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import Depends, Request, WebSocket
from starlette.requests import HTTPConnection

from adapters.http.problems import Refused, described_path
from adapters.http.rates import Rates
from adapters.http.tokens import Principal, Role, TokenInvalid, Tokens

PUBLIC: frozenset[Role] = frozenset()
"""Answers without a token."""

_P, _S, _A = Role.PRODUCER, Role.SUBSCRIBER, Role.AUDITOR
_V, _O, _ADMIN, _IN = Role.PRIVACY, Role.OPERATOR, Role.ADMIN, Role.PARTICIPANT

_ONE = "/v1/sessions/{session_id}"
ACCESS: Mapping[tuple[str, str], frozenset[Role]] = {
    key: roles | {_ADMIN} if roles else PUBLIC
    for key, roles in {
        ("GET", "/health/live"): PUBLIC,
        ("GET", "/health/ready"): PUBLIC,
        ("GET", "/openapi.json"): PUBLIC,
        ("GET", "/docs"): PUBLIC,
        ("GET", "/docs/{file}"): PUBLIC,
        ("GET", "/static/lapse.js"): PUBLIC,
        ("GET", "/examples/"): PUBLIC,
        ("GET", "/examples/{file}"): PUBLIC,
        ("GET", "/metrics"): frozenset({_O}),
        ("POST", "/v1/sessions"): frozenset({_P}),
        ("GET", "/v1/sessions"): frozenset({_P, _O, _A}),
        ("POST", "/v1/sessions/search"): frozenset({_P, _V}),
        ("GET", _ONE): frozenset({_P, _O, _A, _IN}),
        ("DELETE", _ONE): frozenset({_P, _V}),
        ("GET", f"{_ONE}/expiry"): frozenset({_P, _O, _A, _IN}),
        ("GET", f"{_ONE}/participants"): frozenset({_P, _IN}),
        ("POST", f"{_ONE}/participants"): frozenset({_P}),
        ("POST", f"{_ONE}/seen"): frozenset({_P, _IN}),
        ("POST", f"{_ONE}/leave"): frozenset({_P, _IN}),
        ("POST", f"{_ONE}/complete"): frozenset({_P}),
        ("POST", f"{_ONE}/fail"): frozenset({_P}),
        ("POST", f"{_ONE}/extend"): frozenset({_P, _IN}),
        ("POST", f"{_ONE}/recover"): frozenset({_P}),
        ("POST", f"{_ONE}/summarize"): frozenset({_P}),
        ("GET", f"{_ONE}/summary"): frozenset({_P, _IN}),
        ("POST", f"{_ONE}/items"): frozenset({_P, _IN}),
        ("GET", f"{_ONE}/items"): frozenset({_P, _IN}),
        ("GET", f"{_ONE}/items/{{item_id}}"): frozenset({_P, _IN}),
        ("POST", f"{_ONE}/uploads"): frozenset({_P, _IN}),
        ("GET", f"{_ONE}/uploads/{{upload_id}}"): frozenset({_P, _IN}),
        ("PUT", f"{_ONE}/uploads/{{upload_id}}/chunks/{{index}}"): frozenset({_P, _IN}),
        ("GET", f"{_ONE}/uploads/{{upload_id}}/chunks/{{index}}"): frozenset({_P, _IN}),
        ("GET", f"{_ONE}/uploads/{{upload_id}}/content"): frozenset({_P, _IN}),
        ("GET", f"{_ONE}/events"): frozenset({_P, _S, _A}),
        ("POST", f"{_ONE}/invites"): frozenset({_P}),
        ("POST", "/v1/invites/redeem"): frozenset({_P, Role.INVITE}),
        ("GET", f"{_ONE}/watch"): frozenset({_P, _S, _IN}),
        ("POST", f"{_ONE}/progress"): frozenset({_P}),
        ("GET", "/v1/events/stream"): frozenset({_S, _A}),
        ("POST", "/v1/seen"): frozenset({_P}),
        ("GET", "/v1/events"): frozenset({_S, _A}),
        ("GET", "/v1/statistics"): frozenset({_P, _S, _A, _O}),
        ("GET", "/v1/statistics/hourly"): frozenset({_O, _A}),
        ("GET", "/v1/policies"): frozenset({_P, _S, _A, _O, _V}),
        ("GET", "/v1/policies/{name}"): frozenset({_P, _S, _A, _O, _V}),
        ("PUT", "/v1/policies/{name}"): frozenset({_O}),
        ("POST", "/v1/policies/{name}/impact"): frozenset({_O}),
        ("GET", "/v1/checkpoint"): PUBLIC,
        ("GET", f"{_ONE}/certificate"): PUBLIC,
        ("GET", "/v1/tile/{level}/{tile}"): PUBLIC,
        ("GET", "/v1/tile/entries/{tile}"): frozenset({_A}),
        ("GET", "/v1/audit/proof"): frozenset({_A, _V}),
        ("POST", "/v1/access-requests"): frozenset({_V}),
        ("GET", "/v1/access-requests/{request_id}"): frozenset({_V}),
        ("GET", "/v1/access-requests/{request_id}/content"): frozenset({_V}),
        ("POST", "/v1/erasure-requests"): frozenset({_V, _IN}),
        ("GET", "/v1/erasure-requests"): frozenset({_V, _A}),
        ("GET", "/v1/erasure-requests/{request_id}"): frozenset({_P, _V, _A, _IN}),
        ("GET", "/v1/erasure-requests/{request_id}/certificate"): frozenset({_V, _IN}),
        ("POST", "/v1/erasure-requests/{request_id}/refuse"): frozenset({_V}),
        ("POST", "/v1/holds"): frozenset({_V}),
        ("GET", "/v1/holds"): frozenset({_V, _A}),
        ("DELETE", "/v1/holds/{hold_id}"): frozenset({_V}),
        ("GET", "/v1/audit"): frozenset({_A, _V, _O}),
        ("GET", "/v1/audit/requests"): frozenset({_A, _V}),
        ("GET", "/v1/audit/requests/export"): frozenset({_A, _V}),
        ("GET", "/v1/audit/replay"): frozenset({_A, _V}),
        ("GET", "/v1/audit/sessions/{session_id}/why"): frozenset({_A, _V}),
        ("GET", "/v1/audit/completeness"): frozenset({_A, _V, _O}),
        ("GET", "/v1/audit/policies"): frozenset({_A, _V, _O}),
        ("GET", "/v1/audit/export"): frozenset({_A, _V}),
        ("GET", "/v1/audit/sessions/{session_id}"): frozenset({_A, _V}),
    }.items()
}

METHODS: Mapping[str, Sequence[str]] = {
    path: sorted(method for method, of in ACCESS if of == path) for _, path in ACCESS
}
"""What each path takes."""


async def authorize(request: Request) -> Principal | None:
    """Who asks, if they may. None: the path is public. Raises Refused with 401 or 403."""
    route = described_path(request.scope["route"])
    roles = ACCESS.get((request.method, route))
    if roles is not None and not roles:
        return None
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:  # else the short way has asked already, see adapters/http/hot.py
        principal = _principal(request)
        request.state.principal = principal
    if roles is None or principal.role not in roles:
        raise forbidden(f"the role {principal.role} may not do this")
    of = request.path_params.get("session_id", principal.session)
    if principal.session not in (None, of):
        raise forbidden("this token is for another session")
    return principal


def principal_of_socket(socket: WebSocket, path: str) -> Principal:
    """Who asks for a WebSocket, if they may. A browser cannot send the header, so the token may
    come as a subprotocol, `bearer.TOKEN`; never in the URL, which is logged on its way."""
    offered = [one for one in socket.scope.get("subprotocols", ()) if one.startswith("bearer.")]
    token = offered[0].removeprefix("bearer.") if offered else _bearer(socket)
    principal = _verified(socket, token)
    if principal.role not in ACCESS["GET", path]:
        raise forbidden(f"the role {principal.role} may not do this")
    if principal.session not in (None, socket.path_params.get("session_id", principal.session)):
        raise forbidden("this token is for another session")
    return principal


def _principal(request: Request) -> Principal:
    return _verified(request, _bearer(request))


def _bearer(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _verified(connection: HTTPConnection, token: str) -> Principal:
    if not token:
        raise unauthorized("send a token: `Authorization: Bearer ...`; `lapse token` makes one")
    tokens: Tokens = connection.app.state.service.tokens
    rates: Rates = connection.app.state.rates
    address = connection.client.host if connection.client is not None else ""
    try:
        principal = tokens.verify(token)
    except TokenInvalid as error:
        rates.failed(address)
        raise unauthorized(f"the token is refused: {error}") from None
    rates.count(principal.actor)
    return principal


def unauthorized(detail: str) -> Refused:
    return Refused(401, "unauthorized", "Who are you?", detail, {"WWW-Authenticate": "Bearer"})


def forbidden(detail: str) -> Refused:
    return Refused(403, "forbidden", "This is not allowed", detail)


async def someone(request: Request) -> Principal:
    """The principal of a request that `authorize` let through."""
    principal: Principal = request.state.principal
    return principal


def may_touch(principal: Principal, policy: str) -> None:
    """Raises Refused unless the token is for this policy too."""
    if principal.policies is not None and policy not in principal.policies:
        raise forbidden(f"this token is not for policy {policy}")


Someone = Annotated[Principal, Depends(someone)]
