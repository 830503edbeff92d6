"""What lets others check the log: checkpoints and hash tiles for everybody, proofs and the events
themselves for auditors.

`/v1` with its checkpoint and its tiles is a log of C2SP tlog-tiles: hashes give nothing away, and a
log that only its operator can look at proves nothing.
"""

import base64
import struct
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response

from adapters.http.access import authorize
from adapters.http.models import ProofView
from adapters.http.problems import Refused
from adapters.http.service import Service, the_service
from adapters.log.entries import entries
from adapters.log.merkle import HASH, WIDTH
from adapters.log.note import proof_text
from adapters.log.tile_paths import parse_tile_name

router = APIRouter(prefix="/v1", dependencies=[Depends(authorize)])

Here = Annotated[Service, Depends(the_service)]
TileName = Annotated[
    str,
    Path(
        max_length=40,
        pattern=r"^(x[0-9]{3}/){0,4}[0-9]{3}(\.p/[1-9][0-9]{0,2})?$",
        description="Its number in groups of three digits; `.p/W` for its first W hashes.",
        examples=["000.p/1"],
    ),
]

FOR_EVER = "public, max-age=31536000, immutable"
"""A full tile never changes, nor does the beginning of one."""


def _text(media_type: str, description: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string"}
    return {200: {"content": {media_type: {"schema": schema}}, "description": description}}


@router.get(
    "/checkpoint",
    operation_id="checkpoint",
    response_class=Response,
    responses=_text("text/plain", "A signed note (C2SP tlog-checkpoint)."),
)
def checkpoint(here: Here) -> Response:
    """The newest checkpoint: how large the log is, and the root over all of it, signed."""
    found = here.lapse.checkpoints.current() or here.lapse.checkpoints.make(here.now())
    headers = {"Cache-Control": "no-cache"}
    return Response(found.note, media_type="text/plain; charset=utf-8", headers=headers)


@router.get(
    "/tile/entries/{tile:path}",
    operation_id="entries",
    response_class=Response,
    responses=_text("application/octet-stream", "Each leaf after its length (16 bits)."),
)
def entry_tile(tile: TileName, here: Here) -> Response:
    """The leaves behind a tile, as they were hashed: all columns of 256 events. Not once one of
    them was pruned."""
    number, width = _parsed(tile)
    found = entries(here.lapse.engines, number * WIDTH, width)
    if found is None or any(len(one) > 65_535 for one in found):
        raise _no_tile()
    body = b"".join(struct.pack(">H", len(one)) + one for one in found)
    return Response(body, media_type="application/octet-stream")


@router.get(
    "/tile/{level}/{tile:path}",
    operation_id="tile",
    response_class=Response,
    responses=_text("application/octet-stream", "Hashes of 32 bytes, one behind the other."),
)
def hash_tile(
    level: Annotated[int, Path(ge=0, le=63, examples=[0])], tile: TileName, here: Here
) -> Response:
    """A tile of the tree: 256 hashes, or the first ones of them."""
    number, width = _parsed(tile)
    hashes = here.lapse.tree.tile(level, number)[: width * HASH]
    if len(hashes) < width * HASH:
        raise _no_tile()
    headers = {"Cache-Control": FOR_EVER}
    return Response(hashes, media_type="application/octet-stream", headers=headers)


@router.get("/audit/proof", response_model=ProofView, operation_id="audit-proof")
def proof(
    here: Here,
    position: Annotated[
        int, Query(ge=1, lt=2**62, description="Of an event in the log.", examples=[1])
    ],
) -> Mapping[str, Any]:
    """That an event stands in the log, under the newest checkpoint. It holds when the event's body
    was pruned."""
    try:
        made = here.lapse.checkpoints.over(position, here.now())
        found = here.lapse.tree.inclusion(position, made.size)
    except ValueError:
        detail = "the log does not reach so far"
        raise Refused(404, "not-found", "There is no such event", detail) from None
    return {
        "position": position,
        "index": found.index,
        "size": found.size,
        "leaf": base64.b64encode(found.leaf).decode(),
        "hashes": [base64.b64encode(one).decode() for one in found.hashes],
        "checkpoint": made.note,
        "proof": proof_text(found.index, found.hashes, made.note),
    }


def _parsed(tile: str) -> tuple[int, int]:
    try:
        return parse_tile_name(tile)
    except ValueError:
        raise _no_tile() from None


def _no_tile() -> Refused:
    return Refused(404, "not-found", "There is no such tile", "the tree does not hold it (yet)")
