"""Key-encryption keys in HashiCorp Vault: the versions of one key of its Transit engine.

https://developer.hashicorp.com/vault/api-docs/secret/transit

`rewrap` of Vault takes no associated data, and what was encrypted with some cannot be rewrapped
(hashicorp/vault#29532). So the place a key belongs to is bound by its SHA-256, encrypted before the
key: rotations then never see a key in clear (docs/decisions/0015).

Errors name the setting and the status, never the token or what Vault said.
"""

import base64
import hashlib
import hmac
import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import httpx2 as httpx
import stamina

from adapters.keyring.aead import wiping
from adapters.keyring.keks import Counter, Kek, Placed, TransitKey, WrappedKey
from adapters.keyring.keyring import seconds_since_boot
from domain.errors import KeyUnavailable, SealBroken

READ_AGAIN = 5.0
"""Seconds after which the versions of the key are asked for again."""
_BATCH = 500
"""Keys per request."""
_CHECK = b"lapse/kek-check/v1"
_PREFIX = "vault:v"


class Retirements(Protocol):
    """Vault does not know since when a version is unused; this remembers it, in microseconds."""

    def read(self) -> Mapping[str, int]: ...

    def note(self, keks: Collection[str], now: int) -> None: ...

    def forget(self, keks: Collection[str]) -> None: ...


class _Unanswered(KeyUnavailable):
    """Worth another try."""


