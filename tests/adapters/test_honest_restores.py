"""However a database was restored, what nobody touched is as it was signed: with the evidence store
or without, right behind the restore and later."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from adapters.evidence import open_evidence
from adapters.log.verify import Verdict
from tests.adapters.test_restoring import House, Rows


class Archive:
    """An installation that is backed up and restored.

    signed: all checkpoints that were ever made. there: those of what is there today.
    """

    def __init__(self, house: House, folder: Path) -> None:
        self._house = house
        self._backups: dict[str, tuple[Rows, Sequence[str]]] = {}
        self._first = (folder / "evidence").as_uri()
        self._other = (folder / "other").as_uri()
        self._evidence: str | None = self._first
        self.signed: list[str] = []
        self.there: list[str] = []
        self._configure()

    def _configure(self) -> None:
        update = {"evidence_url": self._evidence}
        self._house.settings = self._house.settings.model_copy(update=update)

    def do(self, step: str) -> None:
        what, _, name = step.partition(" ")
        if what == "backup":
            self._backups[name] = (self._house.copy(), list(self.there))
        elif what == "restore":
            rows, there = self._backups[name]
            self._house.put_back(rows)
            self.there = list(there)
            with self._house.process(restore=True):
                pass
        elif what == "evidence":
            self._evidence = {"first": self._first, "other": self._other}.get(name)
            self._configure()
        elif what == "prune":
            self._prune()
        else:
            self._write(int(what), is_signed=name == "signed")

    def _write(self, count: int, *, is_signed: bool) -> None:
        with self._house.process() as lapse:
            for number in range(count):
                self._house.open_room(lapse, f"{number}", "ann")
            if is_signed:
                note = lapse.checkpoints.make(lapse.clock()).note
                self.signed.append(note)
                self.there.append(note)

    def _prune(self) -> None:
        """The bodies right before and behind each restore."""
        cuts = "SELECT position FROM events WHERE topic = 'log.epoch.v1'"
        where = (
            "WHERE topic <> 'log.epoch.v1' AND EXISTS "
            f"(SELECT 1 FROM ({cuts}) c WHERE abs(c.position - events.position) < 3)"
        )
        with self._house.engines.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO pruned (partition, position, leaf, pruned_at) "
                f"SELECT partition, position, leaf, 1 FROM events {where}"
            )
            connection.exec_driver_sql(f"DELETE FROM events {where}")

    def verdicts(self, against: str | None = None) -> Iterator[Verdict]:
        """Of those who verify with the evidence of the beginning, of today, and without any."""
        with self._house.process() as lapse:
            for url in {self._first, self._evidence, None}:
                verifier = lapse.verifier()
                verifier._evidence = open_evidence(url, None) if url is not None else None
                yield verifier.verify(against)

    def lost(self) -> list[int]:
        """What is known with evidence, and without."""
        return sorted({verdict.lost for verdict in self.verdicts()})


@pytest.fixture
def archive(database_url: str, key_url: str, tmp_path: Path) -> Iterator[Archive]:
    house = House(database_url, key_url, tmp_path)
    with house.process(restore=True):
        pass
    yield Archive(house, tmp_path)
    house.engines.close()


BEGINNING = ["3 signed", "backup a", "3 signed", "backup b", "3 signed"]
SEQUENCES = {
    "once": ["restore b", "3 signed"],
    "twice": ["restore b", "3 signed", "restore b", "3 signed"],
    "to before an earlier restore": ["restore b", "3 signed", "restore a", "3 signed"],
    "to between a backup and its restore": ["restore a", "1 signed", "restore b", "3 signed"],
    "a backup of the first epoch in the third": [
        *("restore b", "3 signed", "backup c", "3 signed", "restore c", "3 signed"),
        *("restore a", "3 signed"),
    ],
    "epochs in which nothing was signed": [
        *("restore b", "restore b", "3 signed", "backup c", "3 signed", "restore c", "3 signed"),
    ],
    "without the evidence store": [
        *("evidence none", "restore b", "3 signed", "backup c", "evidence first", "3 signed"),
        *("restore c", "3 signed"),
    ],
    "the evidence store is another one then": [
        *("restore b", "3 signed", "backup c", "3 signed", "evidence other", "restore c"),
        *("3 signed", "restore a", "3 signed"),
    ],
    "bodies are pruned around it": ["restore b", "3 signed", "prune", "3 signed"],
}


@pytest.mark.row("G5", "G10")
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_an_honest_restore_is_never_called_a_fraud(archive: Archive, sequence: str) -> None:
    """At no time. Whoever kept a checkpoint is told whether it was brought back."""
    for step in BEGINNING:
        archive.do(step)
    for step in SEQUENCES[sequence]:
        archive.do(step)
        for verdict in archive.verdicts():
            assert verdict.findings == [], step
    for note in archive.signed:
        expected = [] if note in archive.there else [("rolled_back", "against")]
        for verdict in archive.verdicts(note):
            assert [(one.kind, one.where) for one in verdict.findings] == expected


def test_a_restore_before_anything_was_signed_is_no_fraud(archive: Archive) -> None:
    """The first leaf of its epoch commits to nothing."""
    for step in ["3", "backup a", "3", "restore a", "3 signed", "backup b", "restore a", "3"]:
        archive.do(step)
        assert [verdict.findings for verdict in archive.verdicts()] == [[], []]


def test_what_restores_lost_is_added_up(archive: Archive) -> None:
    """The database itself knows the last checkpoint before: it says the same without evidence."""
    for step in [*BEGINNING, "restore b"]:
        archive.do(step)
    [first] = archive.lost()
    assert first > 3
    for step in ["3 signed", "backup c", "3 signed", "restore c"]:
        archive.do(step)
    [both] = archive.lost()
    assert both == 2 * first
    archive.do("restore b")  # what was signed since it is lost, too
    assert archive.lost()[0] > first
