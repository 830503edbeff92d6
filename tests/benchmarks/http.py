"""The service over HTTP: heartbeats, creations, live updates, deadlines.

    python3 dev.py bench http [--json] [--quick] [--only PART]

A real `lapse serve` beside a private PostgreSQL with fsync on; it wants `wrk` and `redis-server`
(Debian packages). docs/explanation/performance.md says how each figure is made.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from tests.benchmarks import _command, _creating, _heartbeats, _live
from tests.benchmarks._http_scale import FULL, QUICK, HttpScale
from tests.benchmarks._report import Row
from tests.servers import PostgresServer

PARTS: Mapping[str, Callable[[HttpScale, PostgresServer], Iterator[Row]]] = {
    "heartbeats": _heartbeats.batched,
    "sockets": _heartbeats.one_by_one,
    "creations": _creating.creating,
    "live": _live.live,
}


def main(arguments: list[str]) -> int:
    return _command.main("The service", __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
