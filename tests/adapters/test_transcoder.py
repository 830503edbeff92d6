"""Events and folded state as bytes, and the leaves over them: fixed for ever."""

from collections.abc import Callable
from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_type_hints

import hypothesis.strategies as some
import orjson
import pytest
from hypothesis import example, given

from adapters.log.transcoder import (
    Unreadable,
    decode_event,
    decode_state,
    encode_event,
    encode_state,
)
from domain.errors import CorruptState
from domain.policy import Applied, parse, to_document
from domain.ports import Logged
from domain.session import (
    EVENTS,
    TOPICS,
    UPCASTERS,
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
    Hold,
    Joined,
    Left,
    Recovered,
    Released,
    Scope,
    Seen,
    Session,
    Stored,
    Summarized,
)

AT = 1_793_527_200_000_000
HEAD = ("a1b2", 3, AT, "room", "token-1")

GOLDEN: dict[Event, bytes] = {
    Created(*HEAD, 7, "token-2"): (
        b'{"actor":"token-1","owner":"token-2","policy":"room","policy_version":7}'
    ),
    Created(*HEAD, 7): b'{"actor":"token-1","owner":null,"policy":"room","policy_version":7}',
    Joined(*HEAD, "token-3"): b'{"actor":"token-1","policy":"room","token":"token-3"}',
    Seen(*HEAD): b'{"actor":"token-1","policy":"room"}',
    Left(*HEAD, "token-3"): b'{"actor":"token-1","policy":"room","token":"token-3"}',
    Stored(*HEAD, 3, 2**40): (
        b'{"actor":"token-1","commitment":null,"items":3,"policy":"room","scope":null,'
        b'"size":1099511627776,"summary_size":null}'
    ),
    Stored(*HEAD, 1, 300, Scope.CHUNKS, 64, "c0ffee"): (
        b'{"actor":"token-1","commitment":"c0ffee","items":1,"policy":"room","scope":"chunks",'
        b'"size":300,"summary_size":64}'
    ),
    Completed(*HEAD): b'{"actor":"token-1","policy":"room"}',
    Failed(*HEAD, Failure.TIMEOUT): b'{"actor":"token-1","policy":"room","reason":"timeout"}',
    Summarized(*HEAD, "summarize-created", 7, 100): (
        b'{"actor":"token-1","bytes_freed":100,"policy":"room","policy_version":7,'
        b'"rule":"summarize-created"}'
    ),
    Compressed(*HEAD, "compress-created", 7, 100): (
        b'{"actor":"token-1","bytes_freed":100,"policy":"room","policy_version":7,'
        b'"rule":"compress-created"}'
    ),
    Expiring(*HEAD, "warn-last_seen", 7, AT + 1): (
        b'{"actor":"token-1","deadline":1793527200000001,"policy":"room","policy_version":7,'
        b'"rule":"warn-last_seen"}'
    ),
    Extended(*HEAD, AT + 2): b'{"actor":"token-1","policy":"room","until":1793527200000002}',
    Expired(*HEAD, "expire-last_seen", 7, AT - 1): (
        b'{"actor":"token-1","last_seen":1793527199999999,"policy":"room","policy_version":7,'
        b'"rule":"expire-last_seen"}'
    ),
    Recovered(*HEAD): b'{"actor":"token-1","policy":"room"}',
    Held(*HEAD, "hold-1", Ground.LEGAL_CLAIM, AT + 3): (
        b'{"actor":"token-1","ground":"legal-claim","hold":"hold-1","policy":"room",'
        b'"until":1793527200000003}'
    ),
    Held(*HEAD, "hold-1", Ground.RESTRICTION): (
        b'{"actor":"token-1","ground":"restriction","hold":"hold-1","policy":"room","until":null}'
    ),
    Released(*HEAD, "hold-1"): b'{"actor":"token-1","hold":"hold-1","policy":"room"}',
    Erased(*HEAD, Scope.FILES, "erase-files-completed", 7, 5, AT - 2): (
        b'{"actor":"token-1","bytes_freed":5,"oldest_left":1793527199999998,"policy":"room",'
        b'"policy_version":7,"rule":"erase-files-completed","scope":"files"}'
    ),
    Erased(*HEAD, Scope.EVERYTHING, "erase-expired", 7): (
        b'{"actor":"token-1","bytes_freed":0,"oldest_left":null,"policy":"room",'
        b'"policy_version":7,"rule":"erase-expired","scope":"everything"}'
    ),
}


def decoded(event: Logged, state: bytes | str) -> Logged:
    return decode_event(
        event.originator_id, event.originator_version, event.TOPIC, event.effective_at, state
    )


# -- events -----------------------------------------------------------------------------------


