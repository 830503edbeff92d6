"""A seeded, realistic feed through every preset: who comes, what they do, and when.

`feed` yields deeds in order of time; nothing here reads a clock or touches a store, so the same
seed gives the same days.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from domain.policy import HOUR, MINUTE, SECOND


class Do(StrEnum):
    """What somebody does."""

    CREATE = "create"
    JOIN = "join"
    SEE = "see"
    LEAVE = "leave"
    STORE = "store"
    COMPLETE = "complete"
    FAIL = "fail"


@dataclass(frozen=True, order=True)
class Deed:
    """Something somebody does. visit: which session of the feed; who: a made-up name.

    size: bytes, for STORE.
    """

    at: int
    visit: int
    step: int
    do: Do
    policy: str
    who: str
    size: int = 0


Script = Iterator[tuple[int, Do, str, int]]
"""What happens in one session: (microseconds after the step before, deed, who, size)."""


def feed(seed: int, start: int) -> Iterator[Deed]:
    """Endless days of traffic from `start` on; about two sessions an hour, fewer at night."""
    random = Random(seed)  # noqa: S311 - a feed, not a secret
    begins, visit = start, 0
    running: list[tuple[Deed, Script]] = []
    while True:
        begins += round(random.expovariate(1) * _pause(begins))
        visit += 1
        while running and running[0][0].at <= begins:
            deed, script = heapq.heappop(running)
            yield deed
            _advance(running, deed, script)
        policy = random.choices(list(_SCRIPTS), weights=_WEIGHTS)[0]
        first = Deed(begins, visit, 0, Do.CREATE, policy, f"owner-{random.randrange(60)}")
        yield first
        _advance(running, first, _SCRIPTS[policy](random, visit))


def _advance(running: list[tuple[Deed, Script]], deed: Deed, script: Script) -> None:
    step = next(script, None)
    if step is not None:
        wait, do, who, size = step
        following = Deed(deed.at + wait, deed.visit, deed.step + 1, do, deed.policy, who, size)
        heapq.heappush(running, (following, script))


def _pause(at: int) -> int:
    """The mean time between two sessions: a city sleeps at night."""
    hour = at // HOUR % 24
    return 30 * MINUTE if 7 <= hour < 23 else 150 * MINUTE


def _web_visit(random: Random, visit: int) -> Script:
    who = f"198.51.100.{random.randrange(256)}"
    yield 0, Do.JOIN, who, 0
    for _ in range(random.randrange(12)):
        yield round(random.expovariate(1) * 3 * MINUTE), Do.SEE, who, 0


def _reading_room(random: Random, visit: int) -> Script:
    guests = [f"reader-{visit}-{number}" for number in range(random.randrange(2, 6))]
    for guest in guests:
        yield random.randrange(30) * SECOND, Do.JOIN, guest, 0
    for _ in range(random.randrange(5, 25)):
        yield random.randrange(60, 400) * SECOND, Do.SEE, random.choice(guests), 0
    if random.random() < 0.6:
        yield MINUTE, Do.LEAVE, guests[0], 0


def _biometric(random: Random, visit: int) -> Script:
    yield 0, Do.JOIN, f"athlete-{visit}", 0
    for _ in range(random.randrange(3, 9)):
        yield 20 * SECOND, Do.STORE, "", random.randrange(20_000, 90_000)


def _video(random: Random, visit: int) -> Script:
    for _ in range(random.randrange(2, 7)):
        yield random.randrange(1, 20) * SECOND, Do.STORE, "", 1_000_000
    if random.random() < 0.8:
        yield MINUTE, Do.COMPLETE, "", 0
    elif random.random() < 0.5:
        yield MINUTE, Do.FAIL, "", 0


def _therapy(random: Random, visit: int) -> Script:
    yield MINUTE, Do.STORE, "", random.randrange(10_000_000, 60_000_000)
    yield 20 * MINUTE, (Do.COMPLETE if random.random() < 0.75 else Do.FAIL), "", 0


def _browser(random: Random, visit: int) -> Script:
    yield 0, Do.STORE, "", random.randrange(5_000, 200_000)


_SCRIPTS: dict[str, Callable[[Random, int], Script]] = {
    "web-visit": _web_visit,
    "reading-room": _reading_room,
    "biometric-coach": _biometric,
    "video-analysis": _video,
    "therapy-audio": _therapy,
    "browser-session": _browser,
}
_WEIGHTS = (8, 3, 5, 4, 2, 6)
