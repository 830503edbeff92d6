"""A process that dies between any two steps of an erasure: the next one completes it, and nothing
was reported done that was not."""

from pathlib import Path
from typing import Any

import pytest

from domain.erasure import Status
from domain.errors import StoreUnavailable
from domain.facts import Verification, Waiting
from domain.policy import MINUTE
from tests.contracts.conftest import sql_store  # noqa: F401 - the fixture, for every test here
from tests.contracts.stores import SqlStore
from tests.deaths import Killed, killed_at
from tests.use_cases.offices import OFFICER, TEN, Office, Scan, another_process, opened_office

LATER = TEN + 1
STRIDE = 3
"""Every so many statements one is the last; offset by database, so that both together see most."""


@pytest.fixture
def office(sql_store: SqlStore, tmp_path: Path) -> Office:  # noqa: F811
    return opened_office(sql_store, tmp_path, Scan())


class Person:
    """Somebody in a room of their own and in one with others, who asks to be erased."""

    def __init__(self, office: Office, name: str) -> None:
        self.office = office
        self.name = name
        self.alone = office.room(name)[0]
        self.shared, self.tokens = office.room(name, "bob", "eve", policy="redact")
        records = [{"participant": token, "x": 1} for token in self.tokens.values()]
        self.item = office.put(self.shared, records, *self.tokens.values())
        office.put(self.shared, [{"x": 5}], self.tokens[name])
        asked = office.requests.of_subject(name, Verification.CONTROLLER, LATER, OFFICER)
        self.request = asked.request.id

    def is_gone(self) -> bool:
        token = self.tokens[self.name]
        tables = ("presence", "subject_index", "data_keys", "partials", "items")
        left = [str(self.office.rows(table, self.shared)) for table in tables]
        return not any(token in one for one in left) and not self.office.rows(
            "presence", self.alone
        )

    def assert_complete(self) -> None:
        assert self.is_gone()
        assert self.office.told(self.alone).count("erased") == 1
        assert len(self.office.read(self.shared, self.item, LATER)) == 2
        told = self.office.told(self.request)
        assert told == ["received", "executed", "verified"]


def test_killed_between_any_two_steps_it_completes(office: Office) -> None:
    """At every third statement and commit; then another process goes on."""
    with killed_at(None) as whole:
        person = Person(office, "somebody")
        before = whole.count
        office.requests.advance(person.request, LATER)
    steps = whole.count - before
    assert steps > 30
    person.assert_complete()
    first = 1 if office.store.is_postgresql else 2
    for last in range(first, steps + 1, STRIDE):
        person = Person(office, f"person-{last}")
        with killed_at(last), pytest.raises(Killed):
            office.requests.advance(person.request, LATER)
        found = office.requests.find(person.request).request
        if found.status is not Status.REQUESTED:
            assert person.is_gone(), last
        else:
            assert not person.is_gone(), last
        restarted = another_process(office.store, office.keyring, office.scan)
        restarted.requests.advance(person.request, LATER)
        person.assert_complete()


def test_a_commit_whose_answer_is_lost_is_found_out(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written, and nobody was told: the request says so when it is looked at again."""
    person = Person(office, "ann")
    erase = office.requested.erase

    def lose_the_answer(*arguments: Any, **more: Any) -> None:
        erase(*arguments, **more)
        raise StoreUnavailable("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(office.requested, "erase", lose_the_answer)
        with pytest.raises(StoreUnavailable):
            office.requests.advance(person.request, LATER)
        row = office.requests.failed(person.request, LATER)
    assert (row.request.status, row.request.reason) == (Status.EXECUTED, Waiting.STORE)
    row = office.requests.advance(person.request, LATER + MINUTE)
    assert (row.request.status, row.request.reason) == (Status.VERIFIED, None)
    assert person.is_gone()


def test_two_processes_at_one_request(office: Office) -> None:
    """Whichever comes second finds it done; there is one erasure."""
    person = Person(office, "ann")
    other = another_process(office.store, office.keyring, office.scan)
    office.requests.advance(person.request, LATER)
    other.requests.advance(person.request, LATER)
    person.assert_complete()
