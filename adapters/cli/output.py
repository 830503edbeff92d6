"""How commands speak: JSON for programs, tables for people."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from adapters.importers.driver import Progress as ImportProgress

# In a pipe there is no width to fit into; ids and times are then never broken over lines.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
_errors = Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; None is shown as a dash."""
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    console.print(table)


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
