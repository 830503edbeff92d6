"""Every table there is, and what of whom can be in it: the map by which the scanner looks.

A table or a column that is not here makes every scan fail, so that nobody adds a place for personal
data without saying how it is found again. `searches` say how; `why` says why there is nothing else
of anybody to find.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Table

from adapters.log import bulk
from adapters.log import schema as log
from adapters.log.transcoder import Unreadable, decode_event
from domain.erasure import Reach
from domain.ports import Fault
from projections import tables as projections

MOST = 100
"""Rows of one kind that are counted: that something is left matters, not how much."""

Search = Callable[[Connection, str, Reach], int]
"""How many rows of a table (at most about `MOST`) are left of what was erased."""


@dataclass(frozen=True)
class Store:
    """A table. columns: all it has. sealed: those with sealed bytes or wrapped keys, of which the
    database must keep no samples for its planner. fault: what rows that a search finds are."""

    columns: frozenset[str]
    why: str
    searches: tuple[Search, ...] = ()
    sealed: frozenset[str] = frozenset()
    fault: Fault = Fault.LEFT


# -- searches ---------------------------------------------------------------------------------


def by_session(column: str = "session_id") -> Search:
    """Rows of sessions that were erased whole."""
    return lambda connection, table, reach: _count_in(connection, table, column, reach.sessions)


def by_subject(column: str = "subject") -> Search:
    """Rows of people of whom nothing may be left."""
    return lambda connection, table, reach: _count_in(connection, table, column, reach.subjects)


def by_joint_subject(connection: Connection, table: str, reach: Reach) -> int:
    """Keys of sessions: there the subject is the session itself."""
    return _count_in(connection, table, "subject", reach.sessions)


def by_part(connection: Connection, table: str, reach: Reach) -> int:
    """Rows of one person in a session that goes on."""
    columns = ("session_id", "token")
    return len(bulk.select_rows(connection, _TABLES[table], columns, columns, reach.parts))


def by_named(column: str) -> Search:
    """Rows of a session that goes on in which one of these people is named among others."""
    return lambda connection, table, reach: _naming(connection, table, column, list(reach.parts))


def by_owner(connection: Connection, table: str, reach: Reach) -> int:
    """Counters of what people own: `owner:POLICY:SUBJECT`."""
    query = "SELECT DISTINCT name FROM policies WHERE partition = 0"
    names = [row[0] for row in connection.exec_driver_sql(query)]
    scopes = [f"owner:{name}:{subject}" for name in names for subject in reach.subjects]
    return _count_in(connection, table, "scope", scopes)


def by_copy(connection: Connection, table: str, reach: Reach) -> int:
    """Parts of copies which hold anything of these sessions. That of a person goes with them too;
    those who stay may have asked for another one since."""
    query = (
        f"SELECT 1 FROM access_sessions s JOIN {table} t ON t.partition = s.partition "
        "AND t.request_id = s.request_id WHERE s.partition = 0 AND s.session_id IN ({ids}) "
        f"LIMIT {MOST}"
    )
    return len(bulk.select_in(connection, query, list(reach.sessions)))


def _naming(
    connection: Connection, table: str, column: str, parts: Sequence[tuple[str, str]]
) -> int:
    if not parts:
        return 0
    if connection.dialect.name == "postgresql":
        query = (
            "SELECT 1 FROM unnest(%s::text[], %s::text[]) AS u(session_id, token) "
            f"JOIN {table} t ON t.partition = 0 AND t.session_id = u.session_id "
            f"AND position(u.token IN t.{column}) > 0 LIMIT {MOST}"
        )
        return len(connection.exec_driver_sql(query, bulk.array_literals(parts)).fetchall())
    found = 0
    for start in range(0, len(parts), 10_000):
        chunk = parts[start : start + 10_000]
        query = (
            f"WITH u(session_id, token) AS (VALUES {','.join(['(?,?)'] * len(chunk))}) "
            f"SELECT 1 FROM u CROSS JOIN {table} t ON t.partition = 0 "
            f"AND t.session_id = u.session_id AND instr(t.{column}, u.token) > 0 "
            f"LIMIT {MOST}"
        )
        values = tuple(value for part in chunk for value in part)
        found += len(connection.exec_driver_sql(query, values).fetchall())
    return found


def _count_in(connection: Connection, table: str, column: str, ids: Sequence[Any]) -> int:
    query = f"SELECT 1 FROM {table} WHERE partition = 0 AND {column} IN ({{ids}}) LIMIT {MOST}"
    return len(bulk.select_in(connection, query, list(ids)))


# -- stores of facts --------------------------------------------------------------------------

_TOKEN = re.compile(r"[0-9a-f]{32}")
_COMMITMENT = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9_-]{1,40}")
_TEMPLATE = re.compile(r"\(unknown\)|/[a-z0-9_.{}/-]*")
_MOST_DIGITS = 32
"""A longer run of hexadecimal digits in the template of a path would be an id."""
_TOKENS = ("token", "owner")


def _touched(reach: Reach) -> list[str]:
    return sorted({*reach.sessions, *(session for session, _ in reach.parts)})


def events_without_facts(connection: Connection, table: str, reach: Reach) -> int:
    """Events of these sessions that hold anything but random ids, counts, times and closed names.
    The facts themselves stay."""
    query = (
        f"SELECT session_id, version, topic, effective_at, state FROM {table} "
        "WHERE partition = 0 AND session_id IN ({ids})"
    )
    found = 0
    for session_id, version, topic, at, state in bulk.stream_in(connection, query, _touched(reach)):
        plain = state if isinstance(state, str) else bytes(state)
        try:
            event = decode_event(session_id, version, topic, at, plain)
        except Unreadable:
            found += 1
            continue
        found += not _is_factual(vars(event))
    return found


def audit_without_facts(connection: Connection, table: str, reach: Reach) -> int:
    """The same of what the projection made of them, in every generation that there is."""
    query = "SELECT serving, building FROM projections WHERE name = 'audit'"
    generations = {
        int(one) for row in connection.exec_driver_sql(query) for one in row if one is not None
    }
    if not generations:
        return 0
    query = (
        f"SELECT policy, rule, actor, token, detail FROM {table} WHERE partition = 0 "
        f"AND generation IN ({','.join(map(str, sorted(generations)))}) "
        "AND session_id IN ({ids})"
    )
    found = 0
    for policy, rule, actor, token, detail in bulk.stream_in(connection, query, _touched(reach)):
        fields = {"policy": policy, "rule": rule, "actor": actor, "token": token}
        found += not (_is_factual(fields) and _is_factual(_detail(detail)))
    return found


def requests_without_facts(connection: Connection, table: str, reach: Reach) -> int:
    """Requests about these sessions that say more than who asked, which path, and how it ended."""
    query = f"SELECT actor, role, method, path, read FROM {table} WHERE session IN ({{ids}})"
    found = 0
    for actor, role, method, path, read in bulk.stream_in(connection, query, _touched(reach)):
        fields = {"actor": actor, "role": role, "method": method.lower(), "read": read}
        found += not (_is_factual(fields) and _is_template(path))
    return found


def _is_template(path: str) -> bool:
    longest = max(map(len, re.findall(r"[0-9a-f]+", path)), default=0)
    return _TEMPLATE.fullmatch(path) is not None and longest < _MOST_DIGITS


def _detail(detail: str | None) -> Mapping[str, Any]:
    try:
        found = orjson.loads(detail) if detail is not None else {}
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) else {"detail": str(detail)}


def _is_factual(fields: Mapping[str, Any]) -> bool:
    return all(_is_fact(name, value) for name, value in fields.items())


def _is_fact(name: str, value: Any) -> bool:
    if value is None or isinstance(value, int):  # a bool is one
        return True
    if not isinstance(value, str):
        return False
    if name in _TOKENS:
        return _TOKEN.fullmatch(value) is not None
    if name == "commitment":
        return _COMMITMENT.fullmatch(value) is not None
    return _NAME.fullmatch(value) is not None


# -- the map ----------------------------------------------------------------------------------


_TABLES: Mapping[str, Table] = {**log.metadata.tables, **projections.metadata.tables}


def _store(
    columns: str, why: str, *searches: Search, sealed: str = "", fault: Fault = Fault.LEFT
) -> Store:
    """columns, sealed: names with a space between. Written out here and not taken from schema.py:
    whoever adds a column there shall have to say what may be in it here."""
    return Store(frozenset(columns.split()), why, searches, frozenset(sealed.split()), fault)


_FACTS_ONLY = "facts: random ids, counts, times, closed names; they stay"

STORES: Mapping[str, Store] = {
    "events": _store(
        "partition position session_id version topic effective_at recorded_at nonce state leaf",
        _FACTS_ONLY,
        events_without_facts,
        fault=Fault.NOT_A_FACT,
    ),
    "heads": _store("partition position", "a number"),
    "pruned": _store("partition position leaf pruned_at", "hashes in the place of events"),
    "tiles": _store("partition level tile hashes", "hashes over the log"),
    "trees": _store("partition epoch size epoch_leaf", "how far the hashes are"),
    "checkpoints": _store("partition epoch size root signed_at note", "signed hashes of the log"),
    "sessions": _store(
        "partition session_id version policy phase created_at last_seen_at due_at failures "
        "owner_subject stored_bytes state",
        "the folded state of sessions that are not erased",
        by_session(),
        by_subject("owner_subject"),
    ),
    "counters": _store("partition scope used", "numbers, by policy and by owner", by_owner),
    "commands": _store(
        "partition command session_id version expires_at",
        "keyed hashes of commands that happened, for a day, and which session it was",
    ),
    "policies": _store(
        "partition name version effective_from document", "what operators write; about nobody"
    ),
    "bookmarks": _store("partition name value", "keyed hashes of sources, counts of lines"),
    "leases": _store("name holder until", "names of processes"),
    "meta": _store("name value", "check values of keys, secrets and generation keys, wrapped"),
    "alembic_version": _store("version_num", "the number of the schema"),
    "presence": _store(
        "partition session_id token joined_at last_seen_at left_at",
        "who takes part, by token",
        by_session(),
        by_part,
    ),
    "invites": _store(
        "partition invite session_id uses expires_at",
        "keyed hashes of secrets; they belong to a session and to nobody in it",
        by_session(),
    ),
    "subjects": _store(
        "partition lookup subject",
        "people, by the keyed hash of a name under a key that rotates",
        by_subject(),
    ),
    "subject_index": _store(
        "partition session_id token subject role current sealed",
        "who is behind a token, sealed",
        by_session(),
        by_part,
        by_subject(),
        sealed="sealed",
    ),
    "aliases": _store(
        "partition lookup session_id",
        "keyed hashes of names that sources have for sessions",
        by_session(),
    ),
    "items": _store(
        "partition session_id item_id part scope kind stored_at size participants media_type "
        "count sealed",
        "what sessions store, sealed",
        by_session(),
        by_named("participants"),
        sealed="sealed",
    ),
    "uploads": _store(
        "partition session_id upload_id kind size created_at participants media_type",
        "uploads that were announced",
        by_session(),
        by_named("participants"),
    ),
    "partials": _store(
        "partition session_id token sealed contributors",
        "figures by participant, sealed",
        by_session(),
        by_part,
        by_named("contributors"),
        sealed="sealed",
    ),
    "access_requests": _store(
        "partition request_id version subject verified_by status requested_at ready_at erases_at "
        "due_at sessions items size reason wrapped",
        "requests for a copy; whose stands there only until the copy is gone",
        by_subject(),
        sealed="wrapped",
    ),
    "access_sessions": _store(
        "partition session_id request_id",
        "of which sessions a copy that waits is made",
        by_session(),
    ),
    "access_parts": _store(
        "partition request_id part sealed",
        "copies that wait, sealed",
        by_copy,
        sealed="sealed",
    ),
    "requests": _store(
        "partition request_id version status deadline_at due_at failures key target session_id "
        "sealed state",
        "requests for erasure; whom one is about stands there sealed until it is verified",
        sealed="sealed",
    ),
    "subject_holds": _store(
        "partition hold subject ground since until", "holds of people", by_subject()
    ),
    "session_holds": _store(
        "partition session_id hold ground since until", "holds of sessions", by_session()
    ),
    "subject_keys": _store(
        "partition subject kek wrapped",
        "keys of people and of sessions, wrapped",
        by_subject(),
        by_joint_subject,
        sealed="wrapped",
    ),
    "subject_keys_next": _store(
        "partition subject kek wrapped",
        "the same while a rotation moves them",
        by_subject(),
        by_joint_subject,
        sealed="wrapped",
    ),
    "subject_keys_changed": _store(
        "subject", "ids that a rotation must look at again; the table goes with the move"
    ),
    "data_keys": _store(
        "partition session_id tier token subject wrapped",
        "keys of tiers, wrapped; all of a person's are in sessions or parts that were erased",
        by_session(),
        by_part,
        sealed="wrapped",
    ),
    "audit": _store(
        "partition generation session_id position event effective_at recorded_at policy "
        "policy_version rule actor token detail",
        _FACTS_ONLY,
        audit_without_facts,
        fault=Fault.NOT_A_FACT,
    ),
    "sweeps": _store(
        "partition hour due done held rearmed failed events batches", "counts by hour"
    ),
    "usage": _store(
        "partition generation hour policy event count bytes_freed", "counts by policy and hour"
    ),
    "projections": _store("name serving building", "numbers of generations"),
    "projection_positions": _store(
        "partition name generation position updated_at failed_at failure",
        "positions, and classes of errors",
    ),
}
"""Tables by name."""

_MONTH = re.compile(r"requests_\d{4}_\d{2}")
_OF_A_MONTH = _store(
    "id at actor role method path status duration session read operation",
    "who asked what, by keyed hash and template; dropped whole after a year",
    requests_without_facts,
    fault=Fault.NOT_A_FACT,
)


def store_of(table: str) -> Store | None:
    """What is known of a table of ours; None if nobody said."""
    if _MONTH.fullmatch(table):
        return _OF_A_MONTH
    return STORES.get(table)
