"""A Transit engine of HashiCorp Vault for tests: HTTPS on the loopback, real AES-256-GCM.

It does what Lapse relies on, the way Vault's source and documents have it: versions, `rotate`,
`rewrap`, `min_decryption_version`, `min_encryption_version`, `trim`, batches in which single items
fail, associated data (which `rewrap` does not know), tokens, and the faults a test orders.
"""

import base64
import json
import os
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID

TOKEN = "hvs.a-token-of-the-tests"  # noqa: S105
NAME = "lapse"


class Refused(Exception):
    """An answer that is no success: status and text."""


@dataclass
class Named:
    """A named key. versions: number -> (key, second of creation)."""

    versions: dict[int, tuple[bytes, int]]
    min_decryption_version: int = 1
    min_encryption_version: int = 0
    min_available_version: int = 0

    @property
    def latest(self) -> int:
        return max(self.versions)


@dataclass
class FakeTransit:
    """The engine. clock: microseconds. faults: statuses that the next requests get instead.

    asked: operation of every request that came, such as `decrypt`.
    """

    clock: Callable[[], int]
    url: str = ""
    ca_file: Path = Path()
    token: str = TOKEN
    keys: dict[str, Named] = field(default_factory=dict)
    faults: deque[int] = field(default_factory=deque)
    asked: list[str] = field(default_factory=list)

    @property
    def key_url(self) -> str:
        """As LAPSE_KEY_URL has it."""
        return f"vault+{self.url}/v1/transit/keys/{NAME}"

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> Any:
        """The `data` of an answer. Raises Refused."""
        parts = path.removeprefix("/v1/transit/").split("/")
        operation = parts[2] if len(parts) == 3 else f"{parts[0]}:{method}"
        self.asked.append(operation.removesuffix(":POST"))
        if self.faults:
            raise Refused(self.faults.popleft(), "a fault that the test ordered")
        if token != self.token:
            raise Refused(403, "permission denied")
        name = parts[1]
        if operation == "keys:POST":
            self.keys.setdefault(name, Named({1: self._version()}))
            return self._described(self.keys[name])
        if name not in self.keys:
            raise Refused(404, "")
        return getattr(self, "_" + operation.partition(":")[0])(self.keys[name], body)

    def _version(self) -> tuple[bytes, int]:
        return os.urandom(32), self.clock() // 1_000_000

    def _described(self, key: Named) -> dict[str, Any]:
        listed = {n: at for n, (_, at) in key.versions.items() if n >= key.min_decryption_version}
        return {
            "type": "aes256-gcm96",
            "latest_version": key.latest,
            "min_decryption_version": key.min_decryption_version,
            "min_encryption_version": key.min_encryption_version,
            "min_available_version": key.min_available_version,
            "keys": {str(number): at for number, at in listed.items()},
        }

    def _keys(self, key: Named, _body: dict[str, Any]) -> dict[str, Any]:
        return self._described(key)

    def _rotate(self, key: Named, _body: dict[str, Any]) -> dict[str, Any]:
        key.versions[key.latest + 1] = self._version()
        return self._described(key)

    def _config(self, key: Named, body: dict[str, Any]) -> dict[str, Any]:
        for name in ("min_decryption_version", "min_encryption_version"):
            if name in body:
                if not key.min_available_version <= body[name] <= key.latest:
                    raise Refused(400, f"{name} out of range")
                setattr(key, name, body[name])
        return self._described(key)

    def _trim(self, key: Named, body: dict[str, Any]) -> dict[str, Any]:
        wanted = body["min_available_version"]
        floor = min(key.min_decryption_version, key.min_encryption_version)
        if not max(1, key.min_available_version) <= wanted <= floor:
            raise Refused(400, "minimum available version out of range")
        key.min_available_version = wanted
        key.versions = {n: one for n, one in key.versions.items() if n >= wanted}
        return self._described(key)

    def _encrypt(self, key: Named, body: dict[str, Any]) -> dict[str, Any]:
        return self._each(body, lambda item: {"ciphertext": self._sealed(key, item)})

    def _decrypt(self, key: Named, body: dict[str, Any]) -> dict[str, Any]:
        return self._each(body, lambda item: {"plaintext": _encoded(self._opened(key, item))})

    def _rewrap(self, key: Named, body: dict[str, Any]) -> dict[str, Any]:
        def rewrapped(item: dict[str, str]) -> dict[str, str]:
            bare = {"ciphertext": item["ciphertext"]}  # without associated data, as in Vault
            return {
                "ciphertext": self._sealed(key, {"plaintext": _encoded(self._opened(key, bare))})
            }

        return self._each(body, rewrapped)

    def _sealed(self, key: Named, item: dict[str, str]) -> str:
        secret, _ = key.versions[key.latest]
        nonce, plain = os.urandom(12), base64.b64decode(item["plaintext"])
        sealed = nonce + AESGCM(secret).encrypt(nonce, plain, _associated(item))
        return f"vault:v{key.latest}:{_encoded(sealed)}"

    def _opened(self, key: Named, item: dict[str, str]) -> bytes:
        _, version, encoded = item["ciphertext"].split(":")
        number, sealed = int(version.removeprefix("v")), base64.b64decode(encoded)
        if number < key.min_decryption_version:
            raise Refused(400, "ciphertext or signature version is disallowed by policy (too old)")
        if number not in key.versions:
            raise Refused(400, "invalid ciphertext: version is too new")
        try:
            return AESGCM(key.versions[number][0]).decrypt(
                sealed[:12], sealed[12:], _associated(item)
            )
        except (InvalidTag, ValueError):
            raise Refused(400, "cipher: message authentication failed") from None

    def _each(
        self, body: dict[str, Any], act: Callable[[dict[str, str]], dict[str, str]]
    ) -> dict[str, Any]:
        """A batch; 400 if any of it failed, and each item says so itself."""
        results = []
        for item in body["batch_input"]:
            try:
                results.append(act(item))
            except Refused as refused:
                results.append({"error": str(refused.args[1])})
        if not results:
            raise Refused(400, "missing batch input to process")
        return {"batch_results": results}


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _associated(item: dict[str, str]) -> bytes | None:
    return base64.b64decode(item["associated_data"]) if "associated_data" in item else None


# -- the server -------------------------------------------------------------------------------


@contextmanager
def fake_transit(folder: Path, clock: Callable[[], int]) -> Iterator[FakeTransit]:
    """A Vault that runs until the end of the block; its certificate lies in `folder`."""
    engine = FakeTransit(clock)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(engine))
    server.daemon_threads = True
    engine.ca_file = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(engine.ca_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    engine.url = f"https://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    try:
        yield engine
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def _handler(engine: FakeTransit) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # One packet per answer, or each waits 40 ms for the client's delayed acknowledgement.
        wbufsize = -1

        def do_GET(self) -> None:
            self._respond()

        do_POST = do_GET  # noqa: N815

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("X-Vault-Token", "")
            status, answer = 200, {}
            try:
                data = engine.answer(self.command, self.path, token, json.loads(body or b"{}"))
                failed = any("error" in one for one in data.get("batch_results", ()))
                status, answer = 400 if failed else 200, {"data": data}
            except Refused as refused:
                status, answer = refused.args[0], {"errors": [refused.args[1]]}
            encoded = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    return Handler


def _certificate(folder: Path) -> Path:
    """Certificate and key of the loopback in one PEM file, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a Vault of the tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "vault.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
