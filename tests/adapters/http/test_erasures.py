"""Requests for erasure and holds, as privacy officers and data subjects ask for them over HTTP."""

from typing import Any

import pytest

from adapters.certificates import verified
from domain.policy import DAY, HOUR
from tests.adapters.http.conftest import Site

KEYS = {
    *("request_id", "status", "requested_at", "executed_at", "verified_at", "final_at"),
    *("verified_by", "stores", "reason", "deadline_at"),
}


def ask(site: Site, body: Any, **more: Any) -> Any:
    return site.ask(
        "POST", "/v1/erasure-requests", body, **{"role": "privacy", "expect": 202, **more}
    )


def test_a_person_is_erased_wherever_they_took_part(site: Site) -> None:
    """Alone: the session goes whole; among others: they are not among the participants."""
    alone, shared = site.session(), site.session()
    site.join(alone, "ann")
    site.join(shared, "ann")
    bob = site.join(shared, "bob")
    found = ask(site, {"subject": "ann", "verified_by": "identity-provider"})
    assert set(found) >= KEYS
    assert (found["status"], found["sessions"], found["parts"]) == ("executed", 1, 1)
    assert (found["verified_by"], found["verified_at"]) == ("identity-provider", None)
    assert found["deadline_at"] == "2026-02-01T00:00:00.000Z"
    site.ask("GET", f"/v1/sessions/{alone}", expect=410)
    listed = site.ask("GET", f"/v1/sessions/{shared}/participants")["participants"]
    assert [one["token"] for one in listed] == [bob["token"]]
    path = f"/v1/erasure-requests/{found['request_id']}"
    assert site.ask("GET", path, role="auditor") == found
    page = site.ask("GET", "/v1/erasure-requests?status=executed", role="privacy")
    assert page == {"requests": [found], "next": None}


def test_the_log_names_neither_the_person_nor_their_sessions(site: Site) -> None:
    """What anybody with the log may read of a request."""
    shared = site.session()
    token = site.join(shared, "ann")["token"]
    site.join(shared, "bob")
    found = ask(site, {"subject": "ann"})
    events = site.ask("GET", "/v1/events", role="auditor")["events"]
    facts = [one for one in events if one["topic"].startswith("request.")]
    assert [one["event"] for one in facts] == ["received", "executed"]
    assert not any(word in str(facts) for word in ("ann", shared, token))
    assert found["request_id"] not in str([one for one in events if one not in facts])


@pytest.mark.row("P3.4")
def test_a_deleted_session_can_be_followed(site: Site) -> None:
    """204 with the request that tells how far its erasure is; the same key is answered again."""
    session = site.session("video-analysis")
    headers = {
        "Authorization": f"Bearer {site.token('producer')}",
        "Idempotency-Key": "once",
    }
    answers = [
        site.client.request("DELETE", f"/v1/sessions/{session}", headers=headers) for _ in range(2)
    ]
    assert [one.status_code for one in answers] == [204, 204]
    links = {one.headers["Link"] for one in answers}
    (link,) = links
    found = site.ask("GET", link[1 : link.index(">")])
    assert (found["about"], found["status"]) == ("session", "executed")
    site.ask("DELETE", f"/v1/sessions/{session}", expect=410)
    site.ask("POST", f"/v1/sessions/{session}/recover", expect=410)


@pytest.mark.row("P2.7")
def test_what_was_erased_is_not_recovered(site: Site) -> None:
    """An expired session may be recovered until somebody asks for its erasure."""
    room = site.session()
    site.join(room, "ann")
    site.wait(2 * HOUR)
    assert site.ask("GET", f"/v1/sessions/{room}/expiry")["recover_until"] is not None
    ask(site, {"subject": "ann"})
    problem = site.ask("POST", f"/v1/sessions/{room}/recover", expect=410)
    assert problem["type"].endswith("session-erased")


