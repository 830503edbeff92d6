"""Three people in one room, one is erased: what the others have is as it was (G7)."""

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from domain.erasure import Status
from domain.errors import ItemUnknown
from domain.policy import HOUR, Shared
from domain.ports import Recorded
from domain.session import Ground, Scope
from domain.use_cases.items import Content
from domain.use_cases.redact import SOMEBODY, names
from tests.contracts.conftest import sql_store  # noqa: F401 - the fixture, for every test here
from tests.contracts.stores import SqlStore
from tests.use_cases.offices import APP, TEN, Office, opened_office

LATER = TEN + 1
PEOPLE = ("ann", "bob", "eve", "fay", "gil", "hal", "ida")


@pytest.fixture
def office(sql_store: SqlStore, tmp_path: Path) -> Office:  # noqa: F811
    return opened_office(sql_store, tmp_path)


def record(token: str, x: int) -> Mapping[str, Any]:
    return {"participant": token, "x": x}


class Room:
    """A session with these people in it: each stored something of their own, all something
    together, and nobody in particular something, too."""

    def __init__(self, office: Office, policy: Shared, people: tuple[str, ...]) -> None:
        self.office = office
        self.id, self.tokens = office.room(*people, policy=str(policy))
        self.own = {
            name: office.put(self.id, [record(token, 1)], token)
            for name, token in self.tokens.items()
        }
        together = [record(token, 10) for token in self.tokens.values()]
        self.shared = office.put(self.id, together, *self.tokens.values())
        others = [token for name, token in self.tokens.items() if name != "ann"]
        self.others = office.put(self.id, [record(token, 100) for token in others], *others)
        self.nobodys = office.put(self.id, [{"x": 1000}])

    def total(self) -> Any:
        return self.office.items.summary(self.id, LATER).figures["total"]

    def items(self) -> dict[str, Any]:
        heads = self.office.store.vault.items(self.id, "", 99)
        return {one.item_id: self.office.read(self.id, one.item_id, LATER) for one in heads}


def of_others(office: Office, room: Room) -> dict[str, list[Any]]:
    """Every stored byte about the others: members, names, keys, items of theirs, own figures."""
    ann = room.tokens["ann"]
    found = {
        table: [row for row in office.rows(table, room.id) if ann not in row]
        for table in ("presence", "subject_index")
    }
    found["data_keys"] = [row for row in office.rows("data_keys", room.id) if row[3] != ""]
    found["partials"] = [row for row in office.rows("partials", room.id) if row[2] != ""]
    found["items"] = [
        row
        for row in office.rows("items", room.id)
        if set(row[8].split()) - {ann} and " " not in row[8]
    ]
    return {
        table: [row for row in rows if ann not in map(str, row)] for table, rows in found.items()
    }


@pytest.mark.row("G7")
@pytest.mark.parametrize("policy", Shared)
def test_the_others_data_stays_byte_for_byte(office: Office, policy: Shared) -> None:
    """What is theirs alone is not even written again; what they share reads as before."""
    room = Room(office, policy, PEOPLE[:3])
    before, history = of_others(office, room), office.told(room.id)
    read = {item: content for item, content in room.items().items() if item != room.shared}
    assert office.erase("ann", LATER).request.status is Status.EXECUTED
    assert of_others(office, room) == before
    assert all(before.values())
    assert office.told(room.id) == history
    del read[room.own["ann"]]
    assert {item: room.items()[item] for item in read} == read
    for table in ("presence", "subject_index", "data_keys", "partials", "items", "uploads"):
        assert room.tokens["ann"] not in str(office.rows(table, room.id)), table


@pytest.mark.row("G7")
def test_erase_takes_what_they_shared(office: Office) -> None:
    """The item goes, for all; joint figures are those of what is left."""
    room = Room(office, Shared.ERASE, PEOPLE[:3])
    assert room.total() == 3 + 30 + 200 + 1000
    office.erase("ann", LATER)
    with pytest.raises(ItemUnknown):
        office.read(room.id, room.shared, LATER)
    assert room.total() == 2 + 200 + 1000
    assert office.items.summary(room.id, LATER).figures["frames"] == 5


