"""The contract of the log, on every implementation."""

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pytest

from domain.errors import ClockHeld, Conflict, LimitReached, SessionExists
from domain.policy import DAY, HOUR, MINUTE, SECOND, Versions, parse
from domain.ports import (
    Append,
    Appended,
    Bookmark,
    Changes,
    Found,
    Log,
    Rearm,
    SweepCount,
    Verdict,
    owner_scope,
    policy_scope,
)
from domain.session import (
    EVENTS,
    SCHEDULER,
    Completed,
    Compressed,
    Created,
    Erased,
    Event,
    Expired,
    Expiring,
    Extended,
    Failed,
    Failure,
    Ground,
    Held,
    Joined,
    Left,
    Recovered,
    Released,
    Scope,
    Seen,
    Session,
    Stored,
    Summarized,
    project,
)
from domain.use_cases.sweep import sweep, sweep_once
from tests.contracts.authors import (
    ACTOR,
    POLICIES,
    ROOM,
    TEN,
    VERSION,
    applied,
    apply_policies,
    at_once,
    ended,
    entering,
    erased,
    following,
    insist,
    limit,
    opening,
    person,
    seen,
    written,
)
from tests.contracts.stores import Store

POLICY_VERSIONS: dict[str, Versions] = {ROOM: (VERSION,)}
LIVE = policy_scope(ROOM)


def whole_life(session_id: str) -> list[Event]:
    """One event of each type, no field at its default."""
    facts: list[tuple[type[Event], dict[str, Any]]] = [
        (Created, {"policy_version": 7, "owner": "token-of-owner"}),
        (Joined, {"token": "token-of-guest"}),
        (Seen, {}),
        (Left, {"token": "token-of-guest"}),
        (Stored, {"items": 3, "size": 2**40}),
        (Compressed, {"rule": "compress-created", "policy_version": 7, "bytes_freed": 2**33}),
        (Completed, {}),
        (Failed, {"reason": Failure.TIMEOUT}),
        (Summarized, {"rule": "summarize-created", "policy_version": 7, "bytes_freed": 100}),
        (Expiring, {"rule": "warn-last_seen", "policy_version": 7, "deadline": TEN + HOUR}),
        (Extended, {"until": TEN + 2 * HOUR}),
        (Expired, {"rule": "expire-last_seen", "policy_version": 7, "last_seen": TEN + 9}),
        (Recovered, {}),
        (Held, {"hold": "hold-1", "ground": Ground.LEGAL_CLAIM, "until": TEN + DAY}),
        (Released, {"hold": "hold-1"}),
        (
            Erased,
            {
                "scope": Scope.FILES,
                "rule": "erase-files-completed",
                "policy_version": 7,
                "bytes_freed": 5,
                "oldest_left": TEN - HOUR,
            },
        ),
    ]
    return [
        kind(session_id, number, TEN + number * MINUTE, ROOM, "token-of-actor", **fields)
        for number, (kind, fields) in enumerate(facts, start=1)
    ]


def life_of(session_id: str) -> Append:
    events = tuple(whole_life(session_id))
    after = project(None, events)
    assert after is not None
    return Append(None, after, events, TEN + DAY)


def positions(log: Log) -> list[int]:
    return [recorded.position for recorded in log.read(0, 10_000)]


def versions_in(log: Log, session_id: str) -> list[int]:
    return [recorded.event.originator_version for recorded in log.history(session_id)]


def expire_all(claimed: Sequence[Found]) -> list[Append | Rearm]:
    return [ended(found) for found in claimed]


def mark_of(name: str) -> Callable[[SweepCount], Bookmark]:
    return lambda count: Bookmark(name, str(count.done).encode())


# -- what is written can be read --------------------------------------------------------------


def test_every_event_comes_back_with_every_field(store: Store) -> None:
    """Types, numbers, enums and times are what they were when they were written."""
    events = whole_life("a")
    assert {type(event) for event in events} == set(EVENTS)
    store.log.append([life_of("a")], TEN + 5)
    history = store.log.history("a")
    # repr tells an enum from the text it equals.
    assert [repr(recorded.event) for recorded in history] == [repr(event) for event in events]
    assert [recorded.event for recorded in history] == events
    assert {(recorded.partition, recorded.recorded_at) for recorded in history} == {(0, TEN + 5)}
    assert store.log.read(0, 100) == history


def test_the_folded_state_comes_back_with_every_field(store: Store) -> None:
    """What commands decide on is the state the events lead to."""
    append = life_of("a")._replace(owner="subject-of-owner")
    store.log.submit(append, TEN)
    held = following(append, lambda s: s.hold("hold-2", Ground.RESTRICTION, None, TEN, ACTOR))
    store.log.submit(held, TEN)
    found = store.log.find(["a", "nobody's"])
    assert found == {
        "a": Found(held.after, held.after.last_seen_at, held.due_at, "subject-of-owner")
    }
    assert {type(scope) for scope in found["a"].session.erased} == {Scope}


def test_an_empty_log_is_empty(store: Store) -> None:
    """Nothing is there before something was written."""
    log = store.log
    assert (log.head(), log.read(0, 10), log.history("a")) == (0, [], [])
    assert (log.find(["a"]), log.policies(), log.owned(ROOM, "s")) == ({}, {}, [])
    assert (log.live(ROOM), log.next_due(), log.bookmark("b")) == (0, None, None)
    assert sweep_once(log, {}, TEN, SCHEDULER) == SweepCount(events={})


