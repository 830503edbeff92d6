"""Erasing one person: from the request to `executed`, among few events and among many.

    python3 dev.py bench erasure [--json] [--quick] [--only PART]

PostgreSQL is a private server with fsync on. Each person took part in ten sessions, half of them
with others, and stored something in each. People are erased one after the other, in turns in the
small database and in the large one; the median person counts.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from adapters.wiring import Lapse
from domain.erasure import Status
from domain.facts import Verification
from domain.policy import DAY, MINUTE
from domain.use_cases.items import Content
from tests.benchmarks import _command
from tests.benchmarks._ours import ACTOR, POLICY, database_of, lapse_on
from tests.benchmarks._population import populate, settle
from tests.benchmarks._report import Figure, Row, alike, at_most
from tests.servers import PostgresServer

MOST = 50.0
"""Milliseconds from the request to `executed`."""
TOLERANCE = 0.35


@dataclass(frozen=True)
class ErasureScale:
    """people: erased in each database. sessions: of each person. few, many: events beside them."""

    people: int = 40
    sessions: int = 10
    few: int = 10_000
    many: int = 10_000_000


FULL = ErasureScale()
QUICK = ErasureScale(people=20, many=100_000)
TINY = ErasureScale(people=3, many=100_000)
"""For the test that keeps the benchmark alive: nothing that it says about speed means anything."""


def subject(scale: ErasureScale, server: PostgresServer) -> Iterator[Row]:
    """One person with ten sessions."""
    with ExitStack() as stack:
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lapse-keys-")))
        few = stack.enter_context(_prepared(server, keys / "few", scale, scale.few))
        many = stack.enter_context(_prepared(server, keys / "many", scale, scale.many))
        taken: dict[str, list[float]] = {"few": [], "many": []}
        for number in range(scale.people):
            for name, lapse in (("few", few), ("many", many)):
                taken[name].append(_erase(lapse, number, scale.sessions))
    # The first one in a process pays for statements and connections that the others find.
    figures = {name: Figure(tuple(times[1:])) for name, times in taken.items()}
    what = f"PostgreSQL, ms to erase a person of {scale.sessions} sessions"
    for name, events in (("few", scale.few), ("many", scale.many)):
        beside = f"{what}, beside {events:,} events (peer: at most)"
        yield at_most(beside, statistics.median(figures[name].rounds), MOST)
    yield alike(
        f"{what}, beside {scale.many:,} events (peer: beside {scale.few:,}; must be the same)",
        figures["many"],
        figures["few"],
        TOLERANCE,
    )


@contextmanager
def _prepared(
    server: PostgresServer, keys: Path, scale: ErasureScale, events: int
) -> Iterator[Lapse]:
    """A database with so many events and people in it."""
    with database_of(server) as url, lapse_on(url, keys) as lapse:
        now = lapse.clock()
        populate(lapse, events // 2, now - DAY, now)
        for number in range(scale.people):
            _enter(lapse, number, scale.sessions)
        settle(lapse)
        yield lapse


def _enter(lapse: Lapse, number: int, sessions: int) -> None:
    """Somebody takes part in so many sessions, every second one with others."""
    now = lapse.clock()
    for index in range(sessions):
        session = lapse.sessions.create(POLICY, now, ACTOR).id
        tokens = [lapse.sessions.join(session, f"person-{number}", now, ACTOR)]
        if index % 2:
            tokens += [lapse.sessions.join(session, f"guest-{n}", now, ACTOR) for n in range(2)]
        for about in (tokens[:1], tokens):
            records = [{"participant": token, "x": index} for token in about]
            plaintext = bytearray(orjson.dumps(records))
            content = Content("metrics", plaintext, participants=tuple(about), records=records)
            lapse.items.store(session, content, now, ACTOR)


def _erase(lapse: Lapse, number: int, sessions: int) -> float:
    """Milliseconds from the request to `executed`."""
    now = lapse.clock() + MINUTE
    began = time.perf_counter()
    asked = lapse.requests.of_subject(f"person-{number}", Verification.CONTROLLER, now, ACTOR)
    row = lapse.requests.advance(asked.request.id, now, verify=False)
    taken = (time.perf_counter() - began) * 1_000
    request = row.request
    assert request.status is Status.EXECUTED, request.status
    assert request.sessions + request.parts == sessions
    return taken


PARTS: Mapping[str, Callable[[ErasureScale, PostgresServer], Iterator[Row]]] = {"subject": subject}


def main(arguments: list[str]) -> int:
    return _command.main("Erasing a person", __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
