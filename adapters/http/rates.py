"""How often somebody may ask: a fixed window per actor, kept in the memory of this process.

With several instances behind a balancer each counts for itself, so the limit is one of protection,
not of billing. Counted here and not by a library: docs/decisions/0017-own-rate-windows.md.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from adapters.http.problems import Refused

_UNITS = {"second": 1, "minute": 60, "hour": 3_600}
MOST_WINDOWS = 10_000
"""Windows that are kept before those that have ended are dropped."""


@dataclass(frozen=True)
class Limit:
    """At most `most` within `seconds`."""

    most: int
    seconds: int

    @staticmethod
    def parse(text: str) -> "Limit":
        """Such as `2000/second`."""
        most, _, unit = text.partition("/")
        return Limit(int(most), _UNITS[unit])


REFUSED_TOKENS = Limit.parse("20/minute")
"""Tokens that one address may have refused: more is somebody who guesses."""


class Windows:
    """Counts for one limit. A window begins with the first hit. clock: seconds, never set back."""

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, tuple[float, int]] = {}
        self._prune_at = MOST_WINDOWS

    def hit(self, name: str) -> None:
        """One more of `name`. Raises Refused with 429."""
        now = self._clock()
        with self._lock:
            ends, count = self._open.get(name, (0.0, 0))
            if ends <= now:
                self._prune(now)
                ends, count = now + self._limit.seconds, 0
            self._open[name] = ends, count + 1
        if count >= self._limit.most:
            raise _refusal(self._limit, ends - now)

    def _prune(self, now: float) -> None:
        """Looks at all only when twice as many have come: at no more than constant cost each."""
        if len(self._open) >= self._prune_at:
            self._open = {name: it for name, it in self._open.items() if it[0] > now}
            self._prune_at = max(MOST_WINDOWS, 2 * len(self._open))


class Rates:
    """Counts requests. limit: such as `1000/second`, None for none."""

    def __init__(self, limit: str | None) -> None:
        self._of_actors = Windows(Limit.parse(limit)) if limit is not None else None
        self._of_addresses = Windows(REFUSED_TOKENS)

    def count(self, actor: str) -> None:
        """One request of an actor. Raises Refused with 429."""
        if self._of_actors is not None:
            self._of_actors.hit(actor)

    def failed(self, address: str) -> None:
        """A token of this address was refused. Raises Refused with 429.

        Good tokens are never kept waiting for that: behind a proxy everybody has one address.
        """
        self._of_addresses.hit(address)


def _refusal(limit: Limit, left: float) -> Refused:
    return Refused(
        429,
        "rate",
        "Too many requests",
        f"at most {limit.most} per {limit.seconds} s; wait as long as Retry-After says",
        {"Retry-After": str(max(1, math.ceil(left)))},
    )