def test_the_log_is_read_in_pages(store: Store) -> None:
    """A reader takes as many events as it wants, up to where it wants."""
    for name in "abcde":
        store.log.submit(opening(name), TEN)
    page = [recorded.event.originator_id for recorded in store.log.read(1, 3)]
    assert page == ["b", "c", "d"]
    assert [recorded.position for recorded in store.log.read(1, 10, upto=3)] == [2, 3]
    assert store.log.read(5, 10) == []
    assert store.log.head() == 5


def test_positions_are_gapless_in_commit_order_whatever_was_refused(store: Store) -> None:
    """A refused append takes no position, whatever it was refused for."""
    log, other = store.log, store.another()
    log.submit(opening("a"), TEN)
    stale = log.find(["a"])["a"]
    log.submit(seen(stale, TEN + 1), TEN)
    answers = other.append(
        [seen(stale, TEN + 2), opening("b"), opening("c", limits=limit(LIVE, 2)), opening("d")], TEN
    )
    assert written(answers) == ["b", "d"]
    with pytest.raises(SessionExists):
        log.submit(opening("d"), TEN)
    with pytest.raises(Conflict):
        log.append([opening("e"), seen(stale, TEN + 3)], TEN, together=True)
    log.submit(opening("f"), TEN)
    ids = [recorded.event.originator_id for recorded in log.read(0, 10)]
    assert (ids, positions(log), log.head()) == (["a", "a", "b", "d", "f"], [1, 2, 3, 4, 5], 5)


def test_a_reader_beside_many_writers_misses_nothing(store: Store) -> None:
    """However appends commit and are refused meanwhile, each page goes on where the last ended."""
    logs = [store.log, store.another()]
    reader = store.another()
    pages: list[list[int]] = []

    def write(number: int) -> object:
        batch = [opening(f"{number}-{n}") for n in range(3)] + [opening("everybody's")]
        return logs[number % 2].append(batch, TEN)

    def follow() -> None:
        while (after := pages[-1][-1] if pages else 0) < 301:
            if page := [recorded.position for recorded in reader.read(after, 20)]:
                pages.append(page)

    tasks: list[Callable[[], object]] = [partial(write, number) for number in range(100)]
    answers = at_once([follow, *tasks])
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert [position for page in pages for position in page] == list(range(1, 302))


def test_an_append_without_events_changes_presence_only(store: Store) -> None:
    """A heartbeat that needs no event leaves version, deadline and log as they are."""
    store.log.submit(entering("a", person("ada")), TEN)
    (member,) = store.vault.members("a")
    found = store.log.find(["a"])["a"]
    beat = following(found, changes=Changes(seen={member.token: TEN + 9}), due_at=TEN + DAY)
    assert store.log.submit(beat, TEN + 9) == Appended("a", 1)
    assert store.log.find(["a"])["a"] == found._replace(last_seen=TEN + 9)
    assert store.log.head() == 1


# -- conflicts --------------------------------------------------------------------------------


def test_only_the_stale_author_has_to_decide_again(store: Store) -> None:
    """Who decided on an old version is refused; the others of the batch are written."""
    store.log.append([opening("a"), opening("b")], TEN)
    found = store.log.find(["a", "b"])
    store.log.submit(seen(found["a"], TEN + 1), TEN)
    answers = store.log.append([seen(found["a"], TEN + 2), seen(found["b"], TEN + 2)], TEN)
    assert [type(answer) for answer in answers] == [Conflict, Appended]
    assert answers[1] == Appended("b", 2)
    assert versions_in(store.log, "a") == [1, 2]


def test_a_session_that_is_gone_is_a_conflict(store: Store) -> None:
    """Who decided before the erasure, or on a session of another database, decides again."""
    append = opening("a")
    store.log.submit(append, TEN)
    store.log.submit(erased(append), TEN)
    for gone in (append, opening("never there")):
        with pytest.raises(Conflict) as refused:
            store.log.submit(seen(gone, TEN + 1), TEN)
        assert refused.value.session_id == gone.session_id


def test_many_authors_of_one_session_all_get_their_turn(store: Store) -> None:
    """Eight threads on two instances store into one session: every item counts once."""
    store.log.submit(opening("a"), TEN)
    logs = [store.log, store.another()]

    def author(number: int) -> Appended:
        return insist(logs[number % 2], "a", lambda s: s.store(1, number, TEN, ACTOR))

    answers = at_once([partial(author, number) for number in range(60)])
    assert sorted(answer.version for answer in answers if isinstance(answer, Appended)) == list(
        range(2, 62)
    )
    session = store.log.find(["a"])["a"].session
    assert (session.items, session.size) == (60, sum(range(60)))
    assert session == project(None, events_of(store.log, "a"))
    assert positions(store.log) == list(range(1, 62))


def events_of(log: Log, session_id: str) -> Iterable[Event]:
    return [
        recorded.event for recorded in log.history(session_id) if isinstance(recorded.event, Event)
    ]


