"""Appending: single events, whole commands, bulk."""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.persistence import StoredEvent

from adapters.wiring import Lapse
from tests.benchmarks import _peers as peers
from tests.benchmarks._ours import (
    ACTOR,
    POLICY,
    START,
    command_of,
    database_of,
    lives,
    new_lapse_on,
    recorder_on,
)
from tests.benchmarks._ours import use_case_of as sessions_create_of
from tests.benchmarks._report import Row, compared
from tests.benchmarks._rounds import from_threads, in_turns, rate
from tests.benchmarks._scale import Scale
from tests.servers import PostgresServer

FEW, MANY = 8, 64
STATE = json.dumps({"timestamp": "2026-11-01T10:00:00+00:00", "value": "x" * 120}).encode()
TOPIC = "tests.domain:BankAccount.TransactionAppended"


def single(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """One event per call at the recorder, from eight threads, on PostgreSQL."""
    with ExitStack() as stack:
        raw = stack.enter_context(database_of(server))
        peers.create_raw_table(raw)
        ours = stack.enter_context(recorder_on(stack.enter_context(database_of(server))))
        library = stack.enter_context(
            peers.library_on_postgres(server, stack.enter_context(database_of(server)), FEW)
        )
        figures = in_turns(
            scale.rounds,
            {
                "ours": _singly(scale, lambda: nullcontext(ours.insert_events)),
                "library": _singly(scale, lambda: nullcontext(library.recorder.insert_events)),
                "raw": _singly(scale, partial(peers.raw_insert, raw)),
            },
        )
    what = "PostgreSQL, single events/s at the recorder, 8 threads"
    yield compared(f"{what} (peer: eventsourcing.postgres)", figures["ours"], figures["library"], 5)
    yield compared(f"{what} (peer: raw INSERT, no order)", figures["ours"], figures["raw"], 0.8)


def single_sqlite(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """The same on SQLite."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(recorder_on(f"sqlite:///{folder / 'ours.db'}"))
        library = stack.enter_context(peers.library_on_sqlite(folder / "library.db"))
        raw = peers.RawSQLite(folder / "raw.db")
        figures = in_turns(
            scale.rounds,
            {
                "ours": _singly(scale, lambda: nullcontext(ours.insert_events)),
                "library": _singly(scale, lambda: nullcontext(library.recorder.insert_events)),
                "raw": _singly(scale, raw.connected),
            },
        )
    what = "SQLite, single events/s at the recorder, 8 threads"
    yield compared(f"{what} (peer: raw sqlite3, WAL, FULL)", figures["ours"], figures["raw"], 0.8)
    yield compared(f"{what} (peer: eventsourcing.sqlite)", figures["ours"], figures["library"])


def commands(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """Sessions that begin: decided, encoded, folded, committed; on PostgreSQL."""
    with ExitStack() as stack:
        raw = stack.enter_context(database_of(server))
        peers.create_raw_table(raw)
        ours = stack.enter_context(new_lapse_on(stack.enter_context(database_of(server))))
        library = stack.enter_context(
            peers.library_on_postgres(server, stack.enter_context(database_of(server)), FEW)
        )
        few = in_turns(
            scale.rounds,
            {
                "steps": _repeating(scale, FEW, lambda: command_of(ours)),
                "create": _repeating(scale, FEW, lambda: sessions_create_of(ours)),
                "library": _repeating(scale, FEW, lambda: _saving(library)),
            },
        )
        many = in_turns(
            scale.rounds,
            {
                "steps": _repeating(scale, MANY, lambda: command_of(ours)),
                "create": _repeating(scale, MANY, lambda: sessions_create_of(ours)),
                "raw": _singly(scale, partial(peers.raw_insert, raw), MANY),
            },
        )
    named = {
        "steps": "PostgreSQL, commands/s (decide, fold, encode, SqlLog.submit)",
        "create": "PostgreSQL, commands/s (Sessions.create)",
    }
    for key, what in named.items():
        peer = "peer: eventsourcing Application.save"
        yield compared(f"{what}, 8 threads ({peer})", few[key], few["library"], 3)
    for key, what in named.items():
        peer = "peer: raw INSERT per commit, 64 threads, no order"
        yield compared(f"{what}, 64 threads ({peer})", many[key], many["raw"], 1)


def existing(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """Commands on sessions that exist: found, decided, committed."""
    with ExitStack() as stack:
        ours = stack.enter_context(new_lapse_on(stack.enter_context(database_of(server))))
        library = stack.enter_context(
            peers.library_on_postgres(server, stack.enter_context(database_of(server)), FEW)
        )
        figures = in_turns(
            scale.rounds,
            {
                "ours": _repeating(scale, FEW, lambda: _storing(ours)),
                "library": _repeating(scale, FEW, lambda: _seeing(library)),
            },
        )
    what = "PostgreSQL, commands/s on sessions that exist (Sessions.store), 8 threads"
    peer = "peer: eventsourcing repository.get and Application.save"
    yield compared(f"{what} ({peer})", figures["ours"], figures["library"])


def bulk(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """Many events per call, one thread, on PostgreSQL."""
    with ExitStack() as stack:
        raw = stack.enter_context(database_of(server))
        peers.create_raw_table(raw)
        copy = stack.enter_context(peers.raw_copy(raw))
        ours = stack.enter_context(recorder_on(stack.enter_context(database_of(server))))
        lapse = stack.enter_context(new_lapse_on(stack.enter_context(database_of(server))))
        library = stack.enter_context(
            peers.library_on_postgres(server, stack.enter_context(database_of(server)), FEW)
        )
        figures = in_turns(
            scale.rounds,
            {
                "ours": _in_bulk(scale, ours.insert_events),
                "raw": _in_bulk(scale, copy),
                "library": _in_bulk(scale, library.recorder.insert_events, peers.LARGEST_CALL),
                "log": partial(_lives_appended, scale, lapse),
                "same": partial(_copied, scale, copy),
            },
        )
    what = "PostgreSQL, events/s in bulk"
    yield compared(
        f"{what} at the recorder (peer: raw COPY, calls of the same size)",
        figures["ours"],
        figures["raw"],
        0.4,
    )
    yield compared(
        f"{what} at the recorder (peer: eventsourcing.postgres, calls of 500)",
        figures["ours"],
        figures["library"],
    )
    yield compared(
        f"{what} at SqlLog.append, 5 events a session, state folded (peer: raw COPY of 1 000)",
        figures["log"],
        figures["same"],
    )


def bulk_sqlite(scale: Scale, server: PostgresServer) -> Iterator[Row]:
    """The same on SQLite."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(recorder_on(f"sqlite:///{folder / 'ours.db'}"))
        lapse = stack.enter_context(new_lapse_on(f"sqlite:///{folder / 'lapse.db'}"))
        raw = stack.enter_context(peers.RawSQLite(folder / "raw.db").connected())
        figures = in_turns(
            scale.rounds,
            {
                "ours": _in_bulk(scale, ours.insert_events),
                "raw": _in_bulk(scale, raw),
                "log": partial(_lives_appended, scale, lapse),
                "same": partial(_copied, scale, raw),
            },
        )
    what = "SQLite, events/s in bulk"
    yield compared(
        f"{what} at the recorder (peer: raw sqlite3, calls of the same size)",
        figures["ours"],
        figures["raw"],
        0.4,
    )
    yield compared(
        f"{what} at SqlLog.append, 5 events a session, state folded (peer: raw sqlite3)",
        figures["log"],
        figures["same"],
    )


# -- single -----------------------------------------------------------------------------------


def _singly(
    scale: Scale, connected: Callable[[], AbstractContextManager[peers.Write]], threads: int = FEW
) -> Callable[[], float]:
    """One event a call, each the first of its own aggregate."""

    @contextmanager
    def author() -> Iterator[Callable[[], int]]:
        with connected() as write:

            def operation() -> int:
                write(_stored(1))
                return 1

            yield operation

    return lambda: from_threads(threads, scale.seconds, author)


def _stored(count: int) -> list[StoredEvent]:
    originator_id = uuid4()
    return [StoredEvent(originator_id, version, TOPIC, STATE) for version in range(1, count + 1)]


# -- commands ---------------------------------------------------------------------------------


def _repeating(
    scale: Scale, threads: int, operation: Callable[[], Callable[[], int]]
) -> Callable[[], float]:
    """operation: called once in each thread for what it repeats."""
    return lambda: from_threads(threads, scale.seconds, lambda: nullcontext(operation()))


def _saving(library: Application[UUID]) -> Callable[[], int]:
    def begin() -> int:
        library.save(peers.Visit(POLICY, ACTOR, 1, None))
        return 1

    return begin


def _storing(lapse: Lapse) -> Callable[[], int]:
    """Twenty commands on each session, one after the other."""
    session_id, left = "", 0

    def store() -> int:
        nonlocal session_id, left
        if not left:
            session_id, left = lapse.sessions.create(POLICY, START, ACTOR).id, 20
        lapse.sessions.store(session_id, 1, 1024, START + 1, ACTOR)
        left -= 1
        return 1

    return store


def _seeing(library: Application[UUID]) -> Callable[[], int]:
    """The like: twenty on each aggregate, which is read each time."""
    visit_id, left = UUID(int=0), 0

    def see() -> int:
        nonlocal visit_id, left
        if not left:
            visit = peers.Visit(POLICY, ACTOR, 1, None)
            library.save(visit)
            visit_id, left = visit.id, 20
        found: peers.Visit = library.repository.get(visit_id)
        found.see(ACTOR)
        library.save(found)
        left -= 1
        return 1

    return see


# -- bulk -------------------------------------------------------------------------------------


def _in_bulk(scale: Scale, write: peers.Write, largest: int = 5_000) -> Callable[[], float]:
    """Calls of 500 to 5 000 events, the same for everybody."""

    def run() -> float:
        dice = random.Random(7)
        calls: list[Sequence[StoredEvent]] = []
        left = scale.bulk
        while left > 0:
            size = min(left, largest, dice.choice([500, 1000, 2000, 5000]))
            calls.append(_stored(size))
            left -= size
        return rate(scale.bulk, lambda: [write(call) for call in calls])

    return run


def _lives_appended(scale: Scale, lapse: Lapse) -> float:
    """Appends of 200 sessions with five events each."""
    appends = lives(lapse, scale.bulk // 5)
    calls = [appends[start : start + 200] for start in range(0, len(appends), 200)]

    def run() -> None:
        for call in calls:
            for answer in lapse.log.append(call, START):
                assert not isinstance(answer, Exception), answer

    return rate(5 * len(appends), run)


def _copied(scale: Scale, write: peers.Write) -> float:
    calls = [[one for _ in range(200) for one in _stored(5)] for _ in range(scale.bulk // 1000)]
    return rate(1000 * len(calls), lambda: [write(call) for call in calls])
