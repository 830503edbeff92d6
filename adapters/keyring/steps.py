"""The transactions of a move of rows, one after the other; see adapters/keyring/moving.py."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection

from adapters.log.engine import Engines

LOCK_SECONDS = 1.0
"""How long a step waits for others; as for wrapped keys, see adapters/keyring/generations.py."""


@dataclass(frozen=True)
class Steps:
    """fence, step: as `adapters.keyring.generations.Generation` has them. page: rows of each."""

    engines: Engines
    fence: Callable[[Connection], None]
    step: Callable[[], None]
    page: int

    @contextmanager
    def write(self, *, waiting: bool = False) -> Iterator[Connection]:
        """waiting: for others, but not for long. Raises StoreBusy."""
        self.step()
        with self.engines.write() as connection:
            self.fence(connection)
            if waiting:
                give_way(connection)
            yield connection


def give_way(connection: Connection) -> None:
    """To whoever holds what this transaction will wait for."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(LOCK_SECONDS * 1000)}")
