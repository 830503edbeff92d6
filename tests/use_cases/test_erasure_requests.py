"""Requests for erasure: what goes, what stays, and what is said about it, on both databases."""

from pathlib import Path
from typing import Any

import pytest

from adapters.documents import request_document
from domain.erasure import Status
from domain.errors import (
    Conflict,
    OnHold,
    ParticipantUnknown,
    RequestBegun,
    RequestNotOpen,
    RequestUnknown,
    SessionErased,
    SessionNotFound,
)
from domain.facts import Refusal, Verification, Waiting
from domain.policy import DAY, HOUR
from domain.ports import RequestRow
from domain.session import Ground
from tests.contracts.conftest import sql_store  # noqa: F401 - the fixture, for every test here
from tests.contracts.stores import SqlStore
from tests.use_cases.offices import APP, OFFICER, TEN, Office, Scan, opened_office

LATER = TEN + 1


@pytest.fixture
def office(sql_store: SqlStore, tmp_path: Path) -> Office:  # noqa: F811
    return opened_office(sql_store, tmp_path)


# -- by person --------------------------------------------------------------------------------


def test_sessions_of_one_person_alone_go_whole(office: Office) -> None:
    """As participant and as owner; nothing of them is left, and each history says so."""
    own = office.room(policy="lead", owner="ann")[0]
    visits = [office.room("ann")[0] for _ in range(3)]
    office.put(visits[0], [{"x": 1}])
    row = office.erase("ann")
    assert row.request.status is Status.EXECUTED
    assert (row.request.sessions, row.request.parts, row.request.subjects) == (4, 0, 1)
    assert office.people() == {}
    for session in (own, *visits):
        assert office.told(session)[-1] == "erased"
    assert office.told(row.request.id) == ["received", "executed"]
    assert not any(scope.startswith("owner:") for scope in office.store.counters())


def test_of_a_shared_session_only_their_part_goes(office: Office) -> None:
    """Nothing happens in the session's history, and the person is not among its members."""
    session, tokens = office.room("ann", "bob")
    before = office.told(session)
    office.put(session, [{"x": 1}], tokens["ann"])
    kept = office.put(session, [{"x": 2}], tokens["bob"])
    stored = office.told(session)
    row = office.erase("ann")
    assert (row.request.sessions, row.request.parts, row.request.items) == (0, 1, 1)
    assert office.told(session) == stored
    assert len(stored) == len(before) + 2
    assert [one.token for one in office.store.vault.members(session)] == [tokens["bob"]]
    assert [one.item_id for one in office.store.vault.items(session, "", 9)] == [kept]
    assert office.read(session, kept) == [{"x": 2}]
    assert office.requested.of_subject(office.keyring.lookup("subject", "ann")) == []


def test_the_owner_of_a_shared_session_takes_nobody_elses_data_along(office: Office) -> None:
    """It goes on as nobody's, and counts against no owner any more."""
    session, tokens = office.room("ann", "bob", policy="lead", owner="ann")
    item = office.put(session, [{"x": 2}], tokens["bob"])
    row = office.erase("ann")
    assert (row.request.sessions, row.request.parts) == (0, 2)
    assert office.read(session, item) == [{"x": 2}]
    assert office.store.log.find([session])[session].owner is None
    assert not any(scope.startswith("owner:") for scope in office.store.counters())
    office.sweep(TEN + 40 * DAY)
    assert office.told(session)[-2:] == ["expired", "erased"]


def test_expired_sessions_that_could_be_recovered_go_too(office: Office) -> None:
    """What is hidden is held all the same, until it is erased."""
    session, _ = office.room("ann")
    office.sweep(TEN + 90 * 60_000_000)
    assert office.told(session)[-1] == "expired"
    office.erase("ann", TEN + 2 * HOUR)
    assert office.people() == {}
    with pytest.raises(SessionErased):
        office.sessions.recover(session, TEN + 2 * HOUR, APP)


def test_all_names_behind_a_token_go_with_it(office: Office) -> None:
    """Whoever changes names is several subjects behind one token."""
    session, tokens = office.room("ann", "bob")
    office.store.execute(
        "INSERT INTO subjects (partition, lookup, subject) VALUES (0, ?, 'other-name')",
        office.keyring.lookup("subject", "anna"),
    )
    office.store.execute(
        "INSERT INTO subject_index (partition, session_id, token, subject, role, current, sealed) "
        "SELECT partition, session_id, token, 'other-name', role, 0, sealed FROM subject_index "
        "WHERE token = ?",
        tokens["ann"],
    )
    office.erase("anna")
    assert office.store.vault.subjects([office.keyring.lookup("subject", "ann")]) == {}
    assert [one.token for one in office.store.vault.members(session)] == [tokens["bob"]]


