"""The life of a session over HTTP."""

from typing import Any

import pytest

from adapters.clock import format_instant
from domain.policy import DAY, HOUR, MINUTE
from tests.adapters.http.conftest import START, Site


def test_a_visit_from_its_creation_to_the_end(site: Site) -> None:
    """Created, joined, seen, expired, erased, each shown with what awaits it."""
    created = site.ask("POST", "/v1/sessions", {"policy": "reading-room"}, expect=201)
    assert created["state"] == "active"
    assert created["expires_at"] == format_instant(START + HOUR)
    assert created["erases_at"] == format_instant(START + HOUR + DAY)
    path = f"/v1/sessions/{created['id']}"
    joined = site.join(created["id"], name="Ann")
    site.wait(10 * MINUTE)
    seen = site.ask("POST", f"{path}/seen", {"participant": joined["token"]}, expect=202)
    assert seen == {"counted": 1, "ignored": 0}
    shown = site.ask("GET", path)
    assert shown["expires_at"] == format_instant(START + 10 * MINUTE + HOUR)
    assert (shown["participants"], shown["rule"]) == (1, created["rule"])
    site.wait(HOUR)
    assert site.ask("GET", path)["state"] == "expired"
    site.wait(DAY)
    assert site.ask("GET", path, expect=410)["type"] == "urn:lapse:problem:session-erased"


@pytest.mark.row("G3")
def test_who_takes_part_is_hidden_at_the_instant(site: Site) -> None:
    """No sweeper runs: from the due moment nobody reads names, joins or is seen."""
    session = site.session()
    token = site.join(session, name="Ann")["token"]
    path = f"/v1/sessions/{session}"
    site.wait(HOUR - 1_000)
    [ann] = site.ask("GET", f"{path}/participants")["participants"]
    assert (ann["token"], ann["name"], ann["is_active"]) == (token, "Ann", False)
    site.wait(1_000)
    for method, end, body in (
        ("GET", "participants", None),
        ("POST", "participants", {"subject": "bob"}),
        ("POST", "seen", {"participant": token}),
        ("POST", "leave", {"participant": token}),
        ("POST", "complete", None),
        ("POST", "extend", {"until": "2030-01-01T00:00:00Z"}),
    ):
        problem = site.ask(method, f"{path}/{end}", body, expect=410)
        assert problem["type"] == "urn:lapse:problem:session-expired"
        assert "Ann" not in str(problem)
    listed = site.ask("GET", "/v1/sessions?state=active")
    assert listed == {"sessions": [], "next": None}
    expiry = site.ask("GET", f"{path}/expiry")
    assert (expiry["expired"], expiry["state"]) == (True, "expired")
    assert expiry["options"] == problem["options"]


def test_what_can_be_done_can_be_called(site: Site) -> None:
    """Every option has a method and a path: extend while the session lives, then recover."""
    path = f"/v1/sessions/{site.session()}"
    [extend] = site.ask("GET", f"{path}/expiry")["options"]
    assert extend["rel"] == "extend"
    site.ask(extend["method"], extend["path"], {"until": "2026-01-01T02:00:00Z"})
    site.wait(2 * HOUR)
    recover, create = site.ask("GET", f"{path}/expiry")["options"]
    assert (recover["rel"], create["rel"]) == ("recover", "create")
    assert site.ask(recover["method"], recover["path"])["state"] == "active"
    site.ask(create["method"], create["path"], {"policy": "reading-room"}, expect=201)


def test_the_same_key_is_the_same_command(site: Site) -> None:
    """Producers retry; the session, the participant and the item are there once."""
    body = {"policy": "reading-room"}
    first = site.ask("POST", "/v1/sessions", body, expect=201, Idempotency_Key="k1")
    again = site.ask("POST", "/v1/sessions", body, expect=201, Idempotency_Key="k1")
    assert first["id"] == again["id"]
    other = site.ask("POST", "/v1/sessions", body, expect=201, Idempotency_Key="k2")
    assert other["id"] != first["id"]
    path = f"/v1/sessions/{first['id']}"
    nobody: list[Any] = [
        site.ask("POST", f"{path}/participants", {}, expect=201, Idempotency_Key="j")["token"]
        for _ in range(2)
    ]
    assert nobody[0] == nobody[1]
    for _ in range(2):
        site.ask("POST", f"{path}/complete", Idempotency_Key="c")
    events = [event["event"] for event in site.ask("GET", f"{path}/events")["events"]]
    assert events == ["created", "joined", "completed"]


