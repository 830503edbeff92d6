"""Work that one process of an installation does at a time: a row in `leases` says which."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adapters.log.engine import Engines
from domain.policy import MINUTE

TERM = 10 * MINUTE
"""After which a process that was killed is in nobody's way any more."""


class Leases:
    """clock: microseconds. holder: this process."""

    def __init__(self, engines: Engines, clock: Callable[[], int], holder: str) -> None:
        self._engines = engines
        self._clock = clock
        self._holder = holder

    @contextmanager
    def lease(self, name: str) -> Iterator[bool]:
        """Whether the block has it; another process may."""
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        take = (
            f"INSERT INTO leases (name, holder, until) VALUES ({mark}, {mark}, {mark}) "
            "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until "
            f"WHERE leases.until < {mark}"
        )
        now = self._clock()
        with self._engines.write() as connection:
            values = (name, self._holder, now + TERM, now)
            taken = connection.exec_driver_sql(take, values).rowcount == 1
        try:
            yield taken
        finally:
            if taken:
                with self._engines.write() as connection:
                    connection.exec_driver_sql(
                        f"DELETE FROM leases WHERE name = {mark} AND holder = {mark}",
                        (name, self._holder),
                    )