@pytest.mark.row("G7")
def test_redact_takes_the_records_that_name_them(office: Office) -> None:
    """The others' records stay in it; joint figures are those of what is left."""
    room = Room(office, Shared.REDACT, PEOPLE[:3])
    office.erase("ann", LATER)
    bob, eve = room.tokens["bob"], room.tokens["eve"]
    assert office.read(room.id, room.shared, LATER) == [record(bob, 10), record(eve, 10)]
    assert room.total() == 2 + 20 + 200 + 1000
    item = office.store.vault.item(room.id, room.shared, 0)
    assert item is not None
    assert (item.head.count, set(item.head.participants)) == (2, {bob, eve})
    assert item.head.size == len(item.sealed)


@pytest.mark.row("G7")
@pytest.mark.parametrize(("people", "stays"), [(6, True), (5, False)])
def test_keep_leaves_what_five_others_share(office: Office, people: int, stays: bool) -> None:
    """Item and figures, without their token; among fewer others it is redacted."""
    room = Room(office, Shared.KEEP, PEOPLE[:people])
    office.erase("ann", LATER)
    item = office.store.vault.item(room.id, room.shared, 0)
    assert item is not None
    assert room.tokens["ann"] not in item.head.participants
    left = people - 1
    assert len(office.read(room.id, room.shared, LATER)) == (people if stays else left)
    joint = 10 * (people if stays else left)
    assert room.total() == left + joint + 100 * left + 1000


def test_bytes_that_several_share_go_unless_they_may_be_kept(office: Office) -> None:
    """Nobody can take one person out of them."""
    for policy, stays in ((Shared.REDACT, False), (Shared.ERASE, False), (Shared.KEEP, True)):
        session, tokens = office.room(*PEOPLE, policy=str(policy))
        content = Content("audio", bytearray(b"sound"), media_type="a/b")
        everybody = Content("audio", bytearray(b"all"), Scope.FULL, tuple(tokens.values()), "a/b")
        other = office.items.store(session, content, TEN, APP).head.item_id
        shared = office.items.store(session, everybody, TEN, APP).head.item_id
        office.erase("ann", LATER)
        left = [one.item_id for one in office.store.vault.items(session, "", 9)]
        assert sorted(left) == sorted([other, shared] if stays else [other])
        assert bytes(office.items.get(session, other, LATER)[1]) == b"sound"


@pytest.mark.parametrize("policy", Shared)
def test_an_upload_that_several_share(office: Office, policy: Shared) -> None:
    """Goes with its chunks, or stays without their token."""
    session, tokens = office.room(*PEOPLE, policy=str(policy))
    everybody = tuple(tokens.values())
    stored = office.items.begin_upload(session, "audio", 5, TEN, APP, participants=everybody)
    upload = stored.upload.upload_id
    office.items.put_chunk(session, upload, 0, bytearray(b"sound"), TEN, APP)
    office.erase("ann", LATER)
    if policy is not Shared.KEEP:
        assert office.rows("uploads", session) == office.rows("items", session) == []
        return
    left = office.items.upload(session, upload, LATER).upload
    assert set(left.participants) == set(everybody) - {tokens["ann"]}
    assert bytes(office.items.chunk(session, upload, 0, LATER)) == b"sound"


@pytest.mark.row("G7")
def test_figures_that_cannot_be_made_anew_go(office: Office) -> None:
    """Once the full tier is reduced, the joint part of a summary that names them is dropped, and
    each participant's own stays; with `keep` among enough others it stays, too."""
    for policy, joint in ((Shared.REDACT, 0), (Shared.KEEP, 70 + 600 + 1000)):
        room = Room(office, policy, PEOPLE)
        office.sessions.summarize(room.id, LATER, APP)
        office.erase("ann", LATER)
        assert room.total() == 6 + joint