def test_of_two_authors_at_the_same_version_one_wins(store: Store) -> None:
    """However they meet, in one batch or across instances, the second is told to decide again."""
    store.log.submit(opening("a"), TEN)
    found = store.log.find(["a"])["a"]
    logs = [store.log, store.another()]
    tasks = [partial(log.submit, seen(found, TEN + 1), TEN) for log in logs * 4]
    answers = at_once(tasks)
    assert [answer for answer in answers if isinstance(answer, Appended)] == [Appended("a", 2)]
    assert sum(isinstance(answer, Conflict) for answer in answers) == 7


# -- all or none ------------------------------------------------------------------------------


def test_together_all_are_written_with_the_bookmark(store: Store) -> None:
    """A long job writes what it did and how far it came at once."""
    answers = store.log.append(
        [opening("a"), opening("b")], TEN, Bookmark("job", b"line 2"), together=True
    )
    assert answers == [Appended("a", 1), Appended("b", 1)]
    assert store.log.bookmark("job") == b"line 2"


def test_together_none_is_written_if_one_is_refused(store: Store) -> None:
    """Nor is the bookmark moved, nor anything of the vault left."""
    store.log.append([opening("a")], TEN, Bookmark("job", b"line 1"))
    before = store.row_counts()
    batch = [entering("b", person("ada"), command=b"once"), opening("a"), opening("c")]
    with pytest.raises(SessionExists):
        store.log.append(batch, TEN, Bookmark("job", b"line 2"), together=True)
    assert store.log.bookmark("job") == b"line 1"
    assert store.row_counts() == before
    assert store.counters()[LIVE] == 1


def test_a_bookmark_is_written_without_appends_and_moves_on(store: Store) -> None:
    """A job that skipped lines still remembers where it is."""
    for value in (b"line 1", b"", b"\0\xff"):
        assert store.log.append([], TEN, Bookmark("job", value)) == []
        assert store.log.bookmark("job") == value
    assert store.log.bookmark("another job") is None


# -- commands happen once ---------------------------------------------------------------------


def test_a_repeated_command_appends_once_and_gives_the_same_answer(store: Store) -> None:
    """Also when it comes again later, over another instance, on a newer state."""
    other = store.another()
    assert store.log.submit(opening("a", command=b"create"), TEN) == Appended("a", 1)
    assert other.submit(opening("a", command=b"create"), TEN) == Appended("a", 1, repeated=True)
    found = other.find(["a"])["a"]
    assert other.submit(seen(found, TEN + 1, command=b"see"), TEN) == Appended("a", 2)
    store.log.submit(seen(store.log.find(["a"])["a"], TEN + 2), TEN)
    again = seen(store.log.find(["a"])["a"], TEN + 3, command=b"see")
    assert store.log.submit(again, TEN) == Appended("a", 2, repeated=True)
    assert store.log.head() == 3


def test_a_command_repeated_at_the_same_time_appends_once(store: Store) -> None:
    """Eight threads on two instances send the same command: all are told the same."""
    logs = [store.log, store.another()]

    def send(log: Log) -> Appended:
        while True:
            try:
                return log.submit(opening("a", command=b"create"), TEN)
            except Conflict:
                continue  # it met itself in a batch: ask again

    answers = at_once([partial(send, log) for log in logs * 8])
    assert {answer[:2] for answer in answers if isinstance(answer, Appended)} == {("a", 1)}
    assert sum(isinstance(answer, Appended) and not answer.repeated for answer in answers) == 1
    assert len(answers) == 16
    assert store.log.head() == 1


@pytest.mark.parametrize("refusal", [LimitReached, SessionExists, Conflict])
def test_a_refused_command_did_not_happen(store: Store, refusal: type[Exception]) -> None:
    """It may be sent again, and is written once nothing stands against it."""
    store.log.submit(entering("a", person("ada", "first")), TEN)
    refused = {
        LimitReached: opening("b", limits=limit(LIVE, 1)),
        SessionExists: opening("a"),
        Conflict: entering("b", person("ada", "second")),
    }[refusal]
    with pytest.raises(refusal):
        store.log.submit(refused._replace(command=b"once"), TEN)
    assert store.log.submit(opening("b", command=b"once"), TEN) == Appended("b", 1)


def test_command_ids_are_forgotten_after_a_day(store: Store) -> None:
    """By the wall clock: nothing of a command is kept longer than a retry may take."""
    store.log.submit(opening("a", command=b"first"), TEN)
    store.wall.now = HOUR
    store.log.submit(opening("b", command=b"second"), TEN)
    assert store.log.forget_commands(DAY - 1) == 0
    assert store.log.forget_commands(DAY) == 1
    assert store.log.submit(opening("b", command=b"second"), TEN).repeated
    with pytest.raises(SessionExists):
        store.log.submit(opening("a", command=b"first"), TEN)
    assert store.log.forget_commands(DAY + HOUR) == 1
    assert store.row_counts()["commands"] == 0


def test_it_is_known_which_commands_happened(store: Store) -> None:
    """To every instance, also if the command found nothing to do; a refused one did not happen."""
    other = store.another()
    assert not store.log.is_known(b"create")
    store.log.submit(opening("a", command=b"create"), TEN)
    with pytest.raises(SessionExists):
        store.log.submit(opening("a", command=b"refused"), TEN)
    known = {command: other.is_known(command) for command in (b"create", b"refused", b"creat")}
    assert known == {b"create": True, b"refused": False, b"creat": False}
    store.log.forget_commands(DAY)
    assert not other.is_known(b"create")


