"""Measures our recorders beside the library's own and beside the bare drivers, interleaved.

    python -m tests.benchmarks.recorders [--seconds 3] [--rounds 3]

PostgreSQL runs with fsync on, on the disk of the temporary folder.
"""

import argparse
import io
import json
import random
import sqlite3
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import psycopg2
from eventsourcing import postgres as library_postgres
from eventsourcing import sqlite as library_sqlite
from eventsourcing.persistence import ApplicationRecorder, StoredEvent
from eventsourcing.utils import Environment
from psycopg2.extras import register_uuid

from adapters.log import Factory
from tests.servers import PORT, ROLE, PostgresServer

THREADS = 8
BULK_EVENTS = 20_000
STATE = json.dumps({"timestamp": "2026-11-01T10:00:00+00:00", "value": "x" * 120}).encode()
TOPIC = "tests.domain:BankAccount.TransactionAppended"

Append = Callable[[Sequence[StoredEvent]], object]


def events(count: int) -> list[StoredEvent]:
    originator_id = uuid4()
    return [StoredEvent(originator_id, version, TOPIC, STATE) for version in range(1, count + 1)]


def single_appends(append: Append, seconds: float) -> float:
    """Events per second from eight threads, one event a call, each thread its own aggregates."""
    stop = time.perf_counter() + seconds
    counts = [0] * THREADS

    def author(number: int) -> None:
        while time.perf_counter() < stop:
            append(events(1))
            counts[number] += 1

    started = time.perf_counter()
    threads = [threading.Thread(target=author, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def bulk_append(append: Append, largest_call: int = 5000) -> float:
    """Events per second of one thread that writes calls of 500 to 5 000 events."""
    dice = random.Random(7)
    calls: list[list[StoredEvent]] = []
    left = BULK_EVENTS
    while left > 0:
        calls.append(events(min(left, largest_call, dice.choice([500, 1000, 2000, 5000]))))
        left -= len(calls[-1])
    started = time.perf_counter()
    for call in calls:
        append(call)
    return BULK_EVENTS / (time.perf_counter() - started)


def read_all(recorder: ApplicationRecorder) -> float:
    """Notifications per second, in pages of 1 000."""
    started = time.perf_counter()
    count = last = 0
    while page := recorder.select_notifications(last, 1000, inclusive_of_start=False):
        count += len(page)
        last = page[-1].id
    return count / (time.perf_counter() - started)


@contextmanager
def ours(url: str) -> Iterator[ApplicationRecorder]:
    factory = Factory(Environment("bench", {"LAPSE_DATABASE_URL": url}))
    yield factory.application_recorder()
    factory.close()


@contextmanager
def library_on_postgres(server: PostgresServer, url: str) -> Iterator[ApplicationRecorder]:
    factory = library_postgres.Factory(
        Environment(
            "bench",
            {
                "POSTGRES_DBNAME": url.partition("?")[0].rpartition("/")[2],
                "POSTGRES_HOST": str(server.folder),
                "POSTGRES_PORT": str(PORT),
                "POSTGRES_USER": ROLE,
                "POSTGRES_PASSWORD": "",
            },
        )
    )
    yield factory.application_recorder()
    factory.close()


@contextmanager
def library_on_sqlite(path: Path) -> Iterator[ApplicationRecorder]:
    factory = library_sqlite.Factory(Environment("bench", {"SQLITE_DBNAME": str(path)}))
    yield factory.application_recorder()
    factory.close()


RAW_TABLE = (
    "CREATE TABLE raw (id {serial} PRIMARY KEY, originator_id {uuid} NOT NULL, "
    "originator_version bigint NOT NULL, topic text NOT NULL, state {bytes} NOT NULL, "
    "UNIQUE (originator_id, originator_version))"
)


def raw_inserts(url: str) -> Append:
    """INSERT per commit, no order: positions from a sequence."""
    local = threading.local()

    def append(calls: Sequence[StoredEvent]) -> None:
        if not hasattr(local, "connection"):
            local.connection = psycopg2.connect(url)
            local.connection.autocommit = True
            register_uuid(conn_or_curs=local.connection)
        with local.connection.cursor() as cursor:
            for event in calls:
                cursor.execute(
                    "INSERT INTO raw (originator_id, originator_version, topic, state) "
                    "VALUES (%s, %s, %s, %s) RETURNING id",
                    (event.originator_id, event.originator_version, event.topic, event.state),
                )

    return append


def raw_copy(url: str) -> Append:
    """One binary COPY per call and commit, no order."""
    connection = psycopg2.connect(url)
    connection.autocommit = True

    def append(call: Sequence[StoredEvent]) -> None:
        tuples = []
        for event in call:
            assert isinstance(event.originator_id, UUID)
            topic = event.topic.encode()
            head = struct.pack(
                ">hi16siqi",
                4,
                16,
                event.originator_id.bytes,
                8,
                event.originator_version,
                len(topic),
            )
            tuples.append(head + topic + struct.pack(">i", len(event.state)) + event.state)
        stream = io.BytesIO(b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(tuples) + b"\xff\xff")
        with connection.cursor() as cursor:
            cursor.copy_expert(
                "COPY raw (originator_id, originator_version, topic, state) "
                "FROM STDIN (FORMAT binary)",
                stream,
            )

    return append


def raw_sqlite(path: Path) -> Append:
    """One transaction per call, WAL, synchronous FULL, one connection per thread."""
    local = threading.local()

    def append(call: Sequence[StoredEvent]) -> None:
        if not hasattr(local, "connection"):
            local.connection = sqlite3.connect(path, isolation_level=None, timeout=30)
            local.connection.execute("PRAGMA journal_mode=WAL")
            local.connection.execute("PRAGMA synchronous=FULL")
        local.connection.execute("BEGIN IMMEDIATE")
        local.connection.executemany(
            "INSERT INTO raw (originator_id, originator_version, topic, state) VALUES (?, ?, ?, ?)",
            [
                (event.originator_id.hex, event.originator_version, event.topic, event.state)
                for event in call
                if isinstance(event.originator_id, UUID)
            ],
        )
        local.connection.execute("COMMIT")

    return append


def measure(seconds: float, rounds: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}

    def note(name: str, figure: float) -> None:
        figures.setdefault(name, []).append(figure)
        print(f"{name:45} {figure:12,.0f}/s", flush=True)

    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(fsync=True))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = server.create_database()
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(RAW_TABLE.format(serial="bigserial", uuid="uuid", bytes="bytea"))
        connection.close()
        with sqlite3.connect(folder / "raw.db") as raw_file:
            raw_file.execute(RAW_TABLE.format(serial="INTEGER", uuid="text", bytes="blob"))
        raw_file.close()
        library_url = server.create_database()
        library = library_on_postgres(server, library_url)
        recorders = {
            "postgresql": {
                "ours": stack.enter_context(ours(url)),
                "library": stack.enter_context(library),
            },
            "sqlite": {
                "ours": stack.enter_context(ours(f"sqlite:///{folder / 'ours.db'}")),
                "library": stack.enter_context(library_on_sqlite(folder / "library.db")),
            },
        }
        raw = raw_sqlite(folder / "raw.db")
        singles = {"postgresql": raw_inserts(url), "sqlite": raw}
        bulks = {"postgresql": raw_copy(url), "sqlite": raw}
        for _ in range(rounds):
            for database, pair in recorders.items():
                appends = {name: recorder.insert_events for name, recorder in pair.items()}
                for name, append in (appends | {"raw": singles[database]}).items():
                    note(f"{database} single {name}", single_appends(append, seconds))
                for name, append in (appends | {"raw": bulks[database]}).items():
                    # psycopg 3 hangs for ever in Pipeline.sync when the library's recorder is given
                    # 5 000 events in one call.
                    hangs = database == "postgresql" and name == "library"
                    note(f"{database} bulk {name}", bulk_append(append, 500 if hangs else 5000))
                for name, recorder in pair.items():
                    note(f"{database} read {name}", read_all(recorder))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    figures = measure(arguments.seconds, arguments.rounds)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print()
    for name, median in medians.items():
        database, kind, _ = name.split()
        ratio = medians[f"{database} {kind} ours"] / median
        print(f"{name:30} {median:12,.0f}/s   ours is {ratio:5.2f} x")


if __name__ == "__main__":
    main()
