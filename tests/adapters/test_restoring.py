"""A restored database is told again what it has forgotten, by a process that dies at any step: the
next one completes it, everything is done once, and nothing counts as done that is not."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, insert, select
from structlog.testing import capture_logs

from adapters.clock import format_instant
from adapters.log import remembering
from adapters.log.checks import check_log
from adapters.log.engine import Engines, open_engines
from adapters.log.event_log import SqlLog
from adapters.log.remembering import Repeating
from adapters.log.schema import metadata
from adapters.restoring import COLLISIONS, PAUSE, Standing, State
from adapters.settings import Settings, load_settings
from adapters.wiring import Lapse, open_lapse
from domain.erasure import Status
from domain.errors import OnHold, RestorePending, StoreBusy
from domain.facts import EpochOpened, Refusal, Verification
from domain.ledger import Deed, Entry, Kind
from domain.policy import DAY, parse
from domain.session import Ground
from domain.use_cases.items import Content
from domain.use_cases.policies import PolicyBook, apply
from domain.use_cases.restore import repeat
from tests.deaths import Countdown, Killed, killed_at

START = 1_793_527_200_000_000
"""1 November 2026, 10:00 UTC."""
ACTOR = "application"
RULES = """
[policy.room]
shared = "redact"
rules = [
  {{ since = "created", after = "{lasts}", do = "expire" }},
  {{ since = "expired", after = "24h", do = "erase" }},
]
"""
STRIDE, SHORT_STRIDE = 7, 3
"""Every so many steps one is the last, of a restore and of a decision; offset by database, so that
both together see more. Between the ledger and the end of a transaction are three steps."""

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


class House:
    """An installation with people in rooms. `process` is one that runs on it."""

    def __init__(self, database_url: str, key_url: str, folder: Path) -> None:
        self._clock, policies = folder / "clock", folder / "policies.toml"
        self._clock.write_text(str(format_instant(START)))
        policies.write_text(RULES.format(lasts="30d"))
        self.settings: Settings = load_settings(
            database_url=database_url,
            key_url=key_url,
            env="test",
            clock=f"file:{self._clock}",
            policy_file=policies,
        )
        self.engines: Engines = open_engines(database_url)
        self.rooms: dict[str, str] = {}

    @property
    def is_postgresql(self) -> bool:
        return self.engines.dialect == "postgresql"

    @contextmanager
    def process(self, *, restore: bool = False) -> Iterator[Lapse]:
        with open_lapse(self.settings, restore=restore) as lapse:
            yield lapse

    def wait(self, micros: int) -> None:
        self._clock.write_text(str(format_instant(START + micros)))

    def open_room(self, lapse: Lapse, name: str, *people: str) -> str:
        """A session that is remembered by this name, with something stored about everybody."""
        room = lapse.sessions.create("room", lapse.clock(), ACTOR).id
        self.rooms[name] = room
        for person in people:
            token = lapse.sessions.join(room, person, lapse.clock(), ACTOR)
            records = [{"participant": token, "x": 1}]
            plaintext = bytearray(orjson.dumps(records))
            content = Content("metrics", plaintext, participants=(token,), records=records)
            lapse.items.store(room, content, lapse.clock(), ACTOR)
        return room

    # -- the database as it was

    def copy(self) -> Rows:
        with self.engines.snapshot() as connection:
            return {
                name: [dict(row._mapping) for row in connection.execute(select(table))]
                for name, table in metadata.tables.items()
            }

    def put_back(self, rows: Rows) -> None:
        with self.engines.write() as connection:
            for name, table in metadata.tables.items():
                connection.exec_driver_sql(f"DELETE FROM {name}")
                if rows[name]:
                    connection.execute(insert(table), list(rows[name]))

    def contained(self) -> int:
        with self.engines.read() as connection:
            return remembering.number_in(connection)

    def sessions(self) -> set[str]:
        with self.engines.read() as connection:
            rows = connection.exec_driver_sql("SELECT session_id FROM sessions").fetchall()
        return {row[0] for row in rows}


@pytest.fixture
def house(database_url: str, key_url: str, tmp_path: Path) -> Iterator[House]:
    made = House(database_url, key_url, tmp_path)
    with made.process(restore=True) as lapse:
        for name in ("held", "released", "extended", "erased", "spared"):
            made.open_room(lapse, name, f"owner of {name}")
        made.open_room(lapse, "shared", "ann", "bob")
        made.open_room(lapse, "of ann alone", "ann")
        made.open_room(lapse, "of cem", "cem")
        now = lapse.clock()
        lapse.sessions.hold(made.rooms["released"], "case-1", Ground.LEGAL_CLAIM, None, now, ACTOR)
    yield made
    made.engines.close()


def decide(house: House, lapse: Lapse) -> None:
    """What happens after the backup."""
    rooms, now = house.rooms, lapse.clock()
    lapse.sessions.hold(rooms["held"], "case-2", Ground.LEGAL_CLAIM, None, now, ACTOR)
    lapse.sessions.release(rooms["released"], "case-1", now, ACTOR)
    lapse.sessions.extend(rooms["extended"], now + 40 * DAY, now, ACTOR)
    carry_out(lapse, lapse.requests.of_session(rooms["erased"], *verified(lapse)).request.id)
    carry_out(lapse, lapse.requests.of_subject("ann", *verified(lapse)).request.id)
    lapse.holds.of_subject("cem", Ground.LEGAL_CLAIM, None, now, ACTOR)
    apply(lapse.log, parse(RULES.format(lasts="60d"))["room"], now, ACTOR)


def verified(lapse: Lapse) -> tuple[Verification, int, str]:
    return Verification.CONTROLLER, lapse.clock(), ACTOR


def carry_out(lapse: Lapse, request: str) -> None:
    lapse.requests.advance(request, lapse.clock(), verify=False)


@contextmanager
def dying(lapse: Lapse, last: int | None) -> Iterator[Countdown]:
    """What reaches ledger and key store is a step, too."""
    ledger, keks = lapse.restoring._ledger.ledger, lapse.keyring.keks
    with pytest.MonkeyPatch.context() as patch, killed_at(last) as countdown:
        patch.setattr(ledger, "append", countdown.around(ledger.append))
        patch.setattr(keks, "note_counter", countdown.around(keks.note_counter))
        yield countdown


def entries(lapse: Lapse) -> list[Entry]:
    return list(lapse.restoring._ledger.ledger.read(0))


def topics(lapse: Lapse, room: str) -> Counter[str]:
    return Counter(one.event.TOPIC.split(".")[1] for one in lapse.log.history(room))


def of_ann(house: House, lapse: Lapse) -> int:
    """Rows that say where she is."""
    lookup = lapse.keyring.lookup("subject", "ann")
    return len(lapse.requests._requests.of_subject(lookup))


def assert_forgotten_again(house: House, lapse: Lapse) -> None:
    """Everything that was decided is so, and was written once."""
    rooms, now = house.rooms, lapse.clock()
    assert lapse.restoring.look().state is State.CURRENT
    assert house.sessions() == {
        rooms[name] for name in ("held", "released", "extended", "spared", "shared", "of cem")
    }
    assert of_ann(house, lapse) == 0
    assert topics(lapse, rooms["erased"])["erased"] == 1
    assert topics(lapse, rooms["of ann alone"])["erased"] == 1
    assert topics(lapse, rooms["held"])["held"] == 1
    assert topics(lapse, rooms["released"])["released"] == 1
    assert topics(lapse, rooms["extended"])["extended"] == 1
    assert len(lapse.sessions.participants(rooms["shared"], now)) == 1
    for room in ("held", "of cem"):
        with pytest.raises(OnHold):
            lapse.sessions.erase(rooms[room], now, ACTOR)
    done = lapse.requests.page()
    assert len(lapse.log.policies()["room"]) == 2
    assert len(done) == 2
    assert {row.request.status for row in done} == {Status.EXECUTED}
    assert list(check_log(lapse.engines, lapse.log, now, lambda *_: None)) == []


def assert_nothing_counts_that_is_not_done(house: House, known: Sequence[Entry]) -> None:
    """By what the database says that it contains."""
    contained, there = house.contained(), house.sessions()
    for entry in known[:contained]:
        if entry.kind is Kind.ERASED:
            assert entry.fields["session"] not in there, entry.number


def epochs(lapse: Lapse) -> list[EpochOpened]:
    return [one.event for one in lapse.log.history("log") if isinstance(one.event, EpochOpened)]


@pytest.mark.row("G5")
def test_killed_between_any_two_steps_of_a_restore(house: House) -> None:
    """The backup is put back again and again, and whoever repeats the ledger dies, each time a few
    steps later; the next one completes it."""
    backup = house.copy()
    with house.process(restore=True) as lapse:
        decide(house, lapse)
        known = entries(lapse)
    house.put_back(backup)
    with house.process() as lapse, dying(lapse, None) as whole:
        lapse.restoring.run()
    assert whole.count > 100
    with house.process() as lapse:
        assert_forgotten_again(house, lapse)
        assert [one.kind for one in entries(lapse)[len(known) :]] == [Kind.EPOCH]
    last, killed = (1 if house.is_postgresql else 4), True
    while killed:
        house.put_back(backup)
        before = len(known) + len(epoch_entries(house))
        killed = dies_while_it_repeats(house, last)
        assert_nothing_counts_that_is_not_done(house, known)
        with house.process() as lapse:
            if lapse.restoring.look().state is not State.CURRENT:
                assert lapse.restoring.is_needed(), last
            lapse.restoring.run()
            assert_forgotten_again(house, lapse)
            assert len(epochs(lapse)) == 1, last
            told = entries(lapse)
        assert [one.number for one in told] == list(range(1, len(told) + 1))
        assert [one.kind for one in told[before:]] == [Kind.EPOCH], last
        last += STRIDE
    assert last > whole.count - 2 * STRIDE


def dies_while_it_repeats(house: House, last: int) -> bool:
    """Whether it came so far as to die at this step."""
    try:
        with house.process() as lapse, dying(lapse, last):
            lapse.restoring.run()
    except Killed:
        return True
    return False


@pytest.mark.row("G5")
def test_a_request_that_had_to_wait_waits_again(house: House) -> None:
    """Asked for after the backup, held when the database was restored: by person, by session, by
    participant. Each keeps its term, and is carried out when its hold goes; one that was refused
    stays refused."""
    backup, rooms = house.copy(), house.rooms
    with house.process(restore=True) as lapse:
        now = lapse.clock()
        holds = [
            lapse.holds.of_subject(name, Ground.LEGAL_CLAIM, None, now, ACTOR).hold
            for name in ("ann", "cem")
        ]
        bob = tokens_of(lapse, rooms["shared"], "bob")[0]
        asking = [
            lapse.requests.of_subject("cem", *verified(lapse)),
            lapse.requests.of_session(rooms["released"], *verified(lapse)),
            lapse.requests.of_participant(rooms["shared"], bob, *verified(lapse)),
            lapse.requests.of_subject("ann", *verified(lapse)),
        ]
        for row in asking:
            carry_out(lapse, row.request.id)
        lapse.requests.refuse(asking[-1].request.id, Refusal.LEGAL_CLAIM, now, ACTOR)
        asked = {row.request.id: lapse.requests.find(row.request.id).request for row in asking}
    house.put_back(backup)
    with house.process() as lapse:
        lapse.restoring.run()
        standing = {row.request.id: row.request for row in lapse.requests.page()}
        assert {id_: (one.about, one.status, one.deadline_at) for id_, one in standing.items()} == {
            id_: (one.about, one.status, one.deadline_at) for id_, one in asked.items()
        }
        for hold in holds:
            lapse.holds.release(hold, lapse.clock(), ACTOR)
        lapse.sessions.release(rooms["released"], "case-1", lapse.clock(), ACTOR)
        for row in asking[:-1]:
            carry_out(lapse, row.request.id)
            done = lapse.requests.find(row.request.id).request
            assert (done.status, done.sessions + done.parts) == (Status.EXECUTED, 1)
        assert not {rooms["of cem"], rooms["released"]} & house.sessions()
        assert tokens_of(lapse, rooms["shared"], "bob") == []
        assert of_ann(house, lapse) == 2
        assert lapse.restoring.look().state is State.CURRENT


def tokens_of(lapse: Lapse, room: str, name: str) -> list[str]:
    """Under which somebody takes part."""
    places = dict(lapse.requests._requests.of_subject(lapse.keyring.lookup("subject", name)))
    return list(places.get(room, ()))


def epoch_entries(house: House) -> list[Entry]:
    with house.process() as lapse:
        return [one for one in entries(lapse) if one.kind is Kind.EPOCH]


@pytest.mark.parametrize("of", ["session", "person"])
def test_a_hold_wins_over_a_part_that_the_ledger_takes(house: House, of: str) -> None:
    """No order of commands leads there, but a database that somebody had their hands in may: what
    is held stays, it is logged without naming anything, and whoever starts the service can."""
    backup, room = house.copy(), house.rooms["shared"]
    with house.process(restore=True) as lapse:
        decide(house, lapse)
    house.put_back(backup)
    with house.process() as lapse:
        hold_behind_the_back_of_the_ledger(lapse, room if of == "session" else None)
        with capture_logs() as logs:
            lapse.restoring.run()
        assert lapse.restoring.look().state is State.CURRENT
        held = [one for one in logs if one.get("result") == "held"]
        assert [(one["operation"], one["kind"]) for one in held] == [("replay", "redacted")]
        words = {room, *tokens_of(lapse, room, "ann")}
        assert not any(word in str(held) for word in words)
        assert len(lapse.sessions.participants(room, lapse.clock())) == 2
        assert topics(lapse, house.rooms["erased"])["erased"] == 1


def hold_behind_the_back_of_the_ledger(lapse: Lapse, room: str | None) -> None:
    """Of a room, or of Bob."""
    log = SqlLog(lapse.engines, lapse.clock, lambda _: None, Untold(), lapse.log.lookups)
    book = PolicyBook(log)
    at = lapse.clock()
    if room is None:
        bob = lapse.keyring.lookup("subject", "bob")
        subject = lapse.items._vault.subjects([bob])[bob].subject
        fields = {"hold": "h" * 32, "subject": subject, "ground": "legal-claim", "until": None}
        lapse.restoring._people(log, book, Entry(0, 1, 0, Kind.PERSON_HELD, at, fields))
    else:
        held = {"hold": "case-9", "session": room, "ground": "legal-claim", "until": None}
        book.refresh()
        repeat(log, book.versions, Entry(0, 1, 0, Kind.HELD, at, {**held, "last_seen": at}), at)


class Untold(Repeating):
    """In the place of `Remembering`: nothing is remembered."""

    def write(self, connection: Connection, deeds: Sequence[Deed], written: int = 0) -> None:
        pass


# -- the ledger was written, and the commit never came ------------------------------------------


Act = Callable[[House, Lapse], None]


def erase_a_room(house: House, lapse: Lapse) -> None:
    carry_out(lapse, lapse.requests.of_session(house.rooms["erased"], *verified(lapse)).request.id)


def erase_a_person(house: House, lapse: Lapse) -> None:
    carry_out(lapse, lapse.requests.of_subject("ann", *verified(lapse)).request.id)


def hold_a_person(house: House, lapse: Lapse) -> None:
    lapse.holds.of_subject("cem", Ground.LEGAL_CLAIM, None, lapse.clock(), ACTOR)


def change_the_policy(house: House, lapse: Lapse) -> None:
    apply(lapse.log, parse(RULES.format(lasts="60d"))["room"], lapse.clock(), ACTOR)


def is_done(house: House, lapse: Lapse, entry: Entry) -> bool:
    """What this entry says, in the database."""
    match entry.kind:
        case Kind.ERASED:
            return entry.fields["session"] not in house.sessions()
        case Kind.REDACTED:
            return of_ann(house, lapse) == 0
        case Kind.REQUEST:
            request = lapse.requests.find(entry.fields["request"]).request
            counts = [request.sessions, request.parts, request.items, request.subjects]
            return request.status is Status.EXECUTED and counts == list(entry.fields["counts"])
        case Kind.PERSON_HELD:
            return entry.fields["hold"] in {row.hold for row in lapse.holds.page(lapse.clock())}
        case Kind.POLICY:
            return len(lapse.log.policies()["room"]) == int(entry.fields["version"])
        case _:
            return False


@pytest.mark.row("G5")
@pytest.mark.parametrize("act", [erase_a_room, erase_a_person, hold_a_person, change_the_policy])
def test_killed_between_any_two_steps_of_a_decision(house: House, act: Act) -> None:
    """Whoever starts next finds it done, or not begun: what the ledger says is in the database, and
    the database says nothing that the ledger does not."""
    before = Everything(house)
    with house.process() as lapse:
        known = len(entries(lapse))
        with dying(lapse, None) as whole:
            act(house, lapse)
        assert len(entries(lapse)) > known
    written = 0
    first = 1 if house.is_postgresql else 2
    for last in range(first, whole.count + 1, SHORT_STRIDE):
        before.put_back()
        with pytest.raises(Killed), house.process() as lapse, dying(lapse, last):
            act(house, lapse)
        ahead = house.contained()
        with house.process() as lapse:
            told = entries(lapse)
            written += len(told) > ahead
            assert all(is_done(house, lapse, entry) for entry in told[known:ahead]), last
            lapse.restoring.run()
            assert lapse.restoring.look().state is State.CURRENT
            assert house.contained() == len(told)
            assert [one for one in told[known:] if not is_done(house, lapse, one)] == [], last
            assert lapse.restoring.epoch == 1  # nothing was lost of the log
            if len(told) == known:
                act(house, lapse)
            again = entries(lapse)[known:]
            assert all(is_done(house, lapse, entry) for entry in again), last
            assert len({(one.kind, str(one.fields)) for one in again}) == len(again)
    assert written  # some died with the ledger ahead of the database


class Everything:
    """Database, key file and ledger as they are."""

    def __init__(self, house: House) -> None:
        self._house, self._rows = house, house.copy()
        keys = house.settings.key_url or ""
        self._folders = [Path(url.removeprefix("file://")) for url in (keys, house.settings.ledger)]
        self._files = {
            path: path.read_bytes() for folder in self._folders for path in folder.iterdir()
        }

    def put_back(self) -> None:
        self._house.put_back(self._rows)
        for path, content in self._files.items():
            path.write_bytes(content)


# -- several at once ----------------------------------------------------------------------------


def test_who_is_told_to_stop_stops(house: House) -> None:
    """The rest is done by whoever starts next."""
    backup = house.copy()
    with house.process(restore=True) as lapse:
        decide(house, lapse)
    house.put_back(backup)
    with house.process() as lapse:
        answers = iter([True, True, False])
        lapse.restoring.run(lambda: next(answers, False))
        assert lapse.restoring.is_needed()
        lapse.restoring.watch(lambda: False)
        assert lapse.restoring.is_needed()
    with house.process() as lapse:
        lapse.restoring.run()
        assert_forgotten_again(house, lapse)


@pytest.mark.row("G5")
def test_one_of_several_processes_opens_the_epoch(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them start at once with what was restored: whoever comes second goes on from there."""
    backup = house.copy()
    with house.process(restore=True) as lapse:
        decide(house, lapse)
    house.put_back(backup)
    with house.process() as slow, house.process() as fast:
        open_epoch = slow.restoring._open_epoch

        def be_overtaken(standing: Standing) -> None:
            fast.restoring.run()
            open_epoch(standing)

        monkeypatch.setattr(slow.restoring, "_open_epoch", be_overtaken)
        slow.restoring.run()
        assert [one.epoch for one in epochs(slow)] == [2]
        assert_forgotten_again(house, slow)


def test_beside_one_that_gets_nowhere_it_gives_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked tries again later, and ends in time when it is told to."""
    backup = house.copy()
    with house.process(restore=True) as lapse:
        decide(house, lapse)
    house.put_back(backup)
    pauses: list[float] = []
    monkeypatch.setattr("adapters.restoring.time.sleep", pauses.append)
    with house.process() as lapse:
        monkeypatch.setattr(lapse.restoring, "_open_epoch", _another_is_at_it)
        with pytest.raises(StoreBusy):
            lapse.restoring.run()
    assert pauses == [PAUSE] * (COLLISIONS - 1)


def _another_is_at_it(_standing: object) -> None:
    raise RestorePending("another process repeats what the ledger says; try again")
