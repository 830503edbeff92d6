"""An application on every kind of store: what producers and operators do, without a process."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from adapters.keyring.plain import PlainKeyring
from domain.policy import Applied, parse, stream_of, to_document
from domain.ports import SweepCount
from domain.session import Event
from domain.use_cases.policies import PolicyBook
from domain.use_cases.presence import see
from domain.use_cases.sessions import Sessions
from domain.use_cases.sweep import sweep
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
        people = ("presence", "subject_index", "data_keys", "aliases", "subjects", "subject_keys")
        counts = self.store.row_counts()
        return {name: counts[name] for name in people if counts.get(name)}


@pytest.fixture
def app(store: Store) -> App:  # noqa: F811
    for name, policy in parse(POLICIES).items():
        applied = Applied(stream_of(name), 1, 0, name, "operator", to_document(policy))
        store.log.apply_policy(applied, 0)
    policies = PolicyBook(store.log)
    policies.refresh()
    return App(store, policies, Sessions(store.log, store.vault, PlainKeyring(), policies))
