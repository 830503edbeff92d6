"""What is proven and remembered behind a restore is as good as before it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.certificates import CertificateInvalid, verified
from adapters.issuing import session_certificate
from adapters.ledger.local import LocalLedger
from adapters.log.note import VerifierKey
from adapters.restoring import State
from domain.erasure import Status
from domain.errors import LedgerDamaged
from domain.facts import Refusal, Verification, Waiting
from domain.session import Ground
from tests.adapters.test_restoring import ACTOR, House


@pytest.fixture
def house(database_url: str, key_url: str, tmp_path: Path) -> Iterator[House]:
    made = House(database_url, key_url, tmp_path)
    yield made
    made.engines.close()


@pytest.mark.row("G5", "G10")
def test_a_certificate_of_a_restored_database_verifies(house: House) -> None:
    """Before the schedule has signed anything of the new epoch, and under the verifier key that
    somebody kept since the first."""
    with house.process(restore=True) as lapse:
        room = house.open_room(lapse, "erased", "ann")
        before = house.open_room(lapse, "erased before", "bob")
        lapse.sessions.erase(before, lapse.clock(), ACTOR)
        brought_back = lapse.checkpoints.make(lapse.clock()).note
    backup = house.copy()
    with house.process() as lapse:
        kept = lapse.signers.checkpoints.verifier_key()
        for number in range(30):
            house.open_room(lapse, f"later-{number}", "cem")
        lost = lapse.checkpoints.make(lapse.clock()).note
        lapse.sessions.erase(room, lapse.clock(), ACTOR)
    house.put_back(backup)
    with house.process(restore=True) as lapse:
        assert lapse.restoring.epoch == 2
        for one in (before, room):
            made = session_certificate(lapse, one, lapse.clock())
            stated = verified(made, lapse.signers.certificates.public_key, kept)
            assert stated["log"]["origin"] == f"{kept.name}/epoch-2"
        assert [lapse.verifier().verify(one).findings for one in (None, brought_back)] == [[], []]
        assert [one.where for one in lapse.verifier().verify(lost).findings] == ["against"]
        of_another = VerifierKey(f"{kept.name}0", kept.public_key)
        with pytest.raises(CertificateInvalid):
            verified(made, lapse.signers.certificates.public_key, of_another)


@pytest.mark.row("G5")
def test_a_request_that_was_refused_stays_refused(house: House) -> None:
    """The backup has it open; without the refusal it would be carried out after the restore, and
    what a privacy officer decided to keep would be gone."""
    with house.process(restore=True) as lapse:
        room = house.open_room(lapse, "kept", "ann")
        now = lapse.clock()
        lapse.sessions.hold(room, "case-1", Ground.LEGAL_CLAIM, None, now, ACTOR)
        request = lapse.requests.of_subject("ann", Verification.CONTROLLER, now, ACTOR).request.id
        assert lapse.requests.advance(request, now).request.reason is Waiting.HELD
    backup = house.copy()
    with house.process() as lapse:
        now = lapse.clock()
        lapse.requests.refuse(request, Refusal.LEGAL_CLAIM, now, ACTOR)
        lapse.sessions.release(room, "case-1", now, ACTOR)
    house.put_back(backup)
    with house.process(restore=True) as lapse:
        row = lapse.requests.advance(request, lapse.clock())
        assert (row.request.status, row.request.ground) == (Status.REFUSED, Refusal.LEGAL_CLAIM)
        assert row.sealed is None
        assert house.sessions() == {room}
    with house.process(restore=True) as lapse:  # nothing is done twice
        assert lapse.restoring.look().state is State.CURRENT
        told = [one.event.TOPIC.split(".")[1] for one in lapse.log.history(request)]
        assert told == ["received", "suspended", "refused"]


def test_a_ledger_that_was_changed_is_found_before_it_is_needed(house: House) -> None:
    """Nothing is missing at its end, so whoever only counts its entries sees nothing."""
    with house.process(restore=True) as lapse:
        for name in ("one", "two", "three"):
            lapse.sessions.erase(house.open_room(lapse, name, "ann"), lapse.clock(), ACTOR)
        lapse.restoring.check_ledger()
        assert isinstance(lapse.restoring._ledger.ledger, LocalLedger)
        file = lapse.restoring._ledger.ledger._path
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:-2], lines[-2].replace(b"erased", b"expired"), lines[-1]]))
    with house.process() as lapse:
        assert lapse.restoring.look().state is State.CURRENT
        with pytest.raises(LedgerDamaged):
            lapse.restoring.check_ledger()
