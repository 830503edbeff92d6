"""What is done to a log behind its back is found, and named by kind and place."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.evidence import Evidence, open_evidence
from adapters.keyring.signing import Signer, origin
from adapters.log.checkpoint import ALERT, Checkpoints
from adapters.log.engine import open_engines
from adapters.log.event_log import SqlLog, append_facts
from adapters.log.merkle import leaf_of_row
from adapters.log.note import parse_note
from adapters.log.schema import events
from adapters.log.tree import Tree
from adapters.log.verify import MOST, Trust, Verdict, Verifier
from adapters.notify.alerts import Alerts
from adapters.vault.rows import SqlVault
from domain.errors import EvidenceUnavailable, LogForked, SettingsInvalid
from domain.facts import EpochOpened
from domain.policy import MINUTE, SECOND
from tests.contracts.authors import TEN, opening
from tests.contracts.stores import SqlStore, open_sql_store

STORE = "5707e00000000000"
SIGNER = Signer(origin(STORE, 1), Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@dataclass
class Proven:
    """A log with its tree, its checkpoints and its evidence."""

    store: SqlStore
    tree: Tree
    checkpoints: Checkpoints
    evidence: Evidence
    alerts: Alerts

    def write(self, count: int, first: int = 0) -> None:
        appends = [opening(f"{number:032x}") for number in range(first, first + count)]
        for answer in self.store.log.append(appends, TEN):
            assert not isinstance(answer, Exception)

    def verify(self, against: str | None = None, *, with_evidence: bool = True) -> Verdict:
        return Verifier(
            self.store.engines,
            self.checkpoints,
            STORE,
            SIGNER.verifier_key(),
            self.evidence if with_evidence else None,
        ).verify(against)

    def found(self, against: str | None = None, **how: Any) -> list[tuple[str, int]]:
        return [(str(one.kind), one.position) for one in self.verify(against, **how).findings]


def proven_over(store: SqlStore, folder: Path) -> Proven:
    tree, alerts = Tree(store.engines), Alerts()
    evidence = open_evidence(folder.as_uri(), None)
    checkpoints = Checkpoints(
        store.engines,
        tree,
        STORE,
        lambda: SIGNER,
        every=MINUTE,
        evidence=evidence,
        alerts=alerts,
    )
    return Proven(store, tree, checkpoints, evidence, alerts)


@pytest.fixture
def proven(database_url: str, tmp_path: Path) -> Iterator[Proven]:
    with open_sql_store(database_url) as store:
        yield proven_over(store, tmp_path / "evidence")


SIZE = 700


@pytest.fixture
def signed(proven: Proven) -> Proven:
    """700 events under two checkpoints."""
    proven.write(400)
    proven.checkpoints.make(TEN)
    proven.write(300, 400)
    proven.checkpoints.make(TEN + MINUTE)
    return proven


def test_a_log_that_nobody_touched_is_as_it_was_signed(signed: Proven) -> None:
    """Nothing is found, and nobody but the operator vouches for it."""
    verdict = signed.verify()
    assert (verdict.ok, verdict.size, verdict.signed) == (True, SIZE, SIZE)
    assert verdict.trust is Trust.OPERATOR


def test_an_empty_log_is_as_it_was_signed(proven: Proven) -> None:
    """There is nothing yet that could have been altered."""
    assert proven.verify() == Verdict(0)
    assert proven.checkpoints.make(TEN).size == 0
    assert proven.found() == []


ALTERED = {
    "session_id": "'00000000000000000000000000000fff'",
    "version": "2",
    "topic": "'session.seen.v1'",
    "effective_at": "effective_at + 1",
    "recorded_at": "recorded_at - 1",
    "nonce": "X",
    "state": "X",
    "leaf": "X",
}


@pytest.mark.row("G10")
@pytest.mark.parametrize("column", ALTERED)
def test_an_altered_column_is_found_in_its_row(signed: Proven, column: str) -> None:
    """Whichever it is: every one stands in the leaf."""
    assert {row.name for row in events.columns} == {*ALTERED, "partition", "position"}
    signed.store.execute(f"UPDATE events SET {column} = {value(signed, column)} WHERE position = 5")
    assert signed.found() == [("altered", 5)]


def value(proven: Proven, column: str) -> str:
    if ALTERED[column] != "X":
        return ALTERED[column]
    length = 16 if column == "nonce" else 32
    digits = "ab" * length
    return f"'\\x{digits}'" if proven.store.is_postgresql else f"X'{digits}'"


@pytest.mark.row("G10")
def test_an_altered_row_that_is_not_in_the_tree_yet_is_found(signed: Proven) -> None:
    """From the instant it is committed: its leaf does not fit any more."""
    signed.write(5, SIZE)
    signed.store.execute("UPDATE events SET effective_at = 0 WHERE position = 703")
    assert signed.found() == [("altered", 703)]


@pytest.mark.parametrize("column", [name for name in ALTERED if name != "partition"])
def test_a_column_that_cannot_be_read_is_found(tmp_path: Path, column: str) -> None:
    """SQLite keeps whatever somebody writes: here bytes that are neither number nor text."""
    with open_sql_store(f"sqlite:///{tmp_path / 'lapse.db'}") as store:
        proven = proven_over(store, tmp_path / "evidence")
        proven.write(9)
        proven.checkpoints.make(TEN)
        store.execute(f"UPDATE events SET {column} = CAST(X'ff00fe' AS TEXT) WHERE position = 5")
        assert proven.found() == [("altered", 5)]


def test_two_exchanged_rows_are_found_in_both_places(signed: Proven) -> None:
    """Their leaves fit them, but the tree says who stood where."""
    signed.store.execute("UPDATE events SET position = -1 WHERE position = 8")
    signed.store.execute("UPDATE events SET position = 8 WHERE position = 300")
    signed.store.execute("UPDATE events SET position = 300 WHERE position = -1")
    assert signed.found() == [("altered", 8), ("altered", 300)]


def test_a_row_whose_leaf_was_made_to_fit_is_found(signed: Proven) -> None:
    """Whoever computes the leaf anew still has the tree against him."""
    forge(signed, 9)
    assert signed.found() == [("altered", 9)]


def forge(proven: Proven, position: int) -> bytes:
    """Alters a row and its leaf; the leaf."""
    mark = "%s" if proven.store.is_postgresql else "?"
    with proven.store.engines.write() as connection:
        row = connection.exec_driver_sql(
            "SELECT session_id, version, topic, effective_at, recorded_at, nonce, state "
            f"FROM events WHERE position = {position}"
        ).one()
        columns = [*row[:3], row[3] + 1, row[4], bytes(row[5]), bytes(row[6])]
        leaf = leaf_of_row(*columns)
        connection.exec_driver_sql(
            f"UPDATE events SET effective_at = {mark}, leaf = {mark} WHERE position = {position}",
            (columns[3], leaf),
        )
    return leaf


def test_a_forged_row_under_a_forged_tree_is_found_between_two_checkpoints(signed: Proven) -> None:
    """The tree made anew leads to another root than was signed; the first event that it may be is
    named."""
    forge(signed, 550)
    signed.store.execute("DELETE FROM tiles")
    signed.store.execute("DELETE FROM trees")
    signed.tree.follow()
    assert signed.found() == [("altered", 401)]


def test_a_forged_history_with_forged_checkpoints_is_found(signed: Proven) -> None:
    """Who cannot sign cannot replace a checkpoint."""
    signed.store.execute("UPDATE checkpoints SET root = leaf FROM events WHERE events.position = 1")
    assert [kind for kind, _ in signed.found()] == ["altered", "altered"]


@pytest.mark.parametrize("level", [0, 1])
def test_an_altered_tile_is_found(signed: Proven, level: int) -> None:
    """The log is whole, but its proofs would not be."""
    first, second = signed.tree.tile(level, 0)[:32], signed.tree.tile(level, 0)[32:]
    mark = "%s" if signed.store.is_postgresql else "?"
    with signed.store.engines.write() as connection:
        connection.exec_driver_sql(
            f"UPDATE tiles SET hashes = {mark} WHERE level = {level} AND tile = 0",
            (first[::-1] + second,),
        )
    assert signed.found() == [("altered", 1)]


@pytest.mark.row("G10")
def test_an_event_that_is_missing_is_found(signed: Proven) -> None:
    """A body that nobody was allowed to take."""
    signed.store.execute("DELETE FROM events WHERE position IN (3, 4, 600)")
    assert signed.found() == [("pruned", 3), ("pruned", 4), ("pruned", 600)]


@pytest.mark.row("G10")
@pytest.mark.parametrize("hidden", ["", "heads", "trees"])
def test_a_cut_tail_is_found(signed: Proven, hidden: str) -> None:
    """Whatever else is set back with it, unless it is everything."""
    signed.store.execute("DELETE FROM events WHERE position > 650")
    if hidden:
        signed.store.execute("UPDATE heads SET position = 650")
    if hidden == "trees":
        signed.store.execute("DELETE FROM tiles")
        signed.store.execute("DELETE FROM trees")
        signed.tree.follow()
    assert signed.found() == [("truncated", 651)]


def test_an_event_behind_the_head_is_found(signed: Proven) -> None:
    """Nobody appended it."""
    signed.store.execute("UPDATE heads SET position = 699")
    assert ("altered", 700) in signed.found()


def begin_epoch(proven: Proven, epoch: int) -> None:
    """The event with which an epoch begins."""
    fact = EpochOpened("log", epoch, TEN, "", "ledger", epoch, 0, 0)
    with proven.store.engines.write() as connection:
        append_facts(connection, [fact], TEN)


@pytest.mark.row("G10")
def test_an_older_state_of_the_whole_database_is_found(tmp_path: Path) -> None:
    """It fits in itself; what was kept outside says that there was more."""
    database, older = tmp_path / "lapse.db", tmp_path / "older.db"
    with open_sql_store(f"sqlite:///{database}") as store:
        proven = proven_over(store, tmp_path / "evidence")
        proven.write(40)
        proven.checkpoints.make(TEN)
    shutil.copy(database, older)
    with reopened(database, tmp_path) as proven:
        proven.write(20, 40)
        note = proven.checkpoints.make(TEN + MINUTE).note
        assert proven.found(note) == []
    shutil.copy(older, database)
    with reopened(database, tmp_path) as proven:
        assert proven.found(with_evidence=False) == []
        assert proven.found() == [("rolled_back", 41)]
        assert proven.found(note, with_evidence=False) == [("rolled_back", 41)]
        proven.write(1, 90)
        with pytest.raises(LogForked):  # and nothing is signed over it
            proven.checkpoints.make(TEN + 2 * MINUTE)


@contextmanager
def reopened(database: Path, folder: Path) -> Iterator[Proven]:
    """The log of a database file that is there already."""
    engines = open_engines(f"sqlite:///{database}")
    log = SqlLog(engines, lambda: 0)
    nothing: Any = None
    store = SqlStore(log, SqlVault(engines), nothing, nothing, nothing, nothing, engines, "")
    try:
        yield proven_over(store, folder / "evidence")
    finally:
        log.close()


def test_a_kept_checkpoint_of_another_log_is_refused(signed: Proven) -> None:
    """It says nothing about this one; neither does one that this log's key did not sign."""
    kept = signed.checkpoints.make(TEN).note
    assert signed.found(kept) == []
    for other in (
        "no note",
        kept.replace("5707e", "5707f"),
        kept.replace("\n700\n", "\n699\n"),
        kept[:-20] + kept[-1],
    ):
        with pytest.raises(SettingsInvalid):
            signed.verify(other)


