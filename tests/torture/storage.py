"""What sessions cost while all is kept, when only their figures are, and after their erasure: bytes
in the database, and memory of the service.

    python3 dev.py torture storage [--json] [--quick] [--only PART]
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from tests.benchmarks import _command
from tests.benchmarks._report import Row
from tests.servers import PostgresServer
from tests.torture import _tiers
from tests.torture._http_scale import FULL, QUICK, HttpScale

PARTS: Mapping[str, Callable[[HttpScale, PostgresServer], Iterator[Row]]] = {
    "tiers": _tiers.tiers,
}


def main(arguments: list[str]) -> int:
    title = "What sessions cost, tier by tier"
    return _command.main(title, __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
