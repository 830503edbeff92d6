"""Whatever people do in whatever order: every implementation answers alike, state equals replay."""

import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import hypothesis.strategies as some
import pytest
from hypothesis import given

from adapters.keyring.plain import PlainKeyring
from domain.errors import LapseError, SessionErased
from domain.policy import DAY, HOUR, MINUTE, SECOND, Applied
from domain.ports import Recorded
from domain.session import (
    EVENTS,
    SCHEDULER,
    Erased,
    Event,
    Expired,
    Failure,
    Ground,
    Recovered,
    Scope,
    project,
)
from domain.use_cases.policies import PolicyBook
from domain.use_cases.presence import see
from domain.use_cases.sessions import Sessions
from domain.use_cases.sweep import sweep
from tests.acceptance.databases import PEOPLE
from tests.contracts.authors import ACTOR, POLICIES, TEN, apply_policies
from tests.contracts.stores import SqlStore, Store, open_memory_store

NAMES = ("ada", "bob", "eve")
SEEDS = range(6)
WAITS = (0, 10 * SECOND, 2 * MINUTE, 10 * MINUTE, 25 * MINUTE, 2 * HOUR, 25 * HOUR, 31 * DAY)


@dataclass(frozen=True)
class Step:
    """Somebody does something with one of the sessions, so long after the step before.

    which: counts the sessions backwards from the newest. who: an index of NAMES.
    """

    what: str
    after: int
    which: int
    who: int


