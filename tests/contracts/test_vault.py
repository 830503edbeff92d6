"""The contract of the vault, on every implementation.

What the vault holds is written with the appends of the log, in the same transaction; so these tests
write through the log and look through the vault.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest

from domain.errors import Conflict
from domain.policy import DAY, HOUR, MINUTE
from domain.ports import (
    Admission,
    Append,
    Appended,
    Changes,
    DataKey,
    Item,
    ItemHead,
    Joint,
    Member,
    Partial,
    SubjectKey,
    Upload,
)
from domain.session import Erased, Scope
from tests.acceptance.databases import PEOPLE
from tests.contracts.authors import (
    ACTOR,
    ROOM,
    TEN,
    admission,
    at_once,
    ended,
    entering,
    erased,
    following,
    known,
    lookup,
    opening,
    person,
)
from tests.contracts.stores import Store

ADA, BOB, EVE = person("ada"), person("bob"), person("eve")
JOINT = SubjectKey(b"", "a", "kek", b"wrapped", fresh=True)
"""The key of session `a` itself."""


def enter(store: Store, session_id: str, *people: SubjectKey, **more: Any) -> Append:
    """A session with these people in it; those whom the vault knows come in as themselves."""
    found = store.vault.subjects([subject.lookup for subject in people])
    append = entering(session_id, *(found.get(s.lookup, s) for s in people), **more)
    store.log.submit(append, TEN)
    return append


def change(store: Store, session_id: str, **changes: Any) -> None:
    """Vault rows change beside an event of the session."""
    found = store.log.find([session_id])[session_id]
    step = Changes(**changes)
    store.log.submit(
        following(found, lambda s: s.store(1, 1, TEN, ACTOR), changes=step, due_at=found.due_at),
        TEN,
    )


def people_left(store: Store) -> dict[str, int]:
    counts = store.row_counts()
    return {table: counts[table] for table in PEOPLE if counts[table]}


def token(subject: SubjectKey) -> str:
    return admission(subject).token


def another_name(subject: SubjectKey, of: SubjectKey) -> Admission:
    """Who is known already is known as `subject`, too."""
    return admission(subject, token(of), joined_at=None)


# -- who is known -----------------------------------------------------------------------------


def test_a_subject_is_found_by_its_lookup(store: Store) -> None:
    """With the key that was written for it; whoever never came is unknown."""
    enter(store, "a", ADA)
    assert store.vault.subjects([ADA.lookup, BOB.lookup]) == {ADA.lookup: known(ADA)}
    assert store.vault.subjects([]) == {}


def test_somebody_known_keeps_the_first_key(store: Store) -> None:
    """In every further session the data keys lie under the same subject key."""
    enter(store, "a", ADA)
    enter(store, "b", ADA)
    counts = people_left(store)
    assert (counts["subjects"], counts["subject_keys"]) == (1, 1)
    assert (counts["subject_index"], counts["data_keys"], counts["presence"]) == (2, 2, 2)


def test_of_two_writers_who_bring_the_same_person_one_decides_again(store: Store) -> None:
    """Both saw nobody of that name; data keys of the second would lie under a key that is not."""
    for session_id, subject in (("a", "first"), ("b", "second")):
        append = entering(session_id, person("ada", subject))
        if session_id == "a":
            store.log.submit(append, TEN)
            continue
        before = store.row_counts()
        with pytest.raises(Conflict) as refused:
            store.another().submit(append, TEN)
        assert refused.value.session_id == "b"
        assert store.row_counts() == before
    enter(store, "b", ADA)  # read again, under the subject that stands
    assert store.vault.tokens(list(product(["a", "b"], [ADA.lookup]))).keys() == {
        ("a", ADA.lookup),
        ("b", ADA.lookup),
    }


def test_writers_who_bring_the_same_person_at_once(store: Store) -> None:
    """Whichever comes first, in one batch or in two instances: one is written, seven ask again."""
    logs = [store.log, store.another()]

    def bring(number: int) -> Callable[[], Appended]:
        append = entering(f"session-{number}", person("ada", f"subject-{number}"))
        return lambda: logs[number % 2].submit(append, TEN)

    answers = at_once([bring(number) for number in range(8)])
    assert sum(isinstance(answer, Appended) for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 7
    (subject,) = store.vault.subjects([ADA.lookup]).values()
    (winner,) = [answer for answer in answers if isinstance(answer, Appended)]
    assert winner.session_id.removeprefix("session-") == subject.subject.removeprefix("subject-")
    assert people_left(store) == dict.fromkeys(
        ["presence", "subject_index", "data_keys", "subjects", "subject_keys"], 1
    )


def test_who_was_erased_meanwhile_is_a_conflict(store: Store) -> None:
    """An author who read a subject whose key is destroyed by now decides again."""
    only = enter(store, "a", ADA)
    read = store.vault.subjects([ADA.lookup])[ADA.lookup]
    store.log.submit(erased(only), TEN)
    with pytest.raises(Conflict):
        store.log.submit(entering("b", read), TEN)
    assert people_left(store) == {}


def test_whoever_is_refused_leaves_nobody_behind(store: Store) -> None:
    """A new person who came with a stale one is not kept: they are in no session."""
    enter(store, "a", ADA)
    before = store.row_counts()
    with pytest.raises(Conflict):
        store.log.submit(entering("b", BOB, person("ada", "stale"), EVE), TEN)
    assert store.row_counts() == before
    answers = store.log.append(
        [entering("c", BOB, person("ada", "stale")), entering("d", EVE)], TEN
    )
    assert [type(answer) for answer in answers] == [Conflict, Appended]
    assert store.vault.subjects([BOB.lookup, EVE.lookup]).keys() == {EVE.lookup}


def test_a_new_person_of_two_appends_in_one_batch(store: Store) -> None:
    """The same new subject may enter two sessions at once."""
    answers = store.log.append([entering("a", ADA), entering("b", ADA, BOB)], TEN)
    assert [type(answer) for answer in answers] == [Appended, Appended]
    assert len(store.vault.tokens(list(product(["a", "b"], [ADA.lookup, BOB.lookup])))) == 3
    assert people_left(store)["subjects"] == 2


# -- who is where -----------------------------------------------------------------------------


def test_a_visitor_is_found_in_the_newest_session_of_the_policy(store: Store) -> None:
    """Sessions of other policies, expired ones and those merely owned do not count."""
    enter(store, "first", ADA, at=TEN)
    enter(store, "newest", ADA, BOB, at=TEN + HOUR)
    enter(store, "older", ADA, at=TEN + MINUTE)
    enter(store, "elsewhere", ADA, at=TEN + DAY, policy="lead")
    lookups = [ADA.lookup, BOB.lookup, EVE.lookup]
    assert store.vault.sessions_of(lookups, ROOM) == {
        ADA.lookup: ("newest", token(ADA)),
        BOB.lookup: ("newest", token(BOB)),
    }
    found = store.log.find(["newest"])["newest"]
    store.log.submit(ended(found), TEN)
    assert store.vault.sessions_of(lookups, ROOM) == {ADA.lookup: ("older", token(ADA))}
    owner = Changes(admitted=(admission(EVE, role="owner", joined_at=None),))
    store.log.submit(opening("owned", changes=owner, owner=EVE.subject), TEN)
    assert store.vault.sessions_of([EVE.lookup], ROOM) == {}


def test_participants_are_found_by_who_they_are(store: Store) -> None:
    """In the sessions asked for; an owner who never joined is no participant."""
    enter(store, "a", ADA, BOB)
    enter(store, "b", ADA, at=TEN + 1)
    owner = Changes(admitted=(admission(EVE, role="owner", joined_at=None),))
    store.log.submit(opening("c", changes=owner, owner=EVE.subject), TEN)
    lookups = [ADA.lookup, BOB.lookup, EVE.lookup]
    assert store.vault.tokens(list(product(["b", "c", "nowhere"], lookups))) == {
        ("b", ADA.lookup): Member("b", token(ADA), TEN + 1, TEN + 1, None)
    }
    assert store.vault.tokens(list(product([], lookups))) == {}
    assert store.vault.tokens(list(product(["a"], [EVE.lookup]))) == {}


def test_members_are_listed_in_the_order_they_came(store: Store) -> None:
    """With when they came, were last seen and left; who left stays on the list."""
    enter(store, "a", EVE, at=TEN + 2)
    change(store, "a", admitted=(admission(BOB, joined_at=TEN + 3),))
    change(store, "a", admitted=(admission(ADA, joined_at=TEN + 3),))
    change(store, "a", seen={token(EVE): TEN + 5}, left={token(BOB): TEN + 6})
    assert store.vault.members("a") == [
        Member("a", token(EVE), TEN + 2, TEN + 5, None),
        Member("a", token(ADA), TEN + 3, TEN + 3, None),
        Member("a", token(BOB), TEN + 3, TEN + 3, TEN + 6),
    ]
    change(store, "a", seen={token(BOB): TEN + 8}, back={token(BOB): TEN + 8})
    assert store.vault.members("a")[-1] == Member("a", token(BOB), TEN + 3, TEN + 8, None)
    assert store.vault.members("nowhere") == []


def test_who_joins_under_a_token_that_is_in_came_when_they_came(store: Store) -> None:
    """A second joining under another name moves nothing."""
    enter(store, "a", ADA)
    change(store, "a", admitted=(admission(BOB, token(ADA), joined_at=TEN + 7),))
    assert store.vault.members("a") == [Member("a", token(ADA), TEN, TEN, None)]
    assert store.log.find(["a"])["a"].last_seen == TEN


def test_a_new_name_leads_to_the_same_participant(store: Store) -> None:
    """The old one leads to nobody, until somebody takes it up."""
    enter(store, "a", ADA)
    change(
        store,
        "a",
        admitted=(another_name(BOB, of=ADA),),
        retired=((token(ADA), ADA.lookup),),
    )
    assert store.vault.tokens(list(product(["a"], [ADA.lookup, BOB.lookup]))) == {
        ("a", BOB.lookup): Member("a", token(ADA), TEN, TEN, None)
    }
    assert store.vault.sessions_of([ADA.lookup, BOB.lookup], ROOM) == {
        BOB.lookup: ("a", token(ADA))
    }
    somebody_else = admission(known(ADA), "token-of-another", joined_at=TEN + 1)
    change(store, "a", admitted=(somebody_else,))
    tokens = store.vault.tokens(list(product(["a"], [ADA.lookup, BOB.lookup])))
    assert {pair[1]: member.token for pair, member in tokens.items()} == {
        ADA.lookup: "token-of-another",
        BOB.lookup: token(ADA),
    }


def test_an_earlier_name_is_taken_back(store: Store) -> None:
    """Ada, then Bob, then Ada again: Bob leads to nobody."""
    enter(store, "a", ADA)
    ada, bob = (token(ADA), ADA.lookup), (token(ADA), BOB.lookup)
    change(store, "a", admitted=(another_name(BOB, of=ADA),), retired=(ada,))
    change(store, "a", admitted=(another_name(known(ADA), of=ADA),), retired=(bob,))
    assert store.vault.tokens(list(product(["a"], [ADA.lookup, BOB.lookup]))).keys() == {
        ("a", ADA.lookup)
    }


def test_two_new_names_between_two_commits(store: Store) -> None:
    """Ada, then Bob, then Eve in one batch of an import: only Eve leads there."""
    enter(store, "a", ADA)
    change(
        store,
        "a",
        admitted=(another_name(BOB, of=ADA), another_name(EVE, of=ADA)),
        retired=((token(ADA), ADA.lookup), (token(ADA), BOB.lookup)),
    )
    names = [ADA.lookup, BOB.lookup, EVE.lookup]
    assert store.vault.tokens(list(product(["a"], names))).keys() == {("a", EVE.lookup)}


def test_identities_come_in_pages_in_order_of_token(store: Store) -> None:
    """Participants of this session only, from behind a token on; who left is still one."""
    people = [person(name) for name in ("eve", "ada", "dan", "bob", "cat")]
    enter(store, "a", *people)
    enter(store, "b", person("zoe"))
    change(store, "a", left={token(people[2]): TEN + 1})
    owner = admission(person("host"), "token-of-the-host", role="owner", joined_at=None)
    change(store, "a", admitted=(owner,))
    tokens = sorted(token(one) for one in people)

    def page(after: str, limit: int) -> list[str]:
        return [one.member.token for one in store.vault.identities("a", after, limit)]

    assert page("", 2) == tokens[:2]
    assert page(tokens[1], 2) == tokens[2:4]
    assert page(tokens[3], 2) == tokens[4:]
    assert page(tokens[4], 2) == []
    assert page("", 100) == tokens
    assert list(store.vault.identities("nowhere", "", 100)) == []
    [dan] = [one for one in store.vault.identities("a", "", 9) if one.member.left_at is not None]
    assert dan.subject == known(people[2])


def test_identities_show_the_name_of_now(store: Store) -> None:
    """Whoever was Ada and is Bob stands there once; back as Ada, as Ada."""
    enter(store, "a", ADA, EVE)
    ada, bob = (token(ADA), ADA.lookup), (token(ADA), BOB.lookup)

    def names() -> dict[str, bytes]:
        found = store.vault.identities("a", "", 9)
        assert len(found) == 2
        return {one.member.token: one.subject.lookup for one in found}

    change(store, "a", admitted=(another_name(BOB, of=ADA),), retired=(ada,))
    assert names() == {token(ADA): BOB.lookup, token(EVE): EVE.lookup}
    change(store, "a", admitted=(another_name(known(ADA), of=ADA),), retired=(bob,))
    assert names() == {token(ADA): ADA.lookup, token(EVE): EVE.lookup}


def test_the_sources_name_leads_to_the_session(store: Store) -> None:
    """To the newest that had it, while that lives."""
    room, other = b"lookup of a room", b"lookup of another room"
    store.log.submit(opening("a", changes=Changes(alias=room)), TEN)
    assert store.vault.sessions_named([room, other]) == {room: "a"}
    store.log.submit(ended(opening("a")), TEN)
    assert store.vault.sessions_named([room]) == {}
    store.log.submit(opening("b", changes=Changes(alias=room)), TEN)
    assert store.vault.sessions_named([room]) == {room: "b"}
    store.log.submit(erased(ended(opening("a"))), TEN)
    assert store.vault.sessions_named([room]) == {room: "b"}
    store.log.submit(erased(opening("b")), TEN)
    assert store.vault.sessions_named([room]) == {}
    assert people_left(store) == {}


def test_aliases_given_by_two_instances_at_once(store: Store) -> None:
    """Whatever the order in which each names its rooms, both are done."""
    logs = [store.log, store.another()]
    rooms = [b"room %d" % number for number in range(30)]

    def name_all(number: int) -> Callable[[], list[Appended | Exception]]:
        batch = [
            opening(f"{number}-{index}", changes=Changes(alias=room))
            for index, room in enumerate(rooms[:: -1 if number % 2 else 1])
        ]
        return lambda: list(logs[number % 2].append(batch, TEN))

    for answer in at_once([name_all(number) for number in range(8)]):
        assert isinstance(answer, list)
        assert {type(one) for one in answer} == {Appended}
    assert store.vault.sessions_named(rooms).keys() == set(rooms)


# -- presence ---------------------------------------------------------------------------------


def test_presence_only_moves_forward(store: Store) -> None:
    """A heartbeat that comes late counts and changes nothing."""
    enter(store, "a", ADA)
    beat = ("a", token(ADA))
    for at, last_seen in ((TEN + 9, TEN + 9), (TEN + 5, TEN + 9), (TEN + 12, TEN + 12)):
        assert store.vault.see({beat: at}) == {beat}
        assert store.vault.members("a") == [Member("a", token(ADA), TEN, last_seen, None)]
    change(store, "a", seen={token(ADA): TEN + 11})
    assert store.vault.members("a")[0].last_seen_at == TEN + 12


def test_a_session_was_last_seen_when_anybody_was(store: Store) -> None:
    """The newest presence of all participants, before any event samples it."""
    enter(store, "a", ADA, BOB)
    store.vault.see({("a", token(ADA)): TEN + 9, ("a", token(BOB)): TEN + 7})
    found = store.log.find(["a"])["a"]
    assert (found.last_seen, found.session.last_seen_at) == (TEN + 9, TEN)


def test_heartbeats_of_nobody_do_not_count(store: Store) -> None:
    """Unknown sessions and participants are left out; the others of the batch count."""
    enter(store, "a", ADA)
    enter(store, "b", BOB)
    beats = {
        ("a", token(ADA)): TEN + 1,
        ("a", token(BOB)): TEN + 1,
        ("nowhere", token(ADA)): TEN + 1,
        ("b", token(BOB)): TEN + 2,
    }
    assert store.vault.see(beats) == {("a", token(ADA)), ("b", token(BOB))}
    assert store.vault.see({}) == set()
    assert len(store.vault.members("a")) == 1


def test_a_heartbeat_after_the_end_does_not_count(store: Store) -> None:
    """Neither after the expiry nor after the erasure; a recovered session is seen again."""
    enter(store, "a", ADA)
    beat = {("a", token(ADA)): TEN + 9}
    over = ended(store.log.find(["a"])["a"])
    store.log.submit(over, TEN)
    assert store.vault.see(beat) == set()
    assert store.log.find(["a"])["a"].last_seen == TEN
    back = following(over, lambda s: s.recover(DAY, TEN + HOUR, ACTOR))
    store.log.submit(back, TEN)
    assert store.vault.see(beat) == set(beat)
    store.log.submit(erased(back), TEN)
    assert store.vault.see(beat) == set()
    assert store.vault.members("a") == []


def test_heartbeats_and_appends_of_many_at_once(store: Store) -> None:
    """The newest stands, whoever wrote it: in an event's transaction or as a heartbeat."""
    for number in range(10):
        enter(store, f"s{number}", person(f"p{number}"))
    everyone = [(f"s{n}", token(person(f"p{n}"))) for n in range(10)]
    logs = [store.log, store.another()]

    def beat(number: int) -> object:
        pairs = everyone[:: -1 if number % 2 else 1]
        if number % 3:
            return store.vault.see(dict.fromkeys(pairs, TEN + number))
        found = logs[number % 2].find([session_id for session_id, _ in pairs])
        appends = [
            following(found[sid], changes=Changes(seen={guest: TEN + number}))
            for sid, guest in pairs
        ]
        return logs[number % 2].append(appends, TEN)

    answers = at_once([partial(beat, number) for number in range(60)])
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert {store.vault.members(sid)[0].last_seen_at for sid, _ in everyone} == {TEN + 59}


