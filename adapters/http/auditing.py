"""Questions of auditors over HTTP. None of the answers needs personal data or keys."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import StreamingResponse

from adapters.audit_documents import (
    completeness_document,
    known_document,
    policy_document,
    policy_of,
    replay_document,
    why_document,
)
from adapters.audit_export import EVENTS, REQUESTS, event_rows, request_rows
from adapters.exports import MEDIA_TYPES, Format, ParquetMissing, exported
from adapters.http.access import Someone, authorize, forbidden, may_touch
from adapters.http.audit_models import (
    CompletenessView,
    PolicyHistories,
    ReplayView,
    WhyView,
)
from adapters.http.cursors import no_cursor
from adapters.http.models import ByPolicy, Instant, Limit, SessionId, Since, Token, Until
from adapters.http.problems import Refused
from adapters.http.service import Service, micros, period, the_service
from adapters.http.tokens import Principal
from adapters.log.completeness import completeness
from adapters.log.replay import Clock, replay, replay_session
from domain.explanation import explain
from domain.policy import DAY, stream_of
from domain.policy_history import version_entries
from domain.ports import Recorded

router = APIRouter(prefix="/v1/audit", dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]


@router.get("/replay", response_model=ReplayView, operation_id="audit-replay")
def audit_replay(
    who: Someone,
    here: Here,
    until: Annotated[Instant, Query(examples=["2026-01-31T12:00:00Z"])],
    session: Annotated[
        Token | None,
        Query(description="This session only.", examples=["9f86d081884c7d659a2feaa0c55ad015"]),
    ] = None,
    policy: ByPolicy = None,
    by: Annotated[
        Clock,
        Query(
            description="`recorded`: what was known; `effective`: what was so, recorded or not.",
            examples=["recorded"],
        ),
    ] = Clock.RECORDED,
) -> Mapping[str, Any]:
    """What was known at a time: one session, or all of them counted. Reads the log up to its head:
    seconds for a million events."""
    at = micros(until)
    if session is not None:
        known = replay_session(_history(here, who, session), at, by)
        return known_document(session, at, by, known)
    shown = here.policies_for(who, policy)
    found = replay(here.lapse.engines, here.lapse.log, at, by, shown=shown)
    return replay_document(at, by, found)


@router.get("/sessions/{session_id}/why", response_model=WhyView, operation_id="audit-why")
def audit_why(session_id: SessionId, who: Someone, here: Here) -> Mapping[str, Any]:
    """Why a session was summarized, compressed, expired or erased: the rule, its version, and the
    deadline step by step."""
    history = _history(here, who, session_id)
    policy = str(policy_of(history))
    versions = here.lapse.log.policies()[policy]
    return why_document(session_id, policy, explain(history, versions), versions)


@router.get("/completeness", response_model=CompletenessView, operation_id="audit-completeness")
def audit_completeness(
    who: Someone,
    here: Here,
    since: Since = None,
    until: Until = None,
    after: Annotated[
        str | None,
        Query(
            max_length=100,
            description="`next` of the page before, of what is overdue.",
            examples=["64a1f0b2c3d4e-9f86d081884c7d659a2feaa0c55ad015"],
        ),
    ] = None,
    limit: Limit = 100,
) -> Mapping[str, Any]:
    """Whether everything that was due in a period was done: by default, the last day. Not for
    tokens of some policies: sweeps take sessions of any."""
    _must_see_all(who)
    now = here.now()
    end = micros(until) if until is not None else now
    begin = micros(since) if since is not None else max(0, end - DAY)
    if begin >= end:
        raise Refused(422, "invalid", "The request is not as described", "`from` is behind `to`")
    here.lapse.projector.catch_up()
    try:
        found = completeness(
            here.lapse.engines,
            here.lapse.policies.refresh(),
            begin,
            end,
            now,
            after=after,
            limit=limit,
        )
    except ValueError:
        raise no_cursor() from None
    return completeness_document(found)


@router.get("/policies", response_model=PolicyHistories, operation_id="audit-policies")
def audit_policies(who: Someone, here: Here, policy: ByPolicy = None) -> Mapping[str, Any]:
    """The versions of each policy: from when, by whom, and what each changed."""
    shown = here.policies_for(who, policy)
    names = sorted(name for name in here.lapse.log.policies() if shown is None or name in shown)
    return {
        "policies": [
            policy_document(name, version_entries(here.lapse.log.history(stream_of(name))))
            for name in names
        ]
    }


_FILES: Mapping[int | str, dict[str, Any]] = {
    200: {
        "content": {
            media.partition(";")[0]: {"schema": {"type": "string"}}
            for media in MEDIA_TYPES.values()
        }
    }
}


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses=dict(_FILES),
    operation_id="audit-export",
)
def audit_export(
    who: Someone,
    here: Here,
    form: Annotated[Format, Query(alias="format", examples=["jsonl"])] = Format.JSONL,
    since: Since = None,
    until: Until = None,
    policy: ByPolicy = None,
) -> StreamingResponse:
    """What was recorded in a period, in the order of the log, as a file."""
    rows = event_rows(
        here.lapse.log,
        shown=here.policies_for(who, policy),
        **period(since, until),
    )
    return _streamed(rows, EVENTS, form)


@router.get(
    "/requests/export",
    response_class=StreamingResponse,
    responses=dict(_FILES),
    operation_id="audit-requests-export",
)
def audit_requests_export(
    who: Someone,
    here: Here,
    form: Annotated[Format, Query(alias="format", examples=["jsonl"])] = Format.JSONL,
    since: Since = None,
    until: Until = None,
) -> StreamingResponse:
    """Who asked what in a period, the oldest first, as a file."""
    _must_see_all(who)
    rows = request_rows(
        here.requests,
        **period(since, until),
    )
    return _streamed(rows, REQUESTS, form)


def _streamed(rows: Any, columns: Any, form: Format) -> StreamingResponse:
    try:
        pieces = exported(rows, columns, form)
    except ParquetMissing as error:
        raise Refused(422, "invalid", "The request is not as described", str(error)) from None
    return StreamingResponse(pieces, media_type=MEDIA_TYPES[form])


def _history(here: Service, who: Principal, session_id: str) -> list[Recorded]:
    """Raises Refused: nothing is known of it, or it is not for this token."""
    history = list(here.lapse.log.history(session_id))
    policy = policy_of(history)
    if policy is None:
        raise Refused(404, "not-found", "There is no such session", "nothing is known of it")
    may_touch(who, policy)
    return history


def _must_see_all(who: Principal) -> None:
    if who.policies is not None:
        raise forbidden("this token is for some policies only")