def test_problems_beyond_what_can_be_listed_are_counted(signed: Proven) -> None:
    """A log that is altered everywhere does not fill the memory."""
    signed.write(700, SIZE)
    signed.store.execute("UPDATE events SET effective_at = 0")
    verdict = signed.verify()
    assert (len(verdict.findings), verdict.more) == (MOST, 400)


def test_a_restored_log_is_verified_from_its_epoch_on(signed: Proven, tmp_path: Path) -> None:
    """Its first leaf commits to the last checkpoint before; one that does not is found."""
    last = signed.checkpoints.latest()
    assert last is not None
    begin_epoch(signed, 2)
    for text, found in ((last.text, []), ("another", [("altered", 0)])):
        with signed.store.engines.write() as connection:
            connection.exec_driver_sql("DELETE FROM checkpoints WHERE epoch = 2")
            signed.tree.open_epoch(connection, 2, text)
        later = proven_over(signed.store, tmp_path / f"other-{len(found)}")  # who remembers nothing
        made = later.checkpoints.make(TEN)
        assert (made.origin, made.size) == (f"lapse/{STORE}/0/epoch-2", SIZE + 2)
        assert signed.found(with_evidence=False) == found
        assert signed.found(last.note, with_evidence=False) == found


# -- checkpoints ------------------------------------------------------------------------------


