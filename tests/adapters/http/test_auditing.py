"""What auditors ask over HTTP, and that everybody's access can be followed."""

import io
import json

import pytest
from pyarrow import parquet

from adapters.certificates import verified
from adapters.clock import format_instant
from domain.policy import DAY, HOUR, MINUTE
from tests.adapters.http.conftest import Site


def test_replay_and_why(site: Site) -> None:
    """A session that was extended: known to live before its end, and the extension explains it."""
    session = site.session()
    until = site.now + 3 * HOUR
    site.ask("POST", f"/v1/sessions/{session}/extend", {"until": format_instant(until)})
    site.wait(4 * HOUR)
    site.sweep()
    path = f"/v1/audit/replay?until={format_instant(until - 1000)}"
    before = site.ask("GET", f"{path}&session={session}", role="auditor")
    assert before["state"]["state"] == "active"
    total = site.ask("GET", f"{path}&policy=reading-room", role="auditor")["total"]
    assert total["sessions"] == total["phases"]["active"] == 1
    (expired,) = site.ask("GET", f"/v1/audit/sessions/{session}/why", role="auditor")["endings"]
    assert [step["because"] for step in expired["steps"]] == ["since", "after", "extended"]
    assert expired["due_at"] == format_instant(until)
    assert expired["late_seconds"] == 3600
    assert expired["agrees"]


def test_what_is_not_known_or_not_theirs_is_not_answered(site: Site) -> None:
    """An unknown session, and one of a policy that the token is not for."""
    session = site.session()
    other = site.token("auditor", "web-visit")
    now = format_instant(site.now)
    for path in (f"sessions/{session}/why", f"replay?until={now}&session={session}"):
        site.ask("GET", f"/v1/audit/{path}", token=other, expect=403)
        unknown = path.replace(session, "0" * 32)
        site.ask("GET", f"/v1/audit/{unknown}", role="auditor", expect=404)
    seen = site.ask("GET", f"/v1/audit/replay?until={now}", token=other)
    assert seen["policies"] == {}
    site.ask("GET", "/v1/audit/completeness", token=other, expect=403)
    site.ask("GET", "/v1/audit/requests/export", token=other, expect=403)
    named = site.ask("GET", "/v1/audit/policies", token=other)["policies"]
    assert [one["policy"] for one in named] == ["web-visit"]


@pytest.mark.row("G11")
def test_completeness_over_a_day(site: Site) -> None:
    """Named while overdue, gone once swept, and the numbers of each hour add up."""
    sessions = {site.session() for _ in range(3)}
    site.wait(2 * HOUR)
    overdue = site.ask("GET", "/v1/audit/completeness?limit=2", role="auditor")
    rest = site.ask("GET", f"/v1/audit/completeness?after={overdue['next']}", role="auditor")
    named = [one["session"] for one in [*overdue["overdue"], *rest["overdue"]]]
    assert (sorted(named), overdue["ok"]) == (sorted(sessions), False)
    site.sweep()
    site.wait(MINUTE)
    done = site.ask("GET", "/v1/audit/completeness", role="auditor")
    assert done["ok"]
    assert [(one["due"], one["done"]) for one in done["hours"]] == [(3, 3)]
    assert done["recorded"] == {"by_rules": 3, "by_sweeps": 3, "with_commands": 0}
    site.ask("GET", "/v1/audit/completeness?after=x", role="auditor", expect=422)


def test_what_a_request_waits_for_is_no_work_of_a_sweep(site: Site) -> None:
    """A request that a hold suspends says so in the log; the numbers of sweeps add up without."""
    session = site.session()
    hold = {"session": session, "ground": "legal-claim"}
    site.ask("POST", "/v1/holds", hold, role="privacy", expect=201)
    wanted = {"session": session, "verified_by": "controller"}
    request = site.ask("POST", "/v1/erasure-requests", wanted, role="privacy", expect=202)
    assert request["reason"] == "held"
    site.wait(MINUTE)
    found = site.ask("GET", "/v1/audit/completeness", role="auditor")
    assert (found["ok"], found["done"]) == (True, [])


@pytest.mark.parametrize("of", ["session", "subject"])
def test_what_a_hold_suspends_is_not_overdue(site: Site, of: str) -> None:
    """A sweep looks at it and leaves it: nothing was missed, whatever the hold is on."""
    session = site.session()
    site.join(session, "ann")
    held = {of: session if of == "session" else "ann", "ground": "legal-claim"}
    site.ask("POST", "/v1/holds", held, role="privacy", expect=201)
    site.wait(3 * DAY)
    site.sweep()
    site.wait(HOUR)
    found = site.ask("GET", "/v1/audit/completeness", role="auditor")
    assert (found["ok"], found["overdue"]) == (True, [])


