"""From the due instant nothing of a session is shown but its state, by whatever path; no sweeper
runs. The paths are those of the OpenAPI document, so that a new one cannot forget it."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest

from adapters.http.access import ACCESS
from adapters.http.tokens import Role
from domain.policy import DAY, HOUR, SECOND
from tests.adapters.http.conftest import Site

ONE = "/v1/sessions/{session_id}"
STATE_ONLY = {
    "expired": {
        "show": 200,
        "expiry": 200,
        "history": 200,
        "certificate": 200,
        "recover": 200,
        "erase": 204,
    },
    "erased": {"history": 200, "certificate": 200},
}
"""What answers for a session that is over, and how. Everything else is 410."""
DUE = {"expired": HOUR, "erased": HOUR + DAY}
STREAMS = {"stream"}
"""Would not end; a session's own, `watch`, is refused before it begins."""

SHOWN = ("Canary-Name", "canary-content", "canary-kind", "canary-chunk", "x-canary", "0.73915")
"""What stands in answers until the session is over."""
NEVER_SHOWN = ("canary-owner", "canary-subject")
CHUNK = b"canary-chunk"


@dataclass(frozen=True)
class Room:
    """A session that holds one of each: a participant, items, an upload, a summary, an invite."""

    session: str
    participant: str
    access: str
    item: str
    upload: str
    invite: str


def furnished(site: Site) -> Room:
    rules = [
        {"since": "last_seen", "after": "1h", "do": "expire"},
        {"since": "expired", "after": "24h", "do": "erase"},
    ]
    policy: dict[str, Any] = {
        "recover": "12h",
        "rules": rules,
        "summary": {"stillness": "mean(stillness)"},
    }
    site.ask("PUT", "/v1/policies/canaries", {"policy": policy}, role="operator")
    site.wait(6 * SECOND)
    session = site.session("canaries", owner="canary-owner")
    path = f"/v1/sessions/{session}"
    ann = site.join(session, "canary-subject", name="Canary-Name")
    records = [{"stillness": 0.73915, "joint": "canary-content"}]
    body: dict[str, Any] = {
        "kind": "canary-kind",
        "records": records,
        "participants": [ann["token"]],
    }
    item = site.ask("POST", f"{path}/items", body, expect=201)["id"]
    body = {"kind": "canary-kind", "size": len(CHUNK), "media_type": "video/x-canary"}
    upload = site.ask("POST", f"{path}/uploads", body, expect=201)["id"]
    invite = site.ask("POST", f"{path}/invites", {"uses": 5}, expect=201)["invite"]
    room = Room(session, ann["token"], ann["access_token"], item, upload, invite)
    chunk = f"{ONE}/uploads/{{upload_id}}/chunks/{{index}}"
    assert ask(site, room, "PUT", chunk, {}).status_code == 201
    return room


