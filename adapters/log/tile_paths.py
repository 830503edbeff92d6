"""How tiles are named in URLs and files, and where in a log they lie (C2SP tlog-tiles).

`tile/L/N` is tile N of level L, `tile/L/N.p/W` its first W hashes, `tile/entries/N` the leaves
behind it. N is written in groups of three digits, all but the last after an `x`.
"""

import re
from collections.abc import Iterator

from adapters.log.merkle import WIDTH

_PATH = re.compile(r"(?P<number>(?:x\d{3}/)*\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?")
_GROUPS = 5
"""More than a million times a million tiles there are not."""


def tile_name(tile: int, width: int = WIDTH) -> str:
    """Such as `x001/x234/067`, or `x001/x234/067.p/12` for 12 hashes of it."""
    groups = [f"{tile % 1_000:03d}"]
    while tile := tile // 1_000:
        groups.insert(0, f"x{tile % 1_000:03d}")
    return "/".join(groups) + (f".p/{width}" if width < WIDTH else "")


def parse_tile_name(name: str) -> tuple[int, int]:
    """(number, width) of a tile. Raises ValueError."""
    found = _PATH.fullmatch(name)
    if found is None or found["number"].count("x") >= _GROUPS:
        raise ValueError("not the name of a tile")
    tile = int(found["number"].replace("x", "").replace("/", ""))
    width = int(found["width"] or WIDTH)
    if not 1 <= width <= WIDTH or tile_name(tile, width) != name:
        raise ValueError("not the name of a tile")
    return tile, width


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """(level, number, width) of every tile of a tree; the last of each level may not be full."""
    level = 0
    while size:
        for tile in range(-(-size // WIDTH)):
            yield level, tile, min(WIDTH, size - tile * WIDTH)
        level, size = level + 1, size // WIDTH
