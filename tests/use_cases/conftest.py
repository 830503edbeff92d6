"""An application on every kind of store: what producers and operators do, without a process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.keyring.file_keyring import FileKeyring, create_key_file
from adapters.vault.summaries import AggregateSummaries
from domain.policy import Applied, parse, stream_of, to_document
from domain.ports import SweepCount
from domain.session import Event
from domain.use_cases.items import Content, Items, StoredItem
from domain.use_cases.policies import PolicyBook
from domain.use_cases.presence import see
from domain.use_cases.sessions import Sessions
from domain.use_cases.sweep import sweep
from tests.acceptance import databases
from tests.contracts.conftest import store  # noqa: F401 - the fixture, for every test here
from tests.contracts.stores import Store

POLICIES = """
[policy.room]
recover = "2h"
limits = { concurrent = 3 }
rules = [
  { since = "last_seen", after = "50m", do = "warn" },
  { since = "last_seen", after = "1h", do = "expire", name = "idle" },
  { since = "expired", after = "24h", do = "erase" },
]
[policy.lead]
limits = { per_owner = 2, on_exceed = "expire-oldest" }
rules = [
  { since = "created", after = "30d", do = "expire" },
  { since = "expired", after = "1d", do = "erase" },
]
[policy.crowd]
limits = { concurrent = 2, per_owner = 1, on_exceed = "expire-oldest" }
rules = [{ since = "created", after = "30d", do = "expire" }]
[policy.coach]
limits = { session_bytes = "4KB", total_bytes = "8KB", result_bytes = "100B" }
summary = { mean = "mean(x)", frames = "count()", half = "quantile(x, 0.5)", kinds = "distinct(k)" }
rules = [
  { since = "completed", after = "0s", do = "erase", scope = "chunks" },
  { since = "stored", after = "2m", do = "erase", scope = "chunks" },
  { since = "created", after = "5m", do = "summarize" },
  { since = "summarized", after = "30m", do = "erase" },
]
[policy.strict-lead]
limits = { per_owner = 2 }
rules = [{ since = "created", after = "30d", do = "expire" }]
"""


@dataclass
class App:
    """Lapse on one store, with the policies above."""

    store: Store
    policies: PolicyBook
    sessions: Sessions
    items: Items

    def put(self, session_id: str, at: int, *values: float, **about: Any) -> StoredItem:
        """Store one batch of records, each with a field `x`."""
        records = [{"x": value, "k": int(value)} for value in values] or [{"x": 1.0}]
        plaintext = bytearray(repr(records).encode())
        content = Content("metrics", plaintext, records=records, **about)
        return self.items.store(session_id, content, at, "producer")

    def sweep(self, now: int) -> SweepCount:
        return sweep(self.store.log, self.policies.refresh(), now, "sweeper")

    def see(self, session_id: str, token: str, at: int, now: int | None = None) -> bool:
        """One heartbeat; whether it counted."""
        seen = {(session_id, token): at}
        now = at if now is None else now
        return bool(see(self.store.log, self.store.vault, self.policies, seen, now, "producer"))

    def told(self, session_id: str) -> list[str]:
        """What the log says of a session, by name of the event."""
        return [one.event.TOPIC.split(".")[1] for one in self.store.log.history(session_id)]

    def events(self, session_id: str) -> list[Event]:
        return [one.event for one in self.store.log.history(session_id)]  # type: ignore[misc]

    def left_of_people(self) -> Mapping[str, int]:
        """Rows about people, in tables that have any."""
        people = databases.PEOPLE
        counts = self.store.row_counts()
        return {name: counts[name] for name in people if counts.get(name)}


@pytest.fixture
def app(store: Store, tmp_path: Path) -> App:  # noqa: F811
    for name, policy in parse(POLICIES).items():
        applied = Applied(stream_of(name), 1, 0, name, "operator", to_document(policy))
        store.log.apply_policy(applied, 0)
    policies = PolicyBook(store.log)
    policies.refresh()
    keyring = FileKeyring(create_key_file(tmp_path / "keys", "store"))
    sessions = Sessions(store.log, store.vault, keyring, policies)
    items = Items(store.vault, keyring, policies, sessions, AggregateSummaries())
    return App(store, policies, sessions, items)
