"""Whatever is killed, whenever: nothing acknowledged is lost, nothing happens twice."""

import os
import random
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import databases
from tests.acceptance.commands import (
    FAILED,
    INTERRUPTED,
    KILLED,
    REFUSED,
    Answer,
    Installation,
    Running,
    instant,
    micros,
    written,
)
from tests.independent import readers
from tests.independent.counts import MINUTE, visits
from tests.servers import PostgresServer, wait_until

SEED = 20261122
HEAD = "SELECT position FROM heads"
EXPIRED = "SELECT count(*) FROM events WHERE topic = 'session.expired.v1'"
CREATED = "SELECT count(*) FROM events WHERE topic = 'session.created.v1'"
START = micros("2026-11-01T10:00:00Z")
DEAD_IMPORT = 61
"""Seconds until the clock that an import holds is free again after that import was killed."""


@pytest.fixture(scope="module")
def crashing_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that is killed, so it writes to the disk like one in production."""
    with PostgresServer(fsync=True) as server:
        yield server


def visitors(folder: Path, number: int) -> str:
    """A log in which so many people come once each, all within a second."""
    return written(
        folder / f"{number}-visitors.jsonl",
        [
            {"at": instant(START + n), "activity": "seen", "visitor": f"{n} of {number}"}
            for n in range(number)
        ],
    )


def admit(site: Installation, number: int) -> None:
    """So many visits, all open still."""
    path = visitors(site.folder, number)
    site.lapse("ingest", path, "--format", "jsonl", "--policy", "web-visit", "--until", "last")


def assert_one_each(site: Installation, topic: str, number: int) -> None:
    """So many sessions have exactly one such event."""
    found = databases.per_session(site.database_url, topic)
    assert len(found) == number
    assert {times for _, times in found} == {1}


def assert_whole(site: Installation) -> None:
    """No gap, no duplicate, and the folded state is what replay gives."""
    positions = databases.positions(site.database_url)
    assert positions == list(range(1, len(positions) + 1))
    assert site.ask("db", "check") == {"ok": True, "findings": []}


def wait_for(site: Installation, query: str, least: int, running: Running) -> None:
    """Until the number is reached, or what should reach it has ended."""
    with databases.counting(site.database_url, query) as count:
        wait_until(lambda: count() >= least or not running.is_alive, 60, query)


@dataclass(frozen=True)
class RealLog:
    """A log, how it is imported up to its last record, and what that must lead to.

    events: how many at least.
    """

    lines: int
    events: int
    ingest: tuple[str, ...]
    expected: dict[str, int]


@pytest.fixture(scope="module")
def nasa(shared_data: Path) -> RealLog:
    path = shared_data / "weblog_nasa_19950709" / "access_09jul1995.txt.gz"
    return RealLog(35_272, 11_500, importing(path, "common"), counted(readers.web(path)))


@pytest.fixture(scope="module")
def edgar(shared_data: Path) -> RealLog:
    path = shared_data / "weblog_edgar_20030220" / "log-1000k.csv.gz"
    return RealLog(8_978, 4_000, importing(path, "edgar"), counted(readers.edgar(path)))


def importing(path: Path, form: str) -> tuple[str, ...]:
    options = ("--format", form, "--policy", "web-visit", "--until", "last", "--json")
    return ("ingest", str(path), *options)


def counted(records: Iterable[tuple[int, str]]) -> dict[str, int]:
    return visits(records, 30 * MINUTE)


def start_writing(site: Installation, log: RealLog) -> Running:
    """The import, just after it wrote a transaction: at work on the next, if that was not all."""
    before = databases.value(site.database_url, HEAD)
    running = site.start(*log.ingest)
    wait_for(site, HEAD, before + 1, running)
    assert databases.value(site.database_url, HEAD) > before, running.so_far
    return running


def assert_undisturbed(site: Installation, log: RealLog) -> None:
    """The import, run to its end, counts what one counts that nobody disturbed."""
    done = site.lapse(*log.ingest).document
    assert (done["lines"], done["rejected"]) == (log.lines, 0)
    assert done["sessions"] == done["participants"] == log.expected["sessions"]
    events = databases.events(site.database_url)
    assert done["events"] == events
    assert events["created"] == events["joined"] == log.expected["sessions"]
    assert events["expired"] == log.expected["expired_at_last_record"]
    assert_one_each(site, "session.expired.v1", events["expired"])
    assert_whole(site)


class TestKilledImport:
    """`kill -9` of an import, and the same command again."""

    @pytest.mark.row("G1", "G2", "P5.6")
    def test_killed_at_ten_moments_it_ends_as_if_nothing_had_been(
        self, site: Installation, nasa: RealLog
    ) -> None:
        """Each one has written a transaction and is at work on the next when it is killed. The one
        after it goes on where the last transaction ended; no line is lost or read twice."""
        site.lapse("db", "upgrade")
        for _ in range(10):
            running = start_writing(site, nasa)
            assert running.kill().code == KILLED
            site.wait(seconds=DEAD_IMPORT)
        assert databases.value(site.database_url, HEAD) < nasa.events
        assert_undisturbed(site, nasa)

    @pytest.mark.row("P5.6")
    def test_stopped_with_ctrl_c_it_goes_on_at_once(
        self, site: Installation, edgar: RealLog
    ) -> None:
        """What it had read and not written yet is read again; the clock is free at once."""
        site.lapse("db", "upgrade")
        for _ in range(3):
            answer = start_writing(site, edgar).interrupt()
            assert answer.code == INTERRUPTED
            assert answer.err == "lapse: stopped; what was acknowledged is kept\n"
        assert_undisturbed(site, edgar)

    class TestDatabase:
        """`kill -9` of the database under an import."""

        @pytest.fixture(params=["postgresql"])
        def database_url(self, crashing_server: PostgresServer) -> str:
            return crashing_server.create_database()

        @pytest.mark.row("G1", "P5.6")
        def test_killed_three_times_it_has_lost_nothing(
            self, site: Installation, edgar: RealLog, crashing_server: PostgresServer
        ) -> None:
            """The import says that the connection broke; the same command then goes on."""
            site.lapse("db", "upgrade")
            for _ in range(3):
                running = start_writing(site, edgar)
                kept = databases.value(site.database_url, HEAD)
                crashing_server.kill()
                answer = running.wait()
                assert answer.code == FAILED
                assert "database" in answer.err
                assert "Traceback" not in answer.err
                crashing_server.start()
                assert databases.value(site.database_url, HEAD) >= kept
                site.wait(seconds=DEAD_IMPORT)
            assert_undisturbed(site, edgar)


class TestAcknowledged:
    """What an application was told is written stays written."""

    @pytest.fixture(params=["sqlite", "postgresql"])
    def database_url(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """A database that is killed together with who writes to it."""
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path / 'db' / 'lapse.db'}"
        server: PostgresServer = request.getfixturevalue("crashing_server")
        return server.create_database()

    @pytest.mark.row("G1")
    def test_acknowledged_sessions_survive(
        self, site: Installation, request: pytest.FixtureRequest
    ) -> None:
        """A producer prints each id it is given; it and the database are killed in the middle,
        three times. Every id is in the log, and at most one per producer that nobody was told."""
        site.lapse("db", "upgrade")
        told: set[str] = set()
        for number, least in enumerate((40, 130, 260)):
            running = site.program("tests.acceptance.programs:create_and_say")
            wait_for(site, CREATED, least, running)
            if not databases.is_sqlite(site.database_url):
                server: PostgresServer = request.getfixturevalue("crashing_server")
                server.kill()
                server.start()
            answer = running.kill()
            *complete, _ = answer.out.split("\n")
            told |= set(complete)
            created = databases.per_session(site.database_url, "session.created.v1")
            assert told <= {session for session, _ in created}
            assert len(told) >= len(created) - (number + 1)
        assert_whole(site)


class TestKilledService:
    """`kill -9` of `lapse serve`, and its restart."""

    @pytest.mark.row("G2", "P5.6")
    def test_killed_while_it_sweeps_it_expires_everybody_once(self, site: Installation) -> None:
        """2 000 sessions are due; the service is killed three times among them."""
        admit(site, 2_000)
        site.now = instant(START + 31 * MINUTE)
        dice = random.Random(SEED)
        for least in (dice.randint(1, 500), dice.randint(600, 1_100), dice.randint(1_200, 1_700)):
            with ExitStack() as kept:
                service = kept.enter_context(site.serving(LAPSE_SWEEP_BATCH="20"))
                wait_for(site, EXPIRED, least, service)
                assert service.kill().code == KILLED
        assert len(databases.per_session(site.database_url, "session.expired.v1")) < 2_000
        with site.serving(LAPSE_SWEEP_BATCH="20") as service:
            wait_for(site, EXPIRED, 2_000, service)
        assert_one_each(site, "session.expired.v1", 2_000)
        assert_whole(site)

    class TestDatabase:
        """`kill -9` of the database under `lapse serve`."""

        @pytest.fixture(params=["postgresql"])
        def database_url(self, crashing_server: PostgresServer) -> str:
            return crashing_server.create_database()

        @pytest.mark.row("G2", "P5.6")
        def test_the_service_outlives_its_database(
            self, site: Installation, crashing_server: PostgresServer
        ) -> None:
            """It logs that the database is away, and goes on by itself once it is back."""
            admit(site, 1_000)
            site.now = instant(START + 31 * MINUTE)
            with site.serving(LAPSE_SWEEP_BATCH="20") as service:
                wait_for(site, EXPIRED, 200, service)
                crashing_server.kill()
                wait_until(lambda: bool(_errors(service)), 30, "the service to notice")
                crashing_server.start()
                wait_for(site, EXPIRED, 1_000, service)
                assert service.is_alive
            assert_one_each(site, "session.expired.v1", 1_000)
            assert_whole(site)


def _errors(service: Running) -> list[dict[str, Any]]:
    return [entry for entry in service.so_far.log if entry["level"] == "error"]


class TestSideBySide:
    """Several processes over the same sessions, without a leader."""

    @pytest.mark.row("G2", "G11", "P5.6")
    def test_four_sweeps_at_once_do_everything_once(self, site: Installation) -> None:
        """5 000 sessions are due: what the four say they did adds up to that, and every session has
        exactly one `expired`; a day later exactly one `erased`."""
        admit(site, 5_000)
        for topic, later in (
            ("session.expired.v1", 31 * MINUTE),
            ("session.erased.v1", 31 * MINUTE + 24 * 60 * MINUTE),
        ):
            site.now = instant(START + later)
            with databases.writers_kept_waiting(site.database_url):
                sweeps = [
                    site.start("sweep", "--json", LAPSE_SWEEP_BATCH="100", LAPSE_LOCK_TIMEOUT="60")
                    for _ in range(4)
                ]
                wait_until(partial(_all_wait, site, sweeps), 60, "the sweeps to wait")
            counts = [_succeeded(sweep) for sweep in sweeps]
            for count in counts:
                assert count["due"] == (
                    count["done"] + count["held"] + count["rearmed"] + count["failed"]
                )
            assert sum(count["done"] for count in counts) == 5_000
            assert sum(count["done"] > 0 for count in counts) > 1, "one process did it all"
            assert sum(count["failed"] for count in counts) == 0
            assert_one_each(site, topic, 5_000)
        assert set(databases.row_counts(site.database_url, databases.PEOPLE).values()) == {0}
        assert_whole(site)

    @pytest.mark.row("P5.6")
    def test_two_imports_take_turns(self, site: Installation) -> None:
        """The clock belongs to one of them: the other is refused, or waits if it may,
        until the first is done; a sweep is refused."""
        path = visitors(site.folder, 100)
        options = ("--format", "jsonl", "--policy", "web-visit", "--json")
        site.lapse("db", "upgrade")
        with site.start_fed("ingest", "-", *options) as (first, end):
            end.write(Path(path).read_bytes())
            wait_for(site, "SELECT count(*) FROM leases", 1, first)
            second = site.lapse("ingest", path, *options, "--wait", "0", expect=REFUSED)
            assert "another import is running" in second.err
            refused = site.lapse("sweep", expect=REFUSED)
            assert "an import holds the clock" in refused.err
            third = site.start("ingest", path, *options)
            wait_until(lambda: "waiting for it" in third.so_far.err, 30, "the third to wait")
        assert first.wait().document["sessions"] == 100
        assert third.wait().document["lines"] == 100
        assert site.ask("sweep")["due"] == 0


def _succeeded(running: Running) -> dict[str, int]:
    answer = running.wait()
    assert answer.code == 0, answer
    counts: dict[str, int] = answer.document
    return counts


class Reader:
    """A program that follows the log, and what it has read so far."""

    def __init__(self, site: Installation) -> None:
        self._url = site.database_url
        self._running = site.program("tests.acceptance.programs:follow")

    def read(self) -> list[tuple[int, int, str, int]]:
        """(page, position, session, version) of each event, as it came."""
        *whole, _ = self._running.so_far.out.split("\n")
        parts = (line.split() for line in whole)
        return [(int(a), int(b), session, int(c)) for a, b, session, c in parts]

    def catch_up(self) -> None:
        """Until it has read what stands in the log at this moment."""
        head = databases.value(self._url, HEAD)
        wait_until(lambda: self._position() >= head, 60, f"the reader to come to {head}")

    def end(self) -> None:
        assert self._running.kill().code == KILLED, self._running.so_far.err

    def _position(self) -> int:
        assert self._running.is_alive, self._running.so_far.err
        last = self._running.so_far.out.rpartition("\n")[0].rpartition("\n")[2]
        return int(last.split()[1]) if last else 0


class TestFollowed:
    """A reader beside many processes that write."""

    @pytest.mark.row("G1")
    def test_a_reader_sees_every_event_once_and_in_order(self, site: Installation) -> None:
        """Three producers and three imports, which take turns, write at the same time. A producer
        stops in whatever it is doing and goes on later; another and the imports are killed and
        begin anew. What the reader saw as the log grew is what stands there in the end."""
        site.lapse("db", "upgrade")
        reader = Reader(site)
        producers = [site.program("tests.acceptance.programs:create_and_say") for _ in range(3)]
        numbers = (900, 1_000, 1_100)
        imports = [following(site, number) for number in numbers]
        told: set[str] = set()
        for position in range(300, 1_000_000, 300):
            wait_for(site, HEAD, position, imports[-1])
            os.kill(producers[0].pid, signal.SIGSTOP)
            reader.catch_up()  # if it stopped in a transaction, nobody gets past it
            os.kill(producers[0].pid, signal.SIGCONT)
            if position == 600:
                told |= ids_told(producers.pop(1).kill())
                producers.append(site.program("tests.acceptance.programs:create_and_say"))
                killed = [one.kill().code == KILLED for one in imports]
                site.wait(seconds=DEAD_IMPORT)
                imports = [
                    following(site, number) if again else one
                    for one, number, again in zip(imports, numbers, killed, strict=True)
                ]
            if not any(one.is_alive for one in imports):
                break
        assert [one.wait().document["sessions"] for one in imports] == [*numbers]
        for producer in producers:
            told |= ids_told(producer.kill())
        reader.catch_up()
        # While the reader lives: SQLite may yet take in what a killed producer had written to the
        # write-ahead log and was not told of, once nobody has the file open any more.
        everything = "SELECT position, session_id, version FROM events ORDER BY position"
        stands_there = databases.rows(site.database_url, everything)
        reader.end()
        seen = reader.read()
        assert [one[1:] for one in seen] == stands_there
        assert [position for _, position, _, _ in seen] == list(range(1, len(seen) + 1))
        assert told <= {session for _, _, session, version in seen if version == 1}
        assert len(told) > 100
        assert seen[-1][0] > 50, "the log did not grow while it was read"
        assert_whole(site)


def following(site: Installation, number: int) -> Running:
    """An import of so many visitors, begun."""
    options = ("--format", "jsonl", "--policy", "web-visit", "--until", "last", "--json")
    return site.start("ingest", visitors(site.folder, number), *options)


def ids_told(answer: Answer) -> set[str]:
    """What a producer printed before it was killed."""
    *whole, _ = answer.out.split("\n")
    return set(whole)


class TestHalfWay:
    """Operations that cannot go on: they wait for a while, then give up whole."""

    @pytest.mark.row("P5.6")
    def test_a_sweep_waits_for_a_lock_as_long_as_it_is_told(self, site: Installation) -> None:
        """Then it says so and has changed nothing; with more patience it goes on once it can."""
        admit(site, 10)
        site.now = instant(START + 31 * MINUTE)
        before = databases.contents(site.database_url)
        with databases.writers_kept_waiting(site.database_url):
            refused = site.lapse("sweep", expect=FAILED, LAPSE_LOCK_TIMEOUT="0.2")
            assert "others kept the database busy for too long" in refused.err
            assert databases.contents(site.database_url) == before
            patient = site.start("sweep", "--json", LAPSE_LOCK_TIMEOUT="60")
            wait_until(partial(_all_wait, site, [patient]), 60, "the sweep to wait")
        assert _succeeded(patient)["done"] == 10

    @pytest.mark.row("P5.6")
    def test_an_erasure_that_fails_at_its_last_step_has_erased_nothing(
        self, site: Installation
    ) -> None:
        """The rows of people are deleted first and the event is written last; when that is refused
        they are all still there, and the next sweep, allowed to, erases them."""
        admit(site, 10)
        url = site.database_url
        site.now = instant(START + 31 * MINUTE)
        site.lapse("sweep")
        for statement in _refuse_erasures(url):
            databases.change(url, statement)
        tables = (*databases.PEOPLE, "events", "heads")
        before = {table: databases.contents(url)[table] for table in tables}
        site.now = instant(START + 25 * 60 * MINUTE)
        answer = site.lapse("sweep", expect=FAILED)
        assert "Traceback" not in answer.err
        assert {table: databases.contents(url)[table] for table in tables} == before

        databases.change(
            url, "DROP TRIGGER refuse" + ("" if databases.is_sqlite(url) else " ON events")
        )
        site.wait(hours=1)
        assert site.ask("sweep")["events"] == {"erased": 10}
        assert_whole(site)

    @pytest.mark.row("P5.6")
    def test_memory_does_not_grow_with_the_log(self, site: Installation) -> None:
        """200 MB, among them ten times as many visitors, take as much memory as a small log: lines
        are read, and sessions written, in batches."""
        ingest = ("ingest", "-", "--format", "jsonl", "--policy", "web-visit", "--until", "last")
        few, many = (Path(visitors(site.folder, number)).read_bytes() for number in (2_100, 21_000))
        noise = (bytes(2**20) + b"\n" for _ in range(190))
        little = site.peak(*ingest, stdin=[few])
        much = site.peak(*ingest, stdin=chain([many], noise))
        assert databases.value(site.database_url, CREATED) == 23_100
        assert much < 1.2 * little
        assert much < 300_000_000


def _all_wait(site: Installation, commands: list[Running]) -> bool:
    """Whether they have come to where they want to write.

    SQLite polls the file, which shows nowhere: there it is enough that each has opened it.
    """
    if databases.is_sqlite(site.database_url):
        return all(_has_opened(command.pid, "lapse.db") for command in commands)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    return bool(databases.value(site.database_url, waiting) == len(commands))


def _has_opened(pid: int, name: str) -> bool:
    folder = Path(f"/proc/{pid}/fd")
    with suppress(OSError):  # a file may be closed, or the process gone, while we look
        return any(link.readlink().name == name for link in folder.iterdir())
    return False


def _refuse_erasures(url: str) -> list[str]:
    """Statements after which the database takes no `erased` event."""
    if databases.is_sqlite(url):
        return [
            "CREATE TRIGGER refuse BEFORE INSERT ON events "
            "WHEN NEW.topic = 'session.erased.v1' BEGIN SELECT RAISE(ABORT, 'refused'); END"
        ]
    return [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'refused'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW "
        "WHEN (NEW.topic = 'session.erased.v1') EXECUTE FUNCTION refuse()",
    ]