def test_one_after_the_other_asks(office: Office) -> None:
    """Figures and shared items are right after each, and nothing is left of the first."""
    room = Room(office, Shared.REDACT, PEOPLE[:4])
    office.erase("ann", LATER)
    office.erase("bob", LATER)
    assert room.total() == 2 + 20 + 200 + 1000
    office.erase("eve", LATER)
    fay = room.tokens["fay"]
    assert office.read(room.id, room.shared, LATER) == [record(fay, 10)]
    assert office.read(room.id, room.others, LATER) == [record(fay, 100)]
    item = office.store.vault.item(room.id, room.shared, 0)
    assert item is not None
    assert item.head.participants == (fay, SOMEBODY)
    assert room.total() == 1 + 10 + 100 + 1000
    row = office.erase("fay", LATER)
    assert (row.request.sessions, row.request.parts) == (1, 0)
    assert office.people() == {}


@pytest.mark.row("G7")
@pytest.mark.parametrize("policy", [Shared.REDACT, Shared.ERASE])
def test_no_key_that_is_left_opens_what_went(office: Office, policy: Shared) -> None:
    """What several shared was sealed by a key that goes on; so that is another one afterwards."""
    room = Room(office, policy, PEOPLE[:3])
    taken = office.store.vault.item(room.id, room.shared, 0)
    assert taken is not None
    before = office.store.vault.data_keys(room.id, Scope.FULL, "")[""]
    office.erase("ann", LATER)
    for tier in Scope:
        for key in office.store.vault.data_keys(room.id, tier).values():
            with pytest.raises(Exception, match=r".*") as refused:
                office.keyring.open(key, room.shared, "0", taken.sealed)
            assert type(refused.value).__name__ == "SealBroken"
    after = office.store.vault.data_keys(room.id, Scope.FULL, "")[""]
    assert after.wrapped != before.wrapped


def test_what_was_tampered_with_stops_no_erasure(office: Office) -> None:
    """A shared item that does not open cannot be redacted, so it goes."""
    session, tokens = office.room(*PEOPLE[:3])
    shared = office.put(session, [record(token, 1) for token in tokens.values()], *tokens.values())
    office.store.execute("UPDATE items SET sealed = ? WHERE item_id = ?", b"nonsense" * 9, shared)
    assert office.erase("ann", LATER).request.status is Status.EXECUTED
    assert office.rows("items", session) == []


def test_a_hold_of_another_keeps_all_of_a_shared_session(office: Office) -> None:
    """Holds win: what is evidence about one may be about the other."""
    room = Room(office, Shared.REDACT, PEOPLE[:3])
    hold = office.holds.of_subject("bob", Ground.LEGAL_CLAIM, None, TEN, "officer")
    row = office.erase("ann", LATER)
    assert row.request.status is Status.REQUESTED
    assert room.tokens["ann"] in str(office.rows("items", room.id))
    office.holds.release(hold.hold, LATER + 1, "officer")
    assert office.requests.advance(row.request.id, LATER + 1).request.status is Status.EXECUTED


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"participant": "t"}, True),
        ({"participants": ["u", "t"]}, True),
        ({"participants": ["u"]}, False),
        ({"participant": "u", "note": "t"}, False),
        ({"participants": "t"}, False),
        ({"participant": None, "participants": [None, 1]}, False),
        (["t"], False),
    ],
)
def test_a_record_names_whom_its_fields_say(found: Any, named: bool) -> None:
    """`participant` and `participants`, and no other."""
    assert names(found, {"t"}) is named


# -- whom records name ------------------------------------------------------------------------


def participants_of(office: Office, session: str, item: str) -> tuple[str, ...]:
    found = office.store.vault.item(session, item, 0)
    assert found is not None
    return found.head.participants


def everything(office: Office, session: str) -> str:
    """What anybody can read of a session, and every row of it."""
    heads = office.store.vault.items(session, "", 99)
    read = [office.read(session, one.item_id, LATER) for one in heads]
    tables = ("presence", "subject_index", "data_keys", "partials", "items", "uploads")
    return str([read, *(office.rows(table, session) for table in tables)])


