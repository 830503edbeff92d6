"""The service over HTTP under torture: `kill -9` of one of two instances on one PostgreSQL, again
and again, while applications send commands and others watch.

    python3 dev.py torture http [--json] [--quick] [--only PART]

PostgreSQL is a private server with fsync on. Everything is on loopback, bounded in count and time,
and only processes that it started are ended.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from tests.benchmarks import _command
from tests.benchmarks._report import Row
from tests.servers import PostgresServer
from tests.torture import _instances
from tests.torture._http_scale import FULL, QUICK, HttpScale

PARTS: Mapping[str, Callable[[HttpScale, PostgresServer], Iterator[Row]]] = {
    "killed-instance": _instances.killed_instance,
}


def main(arguments: list[str]) -> int:
    title = "The service under torture"
    return _command.main(title, __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
