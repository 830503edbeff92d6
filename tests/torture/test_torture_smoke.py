"""The torture stays alive: every part runs, tiny, and finds everything as it must be."""

import pytest

from tests.servers import PostgresServer
from tests.torture import log
from tests.torture._scale import TINY


@pytest.mark.row("G1")
@pytest.mark.parametrize("part", log.PARTS)
def test_each_part_of_the_torture_finds_the_log_whole(
    part: str, postgres_server: PostgresServer
) -> None:
    """Nothing acknowledged is lost, nothing is doubled, skipped or miscounted."""
    rows = list(log.PARTS[part](TINY, postgres_server))
    assert rows or part == "irc"
    assert [row for row in rows if not row.ok] == []