def test_an_anonymous_participant_proves_their_token(site: Site) -> None:
    """As the bearer, or by an officer's hand, also after it expired."""
    room = site.session()
    site.join(room, "host")
    path = f"/v1/sessions/{room}/participants"
    first, second = (site.ask("POST", path, {}, expect=201) for _ in range(2))
    found = ask(site, {}, token=first["access_token"])
    assert (found["about"], found["verified_by"], found["parts"]) == (
        *("participant", "token-proof"),
        1,
    )
    for body in ({"subject": "host"}, {"session": "0" * 32}):
        ask(site, body, token=second["access_token"], expect=403)
    site.wait(2 * DAY)
    site.ask("GET", f"/v1/sessions/{room}", token=second["access_token"], expect=401)
    found = ask(site, {"participant_token": second["access_token"]}, expect=None)
    assert found["verified_by"] == "token-proof"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"session": "0" * 32, "subject": "ann"},
        {"subject": "ann", "verified_by": "token-proof"},
        {"subject": "ann", "verified_by": "rumour"},
        {"participant_token": "nonsense"},
    ],
)
def test_a_request_must_say_what_it_is_about(site: Site, body: Any) -> None:
    """One thing, and who verified it: nobody claims a proof that they did not give."""
    ask(site, body, expect=422)
    assert site.ask("GET", "/v1/erasure-requests", role="privacy")["requests"] == []


def test_a_token_for_some_policies_erases_nobody(site: Site) -> None:
    """A person's data lies under any policy; a session has one."""
    token = site.token("privacy", "web-visit")
    ask(site, {"subject": "ann"}, token=token, expect=403)
    ask(site, {"session": site.session()}, token=token, expect=403)
    ask(site, {"session": site.session("web-visit")}, token=token)


def test_a_request_is_refused_on_a_ground(site: Site) -> None:
    """While it waits for a hold; nothing was deleted, and nothing will be."""
    room = site.session()
    hold = {"session": room, "ground": "legal-claim"}
    site.ask("POST", "/v1/holds", hold, role="privacy", expect=201)
    found = ask(site, {"session": room})
    assert (found["status"], found["reason"]) == ("requested", "held")
    assert found["stores"] == {"vault": "pending", "keyring": "pending"}
    path = f"/v1/erasure-requests/{found['request_id']}/refuse"
    refused = site.ask("POST", path, {"ground": "legal-claim"}, role="privacy")
    assert (refused["status"], refused["reason"]) == ("refused", "legal-claim")
    site.ask("POST", path, {"ground": "archiving"}, role="privacy", expect=409)
    site.ask("GET", f"/v1/sessions/{room}")
    missing = f"/v1/erasure-requests/{'0' * 32}"
    site.ask("GET", missing, role="privacy", expect=404)


@pytest.mark.row("G6")
@pytest.mark.parametrize("of", ["session", "subject"])
def test_a_hold_stops_deletion_until_it_is_released(site: Site, of: str) -> None:
    """By request and by rule; the release resumes both."""
    room = site.session()
    site.join(room, "ann")
    body = {of: room if of == "session" else "ann", "ground": "legal-claim"}
    held = site.ask("POST", "/v1/holds", body, role="privacy", expect=201)
    assert held["on"] == of
    assert site.ask("GET", "/v1/holds", role="auditor") == {"holds": [held], "next": None}
    problem = site.ask("DELETE", f"/v1/sessions/{room}", expect=409)
    assert problem["type"].endswith("held")
    assert site.ask("GET", f"/v1/sessions/{room}")["held"]
    site.wait(3 * DAY)
    site.sweep()
    assert site.ask("GET", f"/v1/sessions/{room}")["state"] == "expired"
    site.ask("DELETE", f"/v1/holds/{held['hold']}", role="privacy", expect=204)
    site.ask("DELETE", f"/v1/holds/{held['hold']}", role="privacy", expect=404)
    site.sweep()
    site.ask("GET", f"/v1/sessions/{room}", expect=410)
    history = site.ask("GET", f"/v1/sessions/{room}/events")["events"]
    assert history[-1]["event"] == "erased"
    assert ("held" in [one["event"] for one in history]) is (of == "session")


def test_a_token_for_some_policies_ends_no_hold_and_no_request_of_others(site: Site) -> None:
    """Neither a hold on a session of another policy, nor one on a person; nor is such a request
    refused by it."""
    room, own = site.session(), site.session("web-visit")
    site.join(room, "ann")
    token = site.token("privacy", "web-visit")
    for body in ({"session": room}, {"subject": "ann"}, {"session": own}):
        placing = {**body, "ground": "legal-claim"}
        hold = site.ask("POST", "/v1/holds", placing, role="privacy", expect=201)["hold"]
        asked = ask(site, body)
        expect = 204 if own in body.values() else 403
        refusing = f"/v1/erasure-requests/{asked['request_id']}/refuse"
        refused = {"ground": "archiving"}
        site.ask("POST", refusing, refused, token=token, expect=200 if expect == 204 else 403)
        site.ask("DELETE", f"/v1/holds/{hold}", token=token, expect=expect)


