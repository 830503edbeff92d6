"""Sessions over HTTP: their life, who takes part, who was seen."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from adapters.clock import format_instant
from adapters.documents import event_document, member_document, session_document
from adapters.http.access import Someone, authorize, forbidden, may_touch
from adapters.http.cursors import cursor
from adapters.http.heartbeats import plain_batch
from adapters.http.hot import HotRoute, parser_of
from adapters.http.models import (
    LOCATION,
    AfterToken,
    ByPolicy,
    Counted,
    EventPage,
    Expiry,
    Extension,
    Failing,
    HeartbeatBatch,
    InviteView,
    Joined,
    Key,
    Limit,
    NewInvite,
    NewParticipant,
    NewSession,
    OneParticipant,
    ParticipantPage,
    Redeemed,
    Redemption,
    Search,
    Seen,
    SessionId,
    SessionPage,
    SessionView,
)
from adapters.http.problems import InviteLeadsNowhere, Refused, option_to_extend, options_after
from adapters.http.service import (
    Service,
    committed,
    micros,
    names_what_was_read,
    the_service,
    view_document,
)
from adapters.http.tokens import LONGEST, Principal, Role, TokenExpired, TokenInvalid
from adapters.vault.holds import state_decoder
from domain.errors import (
    Conflict,
    InviteRefused,
    LimitReached,
    SessionErased,
    SessionExists,
    SessionExpired,
    SessionNotFound,
)
from domain.policy import DAY
from domain.ports import Found
from domain.session import Failure, Phase, Session
from domain.use_cases.presence import see
from domain.use_cases.sessions import View
from projections import active_sessions

router = APIRouter(prefix="/v1", dependencies=[Depends(authorize)])
other_methods = APIRouter(prefix="/v1", include_in_schema=False)

Here = Annotated[Service, Depends(the_service)]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        max_length=200,
        description="`ETag` of the answer before: 304 if it is the same.",
        examples=['"b5bb9d8014a0f9b1d61e21e796d78dcc"'],
    ),
]

INVITED_FOR = 7 * DAY
JOINED_FOR = DAY
"""How long a participant's own token is good, at most; the session ends it sooner."""


@other_methods.api_route("/sessions/search", methods=["DELETE", "GET"])
def no_session() -> None:
    """`search` is no id of a session. Raises HTTPException."""
    raise HTTPException(405)


# -- the session ------------------------------------------------------------------------------


@router.post(
    "/sessions",
    status_code=201,
    response_model=SessionView,
    responses={201: {"headers": LOCATION}},
    operation_id="create",
)
async def create(
    body: NewSession, request: Request, who: Someone, here: Here, key: Key = None
) -> Response:
    """Begin a session under a policy."""
    may_touch(who, body.policy)
    now, sessions = here.now(), here.lapse.sessions
    session = None
    if body.owner is None and key is None:
        session = await _create_plainly(here, body.policy, now, who.actor)
    if session is None:
        session = await run_in_threadpool(
            partial(sessions.create, body.policy, now, who.actor, owner=body.owner, key=key)
        )
    request.state.session = session.id
    view = sessions.seen_as(Found(session, session.last_seen_at, None), now)
    location = {"Location": f"/v1/sessions/{session.id}"}
    return _json(view_document(view), 201, location)


async def _create_plainly(here: Service, policy: str, now: int, actor: str) -> Session | None:
    """The session, written without a thread of its own: half the cost of a creation. None if that
    was refused, or cannot be done."""
    append = here.lapse.sessions.plain_creation(policy, now, actor)
    if append is None:
        return None
    try:
        await committed(here.lapse.log, append, now)
    except (Conflict, LimitReached, SessionExists):
        return None  # `create` knows what to do
    return append.after


def _json(document: Mapping[str, Any], status: int, headers: dict[str, str]) -> Response:
    """Not through a response model, which would check what we made ourselves."""
    return Response(orjson.dumps(document), status, media_type="application/json", headers=headers)


