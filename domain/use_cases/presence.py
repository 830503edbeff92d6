"""Heartbeats: who was seen, and when. Presence is not an event; a sample of it is."""

from collections.abc import Mapping

from domain.errors import Conflict, CorruptState
from domain.policy import in_force
from domain.ports import Append, Found, Log, Vault
from domain.session import Event, evolve
from domain.timeline import advance
from domain.use_cases.policies import PolicyBook

Heartbeats = Mapping[tuple[str, str], int]
"""(session, token) -> when it was seen."""


def see(
    log: Log, vault: Vault, policies: PolicyBook, seen: Heartbeats, now: int, actor: str
) -> set[tuple[str, str]]:
    """Record heartbeats; those that counted.

    One does not count when its session is unknown, over, or due by now: a session whose end has
    come is not revived, swept or not. A heartbeat never lies in the future: it is cut to `now`.
    """
    found = _readable(log, {session_id for session_id, _ in seen})
    alive = {
        session_id: row for session_id, row in found.items() if not _is_due(row, policies, now)
    }
    heartbeats = {pair: min(at, now) for pair, at in seen.items() if pair[0] in alive}
    counted = vault.see(heartbeats) if heartbeats else set()
    newest: dict[str, int] = {}
    for pair in counted:
        newest[pair[0]] = max(newest.get(pair[0], 0), heartbeats[pair])
    samples = [
        append
        for session_id, at in newest.items()
        if (append := _sample(alive[session_id], at, policies, actor)) is not None
    ]
    if samples:
        # A sample that lost against another writer is no loss: presence itself is committed.
        for answer in log.append(samples, now):
            if isinstance(answer, Exception) and not isinstance(answer, Conflict):
                raise answer
    return counted


def _readable(log: Log, session_ids: set[str]) -> Mapping[str, Found]:
    """One session whose state is corrupt must not cost the others their heartbeats; sweeps and
    `db check` say which it is."""
    while True:
        try:
            return log.find(sorted(session_ids))
        except CorruptState as error:
            session_ids = session_ids - {error.session_id}


def _is_due(found: Found, policies: PolicyBook, now: int) -> bool:
    if not found.session.live:
        return True
    versions = policies.versions(found.session.policy)
    return not advance(found.session, versions, found.last_seen, now).session.live


def _sample(found: Found, at: int, policies: PolicyBook, actor: str) -> Append | None:
    session = found.session
    policy = in_force(policies.versions(session.policy), at).policy
    events: tuple[Event, ...] = session.see(at, actor, every=policy.sample_every)
    if not events:
        return None
    return Append(session, evolve(session, events[0]), events, found.due_at, owner=found.owner)