# -- forgetting -------------------------------------------------------------------------------


def test_what_is_joint_in_several_sessions_is_found_at_once(store: Store) -> None:
    """Keys by tier and the figures, of those sessions that have any; nothing of single people."""
    enter(store, "a", ADA)
    enter(store, "b", BOB)
    full = DataKey("a", Scope.FULL, "", JOINT, b"data key")
    own = DataKey("a", Scope.FULL, token(ADA), ADA, b"hers")
    figures = Partial("", b"sealed", (token(ADA), token(BOB)))
    partials = (figures, Partial(token(ADA), b"hers", (token(ADA),)))
    change(store, "a", joint=JOINT, keys=(full, own), partials=partials)
    found = store.vault.joint(["a", "b", "c"])
    assert {id_: one for id_, one in found.items() if one.keys or one.partial} == {
        "a": Joint({Scope.FULL: replace(full, subject=replace(JOINT, fresh=False))}, figures)
    }


def test_items_of_several_sessions_are_read_at_once(store: Store) -> None:
    """Those that are there, each with its content."""
    enter(store, "a", ADA)
    enter(store, "b", ADA)
    stored = {}
    for session_id in "ab":
        for part in (0, 1):
            head = ItemHead("i", part, Scope.FULL, "metrics", TEN, 6, (token(ADA),), "text/x", 2)
            stored[session_id, "i", part] = Item(head, session_id.encode() * 6)
        items = tuple(item for place, item in stored.items() if place[0] == session_id)
        change(store, session_id, items=items)
    wanted = [("a", "i", 1), ("b", "i", 0), ("b", "other", 0), ("c", "i", 0)]
    found = store.vault.items_at(wanted)
    assert found == {place: stored[place] for place in wanted[:2]}