def test_the_same_command_twice_in_a_batch_is_written_once(store: Store) -> None:
    """The second author asks again, and then learns the answer of the first."""
    answers = store.log.append([opening("a", command=b"c"), opening("b", command=b"c")], TEN)
    assert [type(answer) for answer in answers] == [Appended, Conflict]
    assert store.log.submit(opening("b", command=b"c"), TEN) == Appended("a", 1, repeated=True)


# -- presence and what the rules say ----------------------------------------------------------


def test_a_heartbeat_that_was_answered_beats_an_expiry_decided_without_it(store: Store) -> None:
    """A command read presence before it moved; its author is told to decide again."""
    anna = person("anna")
    store.log.submit(entering("a", anna), TEN)
    [member] = store.vault.members("a")
    found = store.log.find(["a"])["a"]
    assert store.vault.see({("a", member.token): TEN + MINUTE})
    stale = ended(found, decided_on=found.last_seen)
    assert [type(answer) for answer in store.log.append([stale], TEN + HOUR)] == [Conflict]
    again = store.log.find(["a"])["a"]
    assert again.last_seen == TEN + MINUTE
    assert store.log.submit(ended(again, decided_on=again.last_seen), TEN + HOUR).version == 2


def test_a_command_that_no_rule_had_part_in_is_not_stale_for_a_heartbeat(store: Store) -> None:
    """Completing a room does not wait until nobody moves in it."""
    store.log.submit(entering("a", person("anna")), TEN)
    [member] = store.vault.members("a")
    found = store.log.find(["a"])["a"]
    assert store.vault.see({("a", member.token): TEN + MINUTE})
    completing = following(found, lambda s: s.complete(TEN + HOUR, ACTOR))
    assert store.log.submit(completing, TEN + HOUR).version == 2


# -- limits -----------------------------------------------------------------------------------


def test_a_limit_is_exact_under_eight_threads_and_two_instances(store: Store) -> None:
    """Of a thousand who want in at a limit of 137, exactly 137 get in; who ends makes room."""
    logs = [store.log, store.another()]

    def enter(number: int) -> Callable[[], Appended]:
        append = opening(f"{number:04}", limits=limit(LIVE, 137))
        return lambda: logs[number % 2].submit(append, TEN)

    answers = at_once([enter(number) for number in range(1_000)])
    inside = [answer.session_id for answer in answers if isinstance(answer, Appended)]
    refused = [answer for answer in answers if isinstance(answer, LimitReached)]
    assert (len(inside), len(refused)) == (137, 863)
    assert (refused[0].policy, refused[0].scope, refused[0].limit) == (ROOM, "concurrent", 137)
    assert store.log.live(ROOM) == 137
    found = store.log.find(inside[:10])
    store.log.append([ended(row) for row in found.values()], TEN)
    again = at_once([enter(number) for number in range(1_000, 1_100)])
    assert len(written([a for a in again if isinstance(a, Appended)])) == 10
    assert store.log.live(ROOM) == 137


def test_a_limit_counts_within_a_batch(store: Store) -> None:
    """Whoever stands later in a batch finds the places of the earlier ones taken, or freed."""
    full = limit(LIVE, 2)
    answers = store.log.append([opening(name, limits=full) for name in "abc"], TEN)
    assert written(answers) == ["a", "b"]
    found = store.log.find(["a"])["a"]
    answers = store.log.append(
        [opening("d", limits=full), ended(found), opening("e", limits=full)], TEN
    )
    assert written(answers) == ["a", "e"]
    assert store.log.live(ROOM) == 2


def test_a_recovered_session_needs_a_place_again(store: Store) -> None:
    """An expired one holds none, so it may find its limit used up."""
    store.log.append([opening("a"), opening("b")], TEN)
    over = ended(store.log.find(["a"])["a"])
    store.log.submit(over, TEN)
    assert store.log.live(ROOM) == 1
    back = following(over, lambda s: s.recover(DAY, TEN + HOUR, ACTOR), limits=limit(LIVE, 1))
    with pytest.raises(LimitReached):
        store.log.submit(back, TEN)
    store.log.submit(back._replace(limits=limit(LIVE, 2)), TEN)
    assert store.log.live(ROOM) == 2


def test_a_session_that_begins_and_ends_in_one_append_takes_no_place(store: Store) -> None:
    """An import may see a whole life between two commits."""
    short = following(opening("a"), lambda s: s.expire("idle", 1, TEN + 1, ACTOR))
    whole = short._replace(before=None, events=(*opening("a").events, *short.events))
    store.log.append([opening("b"), whole._replace(limits=limit(LIVE, 1))], TEN)
    assert store.log.live(ROOM) == 1
    gone = erased(opening("c"))
    store.log.submit(gone._replace(before=None, events=(*opening("c").events, *gone.events)), TEN)
    assert store.log.find(["c"]) == {}
    assert versions_in(store.log, "c") == [1, 2, 3]
    assert store.log.live(ROOM) == 1


