"""People get a copy of what is held about them (GDPR Art. 15 and 20), over HTTP."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import StreamingResponse

from adapters.documents import access_document
from adapters.http.access import Someone, authorize, forbidden
from adapters.http.models import LOCATION, AccessRequestView, NewAccessRequest, RequestId
from adapters.http.service import Service, names_what_was_read, the_service
from adapters.http.tokens import Principal
from domain.facts import Verification

router = APIRouter(prefix="/v1/access-requests", dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]


@router.post(
    "",
    status_code=202,
    response_model=AccessRequestView,
    responses={202: {"headers": LOCATION}},
    operation_id="request-access",
)
def request_access(
    body: NewAccessRequest, response: Response, who: Someone, here: Here
) -> Mapping[str, Any]:
    """A copy of all that is held about somebody is made, sealed, and waits to be fetched. Of whom
    nothing is known gets one that says so."""
    _for_all_policies(who)
    request = here.lapse.access().request(
        body.subject, Verification(body.verified_by), here.now(), who.actor
    )
    response.headers["Location"] = f"/v1/access-requests/{request.id}"
    return access_document(request)


@router.get("/{request_id}", response_model=AccessRequestView, operation_id="access-request")
def access_request(request_id: RequestId, who: Someone, here: Here) -> Mapping[str, Any]:
    """How far it is."""
    _for_all_policies(who)
    return access_document(here.lapse.access().find(request_id, here.now()))


@router.get(
    "/{request_id}/content",
    response_class=Response,
    operation_id="access-content",
    responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
def access_content(request_id: RequestId, request: Request, who: Someone, here: Here) -> Response:
    """The copy, a zip of JSON and files. That it was fetched, and by whom, stands in the log."""
    _for_all_policies(who)
    names_what_was_read(request, "access")
    access = here.lapse.access()
    pieces = access.content(request_id, here.now(), who.actor)
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="{request_id}.zip"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)


def _for_all_policies(who: Principal) -> None:
    """A copy holds sessions of any policy."""
    if who.policies is not None:
        raise forbidden("this token is for some policies only, and a copy holds all of them")
