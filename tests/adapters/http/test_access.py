"""Who may do what, and what becomes of those who may not."""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from adapters.http.access import ACCESS
from adapters.http.problems import described_path
from adapters.http.rates import Rates
from adapters.http.tokens import Role
from domain.errors import StoreBusy
from domain.policy import DAY, HOUR, MINUTE
from tests.adapters.http.conftest import Site

ID = "0" * 32

PAGES = {
    ("GET", path)
    for path in ("/docs", "/docs/{file}", "/static/lapse.js", "/examples/", "/examples/{file}")
}
"""Files for browsers: no part of the document."""
NO_METHODS = {(method, "/v1/sessions/search") for method in ("DELETE", "GET")}
"""405 for everybody: `search` would pass for a session's id."""


def operations(site: Site) -> Iterator[tuple[str, str]]:
    document = site.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            yield method.upper(), path


def routes(found: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Method and path of each; a WebSocket begins as a GET."""
    for route in found:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from routes(included.routes)
        else:
            for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}:
                yield method, described_path(route)


def concrete(path: str) -> str:
    named = {"session_id": ID, "name": "reading-room", "level": "0", "tile": "000.p/1"}
    for name, value in named.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def test_every_path_of_the_document_stands_in_the_table(site: Site) -> None:
    """And the table names no path that is not there."""
    assert {*operations(site), ("GET", "/openapi.json"), *PAGES} == set(ACCESS)


def test_every_route_stands_in_the_table(site: Site) -> None:
    """Also those that the document does not show: what needs no token is named one by one."""
    app: Any = site.client.app
    assert set(routes(app.routes)) == set(ACCESS) | NO_METHODS
    public = {path for (_, path), roles in ACCESS.items() if not roles}
    hashes = {"/v1/checkpoint", "/v1/tile/{level}/{tile}", "/v1/sessions/{session_id}/certificate"}
    assert {path for path in public if path.startswith("/v1")} == hashes


def test_nothing_answers_without_a_token_but_what_is_public(site: Site) -> None:
    """401 with a challenge, whatever the body."""
    for method, path in operations(site):
        answer = site.client.request(method, concrete(path))
        if ACCESS[method, path]:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.headers["Content-Type"] == "application/problem+json"
        else:
            # No such session has ended: that is all a stranger learns.
            expected = 404 if path.endswith("/certificate") else 200
            assert answer.status_code == expected, (method, path)


@pytest.mark.parametrize(
    "role", [role for role in Role if role not in (Role.PARTICIPANT, Role.INVITE)]
)
def test_each_role_may_do_what_the_table_says(site: Site, role: Role) -> None:
    """Allowed ones get past the door, to whatever their request deserves."""
    token = site.token(role)
    for method, path in operations(site):
        roles = ACCESS[method, path]
        if path.endswith("/stream") and role in roles:
            continue  # it would never end: test_live.py
        answer = site.client.request(
            method, concrete(path), headers={"Authorization": f"Bearer {token}"}
        )
        if roles:
            assert (answer.status_code == 403) is (role not in roles), (method, path, answer.text)


def forged(token: str, **changes: Any) -> str:
    """The token with other claims and the old signature."""
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))) | changes
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


def unsigned(token: str) -> str:
    """Algorithm `none`."""
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{head}.{token.split('.')[1]}."


@pytest.mark.row("P4.5")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: "",
        lambda token: "nonsense",
        lambda token: "a.b.c",
        lambda token: token[:-3] + "AAA",
        lambda token: forged(token, role="admin"),
        unsigned,
        lambda token: "x" * 9_000,
        lambda token: "\u00e9" + token,
    ],
)
def test_a_token_that_was_not_signed_here_is_refused(site: Site, spoil: Any) -> None:
    """Cut, forged, unsigned, endless: 401, and none of it comes back."""
    token = spoil(site.token("producer"))
    answer = site.client.get("/v1/sessions", headers={b"Authorization": f"Bearer {token}".encode()})
    assert answer.status_code == 401
    assert len(token) < 10 or token not in answer.text


def test_a_token_expires(site: Site) -> None:
    """To the second of its `exp`, by the clock of the service, although it was verified before."""
    token = site.service.tokens.mint(Role.PRODUCER, MINUTE, "somebody")
    site.ask("GET", "/v1/sessions", token=token)
    site.wait(MINUTE)
    problem = site.ask("GET", "/v1/sessions", token=token, expect=401)
    assert "expired" in problem["detail"]


def test_a_token_for_some_policies_touches_no_others(site: Site) -> None:
    """Neither to create, nor to read, nor in lists and statistics."""
    token = site.token("producer", "web-visit")
    room = site.session("reading-room")
    site.ask("POST", "/v1/sessions", {"policy": "web-visit"}, token=token, expect=201)
    site.ask("POST", "/v1/sessions", {"policy": "reading-room"}, token=token, expect=403)
    for method, path, body in (
        ("GET", f"/v1/sessions/{room}", None),
        ("DELETE", f"/v1/sessions/{room}", None),
        ("POST", f"/v1/sessions/{room}/participants", {"subject": "ann"}),
        ("GET", "/v1/sessions?policy=reading-room", None),
        ("GET", "/v1/policies/reading-room", None),
        ("POST", "/v1/seen", {"seen": [{"session": room, "participant": ID}]}),
    ):
        site.ask(method, path, body, token=token, expect=403)
    assert len(site.ask("GET", "/v1/sessions", token=token)["sessions"]) == 1
    assert set(site.ask("GET", "/v1/statistics", token=token)["policies"]) == {"web-visit"}
    assert [one["name"] for one in site.ask("GET", "/v1/policies", token=token)["policies"]] == [
        "web-visit"
    ]


def test_a_participant_acts_as_themselves_only(site: Site) -> None:
    """Their own heartbeats in their own session, and nothing else."""
    session, other = site.session(), site.session()
    ann, bob = site.join(session, "ann"), site.join(session, "bob")
    token = ann["access_token"]
    path = f"/v1/sessions/{session}"
    site.ask("POST", f"{path}/seen", {}, token=token, expect=202)
    site.ask("GET", path, token=token)
    site.ask("POST", f"{path}/seen", {"participant": bob["token"]}, token=token, expect=403)
    site.ask("POST", f"/v1/sessions/{other}/seen", {}, token=token, expect=403)
    site.ask("DELETE", path, token=token, expect=403)
    site.ask("GET", "/v1/sessions", token=token, expect=403)
    site.ask("POST", f"{path}/leave", {}, token=token)


@pytest.mark.row("P3.7")
def test_every_request_leaves_an_entry(site: Site) -> None:
    """Who, which path, how it ended; what was read of people; nobody's name."""
    session = site.session(owner="host@example.org")
    site.join(session, "ann@example.org", name="Ann")
    site.ask("GET", f"/v1/sessions/{session}/participants")
    site.ask("GET", "/v1/sessions", token=unsigned(site.token("producer")), expect=401)
    site.client.get("/v1/secret-path")
    entries: list[dict[str, Any]] = []
    for _ in range(200):
        entries = site.ask("GET", "/v1/audit/requests", role="auditor")["requests"]
        if len(entries) >= 5:
            break
    said = [(entry["method"], entry["path"], entry["status"], entry["read"]) for entry in entries]
    for expected in (
        ("POST", "/v1/sessions", 201, None),
        ("POST", "/v1/sessions/{session_id}/participants", 201, None),
        ("GET", "/v1/sessions/{session_id}/participants", 200, "participants"),
        ("GET", "/v1/sessions", 401, None),
        ("GET", "(unknown)", 404, None),
    ):
        assert expected in said, expected
    text = json.dumps(entries)
    for secret in ("ann", "Ann", "host@", "secret-path", "of-the-test"):
        assert secret not in text
    assert {entry["session"] for entry in entries} == {session, None}
    site.ask("GET", "/v1/audit/requests", role="operator", expect=403)


@pytest.mark.row("P3.7")
def test_nothing_is_read_that_cannot_be_written_down(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 instead of personal data; what holds none is answered all the same."""
    session = site.session()
    site.join(session, "ann@example.org", name="Ann")

    def refuse(_entry: Any) -> None:
        raise StoreBusy("others kept the database busy for too long; try again")

    monkeypatch.setattr(site.service.requests, "record", refuse)
    path = f"/v1/sessions/{session}/participants"
    headers = {"Authorization": f"Bearer {site.token('producer')}"}
    answer = site.client.get(path, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:lapse:problem:store")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "Ann" not in answer.text
    site.ask("GET", f"/v1/sessions/{session}")
    text = site.client.get(
        "/metrics", headers={"Authorization": f"Bearer {site.token('operator')}"}
    ).text
    assert f'outcome="5xx",path="{path.replace(session, "{session_id}")}"' in text


def test_what_nobody_foresaw_is_told_to_nobody(
    site: Site,
    live: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A problem without details over HTTP, a close code over WebSocket; the log has the class of
    the error and its place, never its text."""
    session = site.session()
    token = site.token("producer")

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("ann@example.org")

    monkeypatch.setattr(site.lapse.sessions, "view", fail)
    answer = httpx2.get(
        f"{live}/v1/sessions/{session}", headers={"Authorization": f"Bearer {token}"}
    )
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:lapse:problem:internal")
    assert answer.headers["Content-Type"] == "application/problem+json"
    address = f"{live.replace('http:', 'ws:')}/v1/sessions/{session}/watch"
    offered = [Subprotocol("lapse"), Subprotocol(f"bearer.{token}")]
    with (
        connect(address, subprotocols=offered) as connection,
        pytest.raises(ConnectionClosed) as closed,
    ):
        connection.recv(timeout=20.0)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    said = "".join(capfd.readouterr()) + caplog.text
    assert said.count("ZeroDivisionError") == 2
    assert "adapters.http.sessions:" in said
    assert "ann@example.org" not in said + answer.text
    assert "Traceback" not in said


def test_entries_are_kept_for_a_year(site: Site) -> None:
    """A month that is over its term goes whole."""
    requests = site.service.requests
    site.session()
    site.ask("GET", f"/v1/sessions/{site.session()}/participants")
    assert requests.page()
    assert requests.forget(site.now + 330 * DAY) == []
    assert requests.forget(site.now + 400 * DAY) == ["requests_2026_01"]
    assert requests.page() == []


def test_bad_input_is_told_where_and_never_repeated(site: Site) -> None:
    """Neither values nor the names of unknown fields come back."""
    for body in (
        {"policy": "reading-room", "ann@example.org": 1},
        {"policy": "ann@example.org"},
        {"policy": "reading-room", "owner": ["ann@example.org"]},
        {"policy": "reading-room", "owner": "ann@example.org\x00"},
        {"policy": "reading-room", "owner": "ann@example.org" * 100},
        ["ann@example.org"],
        "ann@example.org",
    ):
        answer = site.ask("POST", "/v1/sessions", body, expect=422)
        assert answer["type"] == "urn:lapse:problem:invalid"
        assert answer["errors"]
        assert "ann" not in json.dumps(answer)
    headers = {"Authorization": f"Bearer {site.token('producer')}"}
    broken = site.client.post("/v1/sessions", content=b'{"policy": "ann@', headers=headers)
    assert broken.status_code == 422
    assert "ann" not in broken.text


def test_a_body_beyond_the_bound_is_refused(site: Site) -> None:
    """Declared or streamed."""
    headers = {"Authorization": f"Bearer {site.token('producer')}"}
    big = b" " * (site.lapse.settings.http_body + 1)
    answer = site.client.post("/v1/sessions", content=big, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:lapse:problem:too-large")

    def chunks() -> Iterator[bytes]:
        for _ in range(3):
            yield big[: len(big) // 2]

    assert site.client.post("/v1/sessions", content=chunks(), headers=headers).status_code == 413


def test_a_policy_is_applied_over_http(site: Site) -> None:
    """With its impact first; a contradiction is refused with the place of every problem."""
    site.session()
    policy = {"rules": [{"since": "last_seen", "after": "2h", "do": "expire"}]}
    impact = site.ask(
        "POST", "/v1/policies/reading-room/impact", {"policy": policy}, role="operator"
    )
    assert (impact["sessions"], impact["later"]) == (1, 1)
    applied = site.ask("PUT", "/v1/policies/reading-room", {"policy": policy}, role="operator")
    assert applied["version"] == 2
    again = site.ask("PUT", "/v1/policies/reading-room", {"policy": policy}, role="operator")
    assert again["version"] is None
    site.wait(HOUR + MINUTE)
    assert len(site.ask("GET", "/v1/sessions?state=active")["sessions"]) == 1
    wrong = {"rules": [{"since": "never", "after": "1", "do": "expire"}], "extra": 1}
    problem = site.ask(
        "PUT", "/v1/policies/reading-room", {"policy": wrong}, role="operator", expect=422
    )
    assert problem["type"].endswith("policy-invalid")
    assert len(problem["problems"]) >= 3


def test_figures_for_prometheus(site: Site) -> None:
    """By policy, event and outcome."""
    site.session()
    site.lapse.projector.catch_up()
    headers = {"Authorization": f"Bearer {site.token('operator')}"}
    text = site.client.get("/metrics", headers=headers).text
    assert 'lapse_events{event="session.created",policy="reading-room"} 1.0' in text
    assert 'lapse_http_requests_total{method="POST",outcome="2xx",path="/v1/sessions"} 1.0' in text


def test_a_service_without_its_database_is_not_ready(site: Site) -> None:
    """It says so itself, for whoever routes requests."""
    assert site.client.get("/health/ready").json()["status"] == "ready"
    site.lapse.engines.close()
    answer = site.client.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    assert site.client.get("/health/live").status_code == 200


def test_one_client_cannot_take_all_of_the_service(site: Site) -> None:
    """Beyond its rate an actor waits; others do not."""
    app: Any = site.client.app
    app.state.rates = Rates("5/hour")
    for _ in range(5):
        site.ask("GET", "/v1/sessions")
    problem = site.ask("GET", "/v1/sessions", expect=429)
    assert problem["type"] == "urn:lapse:problem:rate"
    site.ask("GET", "/v1/statistics", role="operator")


def test_who_guesses_tokens_is_stopped(site: Site) -> None:
    """Twenty a minute from one address; whoever has a good one there does not wait."""
    token = site.token("producer")
    for _ in range(20):
        site.ask("GET", "/v1/sessions", token=unsigned(token), expect=401)
    headers = {"Authorization": f"Bearer {unsigned(token)}"}
    answer = site.client.get("/v1/sessions", headers=headers)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    site.ask("GET", "/v1/sessions", token=token)
