"""Opens what Lapse sealed with nothing but the documented format: AES-256-GCM, and the place that
each value is bound to (docs/explanation/keys.md). Tries every key with every other."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Label = tuple[str, ...]
"""Which sealed value: its kind, its session, and what else it takes."""


@dataclass(frozen=True)
class Sealed:
    """Rows of one state of a database. generation_keys: (id of the key store, id, wrapped).
    subject_keys: (subject, wrapped). data_keys: (session, tier, token, subject, wrapped). values:
    what each sealed value is bound to, and its bytes."""

    generation_keys: frozenset[tuple[str, bytes, bytes]] = frozenset()
    subject_keys: frozenset[tuple[str, bytes]] = frozenset()
    data_keys: frozenset[tuple[str, str, str, str, bytes]] = frozenset()
    values: Mapping[Label, tuple[bytes, bytes]] = field(default_factory=dict)


def keks_of(folder: Path) -> list[bytes]:
    """Every key-encryption key in the key files of a folder."""
    files = [json.loads(path.read_text()) for path in folder.glob("*.keys.json")]
    return [bytes.fromhex(kek["key"]) for file in files for kek in file["keks"].values()]


def opened(
    values: Mapping[Label, tuple[bytes, bytes]], states: Iterable[Sealed], keks: Collection[bytes]
) -> set[Label]:
    """Which of these values open with any key that the states and the key store have together."""
    subjects: set[tuple[str, bytes]] = set()
    datas: set[bytes] = set()
    known = list(states)
    for subject, wrapped in {row for state in known for row in state.subject_keys}:
        place = b"lapse/subject-key/v1\0" + subject.encode()
        subjects |= {
            (subject, key) for kek in keks if (key := _open(kek, wrapped, place)) is not None
        }
    layers = _layer_keys({row for state in known for row in state.generation_keys}, keks)
    for session, tier, token, subject, stored in {r for state in known for r in state.data_keys}:
        parts = ("lapse/data-key/v1", subject, session, tier, token)
        place = "\0".join(parts).encode()
        outer = "\0".join(("lapse/data-key-layer/v1", session, tier, token, subject)).encode()
        found = [_open(key, stored[4:], outer) for kid, key in layers if kid == stored[:4]]
        for wrapped in [stored, *(inner for inner in found if inner is not None)]:
            datas |= {key for _, own in subjects if (key := _open(own, wrapped, place)) is not None}
    return {
        label
        for label, (place, sealed) in values.items()
        if any(_open(key, sealed, place) is not None for key in datas)
    }


def _layer_keys(
    generation_keys: Iterable[tuple[str, bytes, bytes]], keks: Collection[bytes]
) -> list[tuple[bytes, bytes]]:
    """Of the layers around data keys: (id, key)."""
    found = []
    for store, kid, wrapped in generation_keys:
        place = b"\0".join((b"lapse/index-key/v1", store.encode(), kid))
        for key in (_open(kek, wrapped, place) for kek in keks):
            if key is not None:
                derived = HKDF(SHA256(), 32, salt=None, info=b"lapse/data-key-layer/v1").derive(key)
                found.append((kid, derived))
    return found


def generations_of(store: str, row: bytes) -> frozenset[tuple[str, bytes, bytes]]:
    """`Sealed.generation_keys`, from the row `subject-index` of `meta`."""
    keys = json.loads(row[8:])["keys"]
    return frozenset(
        (store, bytes.fromhex(one["id"]), bytes.fromhex(one["wrapped"])) for one in keys
    )


def place(session: str, item: str, name: str, tier: str, token: str) -> bytes:
    """What a sealed value is bound to."""
    return "\0".join(("lapse/sealed/v1", session, item, name, tier, token)).encode()


def _open(key: bytes, sealed: bytes, bound_to: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], bound_to)
    except InvalidTag:
        return None
