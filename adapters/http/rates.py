"""How often somebody may ask: a fixed window per actor, kept in the memory of this process.

With several instances behind a balancer each counts for itself, so the limit is one of protection,
not of billing.
"""

import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from adapters.http.problems import Refused

REFUSED_TOKENS = parse("20/minute")
"""Tokens that one address may have refused: more is somebody who guesses."""


class Rates:
    """Counts requests. limit: such as `1000/second`, None for none."""

    def __init__(self, limit: str | None) -> None:
        self._limit = parse(limit) if limit is not None else None
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

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
