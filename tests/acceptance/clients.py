"""Applications that ask a `lapse serve` over HTTP."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.acceptance.commands import Installation, Running
from tests.servers import wait_until

PATIENCE = 60.0
"""Seconds after which an answer is taken not to come."""


class Client:
    """Somebody who holds a token and asks a service. http: for what is no JSON."""

    def __init__(self, site: Installation, service: Running, role: str, *policies: str) -> None:
        options = [option for name in policies for option in ("--policy", name)]
        self.token = site.lapse("token", "--role", role, "--ttl", "300d", *options).out.strip()
        self.http = httpx2.Client(
            base_url=service.url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=PATIENCE,
            limits=httpx2.Limits(max_connections=64),
        )

    def ask(
        self, method: str, path: str, body: Any = None, *, expect: int = 200, **headers: str
    ) -> Any:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.http.request(method, path, json=body, headers=headers)
        assert answer.status_code == expect, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def status(self, method: str, path: str, body: Any = None) -> int:
        return self.http.request(method, path, json=body).status_code

    def create(self, policy: str, **body: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.ask(
            "POST", "/v1/sessions", {"policy": policy, **body}, expect=201
        )
        return found

    def close(self) -> None:
        self.http.close()


@contextmanager
def client(
    site: Installation, service: Running, role: str = "producer", *policies: str
) -> Iterator[Client]:
    found = Client(site, service, role, *policies)
    try:
        yield found
    finally:
        found.close()


def eventually(client: Client, path: str, **expected: Any) -> Mapping[str, Any]:
    """What a path answers, once it answers with these values."""
    found: dict[str, Any] = {}

    def there() -> bool:
        found.update(client.ask("GET", path))
        return all(found.get(name) == value for name, value in expected.items())

    wait_until(there, 30, f"{path} to say {expected}")
    return found