def test_a_hold_that_ends_by_itself_resumes_what_it_suspended(site: Site) -> None:
    """At its end, to the instant."""
    room = site.session()
    site.join(room, "ann")
    until = "2026-01-10T00:00:00Z"
    body = {"subject": "ann", "ground": "restriction", "until": until}
    site.ask("POST", "/v1/holds", body, role="privacy", expect=201)
    site.wait(5 * DAY)
    site.sweep()
    site.wait(4 * DAY - 1_000_000)
    site.sweep()
    site.ask("GET", f"/v1/sessions/{room}")
    site.wait(1_000_000)
    site.ask("GET", f"/v1/sessions/{room}", expect=410)
    site.sweep()
    erased = site.ask("GET", f"/v1/sessions/{room}/events")["events"][-1]
    assert (erased["event"], erased["effective_at"]) == ("erased", "2026-01-10T00:00:00.000Z")
    assert site.ask("GET", "/v1/holds", role="privacy")["holds"] == []


def test_nobody_unknown_is_held(site: Site) -> None:
    """There is nothing of theirs; and a hold is of one thing."""
    body = {"subject": "nobody", "ground": "legal-claim"}
    site.ask("POST", "/v1/holds", body, role="privacy", expect=404)
    site.ask("POST", "/v1/holds", {"ground": "legal-claim"}, role="privacy", expect=422)


def test_a_certificate_is_for_who_asked(site: Site) -> None:
    """Privacy officers, and the participant whose request it is; strangers and other roles get
    nothing. What it says is what the request says, and names no session."""
    room = site.session()
    site.join(room, "host")
    asking = site.ask("POST", f"/v1/sessions/{room}/participants", {}, expect=201)
    found = ask(site, {}, token=asking["access_token"])
    path = f"/v1/erasure-requests/{found['request_id']}/certificate"
    assert site.client.get(path).status_code == 401
    for role in ("producer", "auditor", "operator"):
        site.ask("GET", path, role=role, expect=403)
    missing = f"/v1/erasure-requests/{'0' * 32}/certificate"
    site.ask("GET", missing, role="privacy", expect=404)
    signers = site.lapse.signers
    for token in (asking["access_token"], site.token("privacy")):
        answer = site.client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert answer.headers["Content-Type"] == "application/vnd.dsse.envelope.v1+json"
        stated = verified(
            answer.content, signers.certificates.public_key, signers.checkpoints.verifier_key()
        )
        same = ("status", "requested_at", "deadline_at", "executed_at", "verified_by", "reason")
        assert {name: stated[name] for name in same} == {name: found[name] for name in same}
        assert (stated["erases"], stated["counts"]["parts"]) == ("participant", 1)
        assert not any(word in str(stated) for word in (room, asking["token"]))


def test_a_token_for_some_policies_decides_about_those_only(site: Site) -> None:
    """Whoever looks after one application neither ends the holds of another, which would let go
    what they keep, nor refuses what was asked of it."""
    mine, other = site.token("privacy", "reading-room"), site.token("privacy", "video-analysis")
    session = site.session()
    site.join(session, "ann")
    holds = [
        site.ask("POST", "/v1/holds", {**on, "ground": "legal-claim"}, role="privacy", expect=201)
        for on in ({"session": session}, {"subject": "ann"})
    ]
    on_session, on_person = (f"/v1/holds/{one['hold']}" for one in holds)
    for path in (on_session, on_person):
        site.ask("DELETE", path, token=other, expect=403)
    site.ask("DELETE", on_person, token=mine, expect=403)
    site.ask("GET", "/v1/holds", token=other, expect=403)
    asked = [ask(site, body)["request_id"] for body in ({"session": session}, {"subject": "ann"})]
    about_session, about_person = (f"/v1/erasure-requests/{one}/refuse" for one in asked)
    ground = {"ground": "legal-claim"}
    for path in (about_session, about_person):
        site.ask("POST", path, ground, token=other, expect=403)
    site.ask("POST", about_person, ground, token=mine, expect=403)
    assert site.ask("POST", about_session, ground, token=mine)["status"] == "refused"
    site.ask("DELETE", on_session, token=mine, expect=204)
    site.ask("DELETE", on_person, role="privacy", expect=204)
