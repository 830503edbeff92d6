"""Live sessions: who is here, what is due. Queries over the folded state beside the log.

The folded state is what the last event said. Between two sweeps time goes on, so every row that is
overdue passes `timeline` before it is listed or counted: nothing is shown that has ended, even when
no sweeper runs. Run several of these queries in one snapshot if they must agree.

`policies` are all versions of every policy; `decode_states` reads the stored states of a page.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Select,
    SmallInteger,
    Table,
    Text,
    and_,
    func,
    or_,
    select,
)

from domain.errors import PolicyUnknown
from domain.policy import Do, Versions
from domain.ports import PARTITION
from domain.session import Phase, Session
from domain.timeline import Forecast, advance, forecast, next_due
from projections.tables import marked

MOST = 1_000
"""Sessions that one page holds at most, and rows that are read at once."""

Policies = Mapping[str, Versions]
DecodeStates = Callable[[Sequence[tuple[str, int, bytes]]], Sequence[Session]]
"""(session id, version, stored state) of a page of rows -> their sessions, in the same order."""

# What is read here of the tables of the log, which belong to adapters/log/schema.py.
_log = MetaData()
_sessions = Table(
    "sessions",
    _log,
    Column("partition", SmallInteger, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("version", Integer),
    Column("policy", Text),
    Column("phase", Text),
    Column("last_seen_at", BigInteger),
    Column("due_at", BigInteger),
    Column("stored_bytes", BigInteger),
    Column("state", LargeBinary),
)
_presence = Table(
    "presence",
    _log,
    Column("partition", SmallInteger, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("token", Text, primary_key=True),
    Column("last_seen_at", BigInteger),
)


# -- listing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """A session as it is at the instant asked for, swept or not, and what awaits it.

    last_seen: the newest presence. participants: how many ever joined it.
    """

    session: Session
    last_seen: int
    forecast: Forecast
    participants: int


@dataclass(frozen=True)
class Page:
    """Some sessions, and behind which id the next page begins (None: there is none)."""

    sessions: tuple[Listed, ...]
    next: str | None


def live_sessions(
    connection: Connection,
    policies: Policies,
    decode_states: DecodeStates,
    now: int,
    *,
    shown: Collection[str] | None = None,
    phase: Phase | None = None,
    after: str = "",
    limit: int = 100,
) -> Page:
    """Sessions that are not erased at `now`, in order of id.

    shown: the policies of which to list them (None: of all). phase: as it is at `now`: what is
    overdue to expire is listed as expired. after: `Page.next` of the page before.
    Raises PolicyUnknown, CorruptState.
    """
    limit = min(limit, MOST)
    pages = _by_id(connection, (*_of_policies(shown), *_can_be(phase, now)), after, limit + 1)
    found: list[Listed] = []
    for row, stored, last_seen in _read(pages, decode_states):
        versions = _versions(policies, stored)
        session = advance(stored, versions, last_seen, now).session
        if session.phase is phase or (phase is None and session.phase is not Phase.ERASED):
            ahead = forecast(session, versions, last_seen, now)
            found.append(Listed(session, last_seen, ahead, row.participants))
        if len(found) > limit:
            break
    more = len(found) > limit
    return Page(tuple(found[:limit]), found[limit - 1].session.id if more else None)


def _of_policies(shown: Collection[str] | None) -> tuple[ColumnElement[bool], ...]:
    return (_sessions.c.policy.in_(shown),) if shown is not None else ()


def _can_be(phase: Phase | None, now: int) -> tuple[ColumnElement[bool], ...]:
    """Which rows may be in that phase at `now`. Time alone only ever expires or erases."""
    if phase is None:
        return ()
    if phase is Phase.EXPIRED:
        return (or_(_sessions.c.phase == phase, _sessions.c.due_at <= now),)
    return (_sessions.c.phase == phase,)


def beginning_with(connection: Connection, beginning: str, limit: int) -> Sequence[str]:
    """Ids of live sessions that begin so. beginning: hexadecimal digits."""
    # "g" follows every digit of an id, under every collation.
    query = select(_sessions.c.session_id).where(
        _sessions.c.partition == PARTITION,
        _sessions.c.session_id >= beginning,
        _sessions.c.session_id < beginning + "g",
    )
    return connection.execute(query.limit(limit)).scalars().all()


# -- due --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Due:
    """What a sweep would do first to a session, and when that was due."""

    session: Session
    last_seen: int
    at: int
    do: Do
    rule: str
    policy_version: int


@dataclass(frozen=True)
class DuePage:
    """Some of them, and where the next page begins (None: there is none)."""

    sessions: tuple[Due, ...]
    next: str | None


def due(
    connection: Connection,
    policies: Policies,
    decode_states: DecodeStates,
    now: int,
    *,
    shown: Collection[str] | None = None,
    after: str | None = None,
    limit: int = 100,
) -> DuePage:
    """Sessions for which something is due by `now`, in order of their stored deadline, which is
    never later than the instant itself.

    What was seen meanwhile, or is held, is not due and is left out. shown: as in `live_sessions`.
    after: `DuePage.next` of the page before.
    Raises PolicyUnknown, CorruptState; ValueError if `after` comes from nowhere.
    """
    limit = min(limit, MOST)
    found: list[Due] = []
    end = None
    pages = _by_deadline(connection, now, _place(after), limit + 1, _of_policies(shown))
    for row, session, last_seen in _read(pages, decode_states):
        next_ = next_due(session, _versions(policies, session), last_seen, now)
        if next_ is None or next_.at > now:
            continue
        if len(found) == limit:
            return DuePage(tuple(found), end)
        rule, version = next_.rule, next_.version.number
        found.append(Due(session, last_seen, next_.at, rule.do, rule.name, version))
        end = f"{row.due_at:x}-{session.id}"
    return DuePage(tuple(found), None)


def _place(after: str | None) -> tuple[int, str] | None:
    if after is None:
        return None
    deadline, _, session_id = after.partition("-")
    return marked(deadline), session_id


def overdue(connection: Connection, now: int, policy: str | None = None) -> int:
    """How many sessions a sweep would look at: their stored deadline has passed."""
    query = select(func.count()).where(
        _sessions.c.partition == PARTITION,
        _sessions.c.due_at <= now,
        *_of_policies([policy] if policy is not None else None),
    )
    return int(connection.execute(query).scalar_one())


# -- counting ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """How many sessions there are, and who is in them.

    phases: sessions by phase; those erased are gone and not counted. participants: everybody who
    ever joined one of them. last_activity: the newest presence; None without sessions.
    stored_bytes: what they store, sealed.
    """

    phases: Mapping[Phase, int] = field(default_factory=dict)
    participants: int = 0
    last_activity: int | None = None
    stored_bytes: int = 0

    @property
    def total(self) -> int:
        return sum(self.phases.values())

    @property
    def inactive(self) -> int:
        """Expired, and not removed yet."""
        return self.phases.get(Phase.EXPIRED, 0)

    @property
    def active(self) -> int:
        return self.total - self.inactive

    @property
    def participants_per_session(self) -> float:
        return self.participants / self.total if self.total else 0.0

    def __add__(self, other: "Statistics") -> "Statistics":
        phases = dict(self.phases)
        for phase, count in other.phases.items():
            phases[phase] = phases.get(phase, 0) + count
        activity = [at for at in (self.last_activity, other.last_activity) if at is not None]
        return Statistics(
            phases,
            self.participants + other.participants,
            max(activity, default=None),
            self.stored_bytes + other.stored_bytes,
        )


def statistics(
    connection: Connection, policies: Policies, decode_states: DecodeStates, now: int
) -> Mapping[str, Statistics]:
    """By policy, as it is at `now`; their sum is that of the whole service.

    What is not overdue is counted by the database, the rest row by row with bounded memory. Exact
    once the sessions of a changed policy are re-armed. Raises PolicyUnknown, CorruptState.
    """
    counted: dict[str, Statistics] = {}
    for policy, found in _settled(connection, now):
        counted[policy] = counted.get(policy, Statistics()) + found
    overdue = _by_deadline(connection, now, None, MOST)
    for row, stored, last_seen in _read(overdue, decode_states):
        session = advance(stored, _versions(policies, stored), last_seen, now).session
        if session.phase is not Phase.ERASED:
            one = Statistics({session.phase: 1}, row.participants, last_seen, session.stored_bytes)
            counted[session.policy] = counted.get(session.policy, Statistics()) + one
    return counted


def _settled(connection: Connection, now: int) -> Iterator[tuple[str, Statistics]]:
    """Sessions for which nothing is due, counted by policy and phase."""
    query = (
        select(
            _sessions.c.policy,
            _sessions.c.phase,
            func.count(),
            func.sum(_participants()),
            func.max(_sessions.c.last_seen_at),
            func.max(_newest_presence()),
            func.sum(_sessions.c.stored_bytes),
        )
        .where(
            _sessions.c.partition == PARTITION,
            or_(_sessions.c.due_at.is_(None), _sessions.c.due_at > now),
        )
        .group_by(_sessions.c.policy, _sessions.c.phase)
    )
    for policy, phase, count, participants, said, seen, stored in connection.execute(query):
        newest = max(said, seen or said)
        yield policy, Statistics({Phase(phase): count}, int(participants), newest, int(stored))


# -- rows -------------------------------------------------------------------------------------


def _newest_presence() -> ColumnElement[int | None]:
    return select(func.max(_presence.c.last_seen_at)).where(*_of_session()).scalar_subquery()


def _participants() -> ColumnElement[int]:
    return select(func.count()).select_from(_presence).where(*_of_session()).scalar_subquery()


def _of_session() -> tuple[ColumnElement[bool], ...]:
    return (
        _presence.c.partition == _sessions.c.partition,
        _presence.c.session_id == _sessions.c.session_id,
    )


def _rows() -> Select[Any]:
    return select(
        _sessions.c.session_id,
        _sessions.c.version,
        _sessions.c.due_at,
        _sessions.c.state,
        _newest_presence().label("presence"),
        _participants().label("participants"),
    ).where(_sessions.c.partition == PARTITION)


def _by_id(
    connection: Connection, conditions: tuple[ColumnElement[bool], ...], after: str, chunk: int
) -> Iterator[Sequence[Row[Any]]]:
    """All rows behind an id, in chunks."""
    query = _rows().where(*conditions).order_by(_sessions.c.session_id).limit(chunk)
    rows = connection.execute(query.where(_sessions.c.session_id > after)).fetchall()
    while rows:
        yield rows
        after = rows[-1].session_id
        rows = connection.execute(query.where(_sessions.c.session_id > after)).fetchall()


def _by_deadline(
    connection: Connection,
    now: int,
    after: tuple[int, str] | None,
    chunk: int,
    conditions: tuple[ColumnElement[bool], ...] = (),
) -> Iterator[Sequence[Row[Any]]]:
    """All rows whose stored deadline has passed, in chunks."""
    deadline, session_id = _sessions.c.due_at, _sessions.c.session_id
    query = _rows().where(deadline <= now, *conditions).order_by(deadline, session_id).limit(chunk)
    while True:
        rest = query
        if after is not None:
            behind = or_(deadline > after[0], session_id > after[1])
            rest = query.where(and_(deadline >= after[0], behind))
        rows = connection.execute(rest).fetchall()
        yield rows
        if len(rows) < chunk:
            return
        after = (rows[-1].due_at, rows[-1].session_id)


def _read(
    pages: Iterator[Sequence[Row[Any]]], decode_states: DecodeStates
) -> Iterator[tuple[Row[Any], Session, int]]:
    """Each row with its session, and when somebody was last seen in it."""
    for rows in pages:
        sessions = decode_states([(row.session_id, row.version, bytes(row.state)) for row in rows])
        for row, session in zip(rows, sessions, strict=True):
            yield row, session, max(session.last_seen_at, row.presence or 0)


def _versions(policies: Policies, session: Session) -> Versions:
    versions = policies.get(session.policy)
    if not versions:
        raise PolicyUnknown(session.policy, sorted(policies))
    return versions
