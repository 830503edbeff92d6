"""Random commands on many sessions from several threads, everything acknowledged being told.

The clock runs fast: what a policy does in days happens within seconds.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from adapters.keyring.opening import open_keyring
from adapters.log.engine import Engines, open_engines, parse_url
from adapters.log.event_log import SqlLog
from adapters.vault.rows import SqlVault
from domain.errors import LapseError, StoreError
from domain.policy import DAY, HOUR, MINUTE
from domain.ports import Append, Appended, Bookmark, Decide, Found, Mark, Rearm, SweepCount
from domain.session import Failure, Ground
from domain.use_cases.policies import PolicyBook
from domain.use_cases.presence import see
from domain.use_cases.sessions import Sessions
from domain.use_cases.sweep import sweep_once
from tests.torture._processes import Outbox

POLICIES = ("reading-room", "biometric-coach", "video-analysis", "web-visit", "browser-session")
ACTOR = "torture"
KNOWN = 200
"""Sessions that a process has in mind: few, so that threads and processes meet on them."""
PAUSE = 0.02
"""Seconds, after the database could not be reached."""


class Role(StrEnum):
    """What a process does."""

    EVERYTHING = "everything"
    WRITER = "writer"
    SWEEPER = "sweeper"
    HEART = "heart"


class Counted(NamedTuple):
    """A heartbeat at `at` of somebody in a session was said to count."""

    session_id: str
    at: int
    heartbeat: bool = True


@dataclass(frozen=True)
class Clock:
    """Times of the business, in microseconds: `start` when the wall clock showed `began` (seconds),
    and `speed` times as fast. All processes see the same time."""

    start: int
    began: float
    speed: float

    def __call__(self) -> int:
        return self.start + int((time.time() - self.began) * self.speed * 1_000_000)


class TellingLog(SqlLog):
    """The log, which tells (session, version) of everything that was acknowledged."""

    def __init__(
        self, engines: Engines, wall: Callable[[], int], tell: Callable[[str, int], None]
    ) -> None:
        super().__init__(engines, wall)
        self._tell = tell

    def submit(self, append: Append, now: int) -> Appended:
        answer = super().submit(append, now)
        self._tell(answer.session_id, answer.version)
        return answer

    def append(
        self,
        appends: Sequence[Append],
        now: int,
        bookmark: Bookmark | None = None,
        *,
        together: bool = False,
        holder: str | None = None,
    ) -> Sequence[Appended | Exception]:
        answers = super().append(appends, now, bookmark, together=together, holder=holder)
        for answer in answers:
            if isinstance(answer, Appended):
                self._tell(answer.session_id, answer.version)
        return answers

    def sweep(
        self, now: int, limit: int, decide: Decide, holder: str, mark: Mark | None = None
    ) -> SweepCount:
        decided: Sequence[Append | Rearm] = ()

        def remember(found: Sequence[Found]) -> Sequence[Append | Rearm]:
            nonlocal decided
            decided = decide(found)
            return decided

        count = super().sweep(now, limit, remember, holder, mark)
        appends = [one for one in decided if isinstance(one, Append)]
        if count.done == len(appends):
            for append in appends:
                self._tell(append.session_id, append.after.version)
        return count


@dataclass(frozen=True)
class Opened:
    """What a process works with."""

    log: SqlLog
    vault: SqlVault
    policies: PolicyBook
    sessions: Sessions


@contextmanager
def opened(
    url: str, keys: Path, clock: Callable[[], int], tell: Callable[[str, int], None]
) -> Iterator[Opened]:
    """A database that was prepared, with a log that tells."""
    engines = open_engines(url)
    file = Path(str(parse_url(url).database)) if engines.dialect == "sqlite" else None
    log = TellingLog(engines, clock, tell)
    try:
        vault, policies = SqlVault(engines), PolicyBook(log)
        keyring = open_keyring(engines, keys, file, time.time_ns() // 1000)
        yield Opened(log, vault, policies, Sessions(log, vault, keyring, policies))
    finally:
        log.close()


class Worker:
    """One thread's random steps."""

    def __init__(
        self, lapse: Opened, clock: Clock, dice: random.Random, known: list[str], outbox: Outbox
    ) -> None:
        self._lapse = lapse
        self._sessions = lapse.sessions
        self._clock = clock
        self._dice = dice
        self._known = known
        self._outbox = outbox
        self._tokens: dict[str, str] = {}

    def step(self, steps: Sequence[Callable[[], object]]) -> None:
        """One of these. A refusal is an answer, too."""
        try:
            self._dice.choice(steps)()
        except StoreError:
            time.sleep(PAUSE)  # it cannot be reached just now, or too many want it
        except LapseError:
            pass

    def steps(self, role: Role) -> Sequence[Callable[[], object]]:
        """What a process of this role does, as often as it stands there."""
        if role is Role.SWEEPER:
            return (self.sweep,)
        if role is Role.HEART:
            return (*(self.beat,) * 9, self.look_round)
        few = (self.leave, self.complete, self.fail, self.hold, self.release, self.recover)
        commands = (*(self.create,) * 4, *(self.join,) * 3, *(self.store,) * 3, self.extend, *few)
        if role is Role.WRITER:
            return (*commands, self.look_round)
        return (*commands, self.beat, self.beat, self.sweep)

    # -- steps --------------------------------------------------------------------------------

    def create(self) -> None:
        owner = self._dice.choice([None, f"owner-{self._dice.randrange(20)}"])
        policy = self._dice.choice(POLICIES)
        session = self._sessions.create(policy, self._clock(), ACTOR, owner=owner)
        self._known.append(session.id)
        if len(self._known) > KNOWN:
            del self._known[0]

    def join(self) -> None:
        session_id = self._any()
        who = f"visitor-{self._dice.randrange(50)}"
        self._tokens[session_id] = self._sessions.join(session_id, who, self._clock(), ACTOR)

    def leave(self) -> None:
        session_id = self._joined()
        token = self._tokens.pop(session_id)
        self._sessions.leave(session_id, token, self._clock(), ACTOR)

    def store(self) -> None:
        self._sessions.store(self._any(), 1, self._dice.randrange(1, 9_999), self._clock(), ACTOR)

    def complete(self) -> None:
        self._sessions.complete(self._any(), self._clock(), ACTOR)

    def fail(self) -> None:
        self._sessions.fail(self._any(), Failure.ERROR, self._clock(), ACTOR)

    def extend(self) -> None:
        now = self._clock()
        self._sessions.extend(self._any(), now + self._dice.randrange(MINUTE, HOUR), now, ACTOR)

    def hold(self) -> None:
        now = self._clock()
        until = self._dice.choice([None, now + self._dice.randrange(MINUTE, DAY)])
        hold = f"hold-{self._dice.randrange(3)}"
        self._sessions.hold(self._any(), hold, Ground.LEGAL_CLAIM, until, now, ACTOR)

    def release(self) -> None:
        hold = f"hold-{self._dice.randrange(3)}"
        self._sessions.release(self._any(), hold, self._clock(), ACTOR)

    def recover(self) -> None:
        self._sessions.recover(self._any(), self._clock(), ACTOR)

    def beat(self) -> None:
        """Somebody in each of a few sessions is seen."""
        lapse, now = self._lapse, self._clock()
        seen = {
            (session_id, member.token): now
            for session_id in (self._any(), self._any(), self._any())
            for member in lapse.vault.members(session_id)
        }
        for session_id, _ in see(lapse.log, lapse.vault, lapse.policies, seen, now, ACTOR):
            self._outbox.put(Counted(session_id, now))

    def look_round(self) -> None:
        """See which sessions the others have begun."""
        self._known[:] = some_sessions(self._lapse, self._dice)

    def sweep(self) -> None:
        lapse = self._lapse
        sweep_once(lapse.log, lapse.policies.known, self._clock(), ACTOR, limit=100)

    def _any(self) -> str:
        if not self._known:
            self.create()
        return self._dice.choice(self._known)

    def _joined(self) -> str:
        if not self._tokens:
            self.join()
        return self._dice.choice([*self._tokens])


def load(
    outbox: Outbox,
    url: str,
    keys: Path,
    clock: Clock,
    seed: int,
    role: Role,
    threads: int,
    seconds: float,
) -> None:
    """Steps at random, from several threads, for so many seconds if nobody kills it first.

    Sends (session, version) of what was acknowledged, and `Counted` heartbeats.
    """

    def tell(session_id: str, version: int) -> None:
        outbox.put((session_id, version))

    with opened(url, keys, clock, tell) as lapse, ThreadPoolExecutor(threads) as pool:
        known = some_sessions(lapse, random.Random(seed))
        until = time.monotonic() + seconds

        def work(number: int) -> None:
            worker = Worker(lapse, clock, random.Random(f"{seed}/{number}"), known, outbox)
            steps = worker.steps(role)
            while time.monotonic() < until:
                worker.step(steps)

        list(pool.map(work, range(threads)))


def some_sessions(lapse: Opened, dice: random.Random) -> list[str]:
    """Sessions that are there."""
    ids = [
        found.session.id
        for policy in POLICIES
        for found in lapse.log.due_of_policy(policy, "", 200)
        if isinstance(found, Found)
    ]
    return dice.sample(ids, min(len(ids), KNOWN))