def test_the_counter_of_an_owner_goes_with_the_last_session(store: Store) -> None:
    """No random id of a person stays behind as a counter of nothing."""
    scope = owner_scope(ROOM, "owner-1")
    mine = [opening(name, owner="owner-1", limits=limit(scope, 2)) for name in "abc"]
    assert written(store.log.append(mine, TEN)) == ["a", "b"]
    assert store.counters()[scope] == 2
    store.log.submit(ended(mine[0]), TEN)
    assert store.counters()[scope] == 1
    store.log.submit(erased(mine[1]), TEN)
    assert scope not in store.counters()
    store.log.submit(mine[2], TEN)
    assert store.counters()[scope] == 1


def test_whoever_is_refused_leaves_no_counter(store: Store) -> None:
    """Nor does an owner whose session ended in the batch that began it."""
    limits = limit(LIVE, 0) + limit(owner_scope(ROOM, "owner-1"), 1)
    with pytest.raises(LimitReached):
        store.log.submit(opening("a", owner="owner-1", limits=limits), TEN)
    store.log.submit(entering("b", person("ada")), TEN)
    limits = limit(owner_scope(ROOM, "owner-2"), 1)
    conflicting = entering("c", person("ada", "other"), owner="owner-2", limits=limits)
    with pytest.raises(Conflict):
        store.log.submit(conflicting, TEN)
    first = opening("d", owner="owner-3")
    over = ended(first)._replace(before=None)
    store.log.submit(over._replace(events=(*first.events, *over.events)), TEN)
    assert {scope for scope in store.counters() if scope.startswith("owner:")} == set()


def test_the_sessions_of_an_owner_are_listed_oldest_first(store: Store) -> None:
    """Live ones of one policy: from these the oldest goes first where a limit makes room."""
    for name, at, policy in (("b", 2, ROOM), ("a", 1, ROOM), ("c", 3, ROOM), ("d", 4, "lead")):
        store.log.submit(opening(name, at=TEN + at, policy=policy, owner="owner-1"), TEN)
    store.log.submit(opening("e", owner="owner-2"), TEN)
    owned = store.log.owned(ROOM, "owner-1")
    assert [found.session.id for found in owned] == ["a", "b", "c"]
    assert {found.owner for found in owned} == {"owner-1"}
    store.log.submit(ended(owned[0]), TEN)
    store.log.submit(erased(owned[1]), TEN)
    assert [found.session.id for found in store.log.owned(ROOM, "owner-1")] == ["c"]


# -- a session is created once ----------------------------------------------------------------


def test_an_id_is_never_given_twice(store: Store) -> None:
    """Not while the session lives, and not after it was erased: its history stands."""
    append = opening("a")
    store.log.submit(append, TEN)
    with pytest.raises(SessionExists) as refused:
        store.log.submit(opening("a", policy="lead"), TEN)
    assert refused.value.session_id == "a"
    store.log.submit(erased(append), TEN)
    answers = store.log.append([opening("b"), opening("a"), opening("c")], TEN)
    assert [type(answer) for answer in answers] == [Appended, SessionExists, Appended]
    assert versions_in(store.log, "a") == [1, 2, 3]
    assert store.log.live(ROOM) == 2


def test_of_many_who_create_the_same_session_one_does(store: Store) -> None:
    """Across threads and instances."""
    logs = [store.log, store.another()]
    answers = at_once([partial(log.submit, opening("a"), TEN) for log in logs * 4])
    assert sum(isinstance(answer, Appended) for answer in answers) == 1
    assert sum(isinstance(answer, SessionExists) for answer in answers) == 7
    assert (store.log.head(), store.log.live(ROOM)) == (1, 1)


def test_a_command_that_created_an_erased_session_still_gives_its_answer(store: Store) -> None:
    """Also when another of the same batch asks for an id that is used up."""
    first, other = opening("a", command=b"create a"), opening("b")
    store.log.append([first, other], TEN)
    store.log.append([erased(first), erased(other)], TEN)
    answers = store.log.append([first, other], TEN)
    assert answers[0] == Appended("a", 1, repeated=True)
    assert isinstance(answers[1], SessionExists)


# -- sweeping ---------------------------------------------------------------------------------


def test_a_sweep_reconciles_what_was_due(store: Store) -> None:
    """due = done + held + rearmed + failed, one of each, and what it wrote by topic."""
    at = TEN + 2 * DAY
    idle = entering("idle", person("ada"))
    held = ended(opening("held"), due_at=TEN + DAY)
    lawsuit = following(
        held,
        lambda s: s.hold("hold-1", Ground.LEGAL_CLAIM, at + DAY, TEN + HOUR, ACTOR),
        due_at=TEN + DAY,
    )
    busy = entering("busy", person("bob"))
    strange = opening("strange", policy="forgotten")
    later = opening("later", due_at=at + 1)
    never = opening("never", due_at=None)
    store.log.append([idle, opening("held"), busy, strange, later, never], TEN)
    store.log.submit(held, TEN)
    store.log.submit(lawsuit, TEN)
    (member,) = store.vault.members("busy")
    store.vault.see({("busy", member.token): at - MINUTE})

    count = sweep_once(store.log, POLICY_VERSIONS, at, SCHEDULER)

    topics = {Expired.TOPIC: 1, Erased.TOPIC: 1}
    assert count == SweepCount(due=4, done=1, held=1, rearmed=1, failed=1, events=topics)
    assert [type(event) for event in events_of(store.log, "idle")][1:] == [Expired, Erased]
    assert store.vault.members("idle") == []
    due = {name: row.due_at for name, row in store.log.find(["held", "busy", "strange"]).items()}
    # Held: at the hold's end. Seen a minute ago: when the warning is due. Failed: in 2 s.
    assert due == {"held": at + DAY, "busy": at + 49 * MINUTE, "strange": at + 2 * SECOND}
    assert sweep_once(store.log, POLICY_VERSIONS, at, SCHEDULER).due == 0


