"""The log of requests, by itself."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import Connection

from adapters.http.requests import Entry, RequestLog
from adapters.log.engine import Engines, StoreBusy, open_engines
from domain.policy import DAY
from tests.adapters.http.conftest import START


def entry(at: int = START) -> Entry:
    """Of a request whose answer held personal data: it is on disk before `record` returns."""
    return Entry(
        at, "a" * 32, "producer", "GET", "/v1/sessions/{session_id}", 200, 1, None, "owner"
    )


@pytest.fixture
def engines(database_url: str) -> Iterator[Engines]:
    with closing(open_engines(database_url)) as opened:
        yield opened


def test_a_month_whose_table_could_not_be_made_is_tried_again(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who came meanwhile are told; those who come later are written down."""
    write = engines.write
    refusals = [StoreBusy("others kept the database busy for too long; try again")]

    @contextmanager
    def refusing_once() -> Iterator[Connection]:
        if refusals:
            raise refusals.pop()
        with write() as connection:
            yield connection

    monkeypatch.setattr(engines, "write", refusing_once)
    with closing(RequestLog(engines)) as requests:
        with pytest.raises(StoreBusy):
            requests.record(entry())
        requests.record(entry())
        assert [found for _, found in requests.page()] == [entry()]


def test_two_instances_begin_a_month(engines: Engines) -> None:
    """At the same moment; whoever comes second finds the table there."""
    months = [START + number * 31 * DAY for number in range(12)]
    with (
        closing(RequestLog(engines)) as one,
        closing(RequestLog(engines)) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        for at in months:
            list(pool.map(lambda requests, at=at: requests.record(entry(at)), (one, other)))
        assert len(one.page()) == len(other.page()) == 2 * len(months)
