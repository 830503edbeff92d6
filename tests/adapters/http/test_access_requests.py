"""People get a copy of what is held about them, over HTTP and at the command line."""

import io
import zipfile

from domain.policy import DAY
from tests.adapters.http.conftest import Site

PATH = "/v1/access-requests"
ANN = {"subject": "ann@example.org", "verified_by": "controller"}


def test_a_privacy_officer_asks_waits_and_fetches(site: Site) -> None:
    """Asked for, made, fetched; who did is in the log, and what was read in that of requests."""
    room = site.session()
    site.join(room, "ann@example.org", name="Ann")
    asked = site.ask("POST", PATH, ANN, role="privacy", expect=202)
    assert asked["status"] == "requested"
    path = f"{PATH}/{asked['request_id']}"
    early = site.ask("GET", f"{path}/content", role="privacy", expect=409)
    assert early["type"].endswith("copy-not-ready")
    site.lapse.access().work(site.now)
    ready = site.ask("GET", path, role="privacy")
    assert (ready["status"], ready["sessions"], ready["reason"]) == ("ready", 1, None)
    headers = {"Authorization": f"Bearer {site.token('privacy')}"}
    answer = site.client.get(f"{path}/content", headers=headers)
    assert answer.headers["content-type"] == "application/zip"
    assert len(answer.content) == ready["size"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert b"ann@example.org" in archive.read(f"sessions/{room}/session.json")
    topics = [one.event.TOPIC for one in site.lapse.log.history(asked["request_id"])]
    assert topics == ["access.received.v1", "access.ready.v1", "access.sent.v1"]
    entries = site.ask("GET", "/v1/audit/requests", role="auditor")["requests"]
    assert "access" in {one["read"] for one in entries}
    site.wait(7 * DAY)
    gone = site.ask("GET", f"{path}/content", role="privacy", expect=410)
    assert gone["type"].endswith("copy-gone")
    assert site.ask("GET", path, role="privacy")["status"] == "erased"


def test_whoever_may_see_some_policies_gets_no_copy(site: Site) -> None:
    """It holds all of them; and nobody but a privacy officer gets any."""
    token = site.token("privacy", "reading-room")
    site.ask("POST", PATH, ANN, token=token, expect=403)
    site.ask("POST", PATH, ANN, role="producer", expect=403)
    site.ask("GET", f"{PATH}/{'0' * 32}", role="privacy", expect=404)
    site.ask("POST", PATH, {**ANN, "verified_by": "nobody"}, role="privacy", expect=422)


def test_a_refusal_names_nobody(site: Site) -> None:
    """Who was asked about is in no answer and no log."""
    asked = site.ask("POST", PATH, ANN, role="privacy", expect=202)
    assert "ann@example.org" not in str(asked)
    wrong = {"subject": "ann@example.org", "verified_by": 7}
    refused = site.ask("POST", PATH, wrong, role="privacy", expect=422)
    assert "ann@example.org" not in str(refused)