def test_a_sweep_takes_the_earliest_deadlines_first(store: Store) -> None:
    """In bounded batches, and says whether rows may be left."""
    names = "cadbe"
    store.log.append([opening(name, due_at=TEN + number) for number, name in enumerate(names)], TEN)
    claimed: list[str] = []

    def decide(found: Sequence[Found]) -> list[Append | Rearm]:
        claimed.extend(row.session.id for row in found)
        return expire_all(found)

    counts = [store.log.sweep(TEN + 9, 2, decide, SCHEDULER) for _ in range(3)]
    assert "".join(claimed) == names
    assert [(count.due, count.more) for count in counts] == [(2, True), (2, True), (1, False)]


def test_the_next_deadline_follows_what_happens(store: Store) -> None:
    """Moved earlier, moved later, gone: a worker sleeps until the earliest that stands."""
    store.log.append([opening("a", due_at=TEN + 5), opening("b", due_at=TEN + 7)], TEN)
    assert store.log.next_due() == TEN + 5
    found = store.log.find(["a"])["a"]
    store.log.submit(seen(found, TEN + 1, due_at=TEN + 9), TEN)
    assert store.log.next_due() == TEN + 7
    found = store.log.find(["a"])["a"]
    store.log.submit(seen(found, TEN + 2, due_at=TEN + 5), TEN)
    assert store.log.next_due() == TEN + 5
    store.log.submit(erased(store.log.find(["a"])["a"]), TEN)
    assert store.log.next_due() == TEN + 7
    store.log.submit(seen(store.log.find(["b"])["b"], TEN + 1, due_at=None), TEN)
    assert store.log.next_due() is None


def test_a_deadline_that_moves_often_is_swept_once(store: Store) -> None:
    """Away and back again: the session is claimed once."""
    store.log.submit(opening("a", due_at=TEN + 5), TEN)
    for number, due_at in enumerate((TEN + 9, TEN + 5) * 3, start=1):
        found = store.log.find(["a"])["a"]
        store.log.submit(seen(found, TEN + number, due_at=due_at), TEN)
    assert store.log.sweep(TEN + 9, 10, expire_all, SCHEDULER).due == 1
    assert store.log.sweep(TEN + 9, 10, expire_all, SCHEDULER).due == 0


def test_what_cannot_be_decided_is_tried_again_ever_later(store: Store) -> None:
    """A policy nobody knows: 2 s, 4 s, 8 s ... an hour; once it is known, all is well."""
    store.log.submit(opening("a", due_at=TEN), TEN)
    now, waits = TEN, []
    for _ in range(14):
        assert sweep_once(store.log, {}, now, SCHEDULER).failed == 1
        due_at = store.log.next_due()
        assert due_at is not None
        waits.append((due_at - now) // SECOND)
        now = due_at
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600, 3600]
    assert sweep_once(store.log, POLICY_VERSIONS, now, SCHEDULER).done == 1
    assert [event.effective_at for event in events_of(store.log, "a")] == [TEN, TEN + HOUR]


def test_a_row_that_was_decided_backs_off_from_the_beginning(store: Store) -> None:
    """Earlier failures are forgotten as soon as one sweep went well."""
    store.log.submit(opening("a", due_at=TEN), TEN)
    sweep_once(store.log, {}, TEN, SCHEDULER)
    rearmed = store.log.sweep(
        TEN + 2 * SECOND, 1, lambda rows: [Rearm(rows[0].session.id, TEN + DAY)], SCHEDULER
    )
    assert rearmed.rearmed == 1
    assert sweep_once(store.log, {}, TEN + DAY, SCHEDULER).failed == 1
    assert store.log.next_due() == TEN + DAY + 2 * SECOND


def test_a_row_that_was_written_backs_off_from_the_beginning(store: Store) -> None:
    """A command that went well says that the session is all right."""
    store.log.submit(opening("a", due_at=TEN), TEN)
    sweep_once(store.log, {}, TEN, SCHEDULER)
    found = store.log.find(["a"])["a"]
    store.log.submit(seen(found, TEN + 1, due_at=TEN + DAY), TEN)
    assert sweep_once(store.log, {}, TEN + DAY, SCHEDULER).failed == 1
    assert store.log.next_due() == TEN + DAY + 2 * SECOND


def test_failing_and_held_rows_starve_nobody(store: Store) -> None:
    """They are passed over although they were due first and the batch holds one row only."""
    strange = [opening(f"s{number}", policy="forgotten", due_at=TEN) for number in range(3)]
    store.log.append([*strange, opening("idle", due_at=TEN + HOUR)], TEN)
    expired = ended(opening("held"), TEN, due_at=TEN + 1)
    store.log.submit(opening("held"), TEN)
    store.log.submit(expired, TEN)
    hold = following(
        expired, lambda s: s.hold("h", Ground.LEGAL_CLAIM, None, TEN, ACTOR), due_at=TEN + 1
    )
    store.log.submit(hold, TEN)
    at = TEN + DAY + 1
    counts = [sweep_once(store.log, POLICY_VERSIONS, at, SCHEDULER, limit=1) for _ in range(6)]
    assert sum(counts, SweepCount()).failed == 3
    assert sum(counts, SweepCount()).held == 1
    assert Expired in {type(event) for event in events_of(store.log, "idle")}
    assert store.log.find(["held"])["held"].due_at is None  # until it is released