def test_a_checkpoint_is_signed_by_the_key_of_the_log(signed: Proven) -> None:
    """A note of C2SP: origin, size, root, and a line that verifies."""
    made = signed.checkpoints.make(TEN)
    note = parse_note(made.note)
    assert note.is_signed_by(SIGNER.verifier_key())
    assert note.text == made.text
    assert (made.size, made.root) == (SIZE, signed.tree.root(SIZE))
    other = Signer(SIGNER.name, Ed25519PrivateKey.generate())
    assert not note.is_signed_by(other.verifier_key())


def test_nothing_new_is_signed_when_nothing_was_added(signed: Proven) -> None:
    """The last checkpoint stands."""
    assert signed.checkpoints.make(TEN) == signed.checkpoints.make(TEN + 5 * MINUTE)


def test_the_schedule_signs_a_log_that_grew_once_a_minute(proven: Proven) -> None:
    """Neither sooner, nor when nothing happened."""
    sizes = []
    for seconds in (0, 1, 59, 60, 61, 200):
        proven.write(1, seconds)
        proven.tree.follow()
        proven.checkpoints.run_due(TEN + seconds * SECOND)
        latest = proven.checkpoints.latest()
        assert latest is not None
        sizes.append(latest.size)
    assert sizes == [1, 1, 1, 4, 4, 6]


