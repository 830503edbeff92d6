"""The log as others see it who need not trust its operator."""

import base64
import struct

from adapters.log.merkle import leaf_hash, verify_inclusion
from adapters.log.note import parse_note, tree_head
from tests.adapters.http.conftest import Site


def test_anybody_gets_the_checkpoint_and_the_tiles(site: Site) -> None:
    """Without a token, since they are hashes only; the tiles lead to the root that is signed."""
    for _ in range(300):
        site.session()
    site.lapse.checkpoints.make(site.now)
    answer = site.client.get("/v1/checkpoint")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    note = parse_note(answer.text)
    assert note.is_signed_by(site.lapse.signers.checkpoints.verifier_key())
    head = tree_head(note.text)
    assert head.size == site.lapse.log.head() > 300
    tile = site.client.get("/v1/tile/0/000")
    assert len(tile.content) == 8_192
    assert "immutable" in tile.headers["Cache-Control"]
    rest = site.client.get(f"/v1/tile/0/001.p/{head.size - 256}")
    assert len(rest.content) == (head.size - 256) * 32
    assert site.client.get("/v1/tile/1/000.p/1").status_code == 200


def test_tiles_that_are_not_there_are_not_found(site: Site) -> None:
    """Neither beyond the tree, nor under a name that is none."""
    site.lapse.checkpoints.make(site.now)
    for name in ("0/000", "0/001.p/1", "9/000.p/1", "0/x000/000", "0/000.p/999"):
        assert site.client.get(f"/v1/tile/{name}").status_code == 404, name
    for name in ("0/0", "64/000", "0/000.p/0", "x/000"):
        assert site.client.get(f"/v1/tile/{name}").status_code == 422, name


def test_an_auditor_reads_the_leaves_themselves(site: Site) -> None:
    """As they were hashed; nobody else does."""
    site.lapse.checkpoints.make(site.now)
    path = "/v1/tile/entries/000.p/2"
    assert site.client.get(path).status_code == 401
    site.ask("GET", path, role="producer", expect=403)
    token = {"Authorization": f"Bearer {site.token('auditor')}"}
    body, leaves = site.client.get(path, headers=token).content, []
    while body:
        (length,) = struct.unpack(">H", body[:2])
        leaves.append(leaf_hash(body[2 : 2 + length]))
        body = body[2 + length :]
    assert b"".join(leaves) == site.client.get("/v1/tile/0/000.p/2").content
    beyond = site.client.get("/v1/tile/entries/003.p/2", headers=token)
    assert beyond.status_code == 404


def test_an_auditor_gets_the_proof_of_an_event(site: Site) -> None:
    """It verifies under its own checkpoint, also for an event that is not signed yet."""
    site.lapse.checkpoints.make(site.now)
    site.session()
    position = site.lapse.log.head()
    found = site.ask("GET", f"/v1/audit/proof?position={position}", role="auditor")
    proof, _, note = found["proof"].partition("\n\n")
    kind, index, *lines = proof.split("\n")
    assert (kind, index) == ("c2sp.org/tlog-proof@v1", f"index {position - 1}")
    assert (found["checkpoint"], found["index"]) == (note, position - 1)
    head = tree_head(parse_note(note).text)
    leaf, path = base64.b64decode(found["leaf"]), [base64.b64decode(line) for line in lines]
    assert verify_inclusion(leaf, position - 1, head.size, path, head.root)
    site.ask("GET", f"/v1/audit/proof?position={position + 1}", role="auditor", expect=404)
