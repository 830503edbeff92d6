"""Whatever people send is data: it comes back as it was or is refused, and stands nowhere else."""

import gzip
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.acceptance import databases
from tests.adapters.http.conftest import Site

CLASSICS = (
    "'; DROP TABLE sessions; --",
    "x' OR '1'='1' UNION SELECT * FROM vault --",
    '"><script>alert(document.cookie)</script>',
    "../../../../etc/passwd/../shadow",
    "..\\..\\windows\\system32\\config",
    "${jndi:ldap://203.0.113.7/a}{{7*7}}%(name)s%n%s",
    "$(rm -rf /tmp/x)`id`|cat /etc/hosts",
    "\u202egnp.exe\u202c \u200b\ufeff\U0001f4a9\u0301",
    "NULL-or-None-or-undefined-or-NaN",
    "%00%0d%0aSet-Cookie:%20a=b",
    "x\\u0000y\\ud800z-escaped-only",
)
CONTROL = ("canary\x00null", "canary\r\nSet-Cookie: a=b", "canary\x1b[31mred", "canary\x7f")


@pytest.fixture(scope="module")
def hostile(shared_data: Path) -> list[str]:
    """Requests, referrers and browsers of an attackers' log, and what attackers send elsewhere.
    Only what is long enough to be nobody else's."""
    packed = (shared_data / "weblog_attackers" / "hackers-access.log.gz").read_bytes()
    lines = gzip.decompress(packed).decode("latin-1").splitlines()
    quoted = {part for line in lines for part in line.split('"')[1::2]}
    found = sorted(one for one in quoted if 20 <= len(one) <= 320)
    assert len(found) > 90
    return [*CLASSICS, *found]


def test_hostile_strings_are_data_and_stand_nowhere_else(
    site: Site,
    live: str,
    hostile: list[str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As names, subjects, owners, in items: returned as they were. As keys, queries, headers and
    paths: taken or refused. In no error, event, audit, log line or raw file of the database."""
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {site.token('admin')}"}
    before = site.ask("GET", "/v1/policies", role="admin")
    session = site.session()
    path = f"/v1/sessions/{session}"
    said = []
    with httpx2.Client(base_url=live, headers=headers) as client:
        names = {}
        for one in hostile:
            body = {"subject": one, "name": one[:80]}
            joined = client.post(f"{path}/participants", json=body)
            assert joined.status_code == 201
            names[joined.json()["token"]] = one[:80]
        assert len(names) == len(hostile)
        listed = client.get(f"{path}/participants?limit=1000").json()["participants"]
        assert {one["token"]: one["name"] for one in listed} == names

        records: list[dict[str, Any]] = [{one: one, "in": [{one: [one]}]} for one in hostile]
        item = client.post(f"{path}/items", json={"kind": "metrics", "records": records})
        assert item.status_code == 201
        assert client.get(item.headers["location"]).json()["records"] == records

        for one in hostile[:: max(1, len(hostile) // 30)]:
            made = client.post("/v1/sessions", json={"policy": "reading-room", "owner": one})
            owned = client.post(
                "/v1/sessions/search", json={"policy": "reading-room", "owner": one}
            ).json()["sessions"]
            assert [each["id"] for each in owned] == [made.json()["id"]]
            said += [made.text, *refused(client, path, one)]
    said += [str(site.ask("GET", f"{way}?limit=1000", role="admin")) for way in WAYS]
    # Not those of the client, nor the server's access log: it is off unless it has a handler, and
    # pytest gives it one.
    others = ("httpx2", "httpcore2", "uvicorn.access")
    logged = [one.getMessage() for one in caplog.records if not one.name.startswith(others)]
    text = "\n".join([*said, *capfd.readouterr(), *logged])
    assert [one for one in hostile if one in text or one[:80] in text] == []
    assert site.ask("GET", "/v1/policies", role="admin") == before
    assert site.lapse.log.head() == len(site.lapse.log.read(0, 10_000))
    url = site.lapse.settings.database_url
    assert databases.holds(url, session.encode())  # what is written can be found
    assert in_files(url, hostile) == []


WAYS = ("/v1/events", "/v1/audit", "/v1/audit/requests", "/v1/sessions")


def refused(client: httpx2.Client, path: str, one: str) -> list[str]:
    """What is answered where such a string is no data: never a success that took it, nor a failure
    of the service. The texts of the answers."""
    segment, plain = quote(one, safe=""), one.encode("ascii", "ignore").decode()
    answers = [
        client.get(f"/v1/sessions/{segment}"),
        client.get(f"/v1/policies/{segment}"),
        client.get(f"{path}/items/{segment}"),
        client.get(f"/docs/{segment}"),
        client.get("/v1/sessions", params={"policy": one}),
        client.get("/v1/sessions", params={"after": one}),
        client.get("/v1/audit", params={"event": one}),
        client.get("/v1/audit", params={"after": one[:100]}),
        client.get("/v1/events", params={"after": one[:200]}),
        client.post(f"{path}/items", params={"kind": one}, content=b"x"),
        client.post("/v1/sessions", json={"policy": one}),
        client.post("/v1/sessions", json={"policy": "reading-room", one: one}),
        client.post("/v1/sessions", content=one.encode(), headers=JSON),
        client.post("/v1/invites/redeem", json={"invite": one}),
        client.get(path, headers={"Authorization": f"Bearer {plain}"}),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500, (answer.request.url, answer.status_code)
        kind = answer.headers["content-type"]
        assert kind == "application/problem+json"
    taken = [
        client.get(path, headers={"If-None-Match": plain[:200]}),
        client.post(f"{path}/complete", headers={"Idempotency-Key": plain[:200]}),
        client.get("/health/live", headers={"X-Request-Id": plain, "User-Agent": plain}),
    ]
    assert all(answer.status_code < 500 for answer in taken)
    return [f"{answer.headers} {answer.text}" for answer in (*answers, *taken)]


JSON = {"Content-Type": "application/json"}


def in_files(url: str, canaries: list[str]) -> list[str]:
    """Those that stand in any file of the database; each file is read once."""
    found = set()
    for path in databases.folder_of(url).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found |= {one for one in canaries if one.encode() in content}
    return sorted(found)


@pytest.mark.parametrize("one", CONTROL)
def test_control_characters_are_refused_as_names_and_kept_in_items(site: Site, one: str) -> None:
    """A name may reach a terminal or a header; a record is whatever it is."""
    session = site.session()
    path = f"/v1/sessions/{session}"
    for body in ({"subject": one}, {"name": one}):
        problem = site.ask("POST", f"{path}/participants", body, expect=422)
        assert "canary" not in str(problem)
    problem = site.ask("POST", "/v1/sessions", {"policy": "reading-room", "owner": one}, expect=422)
    assert "canary" not in str(problem)
    records = [{one: one}]
    stored = site.ask("POST", f"{path}/items", {"kind": "text", "records": records}, expect=201)
    assert site.ask("GET", f"{path}/items/{stored['id']}")["records"] == records
