"""Somebody else vouches that nobody was shown another log."""

from collections.abc import Iterator

import pytest

from adapters.log.checkpoint import ALERT, Checkpoints
from adapters.log.note import NoteInvalid, VerifierKey, parse_note, verifier_key
from adapters.log.tree import Tree
from adapters.log.verify import Trust, Verifier
from adapters.log.witness import parse_witness
from adapters.notify.alerts import Alerts
from domain.errors import SettingsInvalid
from domain.policy import MINUTE
from tests.adapters.test_verify import SIGNER, STORE
from tests.contracts.authors import TEN, opening
from tests.contracts.stores import SqlStore, open_sql_store
from tests.witness import FakeWitness, serving_witness


class Witnessed:
    """A log whose checkpoints go to a witness."""

    def __init__(self, store: SqlStore, witness: FakeWitness) -> None:
        self.store, self.witness, self.alerts = store, witness, Alerts()
        self.witnesses = [parse_witness(f"{witness.key} {witness.url}/")]
        self.checkpoints = Checkpoints(
            store.engines,
            Tree(store.engines),
            STORE,
            lambda: SIGNER,
            every=MINUTE,
            witnesses=self.witnesses,
            alerts=self.alerts,
        )

    def write(self, number: int) -> None:
        self.store.log.submit(opening(f"{number:032x}"), TEN)

    @property
    def trust(self) -> Trust:
        key = SIGNER.verifier_key()
        checked = Verifier(
            self.store.engines, self.checkpoints, STORE, key, witnesses=self.witnesses
        )
        return checked.verify().trust


@pytest.fixture
def witnessed(database_url: str) -> Iterator[Witnessed]:
    with (
        open_sql_store(database_url) as store,
        serving_witness(FakeWitness(SIGNER.verifier_key())) as witness,
    ):
        yield Witnessed(store, witness)


def test_a_witness_cosigns_every_checkpoint_of_a_log_that_grows(witnessed: Witnessed) -> None:
    """It is shown that each continues the last; its line stands behind the log's own."""
    for number in range(5):
        witnessed.write(number)
        note = parse_note(witnessed.checkpoints.make(TEN).note)
        assert note.is_signed_by(SIGNER.verifier_key())
        assert note.is_signed_by(witnessed.witness.key)
        assert len(note.lines) == 2
    assert witnessed.trust is Trust.WITNESSED
    assert not witnessed.alerts.standing()[ALERT]


def test_a_witness_that_saw_another_log_does_not_cosign(witnessed: Witnessed) -> None:
    """A log that was made anew under the same key cannot show that it continues the one it saw."""
    for number in range(3):
        witnessed.write(number)
    witnessed.checkpoints.make(TEN)
    for table in ("checkpoints", "tiles", "trees"):
        witnessed.store.execute(f"DELETE FROM {table}")
    witnessed.store.execute("UPDATE events SET leaf = nonce || nonce WHERE position = 1")
    witnessed.write(3)
    later = Witnessed(witnessed.store, witnessed.witness)  # who remembers nothing
    made = later.checkpoints.make(TEN + MINUTE)
    assert not parse_note(made.note).is_signed_by(later.witness.key)
    assert later.alerts.standing()[ALERT]
    assert later.trust is Trust.OPERATOR


ANSWERS = {
    "away": (503, ""),
    "an unknown log": (404, ""),
    "nonsense": (200, "nonsense"),
    "nothing": (200, ""),
    "a size that is none": (409, "many\n"),
    "a larger tree": (409, "99999\n"),
    "too much": (200, "x" * 100_000),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_witness_that_does_not_cosign_stops_nothing(witnessed: Witnessed, answer: str) -> None:
    """The log is signed all the same, an alert says so, and the witness is asked again."""
    witnessed.write(1)
    witnessed.witness.answer = ANSWERS[answer]
    made = witnessed.checkpoints.make(TEN)
    assert (made.size, len(parse_note(made.note).lines)) == (1, 1)
    assert witnessed.alerts.standing()[ALERT]
    witnessed.witness.answer = None
    again = witnessed.checkpoints.make(TEN)
    assert parse_note(again.note).is_signed_by(witnessed.witness.key)
    assert not witnessed.alerts.standing()[ALERT]


def test_another_ones_cosignature_does_not_count(witnessed: Witnessed) -> None:
    """Only the key that the settings name does."""
    witnessed.write(1)
    other = FakeWitness(SIGNER.verifier_key())
    made = witnessed.checkpoints.make(TEN)
    text = parse_note(made.note).text
    line = other.key.cosignature(text, 1, other._private.sign)
    witnessed.witness.answer = (200, line)
    witnessed.write(2)
    again = witnessed.checkpoints.make(TEN + MINUTE)
    assert len(parse_note(again.note).lines) == 1


def test_a_cosignature_holds_for_its_time_only() -> None:
    """Who changes the time in it breaks it."""
    witness = FakeWitness(SIGNER.verifier_key())
    line = witness.key.cosignature("text\n", 1_700_000_000, witness._private.sign)
    note = parse_note(f"text\n\n{line}")
    assert note.is_signed_by(witness.key)
    (_, signature) = next(iter(note._signatures()))
    later = (1_700_000_001).to_bytes(8, "big") + signature[12:]
    assert not witness.key.verifies("text\n", later)


@pytest.mark.parametrize(
    "setting",
    [
        "{key}",
        "{key} http://witness.example",
        "{key} https://",
        "{key} https://user@witness.example",
        "{log} https://witness.example",
        "nonsense https://witness.example",
    ],
)
def test_a_witness_is_a_key_for_cosignatures_and_a_secure_url(setting: str) -> None:
    """Everything else is refused at the start."""
    key, log = FakeWitness(SIGNER.verifier_key()).key, SIGNER.verifier_key()
    assert parse_witness(f"{key} https://witness.example/w1/").url == "https://witness.example/w1"
    with pytest.raises(SettingsInvalid):
        parse_witness(setting.format(key=key, log=log))


def test_a_verifier_key_is_read_as_it_is_written() -> None:
    """And one with another name, hash or type is none."""
    key = SIGNER.verifier_key()
    assert verifier_key(str(key)) == key
    for wrong in (
        str(key).replace("lapse", "Lapse"),
        str(key)[:-4],
        "a+b",
        str(VerifierKey("a b", key.public_key)),
    ):
        with pytest.raises(NoteInvalid):
            verifier_key(wrong)