def operations(site: Site) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Method, path and description of each; what changes most comes last."""
    paths = site.client.get("/openapi.json").json()["paths"]
    found = [
        (method.upper(), path, paths[path][method]) for path in paths for method in paths[path]
    ]
    last = ["recover", "erase"]
    name = [one["operationId"] for _, _, one in found]
    order = {each: last.index(each) + 1 if each in last else 0 for each in name}
    yield from sorted(found, key=lambda one: order[one[2]["operationId"]])


def of_the_session(site: Site) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    return (one for one in operations(site) if one[1].startswith(ONE))


def ask(
    site: Site,
    room: Room,
    method: str,
    path: str,
    operation: Mapping[str, Any],
    token: str | None = None,
) -> Any:
    """A good request for an operation, made of its examples and of what is in the room."""
    for name, value in (
        ("session_id", room.session),
        ("item_id", room.item),
        ("upload_id", room.upload),
        ("index", "0"),
        ("name", "canaries"),
    ):
        path = path.replace(f"{{{name}}}", value)
    headers = {"Authorization": f"Bearer {token or site.token('admin')}"}
    if method == "PUT" and "/chunks/" in path:
        headers["Content-Digest"] = f"sha-256=:{b64encode(sha256(CHUNK).digest()).decode()}:"
        return site.client.put(path, content=CHUNK, headers=headers)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    sent = example(site, body) if body else None
    if sent is not None:
        known = {"participant": room.participant, "participants": [room.participant]}
        sent |= {name: known[name] for name in known.keys() & sent.keys()}
    return site.client.request(method, path, json=sent, headers=headers)


def example(site: Site, body: Mapping[str, Any]) -> dict[str, Any]:
    if "example" in body:
        return dict(body["example"])
    schemas = site.client.get("/openapi.json").json()["components"]["schemas"]
    fields = schemas[body["schema"]["$ref"].rpartition("/")[2]]["properties"]
    return {name: field["examples"][0] for name, field in fields.items()}


def everything(answer: Any) -> str:
    return f"{answer.headers} {answer.text}"


def read(site: Site, room: Room) -> str:
    """All that can be read of the room, and of everything."""
    texts = []
    for method, path, operation in operations(site):
        if method == "GET" and operation["operationId"] not in {*STREAMS, "watch"}:
            texts.append(everything(ask(site, room, method, path, operation)))
    return "\n".join(texts)


@pytest.mark.row("G3")
@pytest.mark.parametrize("over", list(DUE))
def test_from_the_instant_every_path_shows_state_only(site: Site, over: str) -> None:
    """410 from all but those listed above, whoever asks, and nothing of the content anywhere; until
    then it is there."""
    room = furnished(site)
    site.wait(HOUR - 1_000)
    before = read(site, room)
    assert [canary for canary in SHOWN if canary not in before] == []
    assert [canary for canary in NEVER_SHOWN if canary in before] == []
    site.wait(DUE[over] - HOUR + 1_000)
    walked = set()
    for method, path, operation in of_the_session(site):
        name = operation["operationId"]
        expected = STATE_ONLY[over].get(name, 410)
        walked.add(name)
        if Role.PARTICIPANT in ACCESS[method, path] and expected == 410 and over == "expired":
            answer = ask(site, room, method, path, operation, room.access)
            assert answer.status_code == 410, (name, "as a participant", answer.text)
        answer = ask(site, room, method, path, operation)
        assert answer.status_code == expected, (name, answer.text)
        said = everything(answer)
        assert [canary for canary in (*SHOWN, *NEVER_SHOWN) if canary in said] == [], name
        if name == "history":  # before anything is recovered
            omitted(site, room, over)
    assert set(STATE_ONLY[over]) <= walked


def omitted(site: Site, room: Room, over: str) -> None:
    """Lists, statistics, the log, the audit: no content, and the session only where its state is
    told."""
    said = read(site, room)
    assert [canary for canary in (*SHOWN, *NEVER_SHOWN) if canary in said] == []
    listed = {one["id"]: one for one in site.ask("GET", "/v1/sessions")["sessions"]}
    assert site.ask("GET", "/v1/sessions?state=active")["sessions"] == []
    search = {"owner": "canary-owner", "policy": "canaries"}
    assert site.ask("POST", "/v1/sessions/search", search)["sessions"] == []
    statistics = site.ask("GET", "/v1/statistics")["policies"].get("canaries", {})
    assert statistics.get("active", 0) == 0
    if over == "expired":
        assert listed[room.session]["state"] == "expired"
    else:
        assert listed == {}
    refused = site.ask(
        "POST", "/v1/invites/redeem", {"invite": room.invite, "name": "Canary-Name"}, expect=410
    )
    assert refused["type"].endswith("invite-expired")
    seen = {"seen": [{"session": room.session, "participant": room.participant}]}
    assert site.ask("POST", "/v1/seen", seen, expect=202)["counted"] == 0
    trail = site.ask("GET", f"/v1/audit/sessions/{room.session}", role="auditor")["entries"]
    assert {"created", "joined"} <= {one["event"].removeprefix("session.") for one in trail}
