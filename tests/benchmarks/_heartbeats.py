"""Heartbeats per CPU-second of the service: in batches, and one by one over WebSocket."""

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import psycopg2

from adapters.clock import system_clock
from adapters.http.opening import open_tokens
from adapters.http.tokens import Role
from adapters.wiring import Lapse
from domain.policy import HOUR, MINUTE, SECOND
from tests.benchmarks import _wrk
from tests.benchmarks._http_scale import HttpScale
from tests.benchmarks._ours import database_of, lapse_on
from tests.benchmarks._population import populate, settle
from tests.benchmarks._report import Figure, Row, compared, required
from tests.benchmarks._service import Served, Spent, serving, spent
from tests.benchmarks._sockets import connect, frame, post, until_closed, upgraded
from tests.servers import PostgresServer

BATCHED, ONE_BY_ONE = 50_000, 5_000
"""Promised heartbeats per CPU-second of the service."""
IN_A_ROOM = 10
CONNECTIONS = 4
"""Of producers that send batches."""
SAMPLED = 3 * MINUTE
"""How often a session's presence becomes an event: a tenth of its 30 minutes. Sessions began evenly
spread over the last such time, so samples come as often as they do all day."""
PACE = 0.25
"""Seconds between two heartbeats of one WebSocket."""
SEEN = frame(b'{"seen":true}')
NO_HEARTBEAT = frame(b"{}")
"""Ends a WebSocket once everything before it was taken."""


@dataclass(frozen=True)
class Crowd:
    """A service beside its participants. pairs: (session, token), those of a session together."""

    served: Served
    pairs: Sequence[tuple[str, str]]
    token: str
    own: Sequence[str]
    """Tokens of the first participants of sessions, for their WebSockets."""
    folder: Path
    url: str
    """Of the database."""


def batched(scale: HttpScale, server: PostgresServer) -> Iterator[Row]:
    """Through `POST /v1/seen`, everybody in turn."""
    what = f"heartbeats of {scale.participants:,} participants in batches of {scale.batch:,}"
    with _crowd(server, scale, IN_A_ROOM) as crowd:
        heartbeats, cost = _send_batches(scale, crowd)
    in_rooms = Figure((heartbeats / cost.service,))
    yield required(
        f"{what}, ten to a session, per CPU-second of the service (peer: promised)",
        in_rooms,
        BATCHED,
    )
    yield _with_database(f"{what}, ten to a session", heartbeats, cost)
    with _crowd(server, scale, 1) as crowd:
        heartbeats, cost = _send_batches(scale, crowd)
    yield compared(
        f"{what}, each in their own session, per CPU-second of the service (peer: ten to one)",
        Figure((heartbeats / cost.service,)),
        in_rooms,
    )


def one_by_one(scale: HttpScale, server: PostgresServer) -> Iterator[Row]:
    """Over WebSockets that also watch their sessions."""
    with _crowd(server, replace(scale, participants=10 * scale.sockets), 1) as crowd:
        heartbeats = scale.sockets * scale.beats
        last = system_clock() + round(PACE * (scale.beats - 1) * SECOND)
        cost = asyncio.run(_send_singly(scale, crowd))
        _must_be_seen(crowd, scale.sockets, last)
    what = f"heartbeats one by one over {scale.sockets:,} WebSockets"
    yield required(
        f"{what}, per CPU-second of the service (peer: promised)",
        Figure((heartbeats / cost.service,)),
        ONE_BY_ONE,
    )
    yield _with_database(what, heartbeats, cost)


def _with_database(what: str, heartbeats: int, cost: Spent) -> Row:
    """For whoever counts the database's time too."""
    name = f"{what}, per CPU-second of service and PostgreSQL (peer: of the service)"
    both, alone = heartbeats / (cost.service + cost.database), heartbeats / cost.service
    return Row(name, both, alone, both / alone, None, ok=True)


