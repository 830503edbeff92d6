"""How much the benchmark of HTTP measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HttpScale:
    """seconds: of one run of wrk. participants: who send heartbeats, ten to a session or each in a
    session of their own. batch: heartbeats of one request. sockets: WebSockets that send one after
    the other, `beats` each. alive: sessions beside those that are watched and those that end.
    watchers, watched: how many watch, and for how many seconds. per_second: appends, and deadlines.
    ready: seconds until the first deadline, by which everybody must watch. patience: seconds that
    Redis gets afterwards.
    """

    seconds: int = 10
    participants: int = 100_000
    batch: int = 1_000
    sockets: int = 1_000
    beats: int = 30
    alive: int = 10_000
    watchers: int = 200
    per_second: int = 100
    watched: int = 20
    ready: int = 30
    patience: int = 30


FULL = HttpScale()
QUICK = HttpScale(
    seconds=2,
    participants=5_000,
    batch=500,
    sockets=100,
    beats=5,
    alive=500,
    watchers=20,
    per_second=20,
    watched=3,
    ready=20,
    patience=5,
)
TINY = HttpScale(
    seconds=1,
    participants=100,
    batch=50,
    sockets=3,
    beats=2,
    alive=20,
    watchers=3,
    per_second=5,
    watched=1,
    ready=20,
    patience=2,
)
"""For the test that keeps the benchmark alive: nothing that it says about speed means anything."""
