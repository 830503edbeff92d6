"""A privacy office on a database: rooms with people in them, requests and holds."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from adapters.keyring.file_keyring import FileKeyring, create_key_file
from adapters.keyring.keyring import Keyring
from adapters.log.event_log import SqlLog
from adapters.vault.requests import SqlHolds, SqlRequests
from adapters.vault.rows import SqlVault
from adapters.vault.summaries import AggregateSummaries
from adapters.wiring import living_keks
from domain.erasure import Reach
from domain.facts import Verification
from domain.policy import Applied, Shared, parse, stream_of, to_document
from domain.ports import RequestRow, ScanResult, SweepCount
from domain.use_cases.erasure_requests import ErasureRequests
from domain.use_cases.holds import Holds
from domain.use_cases.items import Content, Items
from domain.use_cases.policies import PolicyBook
from domain.use_cases.sessions import Sessions
from domain.use_cases.sweep import sweep
from tests.acceptance import databases
from tests.contracts.stores import SqlStore

TEN = 1_793_527_200_000_000
"""1 November 2026, 10:00 UTC."""
OFFICER = "officer"
APP = "application"

POLICIES = """
[policy.room]
recover = "2h"
rules = [
  { since = "last_seen", after = "1h", do = "expire", name = "idle" },
  { since = "expired", after = "24h", do = "erase" },
]
[policy.lead]
limits = { per_owner = 2 }
rules = [
  { since = "created", after = "30d", do = "expire" },
  { since = "expired", after = "1d", do = "erase" },
]
"""
for _shared in Shared:
    POLICIES += f"""
[policy.{_shared}]
shared = "{_shared}"
summary = {{ total = "sum(x)", frames = "count()", average = "mean(x)" }}
rules = [
  {{ since = "created", after = "5h", do = "summarize" }},
  {{ since = "summarized", after = "30h", do = "erase" }},
]
"""


class Scan:
    """What a scan answers. asked: what it was asked about."""

    def __init__(self, *, ok: bool = True) -> None:
        self.ok = ok
        self.asked: list[Reach] = []

    def verify(self, reach: Reach, executed_at: int, now: int) -> ScanResult:
        self.asked.append(reach)
        return ScanResult(self.ok, {"vault": "clean" if self.ok else "residue"})


@dataclass
class Office:
    """Lapse as a privacy officer and an application use it. scan: what reads the stores back."""

    store: SqlStore
    keyring: Keyring
    policies: PolicyBook
    sessions: Sessions
    items: Items
    requests: ErasureRequests
    holds: Holds
    requested: SqlRequests
    scan: Scan | None = field(default=None)

    # -- what people do

    def room(self, *people: str, policy: str = "room", **more: Any) -> tuple[str, dict[str, str]]:
        """A session with these people in it, and their tokens."""
        session = self.sessions.create(policy, TEN, APP, **more).id
        return session, {name: self.sessions.join(session, name, TEN, APP) for name in people}

    def put(
        self, session: str, records: Sequence[Mapping[str, Any]], *tokens: str, at: int = TEN
    ) -> str:
        """Store records about these people (nobody in particular without); the item's id."""
        plaintext = bytearray(orjson.dumps(records))
        content = Content("metrics", plaintext, participants=tokens, records=records)
        return self.items.store(session, content, at, APP).head.item_id

    def read(self, session: str, item: str, at: int = TEN) -> Any:
        return orjson.loads(self.items.get(session, item, at)[1])

    def erase(self, name: str, now: int = TEN + 1) -> RequestRow:
        """Somebody asks, and it is tried at once."""
        row = self.requests.of_subject(name, Verification.CONTROLLER, now, OFFICER)
        return self.requests.advance(row.request.id, now)

    def sweep(self, now: int) -> SweepCount:
        return sweep(self.store.log, self.policies.refresh(), now, "sweeper")

    # -- what is there

    def told(self, stream: str) -> list[str]:
        """What the log says of a session or a request, by name."""
        return [one.event.TOPIC.split(".")[1] for one in self.store.log.history(stream)]

    def rows(self, table: str, session: str) -> list[tuple[Any, ...]]:
        """Every row of a session in a table, bytes and all."""
        query = f"SELECT * FROM {table} WHERE session_id = ?"
        found = self.store.execute(query, session)
        return sorted((tuple(map(_plain, row)) for row in found), key=repr)

    def people(self) -> Mapping[str, int]:
        """Rows about people, in tables that have any; those of requests left out."""
        requests = "(SELECT request_id FROM requests)"
        counts = {}
        for table in databases.PEOPLE:
            where = {
                "data_keys": f"WHERE subject NOT IN {requests}",
                "subject_keys": f"WHERE subject NOT IN {requests}",
            }.get(table, "")
            counts[table] = self.store.execute(f"SELECT count(*) FROM {table} {where}")[0][0]
        return {table: count for table, count in counts.items() if count}


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def opened_office(
    store: SqlStore, folder: Path, scan: Scan | None = None, keyring: Keyring | None = None
) -> Office:
    """The office over an empty store. keyring: made in the folder unless there is one."""
    for name, policy in parse(POLICIES).items():
        applied = Applied(stream_of(name), 1, 0, name, "operator", to_document(policy))
        store.log.apply_policy(applied, 0)
    keyring = keyring or FileKeyring(create_key_file(folder / "keys", "store", TEN))
    store.log._erased = keyring.forget_subjects  # type: ignore[attr-defined]
    return another_process(store, keyring, scan)


def another_process(store: SqlStore, keyring: Keyring, scan: Scan | None = None) -> Office:
    """As another process of the same installation works, or this one after a restart."""
    policies = PolicyBook(store.log)
    policies.refresh()
    assert isinstance(store.log, SqlLog)
    vault = SqlVault(store.engines, store.log.lookups)
    sessions = Sessions(store.log, vault, keyring, policies)
    requested = SqlRequests(store.engines, store.log)
    summaries = AggregateSummaries()
    requests = ErasureRequests(
        requested,
        sessions,
        store.log,
        vault,
        keyring,
        policies,
        summaries,
        keks=lambda: living_keks(keyring),
        verifier=scan,
        order=random.Random(7),
    )
    return Office(
        store,
        keyring,
        policies,
        sessions,
        Items(vault, keyring, policies, sessions, summaries),
        requests,
        Holds(SqlHolds(store.engines, store.log), requested, sessions, keyring),
        requested,
        scan,
    )
