"""A made-up access log that looks like a real one, the same for the same seed.

Visits begin at random, a few visitors come often and most once, a visit has ten pages on average
with half a minute between them, and lines of all visits are interleaved in order of time: about
the shape of the NASA log of 1995. Addresses are those that RFC 2544 sets aside for benchmarks.
"""

import heapq
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

START = 1_577_836_800
"""2020-01-01T00:00:00Z in seconds. The past, since records that lie in the future are rejected."""
VISITS_PER_SECOND = 0.05
PAGES_PER_VISIT = 10
SECONDS_PER_PAGE = 30.0
VISITORS = 40_000
REGULARS = 400
"""Of the visitors; a third of the visits is theirs."""

_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
)


class _Visit(NamedTuple):
    """Somebody on the way through the site. at: the next page, in seconds. pages: left to see."""

    at: float
    visitor: int
    pages: int


def lines(count: int, seed: int = 20261122) -> Iterator[str]:
    """So many lines in combined log format, without their line feeds."""
    dice = random.Random(seed)
    begins = START + 0.0
    on_the_way: list[_Visit] = []
    for _ in range(count):
        while not on_the_way or begins <= on_the_way[0].at:
            heapq.heappush(on_the_way, _Visit(begins, _visitor(dice), _pages(dice)))
            begins += dice.expovariate(VISITS_PER_SECOND)
        visit = heapq.heappop(on_the_way)
        yield _line(visit, dice)
        if visit.pages > 1:
            next_at = visit.at + dice.expovariate(1 / SECONDS_PER_PAGE)
            heapq.heappush(on_the_way, _Visit(next_at, visit.visitor, visit.pages - 1))


def _visitor(dice: random.Random) -> int:
    return dice.randrange(VISITORS if dice.random() < 2 / 3 else REGULARS)


def _pages(dice: random.Random) -> int:
    return 1 + min(int(dice.expovariate(1 / (PAGES_PER_VISIT - 1))), 500)


def _line(visit: _Visit, dice: random.Random) -> str:
    host = f"198.{18 + visit.visitor // 65_536}.{visit.visitor // 256 % 256}.{visit.visitor % 256}"
    hour, second = divmod(int(visit.at), 3_600)
    page = dice.randrange(1_000)
    return (
        f"{host} - - [{_hour(hour)}:{second // 60:02}:{second % 60:02} +0000] "
        f'"GET /articles/{page} HTTP/1.1" 200 {dice.randrange(300, 60_000)} '
        f'"https://example.org/articles/{(page + 1) % 1_000}" "{_AGENTS[visit.visitor % 4]}"'
    )


@lru_cache(maxsize=8)
def _hour(number: int) -> str:
    return f"{datetime.fromtimestamp(number * 3_600, UTC):%d/%b/%Y:%H}"