def test_a_sweep_that_breaks_off_changes_nothing(store: Store) -> None:
    """What was claimed is due again at once."""
    store.log.append([opening("a", due_at=TEN), opening("b", due_at=TEN)], TEN)
    before = store.log.find(["a", "b"])

    def fail(found: Sequence[Found]) -> list[Append | Rearm]:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        store.log.sweep(TEN, 10, fail, SCHEDULER, mark_of("sweep"))
    assert store.log.find(["a", "b"]) == before
    assert store.log.bookmark("sweep") is None
    assert store.log.sweep(TEN, 10, expire_all, SCHEDULER, mark_of("sweep")).done == 2
    assert store.log.bookmark("sweep") == b"2"


def test_what_falls_due_again_is_swept_again(store: Store) -> None:
    """One sweep expires, a later one erases; a third finds nothing."""
    store.log.submit(opening("a"), TEN)
    hours = [TEN + HOUR - 1, TEN + HOUR, TEN + 25 * HOUR - 1, TEN + 25 * HOUR, TEN + 99 * HOUR]
    done = [sweep(store.log, POLICY_VERSIONS, at, SCHEDULER).done for at in hours]
    assert done == [0, 1, 0, 1, 0]
    assert [type(event) for event in events_of(store.log, "a")] == [Created, Expired, Erased]
    assert store.log.find(["a"]) == {}


def test_many_sweepers_end_each_session_once(store: Store) -> None:
    """Four at a time on two instances, while somebody else writes: 300 sessions, 300 endings."""
    store.log.append([opening(f"{number:03}", due_at=TEN + number) for number in range(300)], TEN)
    logs = [store.log, store.another()]
    now = TEN + HOUR

    def sweeper(log: Log) -> SweepCount:
        return sweep(log, POLICY_VERSIONS, now, SCHEDULER, limit=7)

    def writer(log: Log) -> SweepCount:
        log.append([opening(f"new {number}", due_at=None) for number in range(20)], TEN)
        return SweepCount()

    counts = at_once([*(partial(sweeper, log) for log in logs * 2), partial(writer, logs[0])])
    assert not [count for count in counts if isinstance(count, Exception)]
    total = sum((count for count in counts if isinstance(count, SweepCount)), SweepCount())
    while store.log.next_due() == TEN:  # rows that others held when the last batch came back empty
        total += sweeper(store.log)
    assert (total.due, total.done, total.failed) == (300, 300, 0)
    assert total.events == {Expired.TOPIC: 300}
    ends = [r.event.originator_id for r in store.log.read(0, 10_000) if type(r.event) is Expired]
    assert len(ends) == len(set(ends)) == 300
    assert store.log.live(ROOM) == 20
    assert positions(store.log) == list(range(1, 621))


def test_a_heartbeat_that_meets_a_sweep_does_not_revive_the_session(store: Store) -> None:
    """It comes after the decision, so it does not count."""
    store.log.submit(entering("a", person("ada"), due_at=TEN), TEN)
    (member,) = store.vault.members("a")
    beats: list[set[tuple[str, str]]] = []
    beat = threading.Thread(
        target=lambda: beats.append(store.vault.see({("a", member.token): TEN + 9}))
    )

    def decide(found: Sequence[Found]) -> list[Append | Rearm]:
        beat.start()
        return expire_all(found)

    store.log.sweep(TEN, 1, decide, SCHEDULER)
    beat.join()
    assert beats == [set()]
    assert store.vault.members("a")[0].last_seen_at == TEN


# -- policies and deadlines -------------------------------------------------------------------


def test_policies_come_back_with_all_their_versions(store: Store) -> None:
    """In the log and as they are in force, each with the instant it takes effect."""
    apply_policies(store.log)
    stricter = parse('policy.room.rules = [{ since = "created", after = "1h", do = "erase" }]')[
        ROOM
    ]
    second = applied(stricter, number=2, effective_from=TEN + HOUR)
    store.another().apply_policy(second, TEN + 1, Bookmark("due-under:room", b"2"))
    assert store.log.bookmark("due-under:room") == b"2"
    known = store.log.policies()
    assert set(known) == set(POLICIES)
    assert [(v.number, v.effective_from, v.policy) for v in known[ROOM]] == [
        (1, 0, POLICIES[ROOM]),
        (2, TEN + HOUR, stricter),
    ]
    (last,) = store.log.read(len(POLICIES), 10)
    assert (last.event, last.recorded_at) == (second, TEN + 1)
    assert store.log.history(second.originator_id)[-1] == last


