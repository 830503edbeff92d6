"""The log over HTTP, for services that follow it and for auditors; and the log of requests."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from adapters.clock import format_instant
from adapters.documents import entry_document, event_document
from adapters.http.access import Someone, authorize, forbidden, may_touch
from adapters.http.cursors import cursor, no_cursor, position_of
from adapters.http.models import (
    AuditPage,
    AuditSearch,
    ByPolicy,
    EventPage,
    Limit,
    RequestPage,
    SessionId,
    Since,
    Token,
    Until,
)
from adapters.http.problems import Refused
from adapters.http.service import Service, period, the_service
from domain.facts import Pruned
from domain.policy import SECOND
from projections import audit

router = APIRouter(prefix="/v1", dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]


@router.get("/events", response_model=EventPage, operation_id="events")
def events(
    who: Someone,
    here: Here,
    after: Annotated[
        str | None,
        Query(
            max_length=200,
            description="`next` of the page before.",
            examples=["eyJlIjoiNGY1MyIsInAiOnsiMCI6NDJ9fQ"],
        ),
    ] = None,
    limit: Limit = 100,
) -> Mapping[str, Any]:
    """Events in the order of the log, none left out.

    A token for some policies sees those only, and of what was pruned nothing is left to see;
    `next` moves on all the same. The end is where it moves no more.
    """
    position = position_of(after, here.epoch) if after is not None else 0
    found = here.lapse.log.read(position, limit)
    if not found and position > here.lapse.log.head():
        raise Refused(409, "cursor-epoch", "The log was restored", "start again without a cursor")
    shown = [
        one
        for one in found
        if not isinstance(one.event, Pruned)
        and (who.policies is None or one.event.policy in who.policies)
    ]
    last = found[-1].position if found else position
    return {
        "events": [event_document(recorded) for recorded in shown],
        "next": cursor(here.epoch, last),
    }


@router.get("/audit", response_model=AuditSearch, operation_id="audit")
def audit_search(
    who: Someone,
    here: Here,
    policy: ByPolicy = None,
    event: Annotated[
        str | None, Query(pattern=r"^[a-z]{1,20}\.[a-z]{1,20}$", examples=["session.erased"])
    ] = None,
    since: Since = None,
    until: Until = None,
    after: Annotated[
        str | None,
        Query(
            max_length=100,
            description="`next` of the page before.",
            examples=["1769860800000000-42"],
        ),
    ] = None,
    limit: Limit = 100,
) -> Mapping[str, Any]:
    """What happened to any session, when, and under which rule, in the order of time."""
    shown = here.policies_for(who, policy)
    here.lapse.projector.catch_up()
    with here.lapse.engines.read() as connection:
        try:
            page = audit.search(
                connection,
                shown=shown,
                event=event,
                **period(since, until),
                after=after,
                limit=limit,
            )
        except ValueError:
            raise no_cursor() from None
    return {"entries": [entry_document(entry) for entry in page.entries], "next": page.next}


@router.get("/audit/sessions/{session_id}", response_model=AuditPage, operation_id="audit-session")
def audit_session(
    session_id: SessionId,
    who: Someone,
    here: Here,
    after: Annotated[
        int,
        Query(ge=0, lt=2**63, description="`position` of the last entry.", examples=[42]),
    ] = 0,
    limit: Limit = 200,
) -> Mapping[str, Any]:
    """What happened to a session, when, and under which rule; also after it was erased."""
    here.lapse.projector.catch_up()
    with here.lapse.engines.read() as connection:
        found = audit.of_session(connection, session_id, after=after, limit=limit)
    if not found and not after:
        raise Refused(404, "not-found", "There is no such session", "nothing is known of it")
    for entry in found[:1]:
        may_touch(who, entry.policy)
    return {
        "session": session_id,
        "entries": [entry_document(entry) for entry in found],
    }


@router.get("/audit/requests", response_model=RequestPage, operation_id="audit-requests")
def audit_requests(
    who: Someone,
    here: Here,
    after: Annotated[
        int | None,
        Query(
            ge=0, lt=2**63, description="`next` of the page before.", examples=[24_313_000_000_042]
        ),
    ] = None,
    limit: Limit = 100,
    actor: Annotated[
        Token | None,
        Query(description="By this actor only.", examples=["b94d27b9934d3e08a52e52d7da7dabfa"]),
    ] = None,
    session: Annotated[
        Token | None,
        Query(description="On this session only.", examples=["9f86d081884c7d659a2feaa0c55ad015"]),
    ] = None,
    operation: Annotated[
        str | None,
        Query(pattern="^[a-z-]{1,40}$", description="Its id in this document.", examples=["items"]),
    ] = None,
    read: Annotated[
        bool, Query(description="Only those whose answer held personal data.", examples=[True])
    ] = False,
    since: Since = None,
    until: Until = None,
) -> Mapping[str, Any]:
    """Who asked what, the newest first, for a year. Not for tokens of some policies: requests
    belong to none."""
    if who.policies is not None:
        raise forbidden("this token is for some policies only, and requests belong to none")
    found = here.requests.page(
        before=after,
        limit=limit,
        actor=actor,
        session=session,
        operation=operation,
        read=read,
        **period(since, until),
    )
    return {
        "requests": [
            {
                "at": format_instant(entry.at),
                "actor": entry.actor,
                "role": entry.role,
                "method": entry.method,
                "path": entry.path,
                "status": entry.status,
                "duration_ms": entry.duration / (SECOND / 1_000),
                "session": entry.session,
                "read": entry.read,
                "operation": entry.operation,
            }
            for _, entry in found
        ],
        "next": str(found[-1][0]) if len(found) == limit else None,
    }
