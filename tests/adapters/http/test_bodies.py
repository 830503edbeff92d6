"""Bodies that are read raw: how much of them may be in memory, and for how long."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from starlette.requests import Request

from adapters.http import bodies
from adapters.http.bodies import InFlight
from adapters.http.problems import Refused


def request(parts: Sequence[bytes | None], length: int | None = None) -> Request:
    """A request whose body comes in these parts; None: and then nothing comes any more."""
    waiting = iter(parts)

    async def receive() -> dict[str, Any]:
        part = next(waiting, b"")
        if part is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": part != b""}

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return Request({"type": "http", "headers": headers, "method": "PUT", "path": "/"}, receive)


async def read(in_flight: InFlight, sent: Request, session: str = "s", most: int = 10) -> bytes:
    async with in_flight.body(sent, session, most) as body:
        return bytes(body)


def test_a_body_counts_as_it_comes_and_not_as_it_is_announced() -> None:
    """Forty that announce much and send little keep nobody waiting."""

    async def play() -> None:
        in_flight = InFlight(total=20, per_session=10)
        slow = [
            asyncio.create_task(read(in_flight, request([b"x", None], 10), str(name)))
            for name in range(15)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert in_flight.held == 15
        assert await read(in_flight, request([b"abc"], 3)) == b"abc"
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert in_flight.held == 0

    asyncio.run(play())


@pytest.mark.parametrize(
    ("parts", "length", "status"),
    [([b"x" * 11], None, 413), ([b"x"], 11, 413), ([b"x"], 10**20, 413), ([b"x" * 6] * 2, 9, 413)],
)
def test_a_body_that_is_too_long_is_refused(
    parts: Sequence[bytes], length: int | None, status: int
) -> None:
    """Whatever it announces."""
    in_flight = InFlight(total=100, per_session=100)
    with pytest.raises(Refused) as refused:
        asyncio.run(read(in_flight, request(parts, length)))
    assert (refused.value.status, in_flight.held) == (status, 0)


def test_a_body_that_comes_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was held for it is free again."""
    monkeypatch.setattr(bodies, "PATIENCE", 0.01)
    in_flight = InFlight(total=100, per_session=100)
    with pytest.raises(Refused) as refused:
        asyncio.run(read(in_flight, request([b"x", None])))
    assert (refused.value.status, refused.value.name, in_flight.held) == (408, "slow", 0)


def test_bodies_without_content_are_counted_too() -> None:
    """Two at once of one session, both empty."""

    async def play() -> AsyncIterator[bytes]:
        in_flight = InFlight(total=100, per_session=100)
        for found in await asyncio.gather(*(read(in_flight, request([])) for _ in range(2))):
            yield found

    async def all_of_them() -> list[bytes]:
        return [one async for one in play()]

    assert asyncio.run(all_of_them()) == [b"", b""]