def test_a_period_that_ends_before_it_begins_is_refused(site: Site) -> None:
    """It is not said that all of it was done."""
    path = f"/v1/audit/completeness?from={format_instant(site.now)}"
    to = format_instant(site.now - HOUR)
    site.ask("GET", f"{path}&to={to}", role="auditor", expect=422)


@pytest.mark.row("P3.7")
def test_every_access_is_on_record(site: Site) -> None:
    """Who read which kind of personal data of which session, by which operation, how it ended and
    how long it took; found by actor and by session, for audits too, and exported."""
    session = site.session("video-analysis")
    item = {"kind": "frame", "records": [{"x": 1}]}
    site.ask("POST", f"/v1/sessions/{session}/items", item, expect=201)
    (stored,) = site.ask("GET", f"/v1/sessions/{session}/items")["items"]
    site.ask("GET", f"/v1/sessions/{session}/items/{stored['id']}")
    site.ask("GET", f"/v1/audit/sessions/{session}/why", role="auditor")
    site.wait(MINUTE)
    of_it = f"/v1/audit/requests?session={session}"

    def found(query: str) -> list[dict[str, object]]:
        page = site.ask("GET", query, role="auditor")["requests"]
        return [one for one in page if not str(one["operation"]).startswith("audit-requests")]

    site.ask("GET", f"/v1/sessions/{session}/participants")  # on disk before it is answered
    reads = found(f"{of_it}&read=true")
    assert {"participants", "items"} <= {str(one["read"]) for one in reads}
    why = found(f"{of_it}&operation=audit-why")
    assert [(one["role"], one["status"], one["session"]) for one in why] == [
        ("auditor", 200, session)
    ]
    assert all(float(str(one["duration_ms"])) >= 0 for one in reads)
    actor = reads[0]["actor"]
    by_actor = found(f"/v1/audit/requests?actor={actor}&read=true")
    assert by_actor == reads
    then = format_instant(site.now - 30 * 1_000_000)
    assert found(f"{of_it}&from={then}") == [one for one in reads if one["read"] == "participants"]
    answer = site.client.get(
        "/v1/audit/requests/export?format=jsonl",
        headers={"Authorization": f"Bearer {site.token('auditor')}"},
    )
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert {"store-items", "audit-why"} & {line["operation"] for line in lines}
    assert [line["number"] for line in lines] == sorted(line["number"] for line in lines)


def test_the_log_as_a_file(site: Site) -> None:
    """JSON Lines, CSV, Parquet; of the token's policies only."""
    site.session("reading-room")
    room = site.session("web-visit")
    site.wait(DAY)
    token = site.token("auditor", "web-visit")

    def body(form: str) -> bytes:
        path = f"/v1/audit/export?format={form}&policy=web-visit"
        answer = site.client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
        return answer.content

    lines = [json.loads(line) for line in body("jsonl").splitlines()]
    assert [line["event"] for line in lines] == ["policy.applied", "session.created"]
    assert lines[1]["session_id"] == room
    assert parquet.read_table(io.BytesIO(body("parquet"))).num_rows == 2
    assert body("csv").count(b"\r\n") == 3
    path = "/v1/audit/export?policy=reading-room"
    site.ask("GET", path, token=token, expect=403)


@pytest.mark.row("P3.4")
def test_an_erasure_is_certified_for_everybody(site: Site) -> None:
    """Without a token once it ended, and the statement holds nothing of the person."""
    session = site.session(owner="ann@example.org")
    token = site.join(session)["token"]
    path = f"/v1/sessions/{session}/certificate"
    assert site.client.get(path).status_code == 404
    site.ask("DELETE", f"/v1/sessions/{session}", expect=204)
    answer = site.client.get(path)
    assert answer.status_code == 200
    signers = site.lapse.signers
    key, log = signers.certificates.public_key, signers.checkpoints.verifier_key()
    stated = verified(answer.content, key, log)
    assert (stated["what"], stated["reason"]) == ("session.erased", "request")
    assert token not in json.dumps(stated)
    actors = {one.event.actor for one in site.lapse.log.history(session)}
    assert not any(actor in json.dumps(stated) for actor in actors)
