"""How much torture of the service over HTTP."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HttpScale:
    """kills: moments at which one of two instances is killed. clients: threads that send commands.
    watchers: streams of the whole log. sessions: those whose data is summarized, then erased.
    batches: landmark batches that each of them stores.
    """

    kills: int = 8
    clients: int = 8
    watchers: int = 6
    sessions: int = 200
    batches: int = 8


FULL = HttpScale()
QUICK = HttpScale(kills=3, clients=4, watchers=4, sessions=20, batches=4)
TINY = HttpScale(kills=1, clients=2, watchers=2, sessions=3, batches=1)
"""For the test that keeps the torture alive."""