def test_the_bytes_of_every_event_are_these() -> None:
    """They are hashed into the tree: a change here needs a new topic and an upcaster."""
    assert {type(event) for event in GOLDEN} == set(EVENTS)
    for event, state in GOLDEN.items():
        assert encode_event(event) == state
        assert repr(decoded(event, state)) == repr(event)


def test_what_was_stored_under_the_first_version_is_read_as_the_second() -> None:
    """It did not say what was stored; its bytes stay as they are."""
    first = b'{"actor":"token-1","items":3,"policy":"room","size":1099511627776}'
    read = decode_event("s", 2, "session.stored.v1", AT, first)
    assert isinstance(read, Stored)
    assert (read.items, read.size, read.scope, read.commitment) == (3, 2**40, None, None)


def test_the_topics_are_these() -> None:
    """They stand in stored rows, so a class may be renamed and its topic not."""
    names = (
        "created joined seen left stored completed failed summarized compressed expiring extended "
        "expired recovered held released erased"
    )
    changed = {"stored": "v2"}
    assert list(TOPICS) == [f"session.{name}.{changed.get(name, 'v1')}" for name in names.split()]
    assert Applied.TOPIC == "policy.applied.v1"


def test_the_bytes_of_a_policy_are_canonical() -> None:
    """Keys are sorted at every depth, so the same policy is the same bytes."""
    (policy,) = parse(
        'policy.room.rules = [{ since = "created", after = "1h", do = "erase" }]'
    ).values()
    applied = Applied("policy:room", 1, 0, "room", "token-1", to_document(policy))
    state = encode_event(applied)
    assert state == orjson.dumps(orjson.loads(state), option=orjson.OPT_SORT_KEYS)
    assert state.startswith(b'{"actor":"token-1","document":{"audit_retention":"400d",')
    assert b'{"after":"1h","do":"erase","name":"erase-created","scope":"everything",' in state
    assert decoded(applied, state) == applied


integers = some.integers(-(2**63), 2**63 - 1)
VALUES = {
    str: some.text(),
    int: integers,
    str | None: some.none() | some.text(),
    int | None: some.none() | integers,
    Failure: some.sampled_from(Failure),
    Ground: some.sampled_from(Ground),
    Scope: some.sampled_from(Scope),
    Scope | None: some.none() | some.sampled_from(Scope),
}


def any_of(kind: type) -> some.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    return some.builds(kind, **{field.name: VALUES[hints[field.name]] for field in fields(kind)})


events = some.one_of([any_of(kind) for kind in EVENTS])


@given(events)
def test_every_event_survives_the_way_to_bytes_and_back(event: Event) -> None:
    """Whatever stands in its fields; from bytes and from the text a database makes of them."""
    state = encode_event(event)
    for read in (state, state.decode()):
        again = decoded(event, read)
        assert repr(again) == repr(event)
        assert encode_event(again) == state


@given(events, some.randoms(use_true_random=False))
def test_the_bytes_do_not_depend_on_how_an_event_came_to_be(event: Event, chance: Any) -> None:
    """Nor on the order in which its fields were set."""
    shuffled = list(event.__dict__.items())
    chance.shuffle(shuffled)
    other = object.__new__(type(event))
    other.__dict__.update(shuffled)
    assert encode_event(other) == encode_event(event)


json_values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
    max_leaves=8,
)


