"""Tricks with the types and rows of a database do not hide what was done to the log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.log.checkpoint import ALERT, keep_last, published_reach
from adapters.log.note import Note, parse_note
from domain.errors import LogForked
from domain.policy import MINUTE
from tests.adapters.test_verify import SIGNER, STORE, Proven, begin_epoch, forge, proven_over
from tests.contracts.authors import TEN
from tests.contracts.stores import open_sql_store


@pytest.fixture
def proven(database_url: str, tmp_path: Path) -> Iterator[Proven]:
    with open_sql_store(database_url) as store:
        yield proven_over(store, tmp_path / "evidence")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Proven]:
    """Nine events under a checkpoint, in SQLite, which keeps whatever is written into a column."""
    with open_sql_store(f"sqlite:///{tmp_path / 'lapse.db'}") as store:
        proven = proven_over(store, tmp_path / "evidence")
        proven.write(9)
        proven.checkpoints.make(TEN)
        yield proven


OTHER_TYPES = {
    "session_id": "CAST(session_id AS BLOB)",
    "topic": "CAST(topic AS BLOB)",
    "version": "'0_' || version",
    "effective_at": "'0_' || effective_at",
    "recorded_at": "CAST(recorded_at AS BLOB)",
    "nonce": "CAST('sixteen letters.' AS TEXT)",
    "state": "CAST(state AS TEXT)",
    "leaf": "CAST(leaf AS TEXT)",
}


@pytest.mark.row("G10")
@pytest.mark.parametrize("column", OTHER_TYPES)
def test_the_same_bytes_as_another_type_are_found(embedded: Proven, column: str) -> None:
    """No query finds a session by an id that is bytes: its event would be gone for all but us."""
    embedded.store.execute(f"UPDATE events SET {column} = {OTHER_TYPES[column]} WHERE position = 5")
    assert embedded.found() == [("altered", 5)]


@pytest.mark.parametrize("position", ["'x'", "X'05'", "5.5"])
def test_an_event_whose_position_is_no_number_is_found(embedded: Proven, position: str) -> None:
    """It is missing in its place."""
    embedded.store.execute(f"UPDATE events SET position = {position} WHERE position = 5")
    assert ("pruned", 5) in embedded.found()


CHECKPOINTS = {
    "size": ["'many'", "X'00'", "-1"],
    "root": ["'text'", "1", "X''"],
    "note": ["X'00'", "1", "''"],
    "signed_at": ["'never'"],
    "epoch": ["'x'", "7"],
}


@pytest.mark.parametrize(
    ("column", "value"), [(name, value) for name in CHECKPOINTS for value in CHECKPOINTS[name]]
)
def test_a_checkpoint_that_cannot_be_read_is_a_problem_and_no_crash(
    embedded: Proven, column: str, value: str
) -> None:
    embedded.store.execute(f"UPDATE checkpoints SET {column} = {value}")
    assert embedded.found(with_evidence=False) or column == "signed_at"


def test_a_missing_tile_is_found(proven: Proven) -> None:
    """The log is whole, but nothing can be proven of it."""
    proven.write(400)
    proven.checkpoints.make(TEN)
    proven.store.execute("DELETE FROM tiles WHERE level = 0 AND tile = 0")
    assert proven.found() == [("altered", 1)]


def test_who_takes_the_newest_checkpoints_gets_no_other_log_signed(proven: Proven) -> None:
    """A process remembers what it signed, or saw signed, though the rows are gone."""
    proven.write(10)
    proven.checkpoints.make(TEN)
    proven.write(10, 10)
    proven.checkpoints.make(TEN + MINUTE)
    forge(proven, 15)
    proven.store.execute("DELETE FROM checkpoints WHERE size = 20")
    proven.store.execute("DELETE FROM tiles")
    proven.store.execute("DELETE FROM trees")
    proven.write(1, 20)
    with pytest.raises(LogForked):
        proven.checkpoints.make(TEN + 5 * MINUTE)
    proven.checkpoints.run_due(TEN + 5 * MINUTE)
    assert proven.alerts.standing()[ALERT]


def test_a_checkpoint_of_another_in_the_same_place_is_told(proven: Proven) -> None:
    """Two installations that write to one place would else take each other's for their own."""
    proven.write(10)
    proven.checkpoints.make(TEN)
    proven.write(10, 10)
    other = Note("lapse/another/0\n20\n" + "A" * 43 + "=\n", ("\u2014 another AAAAAAA=\n",))
    proven.evidence.put_checkpoint(1, 20, str(other))
    assert proven.checkpoints.make(TEN + MINUTE).size == 20
    assert proven.alerts.standing()[ALERT]


