"""Erasure under torture: people join, store and are erased by request, while one of two instances
on one PostgreSQL is killed with `kill -9`, again and again.

    python3 dev.py torture erasure [--json] [--quick] [--only PART]

PostgreSQL is a private server with fsync on. Everything is on loopback, bounded in count and time,
and only processes that it started are ended.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from tests.benchmarks import _command
from tests.benchmarks._report import Row
from tests.servers import PostgresServer
from tests.torture import _erasures
from tests.torture._http_scale import FULL, QUICK, HttpScale

PARTS: Mapping[str, Callable[[HttpScale, PostgresServer], Iterator[Row]]] = {
    "requests": _erasures.requests,
}


def main(arguments: list[str]) -> int:
    title = "Erasure under torture"
    return _command.main(title, __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
