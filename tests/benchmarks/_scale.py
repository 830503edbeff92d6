"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """rounds: how often each contestant runs. seconds: of one run that is measured by the clock.
    bulk, read: events of one run. due: sessions of one sweep; alive, crowd: what lives beside them,
    few and many. lines: of the made-up log; real: whether the real one is read, too.
    """

    rounds: int = 3
    seconds: float = 3.0
    bulk: int = 100_000
    read: int = 100_000
    due: int = 200_000
    alive: int = 10_000
    crowd: int = 1_000_000
    lines: int = 200_000
    real: bool = True


FULL = Scale()
QUICK = Scale(
    rounds=1,
    seconds=0.5,
    bulk=10_000,
    read=10_000,
    due=5_000,
    alive=1_000,
    crowd=20_000,
    lines=10_000,
)
TINY = Scale(
    rounds=1,
    seconds=0.05,
    bulk=1_000,
    read=600,
    due=300,
    alive=50,
    crowd=500,
    lines=500,
    real=False,
)
"""For the test that keeps the benchmark alive: nothing that it says about speed means anything."""