def test_somebody_unknown_is_erased_at_once(office: Office) -> None:
    """There is nothing, so nothing is left; the answer tells no more."""
    row = office.erase("nobody")
    assert row.request.status is Status.EXECUTED
    assert (row.request.sessions, row.request.parts) == (0, 0)


def test_more_sessions_than_one_transaction_takes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is written with how far the request is."""
    monkeypatch.setattr("domain.use_cases.erasure_requests.BATCH", 3)
    sessions = [office.room("ann", "bob" if n % 2 else "ann")[0] for n in range(8)]
    row = office.erase("ann")
    assert (row.request.sessions, row.request.parts) == (4, 4)
    assert set(office.requests.reach(row).sessions) < set(sessions)
    assert len(office.requests.reach(row).parts) == 4


def test_the_request_names_nobody_once_it_was_carried_out(office: Office) -> None:
    """Whom it is about is sealed until then; what it took, until it is verified."""
    office.room("ann", "bob")
    row = office.requests.of_subject("ann", Verification.COURT, TEN, OFFICER)
    assert b"ann" not in (row.sealed or b"")
    row = office.requests.advance(row.request.id, LATER)
    assert row.target is None
    assert office.requested.key_of(row.request.id) is not None
    office.requests._verifier = Scan()
    row = office.requests.advance(row.request.id, LATER)
    assert row.request.status is Status.VERIFIED
    assert row.sealed is None
    assert office.requested.key_of(row.request.id) is None
    assert office.requests.reach(row).parts == ()


# -- asking -----------------------------------------------------------------------------------


def test_a_request_that_is_open_is_not_opened_twice(office: Office) -> None:
    """The same person, the same session: the same request, until it is carried out."""
    session, _ = office.room("ann")
    asked = [
        office.requests.of_subject("ann", Verification.CONTROLLER, TEN, OFFICER).request.id
        for _ in range(2)
    ]
    assert asked[0] == asked[1]
    office.requests.advance(asked[0], LATER)
    again = office.requests.of_subject("ann", Verification.CONTROLLER, TEN, OFFICER)
    assert again.request.id != asked[0]
    with pytest.raises(SessionErased):
        office.requests.of_session(session, Verification.CONTROLLER, TEN, OFFICER)


def test_the_same_key_is_the_same_request_for_good(office: Office) -> None:
    """Also once it was carried out; another actor's key is another one."""
    session, _ = office.room("ann")
    first = office.requests.erase_at_once(session, TEN, OFFICER, key="k")
    again = office.requests.erase_at_once(session, LATER, OFFICER, key="k")
    assert first.request.id == again.request.id
    with pytest.raises(SessionErased):
        office.requests.erase_at_once(session, LATER, APP, key="k")


def test_what_is_not_there_cannot_be_asked_for(office: Office) -> None:
    """Sessions and requests that nobody knows."""
    with pytest.raises(SessionNotFound):
        office.requests.of_session("0" * 32, Verification.CONTROLLER, TEN, OFFICER)
    with pytest.raises(RequestUnknown):
        office.requests.find("0" * 32)


def test_a_participant_who_proves_a_token_takes_their_own_part(office: Office) -> None:
    """Whoever they are; a session that is somebody else's stays, even if they were alone in it."""
    session, tokens = office.room("ann", policy="lead", owner="host")
    row = office.requests.of_participant(
        session, tokens["ann"], Verification.TOKEN_PROOF, TEN, OFFICER
    )
    row = office.requests.advance(row.request.id, LATER)
    assert (row.request.sessions, row.request.parts) == (0, 1)
    assert office.store.vault.members(session) == []
    alone, tokens = office.room("bob")
    row = office.requests.of_participant(
        alone, tokens["bob"], Verification.TOKEN_PROOF, TEN, OFFICER
    )
    row = office.requests.advance(row.request.id, LATER)
    assert (row.request.sessions, row.request.parts) == (1, 0)


