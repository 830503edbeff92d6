"""How much torture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """kills: moments at which the process is killed; crashes: those of PostgreSQL. due: sessions
    that four processes sweep. tail: seconds for which a reader follows 16 writers, who append
    `appends` times each in a round. imported: lines of an import that is killed `stops` times.
    early, late: records after which memory is compared.
    rebuilt: events of a projection made anew. rooms: files of the IRC logs (None: all). races:
    seconds of everybody against everybody. fsync: of the PostgreSQL that crashes.
    """

    kills: int = 100
    crashes: int = 20
    due: int = 50_000
    tail: float = 120.0
    appends: int = 250
    imported: int = 200_000
    stops: int = 10
    early: int = 200_000
    late: int = 1_000_000
    rebuilt: int = 5_000_000
    rooms: int | None = None
    races: float = 60.0
    fsync: bool = True


FULL = Scale()
QUICK = Scale(
    kills=4,
    crashes=2,
    due=2_000,
    tail=1.0,
    appends=20,
    imported=10_000,
    stops=2,
    early=4_000,
    late=12_000,
    rebuilt=40_000,
    rooms=4,
    races=3.0,
)
TINY = Scale(
    kills=2,
    crashes=1,
    due=400,
    tail=0.0,
    appends=6,
    imported=5_000,
    stops=1,
    early=1_000,
    late=3_000,
    rebuilt=8_000,
    rooms=2,
    races=1.0,
    fsync=False,
)
"""For the test that keeps the torture alive."""
