"""Checks the log against itself and what was derived from it, and makes the folded state anew.

Both read the log once in order and fold the sessions that begin in each page, so that memory is
bounded by a page and the states of its sessions, whatever the size of the log.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from adapters.log import bulk
from adapters.log.engine import Engines
from adapters.log.event_log import (
    SELECT_EVENTS,
    SqlLog,
    newest_presence,
    recorded,
    save_sessions,
)
from adapters.log.migrate import note_state_format, state_format
from adapters.log.schema import session_holds, sessions
from adapters.log.transcoder import STATE_FORMAT, decode_state
from adapters.vault.holds import fold_holds
from domain.errors import CorruptEvent, CorruptState, PolicyInvalid, StoreError
from domain.policy import Applied, Versions
from domain.ports import Recorded
from domain.session import Created, Event, Held, Released, Session, evolve
from domain.timeline import next_due
from domain.use_cases.policies import holding, is_settled

PAGE = 2_000

Progress = Callable[[int, int], None]
"""(events read, events in all)."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. kind: `gap`, `altered`, `missing`, `extra` or `state`."""

    kind: str
    where: str
    what: str


class CorruptPolicy(StoreError):
    """A policy version in the database cannot be read."""

    def __str__(self) -> str:
        return "a policy in the database cannot be read: restore it from a backup"


def check_log(engines: Engines, log: SqlLog, now: int, progress: Progress) -> Iterator[Finding]:
    """Everything that is wrong, in the order of the log; reads only.

    now: by the clock of the sweeps; what is due for a session depends on it.
    """
    head, policies = log.head(), _in_use(log)
    expected = 1
    for page in _pages(log, head):
        if isinstance(page, CorruptEvent):
            yield Finding("altered", f"position {page.position}", page.why)
            expected = page.position + 1
            continue
        for one in page:
            if one.position != expected:
                yield Finding("gap", f"position {expected}", f"followed by {one.position}")
            expected = one.position + 1
        yield from _wrong_policies(engines, page)
        yield from _wrong_states(engines, _begun(page), policies, now)
        progress(page[-1].position, head)
    if expected <= head:
        yield Finding("gap", f"position {expected}", f"the log should reach {head}")
    yield from _wrong_head(engines)
    yield from _extra_sessions(engines)
    yield from _wrong_counters(engines)
    if (found := state_format(engines)) != STATE_FORMAT:
        what = f"it was written by another version of Lapse (format {found}, not {STATE_FORMAT})"
        yield Finding("state", "the folded state", what)


def _in_use(log: SqlLog) -> Mapping[str, Versions]:
    """Raises CorruptState if a policy cannot be read: without it nothing else can be judged."""
    try:
        return {name: holding(versions) for name, versions in log.policies().items()}
    except (PolicyInvalid, ValueError, TypeError, KeyError):
        raise CorruptPolicy from None


def rebuild_sessions(
    engines: Engines,
    log: SqlLog,
    policies: Mapping[str, Versions],
    now: int,
    progress: Progress,
) -> int:
    """Fold every session from its events and write its state; the number of live sessions.

    The service may go on meanwhile: each page's sessions are locked while they are folded.
    """
    head, live = log.head(), 0
    for page in _pages(log, head):
        if isinstance(page, CorruptEvent):
            raise page
        ids = _begun(page)
        with engines.write() as connection:
            _lock(connection, ids)
            presence = newest_presence(connection, ids)
            owners = _owners(connection, ids)
            rows, gone = [], []
            for id_, session in _folded(connection, ids).items():
                if session is None or session.erased_at is not None:
                    gone.append(id_)
                    continue
                last_seen = max(session.last_seen_at, presence.get(session.id, 0))
                due = next_due(session, policies[session.policy], last_seen, now)
                rows.append((session, due.at if due else None, owners.get(session.id)))
            save_sessions(connection, rows)
            bulk.delete_in(connection, sessions, "session_id", gone)
            bulk.delete_in(connection, session_holds, "session_id", ids)
            fold_holds(connection, _about_holds(connection, [r[0].id for r in rows if r[0].holds]))
            live += len(rows)
        progress(page[-1].position, head)
    for unknown in _unknown_sessions(engines):
        with engines.write() as connection:
            bulk.delete_in(connection, sessions, "session_id", unknown)
    with engines.write() as connection:
        _recount(connection)
        note_state_format(connection)
    return live


