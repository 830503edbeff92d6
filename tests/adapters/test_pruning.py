"""Bodies of events go when their time is over, and nothing else does."""

from collections.abc import Iterator

import pytest

from adapters.log.event_log import SqlLog
from adapters.log.pruning import Pruning
from adapters.log.tree import Tree
from adapters.projector import Projector
from domain.facts import Pruned
from domain.policy import DAY, HOUR, Version
from domain.use_cases.erase import pruned_before
from projections import audit
from projections.catalogue import PROJECTIONS
from projections.tables import metadata
from tests.contracts.authors import POLICIES, ROOM, TEN, erased, opening
from tests.contracts.stores import SqlStore, open_sql_store

ERASED = TEN + 25 * HOUR
"""When the policy erases what begins at ten: an hour idle, a day expired."""
OVER = ERASED + 400 * DAY

KNOWN = {name: (Version(1, 0, policy),) for name, policy in POLICIES.items()}


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """Three sessions, two of which are erased, in six events and more."""
    with open_sql_store(database_url) as opened:
        with opened.engines.write() as connection:
            metadata.create_all(connection)
        begin = [opening(f"{number:032x}") for number in range(3)]
        opened.log.append(begin, TEN)
        opened.log.append([erased(one) for one in begin[:2]], ERASED)
        yield opened


def pruning(store: SqlStore) -> Pruning:
    return Pruning(store.engines, lambda now: pruned_before(KNOWN, now))


def up_to_date(store: SqlStore) -> None:
    """Tree and projections have read everything."""
    assert isinstance(store.log, SqlLog)
    Tree(store.engines).follow()
    Projector(store.engines, store.log, PROJECTIONS, store.wall).catch_up()


def bodies(store: SqlStore) -> int:
    return int(store.execute("SELECT count(*) FROM events")[0][0])


def test_a_body_stays_for_its_term_and_not_longer(store: SqlStore) -> None:
    """To the microsecond; positions stay, and the live session's events do."""
    up_to_date(store)
    before, head = bodies(store), store.log.head()
    assert pruning(store).run_due(OVER - 1) == 0
    gone = pruning(store).run_due(OVER)
    assert (gone, bodies(store)) == (before - 1, 1)
    assert store.log.head() == head
    assert pruning(store).run_due(OVER) == 0


def test_the_log_answers_with_what_is_pruned(store: SqlStore) -> None:
    """In its place and with its leaf, so that nobody takes it for the end, or for damage."""
    leaves = [bytes(row[0]) for row in store.execute("SELECT leaf FROM events ORDER BY position")]
    up_to_date(store)
    pruning(store).run_due(OVER)
    found = store.log.read(0, 100)
    assert [one.position for one in found] == list(range(1, len(leaves) + 1))
    pruned = [one for one in found if isinstance(one.event, Pruned)]
    assert len(pruned) == len(leaves) - 1
    for one in pruned:
        assert isinstance(one.event, Pruned)
        assert (one.event.leaf, one.recorded_at) == (leaves[one.position - 1], OVER)
    assert store.log.history("0" * 32) == []
    assert [one.position for one in store.log.read(3, 2)] == [4, 5]


def test_what_the_audit_trail_says_of_it_goes_with_it(store: SqlStore) -> None:
    """Or the body would be there still, under another name; also in what a rebuild fills."""
    up_to_date(store)
    assert entries(store, "0" * 32) > 0
    pruning(store).run_due(OVER)
    assert (entries(store, "0" * 32), entries(store, f"{2:032x}")) == (0, 1)
    assert isinstance(store.log, SqlLog)
    projector = Projector(store.engines, store.log, PROJECTIONS, store.wall)
    projector.rebuild(audit.NAME, lambda done, total: None)
    assert (entries(store, "0" * 32), entries(store, f"{2:032x}")) == (0, 1)


def entries(store: SqlStore, session: str) -> int:
    with store.engines.read() as connection:
        return len(audit.of_session(connection, session))


def test_nothing_goes_that_is_not_in_the_tree_or_not_read(store: SqlStore) -> None:
    """Its leaf must have its place, and every projection must have counted it."""
    assert isinstance(store.log, SqlLog)
    Projector(store.engines, store.log, PROJECTIONS, store.wall).catch_up()
    assert pruning(store).run_due(OVER) == 0
    Tree(store.engines).follow()
    store.execute("UPDATE projection_positions SET position = 2 WHERE name = 'usage'")
    assert pruning(store).run_due(OVER) == 2
    store.execute("UPDATE projection_positions SET position = 100 WHERE name = 'usage'")
    assert pruning(store).run_due(OVER) > 0
    assert bodies(store) == 1


def test_an_altered_body_is_not_pruned(store: SqlStore) -> None:
    """What somebody did to it is found as long as it is there."""
    up_to_date(store)
    store.execute("UPDATE events SET recorded_at = 1 WHERE position = 1")
    pruning(store).run_due(OVER)
    assert [row[0] for row in store.execute("SELECT position FROM events ORDER BY 1")] == [1, 3]


def test_many_events_go_in_batches(store: SqlStore) -> None:
    """However few at once; one that is told to end ends before the next."""
    up_to_date(store)
    before = bodies(store)
    ended = pruning(store)
    ended.close()
    assert ended.run_due(OVER) == 0
    assert pruning(store).run_due(OVER, limit=1) == before - 1


def test_a_longer_term_of_the_policy_counts_at_once(store: SqlStore) -> None:
    """Whoever extends `audit_retention` keeps what is still there."""
    up_to_date(store)
    longer = POLICIES[ROOM].__class__(**{**vars(POLICIES[ROOM]), "audit_retention": 800 * DAY})
    known = {**KNOWN, ROOM: (*KNOWN[ROOM], Version(2, OVER - DAY, longer))}
    patient = Pruning(store.engines, lambda now: pruned_before(known, now))
    assert patient.run_due(OVER) == 0
    assert patient.run_due(ERASED + 800 * DAY) > 0
