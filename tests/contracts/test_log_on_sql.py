"""What only a database can do to the log: damaged rows, lost answers, other writers' locks."""

import json
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from adapters.log.engine import StoreUnavailable, open_engines
from adapters.log.event_log import SqlLog
from adapters.log.transcoder import encode_event
from domain.errors import (
    Conflict,
    CorruptEvent,
    CorruptState,
    LapseError,
    SessionExists,
    StoreError,
)
from domain.policy import DAY, HOUR, SECOND, Versions
from domain.ports import (
    Append,
    Appended,
    Bookmark,
    Changes,
    Found,
    Item,
    ItemHead,
    Rearm,
    SweepCount,
    Verdict,
    owner_scope,
    policy_scope,
)
from domain.session import SCHEDULER, Expired, Scope, evolve
from domain.use_cases.sweep import sweep_once
from tests.contracts.authors import (
    ACTOR,
    ROOM,
    TEN,
    VERSION,
    ended,
    entering,
    erased,
    known,
    limit,
    opening,
    person,
    seen,
)
from tests.contracts.commit_proxy import CommitProxy, Loss
from tests.contracts.stores import SqlStore
from tests.servers import wait_until

POLICY_VERSIONS: dict[str, Versions] = {ROOM: (VERSION,)}
CANARY = "ada.lovelace@example.org"


def expire_all(claimed: Sequence[Found]) -> list[Append | Rearm]:
    return [ended(found) for found in claimed]


