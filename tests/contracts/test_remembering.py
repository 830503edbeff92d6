"""What is written into the erasure ledger, and when: before the commit, and nothing without it."""

from collections.abc import Iterator, Sequence

import pytest

from adapters.log.engine import open_engines
from adapters.log.event_log import SqlLog
from adapters.log.remembering import Remembering
from domain.errors import LedgerUnavailable, RestorePending
from domain.ledger import Entry, Kind, deed_of_part
from domain.policy import DAY, HOUR
from domain.ports import Append, Deletion
from domain.session import By, Ground, Scope
from tests.contracts.authors import (
    ACTOR,
    POLICIES,
    TEN,
    applied,
    apply_policies,
    at_once,
    ended,
    entering,
    erased,
    following,
    insist,
    opening,
    person,
    seen,
)
from tests.contracts.memory_ledger import MemoryLedger
from tests.contracts.stores import SqlStore


class Failing(MemoryLedger):
    """A ledger whose disk is full while `refuses`."""

    refuses = False

    def append(self, entries: Sequence[Entry]) -> int:
        if self.refuses:
            raise LedgerUnavailable("the erasure ledger cannot be written")
        return super().append(entries)


class Told:
    """What alerts would be told."""

    def __init__(self) -> None:
        self.well: list[bool] = []

    def __call__(self, well: bool) -> None:
        self.well.append(well)


@pytest.fixture
def ledger() -> Failing:
    return Failing()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def log(sql_store: SqlStore, ledger: Failing, told: Told) -> Iterator[SqlLog]:
    log = SqlLog(open_engines(sql_store.url), sql_store.wall, ledger=Remembering(ledger, told))
    yield log
    log.close()


def entries(ledger: MemoryLedger) -> list[Entry]:
    return list(ledger.read(0))


def contained(store: SqlStore) -> int:
    """The number of the newest entry that the database says it contains."""
    rows = store.execute("SELECT value FROM meta WHERE name = 'ledger'")
    return int(bytes(rows[0][0])) if rows else 0


def held(before: Append, hold: str = "case-1", until: int | None = None) -> Append:
    return following(before, lambda s: s.hold(hold, Ground.LEGAL_CLAIM, until, TEN + 5, ACTOR))


def on_request(before: Append) -> Append:
    append = following(before, lambda s: s.erase(1, TEN + 9, ACTOR))
    return append._replace(due_at=None, deletes=(Deletion(Scope.EVERYTHING),))


def test_what_somebody_decided_is_remembered(
    sql_store: SqlStore, log: SqlLog, ledger: Failing
) -> None:
    """Holds, releases, extensions, recoveries, evictions, reductions and erasures on request."""
    log.submit(opening("s"), TEN)
    steps = (
        lambda s: s.hold("case-1", Ground.LEGAL_CLAIM, TEN + DAY, TEN + 1, ACTOR),
        lambda s: s.release("case-1", TEN + 2, ACTOR),
        lambda s: s.extend(TEN + 2 * DAY, TEN + 3, ACTOR),
        lambda s: s.expire(By.LIMIT, 1, TEN + 4, ACTOR),
        lambda s: s.recover(HOUR, TEN + 5, ACTOR),
        lambda s: s.summarize(1, TEN + 6, ACTOR),
        lambda s: s.erase(1, TEN + 7, ACTOR, by=By.EMERGENCY),
    )
    for step in steps:
        insist(log, "s", step)
    found = entries(ledger)
    assert [(entry.number, entry.kind, entry.at) for entry in found] == [
        (1, Kind.HELD, TEN + 1),
        (2, Kind.RELEASED, TEN + 2),
        (3, Kind.EXTENDED, TEN + 3),
        (4, Kind.EXPIRED, TEN + 4),
        (5, Kind.RECOVERED, TEN + 5),
        (6, Kind.SUMMARIZED, TEN + 6),
        (7, Kind.ERASED, TEN + 7),
    ]
    assert {entry.fields["session"] for entry in found} == {"s"}
    assert found[0].fields["ground"] == "legal-claim"
    assert found[6].fields["by"] == "emergency"
    assert [entry.head for entry in found] == list(range(1, 8))
    assert contained(sql_store) == 7


def test_what_rules_do_is_not(sql_store: SqlStore, log: SqlLog, ledger: Failing) -> None:
    """Nor creations, presence and what is stored: a restored database finds rules' deeds again."""
    apply_policies(sql_store.log)
    somebody = entering("s", person("ann"))
    log.submit(somebody, TEN)
    log.submit(opening("t"), TEN)
    log.submit(seen(opening("t"), TEN + 1), TEN)
    log.submit(ended(somebody), TEN)
    log.submit(erased(log.find(["s"])["s"]), TEN)
    assert entries(ledger) == []
    assert sql_store.execute("SELECT 1 FROM meta WHERE name = 'ledger'") == []


def test_policies_are_remembered(log: SqlLog, ledger: Failing) -> None:
    """With all that applying them again takes."""
    log.apply_policy(applied(POLICIES["room"]), TEN)
    log.apply_policy(applied(POLICIES["room"], 2, TEN + HOUR), TEN + 1)
    first, second = entries(ledger)
    assert (first.kind, first.at, first.head) == (Kind.POLICY, TEN, 0)
    assert second.fields["version"] == 2
    assert second.fields["effective_from"] == TEN + HOUR
    assert second.fields["document"] == applied(POLICIES["room"]).document


