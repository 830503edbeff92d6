"""The log beside its peers, in one run: appending, reading, sweeping, ingesting.

    python3 dev.py bench log [--json] [--quick] [--only PART]

PostgreSQL is a private server with fsync on. Contestants take turns, each runs three times, the
median counts. docs/explanation/performance.md says how each figure is made.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from tests.benchmarks import _appending, _command, _ingesting, _reading, _sweeping
from tests.benchmarks._report import Row
from tests.benchmarks._scale import FULL, QUICK, Scale
from tests.servers import PostgresServer

PARTS: Mapping[str, Callable[[Scale, PostgresServer], Iterator[Row]]] = {
    "single": _appending.single,
    "single-sqlite": _appending.single_sqlite,
    "commands": _appending.commands,
    "existing": _appending.existing,
    "bulk": _appending.bulk,
    "bulk-sqlite": _appending.bulk_sqlite,
    "read": _reading.read,
    "read-sqlite": _reading.read_sqlite,
    "sweep": _sweeping.sweeping,
    "ingest": _ingesting.ingesting,
}


def main(arguments: list[str]) -> int:
    return _command.main("The log beside its peers", __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
