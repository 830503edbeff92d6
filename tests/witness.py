"""A witness on the loopback (C2SP tlog-witness): it checks what it cosigns, as a real one does."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.log.merkle import EMPTY_ROOT, HASH, Hashes, node_hash
from adapters.log.note import NoteInvalid, VerifierKey, parse_note, tree_head


def verify_consistency(old: int, new: int, path: Hashes, old_root: bytes, new_root: bytes) -> bool:
    """Whether `path` proves that the tree of `new` leaves grew out of that of `old` (RFC 9162,
    2.1.4.2)."""
    if not 0 <= old <= new or any(len(one) != HASH for one in path):
        return False
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root


class FakeWitness:
    """log: whose checkpoints it cosigns. answer: what it answers instead, if a test says so."""

    def __init__(self, log: VerifierKey, name: str = "witness.example/w1") -> None:
        self._private = Ed25519PrivateKey.generate()
        self.key = VerifierKey(name, self._private.public_key().public_bytes_raw(), cosigner=True)
        self._log = log
        self._seen: tuple[int, bytes] = (0, b"")
        self.answer: tuple[int, str] | None = None
        self.url = ""

    def add_checkpoint(self, body: str) -> tuple[int, str]:
        """Status and text of the answer."""
        if self.answer is not None:
            return self.answer
        head, _, text = body.partition("\n\n")
        old_line, *proof = head.split("\n")
        try:
            note = parse_note(text)
            found = tree_head(note.text)
        except NoteInvalid:
            return 400, ""
        if found.origin != self._log.name:
            return 404, ""
        if not note.is_signed_by(self._log):
            return 403, ""
        old, (size, root) = int(old_line.removeprefix("old ")), self._seen
        if old > found.size:
            return 400, ""
        if old != size or (old == found.size and root != found.root):
            return 409, f"{size}\n"
        hashes = [base64.b64decode(line) for line in proof]
        if size and not verify_consistency(size, found.size, hashes, root, found.root):
            return 422, ""
        self._seen = found.size, found.root
        return 200, self.key.cosignature(note.text, 1_793_527_200, self._private.sign)


@contextmanager
def serving_witness(witness: FakeWitness) -> Iterator[FakeWitness]:
    """While the block runs it answers at its `url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, text = (
                (404, "") if self.path != "/add-checkpoint" else (witness.add_checkpoint(body))
            )
            self.send_response(status)
            if status == 409:
                self.send_header("Content-Type", "text/x.tlog.size")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    witness.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield witness
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
