"""Ledger and evidence store are away: nothing is said to be done that they do not know of, an alert
stands, and all goes on when they are back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from adapters.notify.alerts import Alerts
from adapters.scheduler.requests import RequestWorker
from adapters.wiring import Lapse
from domain.erasure import ErasureRequest, Status
from domain.errors import LedgerUnavailable
from domain.facts import Verification, Waiting
from domain.ledger import Kind
from domain.policy import HOUR, MINUTE
from tests.adapters.installations import Opened, opened
from tests.proxies import Proxy
from tests.s3 import Bucket, open_bucket

ACTOR = "application"


class Away(Protocol):
    """Where something is kept, which can be taken away and brought back."""

    url: str

    def take(self) -> None: ...

    def bring_back(self) -> None: ...


class Folder:
    """Its place is taken by a file."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._moved = folder, folder.with_suffix(".away")
        self.url = folder.as_uri()
        folder.mkdir()

    def take(self) -> None:
        self._folder.rename(self._moved)
        self._folder.touch()

    def bring_back(self) -> None:
        self._folder.unlink()
        self._moved.rename(self._folder)


class Remote:
    """A bucket behind a network."""

    def __init__(self, bucket: Bucket, prefix: str, proxy: Proxy) -> None:
        self.url = f"s3://{bucket.name}/{prefix}"
        self.take, self.bring_back = proxy.cut, proxy.mend


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with open_bucket() as made:
        yield made


@pytest.fixture(params=["folder", "s3"])
def away(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Away]:
    if request.param == "folder":
        yield Folder(tmp_path / "kept")
        return
    bucket: Bucket = request.getfixturevalue("bucket")
    proxy = Proxy(bucket.url)
    for name, value in {**bucket.environment, "AWS_ENDPOINT_URL": proxy.url}.items():
        monkeypatch.setenv(name, value)
    yield Remote(bucket, tmp_path.name, proxy)
    proxy.close()


def asked(here: Opened) -> str:
    """Ann, who is in a room with others, asks to be erased; the request."""
    lapse, now = here.lapse, here.now
    room = lapse.sessions.create("reading-room", now, ACTOR).id
    for name in ("ann", "bob"):
        lapse.sessions.join(room, name, now, ACTOR)
    return lapse.requests.of_subject("ann", Verification.CONTROLLER, now, ACTOR).request.id


def found(lapse: Lapse, request: str) -> ErasureRequest:
    return lapse.requests.find(request).request


def is_known(lapse: Lapse, name: str) -> bool:
    return bool(lapse.vault.subjects([lapse.keyring.lookup("subject", name)]))


@pytest.mark.row("G5")
def test_an_erasure_waits_for_the_ledger(
    database_url: str, key_url: str, tmp_path: Path, away: Away
) -> None:
    """It stays pending with its reason, and nothing of it is done; whatever needs no ledger goes
    on; when the ledger is back, so does the erasure."""
    with opened(database_url, key_url, tmp_path, ledger_url=away.url) as here:
        lapse, alerts = here.lapse, here.lapse.alerts
        worker = RequestWorker(lapse.requests, alerts, lapse.clock)
        request = asked(here)
        away.take()
        for _ in range(2):
            worker.look()
            waiting = found(lapse, request)
            assert (waiting.status, waiting.reason) == (Status.REQUESTED, Waiting.STORE)
            assert is_known(lapse, "ann")
            assert failing(alerts) == {"ledger", "request-failed"}
            here.wait(MINUTE)
        with pytest.raises(LedgerUnavailable):
            lapse.requests.advance(request, here.now)
        lapse.sessions.create("reading-room", here.now, ACTOR)
        away.bring_back()
        here.wait(HOUR)
        worker.look()
        done = found(lapse, request)
        assert (done.status, done.reason) == (Status.EXECUTED, None)
        assert (is_known(lapse, "ann"), is_known(lapse, "bob")) == (False, True)
        assert failing(alerts) == set()
        told = [entry.kind for entry in lapse.restoring._ledger.ledger.read(0)]
        assert told[-2:] == [Kind.REDACTED, Kind.REQUEST]


def failing(alerts: Alerts) -> set[str]:
    return {name for name, stands in alerts.standing().items() if stands}


def test_a_log_goes_on_while_its_evidence_cannot_be_written(
    database_url: str, key_url: str, tmp_path: Path, away: Away
) -> None:
    """An alert stands; what was signed meanwhile is written when the store is back."""
    with opened(
        database_url, key_url, tmp_path, evidence_url=away.url, checkpoint_every="1m"
    ) as here:
        lapse, alerts = here.lapse, here.lapse.alerts
        sign(here)
        assert failing(alerts) == set()
        request = asked(here)
        away.take()
        here.wait(HOUR)
        sign(here)
        assert failing(alerts) == {"checkpoint-failed"}
        lapse.requests.advance(request, here.now)
        assert found(lapse, request).status is Status.EXECUTED
        away.bring_back()
        here.wait(MINUTE)
        sign(here)
        assert failing(alerts) == set()
        assert lapse.evidence is not None
        latest = lapse.checkpoints.latest()
        assert latest is not None
        assert lapse.evidence.latest_checkpoint() == latest.note


def sign(here: Opened) -> None:
    """As a service does every second."""
    here.lapse.tree.follow()
    here.lapse.checkpoints.run_due(here.now)