def test_an_erased_session_leaves_no_row_of_anybody(store: Store) -> None:
    """Participants, those who left, an owner, former names, an alias, keys: all go with it."""
    changes = Changes(
        admitted=(
            admission(ADA),
            admission(BOB),
            admission(EVE, role="owner", joined_at=None),
            another_name(person("ada lovelace"), of=ADA),
        ),
        retired=((token(ADA), ADA.lookup),),
        left={token(BOB): TEN},
        alias=b"lookup of a room",
        joint=JOINT,
        keys=(DataKey("a", Scope.FULL, "", JOINT, b"wrapped"),),
        items=(Item(ItemHead("i", 0, Scope.FULL, "metrics", TEN, 6), b"sealed"),),
        uploads=(Upload("u", "video", 7, TEN),),
        partials=(Partial("", b"sealed"),),
    )
    append = opening("a", changes=changes, owner=EVE.subject, command=b"once")
    store.log.submit(append, TEN)
    assert set(people_left(store)) == set(PEOPLE)
    store.log.submit(erased(append), TEN)
    assert people_left(store) == {}
    assert store.row_counts()["sessions"] == 0
    assert [type(recorded.event) for recorded in store.log.history("a")][-1] is Erased


def test_somebody_stays_known_until_their_last_session_goes(store: Store) -> None:
    """Erasing one session leaves the others, and the people in them, whole."""
    first = enter(store, "a", ADA, BOB)
    second = enter(store, "b", ADA)
    store.log.submit(erased(first), TEN)
    assert store.vault.subjects([ADA.lookup, BOB.lookup]) == {ADA.lookup: known(ADA)}
    assert store.vault.tokens(list(product(["a", "b"], [ADA.lookup]))).keys() == {("b", ADA.lookup)}
    assert people_left(store) == dict.fromkeys(
        ["presence", "subject_index", "data_keys", "subjects", "subject_keys"], 1
    )
    store.log.submit(erased(second), TEN)
    assert people_left(store) == {}


