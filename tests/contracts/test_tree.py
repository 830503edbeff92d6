"""The tree behind the log, on every database."""

from collections.abc import Callable
from typing import Any

import pytest

from adapters.log.engine import Engines, open_engines
from adapters.log.event_log import SqlLog
from adapters.log.merkle import (
    grown,
    leaf_bytes,
    leaf_hash,
    root,
    verify_inclusion,
)
from adapters.log.migrate import downgrade, upgrade
from adapters.log.tree import Standing, Tree, epoch_leaf
from domain.errors import CorruptEvent
from tests.contracts.authors import TEN, apply_policies, at_once, ended, opening
from tests.contracts.stores import SqlStore
from tests.witness import verify_consistency


def fill(store: SqlStore, sessions: int, first: int = 0) -> None:
    appends = [opening(f"{number:032x}") for number in range(first, first + sessions)]
    for answer in store.log.append(appends, TEN):
        assert not isinstance(answer, Exception)


def leaves(store: SqlStore) -> list[bytes]:
    return [bytes(row[0]) for row in store.execute("SELECT leaf FROM events ORDER BY position")]


def root_of(hashes: list[bytes]) -> bytes:
    tiles = grown(lambda level, tile: b"", 0, hashes)
    return root(lambda level, tile: tiles[level, tile], len(hashes))


def one_by_one(store: SqlStore) -> None:
    for number in range(3):
        store.log.submit(opening(f"{number:032x}"), TEN)


def swept(store: SqlStore) -> None:
    fill(store, 3)
    store.log.sweep(TEN + 10**12, 10, lambda found: [ended(one) for one in found], "me")


WAYS: dict[str, Callable[[SqlStore], None]] = {
    "one by one": one_by_one,
    "a batch": lambda store: fill(store, 20),
    "a batch by COPY": lambda store: fill(store, 300),
    "policies": lambda store: apply_policies(store.log),
    "a sweep": swept,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_append_writes_the_leaf_of_every_event(sql_store: SqlStore, way: str) -> None:
    """The leaf is the hash of all the row's columns but the position, whoever wrote it."""
    WAYS[way](sql_store)
    rows = sql_store.execute(
        "SELECT leaf, partition, session_id, version, topic, effective_at, recorded_at, nonce, "
        "state FROM events ORDER BY position"
    )
    assert len(rows) >= 3
    for stored, *columns in rows:
        assert bytes(stored) == leaf_hash(leaf_bytes(*map(plain, columns)))


def test_the_tree_follows_the_log(sql_store: SqlStore) -> None:
    """After each step it is that of all leaves, and every earlier one is its beginning."""
    tree = Tree(sql_store.engines)
    assert (tree.standing(), tree.follow()) == (Standing(1, 0), 0)
    heads = []
    for first, count in ((0, 1), (1, 254), (255, 2), (257, 600)):
        fill(sql_store, count, first)
        assert tree.follow() == count
        heads.append((tree.standing().size, tree.root(tree.standing().size)))
    size, top = heads[-1]
    assert (size, top) == (857, root_of(leaves(sql_store)))
    for old, old_root in heads:
        assert tree.root(old) == old_root
        assert verify_consistency(old, size, tree.consistency(old, size), old_root, top)
    for position in (1, 255, 256, 257, 857):
        proof = tree.inclusion(position)
        assert proof.leaf == leaves(sql_store)[position - 1]
        assert verify_inclusion(proof.leaf, position - 1, size, proof.hashes, top)


def test_many_follow_at_once_and_each_leaf_is_added_once(sql_store: SqlStore) -> None:
    """Instances need no leader: whoever comes second goes on behind the first."""
    fill(sql_store, 700)
    trees = [Tree(sql_store.engines) for _ in range(6)]
    added = at_once([tree.follow for tree in trees])
    assert sum(one for one in added if isinstance(one, int)) == 700
    assert trees[0].root(700) == root_of(leaves(sql_store))


def test_the_tree_ends_before_an_event_that_is_missing(sql_store: SqlStore) -> None:
    """It is never built over a hole; what stands before it is in."""
    fill(sql_store, 10)
    sql_store.execute("DELETE FROM events WHERE position = 4")
    tree = Tree(sql_store.engines)
    with pytest.raises(CorruptEvent) as missing:
        tree.follow()
    assert (missing.value.position, tree.standing().size) == (4, 3)


def test_a_pruned_event_keeps_its_place_in_the_tree(sql_store: SqlStore) -> None:
    """The leaf of a body that went is read from where it stays."""
    fill(sql_store, 10)
    kept = leaves(sql_store)
    sql_store.execute(
        "INSERT INTO pruned (partition, position, leaf, pruned_at) "
        "SELECT partition, position, leaf, 0 FROM events WHERE position IN (4, 5)"
    )
    sql_store.execute("DELETE FROM events WHERE position IN (4, 5)")
    tree = Tree(sql_store.engines)
    tree.follow()
    assert tree.root(10) == root_of(kept)


def test_a_later_epoch_begins_with_a_leaf_for_the_one_before(sql_store: SqlStore) -> None:
    """A restore starts the tree anew; its first leaf commits to the last checkpoint."""
    fill(sql_store, 300)
    tree = Tree(sql_store.engines)
    tree.follow()
    with sql_store.engines.write() as connection:
        tree.open_epoch(connection, 2, "the last note\n")
    tree.follow()
    first = leaf_hash(b"lapse/epoch/v1\nthe last note\n")
    assert epoch_leaf("the last note\n") == first
    assert tree.standing() == Standing(2, 301)
    assert tree.root(301) == root_of([first, *leaves(sql_store)])
    proof = tree.inclusion(300)
    assert (proof.index, proof.leaf) == (300, leaves(sql_store)[-1])


def test_there_is_no_proof_beyond_the_tree(sql_store: SqlStore) -> None:
    """Neither of an event to come, nor in a tree to come."""
    fill(sql_store, 5)
    tree = Tree(sql_store.engines)
    tree.follow()
    for position, size in ((6, None), (0, None), (1, 6), (5, 4)):
        with pytest.raises(ValueError, match="no such leaf"):
            tree.inclusion(position, size)


def test_the_migration_gives_an_existing_log_its_leaves(database_url: str) -> None:
    """Up: every event has the leaf it would have been written with. Down and up again: the same."""
    engines = open_engines(database_url)
    upgrade(engines)
    write_some(engines)
    before = rows_of(engines)
    downgrade(engines, "0003")
    upgrade(engines)
    assert rows_of(engines) == before
    assert Tree(engines).follow() == len(before) > 20
    engines.close()


def write_some(engines: Engines) -> None:
    log = SqlLog(engines, lambda: 0)
    apply_policies(log)
    log.append([opening(f"{number:032x}") for number in range(20)], TEN)
    log.wakeups.close()


def rows_of(engines: Engines) -> list[tuple[Any, ...]]:
    with engines.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM events ORDER BY position").fetchall()
    return [tuple(map(plain, row)) for row in rows]


def plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value