def test_a_version_of_a_policy_is_applied_once(store: Store) -> None:
    """Two instances that start at once: one records the policy, the other sees the conflict."""
    logs = [store.log, store.another()]
    tasks = [partial(log.apply_policy, applied(POLICIES[ROOM]), TEN) for log in logs * 4]
    answers = at_once(tasks)
    assert sum(answer is None for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 7
    assert positions(store.log) == [1]


def test_sessions_of_a_policy_are_walked_in_order_of_id(store: Store) -> None:
    """All that are not erased, page by page, expired ones too: they are still to be erased."""
    names = ["B", "a", "ab", "b", "ä", "中"]  # the order of their bytes, whatever the locale
    store.log.append([opening(name) for name in reversed(names)], TEN)
    store.log.append([opening("other", policy="lead"), opening("gone")], TEN)
    found = store.log.find(["ab", "gone"])
    store.log.append([ended(found["ab"]), erased(found["gone"])], TEN)
    walked = [""]
    while page := store.log.due_of_policy(ROOM, walked[-1], 2):
        walked += [row.session.id for row in page if isinstance(row, Found)]
    assert walked[1:] == names


def test_rearming_moves_deadlines_only_earlier(store: Store) -> None:
    """A later one is found when the stored one is reached. The bookmark says how far it came."""
    store.log.append([opening(name, due_at=TEN + 5) for name in "abc"], TEN)
    store.log.submit(opening("d", due_at=None), TEN)
    rearms = [
        Rearm("a", TEN + 3),
        Rearm("b", TEN + 7),
        Rearm("c", None),
        Rearm("d", TEN + 9),
        Rearm("gone", TEN + 1),
    ]
    store.log.rearm(rearms, Bookmark("rearm", b"d"))
    due = [store.log.find([name])[name].due_at for name in "abcd"]
    assert due == [TEN + 3, TEN + 5, TEN + 5, TEN + 9]
    assert store.log.next_due() == TEN + 3
    assert store.log.bookmark("rearm") == b"d"
    assert store.log.head() == 4


def test_a_verdict_other_than_failed_stores_the_deadline_it_names(store: Store) -> None:
    """Later than before, or never: the sweep saw the session, so it knows."""
    store.log.append([opening("a", due_at=TEN), opening("b", due_at=TEN)], TEN)
    later = [Rearm("a", TEN + DAY), Rearm("b", None, Verdict.HELD)]
    count = store.log.sweep(TEN, 10, lambda _: later, SCHEDULER)
    assert (count.due, count.rearmed, count.held) == (2, 1, 1)
    found = store.log.find(["a", "b"])
    assert [found[name].due_at for name in "ab"] == [TEN + DAY, None]


# -- the clock --------------------------------------------------------------------------------


def test_an_import_holds_the_clock(store: Store) -> None:
    """Other sweepers wait; the import itself sweeps, and no second import begins."""
    store.log.submit(opening("a", due_at=TEN), TEN)
    store.log.lease_clock("import-1", until=60)
    other = store.another()
    with pytest.raises(ClockHeld):
        other.sweep(TEN, 1, expire_all, SCHEDULER)
    with pytest.raises(ClockHeld):
        other.lease_clock("import-2", until=90)
    store.log.lease_clock("import-1", until=120)
    assert store.log.sweep(TEN, 1, expire_all, "import-1").done == 1
    store.log.release_clock("import-2")
    with pytest.raises(ClockHeld):
        other.sweep(TEN, 1, expire_all, SCHEDULER)
    store.log.release_clock("import-1")
    assert other.sweep(TEN, 1, expire_all, SCHEDULER).due == 0


def test_the_lease_of_a_dead_import_runs_out(store: Store) -> None:
    """By the wall clock: whoever was killed does not stop the sweepers for good."""
    store.log.lease_clock("import-1", until=60)
    store.wall.now = 59
    with pytest.raises(ClockHeld):
        sweep_once(store.log, {}, TEN, SCHEDULER)
    store.wall.now = 61
    assert sweep_once(store.log, {}, TEN, SCHEDULER).due == 0
    store.log.lease_clock("import-2", until=120)
    with pytest.raises(ClockHeld):
        sweep_once(store.log, {}, TEN, "import-1")


def test_state_is_what_the_history_says(store: Store) -> None:
    """The auditor's way and the commands' way lead to the same session."""
    append = opening("a", owner="owner-1")
    store.log.submit(append, TEN)
    steps: list[Callable[[Session], tuple[Event, ...]]] = [
        lambda s: s.join("guest", TEN + 1, ACTOR, present=False),
        lambda s: s.store(2, 300, TEN + 2, ACTOR),
        lambda s: s.fail(Failure.INVALID, TEN + 3, ACTOR),
        lambda s: s.hold("hold-1", Ground.PUBLIC_INTEREST, None, TEN + 4, ACTOR),
        lambda s: s.extend(TEN + 2 * HOUR, TEN + 5, ACTOR),
        lambda s: s.leave("guest", TEN + 6, ACTOR, present=True),
        lambda s: s.expire("expire-idle", 1, TEN + HOUR, ACTOR),
        lambda s: s.recover(DAY, TEN + 2 * HOUR, ACTOR),
    ]
    for step in steps:
        found = store.log.find(["a"])["a"]
        store.log.submit(following(found, step), TEN)
        history = list(events_of(store.log, "a"))
        assert store.log.find(["a"])["a"].session == project(None, history)
    assert versions_in(store.log, "a") == list(range(1, 10))