def all_text(error: BaseException) -> str:
    """Everything a log file would show of it."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error)


# -- damaged rows -----------------------------------------------------------------------------

DAMAGES = {
    "no JSON": b"secret{",
    "cut off": b'{"actor":"secret","policy":"ro',
    "another event's": b'{"actor":"secret","policy":"room","until":1}',
    "a list": b'["secret"]',
    "not UTF-8": b'{"secret\xff\xfe":1}',
    "with a zero byte": b'{"secret":\x00}',
    "a field more": b'{"actor":"secret","owner":null,"policy":"room","policy_version":1,"x":1}',
    "a number for text": b'{"actor":7,"owner":"secret","policy":"room","policy_version":1}',
    "text for a number": b'{"actor":"a","owner":null,"policy":"room","policy_version":"secret"}',
    "nothing for text": b'{"actor":null,"owner":"secret","policy":"room","policy_version":1}',
    "a fraction": b'{"actor":"secret","owner":null,"policy":"room","policy_version":1.5}',
    "a truth value": b'{"actor":"secret","owner":null,"policy":"room","policy_version":true}',
    "nothing": b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_event_is_reported_and_never_skipped(sql_store: SqlStore, damage: str) -> None:
    """With its place, without a byte of what stands there; what lies before it can be read."""
    store = sql_store
    store.log.append([opening("a"), opening("b"), opening("c")], TEN)
    store.execute("UPDATE events SET state = ? WHERE session_id = 'b'", DAMAGES[damage])
    reads: list[Callable[[], object]] = [
        lambda: store.log.read(0, 10),
        lambda: store.log.read(1, 1),
        lambda: store.log.history("b"),
    ]
    for read in reads:
        with pytest.raises(CorruptEvent) as refused:
            read()
        assert (refused.value.partition, refused.value.position) == (0, 2)
        assert "secret" not in all_text(refused.value)
    assert len(store.log.read(0, 1)) == len(store.log.history("c")) == 1


@pytest.mark.parametrize(
    "column, value",
    [("topic", "session.created.v9"), ("topic", "session.seen.v1"), ("topic", "")],
)
def test_an_event_under_a_wrong_topic_is_reported(
    sql_store: SqlStore, column: str, value: str
) -> None:
    """A topic nobody knows, or one whose fields are others."""
    sql_store.log.submit(opening("a"), TEN)
    sql_store.execute(f"UPDATE events SET {column} = ?", value)
    with pytest.raises(CorruptEvent):
        sql_store.log.history("a")


STATE: dict[str, object] = {"created_at": 1, "last_seen_at": 1, "policy": ROOM, "policy_version": 1}
STATE_DAMAGES: dict[str, bytes] = {
    "no JSON": b"secret{",
    "not UTF-8": b'{"secret\xff\xfe":1}',
    "a list": b'["secret"]',
    "a field missing": json.dumps({"policy": "secret"}).encode(),
} | {
    name: json.dumps(STATE | {field: value}).encode()
    for name, field, value in (
        ("an unknown field", "secret", 1),
        ("the id again", "id", "secret"),
        ("no time", "last_seen_at", None),
        ("text for a time", "created_at", "secret"),
        ("a fraction", "created_at", 1.5),
        ("a list for text", "policy", ["secret"]),
        ("a wrong scope", "erased", ["secret"]),
        ("a wrong hold", "holds", [["secret"]]),
        ("a hold of text", "holds", [["hold-1", "secret", None]]),
    )
}


@pytest.mark.parametrize("damage", STATE_DAMAGES)
def test_a_damaged_state_starves_nobody(sql_store: SqlStore, damage: str) -> None:
    """Its session is reported and backs off; all others are swept although it was due first."""
    store = sql_store
    store.log.append([opening("a", due_at=TEN), opening("b"), opening("c")], TEN)
    store.execute("UPDATE sessions SET state = ? WHERE session_id = 'a'", STATE_DAMAGES[damage])
    with pytest.raises(CorruptState) as refused:
        store.log.find(["a"])
    assert refused.value.session_id == "a"
    assert "secret" not in all_text(refused.value)
    walked = store.log.due_of_policy(ROOM, "", 10)
    assert walked[0] == Rearm("a", None, Verdict.FAILED)
    assert [type(row) for row in walked[1:]] == [Found, Found]
    now = TEN + HOUR
    counts = [sweep_once(store.log, POLICY_VERSIONS, now, SCHEDULER, limit=1) for _ in range(4)]
    total = sum(counts, SweepCount())
    assert (total.due, total.done, total.failed) == (3, 2, 1)
    assert store.log.next_due() == now + 2 * SECOND
    sweep_once(store.log, POLICY_VERSIONS, now + 2 * SECOND, SCHEDULER)
    assert store.log.next_due() == now + 6 * SECOND
    assert len(store.log.history("a")) == 1


def test_a_state_that_contradicts_the_log_starves_nobody(sql_store: SqlStore) -> None:
    """As after a restore of one table alone: the others are swept one by one."""
    store = sql_store
    store.log.append([opening(name, due_at=TEN + n) for n, name in enumerate("abc")], TEN)
    found = store.log.find(["b"])["b"]
    old = store.execute("SELECT state FROM sessions WHERE session_id = 'b'")[0][0]
    store.log.submit(seen(found, TEN + 1, due_at=TEN + 1), TEN)
    store.execute("UPDATE sessions SET version = 1, state = ? WHERE session_id = 'b'", old)

    def mark(count: SweepCount) -> Bookmark:
        return Bookmark("sweep", str(count.done).encode())

    now = TEN + HOUR + 2
    count = sweep_once(store.log, POLICY_VERSIONS, now, SCHEDULER, mark=mark)
    assert count == SweepCount(due=3, done=2, failed=1, events={Expired.TOPIC: 2})
    assert store.log.bookmark("sweep") == b"2"
    assert [len(store.log.history(name)) for name in "abc"] == [2, 2, 2]
    for wait in (2, 4, 8):
        due_at = store.log.next_due()
        assert due_at == now + wait * SECOND
        now = due_at
        count = sweep_once(store.log, POLICY_VERSIONS, now, SCHEDULER, mark=mark)
        assert count == SweepCount(due=1, failed=1, events={})
        assert store.log.bookmark("sweep") == b"0"


# -- what stands in the rows ------------------------------------------------------------------


def test_the_stored_bytes_are_the_canonical_ones(sql_store: SqlStore) -> None:
    """Nothing between us and the file rewrites them, and each has a nonce of its own."""
    append = opening("ä", owner="owner-1")
    sql_store.log.append([append, opening("b")], TEN + 5)
    rows = sql_store.execute(
        "SELECT partition, position, session_id, version, topic, effective_at, recorded_at, state, "
        "nonce FROM events ORDER BY position"
    )
    assert [*rows[0]][:7] == [0, 1, "ä", 1, "session.created.v1", TEN, TEN + 5]
    assert bytes(rows[0][7]) == encode_event(append.events[0])
    nonces = {bytes(row[8]) for row in rows}
    assert len(nonces) == 2
    assert {len(nonce) for nonce in nonces} == {16}


def test_an_error_shows_nothing_of_what_was_to_be_written(sql_store: SqlStore) -> None:
    """Whatever the database complains about: neither values nor statements' parameters."""
    store = sql_store
    append = entering("a", person(CANARY, CANARY))
    secrets = [CANARY, repr(CANARY.encode())[2:-1], CANARY.encode().hex(), "token-"]
    store.execute("ALTER TABLE subject_index RENAME TO elsewhere")
    failures: list[Callable[[], object]] = [
        lambda: store.log.submit(append._replace(changes=changed(append)), TEN),
        lambda: store.log.append([append], TEN, together=True),
        lambda: store.vault.sessions_of([CANARY.encode()], ROOM),
    ]
    for fail in failures:
        with pytest.raises(SQLAlchemyError) as refused:
            fail()
        text = all_text(refused.value)
        assert not [secret for secret in secrets if secret in text]
    assert store.log.head() == 0


