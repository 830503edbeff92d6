"""Bodies that are read raw: bounded, never spooled to a file, overwritten after use."""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from hmac import compare_digest

from starlette.requests import Request

from adapters.http.problems import Refused
from adapters.keyring.aead import wipe

PATIENCE = 60.0
"""Seconds within which a body must have come: what is held for it is held from others."""
PARSED_AT_ONCE = 4
"""Bodies of JSON that are taken apart at the same time: as objects they need twenty times the
room."""


class InFlight:
    """Bytes of raw bodies that are in memory now. Of one event loop, so it needs no lock.

    total, per_session: the most there may be at once. pressed: whether memory is short, so that
    nothing more is taken.
    """

    def __init__(
        self, total: int, per_session: int, pressed: Callable[[], bool] = lambda: False
    ) -> None:
        self._pressed = pressed
        self._total = total
        self._per_session = per_session
        self._held: dict[str, int] = {}
        self.parsing = asyncio.Semaphore(PARSED_AT_ONCE)

    @property
    def held(self) -> int:
        return sum(self._held.values())

    @asynccontextmanager
    async def body(self, request: Request, session_id: str, most: int) -> AsyncIterator[bytearray]:
        """The body of a request, overwritten in the end. most: bytes.

        It counts as it comes, not as it is announced: who sends slowly keeps nobody waiting. Raises
        Refused: 413 if it is longer, 408 if it takes too long, 503 if too much is in memory.
        """
        said = request.headers.get("content-length", "")
        if said.isdigit() and (len(said) > 15 or int(said) > most):
            raise _too_large(most)
        body = bytearray()
        try:
            await self._read(request, session_id, most, body)
            yield body
        finally:
            self._give(session_id, len(body))
            wipe(body)

    async def _read(self, request: Request, session_id: str, most: int, into: bytearray) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                async for part in request.stream():
                    if len(into) + len(part) > most:
                        raise _too_large(most)
                    self._take(session_id, len(part))
                    into += part
        except TimeoutError:
            raise Refused(
                408, "slow", "The body came too slowly", f"send it within {PATIENCE:.0f} s"
            ) from None

    def _take(self, session_id: str, size: int) -> None:
        mine = self._held.get(session_id, 0)
        full = mine + size > self._per_session or self.held + size > self._total
        if full or self._pressed():
            raise Refused(
                503,
                "busy",
                "Too much is on its way",
                "send fewer bodies at once, and this one again",
                {"Retry-After": "1"},
            )
        if size:
            self._held[session_id] = mine + size

    def _give(self, session_id: str, size: int) -> None:
        left = self._held.get(session_id, 0) - size
        if left > 0:
            self._held[session_id] = left
        else:
            self._held.pop(session_id, None)


def _too_large(most: int) -> Refused:
    return Refused(413, "too-large", "The body is too large", f"at most {most} bytes are taken")


def check_digest(header: str, body: bytearray) -> None:
    """Compare the body with its `Content-Digest` (RFC 9530), whose sha-256 is needed.

    Raises Refused with what is wrong.
    """
    for part in header.split(","):
        algorithm, _, value = part.strip().partition("=")
        if algorithm.lower() != "sha-256":
            continue
        try:
            said = b64decode(value.strip().strip(":"), validate=True)
        except ValueError:
            break
        if compare_digest(said, sha256(body).digest()):
            return
        raise _digest("the body is not what its digest says: send it again")
    raise _digest("send `Content-Digest: sha-256=:BASE64:` of the body (RFC 9530)")


def _digest(detail: str) -> Refused:
    return Refused(422, "content-digest", "The checksum is missing or wrong", detail)
