"""The benchmark stays alive: every part runs, tiny and untimed. It says nothing about speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import _http_scale, _proving, _wrk, erasure, http, log, proofs
from tests.benchmarks import _report as report
from tests.benchmarks._scale import TINY
from tests.servers import PostgresServer

CHECKOUT = Path(__file__).resolve().parents[2]
ROW = {"name", "ours", "peer", "ratio", "bar", "ok"}

pytest.importorskip("psycopg", reason="the library's PostgreSQL recorder wants psycopg 3")


@pytest.mark.filterwarnings("default")  # of the library, at a peer's expense
@pytest.mark.parametrize("part", log.PARTS)
def test_each_part_of_the_benchmark_compares_ours_with_a_peer(
    part: str, postgres_server: PostgresServer
) -> None:
    """Whatever the figures are, there are some, of both."""
    rows = list(log.PARTS[part](TINY, postgres_server))
    assert rows
    for row in rows:
        assert row.ours is not None
        assert row.peer is not None
        assert min(row.ours, row.peer) > 0


@pytest.mark.parametrize("part", proofs.PARTS)
def test_each_part_of_the_benchmark_of_proofs_has_figures(
    part: str, postgres_server: PostgresServer
) -> None:
    """A tree is followed and filled, and asked for proofs."""
    rows = list(proofs.PARTS[part](_proving.TINY, postgres_server))
    assert rows
    for row in rows:
        assert row.ours is not None
        assert row.ours > 0


@pytest.mark.parametrize(
    "part", [part for part in http.PARTS if part in ("sockets", "live") or _wrk.is_installed()]
)
def test_each_part_of_the_benchmark_of_http_has_figures(
    part: str, postgres_server: PostgresServer
) -> None:
    """A service is started, asked and measured; parts that want `wrk` run where it is installed."""
    rows = list(http.PARTS[part](_http_scale.TINY, postgres_server))
    assert rows
    for row in rows:
        assert row.ours is not None
        assert row.ours > 0


def test_the_benchmark_of_erasure_has_figures(postgres_server: PostgresServer) -> None:
    """A person is erased beside 10 000 events and beside 100 000."""
    rows = list(erasure.PARTS["subject"](erasure.TINY, postgres_server))
    assert len(rows) == 3
    assert all(row.ours is not None and row.ours > 0 for row in rows)


def test_the_benchmark_prints_the_rows_that_its_readers_expect() -> None:
    """`--json` prints nothing but a list of rows; the exit code says whether all bars were met."""
    command = [sys.executable, "-m", "tests.benchmarks.log", "--json", "--quick"]
    ended = subprocess.run(
        [*command, "--only", "single-sqlite"],
        cwd=CHECKOUT,
        capture_output=True,
        timeout=120,
        check=False,
    )
    rows = json.loads(ended.stdout)
    assert [set(row) for row in rows] == [ROW] * len(rows)
    assert ended.returncode == (0 if all(row["ok"] for row in rows) else 1)


def test_a_ratio_below_its_bar_is_not_good() -> None:
    """The median counts, not the best round."""
    slow, fast = report.Figure((50.0, 70.0, 200.0)), report.Figure((100.0, 100.0, 100.0))
    below = report.compared("ours", slow, fast, 0.8)
    assert (below.ours, below.ratio, below.ok) == (70.0, 0.7, False)
    assert report.compared("ours", slow, fast, 0.7).ok
    assert report.compared("ours", slow, fast).ok
    assert not report.required("ours", slow, 70.1).ok


def test_figures_that_must_be_alike_may_differ_both_ways_only_so_far() -> None:
    """A fifth more is alike, a quarter more is not, whichever of the two it is."""
    less, more, much = report.Figure((100.0,)), report.Figure((120.0,)), report.Figure((125.0,))
    assert report.alike("memory", less, more, 0.2).ok
    assert report.alike("memory", more, less, 0.2).ok
    assert not report.alike("memory", less, much, 0.2).ok
    assert not report.alike("memory", much, less, 0.2).ok


def test_a_part_that_breaks_off_is_not_good() -> None:
    """Its row says so and has no figures."""
    row = report.did_not_finish("sweep", TimeoutError())
    assert not row.ok
    assert row.document()["ours"] is None


def test_a_count_must_be_exact() -> None:
    """One too many is as wrong as one too few."""
    assert report.exactly("events", 5, 5).ok
    assert not report.exactly("events", 6, 5).ok
    assert not report.exactly("events", 4, 5).ok
    assert report.exactly("lost", 0, 0).ok
    assert not report.exactly("lost", 1, 0).ok


def test_the_table_names_every_row_and_what_failed() -> None:
    """Markdown for people: one line per row, failures in bold."""
    rows = [report.exactly("gaps", 0, 0), report.exactly("lost", 1, 0)]
    table = report.as_markdown("Log", rows).splitlines()
    assert table[-2].startswith("| gaps | 0 | 0 | 1.00 |")
    assert "**no**" in table[-1]