def test_who_enters_elsewhere_in_the_same_batch_stays_known(store: Store) -> None:
    """One session of theirs goes, another comes: their key must not go in between."""
    first = enter(store, "a", ADA)
    store.log.append([erased(first), entering("b", known(ADA))], TEN)
    assert store.vault.subjects([ADA.lookup]) == {ADA.lookup: known(ADA)}
    assert store.vault.tokens(list(product(["b"], [ADA.lookup]))).keys() == {("b", ADA.lookup)}


def test_an_erasure_of_a_part_leaves_the_people(store: Store) -> None:
    """Chunks or files may go while the session and its participants stay."""
    append = enter(store, "a", ADA)
    events = (Erased("a", 2, TEN, ROOM, ACTOR, Scope.CHUNKS, "erase-chunks-completed", 1),)
    store.log.submit(following(append, lambda _: events), TEN)
    assert len(store.vault.members("a")) == 1
    assert store.vault.subjects([ADA.lookup]) == {ADA.lookup: known(ADA)}


def test_sessions_come_and_go_while_people_stay_whole(store: Store) -> None:
    """Eight threads open and erase sessions of three people: no key is missing, none is left."""
    logs = [store.log, store.another()]
    everybody = [ADA, BOB, EVE]
    turn = threading.local()

    def visit(number: int) -> None:
        log = logs[number % 2]
        who = everybody[number % 3]
        while True:
            subject = store.vault.subjects([who.lookup]).get(who.lookup)
            turn.count = getattr(turn, "count", 0) + 1
            fresh = person(who.subject, f"{who.subject} {number} {turn.count}")
            subject = subject or SubjectKey(
                who.lookup, fresh.subject, "kek", b"wrapped", fresh=True
            )
            append = entering(f"session-{number}", subject)
            try:
                log.submit(append, TEN)
            except Conflict:
                continue
            break
        if number % 4:
            log.submit(erased(append), TEN)

    answers = at_once([partial(visit, number) for number in range(120)])
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    counts = people_left(store)
    assert counts["presence"] == counts["subject_index"] == counts["data_keys"] == 30
    assert counts["subjects"] == counts["subject_keys"] == 3
    assert len(store.vault.sessions_of([lookup(name) for name in ("ada", "bob", "eve")], ROOM)) == 3
