"""An open Lapse on an empty database, with a clock that the test moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.clock import format_instant
from adapters.settings import load_settings
from adapters.wiring import Lapse, open_lapse

START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""


@dataclass
class Opened:
    """Lapse in this process; nothing happens by itself."""

    lapse: Lapse
    clock: Path

    @property
    def now(self) -> int:
        return self.lapse.clock()

    @property
    def is_postgresql(self) -> bool:
        return self.lapse.engines.dialect == "postgresql"

    def wait(self, micros: int) -> None:
        self.clock.write_text(str(format_instant(self.now + micros)))

    def execute(self, sql: str, *values: Any) -> list[Any]:
        """Run a statement, `?` standing for a value, and commit."""
        with self.lapse.engines.write() as connection:
            mark = "%s" if self.is_postgresql else "?"
            result = connection.exec_driver_sql(sql.replace("?", mark), values)
            return list(result) if result.returns_rows else []


@contextmanager
def opened(database_url: str, key_url: str, folder: Path, **settings: Any) -> Iterator[Opened]:
    """folder: where the clock lies."""
    clock = folder / "clock"
    clock.write_text(str(format_instant(START)))
    given = load_settings(
        database_url=database_url,
        key_url=key_url,
        env="test",
        clock=f"file:{clock}",
        **settings,
    )
    with open_lapse(given) as lapse:
        yield Opened(lapse, clock)
