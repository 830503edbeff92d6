"""Opens what Lapse sealed with nothing but the documented format: AES-256-GCM, and the place that
each value is bound to (docs/explanation/keys.md). Tries every key with every other."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Label = tuple[str, ...]
"""Which sealed value: its kind, its session, and what else it takes."""


@dataclass(frozen=True)
class Sealed:
    """Rows of one state of a database. subject_keys: (subject, wrapped). data_keys: (session, tier,
    token, subject, wrapped). values: what each sealed value is bound to, and its bytes."""

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
    for session, tier, token, subject, wrapped in {r for state in known for r in state.data_keys}:
        parts = ("lapse/data-key/v1", subject, session, tier, token)
        place = "\0".join(parts).encode()
        datas |= {key for _, own in subjects if (key := _open(own, wrapped, place)) is not None}
    return {
        label
        for label, (place, sealed) in values.items()
        if any(_open(key, sealed, place) is not None for key in datas)
    }


def place(session: str, item: str, name: str, tier: str, token: str) -> bytes:
    """What a sealed value is bound to."""
    return "\0".join(("lapse/sealed/v1", session, item, name, tier, token)).encode()


def _open(key: bytes, sealed: bytes, bound_to: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], bound_to)
    except InvalidTag:
        return None
