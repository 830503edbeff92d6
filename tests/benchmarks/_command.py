"""The command line that `bench` and `torture` share."""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from typing import TypeVar

from adapters.wiring import settle_memory
from tests.benchmarks._report import Row, as_json, as_markdown, did_not_finish
from tests.servers import PostgresServer

Scale = TypeVar("Scale")
Parts = Mapping[str, Callable[[Scale, PostgresServer], Iterator[Row]]]
"""Name of a part -> what it measures, row by row, given how much and a server."""


def run(
    parts: Parts[Scale], names: Sequence[str], scale: Scale, server: PostgresServer
) -> Iterator[Row]:
    """The rows of these parts. One that breaks off leaves a row that says so, and the traceback on
    standard error; the others go on."""
    for name in names:
        started = time.perf_counter()
        say(f"{name} ...")
        try:
            for row in parts[name](scale, server):
                say(f"  {'ok' if row.ok else 'NOT OK'}  {row.name}: {_figures(row)}")
                yield row
        except Exception as error:  # noqa: BLE001 - half an hour of other parts is not thrown away
            traceback.print_exc()
            yield did_not_finish(name, error)
        say(f"{name}: {time.perf_counter() - started:.0f} s")


def main(
    title: str, description: str, parts: Parts[Scale], full: Scale, quick: Scale, argv: list[str]
) -> int:
    """The exit code: 0 if every bar was reached, 1 if not."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a list of rows instead of a table")
    parser.add_argument("--quick", action="store_true", help="small and short: does it work?")
    parser.add_argument(
        "--only", action="append", choices=list(parts), metavar="PART", help=", ".join(parts)
    )
    arguments = parser.parse_args(argv)
    names = arguments.only or list(parts)
    scale = quick if arguments.quick else full
    settle_memory()  # as `lapse` does
    # Logs of Lapse are no part of the report.
    with redirect_stdout(sys.stderr), PostgresServer(fsync=True) as server:
        rows = list(run(parts, names, scale, server))
    print(as_json(rows) if arguments.json else as_markdown(title, rows))
    return 0 if all(row.ok for row in rows) else 1


def say(text: str) -> None:
    """Progress, on standard error: standard output belongs to the report."""
    print(text, file=sys.stderr, flush=True)


def _figures(row: Row) -> str:
    parts = [f"{value:,.2f}" for value in (row.ours, row.peer) if value is not None]
    ratio = "" if row.ratio is None else f" = {row.ratio:.2f}"
    return " / ".join(parts) + ratio
