"""What sessions store, over HTTP: items, uploads in chunks, summaries."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from adapters.clock import format_instant
from adapters.http.access import Someone, authorize, forbidden
from adapters.http.bodies import InFlight, check_digest
from adapters.http.feed import Feed, Passing
from adapters.http.models import (
    LOCATION,
    MEDIA_TYPE,
    AfterToken,
    ChunkReceived,
    ItemPage,
    ItemView,
    Key,
    Limit,
    Name,
    NewItem,
    NewUpload,
    SessionId,
    SessionView,
    SummaryView,
    Token,
    UploadView,
)
from adapters.http.problems import Refused
from adapters.http.service import Service, names_what_was_read, the_service, view_document
from adapters.http.tokens import Principal
from adapters.keyring.aead import wipe
from domain.errors import StoreError
from domain.session import Scope
from domain.use_cases.items import CHUNK, MOST_CHUNKS, Content, Ends, StoredItem, StoredUpload
from domain.use_cases.redact import SOMEBODY

_log = structlog.get_logger(component="http")

router = APIRouter(prefix="/v1/sessions/{session_id}", dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]
ItemId = Annotated[
    str, Path(pattern=r"^[0-9a-f]{32}$", examples=["2c26b46b68ffc68ff99b453c1d304134"])
]
Index = Annotated[int, Path(ge=0, le=MOST_CHUNKS, description="From 0.", examples=[0])]
OfKind = Annotated[Name | None, Query(description="Of this kind only.", examples=["landmarks"])]
Digest = Annotated[
    str,
    Header(
        alias="Content-Digest",
        max_length=500,
        description="RFC 9530, with sha-256.",
        examples=["sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"],
    ),
]
_BYTES = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}}
}
_OF_AN_ITEM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": NewItem.model_json_schema(),
                "example": {"kind": "landmarks", "records": [{"stillness": 0.82}]},
            },
            **_BYTES,
        },
    }
}
_HARMLESS = {
    # Whatever somebody stored, no browser runs it here.
    "Cache-Control": "no-store",
    "Content-Disposition": "attachment",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}


# -- items ------------------------------------------------------------------------------------


@router.post(
    "/items",
    status_code=201,
    response_model=ItemView,
    responses={201: {"headers": LOCATION}},
    operation_id="store",
    openapi_extra=_OF_AN_ITEM,
)
async def store(
    session_id: SessionId,
    request: Request,
    who: Someone,
    here: Here,
    kind: Annotated[
        Name | None, Query(description="Of bytes; JSON says it itself.", examples=["picture"])
    ] = None,
    participant: Annotated[
        list[Token] | None,
        Query(
            max_length=100,
            description="Of bytes: whom they are about.",
            examples=[["b94d27b9934d3e08a52e52d7da7dabfa"]],
        ),
    ] = None,
    key: Key = None,
) -> Response:
    """Keep something: records as JSON, or, with any other content type, bytes as they are."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    most, in_flight = here.lapse.settings.http_body, _in_flight(request)
    await run_in_threadpool(_must_be_open, here, who, session_id)
    async with in_flight.body(request, session_id, most) as body:
        if media_type == "application/json":
            async with in_flight.parsing:
                content = await run_in_threadpool(_records, who, body)
                stored = await run_in_threadpool(_store, here, who, session_id, content, key)
        else:
            content = _bytes(who, body, kind, participant or (), media_type)
            stored = await run_in_threadpool(_store, here, who, session_id, content, key)
    location = {"Location": f"/v1/sessions/{session_id}/items/{stored.head.item_id}"}
    return _json(_item_document(session_id, stored), 201, location)


def _store(
    here: Service, who: Principal, session_id: str, content: Content, key: str | None
) -> StoredItem:
    try:
        return here.lapse.items.store(session_id, content, here.now(), who.actor, key=key)
    finally:
        wipe(content.plaintext)


def _must_be_open(here: Service, who: Principal, session_id: str) -> None:
    """Asked before a body is read, so that nobody fills the memory for what is refused anyway. A
    participant who left reads and stores nothing any more."""
    here.guard(who, session_id)
    here.lapse.items.must_be_open(session_id, here.now(), who.participant)


def _records(who: Principal, body: bytearray) -> Content:
    try:
        item = NewItem.model_validate_json(bytes(body))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None
    try:
        orjson.loads(body)
        plaintext = bytearray(orjson.dumps(item.records))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        # Such numbers would not come back as they were sent: pydantic and orjson make null of them.
        raise _invalid("a number is none of JSON, or needs more than 64 bits") from None
    return Content(
        item.kind,
        plaintext,
        Scope(item.tier),
        _about(who, item.participants),
        records=item.records,
    )