@contextmanager
def _crowd(server: PostgresServer, scale: HttpScale, each: int) -> Iterator[Crowd]:
    """participants: `each` to a session."""
    with (
        tempfile.TemporaryDirectory(prefix="lapse-bench-") as name,
        database_of(server) as url,
    ):
        folder = Path(name)
        keys = folder / "keys"
        keys.mkdir(mode=0o700)
        with lapse_on(url, keys) as lapse:
            now = system_clock()
            populate(lapse, scale.participants // each, now - SAMPLED, now, participants=each)
            lapse.projector.catch_up()  # a service that runs has done so
            settle(lapse)
            pairs, tokens = _pairs(lapse), open_tokens(lapse)
            producer = tokens.mint(Role.PRODUCER, HOUR, "benchmark")
            own = [
                tokens.mint(Role.PARTICIPANT, HOUR, token, session=session, participant=token)
                for session, token in pairs[: scale.sockets * each : each]
            ]
        with serving(server, url, keys, folder / "log") as served:
            yield Crowd(served, pairs, producer, own, folder, url)


def _pairs(lapse: Lapse) -> Sequence[tuple[str, str]]:
    query = "SELECT session_id, token FROM presence WHERE partition = 0 ORDER BY 1, 2"
    with lapse.engines.read() as connection:
        return [(row[0], row[1]) for row in connection.exec_driver_sql(query)]


# -- in batches -------------------------------------------------------------------------------


def _send_batches(scale: HttpScale, crowd: Crowd) -> tuple[int, Spent]:
    """How many were sent, and what they cost."""
    bodies = [
        orjson.dumps({"seen": [{"session": s, "participant": t} for s, t in part]})
        for start in range(0, len(crowd.pairs), scale.batch)
        if len(part := crowd.pairs[start : start + scale.batch]) == scale.batch
    ]
    asyncio.run(_must_count(crowd, bodies[0], scale.batch))
    answered: list[_wrk.Answered] = []

    def send() -> None:
        answered.append(
            _wrk.post(
                crowd.served,
                "/v1/seen",
                crowd.token,
                bodies,
                crowd.folder,
                connections=CONNECTIONS,
                seconds=scale.seconds,
            )
        )

    cost = spent(crowd.served, send)
    return answered[0].requests * scale.batch, cost


async def _must_count(crowd: Crowd, body: bytes, size: int) -> None:
    """A batch that the service ignored would be answered fast."""
    client = await connect(crowd.served)
    status, answer = await post(client, "/v1/seen", crowd.token, body)
    await client.close()
    counted = orjson.loads(answer)
    if (status, counted) != (202, {"counted": size, "ignored": 0}):
        raise RuntimeError(f"heartbeats were not taken: {status}, {counted}")


# -- one by one -------------------------------------------------------------------------------


def _must_be_seen(crowd: Crowd, count: int, at: int) -> None:
    """The last heartbeat of each is in the database: none was left behind."""
    query = "SELECT count(*) FROM presence WHERE partition = 0 AND last_seen_at >= %s"
    with closing(psycopg2.connect(crowd.url)) as connection, connection.cursor() as cursor:
        cursor.execute(query, (at,))
        [(seen,)] = cursor.fetchall()
    if seen != count:
        raise RuntimeError(f"{seen} of {count} were seen")


async def _send_singly(scale: HttpScale, crowd: Crowd) -> Spent:
    sessions = [session for session, _ in crowd.pairs[: scale.sockets]]
    sockets = []
    for session, own in zip(sessions, crowd.own, strict=True):
        sockets.append(await upgraded(crowd.served, f"/v1/sessions/{session}/watch", own))
    service, database = crowd.served.cpu(), crowd.served.database_cpu()
    ends = [asyncio.ensure_future(until_closed(socket)) for socket in sockets]
    began = time.monotonic()
    for number in range(scale.beats):
        for place, socket in enumerate(sockets):
            due = began + PACE * (number + place / len(sockets))
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            socket.writer.write(SEEN)
    for socket in sockets:
        socket.writer.write(NO_HEARTBEAT)
    await asyncio.wait_for(asyncio.gather(*ends), 60)
    return Spent(crowd.served.cpu() - service, crowd.served.database_cpu() - database)