def test_what_nobody_signed_opens_no_epoch(proven: Proven) -> None:
    """Whoever may write evidence could else have the log begin anew, as if it had been restored."""
    key = SIGNER.public_key
    proven.write(10)
    proven.checkpoints.make(TEN)
    assert published_reach(proven.evidence, STORE, key) == (1, 10)
    forged = Note(
        f"lapse/{STORE}/0/epoch-9\n99\n" + "A" * 43 + "=\n",
        (f"\u2014 lapse/{STORE}/0/epoch-9 AAAAAAAA\n",),
    )
    proven.evidence.put_checkpoint(9, 99, str(forged))
    with pytest.raises(LogForked):
        published_reach(proven.evidence, STORE, key)


def restored(proven: Proven, epoch: int) -> None:
    """As a restore leaves it: its event, and a tree that commits to the last checkpoint."""
    begin_epoch(proven, epoch)
    key = SIGNER.verifier_key().public_key
    with proven.store.engines.write() as connection:
        last = keep_last(connection, proven.evidence, STORE, key, TEN)
        proven.tree.open_epoch(connection, epoch, last)


@pytest.mark.row("G5", "G10")
def test_who_claims_that_there_was_a_restore_writes_no_other_history(proven: Proven) -> None:
    """Whatever was signed before still binds: what the database keeps of it, and what others do."""
    proven.write(40)
    kept = proven.checkpoints.make(TEN).note
    forge(proven, 9)
    with proven.store.engines.write() as connection:
        proven.tree.open_epoch(connection, 2, parse_note(kept).text)
    assert proven.found() == [("altered", 1)]  # no event says so
    begin_epoch(proven, 2)
    assert proven.found() == [("altered", 1)]  # nor need the tree be there
    proven.checkpoints.make(TEN + 2 * MINUTE)
    for against in (None, kept):
        assert proven.found(against) == [("altered", 1)]
    proven.store.execute("DELETE FROM checkpoints WHERE epoch = 1")
    assert [one.where for one in proven.verify().findings] == ["evidence"]
    assert [one.where for one in proven.verify(kept, with_evidence=False).findings] == ["against"]


@pytest.mark.parametrize("epoch", [2, 2**31 - 1])
def test_an_epoch_that_no_event_began_is_found(proven: Proven, epoch: int) -> None:
    """At once, however many epochs there should have been."""
    proven.write(40)
    proven.checkpoints.make(TEN)
    proven.store.execute(f"UPDATE trees SET epoch = {epoch}")
    assert ("altered", 1) in proven.found(with_evidence=False)


def test_an_epoch_is_not_taken_back(proven: Proven) -> None:
    """Or what was signed before it would not have to fit."""
    proven.write(40)
    restored(proven, 2)
    with proven.store.engines.write() as connection:
        for table in ("tiles", "trees", "checkpoints"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    proven.tree.follow()
    assert proven.found() == [("altered", 1)]


def test_what_a_restore_lost_is_said(proven: Proven) -> None:
    """What was brought back fits, the rest is counted; a checkpoint that somebody kept of it is not
    fulfilled. Each restore begins one more epoch."""
    proven.write(300)
    first = proven.checkpoints.make(TEN).note
    proven.write(20, 300)
    lost = proven.checkpoints.make(TEN + MINUTE).note
    proven.store.execute("DELETE FROM checkpoints WHERE size = 320")
    proven.store.execute("DELETE FROM events WHERE position > 310")
    proven.store.execute("UPDATE heads SET position = 310")
    restored(proven, 2)
    proven.write(5, 400)
    second = proven.checkpoints.make(TEN + 2 * MINUTE).note
    assert proven.found(first) == []
    assert proven.verify().lost == 10
    assert proven.found(lost) == [("rolled_back", 311)]
    restored(proven, 3)
    proven.checkpoints.make(TEN + 3 * MINUTE)
    assert [proven.found(one) for one in (first, second)] == [[], []]
