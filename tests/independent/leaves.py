"""Verifies an exported event against a checkpoint with code of its own: RFC 6962 from the text.

Imports nothing of Lapse.
"""

import base64
import struct
from hashlib import sha256
from typing import Any

_FIXED = ">HIqq16sIII"
_LINE = b"lapse/leaf/v2\n"


def fields_of(leaf: bytes) -> dict[str, Any]:
    """What a leaf says, by docs/reference/events.md."""
    assert leaf.startswith(_LINE)
    rest = leaf[len(_LINE) :]
    values = struct.unpack_from(_FIXED, rest)
    partition, version, effective_at, recorded_at, _, *lengths = values
    at, texts = struct.calcsize(_FIXED), []
    for length in lengths:
        texts.append(rest[at : at + length].decode())
        at += length
    assert at == len(rest)
    return {
        "partition": partition,
        "version": version,
        "effective_at": effective_at,
        "recorded_at": recorded_at,
        "session_id": texts[0],
        "topic": texts[1],
        "state": texts[2],
    }


def verifies(row: dict[str, Any], checkpoint: str) -> bool:
    """Whether the row's leaf stands at its index in the tree that the checkpoint signs."""
    _, size, root = checkpoint.splitlines()[:3]
    leaf = base64.b64decode(row["leaf_bytes"])
    proof = [base64.b64decode(one) for one in row["proof"]]
    found = _root(sha256(b"\0" + leaf).digest(), row["leaf_index"], int(size), proof)
    return found == base64.b64decode(root)


def _root(found: bytes, index: int, size: int, proof: list[bytes]) -> bytes | None:
    """RFC 9162, section 2.1.3.2."""
    last = size - 1
    for step in proof:
        if last == 0:
            return None
        if index % 2 or index == last:
            found = sha256(b"\1" + step + found).digest()
            while index % 2 == 0 and index:
                index, last = index >> 1, last >> 1
        else:
            found = sha256(b"\1" + found + step).digest()
        index, last = index >> 1, last >> 1
    return found if last == 0 else None
