"""What stands in the log afterwards, compared with what was acknowledged and with itself."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from adapters.log import bulk
from adapters.log.checks import check_log
from adapters.wiring import Lapse
from domain.ports import Recorded
from domain.session import By, Created, Erased, Event, Expired, Recovered, Scope
from tests.benchmarks._command import say
from tests.benchmarks._report import Row, exactly
from tests.torture._load import Counted

Acknowledged = set[tuple[str, int]]
"""(session, its version after the append)."""


def acknowledged_in(messages: Iterable[Any]) -> Acknowledged:
    """What processes of `_load` told, heartbeats apart."""
    return {one for one in messages if not isinstance(one, Counted)}


def missing_of(lapse: Lapse, acknowledged: Acknowledged) -> Acknowledged:
    """Those of these that are not in the log."""
    ids = sorted({session_id for session_id, _ in acknowledged})
    query = "SELECT session_id, version FROM events WHERE partition = 0 AND session_id IN ({ids})"
    with lapse.engines.read() as connection:
        recorded = {(row[0], row[1]) for row in bulk.select_in(connection, query, ids)}
    return acknowledged - recorded


def kept(what: str, acknowledged: Acknowledged, missing: Acknowledged) -> Row:
    name = f"{what}: acknowledged events in the log (peer: acknowledged)"
    return exactly(name, len(acknowledged) - len(missing), len(acknowledged))


def soundness(what: str, lapse: Lapse) -> Iterator[Row]:
    """No gap, no duplicate, folded state equal to replay, counters as the sessions say."""
    with lapse.engines.snapshot() as connection:
        [(events, head)] = connection.exec_driver_sql(_EVENTS_AND_HEAD).fetchall()
        counted = dict(map(tuple, connection.exec_driver_sql(_COUNTED).fetchall()))
        alive = dict(map(tuple, connection.exec_driver_sql(_ALIVE).fetchall()))
    yield exactly(f"{what}: events (peer: the head's position)", events, head)
    wrong = sum(int(abs(counted.get(scope, 0) - alive.get(scope, 0))) for scope in counted | alive)
    yield exactly(f"{what}: sessions and bytes that the counters miscount (peer: none)", wrong, 0)
    findings = list(check_log(lapse.engines, lapse.log, lapse.clock(), lambda *_: None))
    for finding in findings[:10]:
        say(f"  {finding}")
    name = f"{what}: gaps, events altered, states unlike replay (peer: none)"
    yield exactly(name, len(findings), 0)


_EVENTS_AND_HEAD = "SELECT (SELECT count(*) FROM events), position FROM heads"
_COUNTED = "SELECT scope, used FROM counters WHERE used <> 0"
_ALIVE = (
    "SELECT 'policy:' || policy, count(*) FROM sessions WHERE phase <> 'expired' GROUP BY policy "
    "UNION ALL SELECT 'owner:' || policy || ':' || owner_subject, count(*) FROM sessions "
    "WHERE phase <> 'expired' AND owner_subject IS NOT NULL GROUP BY policy, owner_subject "
    "UNION ALL SELECT 'bytes:' || policy, sum(stored_bytes) FROM sessions "
    "WHERE stored_bytes > 0 GROUP BY policy"
)
"""What the counters must be, as `db rebuild sessions` makes them."""


def whole_log(lapse: Lapse) -> Iterator[Recorded]:
    position = 0
    while page := lapse.log.read(position, 2_000):
        yield from page
        position = page[-1].position


@dataclass
class Lives:
    """What the log as a whole says, read in its order.

    ended: expiries and final erasures; again: those of a session that had ended so already. most:
    the greatest number of live sessions per policy at any position. last_seen: on what a rule
    decided that a session expires.
    """

    ended: int = 0
    again: int = 0
    most: Counter[str] = field(default_factory=Counter)
    expired: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    recovered: set[str] = field(default_factory=set)
    last_seen: dict[str, int] = field(default_factory=dict)
    _alive: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, lapse: Lapse) -> "Lives":
        lives = cls()
        for one in whole_log(lapse):
            if isinstance(one.event, Event):
                lives.follow(one.event)
        return lives

    def follow(self, event: Event) -> None:
        session_id = event.originator_id
        if isinstance(event, Created):
            self._count(event.policy, 1)
        elif isinstance(event, Expired):
            self._end(session_id, self.expired)
            if event.rule not in set(By):
                self.last_seen[session_id] = event.last_seen
            self._count(event.policy, -1)
        elif isinstance(event, Recovered):
            self.expired.discard(session_id)
            self.recovered.add(session_id)
            self._count(event.policy, 1)
        elif isinstance(event, Erased) and event.scope is Scope.EVERYTHING:
            self._end(session_id, self.erased)
            self._count(event.policy, -1 if session_id not in self.expired else 0)

    def _end(self, session_id: str, kind: set[str]) -> None:
        self.ended += 1
        self.again += session_id in kind or session_id in self.erased
        kind.add(session_id)

    def _count(self, policy: str, change: int) -> None:
        self._alive[policy] += change
        self.most[policy] = max(self.most[policy], self._alive[policy])
