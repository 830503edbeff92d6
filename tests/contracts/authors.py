"""What authors write in the contract suites: short names for appends, people and policies."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from domain.errors import Conflict
from domain.policy import (
    DAY,
    HOUR,
    Applied,
    RetentionPolicy,
    Version,
    parse,
    stream_of,
    to_document,
)
from domain.ports import (
    Admission,
    Append,
    Appended,
    Changes,
    Deletion,
    Found,
    Limit,
    Log,
    SubjectKey,
)
from domain.session import Event, Scope, Session, create, evolve, project
from domain.timeline import advance

T = TypeVar("T")

TEN = 1_793_527_200_000_000
"""1 November 2026, 10:00 UTC."""
ROOM = "room"
ACTOR = "application"

POLICIES = parse(
    """
    [policy.room]
    recover = "12h"
    limits = { concurrent = 3 }
    rules = [
      { since = "last_seen", after = "50m", do = "warn" },
      { since = "last_seen", after = "1h", do = "expire" },
      { since = "expired", after = "24h", do = "erase" },
    ]

    [policy.coach]
    rules = [
      { since = "created", after = "5m", do = "summarize" },
      { since = "summarized", after = "30m", do = "erase" },
    ]

    [policy.lead]
    limits = { per_owner = 2, on_exceed = "expire-oldest" }
    rules = [
      { since = "created", after = "7d", do = "compress" },
      { since = "created", after = "30d", do = "expire" },
      { since = "expired", after = "1d", do = "erase" },
    ]

    [policy.upload]
    limits = { per_owner = 1 }
    rules = [
      { since = "completed", after = "0s", do = "erase", scope = "chunks" },
      { since = "created", after = "10m", do = "erase" },
    ]
    """
)
VERSION = Version(1, 0, POLICIES["room"])


def apply_policies(
    log: Log, policies: Sequence[RetentionPolicy] = tuple(POLICIES.values())
) -> None:
    for policy in policies:
        log.apply_policy(applied(policy), TEN)


def applied(policy: RetentionPolicy, number: int = 1, effective_from: int = 0) -> Applied:
    return Applied(
        stream_of(policy.name), number, effective_from, policy.name, ACTOR, to_document(policy)
    )


# -- appends ----------------------------------------------------------------------------------


def opening(
    session_id: str, *, at: int = TEN, policy: str = ROOM, owner: str | None = None, **more: Any
) -> Append:
    """A session begins. owner: the owner's subject."""
    token = None if owner is None else f"token-of-{owner}"
    events = create(None, session_id, policy, 1, at, ACTOR, token)
    append = Append(None, evolve(None, events[0]), events, at + HOUR, owner=owner)
    return append._replace(**more)


def following(
    before: Session | Found | Append, *steps: Callable[[Session], tuple[Event, ...]], **more: Any
) -> Append:
    """What follows on a state: each step a command of Session."""
    owner = before.owner if isinstance(before, Found | Append) else None
    session = after = _state(before)
    events: tuple[Event, ...] = ()
    for step in steps:
        new = step(after)
        after = project(after, new) or after
        events += new
    return Append(session, after, events, TEN + HOUR, owner=owner)._replace(**more)


def seen(before: Session | Found | Append, at: int, **more: Any) -> Append:
    return following(before, lambda s: s.see(at, ACTOR, every=1), **more)


def ended(before: Session | Found | Append, at: int = TEN + HOUR, **more: Any) -> Append:
    """It expires."""
    steps = {"due_at": at + DAY} | more
    return following(before, lambda s: s.expire("expire-idle", 1, at, ACTOR), **steps)


def erased(before: Session | Found | Append) -> Append:
    """What the policy `room` makes of it in the end: expired, if it is not yet, and erased."""
    owner = before.owner if isinstance(before, Found | Append) else None
    session = _state(before)
    outcome = advance(session, (VERSION,), 0, TEN + 1_000 * DAY)
    return Append(
        session,
        outcome.session,
        outcome.events,
        None,
        owner=owner,
        deletes=(Deletion(Scope.EVERYTHING),),
    )


def _state(of: Session | Found | Append) -> Session:
    if isinstance(of, Append):
        return of.after
    return of.session if isinstance(of, Found) else of


def limit(scope: str, most: int) -> tuple[Limit, ...]:
    return (Limit(scope, most, "concurrent"),)


# -- people -----------------------------------------------------------------------------------


def person(name: str, subject: str = "") -> SubjectKey:
    """Somebody new. subject: under which random id, if two authors should differ."""
    return SubjectKey(lookup(name), subject or f"subject-{name}", "kek", b"wrapped", fresh=True)


def lookup(name: str) -> bytes:
    return b"lookup of " + name.encode()


def known(somebody: SubjectKey) -> SubjectKey:
    """The same person, read from the vault."""
    return replace(somebody, fresh=False)


def admission(
    subject: SubjectKey,
    token: str = "",
    *,
    role: str = "participant",
    joined_at: int | None = TEN,
) -> Admission:
    return Admission(
        token or f"token-{subject.subject}", role, subject, b"sealed", b"key", joined_at
    )


def entering(session_id: str, *subjects: SubjectKey, at: int = TEN, **more: Any) -> Append:
    """A session begins with these people in it."""
    changes = Changes(admitted=tuple(admission(subject, joined_at=at) for subject in subjects))
    return opening(session_id, at=at, changes=changes, **more)


# -- authors ----------------------------------------------------------------------------------


def written(answers: Sequence[Appended | Exception]) -> list[str]:
    """Ids of the sessions that were written."""
    return [answer.session_id for answer in answers if isinstance(answer, Appended)]


def insist(log: Log, session_id: str, step: Callable[[Session], tuple[Event, ...]]) -> Appended:
    """Read, decide and submit until nobody else was faster."""
    while True:
        found = log.find([session_id])[session_id]
        try:
            return log.submit(following(found, step), TEN)
        except Conflict:
            continue


def at_once(tasks: Sequence[Callable[[], T]], threads: int = 8) -> list[T | Exception]:
    """The answer or the error of each, worked off by so many threads."""

    def answer(task: Callable[[], T]) -> T | Exception:
        try:
            return task()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(answer, tasks))