def _bytes(
    who: Principal,
    body: bytearray,
    kind: str | None,
    participants: Iterable[str],
    media_type: str,
) -> Content:
    if kind is None:
        raise _invalid("name the `kind` of these bytes in the query")
    if not body:
        raise _invalid("the body is empty")
    if not re.fullmatch(MEDIA_TYPE, media_type):
        raise _invalid("name the type of these bytes in `Content-Type`")
    return Content(kind, body, Scope.FULL, _about(who, participants), media_type)


def _about(who: Principal, participants: Iterable[str]) -> tuple[str, ...]:
    """Whom it is about; a participant stores what is about them."""
    tokens = tuple(dict.fromkeys(participants))
    if who.participant is None:
        return tokens
    if tokens not in ((), (who.participant,)):
        raise forbidden("this token is for another participant")
    return (who.participant,)


@router.get("/items", response_model=ItemPage, operation_id="items")
def items(
    session_id: SessionId,
    who: Someone,
    here: Here,
    kind: OfKind = None,
    after: AfterToken = None,
    limit: Limit = 100,
) -> Mapping[str, Any]:
    """What is stored and not yet due, but for the chunks of uploads; without the content."""
    _must_be_open(here, who, session_id)
    found, behind = here.lapse.items.list(
        session_id, here.now(), after=after or "", limit=limit, kind=kind
    )
    return {"items": [_item_document(session_id, one) for one in found], "next": behind}


@router.get(
    "/items/{item_id}",
    response_class=Response,
    operation_id="item",
    responses={200: {"content": {"application/json": {}, **_BYTES}}},
)
def item(
    session_id: SessionId, item_id: ItemId, request: Request, who: Someone, here: Here
) -> Response:
    """An item with its content: records as JSON, bytes as they were sent."""
    _must_be_open(here, who, session_id)
    names_what_was_read(request, "items")
    stored, plaintext = here.lapse.items.get(session_id, item_id, here.now())
    try:
        if stored.head.count is None:
            # As it was sent: a media type given as such gets a charset added.
            headers = {**_HARMLESS, "Content-Type": str(stored.head.media_type)}
            return Response(bytes(plaintext), headers=headers)
        document = _item_document(session_id, stored)
        return _json({**document, "records": orjson.loads(plaintext)}, 200, _HARMLESS)
    finally:
        wipe(plaintext)


# -- summaries --------------------------------------------------------------------------------


@router.get("/summary", response_model=SummaryView, operation_id="summary")
def summary(session_id: SessionId, request: Request, who: Someone, here: Here) -> Mapping[str, Any]:
    """The figures that the policy declares, of all records so far; they stay when those go."""
    _must_be_open(here, who, session_id)
    names_what_was_read(request, "summary")
    found = here.lapse.items.summary(session_id, here.now())
    return {
        "session": session_id,
        "tier": str(found.tier),
        "figures": found.figures,
        "contributors": found.contributors,
        **_ending(found.ends),
    }


@router.post("/summarize", response_model=SessionView, operation_id="summarize")
def summarize(
    session_id: SessionId, who: Someone, here: Here, key: Key = None
) -> Mapping[str, Any]:
    """Reduce the full data to its summary now, and delete it."""
    here.guard(who, session_id)
    view = here.lapse.sessions.summarize(session_id, here.now(), who.actor, key=key)
    return view_document(view)


# -- uploads ----------------------------------------------------------------------------------


@router.post(
    "/uploads",
    status_code=201,
    response_model=UploadView,
    responses={201: {"headers": LOCATION}},
    operation_id="begin-upload",
)
def begin_upload(
    session_id: SessionId, body: NewUpload, who: Someone, here: Here, key: Key = None
) -> Response:
    """Announce bytes that come in chunks of 1 MiB, several at once and in any order."""
    _must_be_open(here, who, session_id)
    stored = here.lapse.items.begin_upload(
        session_id,
        body.kind,
        body.size,
        here.now(),
        who.actor,
        participants=_about(who, body.participants),
        media_type=body.media_type,
        key=key,
    )
    location = {"Location": f"/v1/sessions/{session_id}/uploads/{stored.upload.upload_id}"}
    return _json(_upload_document(session_id, stored), 201, location)


@router.get("/uploads/{upload_id}", response_model=UploadView, operation_id="upload")
def upload(session_id: SessionId, upload_id: ItemId, who: Someone, here: Here) -> Mapping[str, Any]:
    """How far an upload is: whoever was interrupted sends the chunks that are missing."""
    _must_be_open(here, who, session_id)
    return _upload_document(session_id, here.lapse.items.upload(session_id, upload_id, here.now()))