def changed(append: Append) -> Changes:
    return Changes(admitted=append.changes.admitted, alias=CANARY.encode(), seen={CANARY: TEN})


def test_a_refusal_shows_ids_and_rules_only(sql_store: SqlStore) -> None:
    """Neither who somebody is nor under which hash they are found."""
    store = sql_store
    store.log.submit(entering("a", person(CANARY)), TEN)
    refusals = store.log.append(
        [
            entering("a", person(CANARY)),
            entering("b", person(CANARY, "other")),
            entering("c", person(CANARY), limits=limit(policy_scope(ROOM), 0)),
            seen(entering("d", person(CANARY)), TEN + 1),
        ],
        TEN,
    )
    assert all(isinstance(refusal, LapseError) for refusal in refusals)
    assert not [r for r in refusals if CANARY in all_text(r) or "lookup" in all_text(r)]  # type: ignore[arg-type]


# -- group commit -----------------------------------------------------------------------------


def test_what_waits_for_the_same_session_is_decided_one_after_the_other(
    sql_store: SqlStore,
) -> None:
    """Behind a slow commit, eight authors of one session and one of another gather in a batch."""
    store = sql_store
    log = store.log
    assert isinstance(log, SqlLog)
    log.append([opening("a"), opening("b")], TEN)
    found = log.find(["a", "b"])
    with store.engines.write() as connection:
        if store.is_postgresql:
            connection.exec_driver_sql("SELECT * FROM heads FOR UPDATE")
        pending = [
            log._committer.submit((seen(found[name], TEN + n, command=b"%d" % n), TEN))
            for n, name in enumerate("aaaaaaaab", start=1)
        ]
    outcomes: list[object] = []
    for one in pending:
        try:
            outcomes.append(one.result(30))
        except LapseError as error:
            outcomes.append(type(error).__name__)
    assert outcomes == [Appended("a", 2), *["Conflict"] * 7, Appended("b", 2)]
    assert log.head() == 4


# -- other writers' locks (PostgreSQL) --------------------------------------------------------


