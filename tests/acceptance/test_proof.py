"""The log proves what it says to programs that are not ours, and what is done to it is found."""

import base64
import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.log.engine import open_engines
from adapters.log.merkle import HASH
from adapters.log.migrate import downgrade
from adapters.log.note import VerifierKey
from adapters.settings import load_settings
from adapters.wiring import Lapse, open_lapse
from tests.acceptance import databases
from tests.acceptance.commands import FAILED, USAGE, Installation, written
from tests.independent.go_sumdb import build_verifier, verified
from tests.servers import wait_until
from tests.witness import FakeWitness, serving_witness

EVENTS = 10_000
CONSISTENCIES = 200
MUTATED = 10_000


@pytest.fixture(scope="module")
def go_verifier() -> Path:
    """A program of Go that says whether proofs hold; what was compiled is kept."""
    folder = Path(__file__).resolve().parents[2] / "build" / "go"
    folder.mkdir(parents=True, exist_ok=True)
    return build_verifier(folder)


def ingest(site: Installation, sessions: int) -> None:
    """Sessions that begin, expire and are erased: four events each at least."""
    begin = [
        {"at": f"2026-11-18T09:{number % 60:02}:00Z", "activity": "seen", "visitor": f"v{number}"}
        for number in range(sessions)
    ]
    lines = sorted(begin, key=lambda line: line["at"])
    lines.append({"at": "2026-11-21T09:00:00Z", "activity": "seen", "visitor": "last"})
    path = written(site.folder / "visits.jsonl", lines)
    site.lapse("ingest", path, *["--format", "jsonl", "--policy", "web-visit", "--visitor", "host"])


@pytest.fixture
def opened(site: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lapse]:
    """The same installation, in this process: ten thousand commands would take hours."""
    for name, value in site.environment.items():
        if name.startswith("LAPSE_"):
            monkeypatch.setenv(name, value)
    with open_lapse(load_settings()) as lapse:
        yield lapse


def base64s(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(one).decode() for one in hashes]


def inclusion_claim(lapse: Lapse, position: int, size: int, root: bytes) -> dict[str, Any]:
    proof = lapse.tree.inclusion(position, size)
    leaf, top = base64s([proof.leaf, root])
    return {
        "kind": "inclusion",
        "leaf": leaf,
        "index": proof.index,
        "size": size,
        "root": top,
        "hashes": base64s(proof.hashes),
    }


def consistency_claim(lapse: Lapse, old: int, new: int) -> dict[str, Any]:
    before, after = base64s([lapse.tree.root(old), lapse.tree.root(new)])
    return {
        "kind": "consistency",
        "old": old,
        "old_root": before,
        "size": new,
        "root": after,
        "hashes": base64s(lapse.tree.consistency(old, new)),
    }


