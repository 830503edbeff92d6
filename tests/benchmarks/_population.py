"""Fills a PostgreSQL with sessions at ten times the speed of creating them one after the other.

Each session is what `lapse ingest` leaves: created and joined by one participant, its state folded,
its presence known, its deadline stored. The rows are those the library code would write: bytes are
encoded by the transcoder and only times and tokens are put in by SQL. `db check` finds nothing.
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


def populate(lapse: Lapse, sessions: int, first_at: int, last_at: int) -> None:
    """Add `sessions` that began between these times, evenly spread, and were not seen since."""
    created, joined, session = _life()
    due_at = advance(session, lapse.policies.versions(POLICY), _AT, _AT).next_at
    assert due_at is not None
    values = {
        "count": sessions,
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


def _life() -> tuple[Event, Event, Session]:
    """Both events and the state that they fold into, to be written with other times and tokens."""
    [created] = create(None, "", POLICY, 1, _AT, ACTOR)
    session = evolve(None, created)
    [joined] = session.join(_TOKEN, _AT, ACTOR, present=False)
    return created, joined, evolve(session, joined)


_NEW = (
    "CREATE TEMPORARY TABLE new AS SELECT n, md5(%(base)s || '/' || n) AS session_id, "
    "md5(%(base)s || '/token/' || n) AS token, %(first)s + %(span)s * n / %(count)s AS at "
    "FROM generate_series(0::bigint, %(count)s - 1) AS n"
)
_NONCE = "decode(md5(random()::text), 'hex')"
_EVENTS = (
    "INSERT INTO events (partition, position, session_id, version, topic, effective_at, "
    "recorded_at, nonce, state) "
    f"SELECT {PARTITION}, %(base)s + 2 * n + e.version, session_id, e.version, e.topic, at, at, "
    f"{_NONCE}, convert_to(replace(e.state, %(token)s, token), 'UTF8') FROM new, "
    "(VALUES (1, %(created_topic)s, %(created)s), (2, %(joined_topic)s, %(joined)s)) "
    "AS e(version, topic, state) ORDER BY n, e.version"
)
_SESSIONS = (
    "INSERT INTO sessions (partition, session_id, version, policy, phase, created_at, "
    "last_seen_at, due_at, failures, state) "
    f"SELECT {PARTITION}, session_id, 2, %(policy)s, 'active', at, at, at + %(idle)s, 0, "
    "convert_to(replace(%(state)s, %(at)s, at::text), 'UTF8') FROM new ORDER BY n"
)
_PRESENCE = (
    "INSERT INTO presence (partition, session_id, token, joined_at, last_seen_at) "
    f"SELECT {PARTITION}, session_id, token, at, at FROM new ORDER BY n"
)
_HEAD = f"UPDATE heads SET position = position + 2 * %(count)s WHERE partition = {PARTITION}"
_COUNTER = (
    f"INSERT INTO counters (partition, scope, used) VALUES ({PARTITION}, %(scope)s, %(count)s) "
    "ON CONFLICT (partition, scope) DO UPDATE SET used = counters.used + excluded.used"
)
