"""The torture stays alive: every part runs, tiny, and finds everything as it must be."""

import pytest

from tests.servers import PostgresServer
from tests.torture import _http_scale, erasure, http, log, storage
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


@pytest.mark.row("G1", "G2")
def test_an_instance_that_is_killed_takes_nothing_along(postgres_server: PostgresServer) -> None:
    """What was acknowledged stays, nothing happens twice, watchers miss nothing."""
    rows = list(http.PARTS["killed-instance"](_http_scale.TINY, postgres_server))
    assert rows
    assert [row for row in rows if not row.ok] == []


@pytest.mark.row("P1.5")
def test_sessions_give_back_what_they_cost(postgres_server: PostgresServer) -> None:
    """Bytes in the database, and none of them in the memory of the service."""
    rows = list(storage.PARTS["tiers"](_http_scale.TINY, postgres_server))
    assert rows
    assert [row for row in rows if not row.ok] == []


@pytest.mark.row("G4", "G5")
def test_whoever_asked_is_erased_whatever_is_killed(postgres_server: PostgresServer) -> None:
    """Nothing of them is left, nobody else lost anything, and the log verifies."""
    rows = list(erasure.PARTS["requests"](_http_scale.TINY, postgres_server))
    assert rows
    assert [row for row in rows if not row.ok] == []
