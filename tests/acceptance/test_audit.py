"""Auditors ask, and verify the answers: replay, why, completeness, policies, access, exports."""

import csv
import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from tests.acceptance.commands import FAILED, USAGE, Installation
from tests.independent.leaves import fields_of, verifies

pytestmark = pytest.mark.usefixtures("visited")

LOG = "".join(
    f'192.0.2.{host} - - [22/Nov/2026:09:0{minute}:00 +0000] "GET / HTTP/1.1" 200 512\n'
    for minute in range(3)
    for host in (1, 2)
)


@pytest.fixture
def visited(site: Installation) -> str:
    """Two visits from 9:00 to 9:02 under a policy of 30 m and 1 d, imported at 9:10, and nobody
    sweeps until somebody says so."""
    log = site.folder / "access.log"
    log.write_text(LOG)
    site.now = "2026-11-22T09:10:00+00:00"
    command = ("ingest", str(log), "--format", "combined", "--policy", "web-visit")
    site.lapse(*command, "--until", "last")
    found = site.ask("sessions")["sessions"]
    assert len(found) == 2
    return str(found[0]["id"])


def replayed(site: Installation, until: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = site.ask("audit", "replay", "--until", until, *options)
    return found


def test_what_was_known_at_a_time(site: Installation, visited: str) -> None:
    """Three hours without a sweeper: at noon nothing was known of the expiry that had been due at
    9:32; by what was so, it had happened."""
    site.now = "2026-11-22T12:30:00+00:00"
    site.lapse("sweep")
    known = replayed(site, "2026-11-22T12:00:00Z")
    so = replayed(site, "2026-11-22T12:00:00Z", "--by", "effective")
    assert known["total"]["phases"] == {
        **dict.fromkeys(("completed", "failed", "expired", "erased"), 0),
        "active": 2,
    }
    assert so["policies"]["web-visit"]["phases"]["expired"] == 2
    assert replayed(site, "2026-11-22T12:30:00Z") | {"until": None, "by": None} == (
        so | {"until": None, "by": None}
    )
    one = replayed(site, "2026-11-22T12:00:00Z", "--session", visited)
    assert one["state"]["state"] == "active"
    later = replayed(site, "2026-11-22T12:00:00Z", "--session", visited, "--by", "effective")
    assert later["state"]["expired_at"] == "2026-11-22T09:32:00.000Z"
    assert replayed(site, "2026-11-22T08:00:00Z", "--session", visited)["state"] is None
    assert replayed(site, "2026-11-22T12:00:00Z", "--policy", "reading-room")["policies"] == {}


def test_why_it_ended(site: Installation, visited: str) -> None:
    """The rule, the version and its text, the deadline step by step with positions, how late."""
    site.now = "2026-11-24T12:30:00+00:00"
    site.lapse("sweep")
    found = site.ask("audit", "why", visited)
    expired, erased = found["endings"]
    assert [one["event"] for one in found["endings"]] == ["session.expired", "session.erased"]
    assert [step["because"] for step in expired["steps"]] == ["since", "after"]
    assert expired["steps"][0]["at"] == "2026-11-22T09:02:00.000Z"
    assert expired["due_at"] == expired["effective_at"] == "2026-11-22T09:32:00.000Z"
    assert erased["steps"][0]["position"] == expired["position"]
    assert expired["late_seconds"] == pytest.approx((2 * 24 + 2) * 3600 + 58 * 60)
    assert "2d2h58m later, by scheduler" in site.lapse("audit", "why", visited).out
    assert expired["actor"] == "scheduler"
    assert all(one["agrees"] for one in found["endings"])
    (version,) = found["versions"]
    assert expired["rule"]["name"] in {rule["name"] for rule in version["policy"]["rules"]}
    assert site.lapse("audit", "why", "0" * 32, expect=FAILED).err


def test_whether_all_that_was_due_was_done(site: Installation) -> None:
    """Named while it is overdue; once swept, due = done + held + rearmed + failed."""
    site.now = "2026-11-22T12:30:00+00:00"
    period = ("--since", "2026-11-22T09:00:00Z", "--until", "2026-11-22T13:00:00Z")
    before = site.ask("audit", "completeness", *period, expect=FAILED)
    assert not before["ok"]
    assert before["adds_up"]
    assert {one["due_at"] for one in before["overdue"]} == {"2026-11-22T09:32:00.000Z"}
    site.lapse("sweep")
    after = site.ask("audit", "completeness", *period)
    swept = after["swept"]
    assert swept["done"] == 2
    assert swept["due"] == sum(swept[name] for name in ("done", "held", "rearmed", "failed"))
    assert after["recorded"]["with_commands"] == 0
    assert {one["event"]: one["count"] for one in after["done"]} == {"session.expired": 2}


def test_the_history_of_a_policy(site: Installation) -> None:
    """From when, by whom, and what changed."""
    file = site.folder / "policies.toml"
    file.write_text(
        "[policy.web-visit]\nrules = [\n"
        '  { since = "last_seen", after = "20m", do = "expire" },\n'
        '  { since = "expired", after = "1h", do = "erase" },\n]\n'
    )
    site.lapse("policy", "apply", str(file))
    (found,) = site.ask("audit", "policies", "web-visit")["policies"]
    first, second = found["versions"]
    assert (first["version"], second["version"], first["changes"]) == (1, 2, [])
    assert second["actor"] == "operator"
    assert second["effective_from"] == "2026-11-22T09:10:05.000Z"
    changes = {one["path"]: (one["before"], one["after"]) for one in second["changes"]}
    assert changes["rules.expire-last_seen.after"] == ("30m", "20m")
    site.lapse("audit", "policies", "nobody", expect=USAGE)


def test_an_export_in_every_format_says_the_same(site: Installation) -> None:
    """Position by position; two periods divide what one export has."""
    files = {form: site.folder / f"audit.{form}" for form in ("jsonl", "csv", "parquet")}
    for form, file in files.items():
        site.lapse("audit", "export", "--format", form, "--out", str(file))
    lines = [json.loads(line) for line in files["jsonl"].read_text().splitlines()]
    with files["csv"].open(newline="") as rows:
        cells = list(csv.DictReader(rows))
    table = parquet.read_table(files["parquet"]).to_pylist()
    positions = [line["position"] for line in lines]
    assert positions == list(range(1, len(lines) + 1))
    assert [int(row["position"]) for row in cells] == positions
    assert [row["position"] for row in table] == positions
    for line, cell, row in zip(lines, cells, table, strict=True):
        assert line["event"] == cell["event"] == row["event"]
        assert json.loads(cell["detail"]) == json.loads(row["detail"]) == line["detail"]
    parts = [site.folder / "before", site.folder / "after"]
    site.lapse("audit", "export", "--out", str(parts[0]), "--until", "2026-11-22T09:01:00Z")
    site.lapse("audit", "export", "--out", str(parts[1]), "--since", "2026-11-22T09:01:00Z")
    both = [line for part in parts for line in part.read_text().splitlines()]
    assert sorted(both) == sorted(files["jsonl"].read_text().splitlines())
    site.lapse("audit", "export", "--format", "xml", "--out", "x", expect=USAGE)


def test_an_export_that_fails_leaves_nothing(site: Installation) -> None:
    """A format that is none, a folder that is not there, a folder in place of a file, a period that
    ends before it begins: each is said, and not even a checkpoint is written."""
    for wrong, text in (
        (("--format", "xml", "--out", "x"), "--format must be one of"),
        (("--out", "nowhere/x"), "--out cannot be written (No such file or directory)"),
        (("--out", "."), "--out names a folder"),
        (
            ("--out", "x", "--since", "2026-11-23T00:00:00Z", "--until", "2026-11-22T00:00:00Z"),
            "--since must lie before --until",
        ),
    ):
        answer = site.lapse("audit", "export", "--proofs", *wrong, expect=USAGE)
        assert text in answer.err
    answer = site.lapse("audit", "prove", "1", "--out", ".", expect=USAGE)
    assert "--out names a folder" in answer.err
    assert not [path for path in site.folder.iterdir() if path.name.startswith("x")]


@pytest.mark.row("G10")
def test_every_exported_event_is_proven(site: Installation) -> None:
    """By code that is not ours, against the checkpoint beside the file; a changed leaf is not, and
    the leaf says what the row says."""
    file = site.folder / "audit.jsonl"
    site.lapse("audit", "export", "--proofs", "--out", str(file))
    note = Path(f"{file}.checkpoint").read_text()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == int(note.splitlines()[1])
    for row in rows:
        assert verifies(row, note)
        leaf = fields_of(b64decode(row["leaf_bytes"]))
        assert leaf["session_id"] == row["session_id"]
        assert leaf["topic"].startswith(row["event"])
        other = rows[row["leaf_index"] - 1]
        assert not verifies({**row, "leaf_bytes": other["leaf_bytes"]}, note)
        assert not verifies({**row, "leaf_index": other["leaf_index"]}, note)


@pytest.mark.row("G10")
def test_a_certificate_is_verified_offline(site: Installation, visited: str) -> None:
    """With the two public keys alone; not with a byte changed, nor with another key, nor for a
    session that lives. Asked again it states the same."""
    file = site.folder / "certificate.json"
    site.lapse("certificate", "get", visited, "--out", str(file), expect=FAILED)
    site.now = "2026-11-24T12:30:00+00:00"
    site.lapse("sweep")
    site.lapse("certificate", "get", visited, "--out", str(file))
    keys = site.ask("audit", "key")
    pem = site.folder / "certificates.pem"
    pem.write_text(keys["certificates"]["pem"])
    log = ("--log-key", keys["checkpoints"]["verifier_key"])
    verify = ("certificate", "verify", str(file), "--key", str(pem))
    stated = site.ask(*verify, *log, LAPSE_DATABASE_URL="sqlite:////nowhere/at/all.db")["statement"]
    assert (stated["what"], stated["id"], stated["reason"]) == ("session.erased", visited, "rule")
    assert stated["recipients"] == []
    assert stated["due_at"] == "2026-11-23T09:32:00.000Z"
    assert len(stated["keks"]) == 1
    site.lapse("certificate", "get", visited, "--out", str(file))
    assert site.ask(*verify)["statement"] == stated
    document = json.loads(file.read_text())
    payload = b64decode(document["payload"]).replace(b"session.erased", b"session.erasee")
    changed = {**document, "payload": b64encode(payload).decode()}
    file.write_text(json.dumps(changed))
    assert not site.ask(*verify, expect=FAILED)["ok"]
    file.write_text(json.dumps(document))
    pem.write_text(keys["checkpoints"]["pem"])
    assert "signed" in site.lapse(*verify, expect=FAILED).err
    pem.write_text(site.lapse("audit", "key").out)  # both keys, as they are handed over
    assert "several keys" in site.lapse(*verify, expect=USAGE).err
