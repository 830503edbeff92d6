"""Leaves, tiles and proofs, without a database."""

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from adapters.log.merkle import (
    EMPTY_ROOT,
    HASH,
    Read,
    TileMissing,
    consistency,
    grown,
    inclusion,
    leaf_bytes,
    leaf_hash,
    leaf_of_row,
    node_hash,
    root,
    tiles_for,
    verify_inclusion,
)
from tests.witness import verify_consistency

AT = 1_793_527_200_000_000

# -- leaves -----------------------------------------------------------------------------------


def test_the_bytes_of_a_leaf_are_these() -> None:
    """Fixed for ever: proofs that auditors hold are over them."""
    leaf = leaf_bytes(
        partition=0,
        session_id="ä1",
        version=2,
        topic="session.seen.v1",
        effective_at=AT,
        recorded_at=AT + 1,
        nonce=bytes(range(16)),
        state=b'{"actor":"token-1","policy":"room"}',
    )
    assert leaf == (
        b"lapse/leaf/v2\n"
        b"\x00\x00"
        b"\x00\x00\x00\x02"
        b"\x00\x06\x5f\x34\x17\xa6\xa8\x00"
        b"\x00\x06\x5f\x34\x17\xa6\xa8\x01"
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
        b"\x00\x00\x00\x03\x00\x00\x00\x0f\x00\x00\x00\x23"
        b"\xc3\xa41"
        b"session.seen.v1"
        b'{"actor":"token-1","policy":"room"}'
    )
    # RFC 6962, section 2.1: the hash of a leaf has a zero byte before it.
    assert leaf_hash(leaf) == hashlib.sha256(b"\0" + leaf).digest()


integers = some.integers(-(2**63), 2**63 - 1)
rows = some.tuples(
    some.integers(0, 2**16 - 1),
    some.text(),
    some.integers(0, 2**32 - 1),
    some.text(),
    integers,
    integers,
    some.binary(min_size=16, max_size=16),
    some.binary(),
)


def row_of(leaf: bytes) -> tuple[Any, ...]:
    """Reads a leaf by the layout its docstring gives."""
    head, rest = leaf[:14], leaf[14:]
    assert head == b"lapse/leaf/v2\n"
    partition, version, effective_at, recorded_at, nonce, *lengths = struct.unpack(
        ">HIqq16sIII", rest[:50]
    )
    rest, parts = rest[50:], []
    for length in lengths:
        parts.append(rest[:length])
        rest = rest[length:]
    assert rest == b""
    session_id, topic, state = parts
    return (
        *(partition, session_id.decode(), version, topic.decode()),
        *(effective_at, recorded_at, nonce, state),
    )


@given(rows)
def test_no_two_rows_share_a_leaf(row: tuple[Any, ...]) -> None:
    """Whatever stands in it, each leaf says of which row it is: no column can be altered unseen."""
    assert row_of(leaf_bytes(*row)) == row


@given(rows)
def test_the_short_way_to_a_leaf_leads_to_the_same(row: tuple[Any, ...]) -> None:
    """What appends compute is what proofs are about."""
    assert leaf_of_row(*row[1:]) == leaf_hash(leaf_bytes(0, *row[1:]))


@given(rows, some.integers(0, 3))
def test_text_moved_from_one_column_to_the_next_is_another_leaf(
    row: tuple[Any, ...], count: int
) -> None:
    """The end of the id is not the beginning of the topic."""
    moved = list(row)
    joined = row[1] + row[3]
    moved[1], moved[3] = joined[:count], joined[count:]
    assert (leaf_bytes(*moved) == leaf_bytes(*row)) == (tuple(moved) == row)


# -- trees ------------------------------------------------------------------------------------


def leaf(number: int) -> bytes:
    return leaf_hash(b"leaf %d" % number)


def by_definition(leaves: Sequence[bytes]) -> bytes:
    """The root as RFC 6962, section 2.1 defines it."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(by_definition(leaves[:half]), by_definition(leaves[half:]))


LEAVES = [leaf(number) for number in range(1_500)]


class Tiles(dict[tuple[int, int], bytes]):
    """A tree in memory."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.size = 0
        for step in steps:
            self.grow(LEAVES[self.size : self.size + step])

    def grow(self, leaves: Sequence[bytes]) -> None:
        self.update(grown(self.read, self.size, leaves))
        self.size += len(leaves)

    @property
    def read(self) -> Read:
        return lambda level, tile: self.get((level, tile), b"")


WHOLE = Tiles(len(LEAVES))
sizes = some.integers(0, len(LEAVES))


@given(some.lists(some.integers(0, 300), max_size=5))
def test_a_tree_is_the_same_however_it_grew(steps: list[int]) -> None:
    """Leaf by leaf or many at once, the root is that of the definition."""
    tree = Tiles(*steps)
    assert root(tree.read, tree.size) == by_definition(LEAVES[: tree.size])
    assert tree == Tiles(tree.size)