def orjson_or_empty(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits
        return b""


damages = some.binary() | json_values.map(orjson_or_empty)


@given(some.sampled_from(sorted(TOPICS)), damages)
@example("session.created.v1", b'{"secret": ' * 2_000)
def test_other_bytes_are_refused(topic: str, state: bytes) -> None:
    """Always by the same error, never quoted, never guessed at."""
    with pytest.raises(Unreadable) as refused:
        decode_event("a", 1, topic, AT, state)
    assert str(refused.value) == "not an event of its topic"
    assert refused.value.__suppress_context__


WRONG: dict[type, list[object]] = {
    str: [None, 7, 1.5, True, [], {}],
    int: ["x", 1.5, True, [], {}],
    type(None): [1.5, True, [], {}],
}


@given(some.sampled_from(list(GOLDEN)), some.data())
def test_an_event_with_one_wrong_field_is_refused(event: Event, data: some.DataObject) -> None:
    """A field more, a field less, or one of another type."""
    stored = orjson.loads(GOLDEN[event])
    name = data.draw(some.sampled_from(sorted(stored)))
    nothing_fits = NoneType in get_args(get_type_hints(type(event))[name])
    wrong = data.draw(
        some.sampled_from(
            [one for one in WRONG[type(stored[name])] if one is not None or not nothing_fits]
        )
    )
    for damaged in (
        {key: value for key, value in stored.items() if key != name},
        stored | {name + "x": stored[name]},
        stored | {name: wrong},
        stored | {"effective_at": 1},
    ):
        with pytest.raises(Unreadable):
            decoded(event, orjson.dumps(damaged))


@pytest.mark.parametrize("topic", ["session.seen.v2", "session.seen", "seen", "", "policy.x.v1"])
def test_an_unknown_topic_is_refused(topic: str) -> None:
    """An event of a newer version is not taken for one of ours."""
    with pytest.raises(Unreadable, match="unknown topic"):
        decode_event("a", 1, topic, AT, b'{"actor":"token-1","policy":"room"}')


# -- upcasters --------------------------------------------------------------------------------


def test_an_old_event_is_read_as_its_newest_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through every version since; the stored bytes stay what they were."""

    def from_alpha(stored: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "session.expired.beta", stored | {"rule": stored.pop("because")}

    def from_beta(stored: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return Expired.TOPIC, stored | {"policy_version": 1}

    monkeypatch.setitem(UPCASTERS, "session.expired.alpha", from_alpha)
    monkeypatch.setitem(UPCASTERS, "session.expired.beta", from_beta)
    alpha = b'{"actor":"token-1","because":"idle","last_seen":5,"policy":"room"}'
    beta = b'{"actor":"token-1","last_seen":5,"policy":"room","rule":"idle"}'
    now = Expired("a", 2, AT, "room", "token-1", "idle", 1, 5)
    assert decode_event("a", 2, "session.expired.alpha", AT, alpha) == now
    assert decode_event("a", 2, "session.expired.beta", AT, beta.decode()) == now
    assert decode_event("a", 2, Expired.TOPIC, AT, encode_event(now)) == now


def test_an_upcaster_that_meets_other_bytes_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged old event is reported like a damaged new one."""
    upcast: Callable[[dict[str, Any]], tuple[str, dict[str, Any]]] = lambda stored: (  # noqa: E731
        Seen.TOPIC,
        {"actor": stored["who"], "policy": stored["policy"]},
    )
    monkeypatch.setitem(UPCASTERS, "session.seen.v0", upcast)
    for state in (b"{}", b"[]", b"7", b'"text"', b"", b'{"who":7,"policy":"room"}'):
        with pytest.raises(Unreadable):
            decode_event("a", 1, "session.seen.v0", AT, state)


# -- folded state -----------------------------------------------------------------------------

holds = some.lists(some.builds(Hold, some.text(), integers, some.none() | integers), max_size=3)
STATE_VALUES = VALUES | {
    frozenset[Scope]: some.frozensets(some.sampled_from(Scope)),
    tuple[Hold, ...]: holds.map(tuple),
}


@some.composite
def sessions(draw: some.DrawFn) -> Session:
    """With the fields that every session has and some of the others, as commands leave them."""
    hints = get_type_hints(Session)
    always = ("id", "version", "policy", "policy_version", "owner", "created_at", "last_seen_at")
    beside = {*always, "holds_of_people"}  # read from the vault, never stored
    others = [field.name for field in fields(Session) if field.name not in beside]
    names = [*always, *draw(some.lists(some.sampled_from(others), unique=True))]
    return Session.of({name: draw(STATE_VALUES[hints[name]]) for name in names})


@given(sessions())
def test_every_state_survives_the_way_to_bytes_and_back(session: Session) -> None:
    """And takes no room for what never changed."""
    state = encode_state(session)
    for read in (state, state.decode()):
        again = decode_state(session.id, session.version, read)
        assert again == session
        assert {type(scope) for scope in again.erased} <= {Scope}
        assert {type(hold) for hold in again.holds} <= {Hold}
        assert encode_state(again) == state
    assert orjson.loads(state).keys() == session.__dict__.keys() - {"id", "version"}


@given(damages)
@example(b'{"created_at":1,"last_seen_at":1,"policy":"room","policy_version":1,"version":2}')
@example(b'{"created_at":1,"holds":[[]],"last_seen_at":1,"policy":"room","policy_version":1}')
@example(b'{"created_at":1,"holds":[7],"last_seen_at":1,"policy":"room","policy_version":1}')
@example(b'{"created_at":1,"erased":[[]],"last_seen_at":1,"policy":"room","policy_version":1}')
def test_a_state_of_other_bytes_is_refused(state: bytes) -> None:
    """By the id of its session, without a word of the bytes."""
    with pytest.raises(CorruptState) as refused:
        decode_state("a", 1, state)
    assert (refused.value.session_id, refused.value.why) == ("a", "not a session's state")
    assert refused.value.__suppress_context__
