"""The bytes of the log's Merkle leaves (RFC 6962, section 2.1, hashes them with a 0x00 prefix).

Fixed for ever: every column of a row stands in its leaf, so that no altered column goes unnoticed,
each with its length before it, so that no two rows share a leaf. The 128-bit nonce keeps a pruned
body from being guessed from its leaf hash. The tree itself comes with the proofs.
"""

import struct

_HEAD = b"lapse/leaf/v1\n"
_FIXED = struct.Struct(">HQIqq16s")
_LENGTH = struct.Struct(">I")


def leaf_bytes(
    partition: int,
    position: int,
    session_id: str,
    version: int,
    topic: str,
    effective_at: int,
    recorded_at: int,
    nonce: bytes,
    state: bytes,
) -> bytes:
    """The leaf of one event.

    Layout: the line `lapse/leaf/v1`, then big-endian partition (u16), position (u64), version
    (u32), effective_at and recorded_at (i64, microseconds), nonce (16 bytes), then session_id,
    topic and state, each after its length in bytes (u32).
    """
    parts = [
        _HEAD,
        _FIXED.pack(partition, position, version, effective_at, recorded_at, nonce),
    ]
    for value in (session_id.encode(), topic.encode(), state):
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)