def _pages(log: SqlLog, head: int) -> Iterator[Sequence[Recorded] | CorruptEvent]:
    """The log page by page; an event that cannot be read takes the place of a page."""
    position, size = 0, PAGE
    while position < head:
        try:
            page = log.read(position, size, head)
        except CorruptEvent as error:
            if size > 1 and error.position > position + 1:
                size = error.position - position - 1  # first what stands before it
                continue
            yield error
            position, size = error.position, PAGE
            continue
        size = PAGE
        if not page:
            return
        yield page
        position = page[-1].position


def _begun(page: Sequence[Recorded]) -> list[str]:
    """The sessions that begin in this page."""
    return [one.event.originator_id for one in page if isinstance(one.event, Created)]


def _folded(connection: Connection, ids: Sequence[str]) -> dict[str, Session | None]:
    """What replay gives. Events are folded as they come, so that a long history takes no room."""
    folded: dict[str, Session | None] = dict.fromkeys(ids)
    query = f"{SELECT_EVENTS}session_id IN ({{ids}}) ORDER BY session_id, version"
    for row in bulk.stream_in(connection, query, ids):
        event = recorded(row).event
        folded[row[4]] = evolve(folded[row[4]], event)  # type: ignore[arg-type]
    return folded


def _about_holds(connection: Connection, ids: Sequence[str]) -> Iterator[Event]:
    query = (
        f"{SELECT_EVENTS}topic IN ('{Held.TOPIC}', '{Released.TOPIC}') "
        "AND session_id IN ({ids}) ORDER BY session_id, version"
    )
    found = (recorded(row).event for row in bulk.stream_in(connection, query, ids))
    return (event for event in found if isinstance(event, Event))


def _wrong_states(
    engines: Engines, ids: Sequence[str], policies: Mapping[str, Versions], now: int
) -> Iterator[Finding]:
    """Log and state are read under one snapshot, so that a running service changes neither."""
    with engines.snapshot() as connection:
        try:
            folded = _folded(connection, ids)
        except CorruptEvent as error:
            yield Finding("altered", f"position {error.position}", error.why)
            return
        except ValueError:
            yield Finding("altered", "the events of a session", "they do not follow each other")
            return
        query = (
            "SELECT session_id, version, state, policy, phase, created_at, last_seen_at, due_at, "
            "failures FROM sessions WHERE partition = 0 AND session_id IN ({ids})"
        )
        stored = {row[0]: row for row in bulk.select_in(connection, query, ids)}
        seen = newest_presence(connection, list(stored))
    for id_, session in folded.items():
        row = stored.get(id_)
        gone = session is None or session.erased_at is not None
        if row is None:
            if not gone:
                yield Finding("missing", f"session {id_}", "it has no folded state")
            continue
        if session is None or session.erased_at is not None:
            yield Finding("extra", f"session {id_}", "it is erased but has a folded state")
            continue
        try:
            equal = decode_state(row[0], row[1], bytes(row[2])) == session
        except CorruptState:
            equal = False
        if not equal:
            yield Finding("state", f"session {id_}", "the folded state is not what replay gives")
            continue
        expected = (session.policy, session.phase, session.created_at, session.last_seen_at)
        if tuple(row[3:7]) != expected:
            yield Finding("state", f"session {id_}", "its columns are not what its state says")
        elif session.policy not in policies:
            yield Finding("missing", f"policy {session.policy}", "sessions live under it")
        elif row[8] == 0 and is_settled(policies[session.policy], now):
            last_seen = max(session.last_seen_at, seen.get(id_, 0))
            due = next_due(session, policies[session.policy], last_seen, now)
            if due is not None and (row[7] is None or row[7] > due.at):
                yield Finding("state", f"session {id_}", "its deadline is stored too late, or not")


def _wrong_policies(engines: Engines, page: Sequence[Recorded]) -> Iterator[Finding]:
    """Versions of policies that entered the log in this page and are not kept as they did."""
    applied = [one.event for one in page if isinstance(one.event, Applied)]
    if not applied:
        return
    query = (
        "SELECT name, version, effective_from, document FROM policies "
        "WHERE partition = 0 AND name IN ({ids})"
    )
    with engines.read() as connection:
        rows = bulk.select_in(connection, query, sorted({event.policy for event in applied}))
    kept = {(row[0], row[1]): (row[2], bytes(row[3])) for row in rows}
    for event in applied:
        document = orjson.dumps(event.document, option=orjson.OPT_SORT_KEYS)
        version = (event.policy, event.originator_version)
        if kept.get(version) != (event.effective_at, document):
            what = "it is not kept as it entered the log"
            yield Finding("altered", f"policy {event.policy}, version {version[1]}", what)


