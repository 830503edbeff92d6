"""Certificates as people get them and verify them: of sessions for everybody, of requests for who
asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import databases
from tests.acceptance.commands import Installation, written
from tests.independent.go_sumdb import build_verifier
from tests.independent.go_sumdb import verified as verified_by_go

NAME = "ann.canary@example.org"


@pytest.fixture(scope="module")
def go_verifier() -> Path:
    """A program of Go that says whether proofs hold; what was compiled is kept."""
    folder = Path(__file__).resolve().parents[2] / "build" / "go"
    folder.mkdir(parents=True, exist_ok=True)
    return build_verifier(folder)


@pytest.fixture
def evidence(site: Installation) -> Path:
    """The folder where checkpoints and certificates are kept."""
    folder = site.folder / "evidence"
    site.environment["LAPSE_EVIDENCE_URL"] = folder.as_uri()
    return folder


@pytest.fixture
def rooms(site: Installation) -> list[str]:
    """The ids of three rooms: one where ann is alone, one that she shares with bob, one of bob."""
    people = {"alone": [NAME], "shared": [NAME, "bob"], "other": ["bob"]}
    records = [
        {"at": "2026-11-21T23:59:00Z", "activity": "seen", "visitor": who, "room": room}
        for room, names in people.items()
        for who in names
    ]
    path = written(site.folder / "rooms.jsonl", records)
    site.lapse("ingest", path, "--format", "jsonl", "--policy", "reading-room", "--until", "last")
    return [one["id"] for one in site.ask("sessions")["sessions"]]


def certified(site: Installation, id_: str) -> dict[str, Any]:
    """What a certificate says, once it is verified as somebody far away does it."""
    file, pem = site.folder / "certificate.json", site.folder / "certificates.pem"
    site.lapse("certificate", "get", id_, "--out", str(file))
    keys = site.ask("audit", "key")
    pem.write_text(keys["certificates"]["pem"])
    verify = ("certificate", "verify", str(file), "--key", str(pem))
    log = ("--log-key", keys["checkpoints"]["verifier_key"])
    nowhere = "sqlite:////nowhere/at/all.db"
    stated: dict[str, Any] = site.ask(*verify, *log, LAPSE_DATABASE_URL=nowhere)["statement"]
    return stated


def claims(site: Installation, stated: dict[str, Any]) -> list[dict[str, Any]]:
    """What Go is asked about a certificate: the note, and that the leaf stands in its tree."""
    log = stated["log"]
    _, size, root = log["checkpoint"].splitlines()[:3]
    key = site.ask("audit", "key")["checkpoints"]["verifier_key"]
    return [
        {"kind": "note", "key": key, "note": log["checkpoint"]},
        {
            "kind": "inclusion",
            "index": log["index"],
            "leaf": log["leaf"],
            "size": int(size),
            "root": root,
            "hashes": log["proof"],
        },
    ]


def asked_by_ann(site: Installation) -> str:
    person = site.folder / "person.txt"
    person.write_text(f"{NAME}\n")
    answer = site.lapse("erase", "subject", "--stdin", "--json", stdin=person)
    return str(answer.document["request_id"])


def clean_up(site: Installation) -> None:
    site.wait(minutes=2)
    site.lapse("db", "clean")
    site.lapse("request", "run")


@pytest.mark.row("G10")
def test_whoever_asked_has_proof_of_every_step(
    site: Installation, rooms: list[str], evidence: Path, go_verifier: Path
) -> None:
    """Executed, verified, final: each with its times, what the stores said and which keys are left,
    verified by Lapse and by Go; evidence keeps each of them."""
    request = asked_by_ann(site)
    first = certified(site, request)
    assert (first["about"], first["id"], first["erases"]) == ("request", request, "subject")
    assert (first["status"], first["what"]) == ("executed", "request.executed")
    assert first["counts"] == {"sessions": 1, "parts": 1, "items": 0, "subjects": 1}
    assert (first["requested_at"], first["deadline_at"], first["executed_at"]) == (
        "2026-11-22T00:00:00.000Z",
        "2026-12-22T00:00:00.000Z",
        "2026-11-22T00:00:00.000Z",
    )
    assert (first["verified_by"], first["recipients"]) == ("controller", [])
    assert "scan" not in first
    assert first["keks"] == first["keks_at_execution"] != []
    clean_up(site)
    second = certified(site, request)
    assert (second["status"], second["final_at"]) == ("verified", None)
    assert second["scan"]["at"] == second["verified_at"] == "2026-11-22T00:02:00.000Z"
    assert set(second["scan"]["stores"]) >= {"items", "presence", "data_keys"}
    assert second["keks"] == first["keks"]
    site.lapse("key", "rotate")
    ends = certified(site, request)["residual_until"]
    assert ends is not None
    site.now = ends.replace("Z", "+00:00")
    site.wait(seconds=1)
    site.lapse("key", "rotate")
    site.wait(minutes=11)
    site.lapse("request", "run")
    last = certified(site, request)
    assert (last["status"], last["what"]) == ("final", "request.final")
    assert (last["keks"], last["residual_until"]) == ([], None)
    assert last["keks_at_execution"] == first["keks"]
    for one in (first, second, last):
        assert verified_by_go(go_verifier, claims(site, one)) == [True, True]
        moved = {**one, "log": {**one["log"], "index": one["log"]["index"] - 1}}
        assert verified_by_go(go_verifier, claims(site, moved)) == [True, False]
    kept = sorted(path.name.rpartition("-")[0] for path in (evidence / "certificates").iterdir())
    names = ("executed", "final", "verified")
    assert kept == [f"{request}-request-{name}" for name in names]


@pytest.mark.row("G7")
def test_a_certificate_leads_to_nobody(site: Installation, rooms: list[str]) -> None:
    """Of a request: no session, no token, no name. Of a session that went with it: no request."""
    tokens = databases.rows(site.database_url, "SELECT token FROM presence")
    request = asked_by_ann(site)
    (gone,) = set(rooms) - {one["id"] for one in site.ask("sessions")["sessions"]}
    clean_up(site)
    told = json.dumps(certified(site, request))
    assert not [word for word in (*rooms, NAME, *(row[0] for row in tokens)) if word in told]
    public = certified(site, gone)
    assert request not in json.dumps(public)
    assert "scan" not in public


def test_a_session_that_was_erased_says_what_the_scan_found(
    site: Installation, rooms: list[str], evidence: Path
) -> None:
    """Where the request was about this session; before it was read back nothing is said. Its expiry
    was certified before, and evidence keeps both."""
    site.now = "2026-11-22T01:00:00+00:00"
    site.lapse("sweep")
    session = rooms[0]
    assert certified(site, session)["what"] == "session.expired"
    site.lapse("erase", "session", session)
    erased = certified(site, session)
    assert (erased["what"], erased["reason"]) == ("session.erased", "request")
    assert "scan" not in erased
    clean_up(site)
    scan = certified(site, session)["scan"]
    assert scan["at"] == "2026-11-22T01:02:00.000Z"
    assert set(scan["stores"]) >= {"items", "presence", "data_keys"}
    kept = sorted(path.name.rpartition("-")[0] for path in (evidence / "certificates").iterdir())
    assert kept == [f"{session}-session-{name}" for name in ("erased", "expired")]


def test_a_refusal_is_certified_too(site: Installation, rooms: list[str]) -> None:
    """With its ground, and nothing of what would have been erased."""
    site.lapse("hold", "add", "--session", rooms[0], "--ground", "legal-claim")
    asked = site.lapse("erase", "session", rooms[0], "--json", expect=None).document["request_id"]
    waiting = certified(site, asked)
    assert (waiting["status"], waiting["reason"]) == ("requested", "held")
    assert (waiting["keks"], waiting["residual_until"]) == ([], None)
    site.lapse("request", "refuse", asked, "--ground", "legal-claim")
    refused = certified(site, asked)
    assert (refused["status"], refused["reason"]) == ("refused", "legal-claim")
    assert refused["counts"] == dict.fromkeys(("sessions", "parts", "items", "subjects"), 0)
    assert rooms[0] not in json.dumps(refused)
