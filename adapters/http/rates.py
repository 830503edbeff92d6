"""How often somebody may ask: a fixed window per actor, kept in the memory of this process.

With several instances behind a balancer each counts for itself, so the limit is one of protection,
not of billing.
"""

import math
import threading
import time

from limits import RateLimitItem, parse
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from adapters.http.problems import Refused

REFUSED_TOKENS = parse("20/minute")
"""Tokens that one address may have refused: more is somebody who guesses."""


MOST_WINDOWS = 10_000
"""Windows that are kept before those that have ended are dropped."""


class Windows(Storage):
    """Where the library keeps its windows. Its own `MemoryStorage` starts a thread a hundred times
    a second to drop those that ended, paid for by the thread that answers everybody: a quarter of
    what a creation costs. Here they are dropped when twice as many have come as were open.

    https://limits.readthedocs.io/en/stable/custom-storage.html
    """

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._open: dict[str, tuple[float, int]] = {}
        self._prune_at = MOST_WINDOWS

    @property
    def base_exceptions(self) -> type[Exception]:
        return MemoryError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = time.time()
        with self._lock:
            ends, count = self._open.get(key, (0.0, 0))
            if ends <= now:
                self._prune(now)
                ends, count = now + expiry, 0
            self._open[key] = ends, count + amount
        return count + amount

    def get(self, key: str) -> int:
        ends, count = self._open.get(key, (0.0, 0))
        return count if ends > time.time() else 0

    def get_expiry(self, key: str) -> float:
        return self._open.get(key, (time.time(), 0))[0]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        with self._lock:
            count = len(self._open)
            self._open.clear()
        return count

    def clear(self, key: str) -> None:
        with self._lock:
            self._open.pop(key, None)

    def _prune(self, now: float) -> None:
        if len(self._open) >= self._prune_at:
            self._open = {name: it for name, it in self._open.items() if it[0] > now}
            self._prune_at = max(MOST_WINDOWS, 2 * len(self._open))


class Rates:
    """Counts requests. limit: such as `1000/second`, None for none."""

    def __init__(self, limit: str | None) -> None:
        self._limit = parse(limit) if limit is not None else None
        self._limiter = FixedWindowRateLimiter(Windows())

    def count(self, actor: str) -> None:
        """One request of an actor. Raises Refused with 429."""
        if self._limit is not None and not self._limiter.hit(self._limit, "actor", actor):
            raise self._refusal(self._limit, "actor", actor)

    def failed(self, address: str) -> None:
        """A token of this address was refused. Raises Refused with 429.

        Good tokens are never kept waiting for that: behind a proxy everybody has one address.
        """
        if not self._limiter.hit(REFUSED_TOKENS, "address", address):
            raise self._refusal(REFUSED_TOKENS, "address", address)

    def _refusal(self, limit: RateLimitItem, kind: str, name: str) -> Refused:
        ends = self._limiter.get_window_stats(limit, kind, name).reset_time
        seconds = max(1, math.ceil(ends - time.time()))
        return Refused(
            429,
            "rate",
            "Too many requests",
            f"at most {limit.amount} per {limit.get_expiry()} s; wait as long as Retry-After says",
            {"Retry-After": str(seconds)},
        )