def test_a_refused_request_deletes_nothing(office: Office) -> None:
    """Its ground is kept, and it cannot be carried out any more; nor refused once it was."""
    session, _ = office.room("ann")
    row = office.requests.of_subject("ann", Verification.CONTROLLER, TEN, OFFICER)
    row = office.requests.refuse(row.request.id, Refusal.LEGAL_CLAIM, LATER, OFFICER)
    assert (row.request.status, row.request.ground) == (Status.REFUSED, Refusal.LEGAL_CLAIM)
    assert office.requests.advance(row.request.id, LATER).request.status is Status.REFUSED
    assert office.told(session) == ["created", "joined"]
    done = office.erase("ann")
    with pytest.raises(RequestNotOpen):
        office.requests.refuse(done.request.id, Refusal.LEGAL_CLAIM, LATER, OFFICER)


def test_a_request_that_took_something_is_not_refused_any_more(office: Office) -> None:
    """A refusal would say that nothing went, and nobody would read back what did."""
    held, _ = office.room("ann")
    free, _ = office.room("ann")
    shared, tokens = office.room("ann", "bob")
    hold = office.holds.of_session(held, Ground.LEGAL_CLAIM, None, TEN, OFFICER)
    row = office.erase("ann")
    assert row.request.status is Status.REQUESTED
    assert office.told(free)[-1] == "erased"
    assert [one.token for one in office.store.vault.members(shared)] == [tokens["bob"]]
    with pytest.raises(RequestBegun):
        office.requests.refuse(row.request.id, Refusal.LEGAL_CLAIM, LATER, OFFICER)
    assert office.requests.find(row.request.id).request.status is Status.REQUESTED
    office.requests._verifier = scan = Scan()
    office.holds.release(hold.hold, LATER, OFFICER)
    done = office.requests.advance(row.request.id, LATER).request
    assert (done.status, done.sessions, done.parts) == (Status.VERIFIED, 2, 1)
    assert set(scan.asked[0].sessions) == {held, free}