def test_when_somebody_was_last_seen_is_remembered_with_it(
    sql_store: SqlStore, log: SqlLog, ledger: Failing
) -> None:
    """Heartbeats are no events: without this a restored database would take them for idle."""
    log.submit(entering("s", person("ann")), TEN)
    sql_store.vault.see({("s", "token-subject-ann"): TEN + HOUR})
    insist(log, "s", lambda s: s.extend(TEN + DAY, TEN + 2 * HOUR, ACTOR))
    (entry,) = entries(ledger)
    assert entry.fields["last_seen"] == TEN + HOUR


def test_a_batch_is_numbered_in_its_order(log: SqlLog, ledger: Failing) -> None:
    """One write for all of it."""
    sessions = [opening(f"s{n}") for n in range(20)]
    log.append(sessions, TEN)
    log.append([on_request(one) for one in sessions], TEN)
    found = entries(ledger)
    assert [entry.fields["session"] for entry in found] == [f"s{n}" for n in range(20)]
    assert {entry.head for entry in found} == {20}


def test_without_the_ledger_nothing_is_committed(
    sql_store: SqlStore, log: SqlLog, ledger: Failing, told: Told
) -> None:
    """Whoever asked is told so, and the operator; afterwards it works."""
    begun = opening("s")
    log.submit(begun, TEN)
    ledger.refuses = True
    with pytest.raises(LedgerUnavailable):
        log.submit(on_request(begun), TEN)
    with pytest.raises(LedgerUnavailable):
        log.apply_policy(applied(POLICIES["room"]), TEN)
    assert log.head() == 1
    assert "s" in log.find(["s"])
    assert log.policies() == {}
    assert told.well == [False, False]
    ledger.refuses = False
    log.submit(on_request(begun), TEN)
    assert (log.find(["s"]), told.well[-1], contained(sql_store)) == ({}, True, 1)


def test_others_in_the_same_batch_are_not_refused_with_it(log: SqlLog, ledger: Failing) -> None:
    """Whoever creates a session has no part in an erasure that cannot be remembered."""
    begun = opening("s")
    log.submit(begun, TEN)
    ledger.refuses = True
    answers = log.append([on_request(begun), opening("t"), held(opening("u"))], TEN)
    assert isinstance(answers[0], LedgerUnavailable)
    assert set(log.find(["s", "t"])) == {"s", "t"}
    assert isinstance(answers[2], Exception)


def test_a_refused_command_leaves_nothing_in_the_ledger(log: SqlLog, ledger: Failing) -> None:
    """Its author decided on a state that is no more."""
    begun = opening("s")
    log.submit(begun, TEN)
    log.submit(seen(begun, TEN + 1), TEN)
    (answer,) = log.append([on_request(begun)], TEN)
    assert isinstance(answer, Exception)
    assert entries(ledger) == []


def test_a_commit_that_failed_behind_the_ledger_is_found(
    sql_store: SqlStore, log: SqlLog, ledger: Failing
) -> None:
    """Whoever writes next is refused until what the ledger says was done again."""
    first, second = opening("s"), opening("t")
    log.append([first, second], TEN)
    sql_store.execute("DELETE FROM meta WHERE name = 'ledger'")
    log.submit(on_request(first), TEN)
    sql_store.execute("UPDATE meta SET value = ? WHERE name = 'ledger'", b"0")
    with pytest.raises(RestorePending):
        log.submit(on_request(second), TEN)
    assert log._ledger is not None
    assert log._ledger.is_behind  # type: ignore[union-attr]
    log.submit(opening("v"), TEN)  # what needs no ledger goes on


def test_many_authors_share_the_ledger_in_the_order_of_commits(
    sql_store: SqlStore, log: SqlLog, ledger: Failing
) -> None:
    """Two processes with eight threads each: no number twice, none left out."""
    another = SqlLog(open_engines(sql_store.url), sql_store.wall, ledger=Remembering(ledger))
    log.append([opening(f"s{n}") for n in range(40)], TEN)

    def extend(number: int) -> None:
        chosen = another if number % 2 else log
        insist(chosen, f"s{number}", lambda s: s.extend(TEN + DAY, TEN + 1, ACTOR))

    try:
        answers = at_once([lambda n=n: extend(n) for n in range(40)], 16)  # type: ignore[misc]
    finally:
        another.close()
    assert answers == [None] * 40
    found = entries(ledger)
    assert [entry.number for entry in found] == list(range(1, 41))
    order = sql_store.execute(
        "SELECT session_id FROM events WHERE topic = 'session.extended.v1' ORDER BY position"
    )
    assert [entry.fields["session"] for entry in found] == [row[0] for row in order]


def test_a_transaction_of_somebody_else_is_remembered_too(
    sql_store: SqlStore, log: SqlLog, ledger: Failing
) -> None:
    """Erasures across sessions write their own rows: the ledger is their last step."""
    with sql_store.engines.write() as connection:
        log.remember(connection, [deed_of_part("session-1", ["token-1"], TEN)])
    (entry,) = entries(ledger)
    assert (entry.kind, dict(entry.fields)) == (
        Kind.REDACTED,
        {"session": "session-1", "tokens": ["token-1"]},
    )
    assert contained(sql_store) == 1
