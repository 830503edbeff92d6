"""Policies in use: which versions there are, applying a new one, and what it would change."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from domain.errors import Conflict, EffectiveTooSoon, PolicyUnknown
from domain.policy import (
    NOTICE,
    SECOND,
    Applied,
    RetentionPolicy,
    Version,
    Versions,
    stream_of,
    to_document,
)
from domain.ports import Bookmark, Found, Log, Rearm
from domain.session import NEVER
from domain.timeline import advance, forecast

REARM_BATCH = 1_000


class PolicyBook:
    """The versions of all policies that hold at some time, read again from the log when asked to
    `refresh`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: Mapping[str, Versions] = {}

    def refresh(self) -> Mapping[str, Versions]:
        recorded = self._log.policies()
        self._known = {name: holding(versions) for name, versions in recorded.items()}
        return self._known

    @property
    def known(self) -> Mapping[str, Versions]:
        return self._known

    def versions(self, name: str) -> Versions:
        """All versions of a policy. Raises PolicyUnknown."""
        if name not in self._known:
            self.refresh()
        if name not in self._known:
            raise PolicyUnknown(name, sorted(self._known))
        return self._known[name]


def holding(versions: Versions) -> Versions:
    """The versions that hold at some time, so that each takes effect after the one before.

    A version that lies ahead is superseded by a later one that takes effect no later than it: it
    never holds. What took effect cannot be superseded, since a new version lies ahead.
    """
    found: list[Version] = []
    for version in reversed(versions):
        if not found or version.effective_from < found[-1].effective_from:
            found.append(version)
    return tuple(reversed(found))


def apply(
    log: Log,
    policy: RetentionPolicy,
    now: int,
    actor: str,
    effective_from: int | None = None,
    bookmark: Bookmark | None = None,
) -> Version | None:
    """Record `policy` as the newest version of its name; None if it is that already.

    The first version of a name holds since ever: no session can be older than its policy. A later
    one takes effect at `effective_from`, by default 5 s ahead, and supersedes those that would
    take effect then or later. If the newest version is `policy` already, and only lies ahead, an
    earlier `effective_from` brings it forward. Raises EffectiveTooSoon.
    """
    versions = log.policies().get(policy.name, ())
    sooner = (
        effective_from is not None and versions and effective_from < versions[-1].effective_from
    )
    if versions and versions[-1].policy == policy and not sooner:
        return None
    if not versions:
        version = Version(1, 0, policy)
    else:
        earliest = now + NOTICE
        if effective_from is not None and effective_from < earliest:
            raise EffectiveTooSoon(policy.name, earliest)
        version = Version(versions[-1].number + 1, effective_from or earliest, policy)
    log.apply_policy(
        Applied(
            stream_of(policy.name),
            version.number,
            version.effective_from,
            policy.name,
            actor,
            to_document(policy),
        ),
        now,
        bookmark,
    )
    return version


def apply_configured(
    log: Log, policies: Iterable[RetentionPolicy], now: int, actor: str
) -> list[Version]:
    """Record the policies of the installation (presets, policy file, environment) that changed.

    What was configured last stands in a bookmark: a version that somebody applied by hand since
    then stays until the configuration itself changes.
    """
    applied = []
    for policy in policies:
        document = json.dumps(to_document(policy), sort_keys=True).encode()
        mark = Bookmark(f"configured:{policy.name}", hashlib.sha256(document).digest())
        if log.bookmark(mark.name) == mark.value:
            continue
        try:
            version = apply(log, policy, now, actor, bookmark=mark)
        except Conflict:
            continue  # another instance starts with the same configuration
        if version is None:
            log.append((), now, mark)  # somebody applied the very same by hand
        else:
            applied.append(version)
    return applied


def rearm(log: Log, name: str, versions: Versions, now: int) -> Iterator[int]:
    """Give every live session of a policy its deadline under the newest version, in batches.

    Yields how many sessions each batch looked at. Resumable: a bookmark says how far it came, and
    a run after a kill goes on there. Who has not heard of the version yet still writes deadlines
    without it, so another run starts over until the version is `is_settled`; from then on it does
    nothing. Deadlines only move earlier here; later ones are found when the stored one is reached.
    """
    mark = f"rearm:{name}:{versions[-1].number}"
    after = (log.bookmark(mark) or b"").decode()
    while found := log.due_of_policy(name, after, REARM_BATCH):
        after = _last_id(found)
        rearms = [
            Rearm(row.session.id, advance(row.session, versions, row.last_seen, now).next_at)
            for row in found
            if isinstance(row, Found)
        ]
        log.rearm(rearms, Bookmark(mark, after.encode()))
        yield len(found)
    if after != _ALL:
        done = _ALL if is_settled(versions, now) else ""
        log.rearm((), Bookmark(mark, done.encode()))


SETTLES = 30 * SECOND
"""How long after it takes effect everybody knows a version, and has committed what was decided
without it: processes read policies every second, a transaction ends within its time-outs."""


def is_settled(versions: Versions, now: int) -> bool:
    """Whether nobody decides without the newest version any more."""
    return now >= versions[-1].effective_from + SETTLES


def rearm_changed(log: Log, policies: Mapping[str, Versions], now: int) -> None:
    """Re-arm for every policy that has changed; does nothing where that is done."""
    for name, versions in policies.items():
        if len(versions) > 1:
            for _ in rearm(log, name, versions, now):
                pass


_ALL = "~"
"""Behind every session's id."""


def _last_id(found: Sequence[Found | Rearm]) -> str:
    last = found[-1]
    return last.session_id if isinstance(last, Rearm) else last.session.id


@dataclass(frozen=True)
class Impact:
    """What a new version would change for live sessions: counted, nothing written.

    sooner, later: sessions whose erasure, or else expiry, moves (never is latest). at_once: those
    that expire or are erased the moment the version takes effect.
    """

    sessions: int
    sooner: int
    later: int
    at_once: int


def impact(log: Log, policy: RetentionPolicy, now: int) -> Impact:
    """Compare the newest version with `policy` over every live session, in bounded batches."""
    versions = holding(log.policies().get(policy.name, ()))
    if not versions:
        return Impact(0, 0, 0, 0)
    takes_effect = now + NOTICE
    changed = holding([*versions, Version(versions[-1].number + 1, takes_effect, policy)])
    sessions = sooner = later = at_once = 0
    after = ""
    while found := log.due_of_policy(policy.name, after, REARM_BATCH):
        after = _last_id(found)
        for row in found:
            if isinstance(row, Rearm):
                continue
            sessions += 1
            old = forecast(row.session, versions, row.last_seen, now)
            new = forecast(row.session, changed, row.last_seen, now)
            old_end = (old.erases_at or NEVER, old.expires_at or NEVER)
            new_end = (new.erases_at or NEVER, new.expires_at or NEVER)
            sooner += new_end < old_end
            later += new_end > old_end
            at_once += takes_effect in (new.expires_at, new.erases_at)
    return Impact(sessions, sooner, later, at_once)
