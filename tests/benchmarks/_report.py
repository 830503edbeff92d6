"""What a benchmark or a torture run answers: rows of ours, peer, ratio, bar; printed two ways."""

import platform
import sqlite3
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True)
class Row:
    """One comparison. name: what was measured, in which unit, and who the peer is.

    ratio: how ours stands to the peer, the greater the better. bar: the least ratio that is good
    enough (None: the row only informs). spread: least and greatest of what the medians stand for.
    """

    name: str
    ours: float | None
    peer: float | None
    ratio: float | None
    bar: float | None
    ok: bool
    spread: str = ""

    def document(self) -> dict[str, Any]:
        """The row as `--json` prints it."""
        return {key: value for key, value in asdict(self).items() if key != "spread"}


@dataclass(frozen=True)
class Figure:
    """What one contestant reached, in each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> str:
        if len(self.rounds) == 1:
            return ""
        return f"{_number(min(self.rounds))} to {_number(max(self.rounds))}"


def compared(name: str, ours: Figure, peer: Figure, bar: float | None = None) -> Row:
    """Ours against a peer that ran beside it; bar: how many times the peer's median is asked."""
    ratio = ours.median / peer.median
    good = bar is None or ratio >= bar
    spread = "; ".join(filter(None, (ours.spread, peer.spread)))
    return Row(name, ours.median, peer.median, ratio, bar, good, spread)


def required(name: str, ours: Figure, least: float) -> Row:
    """Ours against a figure that was promised."""
    ratio = ours.median / least
    return Row(name, ours.median, least, ratio, 1.0, ratio >= 1.0, ours.spread)


def at_most(name: str, ours: float, most: float) -> Row:
    """Ours against a figure that was promised not to be exceeded."""
    ratio = most / ours if ours else None
    return Row(name, ours, most, ratio, 1.0, ours <= most)


def alike(name: str, ours: Figure, peer: Figure, tolerance: float) -> Row:
    """Two figures that must be the same within `tolerance` (0.2: neither is more than 1.2 x the
    other). The ratio is that of the smaller to the greater one."""
    ratio = min(ours.median, peer.median) / max(ours.median, peer.median)
    bar = round(1 / (1 + tolerance), 3)
    spread = "; ".join(filter(None, (ours.spread, peer.spread)))
    return Row(name, ours.median, peer.median, ratio, bar, ratio >= bar, spread)


def exactly(name: str, found: int, expected: int) -> Row:
    """A count that must be as expected, no more and no less. The ratio of two zeros is 1."""
    least, most = sorted((found, expected))
    ratio = least / most if most else 1.0
    return Row(name, found, expected, ratio, 1.0, found == expected)


def did_not_finish(part: str, error: BaseException) -> Row:
    """What stands for the rows of a part that broke off."""
    return Row(f"{part}: broke off with {type(error).__name__}", None, None, None, None, False)


# -- printing ---------------------------------------------------------------------------------


def as_json(rows: Iterable[Row]) -> str:
    return orjson.dumps([row.document() for row in rows], option=orjson.OPT_INDENT_2).decode()


def as_markdown(title: str, rows: Sequence[Row]) -> str:
    """A table, below a line that says where and when."""
    columns = [field.name for field in fields(Row)]
    lines = [
        f"## {title}",
        "",
        f"{machine()}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' + '---:|' * 4 + '---|' * 2}",
        *(_line(row) for row in rows),
    ]
    return "\n".join(lines)


def machine() -> str:
    """The machine in one line, without its name."""
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{cores} cores {models[0] if models else platform.machine()}, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}"
    )


def _line(row: Row) -> str:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    bar = "" if row.bar is None else f"≥ {row.bar:g}"
    verdict = "yes" if row.ok else "**no**"
    cells = (row.name, _number(row.ours), _number(row.peer), ratio, bar, verdict, row.spread)
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


Note = Callable[[str], None]
"""Told what is going on, for whoever waits."""