@router.get("/sessions", response_model=SessionPage, operation_id="list")
def list_sessions(
    who: Someone,
    here: Here,
    policy: ByPolicy = None,
    state: Annotated[
        Phase | None,
        Query(description="active, completed, failed, expired", examples=["active"]),
    ] = None,
    after: AfterToken = None,
    limit: Limit = 100,
) -> Mapping[str, Any]:
    """Sessions as they are now, in order of id, those that are due hidden already."""
    if state is Phase.ERASED:
        raise Refused(422, "invalid", "The request is not as described", "erased ones are gone")
    shown = here.policies_for(who, policy)
    with here.lapse.engines.read() as connection:
        page = active_sessions.live_sessions(
            connection,
            here.lapse.policies.known,
            state_decoder(connection),
            here.now(),
            shown=shown,
            phase=state,
            after=after or "",
            limit=limit,
        )
    found = [session_document(row.session, row.last_seen, row.forecast) for row in page.sessions]
    return {"sessions": found, "next": page.next}


@router.post("/sessions/search", response_model=SessionPage, operation_id="search")
def search(body: Search, request: Request, who: Someone, here: Here) -> Mapping[str, Any]:
    """Live sessions of one owner under a policy, the oldest first."""
    may_touch(who, body.policy)
    names_what_was_read(request, "owner")
    views = here.lapse.sessions.owned(body.policy, body.owner, here.now())
    return {"sessions": [view_document(view) for view in views], "next": None}


@router.get(
    "/sessions/{session_id}",
    response_model=SessionView,
    operation_id="show",
    responses={
        200: {"headers": {"ETag": {"schema": {"type": "string"}, "required": True}}},
        304: {"description": "Still as `If-None-Match` says."},
    },
)
def show(
    session_id: SessionId, who: Someone, here: Here, if_none_match: IfNoneMatch = None
) -> Response:
    """A session as it is now, swept or not. An expired one shows its state only."""
    here.guard(who, session_id)
    return _tagged(view_document(here.lapse.sessions.view(session_id, here.now())), if_none_match)


@router.delete(
    "/sessions/{session_id}",
    status_code=204,
    operation_id="erase",
    responses={204: {"headers": {"Link": {"schema": {"type": "string"}, "required": True}}}},
)
def erase(session_id: SessionId, who: Someone, here: Here, key: Key = None) -> Response:
    """Erase all data of the session at once. Its history stays, and says so; the request in `Link`
    tells when it was verified."""
    here.guard(who, session_id)
    row = here.lapse.requests.erase_at_once(session_id, here.now(), who.actor, key=key)
    link = f'</v1/erasure-requests/{row.request.id}>; rel="related"'
    return Response(status_code=204, headers={"Link": link})


@router.get("/sessions/{session_id}/expiry", response_model=Expiry, operation_id="expiry")
def expiry(session_id: SessionId, who: Someone, here: Here) -> Mapping[str, Any]:
    """Whether the session is over, also before any sweep, and what can be done."""
    here.guard(who, session_id)
    now = here.now()
    view = here.lapse.sessions.view(session_id, now)
    return _expiry(here, view, now)


@router.post("/sessions/{session_id}/complete", response_model=SessionView, operation_id="complete")
def complete(session_id: SessionId, who: Someone, here: Here, key: Key = None) -> Mapping[str, Any]:
    """The application is done with the session."""
    here.guard(who, session_id)
    return view_document(here.lapse.sessions.complete(session_id, here.now(), who.actor, key=key))


@router.post("/sessions/{session_id}/fail", response_model=SessionView, operation_id="fail")
def fail(
    session_id: SessionId, body: Failing, who: Someone, here: Here, key: Key = None
) -> Mapping[str, Any]:
    """The application gave up on the session."""
    here.guard(who, session_id)
    reason = Failure(body.reason)
    view = here.lapse.sessions.fail(session_id, reason, here.now(), who.actor, key=key)
    return view_document(view)


@router.post("/sessions/{session_id}/extend", response_model=SessionView, operation_id="extend")
def extend(
    session_id: SessionId, body: Extension, who: Someone, here: Here, key: Key = None
) -> Mapping[str, Any]:
    """The session shall not expire before `until`."""
    here.guard(who, session_id)
    until = micros(body.until)
    guest = who.participant is not None
    view = here.lapse.sessions.extend(
        session_id, until, here.now(), who.actor, key=key, guest=guest
    )
    return view_document(view)


@router.post("/sessions/{session_id}/recover", response_model=SessionView, operation_id="recover")
def recover(session_id: SessionId, who: Someone, here: Here, key: Key = None) -> Mapping[str, Any]:
    """An expired session lives again, until its recovery deadline and within the limits."""
    here.guard(who, session_id)
    return view_document(here.lapse.sessions.recover(session_id, here.now(), who.actor, key=key))