def test_a_refusal_does_not_cover_what_goes_at_the_same_moment(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was decided when nothing had gone, and is written after something did: it comes too
    late, and what went is not forgotten."""
    held, _ = office.room("ann")
    office.room("ann")
    office.holds.of_session(held, Ground.LEGAL_CLAIM, None, TEN, OFFICER)
    row = office.requests.of_subject("ann", Verification.CONTROLLER, TEN, OFFICER)
    save = office.requested.save

    def after_a_step(*written: Any, **more: Any) -> None:
        monkeypatch.setattr(office.requested, "save", save)
        office.requests.advance(row.request.id, LATER, most=1)
        save(*written, **more)

    monkeypatch.setattr(office.requested, "save", after_a_step)
    with pytest.raises(Conflict):
        office.requests.refuse(row.request.id, Refusal.LEGAL_CLAIM, LATER, OFFICER)
    assert len(office.requests.reach(office.requests.find(row.request.id)).sessions) == 1


def test_nothing_is_pending_in_a_refused_request(office: Office) -> None:
    """Nobody waits for a store any more."""
    office.room("ann")
    row = office.requests.of_subject("ann", Verification.CONTROLLER, TEN, OFFICER)
    assert request_document(row, None)["stores"] == {"vault": "pending", "keyring": "pending"}
    row = office.requests.refuse(row.request.id, Refusal.LEGAL_CLAIM, LATER, OFFICER)
    assert request_document(row, None)["stores"] == {}


# -- held -------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["session", "subject"])
def test_a_request_waits_for_a_hold_and_goes_on_after_it(office: Office, of: str) -> None:
    """It says why; what no hold covers goes at once."""
    held, _ = office.room("ann")
    free, _ = office.room("ann")
    if of == "session":
        hold = office.holds.of_session(held, Ground.LEGAL_CLAIM, None, TEN, OFFICER)
    else:
        hold = office.holds.of_subject("ann", Ground.LEGAL_CLAIM, None, TEN, OFFICER)
    row = office.erase("ann")
    assert (row.request.status, row.request.reason) == (Status.REQUESTED, Waiting.HELD)
    assert office.told(row.request.id) == ["received", "suspended"]
    assert (office.told(free)[-1] == "erased") is (of == "session")
    assert "erased" not in office.told(held)
    office.holds.release(hold.hold, TEN + HOUR // 2, OFFICER)
    assert list(office.requests.due(TEN + HOUR // 2)) == [row.request.id]
    row = office.requests.advance(row.request.id, TEN + HOUR // 2)
    assert row.request.status is Status.EXECUTED
    assert row.request.reason is None
    assert office.people() == {}


def test_an_erasure_at_once_is_refused_by_a_hold_and_recorded(office: Office) -> None:
    """Whoever asked does not wait; the log keeps that a deletion was refused."""
    session, _ = office.room("ann")
    office.holds.of_session(session, Ground.LEGAL_CLAIM, None, TEN, OFFICER)
    with pytest.raises(OnHold):
        office.requests.erase_at_once(session, LATER, OFFICER)
    (row,) = office.requests.page()
    assert (row.request.status, row.request.ground) == (Status.REFUSED, Refusal.HOLD)
    assert office.told(row.request.id) == ["received", "refused"]


# -- verified and final -----------------------------------------------------------------------


def test_nothing_is_verified_that_was_not_read_back(office: Office) -> None:
    """Without a scan it stays executed; with one that finds something too, and says why."""
    office.room("ann", "bob")
    row = office.erase("ann")
    assert row.request.status is Status.EXECUTED
    office.requests._verifier = scan = Scan(ok=False)
    row = office.requests.advance(row.request.id, LATER)
    assert (row.request.status, row.request.reason) == (Status.EXECUTED, Waiting.RESIDUE)
    assert len(scan.asked[0].parts) == 1
    scan.ok = True
    row = office.requests.advance(row.request.id, LATER)
    assert (row.request.status, row.request.reason) == (Status.VERIFIED, None)
    assert row.request.stores == {"vault": "clean"}


def test_final_means_that_no_key_of_then_is_left(office: Office) -> None:
    """Not after the rotation: once those keys are destroyed."""
    office.room("ann", "bob")
    office.requests._verifier = Scan()
    row = office.erase("ann")
    assert row.request.status is Status.VERIFIED
    old = office.requests.reach(row).keks
    office.keyring.keks.rotate(LATER)
    assert office.requests.advance(row.request.id, TEN + DAY).request.status is Status.VERIFIED
    office.keyring.keks.retire(old, TEN + DAY)
    office.keyring.keks.destroy(old)
    row = office.requests.advance(row.request.id, TEN + 9 * DAY)
    assert (row.request.status, row.due_at) == (Status.FINAL, None)
    assert office.told(row.request.id) == ["received", "executed", "verified", "final"]


# -- whoever comes at the same time -----------------------------------------------------------


def test_who_comes_again_is_somebody_new(office: Office) -> None:
    """Another subject, another token; nothing connects them with who was erased."""
    session, tokens = office.room("ann", "bob")
    lookup = office.keyring.lookup("subject", "ann")
    before = office.store.vault.subjects([lookup])[lookup].subject
    office.erase("ann")
    again = office.sessions.join(session, "ann", LATER, APP)
    assert again != tokens["ann"]
    assert office.store.vault.subjects([lookup])[lookup].subject != before
    assert office.people()["presence"] == 2


@pytest.mark.parametrize(
    "what", ["store", "store a record", "store jointly", "join", "leave", "beat"]
)
def test_an_author_who_read_before_the_erasure_writes_nothing_of_them(
    office: Office, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided on the person as they were, written after they went: the author decides again."""
    session, tokens = office.room("ann", "bob", policy="redact")
    ann = tokens["ann"]
    shared = [{"participant": ann, "x": 1}, {"participant": tokens["bob"], "x": 2}]
    office.put(session, shared, *tokens.values())
    submit = office.store.log.submit
    erased: list[RequestRow] = []

    def after_the_erasure(append: object, now: int) -> object:
        if not erased:
            erased.append(office.erase("ann"))
        return submit(append, now)  # type: ignore[arg-type]

    monkeypatch.setattr(office.store.log, "submit", after_the_erasure)
    if what == "store":
        with pytest.raises(ParticipantUnknown):
            office.put(session, [{"x": 9}], ann, at=LATER)
    elif what == "store a record":
        with pytest.raises(ParticipantUnknown):
            office.put(session, [{"participant": ann, "x": 9}], at=LATER)
    elif what == "store jointly":
        item = office.put(session, [{"x": 9}], at=LATER)
        assert office.read(session, item) == [{"x": 9}]
        assert office.items.summary(session, LATER).figures["total"] == 11
    elif what == "join":
        assert office.sessions.join(session, "ann", LATER, APP) != ann
    elif what == "leave":
        with pytest.raises(ParticipantUnknown):
            office.sessions.leave(session, ann, LATER, APP)
    else:
        erased.append(office.erase("ann"))
        assert office.store.vault.see({(session, ann): LATER}) == set()
    assert erased[0].request.status is Status.EXECUTED
    for table in ("presence", "subject_index", "data_keys", "partials"):
        assert ann not in str(office.rows(table, session))
    assert ann not in str(office.store.vault.items(session, "", 9))
