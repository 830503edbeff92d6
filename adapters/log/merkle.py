"""The Merkle tree over the log: RFC 6962 (RFC 9162) hashes, kept in the tiles of C2SP tlog-tiles.

Pure functions; whoever keeps the tiles brings `Read`. A leaf holds every column of an event but its
position, which is where the leaf stands in the tree; so it is hashed before the head of the log is
locked, and no altered column goes unnoticed.

Tile n of level L holds the hashes 256 n to 256 n + 255 of the full subtrees with 256^L leaves,
8 KiB when it is full. The last tile of a level holds fewer: together these are the right edge, all
that a tree needs to grow. https://c2sp.org/tlog-tiles
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import sha256

HASH = 32
"""Bytes of a hash."""
WIDTH = 256
"""Hashes in a full tile."""
EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves."""

Hashes = Sequence[bytes]
Read = Callable[[int, int], bytes]
"""The hashes of a tile, by its level and number, one behind the other; all that there are."""

# -- leaves -----------------------------------------------------------------------------------

_LEAF = b"lapse/leaf/v2\n"
_FIXED = struct.Struct(">HIqq16sIII")
_pack = _FIXED.pack


def leaf_bytes(
    partition: int,
    session_id: str,
    version: int,
    topic: str,
    effective_at: int,
    recorded_at: int,
    nonce: bytes,
    state: bytes,
) -> bytes:
    """The leaf of an event; fixed for ever.

    Layout: the line `lapse/leaf/v2`, then big-endian partition (u16), version (u32), effective_at
    and recorded_at (i64, microseconds), nonce (16 bytes), the lengths in bytes of session_id, topic
    and state (u32 each), and these three. Lengths come first, so no two rows share a leaf; the
    random nonce keeps a pruned body from being guessed from its hash.
    """
    id_, name = session_id.encode(), topic.encode()
    fixed = _pack(
        *(partition, version, effective_at, recorded_at, nonce),
        *(len(id_), len(name), len(state)),
    )
    return b"".join((_LEAF, fixed, id_, name, state))


_PREFIXED = b"\0" + _LEAF


def leaf_of_row(
    session_id: str,
    version: int,
    topic: str,
    effective_at: int,
    recorded_at: int,
    nonce: bytes,
    state: bytes,
) -> bytes:
    """The leaf hash of a row of partition 0: `leaf_hash(leaf_bytes(0, ...))`, spelled out, because
    every append waits for it."""
    id_, name = session_id.encode(), topic.encode()
    fixed = _pack(0, version, effective_at, recorded_at, nonce, len(id_), len(name), len(state))
    return sha256(_PREFIXED + fixed + id_ + name + state).digest()


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return sha256(b"\1" + left + right).digest()


# -- growing ----------------------------------------------------------------------------------


def grown(read: Read, size: int, leaves: Iterable[bytes]) -> dict[tuple[int, int], bytes]:
    """The tiles that change when `leaves` follow a tree of `size`: (level, number) -> hashes."""
    changed: dict[tuple[int, int], bytes] = {}
    level, first, added = 0, size, list(leaves)
    while added:
        above: list[bytes] = []
        tile, start = divmod(first, WIDTH)
        kept = [read(level, tile)[: start * HASH]] if start else []
        at = 0
        while at < len(added):
            part = added[at : at + WIDTH - start]
            hashes = b"".join([*kept, *part])
            changed[level, tile] = hashes
            if start + len(part) == WIDTH:
                above.append(_folded(hashes))
            at += len(part)
            tile, start, kept = tile + 1, 0, []
        level, first, added = level + 1, first // WIDTH, above
    return changed


def split(hashes: bytes) -> list[bytes]:
    """The hashes of a tile, one by one."""
    return [hashes[at : at + HASH] for at in range(0, len(hashes), HASH)]


@lru_cache(maxsize=512)
def _folded(hashes: bytes) -> bytes:
    """The root of a power of two of hashes, which stand one behind the other. Kept for a while:
    proofs in one tree share its right edge and most of its upper levels, half of their work."""
    while len(hashes) > HASH:
        pairs = range(0, len(hashes), 2 * HASH)
        hashes = b"".join([sha256(b"\1" + hashes[at : at + 2 * HASH]).digest() for at in pairs])
    return hashes


# -- roots and proofs -------------------------------------------------------------------------


def root(read: Read, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return _range(read, 0, size) if size else EMPTY_ROOT


def inclusion(read: Read, index: int, size: int) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `size` leaves (RFC 6962, 2.1.1), from the leaf
    up. Raises ValueError if it is not."""
    if not 0 <= index < size:
        raise ValueError("there is no such leaf in a tree of this size")
    first, end, path = 0, size, []
    while end - first > 1:
        middle = first + _half(end - first)
        if index < middle:
            path.append(_range(read, middle, end))
            end = middle
        else:
            path.append(_range(read, first, middle))
            first = middle
    return path[::-1]


def tiles_for(index: int, size: int) -> list[tuple[int, int]]:
    """(level, number) of the tiles that a proof of leaf `index` is made of: those above it, and
    those of the right edge."""
    found: set[tuple[int, int]] = set()
    level, at, end = 0, index // WIDTH, size // WIDTH
    while True:
        found |= {(level, at), (level, end)}
        if end == 0:
            return sorted(found)
        level, at, end = level + 1, at // WIDTH, end // WIDTH


def consistency(read: Read, old: int, new: int) -> list[bytes]:
    """The proof that the tree of `old` leaves is the beginning of that of `new` (RFC 6962, 2.1.2).

    Raises ValueError unless 0 <= old <= new.
    """
    if not 0 <= old <= new:
        raise ValueError("the old tree must be the smaller one")
    if old in (0, new):
        return []
    first, end, path, whole = 0, new, [], True
    while old != end:
        middle = first + _half(end - first)
        if old <= middle:
            path.append(_range(read, middle, end))
            end = middle
        else:
            path.append(_range(read, first, middle))
            first, whole = middle, False
    if not whole:
        path.append(_range(read, first, end))
    return path[::-1]


def _half(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _range(read: Read, first: int, end: int) -> bytes:
    """The root over the leaves `first` to before `end`, a node of RFC 6962's tree."""
    count = end - first
    if count & (count - 1):
        middle = first + _half(count)
        return node_hash(_range(read, first, middle), _range(read, middle, end))
    level, height = divmod(count.bit_length() - 1, 8)
    index = first >> (8 * level)  # among the hashes of this level
    tile, start = divmod(index, WIDTH)
    hashes = read(level, tile)[start * HASH : (start + (1 << height)) * HASH]
    if len(hashes) != HASH << height:
        raise TileMissing(level, tile)
    return _folded(hashes)


class TileMissing(LookupError):
    """A tile lacks hashes that the size of its tree says it has."""

    def __init__(self, level: int, tile: int) -> None:
        super().__init__(f"tile {tile} of level {level} lacks hashes")
        self.level, self.tile = level, tile


# -- verifying --------------------------------------------------------------------------------


def verify_inclusion(leaf: bytes, index: int, size: int, path: Hashes, root: bytes) -> bool:
    """Whether `path` proves that the leaf with this hash is number `index` under `root` (RFC 9162,
    2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0 or len(sibling) != HASH:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root