@router.get("/sessions/{session_id}/events", response_model=EventPage, operation_id="history")
def history(session_id: SessionId, who: Someone, here: Here) -> Mapping[str, Any]:
    """The life of one session, in order; it stays readable after the session was erased."""
    here.guard(who, session_id)
    found = here.lapse.log.history(session_id)
    if not found:
        raise Refused(404, "not-found", "There is no such session", "nothing is known of it")
    events = [event_document(recorded) for recorded in found]
    return {"events": events, "next": cursor(here.epoch, found[-1].position)}


# -- who takes part ---------------------------------------------------------------------------


@router.post(
    "/sessions/{session_id}/participants",
    status_code=201,
    response_model=Joined,
    operation_id="join",
)
def join(
    session_id: SessionId, body: NewParticipant, who: Someone, here: Here, key: Key = None
) -> Mapping[str, Any]:
    """Somebody takes part from now on. The same subject again gets the same token."""
    here.guard(who, session_id)
    subject = body.subject
    if subject is None:
        # With a key, asking again is the same anonymous person.
        keyring = here.lapse.keyring
        subject = f"anonymous:{keyring.token()}"
        if key is not None:
            named = keyring.lookup("anonymous", f"{who.actor}\0{session_id}\0{key}").hex()
            subject = f"anonymous:{named}"
    token = here.lapse.sessions.join(
        session_id, subject, here.now(), who.actor, name=body.name, key=key
    )
    return _joined(here, session_id, token)


def _joined(here: Service, session_id: str, token: str) -> dict[str, Any]:
    own = here.tokens.mint(
        Role.PARTICIPANT, JOINED_FOR, token, session=session_id, participant=token
    )
    return {"token": token, "access_token": own}


@router.post(
    "/sessions/{session_id}/invites",
    status_code=201,
    response_model=InviteView,
    operation_id="invite",
)
def invite(session_id: SessionId, body: NewInvite, who: Someone, here: Here) -> Mapping[str, Any]:
    """An invite for one or several people. It never outlives the session."""
    here.guard(who, session_id)
    now = here.now()
    ends = micros(body.expires_at) if body.expires_at is not None else now + INVITED_FOR
    if not now < ends <= now + LONGEST:
        raise Refused(422, "invalid", "The request is not as described", "it must end in a year")
    secret = here.lapse.sessions.invite(session_id, body.uses, ends, now, who.actor)
    signed = here.tokens.mint(Role.INVITE, ends - now, secret, session=session_id)
    return {"invite": signed, "uses": body.uses, "expires_at": format_instant(ends)}


@router.post("/invites/redeem", status_code=201, response_model=Redeemed, operation_id="redeem")
def redeem(body: Redemption, request: Request, who: Someone, here: Here) -> Mapping[str, Any]:
    """Come in by an invite. Refused at once when its session is due, swept or not, with the reason
    and what can be done."""
    held = who
    if body.invite is not None:
        try:
            held = here.tokens.verify(body.invite)
        except TokenExpired:
            raise InviteRefused("expired") from None
        except TokenInvalid:
            raise InviteRefused("unknown") from None
    if held.invite is None or held.session is None:
        raise InviteRefused("unknown")
    request.state.session = held.session
    subject = body.subject or f"anonymous:{here.lapse.keyring.token()}"
    try:
        token = here.lapse.sessions.redeem(
            held.session, held.invite, subject, here.now(), held.actor, name=body.name
        )
    except (SessionExpired, SessionErased, SessionNotFound) as error:
        raise InviteLeadsNowhere(error) from None
    return {"session": held.session, **_joined(here, held.session, token)}


@router.get(
    "/sessions/{session_id}/participants",
    response_model=ParticipantPage,
    operation_id="participants",
)
def participants(
    session_id: SessionId,
    request: Request,
    who: Someone,
    here: Here,
    after: AfterToken = None,
    limit: Limit = 100,
) -> Mapping[str, Any]:
    """Who takes part: names, when they joined, when they were last seen, whether they are here."""
    here.guard(who, session_id)
    names_what_was_read(request, "participants")
    found = here.lapse.sessions.participants(
        session_id, here.now(), after=after or "", limit=limit + 1
    )
    return {
        "participants": [
            {**member_document(one.member), "name": one.name, "is_active": one.is_active}
            for one in found[:limit]
        ],
        "next": found[limit - 1].member.token if len(found) > limit else None,
    }