def test_a_log_that_was_altered_below_its_last_checkpoint_is_not_signed_again(
    signed: Proven,
) -> None:
    """Or the alteration would be signed with it; an alert says so."""
    forge(signed, 9)
    signed.store.execute("DELETE FROM tiles")
    signed.store.execute("DELETE FROM trees")
    signed.write(1, SIZE)
    with pytest.raises(LogForked):
        signed.checkpoints.make(TEN + 5 * MINUTE)
    signed.checkpoints.run_due(TEN + 5 * MINUTE)
    assert signed.alerts.standing()[ALERT]


def test_checkpoints_are_kept_as_evidence(signed: Proven) -> None:
    """Each as an object of its own, written once."""
    latest = signed.checkpoints.latest()
    assert latest is not None
    assert signed.evidence.latest_checkpoint() == latest.note
    assert [size for size, _ in signed.evidence.checkpoints(1)] == [400, 700]
    signed.evidence.put_checkpoint(1, 700, latest.note)
    with pytest.raises(EvidenceUnavailable):
        signed.evidence.put_checkpoint(1, 700, "another")
    assert signed.evidence.latest_checkpoint() == latest.note


def test_an_evidence_store_that_fails_is_said_and_tried_again(
    database_url: str, tmp_path: Path
) -> None:
    """The log is signed all the same; the alert stands until the checkpoint is out."""
    folder = tmp_path / "evidence"
    folder.write_text("in the way")
    with open_sql_store(database_url) as store:
        proven = proven_over(store, folder)
        proven.write(3)
        assert proven.checkpoints.make(TEN).size == 3
        assert proven.alerts.standing()[ALERT]
        with pytest.raises(EvidenceUnavailable):
            proven.verify()
        folder.unlink()
        proven.checkpoints.run_due(TEN + SECOND)
        assert not proven.alerts.standing()[ALERT]
        assert proven.evidence.latest_checkpoint() is not None


def test_evidence_is_not_kept_where_the_database_is(tmp_path: Path) -> None:
    """Whoever replaces that folder would replace it too."""
    database = tmp_path / "db" / "lapse.db"
    with pytest.raises(SettingsInvalid):
        open_evidence((tmp_path / "db" / "evidence").as_uri(), database)
    open_evidence((tmp_path / "evidence").as_uri(), database)


@pytest.mark.parametrize("url", ["evidence", "http://bucket", "s3://", "s3://key@bucket"])
def test_an_evidence_url_that_is_none_is_refused(url: str) -> None:
    """A folder or an object store; credentials stand elsewhere."""
    with pytest.raises(SettingsInvalid):
        open_evidence(url, None)


def test_a_certificate_is_kept_under_an_id_only(signed: Proven) -> None:
    """Nothing leads out of its folder."""
    signed.evidence.put_certificate("4f53", b"{}")
    with pytest.raises(ValueError, match="not the id"):
        signed.evidence.put_certificate("../4f53", b"{}")
