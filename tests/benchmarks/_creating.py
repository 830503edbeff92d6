"""Sessions that begin over HTTP, with the load generator and PostgreSQL beside the service."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from adapters.http.opening import open_tokens
from adapters.http.tokens import Role
from domain.policy import HOUR
from tests.benchmarks import _wrk
from tests.benchmarks._http_scale import HttpScale
from tests.benchmarks._ours import POLICY, database_of, lapse_on
from tests.benchmarks._report import Figure, Row, required
from tests.benchmarks._service import serving, spent
from tests.servers import PostgresServer

PROMISED = 1_000
"""Creations per second."""
CONNECTIONS = 64
WARM_UP = 2
"""Seconds; its sessions are not counted."""


def creating(scale: HttpScale, server: PostgresServer) -> Iterator[Row]:
    """`POST /v1/sessions` from 64 connections."""
    with (
        tempfile.TemporaryDirectory(prefix="lapse-bench-") as name,
        database_of(server) as url,
    ):
        folder = Path(name)
        keys = folder / "keys"
        keys.mkdir(mode=0o700)
        with lapse_on(url, keys) as lapse:
            token = open_tokens(lapse).mint(Role.PRODUCER, HOUR, "benchmark")
        with serving(server, url, keys, folder / "log") as served:

            def create(seconds: int) -> _wrk.Answered:
                body = b'{"policy":"%s"}' % POLICY.encode()
                return _wrk.post(
                    served,
                    "/v1/sessions",
                    token,
                    [body],
                    folder,
                    connections=CONNECTIONS,
                    seconds=seconds,
                )

            create(WARM_UP)
            answers: list[_wrk.Answered] = []
            cost = spent(served, lambda: answers.append(create(scale.seconds)))
    answered = answers[0]
    what = f"creations over HTTP, {CONNECTIONS} connections, load generator beside it"
    rate = answered.requests / answered.seconds
    yield required(f"{what}, /s (peer: promised)", Figure((rate,)), PROMISED)
    p50, p99 = 1_000 * answered.p50, 1_000 * answered.p99
    yield Row(f"{what}, p99 in ms (peer: p50)", p99, p50, p50 / p99, None, ok=True)
    yield Row(
        f"{what}, CPU-ms each of the service (peer: of PostgreSQL)",
        1_000 * cost.service / answered.requests,
        1_000 * cost.database / answered.requests,
        cost.database / cost.service,
        None,
        ok=True,
    )