@pytest.mark.row("G7")
@pytest.mark.parametrize("policy", Shared)
@pytest.mark.parametrize("told", [(), ("bob",)])
@pytest.mark.parametrize("many", [False, True])
def test_who_is_named_by_records_only_goes_all_the_same(
    office: Office, policy: Shared, told: tuple[str, ...], many: bool
) -> None:
    """The caller named nobody, or somebody else: whom the records name, the item names."""
    session, tokens = office.room(*PEOPLE[:3], policy=str(policy))
    ann, bob = tokens["ann"], tokens["bob"]
    hers = {"participants": [bob, ann], "x": 1} if many else record(ann, 1)
    to = [tokens[name] for name in told]
    shared = office.put(session, [hers, record(bob, 10)], *to)
    alone = office.put(session, [record(ann, 100)])
    assert set(participants_of(office, session, shared)) == {ann, bob}
    assert participants_of(office, session, alone) == (ann,)
    assert office.items.summary(session, LATER).figures["total"] == 111
    assert office.erase("ann", LATER).request.status is Status.EXECUTED
    assert ann not in everything(office, session)
    left = 0 if policy is Shared.ERASE else 10
    assert (office.items.summary(session, LATER).figures["total"] or 0) == left


def test_records_of_one_person_alone_are_sealed_by_their_key(office: Office) -> None:
    """As if the caller had named them; of several, by the joint key."""
    session, tokens = office.room(*PEOPLE[:2])
    ann, bob = tokens.values()
    office.put(session, [record(ann, 1)])
    assert set(office.store.vault.data_keys(session, Scope.FULL)) == {ann}
    office.put(session, [record(ann, 1), record(bob, 1)])
    assert set(office.store.vault.data_keys(session, Scope.FULL)) == {ann, ""}


def test_names_that_are_nobodys_here_are_left_as_they_are(office: Office) -> None:
    """The fields belong to the application: names, strangers, people of other rooms, nonsense."""
    session, _ = office.room("ann")
    _, others = office.room("bob")
    odd = ["bob", "-", "0" * 32, "\x00", others["bob"], ""]
    records = [{"participant": one, "participants": odd, "x": 1} for one in odd]
    item = office.put(session, records)
    assert participants_of(office, session, item) == ()
    assert office.read(session, item) == records


def test_who_left_is_named_still(office: Office) -> None:
    """Whoever is not there any more can be erased from what is stored about them later."""
    session, tokens = office.room("ann", "bob")
    office.sessions.leave(session, tokens["ann"], TEN, APP)
    item = office.put(session, [record(tokens["ann"], 1)])
    assert participants_of(office, session, item) == (tokens["ann"],)


@pytest.mark.row("G7")
def test_records_that_name_nobody_do_not_outlive_whom_the_item_is_about(office: Office) -> None:
    """The caller said: about Ann. That records name others, too, makes those without a name
    nobody else's."""
    session, tokens = office.room(*PEOPLE[:3], policy="redact")
    ann, bob = tokens["ann"], tokens["bob"]
    item = office.put(session, [{"x": 1}, record(bob, 10), record(ann, 100)], ann)
    office.erase("ann", LATER)
    assert office.read(session, item, LATER) == [record(bob, 10)]
    assert office.items.summary(session, LATER).figures["total"] == 10