def _wrong_head(engines: Engines) -> Iterator[Finding]:
    """Under one snapshot: a head that lags would hide what stands behind it."""
    with engines.snapshot() as connection:
        head = connection.exec_driver_sql("SELECT max(position) FROM heads").scalar() or 0
        last = connection.exec_driver_sql("SELECT max(position) FROM events").scalar() or 0
    if last > head:
        yield Finding("gap", f"position {head}", f"the head stands there, events reach {last}")


def _wrong_counters(engines: Engines) -> Iterator[Finding]:
    """What counters of limits say, beside what the sessions say."""
    with engines.snapshot() as connection:
        query = "SELECT scope, used FROM counters WHERE partition = 0 AND used <> 0"
        kept = {row[0]: row[1] for row in connection.exec_driver_sql(query)}
        counted = {row[0]: row[1] for row in connection.exec_driver_sql(_COUNTED)}
    for scope in sorted(kept.keys() | counted.keys()):
        if kept.get(scope, 0) != counted.get(scope, 0):
            # The scope of an owner names their subject: how many are wrong is enough.
            where = scope.rpartition(":")[0] if scope.startswith("owner:") else scope
            unit = "bytes" if scope.startswith("bytes:") else "live sessions"
            what = f"it says {kept.get(scope, 0)} {unit}, there are {counted.get(scope, 0)}"
            yield Finding("state", f"counter {where}", what)


_LIVE = "FROM sessions WHERE partition = 0 AND phase <> 'expired'"
_OF_POLICY = f"SELECT 'policy:' || policy AS scope, count(*) AS used {_LIVE} GROUP BY policy"
_OF_OWNER = (
    "SELECT 'owner:' || policy || ':' || owner_subject AS scope, count(*) AS used "
    f"{_LIVE} AND owner_subject IS NOT NULL GROUP BY policy, owner_subject"
)
_OF_BYTES = (
    "SELECT 'bytes:' || policy AS scope, sum(stored_bytes) AS used FROM sessions "
    "WHERE partition = 0 AND stored_bytes > 0 GROUP BY policy"
)
_COUNTED = f"{_OF_POLICY} UNION ALL {_OF_OWNER} UNION ALL {_OF_BYTES}"


def _extra_sessions(engines: Engines) -> Iterator[Finding]:
    for ids in _unknown_sessions(engines):
        for id_ in ids:
            yield Finding("extra", f"session {id_}", "the log knows nothing of it")


def _unknown_sessions(engines: Engines) -> Iterator[Sequence[str]]:
    """Folded state without events, page by page in order of id."""
    mark = "?" if engines.dialect == "sqlite" else "%s"
    query = (
        f"SELECT s.session_id FROM sessions s WHERE s.partition = 0 AND s.session_id > {mark} "
        "AND NOT EXISTS "
        "(SELECT 1 FROM events e WHERE e.partition = 0 AND e.session_id = s.session_id) "
        f"ORDER BY s.session_id LIMIT {PAGE}"
    )
    after = ""
    while True:
        with engines.read() as connection:
            ids = [row[0] for row in connection.exec_driver_sql(query, (after,))]
        if not ids:
            return
        yield ids
        after = ids[-1]


def _lock(connection: Connection, ids: Sequence[str]) -> None:
    lock = "" if connection.dialect.name == "sqlite" else " ORDER BY session_id FOR UPDATE"
    query = f"SELECT session_id FROM sessions WHERE partition = 0 AND session_id IN ({{ids}}){lock}"
    bulk.select_in(connection, query, ids)


def _owners(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    query = (
        "SELECT session_id, subject FROM subject_index "
        "WHERE partition = 0 AND role = 'owner' AND session_id IN ({ids})"
    )
    return {row[0]: row[1] for row in bulk.select_in(connection, query, ids)}


def _recount(connection: Connection) -> None:
    """Set every counter to what the sessions say.

    The counters are locked first: whoever changes one waits, so none is counted twice.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT scope FROM counters WHERE partition = 0 ORDER BY scope FOR UPDATE"
        )
    connection.exec_driver_sql("UPDATE counters SET used = 0 WHERE partition = 0")
    for counted in (_OF_POLICY, _OF_OWNER):
        connection.exec_driver_sql(
            f"INSERT INTO counters (partition, scope, used) SELECT 0, scope, used "
            f"FROM ({counted}) AS c WHERE true "
            "ON CONFLICT (partition, scope) DO UPDATE SET used = excluded.used"
        )
    connection.exec_driver_sql(
        "DELETE FROM counters WHERE partition = 0 AND used = 0 AND substr(scope, 1, 6) = 'owner:'"
    )
