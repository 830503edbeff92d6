"""What privacy officers and data subjects ask for: erasure, and holds against it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from adapters.documents import hold_document, request_document
from adapters.http.access import Someone, authorize, forbidden
from adapters.http.models import (
    LOCATION,
    AfterToken,
    ErasurePage,
    ErasureView,
    HoldId,
    HoldPage,
    HoldView,
    Key,
    Limit,
    NewErasure,
    NewHold,
    RefusalGround,
    RequestId,
)
from adapters.http.problems import Refused
from adapters.http.service import Service, micros, the_service
from adapters.http.tokens import Principal, TokenInvalid
from domain.erasure import Status
from domain.errors import StoreError
from domain.facts import Refusal, Verification
from domain.ports import RequestRow
from domain.session import Ground

router = APIRouter(prefix="/v1", dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]
AT_ONCE = 10
"""Transactions that are carried out before whoever asked is answered; the worker does the rest."""


@router.post(
    "/erasure-requests",
    status_code=202,
    response_model=ErasureView,
    responses={202: {"headers": LOCATION}},
    operation_id="request-erasure",
)
def request_erasure(
    body: NewErasure,
    request: Request,
    response: Response,
    who: Someone,
    here: Here,
    key: Key = None,
) -> Mapping[str, Any]:
    """Erase a session, everything of a person, or a participant's part of a session.

    Carried out at once where that is possible; the answer and `Location` say how far it is. Asked
    again while it is open, it is the same request.
    """
    row = _submitted(body, request, who, here, key)
    try:
        row = here.lapse.requests.advance(
            row.request.id, here.now(), who.actor, most=AT_ONCE, verify=False
        )
    except StoreError:
        row = here.lapse.requests.find(row.request.id)  # it is kept, and tried again
    response.headers["Location"] = f"/v1/erasure-requests/{row.request.id}"
    return _document(here, row)


def _document(here: Service, row: RequestRow) -> Mapping[str, Any]:
    [document] = _documents(here, [row])
    return document


def _documents(here: Service, rows: Sequence[RequestRow]) -> Sequence[Mapping[str, Any]]:
    return list(map(request_document, rows, here.lapse.waiting_for(rows)))


def _submitted(
    body: NewErasure, request: Request, who: Principal, here: Service, key: str | None
) -> RequestRow:
    requests, now = here.lapse.requests, here.now()
    proof = _proof(body, who, here)
    if proof is not None:
        session, token = proof
        request.state.session = session
        by = Verification.TOKEN_PROOF
        return requests.of_participant(session, token, by, now, who.actor, key=key)
    by = Verification(body.verified_by or Verification.CONTROLLER)
    _must_concern(who, here, body.session)
    if body.session is not None:
        request.state.session = body.session
        return requests.of_session(body.session, by, now, who.actor, key=key)
    return requests.of_subject(str(body.subject), by, now, who.actor, key=key)


def _proof(body: NewErasure, who: Principal, here: Service) -> tuple[str, str] | None:
    """Session and token of a participant who proves that they are it. Raises Refused."""
    given = [body.session, body.subject, body.participant_token]
    if who.participant is not None and who.session is not None:
        if body.subject is not None or body.session not in (None, who.session):
            raise forbidden("this token is for one participant of one session")
        return who.session, who.participant
    if sum(one is not None for one in given) != 1:
        raise _invalid("name a session, a subject or a participant_token")
    if body.participant_token is None:
        return None
    try:
        proven = here.tokens.proven(body.participant_token)
    except TokenInvalid:
        raise _invalid("participant_token was not made here") from None
    if proven.participant is None or proven.session is None:
        raise _invalid("participant_token is no participant's")
    here.guard(who, proven.session)
    return proven.session, proven.participant


def _invalid(what: str) -> Refused:
    return Refused(422, "invalid", "The request is not as described", what)


@router.get("/erasure-requests", response_model=ErasurePage, operation_id="erasure-requests")
def list_requests(
    here: Here,
    status: Annotated[
        Status | None, Query(description="Only those that are so far.", examples=["requested"])
    ] = None,
    after: AfterToken = None,
    limit: Limit = 100,
) -> Mapping[str, Any]:
    """Requests for erasure, in order of id. They name nobody."""
    found = here.lapse.requests.page(after=after or "", limit=limit + 1, status=status)
    shown = _documents(here, found[:limit])
    return {"requests": shown, "next": shown[-1]["request_id"] if len(found) > limit else None}


@router.get(
    "/erasure-requests/{request_id}", response_model=ErasureView, operation_id="erasure-request"
)
def show_request(request_id: RequestId, here: Here) -> Mapping[str, Any]:
    """How far a request is."""
    return _document(here, here.lapse.requests.find(request_id))


@router.post(
    "/erasure-requests/{request_id}/refuse",
    response_model=ErasureView,
    operation_id="refuse-erasure",
)
def refuse_request(
    request_id: RequestId, body: RefusalGround, who: Someone, here: Here
) -> Mapping[str, Any]:
    """It is not carried out, on this ground. Possible until it was executed."""
    requests, ground = here.lapse.requests, Refusal(body.ground)
    _must_concern(who, here, requests.find(request_id).session_id)
    return _document(here, requests.refuse(request_id, ground, here.now(), who.actor))


# -- holds ------------------------------------------------------------------------------------


@router.post("/holds", status_code=201, response_model=HoldView, operation_id="hold")
def place_hold(body: NewHold, request: Request, who: Someone, here: Here) -> Mapping[str, Any]:
    """Nothing of a session, or of any session in which a person takes part, is deleted while it
    stands."""
    holds, now, ground = here.lapse.holds, here.now(), Ground(body.ground)
    until = micros(body.until) if body.until is not None else None
    if (body.session is None) == (body.subject is None):
        raise _invalid("name a session or a subject")
    _must_concern(who, here, body.session)
    if body.session is not None:
        request.state.session = body.session
        return hold_document(holds.of_session(body.session, ground, until, now, who.actor))
    return hold_document(holds.of_subject(str(body.subject), ground, until, now, who.actor))


@router.get("/holds", response_model=HoldPage, operation_id="holds")
def list_holds(
    who: Someone, here: Here, after: AfterToken = None, limit: Limit = 100
) -> Mapping[str, Any]:
    """Holds that stand, in order of id. Not for tokens of some policies: they are of any."""
    _must_concern(who, here, None)
    found = here.lapse.holds.page(here.now(), after=after or "", limit=limit + 1)
    shown = [hold_document(row) for row in found[:limit]]
    return {"holds": shown, "next": shown[-1]["hold"] if len(found) > limit else None}


@router.delete("/holds/{hold_id}", status_code=204, operation_id="release-hold")
def release_hold(hold_id: HoldId, who: Someone, here: Here) -> None:
    """It stands no more; what it suspended is due."""
    holds, now = here.lapse.holds, here.now()
    _must_concern(who, here, holds.find(hold_id, now).session_id)
    holds.release(hold_id, now, who.actor)


def _must_concern(who: Principal, here: Service, session: str | None) -> None:
    """Raises Refused unless the token is for what this is about: a session, or a person (None)."""
    if session is not None:
        here.guard(who, session)
    elif who.policies is not None:
        raise forbidden("a person's data lies under any policy, and this token is for some")
