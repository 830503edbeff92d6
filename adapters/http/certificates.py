"""Certificates over HTTP: of a session for everybody who knows its id, since they name nobody; of a
request for whoever asked, and privacy officers."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from adapters.http.access import authorize
from adapters.http.models import RequestId, SessionId
from adapters.http.problems import Refused
from adapters.http.rates import Rates
from adapters.http.service import Service, the_service
from adapters.issuing import NotEnded, request_certificate, session_certificate

router = APIRouter(prefix="/v1", dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]

MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"
_ENVELOPE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {MEDIA_TYPE: {"schema": {"type": "object"}}},
        "description": "A DSSE envelope.",
    }
}


@router.get(
    "/sessions/{session_id}/certificate",
    operation_id="certificate",
    response_class=Response,
    responses=_ENVELOPE,
)
def certificate(session_id: SessionId, request: Request, here: Here) -> Response:
    """That a session expired or was erased: signed, with the proof that the log says so."""
    rates: Rates = request.app.state.rates
    rates.count(request.client.host if request.client is not None else "")
    try:
        made = session_certificate(here.lapse, session_id, here.now())
    except NotEnded as error:
        raise Refused(404, "not-found", "There is no certificate", str(error)) from None
    return Response(made, media_type=MEDIA_TYPE)


@router.get(
    "/erasure-requests/{request_id}/certificate",
    operation_id="erasure-certificate",
    response_class=Response,
    responses=_ENVELOPE,
)
def erasure_certificate(request_id: RequestId, here: Here) -> Response:
    """How far a request is, and how much it took: signed, with the proof that the log says so."""
    made = request_certificate(here.lapse, request_id, here.now())
    return Response(made, media_type=MEDIA_TYPE)