class TransitKeks:
    """The versions of one Transit key; `adapters.keyring.keks.KekProvider`. store: whose keys.

    The id of a KEK is the prefix of what it encrypted, such as `vault:v3`.
    """

    def __init__(
        self,
        key: TransitKey,
        store: str,
        retirements: Retirements,
        uptime: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self._key = key
        self._store = store
        self._retirements = retirements
        self._uptime = uptime
        self._client = _client(key)
        self._lock = threading.Lock()
        self._token = ""
        self._versions: Sequence[Kek] = ()
        self._read_at = -READ_AGAIN

    def close(self) -> None:
        self._client.close()

    def create(self) -> None:
        """Make the key unless it is there. Raises KeyUnavailable."""
        key = f"keys/{self._key.name}"
        if self._ask("GET", key, missing=True) is None:
            self._ask("POST", key, {"type": "aes256-gcm96"})

    # -- the port -----------------------------------------------------------------------------

    def keks(self) -> Sequence[Kek]:
        with self._lock:
            if self._uptime() - self._read_at >= READ_AGAIN:
                self._versions = self._read_versions()
                self._read_at = self._uptime()
            return self._versions

    def look_again(self) -> None:
        with self._lock:
            self._read_at = self._uptime() - READ_AGAIN

    def wrap(self, keys: Sequence[Placed]) -> list[WrappedKey]:
        items = []
        for place, key in keys:
            bound = bytearray(_digest(place) + key)
            with wiping(bound):
                items.append({"plaintext": base64.b64encode(bound).decode()})
        answers = self._batch("encrypt", items)
        if not all("ciphertext" in one for one in answers):
            raise KeyUnavailable("the key server of LAPSE_KEY_URL did not wrap a key")
        return [
            _wrapped(place, one["ciphertext"])
            for (place, _), one in zip(keys, answers, strict=True)
        ]

    def unwrap(self, keys: Sequence[WrappedKey]) -> list[bytearray]:
        self._must_know({one.kek for one in keys})
        answers = self._batch("decrypt", [{"ciphertext": _ciphertext(one)} for one in keys])
        return [
            _bound_to(one.place, answer.get("plaintext"))
            for one, answer in zip(keys, answers, strict=True)
        ]

    def rewrap(self, keys: Sequence[WrappedKey]) -> list[WrappedKey | None]:
        known = {kek.id for kek in self.keks()}
        opening = [one for one in keys if one.kek in known]
        answers = self._batch("rewrap", [{"ciphertext": _ciphertext(one)} for one in opening])
        fresh = {
            one: _wrapped(one.place, answer["ciphertext"])
            for one, answer in zip(opening, answers, strict=True)
            if "ciphertext" in answer
        }
        return [fresh.get(one) for one in keys]

    def rotate(self, now: int) -> str:
        # Not asked twice: one that was answered too late would be followed by another version.
        self._ask("POST", f"keys/{self._key.name}/rotate", {}, attempts=1)
        self.look_again()
        return self.keks()[-1].id

    def retire(self, keks: Collection[str], now: int) -> None:
        self._retirements.note(keks, now)
        self.look_again()

    def destroy(self, keks: Collection[str]) -> Collection[str]:
        """Vault destroys from the oldest on, so one that must go waits for those before it."""
        gone = []
        *earlier, current = self.keks()
        for kek in earlier:
            if kek.id not in keks:
                break
            gone.append(kek.id)
        if gone:
            floor = next(_version(kek.id) for kek in (*earlier, current) if kek.id not in gone)
            limits = {"min_decryption_version": floor, "min_encryption_version": floor}
            self._ask("POST", f"keys/{self._key.name}/config", limits)
            trim = {"min_available_version": floor}
            self._ask("POST", f"keys/{self._key.name}/trim", trim)
            self._retirements.forget(gone)
            self.look_again()
        return gone

    def escrow_state(self) -> None:
        """Copies of Vault are made with Vault; the settings refuse one of ours."""

    def keep_escrow(self) -> None:
        """See `escrow_state`."""

    def counter(self) -> None:
        """Transit keeps keys and nothing else (docs/decisions/0028)."""

    def note_counter(self, counter: Counter) -> None:
        """See `counter`."""

    def check_value(self) -> tuple[str, bytes]:
        (check,) = self.wrap([(_CHECK, self._store.encode())])
        return check.kek, check.wrapped

    def recognises(self, kek: str, check: bytes) -> bool:
        try:
            (store,) = self.unwrap([WrappedKey(_CHECK, kek, check)])
        except SealBroken:
            return False
        except KeyUnavailable:
            if kek in {one.id for one in self.keks()}:
                raise
            return False
        return hmac.compare_digest(store, self._store.encode())

    # -- Vault --------------------------------------------------------------------------------

    def _read_versions(self) -> Sequence[Kek]:
        found = self._ask("GET", f"keys/{self._key.name}") or {}
        with _malformed():
            floors = (found.get("min_decryption_version"), found.get("min_available_version"))
            lowest = max(int(floor or 0) for floor in floors)
            created = {int(version): int(at) for version, at in found["keys"].items()}
        retired = self._retirements.read()
        return [
            Kek(f"{_PREFIX}{version}", at * 1_000_000, retired.get(f"{_PREFIX}{version}"))
            for version, at in sorted(created.items())
            if version >= lowest
        ]

    def _must_know(self, keks: Collection[str]) -> None:
        """Raises KeyUnavailable for a version that was destroyed, or is not there yet."""
        unknown = set(keks) - {one.id for one in self.keks()}
        if unknown:
            self.look_again()
            unknown -= {one.id for one in self.keks()}
        if unknown:
            named = ", ".join(sorted(unknown))
            raise KeyUnavailable(f"key-encryption key {named} is not in the key store")

    def _batch(self, what: str, items: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        for start in range(0, len(items), _BATCH):
            part = items[start : start + _BATCH]
            found = self._ask("POST", f"{what}/{self._key.name}", {"batch_input": part}) or {}
            results = found.get("batch_results", ())
            if len(results) != len(part):
                raise KeyUnavailable("the key server of LAPSE_KEY_URL left out answers")
            answers += results
        return answers

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        missing: bool = False,
        attempts: int = 4,
    ) -> dict[str, Any] | None:
        """What Vault answers under `data`. missing: a 404 is answered None. Raises KeyUnavailable.

        Asked again after a pause if it is busy, sealed or away, and once if the token is refused.
        """
        for attempt in stamina.retry_context(on=_Unanswered, attempts=attempts, timeout=10.0):
            with attempt:
                answer = self._send(method, path, body)
                if answer.status_code == 403:
                    self._token = ""
                    answer = self._send(method, path, body)
        return _data(answer, missing=missing)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        self._token = self._token or self._key.token()
        url = f"/v1/{self._key.mount}/{path}"
        try:
            answer = self._client.request(
                method, url, json=body, headers={"X-Vault-Token": self._token}
            )
        except httpx.HTTPError as error:
            raise _Unanswered(
                f"the key server of LAPSE_KEY_URL cannot be reached ({type(error).__name__})"
            ) from None
        if answer.status_code in (412, 429) or answer.status_code >= 500:
            raise _Unanswered(
                f"the key server of LAPSE_KEY_URL is sealed, busy or away ({answer.status_code})"
            )
        return answer


def _client(key: TransitKey) -> httpx.Client:
    """Raises KeyUnavailable. What the environment says about proxies and passwords is left alone:
    a key server is asked directly."""
    try:
        trusted = ssl.create_default_context(cafile=key.ca_file)
    except (OSError, ssl.SSLError):
        raise KeyUnavailable("the certificates of LAPSE_VAULT_CA_FILE cannot be read") from None
    return httpx.Client(base_url=key.address, verify=trusted, timeout=key.timeout, trust_env=False)


def _data(answer: httpx.Response, *, missing: bool) -> dict[str, Any] | None:
    status = answer.status_code
    if status == 404 and missing:
        return None
    data: dict[str, Any] = {}
    with _malformed():
        data = (answer.json() if answer.content else {}).get("data") or {}
    if status in (200, 204) or (status == 400 and "batch_results" in data):
        return data  # 400: some of a batch failed, and each says so
    if status == 403:
        raise KeyUnavailable(
            "the key server refuses the token of LAPSE_VAULT_TOKEN: it has expired, or its policy "
            "does not allow what Lapse does with its key"
        )
    if status == 404:
        raise KeyUnavailable("the key server knows no such key: check LAPSE_KEY_URL")
    raise KeyUnavailable(f"the key server of LAPSE_KEY_URL refuses a request ({status})")


@contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except (ValueError, AttributeError, TypeError, KeyError):
        raise KeyUnavailable("what answers at LAPSE_KEY_URL is no Vault") from None


def _digest(place: bytes) -> bytes:
    return hashlib.sha256(place).digest()


def _bound_to(place: bytes, plaintext: str | None) -> bytearray:
    """The key, if it belongs to this place. Raises SealBroken."""
    bound = bytearray(base64.b64decode(plaintext or ""))
    digest = _digest(place)
    with wiping(bound):
        if plaintext is None or not hmac.compare_digest(bytes(bound[: len(digest)]), digest):
            raise SealBroken(
                "a wrapped key does not open: it was changed, moved, or wrapped by another key"
            )
        return bound[len(digest) :]


def _version(kek: str) -> int:
    return int(kek.removeprefix(_PREFIX))


def _wrapped(place: bytes, ciphertext: str) -> WrappedKey:
    """`vault:v3:…` as a row has it: the prefix names the KEK, the rest is bytes."""
    kek, _, encoded = ciphertext.rpartition(":")
    return WrappedKey(place, kek, base64.b64decode(encoded))


def _ciphertext(one: WrappedKey) -> str:
    return f"{one.kek}:{base64.b64encode(one.wrapped).decode()}"
