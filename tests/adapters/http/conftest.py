"""The HTTP application in this process, on both databases, with a clock that the test moves."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from adapters.clock import format_instant
from adapters.http.app import create_app
from adapters.http.feed import Feed
from adapters.http.requests import RequestLog
from adapters.http.server import bind, serving, url_of
from adapters.http.service import Service, opened_heartbeats
from adapters.http.tokens import Role, Tokens, open_signing_key
from adapters.settings import load_settings
from adapters.wiring import Lapse, open_lapse
from domain.policy import HOUR
from domain.use_cases.sweep import sweep

START = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""


@dataclass
class Site:
    """Lapse over HTTP. `now` moves when the test says so, and nothing sweeps by itself."""

    client: TestClient
    lapse: Lapse
    service: Service
    clock: Path

    @property
    def now(self) -> int:
        return self.service.now()

    def wait(self, micros: int) -> None:
        new = self.clock.with_suffix(".new")  # renamed, so that nobody reads half a time
        new.write_text(str(format_instant(self.now + micros)))
        new.replace(self.clock)

    def sweep(self) -> None:
        sweep(self.lapse.log, self.lapse.policies.refresh(), self.now, "sweeper")

    def token(self, role: str, *policies: str) -> str:
        return self.service.tokens.mint(
            Role(role), HOUR * 1_000, f"{role}-of-the-test", policies=policies or None
        )

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: str = "producer",
        token: str | None = None,
        expect: int | None = 200,
        **headers: str,
    ) -> Any:
        """The answer's JSON (None without a body); fails unless the status is `expect`."""
        token = token or self.token(role)
        answer = self.client.request(
            method,
            path,
            json=body,
            headers={
                "Authorization": f"Bearer {token}",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )
        assert expect in (None, answer.status_code), (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def session(self, policy: str = "reading-room", **body: Any) -> str:
        found = self.ask("POST", "/v1/sessions", {"policy": policy, **body}, expect=201)
        return str(found["id"])

    def join(self, session: str, subject: str = "ann", **body: Any) -> Mapping[str, Any]:
        path = f"/v1/sessions/{session}/participants"
        found: Mapping[str, Any] = self.ask("POST", path, {"subject": subject, **body}, expect=201)
        return found


@pytest.fixture
def live(site: Site) -> Iterator[str]:
    """The address at which the same application answers over loopback: for streams."""
    listening = bind("127.0.0.1", 0)
    with serving(site.client.app, listening):
        yield url_of(listening)


@pytest.fixture
def site(database_url: str, key_url: str, tmp_path: Path) -> Iterator[Site]:
    with opened_site(database_url, key_url, tmp_path) as opened:
        yield opened


@contextmanager
def opened_site(database_url: str, key_url: str, folder: Path) -> Iterator[Site]:
    """folder: where the clock lies."""
    clock = folder / "clock"
    clock.write_text(str(format_instant(START)))
    settings = load_settings(
        database_url=database_url,
        key_url=key_url,
        env="test",
        clock=f"file:{clock}",
        rate_limit="100000/hour",
        examples=True,
    )
    with (
        open_lapse(settings) as lapse,
        closing(RequestLog(lapse.engines)) as requests,
    ):
        key = open_signing_key(settings.key_folder)
        tokens = Tokens(key, lapse.keyring.lookup, lapse.clock)
        with (
            closing(opened_heartbeats(lapse)) as heartbeats,
            Feed(lapse.log, lapse.engines, lapse.keyring.shared_key("progress")) as feed,
        ):
            service = Service(lapse, tokens, requests, heartbeats, store="test")
            app = create_app(service, feed)
            with TestClient(app) as client:
                yield Site(client, lapse, service, clock)
