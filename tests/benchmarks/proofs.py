"""The tree behind the log: what it costs an append, how long a proof takes.

    python3 dev.py bench proofs [--json] [--quick] [--only PART]

PostgreSQL is a private server with fsync on. Contestants take turns, the median counts.
docs/explanation/proof.md says what the figures mean.
"""

import sys
from collections.abc import Callable, Iterator, Mapping

from tests.benchmarks import _command, _proving
from tests.benchmarks._proving import FULL, QUICK, ProofScale
from tests.benchmarks._report import Row
from tests.servers import PostgresServer

PARTS: Mapping[str, Callable[[ProofScale, PostgresServer], Iterator[Row]]] = {
    "append": _proving.appending,
    "proof": _proving.proving,
}


def main(arguments: list[str]) -> int:
    return _command.main("The tree behind the log", __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