def mutated(claim: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The claim with one thing changed that it rests on."""
    changed = dict(claim)
    fields = ["root", "hash", "number", *(["leaf"] if "leaf" in claim else ["old_root"])]
    field = chance.choice(fields)
    if field == "hash" and claim["hashes"]:
        hashes = list(claim["hashes"])
        at = chance.randrange(len(hashes))
        how = chance.choice(["bit", "missing", "twice"])
        if how == "bit":
            hashes[at] = flipped(hashes[at], chance)
        elif how == "missing":
            del hashes[at]
        else:
            hashes.insert(at, hashes[at])
        return changed | {"hashes": hashes}
    if field in ("hash", "number"):
        name = "index" if "index" in claim else "old"
        return changed | {name: claim[name] + chance.choice([-1, 1])}
    return changed | {field: flipped(claim[field], chance)}


def flipped(encoded: str, chance: random.Random) -> str:
    value, bit = bytearray(base64.b64decode(encoded)), chance.randrange(8 * HASH)
    value[bit // 8] ^= 1 << bit % 8
    return base64.b64encode(value).decode()


@pytest.mark.row("G10")
def test_every_proof_verifies_with_go_and_no_mutated_one_does(
    site: Installation, go_verifier: Path, request: pytest.FixtureRequest
) -> None:
    """10 000 events: all inclusion proofs and 200 consistency proofs, 10 000 of them mutated, and
    the checkpoint's signature; then the same signature with openssl."""
    ingest(site, 2_500)
    opened: Lapse = request.getfixturevalue("opened")
    made = opened.checkpoints.make(opened.clock())
    assert made.size >= EVENTS
    chance = random.Random(10)
    claims = [
        inclusion_claim(opened, position, made.size, made.root)
        for position in range(1, made.size + 1)
    ]
    for _ in range(CONSISTENCIES):
        old, new = sorted(chance.sample(range(1, made.size + 1), 2))
        claims.append(consistency_claim(opened, old, new))
    assert all(verified(go_verifier, claims))
    assert len(claims) >= EVENTS + CONSISTENCIES
    wrong = [mutated(chance.choice(claims), chance) for _ in range(MUTATED)]
    assert not any(verified(go_verifier, wrong))
    key = str(opened.signers.checkpoints.verifier_key())
    forged = made.note.replace(f"\n{made.size}\n", f"\n{made.size - 1}\n")
    notes = [{"kind": "note", "key": key, "note": note} for note in (made.note, forged)]
    assert verified(go_verifier, notes) == [True, False]


@pytest.mark.row("G10")
def test_openssl_verifies_the_checkpoint(site: Installation) -> None:
    """With the public key that the command prints; the signature stands behind four bytes of it."""
    ingest(site, 3)
    note = site.lapse("audit", "checkpoint").out
    text, _, signatures = note.partition("\n\n")
    signature = base64.b64decode(signatures.split()[2])[4:]
    key = site.folder / "key.pem"
    key.write_text(site.ask("audit", "key")["checkpoints"]["pem"])
    (site.folder / "signature").write_bytes(signature)
    for body, code in ((f"{text}\n", 0), (f"{text}\n".replace("lapse", "Lapse"), 1)):
        (site.folder / "text").write_text(body)
        ended = subprocess.run(
            [
                *("openssl", "pkeyutl", "-verify", "-pubin", "-rawin"),
                *("-inkey", "key.pem", "-sigfile", "signature", "-in", "text"),
            ],
            cwd=site.folder,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == code, ended.stderr


@pytest.mark.row("G10")
def test_a_proof_is_a_file_that_says_all(site: Installation, go_verifier: Path) -> None:
    """Index, hashes and checkpoint in one text (C2SP tlog-proof), read here without our code."""
    ingest(site, 50)
    found = site.ask("audit", "prove", "42", "--out", "42.tlog-proof")
    head, _, note = (site.folder / "42.tlog-proof").read_text().partition("\n\n")
    version, index, *hashes = head.split("\n")
    assert (version, index) == ("c2sp.org/tlog-proof@v1", "index 41")
    _, size, root, *_ = note.split("\n")
    claim = {
        "kind": "inclusion",
        "leaf": found["leaf"],
        "index": 41,
        "size": int(size),
        "root": root,
        "hashes": hashes,
    }
    key = site.ask("audit", "key")["checkpoints"]["verifier_key"]
    signed = {"kind": "note", "key": key, "note": note}
    assert verified(go_verifier, [claim, signed]) == [True, True]
    site.lapse("audit", "prove", "9999", "--out", "x", expect=USAGE)


@pytest.mark.row("G10")
def test_what_was_done_to_the_log_is_named_by_kind_and_place(site: Installation) -> None:
    """A row altered, the tail cut: `verify` ends with 1; the checkpoint that was kept elsewhere
    tells an older state from the present one."""
    ingest(site, 50)
    kept = site.folder / "kept"
    kept.write_text(site.lapse("audit", "checkpoint").out)
    assert site.ask("audit", "verify", "--against", "kept") == {
        "ok": True,
        "size": json.loads(kept.read_text().split("\n")[1]),
        "signed": json.loads(kept.read_text().split("\n")[1]),
        "lost": 0,
        "trust": "operator-trusted",
        "problems": [],
        "more": 0,
    }
    databases.change(
        site.database_url, "UPDATE events SET recorded_at = recorded_at + 1 WHERE position = 7"
    )
    found = site.ask("audit", "verify", expect=FAILED)
    assert found["problems"] == [{"kind": "altered", "partition": 0, "position": 7, "where": "log"}]
    databases.change(
        site.database_url, "UPDATE events SET recorded_at = recorded_at - 1 WHERE position = 7"
    )
    databases.change(site.database_url, "DELETE FROM events WHERE position > 60")
    found = site.ask("audit", "verify", expect=FAILED)
    assert [(one["kind"], one["position"]) for one in found["problems"]] == [("truncated", 61)]


def test_a_published_log_is_files_that_any_server_can_serve(site: Installation) -> None:
    """Checkpoint and tiles; published again, only what is new is written."""
    ingest(site, 200)
    found = site.ask("audit", "publish", "--out", "public")
    assert found["tiles"] >= 3
    public = site.folder / "public"
    size = int((public / "checkpoint").read_text().split("\n")[1])
    assert len((public / "tile" / "0" / "000").read_bytes()) == 256 * HASH
    rest = public / "tile" / "0" / f"{size // 256:03}.p" / str(size % 256)
    assert len(rest.read_bytes()) == size % 256 * HASH
    assert site.ask("audit", "publish", "--out", "public")["tiles"] == 0


def test_a_service_signs_by_schedule_and_keeps_evidence_outside(
    site: Installation, tmp_path: Path
) -> None:
    """Without anybody asking, and where the database does not go."""
    evidence = tmp_path / "evidence"
    site.environment["LAPSE_EVIDENCE_URL"] = evidence.as_uri()
    ingest(site, 5)
    with site.serving("--only", "worker"):
        wait_until(lambda: any(evidence.rglob("checkpoints/*/*/*")), 60, "a checkpoint")
    assert site.ask("audit", "verify")["ok"]
    databases.change(site.database_url, "DELETE FROM checkpoints")
    databases.change(site.database_url, "DELETE FROM events WHERE position > 10")
    databases.change(site.database_url, "UPDATE heads SET position = 10")
    databases.change(site.database_url, "DELETE FROM trees")
    databases.change(site.database_url, "DELETE FROM tiles")
    found = site.ask("audit", "verify", expect=FAILED)
    assert [(one["kind"], one["position"]) for one in found["problems"]] == [("rolled_back", 11)]


def test_a_checkpoint_that_is_kept_nowhere_else_is_no_success(
    site: Installation, tmp_path: Path
) -> None:
    """A job that makes one every night ends with 1 and one message: what failed, where it is all
    the same, and what to do. It is done by doing it again."""
    ingest(site, 1)
    evidence = tmp_path / "evidence"
    evidence.touch()  # where the folder should be
    site.environment["LAPSE_EVIDENCE_URL"] = evidence.as_uri()
    with serving_witness(FakeWitness(VerifierKey("log", b""))) as witness:
        witness.answer = (503, "")
        site.environment["LAPSE_WITNESSES"] = json.dumps([f"{witness.key} {witness.url}"])
        failed = site.lapse("audit", "checkpoint", "--json", expect=FAILED)
    (said,) = failed.err.splitlines()
    for words in (
        "is kept in the database",
        "LAPSE_EVIDENCE_URL",
        "witness.example/w1 answers 503",
        "`lapse audit checkpoint` again",
    ):
        assert words in said
    kept = databases.value(site.database_url, "SELECT note FROM checkpoints")
    assert failed.document["note"] == kept
    del site.environment["LAPSE_WITNESSES"]
    evidence.unlink()
    assert site.lapse("audit", "checkpoint").out == kept
    assert [path.read_text() for path in evidence.rglob("checkpoints/*/*/*")] == [kept]


@pytest.mark.row("G13")
def test_bodies_of_events_go_and_their_proofs_stay(site: Installation) -> None:
    """400 days after the erasure: nothing tells any more what happened in the session, and the log
    verifies from its first event to its last, with the checkpoint that was kept from before."""
    ingest(site, 20)
    kept = site.folder / "kept"
    kept.write_text(site.lapse("audit", "checkpoint").out)
    before = site.ask("audit", "prove", "20", "--out", "before")
    bodies = databases.value(site.database_url, "SELECT count(*) FROM events")
    session = databases.value(
        site.database_url, "SELECT session_id FROM events WHERE topic = 'session.erased.v1' LIMIT 1"
    )
    site.wait(days=398)
    with site.serving("--only", "worker"):
        site.wait(days=4)
        wait_until(
            lambda: databases.value(site.database_url, "SELECT count(*) FROM pruned") >= 80,
            60,
            "bodies to be pruned",
        )
    gone = databases.value(site.database_url, "SELECT count(*) FROM pruned")
    left = databases.value(site.database_url, "SELECT count(*) FROM events")
    assert left <= bodies - 80 + 4  # the last visitor, erased meanwhile, and the policies
    assert (
        databases.value(
            site.database_url, "SELECT count(*) FROM events WHERE session_id = ?", session
        )
        == 0
    )
    assert databases.value(site.database_url, "SELECT max(position) FROM heads") == gone + left
    site.lapse("audit", "show", session, expect=FAILED)
    found = site.ask("audit", "verify", "--against", "kept")
    assert (found["ok"], found["size"]) == (True, gone + left)
    after = site.ask("audit", "prove", "20", "--out", "after")
    assert after["leaf"] == before["leaf"]
    assert site.ask("db", "check")["findings"] == []


def test_an_upgrade_gives_an_existing_log_its_tree(site: Installation) -> None:
    """Every leaf and every tile, in bounded batches; what was signed before still holds."""
    ingest(site, 200)
    kept = site.folder / "kept"
    kept.write_text(site.lapse("audit", "checkpoint").out)
    engines = open_engines(site.database_url)
    downgrade(engines, "0003")
    engines.close()
    assert site.ask("db", "upgrade") == {"before": "older", "after": "current"}
    size = databases.value(site.database_url, "SELECT size FROM trees")
    assert size == databases.value(site.database_url, "SELECT max(position) FROM events") > 800
    assert site.ask("audit", "verify", "--against", "kept")["ok"]
