"""Fills a PostgreSQL with sessions at ten times the speed of creating them one after the other.

Each session is what `lapse ingest` leaves: created and joined by participants, its state folded,
their presence known, its deadline stored. The rows are those the library code would write: bytes
are encoded by the transcoder and only times and tokens are put in by SQL. `db check` finds nothing.
"""

from adapters.log.event_table import PARTITION
from adapters.log.transcoder import encode_event, encode_state
from adapters.wiring import Lapse
from domain.ports import policy_scope
from domain.session import Created, Event, Joined, Session, create, evolve
from domain.timeline import advance
from tests.benchmarks._ours import ACTOR, POLICY

_TOKEN = "0" * 32
_AT = 1_000_000_000_000_000


def populate(
    lapse: Lapse, sessions: int, first_at: int, last_at: int, participants: int = 1
) -> None:
    """Add `sessions` that began between these times, evenly spread, and were not seen since.

    participants: of each session.
    """
    created, joined, session = _life(participants)
    due_at = advance(session, lapse.policies.versions(POLICY), _AT, _AT).next_at
    assert due_at is not None
    values = {
        "count": sessions,
        "participants": participants,
        "base": lapse.log.head(),
        "first": first_at,
        "span": last_at - first_at,
        "policy": POLICY,
        "idle": due_at - _AT,
        "created": encode_event(created).decode(),
        "joined": encode_event(joined).decode(),
        "state": encode_state(session).decode(),
        "at": str(_AT),
        "token": _TOKEN,
        "created_topic": Created.TOPIC,
        "joined_topic": Joined.TOPIC,
        "scope": policy_scope(POLICY),
    }
    with lapse.engines.write() as connection:
        for statement in (_NEW, _EVENTS, _SESSIONS, _PRESENCE, _HEAD, _COUNTER, "DROP TABLE new"):
            connection.exec_driver_sql(statement, values)


def settle(lapse: Lapse) -> None:
    """What autovacuum would do soon, done now, so that it does not fall into a measurement."""
    with lapse.engines.autocommit() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _life(participants: int) -> tuple[Event, Event, Session]:
    """An event of each kind and the state that all fold into, to be written with other times and
    tokens."""
    [created] = create(None, "", POLICY, 1, _AT, ACTOR)
    session = evolve(None, created)
    for _ in range(participants):
        [joined] = session.join(_TOKEN, _AT, ACTOR, present=False)
        session = evolve(session, joined)
    return created, joined, session


_NEW = (
    "CREATE TEMPORARY TABLE new AS SELECT n, md5(%(base)s || '/' || n) AS session_id, "
    "%(first)s + %(span)s * n / %(count)s AS at "
    "FROM generate_series(0::bigint, %(count)s - 1) AS n"
)
_NONCE = "decode(md5(random()::text), 'hex')"
_PERSON = "md5(%(base)s || '/token/' || n || '/' || k)"
_EVENTS = (
    "INSERT INTO events (partition, position, session_id, version, topic, effective_at, "
    "recorded_at, nonce, state, leaf) "
    f"SELECT {PARTITION}, %(base)s + (1 + %(participants)s) * n + k + 1, session_id, k + 1, "
    "CASE k WHEN 0 THEN %(created_topic)s ELSE %(joined_topic)s END, at, at, "
    f"{_NONCE}, convert_to(replace(CASE k WHEN 0 THEN %(created)s ELSE %(joined)s END, %(token)s, "
    f"{_PERSON}), 'UTF8'), sha256({_NONCE}) "
    "FROM new, generate_series(0, %(participants)s) AS k ORDER BY n, k"
)
_SESSIONS = (
    "INSERT INTO sessions (partition, session_id, version, policy, phase, created_at, "
    "last_seen_at, due_at, failures, state) "
    f"SELECT {PARTITION}, session_id, 1 + %(participants)s, %(policy)s, 'active', at, at, "
    "at + %(idle)s, 0, convert_to(replace(%(state)s, %(at)s, at::text), 'UTF8') FROM new ORDER BY n"
)
_PRESENCE = (
    "INSERT INTO presence (partition, session_id, token, joined_at, last_seen_at) "
    f"SELECT {PARTITION}, session_id, {_PERSON}, at, at "
    "FROM new, generate_series(1, %(participants)s) AS k ORDER BY n, k"
)
_HEAD = (
    "UPDATE heads SET position = position + (1 + %(participants)s) * %(count)s "
    f"WHERE partition = {PARTITION}"
)
_COUNTER = (
    f"INSERT INTO counters (partition, scope, used) VALUES ({PARTITION}, %(scope)s, %(count)s) "
    "ON CONFLICT (partition, scope) DO UPDATE SET used = counters.used + excluded.used"
)
