"""The torture stays alive: every part runs, tiny, and finds everything as it must be."""

import pytest

from tests.servers import PostgresServer
from tests.torture import log
from tests.torture._scale import TINY

SHOWS = {
    "killed-process": ("G1", "G2"),
    "killed-server": ("G1", "G2"),
    "sweepers": ("G2",),
    "tail": ("G1",),
    "races": ("G1", "G2"),
    "irc": (),
    "killed-import": ("G1", "G2", "P5.6"),
    "memory": ("P5.6",),
    "rebuild": ("P5.6",),
}
"""Part -> rows of docs/requirements.md."""


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=pytest.mark.row(*SHOWS[part])) for part in log.PARTS]
)
def test_each_part_of_the_torture_finds_the_log_whole(
    part: str, postgres_server: PostgresServer
) -> None:
    """Nothing acknowledged is lost, nothing is doubled, skipped or miscounted."""
    rows = list(log.PARTS[part](TINY, postgres_server))
    assert rows or part == "irc"
    assert [row for row in rows if not row.ok] == []
