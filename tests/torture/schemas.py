"""The service under made-up requests, thousands per database, held against its OpenAPI document.

    python3 dev.py torture schemas [--json] [--quick] [--only PART]

The short form of it runs with the tests: tests/adapters/http/test_described.py.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.adapters.http.conftest import opened_site
from tests.benchmarks import _command
from tests.benchmarks._report import Row, exactly
from tests.servers import PostgresServer
from tests.torture._schemas import Plan, described, told

FULL = Plan(examples=300)
QUICK = Plan(examples=3)


def on_sqlite(plan: Plan, _server: PostgresServer) -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        database = Path(folder) / "database"
        database.mkdir()
        yield from _rows("SQLite", f"sqlite:///{database / 'lapse.db'}", plan)


def on_postgres(plan: Plan, server: PostgresServer) -> Iterator[Row]:
    url = server.create_database()
    yield from _rows("PostgreSQL", url, plan)
    server.drop_database(url)


def _rows(name: str, url: str, plan: Plan) -> Iterator[Row]:
    with (
        TemporaryDirectory() as folder,
        opened_site(url, (Path(folder) / "keys").as_uri(), Path(folder)) as site,
    ):
        found = described(site, plan)
    for failure in told(found):
        _command.say(failure)
    asked = found.requests.total()
    failures = len(found.failures) + len(found.errors)
    yield Row(f"{name}: requests made up", asked, None, None, None, asked > 0)
    yield exactly(f"{name}: answers unlike the document", failures, 0)


PARTS: Mapping[str, Callable[[Plan, PostgresServer], Iterator[Row]]] = {
    "sqlite": on_sqlite,
    "postgresql": on_postgres,
}


def main(arguments: list[str]) -> int:
    title = "The service under made-up requests"
    return _command.main(title, __doc__ or "", PARTS, FULL, QUICK, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
