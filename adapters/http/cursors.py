"""Opaque cursors into the log: `{epoch, {partition: position}}`, base64url.

Opaque, so that a log of many partitions can be followed later with no change to anybody who follows
it now. The epoch tells a cursor of another log, say of one that was restored.
"""

import base64
import binascii

import orjson

from adapters.http.problems import Refused
from domain.ports import PARTITION


def epoch_of(store: str, number: int) -> str:
    """How cursors name an epoch of a database. The first is named as before there were others."""
    return store if number == 1 else f"{store}.{number}"


def cursor(epoch: str, position: int) -> str:
    """The cursor behind `position`."""
    body = orjson.dumps({"e": epoch, "p": {str(PARTITION): position}})
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def position_of(text: str, epoch: str) -> int:
    """The position behind which a cursor points. Raises Refused."""
    try:
        found = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        known, position = found["e"], found["p"][str(PARTITION)]
        if not isinstance(position, int) or not 0 <= position < 2**63:
            raise ValueError
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise no_cursor() from None
    if known != epoch:
        raise Refused(409, "cursor-epoch", "The log was restored", "start again without a cursor")
    return int(position)


def no_cursor() -> Refused:
    return Refused(422, "cursor", "No cursor of this log", "use `next` as it came")