@contextmanager
def before(store: SqlStore, beginning: str, act: Callable[[], None]) -> Iterator[None]:
    """Once, before the first statement that begins so, do something else."""
    with store.engines.write() as connection:
        engine = connection.engine
    done = threading.Event()

    def look(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith(beginning) and not done.is_set():
            done.set()
            act()

    sqlalchemy.event.listen(engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", look)
    assert done.is_set()


class Meanwhile:
    """Something done by another thread, up to where a lock stops it."""

    def __init__(self, store: SqlStore, task: Callable[[], object]) -> None:
        self._store = store
        self._thread = threading.Thread(target=self._run, args=(task,))
        self.answer: object = None

    def _run(self, task: Callable[[], object]) -> None:
        try:
            self.answer = task()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.answer = error

    def start(self) -> None:
        """Come back when it is done or waits for a lock."""
        self._thread.start()
        self._store.wait_for_a_blocked_statement(unless=lambda: not self._thread.is_alive())

    def finished(self) -> object:
        self._thread.join()
        return self.answer


def test_two_sweepers_share_what_is_due(postgresql_store: SqlStore) -> None:
    """While one decides on its rows, the other takes the next ones without waiting."""
    store, other = postgresql_store, postgresql_store.another()
    store.log.append([opening(name, due_at=TEN + n) for n, name in enumerate("abcd")], TEN)
    taken: list[str] = []

    def take(found: Sequence[Found]) -> list[Append | Rearm]:
        taken.append("".join(row.session.id for row in found))
        return expire_all(found)

    def take_while_the_other_sweeps(found: Sequence[Found]) -> list[Append | Rearm]:
        assert other.sweep(TEN + DAY, 3, take, SCHEDULER).done == 2
        return take(found)

    assert store.log.sweep(TEN + DAY, 2, take_while_the_other_sweeps, SCHEDULER).done == 2
    assert taken == ["cd", "ab"]
    assert [len(store.log.history(name)) for name in "abcd"] == [2, 2, 2, 2]


def test_an_owner_comes_back_while_their_last_session_ends(postgresql_store: SqlStore) -> None:
    """The counter goes and comes in the same instant: the limit is neither lost nor blocked."""
    store, other = postgresql_store, postgresql_store.another()
    scope = owner_scope(ROOM, "owner-1")
    last = opening("a", owner="owner-1", limits=limit(scope, 2))
    store.log.submit(last, TEN)
    ending = Meanwhile(store, lambda: other.submit(ended(last), TEN))
    with before(store, "SELECT scope, used FROM counters", ending.start):
        answer = store.log.submit(opening("b", owner="owner-1", limits=limit(scope, 2)), TEN)
    assert (answer, ending.finished()) == (Appended("b", 1), Appended("a", 2))
    assert store.counters()[scope] == 1


def test_a_creation_and_an_erasure_of_the_same_person_do_not_wait_in_a_circle(
    postgresql_store: SqlStore,
) -> None:
    """One holds the limit and wants the person, the other must not hold the person first."""
    store, other = postgresql_store, postgresql_store.another()
    ada = person("ada")
    leaving = entering("a", ada)
    store.log.submit(leaving, TEN)
    erasure = Meanwhile(store, lambda: other.submit(erased(leaving), TEN))
    back = entering("b", known(ada), limits=limit(policy_scope(ROOM), 2))
    with before(store, "SELECT lookup, subject FROM subjects", erasure.start):
        answer = store.log.submit(back, TEN)
    assert (answer, erasure.finished()) == (Appended("b", 1), Appended("a", 3))
    assert store.vault.subjects([ada.lookup]) == {ada.lookup: known(ada)}


def test_a_heartbeat_that_was_answered_before_the_decision_counts(
    postgresql_store: SqlStore,
) -> None:
    """Even if the sweep had begun to look for what is due when it came."""
    store = postgresql_store
    store.log.submit(entering("a", person("ada"), due_at=TEN + HOUR), TEN)
    (member,) = store.vault.members("a")
    with store.engines.write() as connection:
        engine = connection.engine

    # Lets the claiming statement begin, then wait before it reaches the rows.
    def delay(_c: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> Any:
        if "SKIP LOCKED" in statement:
            gate = "WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock(1)) "
            statement = gate + statement.replace("FROM sessions s", "FROM gate, sessions s")
        return statement, parameters

    sweep = Meanwhile(store, lambda: sweep_once(store.log, POLICY_VERSIONS, TEN + HOUR, SCHEDULER))
    with store.engines.autocommit() as gate:
        gate.exec_driver_sql("SELECT pg_advisory_lock(1)")
        sqlalchemy.event.listen(engine, "before_cursor_execute", delay, retval=True)
        try:
            sweep.start()
            beat = {("a", member.token): TEN + HOUR - 1}
            assert store.vault.see(beat) == set(beat)
        finally:
            sqlalchemy.event.remove(engine, "before_cursor_execute", delay)
            gate.exec_driver_sql("SELECT pg_advisory_unlock(1)")
    assert sweep.finished() == SweepCount(due=1, rearmed=1, events={})
    assert store.log.find(["a"])["a"].session.live


# -- one author after another ------------------------------------------------------------------


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_round_that_fails_leaves_the_answers_of_those_before(
    sql_store: SqlStore, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Three appends to one session take three transactions of one batch. Who was written is told
    so, whoever was not is told why; only if nobody was, the whole batch failed."""
    log = sql_log(sql_store)
    begun = opening("a")
    second = seen(begun, TEN + 1)
    units = [(append, TEN) for append in (begun, opening("b"), second, seen(second, TEN + 2))]
    write, rounds = log._in_one_transaction, count(1)

    def write_until_it_fails(*arguments: Any) -> Any:
        if next(rounds) >= failing:
            raise StoreUnavailable("the connection broke")
        return write(*arguments)

    monkeypatch.setattr(log, "_in_one_transaction", write_until_it_fails)
    if failing == 1:
        with pytest.raises(StoreUnavailable):
            log._write_units(units)
        assert log.head() == 0
        return
    answers = log._write_units(units)
    assert answers[:failing] == [Appended("a", 1), Appended("b", 1), Appended("a", 2)][:failing]
    assert [type(answer) for answer in answers[failing:]] == [StoreUnavailable] * (4 - failing)
    assert log.head() == failing


def sql_log(store: SqlStore) -> SqlLog:
    assert isinstance(store.log, SqlLog)
    return store.log


# -- lost connections (PostgreSQL) ------------------------------------------------------------


@contextmanager
def log_behind(store: SqlStore) -> Iterator[tuple[SqlLog, CommitProxy]]:
    """A log whose connections can be broken."""
    with CommitProxy(store.url) as proxy:
        log = SqlLog(open_engines(proxy.url), store.wall)
        try:
            yield log, proxy
        finally:
            log.close()


def test_a_commit_whose_answer_is_lost_is_answered(postgresql_store: SqlStore) -> None:
    """The log looks what stands in it, and tells each author; nothing is written twice."""
    store = postgresql_store
    store.log.submit(opening("a", command=b"before"), TEN)
    stale = store.log.find(["a"])["a"]
    store.log.submit(seen(stale, TEN + 1), TEN)
    with log_behind(store) as (log, proxy):
        proxy.lose(Loss.ANSWER)
        batch = [opening("b"), seen(stale, TEN + 2), entering("c", person("ada"), command=b"c")]
        answers = log.append(batch, TEN, Bookmark("job", b"line 3"))
        assert [type(answer).__name__ for answer in answers] == ["Appended", "Conflict", "Appended"]
        proxy.lose(Loss.ANSWER)
        assert log.submit(opening("d"), TEN) == Appended("d", 1)
        assert log.bookmark("job") == b"line 3"
    assert [recorded.event.originator_id for recorded in store.log.read(2, 10)] == ["b", "c", "d"]


def test_a_commit_that_never_arrived_is_refused(postgresql_store: SqlStore) -> None:
    """Nothing was written, so it may be sent again; together or not, nobody is told otherwise."""
    store = postgresql_store
    with log_behind(store) as (log, proxy):
        for together in (False, True):
            proxy.lose(Loss.REQUEST)
            with pytest.raises(StoreError):
                log.append([opening("a"), opening("b")], TEN, together=together)
        proxy.lose(Loss.REQUEST)
        with pytest.raises(StoreError):
            log.submit(opening("a", command=b"create"), TEN)
        assert store.log.head() == 0
        assert log.submit(opening("a", command=b"create"), TEN) == Appended("a", 1)


def test_a_commit_that_arrives_late_is_waited_for(postgresql_store: SqlStore) -> None:
    """The connection is gone while the server has still to commit: nobody is told it failed."""
    store = postgresql_store
    with log_behind(store) as (log, proxy):
        proxy.lose(Loss.DELAY)
        append = Meanwhile(store, lambda: log.submit(opening("a", command=b"c"), TEN))
        append.start()  # until it waits for the transaction that it lost
        proxy.deliver()
        assert append.finished() == Appended("a", 1)
    assert store.log.head() == 1


def test_a_beginning_that_arrives_late_happens_once(postgresql_store: SqlStore) -> None:
    """Sent whole and never answered: nobody knows, and the text says so. It may happen afterwards;
    who asks again for the same session is told that it is there."""
    store = postgresql_store
    with log_behind(store) as (log, proxy):
        proxy.lose(Loss.DELAY)
        with pytest.raises(StoreError, match="not known"):
            log.submit(opening("a"), TEN)
        proxy.deliver()
        wait_until(lambda: store.log.head() == 1, 20, "the late statement")
        with pytest.raises(SessionExists):
            log.submit(opening("a"), TEN)
    assert store.log.head() == 1


def test_a_connection_that_ends_within_a_transaction(postgresql_store: SqlStore) -> None:
    """An administrator ends the session: refused, nothing written, and the next one is."""
    store = postgresql_store

    def end_all_others() -> None:
        with store.engines.read() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    for statement in ("INSERT INTO sessions", "WITH head AS"):
        with before(store, statement, end_all_others), pytest.raises(StoreError):
            store.log.submit(opening("a", command=b"c"), TEN)
    assert store.log.head() == 0
    assert store.log.submit(opening("a"), TEN) == Appended("a", 1)


def test_a_row_that_contradicts_the_database_fails_its_author_only(sql_store: SqlStore) -> None:
    """The others of its batch are written; its author is told to decide again."""
    item = Item(ItemHead("i", 0, Scope.FULL, "metrics", TEN, 6), b"sealed")
    sql_store.log.submit(opening("a", changes=Changes(items=(item,))), TEN)
    found = sql_store.log.find(["a"])["a"].session
    events = found.store(1, 6, TEN, ACTOR, scope=Scope.FULL)
    again = Append(found, evolve(found, events[0]), events, None, Changes(items=(item,)))
    answers = sql_store.log.append([again, opening("b"), opening("c")], TEN)
    assert [type(answer) for answer in answers] == [Conflict, Appended, Appended]
    assert set(sql_store.log.find(["a", "b", "c"])) == {"a", "b", "c"}
    assert [one.position for one in sql_store.log.read(0, 100)] == list(
        range(1, sql_store.log.head() + 1)
    )
