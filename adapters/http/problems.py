"""Refusals as problem details (RFC 9457): a stable `type`, a status, and what can be done next.

Types are URNs, so that they depend on no host. `options` is what a page can offer whoever was
refused: each a relation (`rel`) and, where there is one, the path to call.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from adapters.clock import format_instant
from adapters.logs import place_of
from domain.errors import (
    ClockHeld,
    Conflict,
    ContentRefused,
    CopyGone,
    CopyNotReady,
    CopyUnknown,
    EffectiveTooSoon,
    HoldUnknown,
    InviteRefused,
    ItemErased,
    ItemUnknown,
    KeyUnavailable,
    LapseError,
    LedgerUnavailable,
    LimitReached,
    NotAllowed,
    OnHold,
    ParticipantUnknown,
    PolicyInvalid,
    PolicyUnknown,
    RequestNotOpen,
    RequestUnknown,
    RestorePending,
    SessionErased,
    SessionExists,
    SessionExpired,
    SessionNotFound,
    StoreBusy,
    StoreError,
    SubjectUnknown,
)

_log = structlog.get_logger(component="http")

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:lapse:problem:"


class Refused(Exception):
    """A request is refused by the HTTP layer itself. name: the end of the problem's type."""

    def __init__(
        self, status: int, name: str, title: str, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(name)
        self.status = status
        self.name = name
        self.title = title
        self.detail = detail
        self.headers = headers or {}


class InviteLeadsNowhere(Exception):
    """The session of an invite is over."""

    def __init__(self, reason: SessionExpired | SessionErased | SessionNotFound) -> None:
        super().__init__(str(reason))
        self.reason = reason


def problem(
    status: int,
    name: str,
    title: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    **members: Any,
) -> Response:
    """One problem document."""
    body = {"type": PREFIX + name, "title": title, "status": status, "detail": detail, **members}
    headers = {**_NOT_STORED, **(headers or {})}
    return Response(orjson.dumps(body), status, media_type=MEDIA_TYPE, headers=headers)


_NOT_STORED = {"Cache-Control": "no-store"}


_CREATE = {"rel": "create", "method": "POST", "path": "/v1/sessions"}


def options_after(session_id: str, recover_until: int | None) -> list[dict[str, Any]]:
    """What can be done once a session is over. recover_until: None if it cannot be recovered."""
    if recover_until is None:
        return [_CREATE]
    recover = {
        "rel": "recover",
        "method": "POST",
        "path": f"/v1/sessions/{session_id}/recover",
        "until": format_instant(recover_until),
    }
    return [recover, _CREATE]


def option_to_extend(session_id: str) -> dict[str, Any]:
    """What can be done while it lives."""
    return {"rel": "extend", "method": "POST", "path": f"/v1/sessions/{session_id}/extend"}


def _expired(error: SessionExpired) -> Response:
    return problem(
        410,
        "session-expired",
        "The session is over",
        str(error),
        expired_at=format_instant(error.expired_at),
        rule=error.rule,
        recover_until=format_instant(error.recover_until),
        options=options_after(error.session_id, error.recover_until),
    )


def _erased(error: SessionErased) -> Response:
    return problem(
        410,
        "session-erased",
        "The session was erased",
        str(error),
        erased_at=format_instant(error.erased_at),
        options=[_CREATE],
    )


_ASK_AGAIN = {"rel": "ask-for-an-invite"}


def _invite(error: InviteRefused) -> Response:
    return problem(
        410,
        "invite-expired",
        "This invite leads nowhere",
        str(error),
        reason=error.why,
        options=[_ASK_AGAIN],
    )


def _invite_to_nowhere(error: InviteLeadsNowhere) -> Response:
    """What a page can show: what happened, when, and where to go."""
    over = error.reason
    reason = "session-expired" if isinstance(over, SessionExpired) else "session-erased"
    at = getattr(over, "expired_at", None) or getattr(over, "erased_at", None)
    return problem(
        410,
        "invite-expired",
        "The session of this invite is over",
        str(over),
        reason=reason,
        ended_at=format_instant(at),
        options=[_ASK_AGAIN, _CREATE],
    )


def _limit(error: LimitReached) -> Response:
    return problem(
        413 if error.scope in ("bytes", "result") else 429,
        f"limit-{error.scope}",
        "A limit is reached",
        str(error),
        headers={"Retry-After": "60"},
        policy=error.policy,
        limit=error.limit,
        options=[{"rel": "retry", "method": "POST"}],
    )


def _policy_invalid(error: PolicyInvalid) -> Response:
    return problem(
        422,
        "policy-invalid",
        "The policy is refused as a whole",
        "every problem is listed with its place",
        problems=[{"place": one.place, "what": one.what} for one in error.problems],
    )


def _plain(status: int, name: str, title: str, **headers: str) -> Callable[[LapseError], Response]:
    return lambda error: problem(status, name, title, str(error), headers=headers)


_RETRY = {"Retry-After": "1"}
_ANSWERS: tuple[tuple[type[LapseError], Callable[[Any], Response]], ...] = (
    (SessionExpired, _expired),
    (SessionErased, _erased),
    (InviteRefused, _invite),
    (LimitReached, _limit),
    (PolicyInvalid, _policy_invalid),
    (ItemErased, _plain(410, "item-erased", "The item's time is over")),
    (ItemUnknown, _plain(404, "not-found", "There is no such item")),
    (ContentRefused, _plain(422, "content", "What came is not what was announced")),
    (SessionNotFound, _plain(404, "not-found", "There is no such session")),
    (ParticipantUnknown, _plain(404, "not-found", "There is no such participant")),
    (RequestUnknown, _plain(404, "not-found", "There is no such request")),
    (HoldUnknown, _plain(404, "not-found", "There is no such hold")),
    (SubjectUnknown, _plain(404, "not-found", "Nothing is known of this person")),
    (RequestNotOpen, _plain(409, "not-allowed", "Not in this state of the request")),
    (PolicyUnknown, _plain(422, "policy-unknown", "There is no such policy")),
    (SessionExists, _plain(409, "exists", "The session exists under other terms")),
    (Conflict, _plain(409, "conflict", "Somebody else was faster", **_RETRY)),
    (OnHold, _plain(409, "held", "A hold stands")),
    (NotAllowed, _plain(409, "not-allowed", "Not in this state of the session")),
    (EffectiveTooSoon, _plain(422, "effective-too-soon", "A version must lie ahead")),
    (CopyUnknown, _plain(404, "not-found", "There is no such request")),
    (CopyNotReady, _plain(409, "copy-not-ready", "The copy is not made yet", **_RETRY)),
    (CopyGone, _plain(410, "copy-gone", "The copy is gone")),
    (ClockHeld, _plain(503, "clock-held", "An import holds the clock", **_RETRY)),
    (StoreBusy, _plain(503, "busy", "The database is busy", **_RETRY)),
    (RestorePending, _plain(503, "restore-pending", "The ledger is being repeated", **_RETRY)),
    (LedgerUnavailable, _plain(503, "ledger", "The erasure ledger cannot be written", **_RETRY)),
    (StoreError, _plain(503, "store", "The database did not do it", **_RETRY)),
    (KeyUnavailable, _plain(503, "keys", "The keys cannot be reached", **_RETRY)),
)


def answer_to(error: LapseError) -> Response:
    """The problem behind a refusal of the domain."""
    for kind, answer in _ANSWERS:
        if isinstance(error, kind):
            return answer(error)
    return unforeseen(error)


def too_large() -> Response:
    detail = "LAPSE_HTTP_BODY says how many bytes are taken"
    return problem(413, "too-large", "The body is too large", detail)


def unforeseen(error: Exception) -> Response:
    """The problem behind an error that nobody foresaw. Its class and place are logged, and nothing
    that it says."""
    kind = type(error).__name__
    _log.error("http", operation="answer", result="failed", error=kind, place=place_of(error))
    return problem(500, "internal", "Lapse failed", "its log says where")


def described_path(route: Any) -> str:
    """The path of a route as the document writes it, without converters such as `:path`."""
    return str(route.path).replace(":path}", "}")


def install(app: FastAPI, methods: Mapping[str, Sequence[str]]) -> None:
    """Every error of the app becomes a problem document; none repeats what was sent.

    methods: what each path takes. The router knows only the first route of a path.
    """

    @app.exception_handler(LapseError)
    def _(_request: Request, error: LapseError) -> Response:
        return answer_to(error)

    @app.exception_handler(InviteLeadsNowhere)
    def _(_request: Request, error: InviteLeadsNowhere) -> Response:
        return _invite_to_nowhere(error)

    @app.exception_handler(Refused)
    def _(_request: Request, error: Refused) -> Response:
        return problem(error.status, error.name, error.title, error.detail, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    def _(_request: Request, error: RequestValidationError) -> Response:
        return problem(
            422,
            "invalid",
            "The request is not as described",
            "see /openapi.json for what is accepted",
            errors=_places(error.errors()),
        )

    @app.exception_handler(HTTPException)
    def _(request: Request, error: HTTPException) -> Response:
        if error.status_code == 413:
            return too_large()
        if error.status_code == 400:
            return _no_json()
        name, title = _STATUSES.get(error.status_code, ("refused", "The request is refused"))
        headers = dict(error.headers or {})
        route = request.scope.get("route")
        if error.status_code == 405 and route is not None:
            headers["Allow"] = ", ".join(methods[described_path(route)])
        return problem(error.status_code, name, title, title.lower(), headers=headers)

    @app.exception_handler(SQLAlchemyError)
    def _(_request: Request, error: SQLAlchemyError) -> Response:
        unforeseen(error)
        return problem(503, "store", "The database did not do it", "nothing was changed")


_STATUSES = {
    404: ("not-found", "There is no such path"),
    405: ("method", "The path does not take this method"),
}


def _no_json() -> Response:
    """What Python's reader of JSON says in its own way: no UTF-8, too deep, a number too long."""
    return problem(
        422,
        "invalid",
        "The request is not as described",
        "see /openapi.json for what is accepted",
        errors=[{"place": "body", "what": "no JSON, or too deep"}],
    )


def _places(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Where and what, without `input`: it may be personal data. Names of unknown fields are not
    repeated either; they are input too."""
    return [
        {
            "place": ".".join(map(str, _known(error))),
            "what": "an unknown field" if error["type"] == "extra_forbidden" else _what(error),
        }
        for error in errors
    ]


def _known(error: Any) -> Sequence[Any]:
    place: Sequence[Any] = error["loc"]
    return place[:-1] if error["type"] == "extra_forbidden" else place


def _what(error: Any) -> str:
    """Pydantic's own words where they cannot quote the input: for the types listed they do not."""
    return str(error["msg"]) if error["type"] in _SAFE else "not valid here"


_SAFE = frozenset(
    {
        "missing",
        "string_type",
        "string_too_long",
        "string_too_short",
        "string_pattern_mismatch",
        "int_type",
        "int_parsing",
        "float_type",
        "bool_type",
        "list_type",
        "dict_type",
        "too_long",
        "too_short",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "enum",
        "literal_error",
        "timezone_aware",
        "datetime_parsing",
        "datetime_from_date_parsing",
        "json_invalid",
        "instant",
        "json",
        "model_attributes_type",
    }
)
