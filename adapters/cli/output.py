"""How commands speak: JSON for programs, tables for people."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from adapters.cli.files import partial
from adapters.clock import format_instant
from adapters.importers.driver import Progress as ImportProgress
from domain.errors import SettingsInvalid

# In a pipe there is no width to fit into; ids and times are then never broken over lines.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
_errors = Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def write_whole(path: Path, pieces: Iterable[bytes], *, parents: bool = False) -> None:
    """What `--out` names: under another name first, so that nobody reads half of it. parents: make
    its folder. Raises SettingsInvalid, and whatever making the pieces raises."""
    beside = partial(path)
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.writelines(pieces)
        beside.replace(path)
    except OSError as error:
        raise SettingsInvalid(f"--out cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def format_second(micros: int | None) -> str | None:
    """A time for people: RFC 3339, UTC, to the second."""
    return shown(format_instant(micros)) if micros is not None else None


def shown(cell: Any) -> str:
    """A cell as people read it: None is a dash, times go to the second."""
    return "-" if cell is None else _MILLISECONDS.sub(r"\1Z", str(cell))


_MILLISECONDS = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{3}Z$")


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    first_to_go: Sequence[str] = (),
) -> None:
    """A table, or `none` under its title. Ids and times are never broken over lines.

    first_to_go: columns that a narrow terminal has no room for, the least needed first.
    """
    cells = [[shown(cell) for cell in row] for row in rows]
    if not cells:
        console.print(f"[italic]{title}[/]\n  none\n")
        return
    left_out = _too_many(columns, cells, first_to_go)
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    kept = [index for index, column in enumerate(columns) if column not in left_out]
    for index in kept:
        whole = all(" " not in row[index] for row in cells)
        table.add_column(columns[index], overflow="fold", no_wrap=whole)
    for row in cells:
        table.add_row(*(escape(row[index]) for index in kept))
    console.print(table)
    if left_out:
        console.print(f"no room for {', '.join(left_out)}; --json has everything")


def _too_many(
    columns: Sequence[str], cells: Sequence[Sequence[str]], first_to_go: Sequence[str]
) -> list[str]:
    """The columns to leave out so that the others fit."""
    widths = {
        column: 3 + max(len(column), *(len(row[index]) for row in cells))
        for index, column in enumerate(columns)
    }
    left_out: list[str] = []
    for column in first_to_go:
        if sum(widths.values()) - sum(widths[one] for one in left_out) < console.width:
            break
        left_out.append(column)
    return left_out


@contextmanager
def import_progress() -> Iterator[ImportProgress]:
    """A progress bar on standard error, by bytes where the size is known. Silent in a pipe."""
    with Progress(
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]} lines"),
        TimeRemainingColumn(),
        console=_errors,
        disable=not _errors.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None, lines=0)

        def advance(done: int, size: int | None, lines: int) -> None:
            bar.update(task, completed=done, total=size, lines=lines)

        yield advance


@contextmanager
def count_progress(what: str) -> Iterator["CountProgress"]:
    """A progress bar on standard error for things that are counted."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_errors,
        disable=not _errors.is_terminal,
        transient=True,
    ) as bar:
        yield CountProgress(bar)


class CountProgress:
    """Called with (done, of how many)."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