class World:
    """One store with everything on top of it that commands need."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = TEN
        self.ids: list[str] = []
        apply_policies(store.log)
        self.policies = PolicyBook(store.log)
        self.policies.refresh()
        self.sessions = Sessions(store.log, store.vault, PlainKeyring(), self.policies)

    def run(self, steps: list[Step]) -> list[object]:
        return [self.take(step, number) for number, step in enumerate(steps)]

    def take(self, step: Step, number: int) -> object:
        """The answer, or the name of the refusal. No two steps share a microsecond."""
        self.now += step.after + 1
        if step.what in CREATIONS or step.what == "sweep" or self.ids:
            try:
                return self.answer(step, number)
            except LapseError as error:
                return type(error).__name__
        return None

    def answer(self, step: Step, number: int) -> object:
        if step.what == "sweep":
            return sweep(self.store.log, self.policies.known, self.now, SCHEDULER, limit=2)
        if step.what in CREATIONS:
            session = CREATIONS[step.what](self, step)
            self.ids += [session.id] if session.id not in self.ids else []
            return session
        session_id = self.ids[-1 - step.which % len(self.ids)]
        return COMMANDS[step.what](self, session_id, step, number)

    def token(self, session_id: str, who: int) -> str:
        """Of one of those who ever joined."""
        members = self.store.vault.members(session_id)
        return members[who % len(members)].token if members else "nobody's"

    def hold(self, session_id: str, who: int) -> str:
        """One of those that the session has."""
        found = self.store.log.find([session_id]).get(session_id)
        holds = found.session.holds if found is not None else ()
        return holds[who % len(holds)].id if holds else "none"


def owned(policy: str) -> Callable[[World, Step], Any]:
    return lambda world, step: world.sessions.create(
        policy, world.now, ACTOR, owner=NAMES[step.who]
    )


CREATIONS: Mapping[str, Callable[[World, Step], Any]] = {
    "open a room": lambda world, _: world.sessions.create("room", world.now, ACTOR),
    "open an owned room": owned("room"),
    "open again": lambda world, step: world.sessions.create(
        "room", world.now, ACTOR, key=NAMES[step.who]
    ),
    "start training": owned("coach"),
    "log in": owned("lead"),
    "upload": owned("upload"),
}

COMMANDS: Mapping[str, Callable[[World, str, Step, int], Any]] = {
    "join": lambda w, id_, step, _: w.sessions.join(id_, NAMES[step.who], w.now, ACTOR),
    "leave": lambda w, id_, step, _: w.sessions.leave(id_, w.token(id_, step.who), w.now, ACTOR),
    "beat": lambda w, id_, step, _: see(
        w.store.log,
        w.store.vault,
        w.policies,
        {(id_, w.token(id_, step.who)): w.now - step.who * MINUTE},
        w.now,
        ACTOR,
    ),
    "store": lambda w, id_, step, _: w.sessions.store(id_, 1, 100, w.now, ACTOR),
    "complete": lambda w, id_, *_: w.sessions.complete(id_, w.now, ACTOR),
    "fail": lambda w, id_, *_: w.sessions.fail(id_, Failure.ERROR, w.now, ACTOR),
    "extend": lambda w, id_, *_: w.sessions.extend(id_, w.now + 3 * HOUR, w.now, ACTOR),
    "recover": lambda w, id_, *_: w.sessions.recover(id_, w.now, ACTOR),
    "hold": lambda w, id_, step, number: w.sessions.hold(
        id_,
        f"hold-{step.who}",
        Ground.LEGAL_CLAIM,
        w.now + DAY if number % 2 else None,
        w.now,
        ACTOR,
    ),
    "release": lambda w, id_, step, _: w.sessions.release(id_, w.hold(id_, step.who), w.now, ACTOR),
    "view": lambda w, id_, *_: w.sessions.view(id_, w.now),
}


KINDS = sorted({*CREATIONS, *COMMANDS, "sweep"})
some_steps = some.lists(
    some.builds(
        Step,
        some.sampled_from(KINDS),
        some.sampled_from(WAITS),
        some.integers(0, 5),
        some.integers(0, len(NAMES) - 1),
    ),
    max_size=30,
)


def a_long_day(seed: int) -> list[Step]:
    """Many steps, mostly with the newest sessions and soon after one another."""
    chance = random.Random(seed)
    rooms = ["open a room", "join", "leave", "beat", "beat"]
    kinds = [*CREATIONS, *sorted(COMMANDS), *rooms * 2, "hold", "release", "recover", "sweep"]
    waits = [*WAITS, *WAITS[:5] * 4]
    return [
        Step(
            chance.choice(kinds),
            chance.choice(waits),
            chance.choice((0, 0, 0, 1, 2, 5)),
            chance.randrange(len(NAMES)),
        )
        for _ in range(300)
    ]


def everything(world: World) -> dict[str, object]:
    """All that can be seen of a store, and what it holds. Events of one batch in no fixed order."""
    log, vault = world.store.log, world.store.vault
    lookups = [PlainKeyring().lookup("subject", name) for name in NAMES]
    subjects = vault.subjects(lookups)
    events = [recorded._replace(position=0) for recorded in log.read(len(POLICIES), 10_000)]
    return {
        "events": sorted(events, key=_place),
        "found": log.find(world.ids),
        "members": [vault.members(session_id) for session_id in world.ids],
        "subjects": subjects,
        "sessions of": [vault.sessions_of(lookups, policy) for policy in POLICIES],
        "tokens": vault.tokens(list(product(world.ids, lookups))),
        "owned": {
            (policy, key.subject): [one.session.id for one in log.owned(policy, key.subject)]
            for policy in POLICIES
            for key in subjects.values()
        },
        "next due": log.next_due(),
        "counters": {scope: used for scope, used in world.store.counters().items() if used},
        "rows": world.store.row_counts(),
    }


def _place(recorded: Recorded) -> tuple[int, str, int]:
    return recorded.recorded_at, recorded.event.originator_id, recorded.event.originator_version


def check(world: World) -> None:
    """What holds in any store at any time."""
    log = world.store.log
    records = log.read(0, 10_000)
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    live: dict[str, int] = {}
    for session_id in world.ids:
        events = [r.event for r in log.history(session_id) if isinstance(r.event, Event)]
        state = project(None, events)
        assert state is not None
        ends_once(events)
        found = log.find([session_id]).get(session_id)
        if found is None:
            assert state.erased_at is not None
            assert world.store.vault.members(session_id) == []
            continue
        assert found.session == state
        live[state.policy] = live.get(state.policy, 0) + state.live
    assert {name: log.live(name) for name in POLICIES} == dict.fromkeys(POLICIES, 0) | live
    assert all(
        used == live[scope[7:]]
        for scope, used in world.store.counters().items()
        if scope.startswith("policy:") and used
    )


def ends_once(events: list[Event]) -> None:
    """One expiry until it is recovered, one final erasure, and nothing after it."""
    expired = False
    for event in events:
        if isinstance(event, Expired):
            assert not expired
            expired = True
        elif isinstance(event, Recovered):
            expired = False
    final = [isinstance(e, Erased) and e.scope is Scope.EVERYTHING for e in events]
    assert not any(final[:-1])


@given(some_steps)
def test_state_equals_replay_after_any_commands(steps: list[Step]) -> None:
    """Gapless positions, exact counters, one ending of each."""
    world = World(open_memory_store())
    world.run(steps)
    check(world)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_database_and_memory_answer_alike(sql_store: SqlStore, seed: int) -> None:
    """The same commands get the same answers and leave the same events, rows and keys."""
    steps = a_long_day(seed)
    inside, outside = World(open_memory_store()), World(sql_store)
    assert outside.run(steps) == inside.run(steps)
    assert everything(outside) == everything(inside)
    check(outside)


def test_everything_happens() -> None:
    """The days above hold every event there is."""
    topics = set()
    for seed in SEEDS:
        world = World(open_memory_store())
        world.run(a_long_day(seed))
        topics |= {type(recorded.event) for recorded in world.store.log.read(0, 10_000)}
    assert topics == {*EVENTS, Applied}


@pytest.mark.parametrize("seed", SEEDS)
def test_in_the_end_nobody_is_left(store: Store, seed: int) -> None:
    """Once all holds are released and years have passed, one sweep leaves the log alone."""
    world = World(store)
    world.run(a_long_day(seed))
    for session_id in store.log.find(world.ids):
        for name in range(len(NAMES)):
            with contextlib.suppress(SessionErased):
                world.sessions.release(session_id, f"hold-{name}", world.now, ACTOR)
    total = sweep(store.log, world.policies.known, world.now + 1_000 * DAY, SCHEDULER)
    assert (total.failed, total.held, total.rearmed) == (0, 0, 0)
    counts = store.row_counts()
    assert {table: counts[table] for table in ("sessions", *PEOPLE) if counts[table]} == {}
    assert set(store.counters().values()) <= {0}
    check(world)