@router.put(
    "/uploads/{upload_id}/chunks/{index}",
    status_code=201,
    response_model=ChunkReceived,
    operation_id="put-chunk",
    openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
    responses={200: {"model": ChunkReceived, "description": "It was here already."}},
)
async def put_chunk(
    session_id: SessionId,
    upload_id: ItemId,
    index: Index,
    request: Request,
    who: Someone,
    here: Here,
    digest: Digest,
) -> Response:
    """One chunk, raw, with its checksum. The same again changes nothing."""
    await run_in_threadpool(_must_be_open, here, who, session_id)
    async with _in_flight(request).body(request, session_id, CHUNK) as body:
        check_digest(digest, body)

        def put() -> Any:
            return here.lapse.items.put_chunk(
                session_id, upload_id, index, body, here.now(), who.actor, who.participant
            )

        received = await run_in_threadpool(put)
    document = {
        "index": received.index,
        "size": received.size,
        "received": received.received,
        "chunks": received.chunks,
        "complete": received.received == received.chunks,
    }
    if not received.repeated:
        told = {**document, "upload": upload_id}
        note = Passing("chunk_received", session_id, received.policy, here.now(), told)
        await run_in_threadpool(_tell, request.app.state.feed, note)
    return _json(document, 200 if received.repeated else 201, {})


def _tell(feed: Feed, note: Passing) -> None:
    try:
        feed.publish(note)
    except StoreError as error:  # the chunk is kept all the same
        _log.error("progress", operation="publish", result=type(error).__name__)


@router.get(
    "/uploads/{upload_id}/chunks/{index}",
    response_class=Response,
    operation_id="chunk",
    responses={200: {"content": _BYTES}},
)
def chunk(
    session_id: SessionId,
    upload_id: ItemId,
    index: Index,
    request: Request,
    who: Someone,
    here: Here,
) -> Response:
    """The bytes of one chunk."""
    _must_be_open(here, who, session_id)
    names_what_was_read(request, "items")
    plaintext = here.lapse.items.chunk(session_id, upload_id, index, here.now())
    try:
        return Response(bytes(plaintext), media_type="application/octet-stream", headers=_HARMLESS)
    finally:
        wipe(plaintext)


@router.get(
    "/uploads/{upload_id}/content",
    response_class=Response,
    operation_id="upload-content",
    responses={200: {"content": _BYTES}},
)
def upload_content(
    session_id: SessionId, upload_id: ItemId, request: Request, who: Someone, here: Here
) -> Response:
    """All bytes of a complete upload, streamed."""
    _must_be_open(here, who, session_id)
    names_what_was_read(request, "items")
    stored, chunks = here.lapse.items.whole(session_id, upload_id, here.now)
    media_type = stored.upload.media_type or "application/octet-stream"
    headers = {**_HARMLESS, "Content-Length": str(stored.upload.size)}
    return StreamingResponse(_sent(chunks), media_type=media_type, headers=headers)


def _sent(chunks: Iterable[bytearray]) -> Iterator[bytes]:
    for plaintext in chunks:
        try:
            yield bytes(plaintext)
        finally:
            wipe(plaintext)


# -- documents --------------------------------------------------------------------------------


def _ending(ends: Ends) -> dict[str, Any]:
    return {
        "expires_at": format_instant(ends.expires_at),
        "erases_at": format_instant(ends.erases_at),
        "rule": ends.rule,
        "policy_version": ends.policy_version,
    }


def _item_document(session_id: str, stored: StoredItem) -> dict[str, Any]:
    head = stored.head
    return {
        "id": head.item_id,
        "session": session_id,
        "kind": head.kind,
        "tier": str(head.scope),
        "participants": [one for one in head.participants if one != SOMEBODY],
        "media_type": head.media_type,
        "count": head.count,
        "size": head.size,
        "stored_at": format_instant(head.stored_at),
        **_ending(stored.ends),
    }


def _upload_document(session_id: str, stored: StoredUpload) -> dict[str, Any]:
    one = stored.upload
    return {
        "id": one.upload_id,
        "session": session_id,
        "kind": one.kind,
        "size": one.size,
        "media_type": one.media_type,
        "participants": [one for one in one.participants if one != SOMEBODY],
        "chunk_size": CHUNK,
        "chunks": stored.chunks,
        "received": list(stored.received),
        "complete": stored.complete,
        "created_at": format_instant(one.created_at),
        **_ending(stored.ends),
    }


def _json(document: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> Response:
    return Response(
        orjson.dumps(document), status, media_type="application/json", headers=dict(headers)
    )


def _invalid(detail: str) -> Refused:
    return Refused(422, "invalid", "The request is not as described", detail)


def _in_flight(request: Request) -> InFlight:
    in_flight: InFlight = request.app.state.in_flight
    return in_flight
