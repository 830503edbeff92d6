"""How the service is: health, figures for Prometheus, statistics."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from adapters.clock import format_instant
from adapters.http.access import Someone, authorize
from adapters.http.cursors import no_cursor
from adapters.http.metrics import Metrics
from adapters.http.models import (
    ByPolicy,
    Limit,
    Live,
    Ready,
    Since,
    StatisticsView,
    Until,
    UsagePage,
)
from adapters.http.service import Service, period, the_service
from adapters.log.migrate import Schema, schema_of
from adapters.vault.holds import state_decoder
from domain.errors import LapseError
from projections import active_sessions, usage

router = APIRouter(dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]


@router.get("/health/live", response_model=Live, operation_id="live")
def live() -> Mapping[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get(
    "/health/ready",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "What is not `ok` is wrong."}},
    operation_id="ready",
)
def ready(here: Here, response: Response) -> Mapping[str, Any]:
    """Whether requests can be served: 503 and what is wrong if not."""
    checks = {}
    try:
        schema = schema_of(here.lapse.engines)
        checks["database"] = "ok" if schema is Schema.CURRENT else f"schema {schema}"
        here.lapse.log.head()
    except LapseError as error:
        checks["database"] = type(error).__name__
    good = all(check == "ok" for check in checks.values())
    response.status_code = 200 if good else 503
    return {"status": "ready" if good else "not ready", "checks": checks}


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request, here: Here) -> Response:
    """Figures in Prometheus' text format; labels are policies, events and outcomes only."""
    found: Metrics = request.app.state.metrics
    return Response(found.text(here.lapse, here.now()), media_type=found.media_type)


@router.get("/v1/statistics", response_model=StatisticsView, operation_id="statistics")
def statistics(who: Someone, here: Here) -> Mapping[str, Any]:
    """Sessions as they are now, swept or not: in all, and by policy."""
    now = here.now()
    with here.lapse.engines.snapshot() as connection:
        counted = active_sessions.statistics(
            connection, here.lapse.policies.known, state_decoder(connection), now
        )
    shown = {
        name: one
        for name, one in sorted(counted.items())
        if who.policies is None or name in who.policies
    }
    return {
        "now": format_instant(now),
        "total": _document(sum(shown.values(), active_sessions.Statistics())),
        "policies": {name: _document(one) for name, one in shown.items()},
    }


@router.get("/v1/statistics/hourly", response_model=UsagePage, operation_id="statistics-hourly")
def statistics_by_hour(
    who: Someone,
    here: Here,
    policy: ByPolicy = None,
    since: Since = None,
    until: Until = None,
    after: Annotated[
        str | None,
        Query(
            max_length=200,
            description="`next` of the page before.",
            examples=["491628-reading-room-session.created"],
        ),
    ] = None,
    limit: Limit = 100,
) -> Mapping[str, Any]:
    """How often each event took effect, hour by hour and policy by policy."""
    shown = here.policies_for(who, policy)
    here.lapse.projector.catch_up()
    with here.lapse.engines.read() as connection:
        try:
            page = usage.hourly(
                connection,
                shown=shown,
                **period(since, until),
                after=after,
                limit=limit,
            )
        except ValueError:
            raise no_cursor() from None
    hours = [{**vars(one), "hour": format_instant(one.hour)} for one in page.hours]
    return {"hours": hours, "next": page.next}


def _document(counted: active_sessions.Statistics) -> dict[str, Any]:
    return {
        "total": counted.total,
        "active": counted.active,
        "inactive": counted.inactive,
        "participants": counted.participants,
        "participants_per_session": round(counted.participants_per_session, 2),
        "last_activity": format_instant(counted.last_activity),
        "stored_bytes": counted.stored_bytes,
    }