@pytest.mark.row("G7")
@pytest.mark.parametrize("policy", Shared)
def test_items_from_before_named_whom_their_records_name(
    office: Office, policy: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked into; joint figures are made anew without the records that go."""
    session, tokens = office.room(*PEOPLE[:3], policy=str(policy))
    ann, bob = tokens["ann"], tokens["bob"]
    with monkeypatch.context() as before:
        before.setattr("domain.use_cases.items.tokens_in", lambda records: ())
        mixed = office.put(session, [record(ann, 1), {"x": 10}])
        others = office.put(session, [{"x": 100}])
        nobodys = office.put(session, [{"x": 1000, "note": ann}])
    office.put(session, [record(bob, 10_000)], bob)
    assert participants_of(office, session, mixed) == ()
    office.erase("ann", LATER)
    left = {} if policy is Shared.ERASE else {mixed: [{"x": 10}]}
    heads = office.store.vault.items(session, "", 99)
    read = {one.item_id: office.read(session, one.item_id, LATER) for one in heads}
    assert {item: read[item] for item in read if item == mixed} == left
    assert read[others] == [{"x": 100}]
    assert read[nobodys] == [{"x": 1000, "note": ann}]
    assert office.items.summary(session, LATER).figures["total"] == (
        11_100 if policy is Shared.ERASE else 11_110
    )


@pytest.mark.parametrize(("most_ahead", "most"), [(0, 2**26), (300, 2**26), (300, 400)])
def test_items_from_before_are_looked_into_a_batch_at_a_time(
    office: Office, monkeypatch: pytest.MonkeyPatch, most_ahead: int, most: int
) -> None:
    """However little fits into memory at once; beyond the most that is looked into, they stay."""
    session, tokens = office.room(*PEOPLE[:3], policy="redact")
    ann = tokens["ann"]
    with monkeypatch.context() as before:
        before.setattr("domain.use_cases.items.tokens_in", lambda records: ())
        for number in range(9):
            office.put(session, [record(ann, number), {"x": 10}])
    monkeypatch.setattr("domain.use_cases.redact.MOST_AHEAD", most_ahead)
    monkeypatch.setattr("domain.use_cases.redact.MOST_RESEALED", most)
    office.erase("ann", LATER)
    heads = office.store.vault.items(session, "", 99)
    read = [office.read(session, one.item_id, LATER) for one in heads]
    assert len(read) == 9
    assert (ann in str(read)) is (most == 400)
    assert [{"x": 10}] in read


# -- what the log tells ------------------------------------------------------------------------


def the_log(office: Office) -> list[Recorded]:
    return list(office.store.log.read(0, 10_000))


@pytest.mark.row("G7")
def test_the_log_does_not_connect_the_rooms_of_whoever_was_erased(office: Office) -> None:
    """Ann was in three rooms with others, who stay. Whoever has the whole log, and knows one of
    her tokens, looks for what the rooms have in common: by token, by position, by time."""
    rooms = [office.room("ann", *others)[0] for others in combinations(PEOPLE[1:4], 2)]
    strangers = [office.room(*PEOPLE[4:6])[0] for _ in range(3)]
    before = the_log(office)
    now = TEN + HOUR // 2
    row = office.erase("ann", now)
    after = the_log(office)
    assert (row.request.sessions, row.request.parts) == (0, 3)
    # By position and time: what the erasure wrote is about no session, and no session moved.
    new = after[len(before) :]
    assert after[: len(before)] == before
    assert {one.event.originator_id for one in new} == {row.request.id}
    at_that_time = [one for one in after if one.recorded_at >= now]
    assert at_that_time == new
    # By token: whatever stands in the facts of one session stands in none of another.
    words: Counter[str] = Counter()
    for session in (*rooms, *strangers):
        told = {
            value
            for one in after
            if one.event.originator_id == session
            for value in vars(one.event).values()
            if isinstance(value, str) and len(value) == 32
        }
        words.update(told)
    assert set(words.values()) == {1}
    # And nothing of the request leads to a session, a token or a person.
    told_of_request = str([one.event for one in new])
    assert not any(word in told_of_request for word in words)


@pytest.mark.row("G7")
def test_of_sessions_that_go_whole_only_their_order_is_hidden(office: Office) -> None:
    """The residue, as docs/explanation/erasure.md has it: that some request erased them together,
    one behind the other; not in the order they were begun, and with no word in common."""
    alone = [office.room("ann")[0] for _ in range(12)]
    office.erase("ann", LATER)
    erased = [
        one.event.originator_id for one in the_log(office) if one.event.TOPIC == "session.erased.v1"
    ]
    assert sorted(erased) == sorted(alone)
    assert erased != alone