@router.post("/sessions/{session_id}/leave", response_model=SessionView, operation_id="leave")
def leave(
    session_id: SessionId, body: OneParticipant, who: Someone, here: Here, key: Key = None
) -> Mapping[str, Any]:
    """A participant goes."""
    here.guard(who, session_id)
    token = _participant(who, body.participant)
    return view_document(
        here.lapse.sessions.leave(session_id, token, here.now(), who.actor, key=key)
    )


@router.post(
    "/sessions/{session_id}/seen", status_code=202, response_model=Counted, operation_id="seen"
)
async def seen(session_id: SessionId, body: Seen, who: Someone, here: Here) -> Mapping[str, Any]:
    """A heartbeat, answered once it is committed. One after the session's end revives nothing:
    410."""
    token = _participant(who, body.participant)
    if who.policies is not None:
        await run_in_threadpool(here.guard, who, session_id)
    if body.at is None:
        counted = await here.heartbeats.beat(session_id, token)
    else:
        one = {(session_id, token): micros(body.at)}
        counted = bool(await run_in_threadpool(_see, here, who, one, here.now()))
    if not counted:
        # Too late, or nobody: say which.
        await run_in_threadpool(here.lapse.sessions.participants, session_id, here.now(), limit=1)
        raise Refused(404, "not-found", "There is no such participant", "it never joined")
    return {"counted": 1, "ignored": 0}


@router.post("/seen", status_code=202, response_model=Counted, operation_id="seen-many")
async def seen_many(body: HeartbeatBatch, who: Someone, here: Here) -> Response:
    """Many heartbeats at once, of any sessions. Those that come too late are ignored."""
    now = here.now()
    newest: dict[tuple[str, str], int] = {}
    for one in body.seen:
        pair, at = (one.session, one.participant), micros(one.at) if one.at is not None else now
        newest[pair] = max(at, newest.get(pair, 0))
    return await _counted(here, who, newest, now)


async def _seen_now(
    body: Sequence[tuple[str, str]], request: Request, who: Principal, here: Service
) -> Response:
    """`seen_many` of a plain batch."""
    now = here.now()
    return await _counted(here, who, dict.fromkeys(body, now), now)


async def _counted(
    here: Service, who: Principal, newest: Mapping[tuple[str, str], int], now: int
) -> Response:
    counted = await run_in_threadpool(_see_many, here, who, newest, now) if newest else 0
    return _json({"counted": counted, "ignored": len(newest) - counted}, 202, {})


def _see_many(
    here: Service, who: Principal, newest: Mapping[tuple[str, str], int], now: int
) -> int:
    if who.policies is not None:
        found = here.lapse.log.find(sorted({session for session, _ in newest}))
        for row in found.values():
            may_touch(who, row.session.policy)
    return _see(here, who, newest, now)


def _see(here: Service, who: Principal, newest: Mapping[tuple[str, str], int], now: int) -> int:
    lapse = here.lapse
    return len(see(lapse.log, lapse.vault, lapse.policies, newest, now, who.actor))


def _participant(who: Principal, named: str | None) -> str:
    """Whom a request is about. Raises Refused."""
    if who.participant is not None:
        if named not in (None, who.participant):
            raise forbidden("this token is for another participant")
        return who.participant
    if named is None:
        raise Refused(422, "invalid", "The request is not as described", "name the participant")
    return named


def _expiry(here: Service, view: View, now: int) -> dict[str, Any]:
    session, ahead = view.session, view.forecast
    expired = session.expired_at is not None
    recover_until = here.lapse.sessions.recover_until(session, now)
    return {
        "id": session.id,
        "state": str(session.phase),
        "expired": expired,
        "expires_at": format_instant(ahead.expires_at),
        "erases_at": format_instant(ahead.erases_at),
        "rule": ahead.rule,
        "policy_version": ahead.policy_version or session.policy_version,
        "recover_until": format_instant(recover_until),
        "options": (
            options_after(session.id, recover_until) if expired else [option_to_extend(session.id)]
        ),
    }


def _tagged(document: Mapping[str, Any], if_none_match: str | None) -> Response:
    """With an entity tag (RFC 9110, 8.8.3); 304 if the client has this very answer."""
    body = orjson.dumps(document)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache, private"}
    known = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


HOT: Mapping[str, HotRoute[Any]] = {
    route.path: route
    for route in (
        HotRoute("/v1/sessions", parser_of(NewSession), create),
        HotRoute("/v1/seen", plain_batch, _seen_now),
    )
}
"""See adapters/http/hot.py."""
