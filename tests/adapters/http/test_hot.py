"""The short way of frequent requests: what comes out is what comes out of the usual way."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from domain.policy import HOUR
from tests.adapters.http.conftest import Site

PLAIN = "application/json"
USUAL = "application/json; charset=utf-8"
"""Not plain any more, though it says the same."""


def answers(
    site: Site, path: str, content: bytes, token: str | None
) -> Sequence[tuple[int, Mapping[str, str], Any]]:
    """(status, headers, body) the short way and the usual way."""
    found: list[tuple[int, Mapping[str, str], Any]] = []
    for kind in (PLAIN, USUAL):
        headers = {"Content-Type": kind}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        answer = site.client.post(path, content=content, headers=headers)
        varying = {"content-length", "location"}
        kept = {name: value for name, value in answer.headers.items() if name not in varying}
        found.append((answer.status_code, kept, answer.json()))
    return found


def test_a_creation_is_answered_alike(site: Site) -> None:
    """But for the id."""
    plain, usual = answers(
        site, "/v1/sessions", b'{"policy":"reading-room"}', site.token("producer")
    )
    assert plain[0] == 201
    plain[2].pop("id")
    usual[2].pop("id")
    assert plain == usual


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/seen"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"seen"',
        b'{"policy":1}',
        b'{"policy":"reading-room","more":1}',
        b'{"policy":"no-such-policy"}',
        b'{"policy":"Reading Room"}',
        b'{"policy":"reading-room"} {}',
        b'{"seen":1}',
        b'{"seen":{}}',
        b'{"seen":[1]}',
        b'{"seen":["session"]}',
        b'{"seen":[{}]}',
        b'{"seen":[{"session":"%s","participant":"%s"}]}' % (b"a" * 32, b"A" * 32),
        b'{"seen":[{"session":"%s","participant":"%s"}]}' % (b"a" * 32, b"b" * 31),
        b'{"seen":[{"session":"%s","participant":"%s"}]}' % (b"a" * 33, b"b" * 31),
        b'{"seen":[{"session":"%s","participant":1}]}' % (b"a" * 32),
        b'{"seen":[{"session":"%s","participant":[]}]}' % (b"a" * 32),
        b'{"seen":[{"session":"%s","participant":"%s","who":1}]}' % (b"a" * 32, b"b" * 32),
        b'{"seen":[{"session":"%s","participant":"%s","at":"x"}]}' % (b"a" * 32, b"b" * 32),
        b'{"seen":[],"more":1}',
        b'{"seen":[' + b",".join([b"{}"] * 10_001) + b"]}",
        b'{"seen":"' + b"x" * 2_000_000 + b'"}',
    ],
    ids=lambda content: content[:24].decode(),
)
def test_a_request_that_does_not_fit_is_refused_alike(
    site: Site, path: str, content: bytes
) -> None:
    """Where and what, and nothing of what was sent."""
    plain, usual = answers(site, path, content, site.token("producer"))
    assert plain == usual
    assert 400 <= plain[0] < 500


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/seen"])
def test_whoever_may_not_is_refused_alike(site: Site, path: str) -> None:
    """No token, a bad one, one of another role, one for other policies."""
    session = site.session()
    person = site.join(session)["token"]
    if path == "/v1/sessions":
        content = b'{"policy":"reading-room"}'
    else:
        content = b'{"seen":[{"session":"%s","participant":"%s"}]}' % (
            session.encode(),
            person.encode(),
        )
    limited = site.token("producer", "web-visit")
    for token, status in ((None, 401), ("x.y.z", 401), (site.token("auditor"), 403)):
        plain, usual = answers(site, path, content, token)
        assert plain == usual
        assert plain[0] == status
    plain, usual = answers(site, path, content, limited)
    assert plain == usual
    assert plain[0] == 403


def test_heartbeats_count_alike(site: Site) -> None:
    """Known and unknown ones, twice the same one, one of a session that is over, none at all."""
    live, over = site.session(), site.session("web-visit")
    person, late = site.join(live)["token"], site.join(over)["token"]
    site.wait(HOUR // 2 + HOUR // 4)
    beats = [(live, person), (live, person), (live, "f" * 32), ("f" * 32, person), (over, late)]
    rows = ",".join(f'{{"session":"{s}","participant":"{t}"}}' for s, t in beats)
    token = site.token("producer")
    plain, usual = answers(site, "/v1/seen", f'{{"seen":[{rows}]}}'.encode(), token)
    assert plain == usual
    assert plain[2] == {"counted": 1, "ignored": 3}
    plain, usual = answers(site, "/v1/seen", b'{"seen":[]}', token)
    assert plain == usual
    assert plain[2] == {"counted": 0, "ignored": 0}
    [seen] = site.ask("GET", f"/v1/sessions/{live}/participants")["participants"]
    assert seen["last_seen_at"].startswith("2026-01-01T00:45:00")


def test_the_short_way_is_in_the_log_of_requests(site: Site) -> None:
    """With the path's template, the actor and the session, as any other."""
    answers(site, "/v1/sessions", b'{"policy":"reading-room"}', site.token("producer"))
    answers(site, "/v1/sessions", b'{"policy":"reading-room"}', None)
    session = site.session()
    site.ask("GET", f"/v1/sessions/{session}/participants")  # waits for all before it
    entries = [entry for _, entry in site.service.requests.page()]
    created = [entry for entry in entries if entry.path == "/v1/sessions"]
    assert sorted(entry.status for entry in created) == [201, 201, 201, 401, 401]
    assert all(entry.session and entry.actor for entry in created if entry.status == 201)
