"""Lapse and its recorders as the benchmark uses them."""

import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.utils import Environment

from adapters.log import Factory
from adapters.settings import load_settings
from adapters.wiring import Lapse, open_lapse
from domain.policy import MINUTE
from domain.ports import Append
from domain.session import Event, Session, create, evolve
from domain.timeline import advance
from tests.servers import PostgresServer

POLICY = "web-visit"
ACTOR = "benchmark"
START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""


@contextmanager
def lapse_on(url: str, keys: Path) -> Iterator[Lapse]:
    """Lapse on a database, empty or not. keys: the folder of its key file."""
    with open_lapse(load_settings(database_url=url, key_url=keys.as_uri())) as lapse:
        yield lapse


@contextmanager
def new_lapse_on(url: str) -> Iterator[Lapse]:
    """Lapse on an empty database, its keys in a folder that goes again."""
    with tempfile.TemporaryDirectory(prefix="lapse-keys-") as keys, lapse_on(url, Path(keys)) as it:
        yield it


NewDatabase = Callable[[], AbstractContextManager[str]]
"""The URL of an empty database that goes again."""


def new_databases(server: PostgresServer) -> dict[str, NewDatabase]:
    """How to get one, on each kind."""
    return {"SQLite": _sqlite_file, "PostgreSQL": partial(database_of, server)}


@contextmanager
def _sqlite_file() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="lapse-database-") as folder:
        yield f"sqlite:///{Path(folder) / 'lapse.db'}"


@contextmanager
def database_of(server: PostgresServer) -> Iterator[str]:
    """An empty database of this server, which goes again."""
    url = server.create_database()
    try:
        yield url
    finally:
        server.drop_database(url)


@contextmanager
def recorder_on(url: str) -> Iterator[ApplicationRecorder]:
    factory = Factory(Environment("bench", {"LAPSE_DATABASE_URL": url}))
    try:
        yield factory.application_recorder()
    finally:
        factory.close()


def command_of(lapse: Lapse) -> Callable[[], int]:
    """A whole command in small steps: decide, fold, look when it is due, encode and commit."""
    versions = lapse.policies.versions(POLICY)

    def begin() -> int:
        events = create(None, secrets.token_hex(16), POLICY, 1, START, ACTOR)
        session = evolve(None, events[0])
        due_at = advance(session, versions, START, START).next_at
        lapse.log.submit(Append(None, session, events, due_at), START)
        return 1

    return begin


def use_case_of(lapse: Lapse) -> Callable[[], int]:
    """The same as an application asks for it."""

    def begin() -> int:
        lapse.sessions.create(POLICY, START, ACTOR)
        return 1

    return begin


def lives(lapse: Lapse, sessions: int) -> list[Append]:
    """Whole lives of five events, each an append of its own session."""
    versions = lapse.policies.versions(POLICY)

    def life() -> Append:
        session: Session | None = None
        events: list[Event] = []

        def happen(new: Sequence[Event]) -> Session:
            nonlocal session
            for one in new:
                session = evolve(session, one)
                events.append(one)
            assert session is not None
            return session

        now = happen(create(None, secrets.token_hex(16), POLICY, 1, START, ACTOR))
        now = happen(now.join(secrets.token_hex(16), START, ACTOR, present=False))
        now = happen(now.see(START + 5 * MINUTE, ACTOR, every=MINUTE))
        now = happen(now.see(START + 10 * MINUTE, ACTOR, every=MINUTE))
        outcome = advance(now, versions, now.last_seen_at, START + 60 * MINUTE)
        now = happen(outcome.events)
        return Append(None, now, tuple(events), outcome.next_at)

    return [life() for _ in range(sessions)]
