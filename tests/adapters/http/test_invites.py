"""Invites: who may come in without being known to the producer."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from domain.policy import DAY, HOUR, MINUTE
from tests.adapters.http.conftest import Site


def invite(site: Site, session: str, **body: Any) -> str:
    made = site.ask("POST", f"/v1/sessions/{session}/invites", body, expect=201)
    return str(made["invite"])


def redeem(site: Site, token: str, *, expect: int = 201, **body: Any) -> Any:
    """By the invite alone, as a visitor's page does it."""
    return site.ask("POST", "/v1/invites/redeem", body, token=token, expect=expect)


def test_who_has_an_invite_comes_in(site: Site) -> None:
    """As a participant, with a token to act as one; a producer may redeem it for them, too."""
    session = site.session()
    found = redeem(site, invite(site, session), name="Ann")
    assert found["session"] == session
    site.ask("POST", f"/v1/sessions/{session}/seen", {}, token=found["access_token"], expect=202)
    body = {"invite": invite(site, session), "subject": "bob"}
    other = site.ask("POST", "/v1/invites/redeem", body, expect=201)
    names = site.ask("GET", f"/v1/sessions/{session}/participants")["participants"]
    assert {one["token"]: one["name"] for one in names} == {
        found["token"]: "Ann",
        other["token"]: None,
    }


def test_an_invite_is_used_as_often_as_it_may_be(site: Site) -> None:
    """Exactly, however many come at once; who is in already uses none up."""
    session = site.session()
    token = invite(site, session, uses=3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: redeem(site, token, subject=f"v{n}", expect=None), range(8))  # type: ignore[arg-type]
        )
    came_in = [answer for answer in answers if "token" in answer]
    assert len(came_in) == 3
    refused = [answer for answer in answers if "token" not in answer]
    assert {answer["reason"] for answer in refused} == {"used-up"}
    assert {answer["type"] for answer in refused} == {"urn:lapse:problem:invite-expired"}
    members = site.ask("GET", f"/v1/sessions/{session}/participants")["participants"]
    assert len(members) == 3


def test_who_is_in_already_uses_no_invite_up(site: Site) -> None:
    """A page that is loaded again is no second visitor."""
    session = site.session()
    token = invite(site, session)
    first = redeem(site, token, subject="ann")
    assert redeem(site, token, subject="ann")["token"] == first["token"]


@pytest.mark.row("P2.3")
def test_an_invite_never_outlives_its_session(site: Site) -> None:
    """Refused at once, also when no sweep ran yet, with the reason and what a page can show."""
    session = site.session()
    token = invite(site, session, uses=10)
    site.wait(HOUR)
    problem = redeem(site, token, expect=410)
    assert problem["type"] == "urn:lapse:problem:invite-expired"
    assert problem["reason"] == "session-expired"
    assert problem["ended_at"] is not None
    assert [option["rel"] for option in problem["options"]] == ["ask-for-an-invite", "create"]
    site.wait(DAY)
    assert redeem(site, token, expect=410)["reason"] == "session-erased"
    site.sweep()
    assert redeem(site, token, expect=410)["reason"] == "session-erased"


def test_an_invite_expires_by_itself(site: Site) -> None:
    """Before its session does, if it was made so."""
    session = site.session()
    token = invite(site, session, expires_at="2026-01-01T00:10:00Z")
    site.wait(10 * MINUTE)
    body = {"invite": token, "subject": "ann"}
    assert site.ask("POST", "/v1/invites/redeem", body, expect=410)["reason"] == "expired"
    redeem(site, token, expect=401)


def test_an_invite_opens_nothing_else(site: Site) -> None:
    """It is a way in, not a key to what is inside."""
    session = site.session()
    token = invite(site, session)
    for method, path in (
        ("GET", f"/v1/sessions/{session}"),
        ("POST", f"/v1/sessions/{session}/seen"),
        ("POST", f"/v1/sessions/{session}/invites"),
        ("GET", "/v1/sessions"),
    ):
        site.ask(method, path, {}, token=token, expect=403)
    body = {"invite": site.join(session)["access_token"], "subject": "bob"}
    assert site.ask("POST", "/v1/invites/redeem", body, expect=410)["reason"] == "unknown"


def test_no_invite_to_what_is_over(site: Site) -> None:
    """410, as for everything else."""
    session = site.session()
    site.wait(HOUR)
    site.ask("POST", f"/v1/sessions/{session}/invites", {}, expect=410)