def test_erased_on_demand_nothing_about_a_person_is_left(site: Site) -> None:
    """DELETE, then 410; the history says by whom and that it was asked for."""
    session = site.session(owner="host@example.org")
    site.join(session, "guest@example.org", name="Guest")
    path = f"/v1/sessions/{session}"
    assert site.ask("DELETE", path, expect=204) is None
    assert site.ask("GET", path, expect=410)["type"].endswith("session-erased")
    last = site.ask("GET", f"{path}/events", role="auditor")["events"][-1]
    assert (last["event"], last["data"]["rule"]) == ("erased", "request")
    assert site.lapse.vault.members(session) == []
    assert site.ask("DELETE", path, expect=410)["type"].endswith("session-erased")


def test_a_limit_has_a_problem_of_its_own(site: Site) -> None:
    """The eleventh session at once is refused; when one ends, the next is taken."""
    for _ in range(10):
        last = site.session("biometric-coach")
    problem = site.ask("POST", "/v1/sessions", {"policy": "biometric-coach"}, expect=429)
    assert problem["type"] == "urn:lapse:problem:limit-concurrent"
    assert problem["limit"] == 10
    site.ask("DELETE", f"/v1/sessions/{last}", expect=204)
    site.session("biometric-coach")


def test_many_heartbeats_at_once(site: Site) -> None:
    """Those of sessions that are over, and of nobody, are ignored."""
    session = site.session()
    tokens = [site.join(session, f"v{n}")["token"] for n in range(3)]
    beats = [{"session": session, "participant": token} for token in tokens]
    beats += [{"session": session, "participant": "0" * 32}]
    beats += [{"session": "1" * 32, "participant": tokens[0]}]
    site.wait(MINUTE)
    assert site.ask("POST", "/v1/seen", {"seen": beats}, expect=202) == {"counted": 3, "ignored": 2}
    site.wait(2 * HOUR)
    assert site.ask("POST", "/v1/seen", {"seen": beats}, expect=202)["counted"] == 0


def test_sessions_come_in_pages(site: Site) -> None:
    """Every session once, whatever the size of a page."""
    ids = sorted(site.session() for _ in range(5))
    found, after = [], ""
    while True:
        page = site.ask("GET", f"/v1/sessions?limit=2{after}")
        found += [session["id"] for session in page["sessions"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == ids


def test_the_log_is_followed_with_a_cursor(site: Site) -> None:
    """Nothing twice, nothing left out; the cursor of another log is refused."""
    site.session()
    first = site.ask("GET", "/v1/events?limit=3", role="subscriber")
    site.session()
    cursor, found = first["next"], list(first["events"])
    while page := site.ask("GET", f"/v1/events?limit=3&after={cursor}", role="subscriber")[
        "events"
    ]:
        found += page
        cursor = site.ask("GET", f"/v1/events?limit=3&after={cursor}", role="subscriber")["next"]
    positions = [event["position"] for event in found]
    assert positions == list(range(1, site.lapse.log.head() + 1))
    assert site.ask("GET", "/v1/events?after=nonsense", role="subscriber", expect=422)


def test_an_unchanged_session_is_not_sent_again(site: Site) -> None:
    """An entity tag stands for exactly what was shown."""
    session = site.session()
    headers = {"Authorization": f"Bearer {site.token('producer')}"}
    first = site.client.get(f"/v1/sessions/{session}", headers=headers)
    headers["If-None-Match"] = first.headers["ETag"]
    assert site.client.get(f"/v1/sessions/{session}", headers=headers).status_code == 304
    site.join(session)
    assert site.client.get(f"/v1/sessions/{session}", headers=headers).status_code == 200


def test_live_sessions_of_an_owner(site: Site) -> None:
    """Found by whom they belong to, who stands in the body and in no URL."""
    mine = site.session(owner="lead-1")
    site.session(owner="lead-2")
    body = {"owner": "lead-1", "policy": "reading-room"}
    found = site.ask("POST", "/v1/sessions/search", body)
    assert [session["id"] for session in found["sessions"]] == [mine]
    site.wait(HOUR)
    assert site.ask("POST", "/v1/sessions/search", body)["sessions"] == []
