"""The log under torture: crashes, races, long readings, large imports; everything is compared with
what was acknowledged, with the log itself, or with counts that were made without Lapse.

    python3 dev.py torture log [--json] [--quick] [--only PART]

PostgreSQL is a private server with fsync on. Every part is bounded in count and time, and ends only
processes that it started.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from tests.benchmarks import _command
from tests.benchmarks._report import Row
from tests.servers import PostgresServer
from tests.torture import _crashes, _imports, _memory, _races, _sweepers, _tail
from tests.torture._scale import FULL, QUICK, Scale

PARTS: Mapping[str, Callable[[Scale, PostgresServer], Iterator[Row]]] = {
    "killed-process": _crashes.killed_process,
    "killed-server": _crashes.killed_server,
    "sweepers": _sweepers.sweepers,
    "tail": _tail.tailing,
    "races": _races.races,
    "irc": _imports.irc,
    "killed-import": _imports.killed_import,
    "memory": _memory.ingesting,
    "rebuild": _memory.rebuilding,
}


def main(arguments: list[str]) -> int:
    return _command.main("The log under torture", __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
