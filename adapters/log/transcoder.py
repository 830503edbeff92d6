"""Events and folded state to bytes and back.

Stored bytes are canonical JSON (orjson, sorted keys, no spaces): they are hashed, so they never
pass through a JSON column or a driver's date type. What stands in columns of its own
(`originator_id`, `originator_version`, `effective_at`) is not repeated in the bytes.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import orjson

from domain.errors import CorruptState
from domain.facts import FACTS, Fact
from domain.policy import Applied
from domain.ports import Logged
from domain.session import (
    TOPICS,
    UPCASTERS,
    Erased,
    Failed,
    Failure,
    Ground,
    Held,
    Hold,
    Scope,
    Session,
    Stored,
)

_SORTED = orjson.OPT_SORT_KEYS
_COLUMNS = ("originator_id", "originator_version", "effective_at")
_ENUMS: dict[type, tuple[str, Callable[[str], Any]]] = {
    Failed: ("reason", Failure),
    Held: ("ground", Ground),
    Erased: ("scope", Scope),
    Stored: ("scope", lambda scope: None if scope is None else Scope(scope)),
}


class Unreadable(ValueError):
    """Stored bytes that are no event of a known topic."""


def encode_event(event: Logged) -> bytes:
    """The canonical bytes of an event."""
    stored = dict(event.__dict__)
    for column in _COLUMNS:
        del stored[column]
    return orjson.dumps(stored, option=_SORTED)


def decode_event(
    session_id: str, version: int, topic: str, effective_at: int, state: bytes | str
) -> Logged:
    """The event of a row. Raises Unreadable: a wrong row is never skipped or guessed at."""
    try:
        stored = orjson.loads(state)
        while topic in UPCASTERS:
            topic, stored = UPCASTERS[topic](stored)
        kind = _CLASSES[topic]
        shape = (topic, *stored, *map(type, stored.values()))
        if shape not in _SHAPES:
            _check(topic, stored)
            _remember(_SHAPES, shape)
        stored["originator_id"] = session_id
        stored["originator_version"] = version
        stored["effective_at"] = effective_at
        if kind in _ENUMS:
            name, enum = _ENUMS[kind]
            stored[name] = enum(stored[name])
        elif topic in _FACTS:
            for name, closed in _FACTS[topic].ENUMS.items():
                stored[name] = None if stored[name] is None else closed(stored[name])
    except KeyError:
        raise Unreadable("unknown topic") from None
    except (ValueError, TypeError, AttributeError):
        # The message of the parser may quote the bytes; a row that was tampered with may hold
        # anything, so none of it is repeated.
        raise Unreadable("not an event of its topic") from None
    # The frozen constructor assigns field by field (1.3 us); this is 0.2 us, and reading a
    # million events is what auditors do.
    event = object.__new__(kind)
    event.__dict__.update(stored)
    return event


def _check(topic: str, stored: dict[str, Any]) -> None:
    """Raises ValueError unless these are the fields of this topic, each of its type."""
    expected = _FIELDS[topic]
    if stored.keys() != expected.keys():
        raise ValueError("wrong fields")
    for name, value in stored.items():
        if type(value) not in expected[name]:
            raise ValueError("wrong type")


# Topics with the names and types of their fields that were found right: few, as fields are in
# canonical order. Looking one up takes a fifth of the time of checking field by field.
_SHAPES: set[tuple[object, ...]] = set()


def _remember(shapes: set[tuple[object, ...]], shape: tuple[object, ...]) -> None:
    """Bounded: what a database holds in another order of fields is checked every time."""
    if len(shapes) < _MOST_SHAPES:
        shapes.add(shape)


_MOST_SHAPES = 10_000


def _json_types(hint: Any) -> frozenset[type]:
    """What the JSON of a field of this type is read as."""
    if isinstance(hint, UnionType):
        return frozenset().union(*map(_json_types, get_args(hint)))
    kind = get_origin(hint) or hint
    for wide, read in ((str, str), (Mapping, dict), (frozenset, list), (tuple, list)):
        if issubclass(kind, wide):
            return frozenset({read})
    return frozenset({kind})


def _stored_types(kind: type, columns: Container[str]) -> dict[str, frozenset[type]]:
    """The fields of `kind` that stand in the bytes, with the types of their JSON."""
    hints = get_type_hints(kind)
    return {
        column.name: _json_types(hints[column.name])
        for column in fields(kind)
        if column.name not in columns
    }


_FACTS: dict[str, type[Fact]] = {kind.TOPIC: kind for kind in FACTS}
_CLASSES: dict[str, type[Logged]] = {**TOPICS, Applied.TOPIC: Applied, **_FACTS}
_FIELDS = {topic: _stored_types(kind, _COLUMNS) for topic, kind in _CLASSES.items()}


# -- folded state -----------------------------------------------------------------------------

STATE_FORMAT = 1
"""What `encode_state` writes, the fields of Session included. Raised with every change that makes
stored states wrong or unreadable; `lapse db rebuild sessions` then folds them anew."""

_STATE_SHAPES: set[tuple[object, ...]] = set()
_REQUIRED = {"policy", "policy_version", "created_at", "last_seen_at"}
_KNOWN = _stored_types(Session, ("id", "version", "holds_of_people"))
_HOLDS = {(str, int, int), (str, int, NoneType)}


def encode_state(session: Session) -> bytes:
    """The folded state without its columns `session_id` and `version`.

    A session carries only the fields that ever changed (`Session.changed`), so defaults take no
    room here either.
    """
    stored = dict(session.__dict__)
    del stored["id"], stored["version"]
    stored.pop("holds_of_people", None)  # the vault's, read with each session
    if "erased" in stored:
        stored["erased"] = sorted(stored["erased"])
    if "holds" in stored:
        stored["holds"] = [[hold.id, hold.since, hold.until] for hold in stored["holds"]]
    return orjson.dumps(stored, option=_SORTED)


def _check_state(stored: dict[str, Any]) -> None:
    """Raises ValueError or KeyError unless these are fields of a session, each of its type."""
    if not stored.keys() >= _REQUIRED:
        raise ValueError("wrong fields")
    for name, value in stored.items():
        if type(value) not in _KNOWN[name]:
            raise ValueError("wrong type")


def decode_state(session_id: str, version: int, state: bytes | str) -> Session:
    """The inverse. Raises CorruptState."""
    try:
        stored = orjson.loads(state)
        shape = (*stored, *map(type, stored.values()))
        if shape not in _STATE_SHAPES:
            _check_state(stored)
            _remember(_STATE_SHAPES, shape)
        if "erased" in stored:
            stored["erased"] = frozenset(Scope(scope) for scope in stored["erased"])
        if "holds" in stored:
            if any(tuple(map(type, hold)) not in _HOLDS for hold in stored["holds"]):
                raise ValueError("wrong type")
            stored["holds"] = tuple(Hold(*hold) for hold in stored["holds"])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise CorruptState(session_id, "not a session's state") from None
    stored["id"] = session_id
    stored["version"] = version
    return Session.of(stored)