def test_tiles_are_full_but_for_the_right_edge() -> None:
    """256 hashes are 8 KiB; the next level holds the roots of full tiles."""
    assert {key: len(hashes) // HASH for key, hashes in WHOLE.items()} == {
        **{(0, tile): 256 for tile in range(5)},
        (0, 5): 1_500 - 5 * 256,
        (1, 0): 5,
    }
    assert WHOLE[1, 0][:HASH] == by_definition(LEAVES[:256])


@given(sizes)
def test_every_earlier_root_can_still_be_computed(size: int) -> None:
    """What was signed yesterday can be checked against the tree of today."""
    assert root(WHOLE.read, size) == by_definition(LEAVES[:size])


def test_a_tile_that_lacks_hashes_is_named() -> None:
    """A root is never computed over what is not there."""
    with pytest.raises(TileMissing) as missing:
        root(Tiles(300).read, 301)
    assert (missing.value.level, missing.value.tile) == (0, 1)


# -- proofs -----------------------------------------------------------------------------------


@given(some.data(), some.integers(1, len(LEAVES)))
def test_every_leaf_is_proven_in_every_tree_that_holds_it(data: some.DataObject, size: int) -> None:
    """Inclusion proofs verify, and only for this leaf, place, size and root."""
    index = data.draw(some.integers(0, size - 1))
    path, top = inclusion(WHOLE.read, index, size), by_definition(LEAVES[:size])
    assert verify_inclusion(LEAVES[index], index, size, path, top)
    other = data.draw(some.integers(0, size))
    assert verify_inclusion(LEAVES[index], other, size, path, top) == (other == index)
    assert not verify_inclusion(leaf(-1), index, size, path, top)
    assert not verify_inclusion(LEAVES[index], index, size, [*path, top], top)


@given(some.data(), some.integers(1, len(LEAVES)))
def test_a_proof_is_made_of_the_tiles_that_were_foreseen(data: some.DataObject, size: int) -> None:
    """So they can be read with one statement."""
    index = data.draw(some.integers(0, size - 1))
    foreseen = tiles_for(index, size)

    def read(level: int, tile: int) -> bytes:
        assert (level, tile) in foreseen
        return WHOLE[level, tile]

    inclusion(read, index, size)


@given(some.data(), sizes)
def test_every_tree_is_proven_the_beginning_of_every_larger_one(
    data: some.DataObject, new: int
) -> None:
    """Consistency proofs verify, and only for these two trees."""
    old = data.draw(some.integers(0, new))
    path = consistency(WHOLE.read, old, new)
    before, after = by_definition(LEAVES[:old]), by_definition(LEAVES[:new])
    assert verify_consistency(old, new, path, before, after)
    forged = by_definition([leaf(-1), *LEAVES[1:old]])
    assert not verify_consistency(old, new, path, forged if old else leaf(-1), after)
    if old:
        assert not verify_consistency(old, new, path, before, leaf(-1))


@given(some.data(), some.integers(2, len(LEAVES)))
def test_a_mutated_proof_never_verifies(data: some.DataObject, size: int) -> None:
    """One bit of one hash, a hash left out, two exchanged: all are refused."""
    index, old = data.draw(some.integers(0, size - 1)), data.draw(some.integers(1, size - 1))
    path = mutated(data, inclusion(WHOLE.read, index, size))
    top = by_definition(LEAVES[:size])
    assert not verify_inclusion(LEAVES[index], index, size, path, top)
    path = mutated(data, consistency(WHOLE.read, old, size))
    assert not verify_consistency(old, size, path, by_definition(LEAVES[:old]), top)


def mutated(data: some.DataObject, path: list[bytes]) -> list[bytes]:
    at = data.draw(some.integers(0, len(path) - 1))
    how = data.draw(some.sampled_from(["bit", "missing", "twice", "short", "swapped"]))
    if how == "swapped" and len(path) > 1:
        other = (at + 1) % len(path)
        path[at], path[other] = path[other], path[at]
    elif how == "missing":
        del path[at]
    elif how == "twice":
        path.insert(at, path[at])
    elif how == "short":
        path[at] = path[at][:-1]
    else:
        bit = data.draw(some.integers(0, 8 * HASH - 1))
        flipped = bytearray(path[at])
        flipped[bit // 8] ^= 1 << bit % 8
        path[at] = bytes(flipped)
    return path


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    """Neither behind the end nor before the beginning."""
    with pytest.raises(ValueError, match="no such leaf"):
        inclusion(WHOLE.read, index, size)
    assert not verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])


@pytest.mark.parametrize(("old", "new"), [(3, 2), (-1, 2)])
def test_a_tree_cannot_shrink(old: int, new: int) -> None:
    """The old tree is never the larger one."""
    with pytest.raises(ValueError, match="smaller"):
        consistency(WHOLE.read, old, new)
    assert not verify_consistency(old, new, [], LEAVES[0], LEAVES[0])
