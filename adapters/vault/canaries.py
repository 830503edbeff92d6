"""Searches raw files for planted bytes, in bounded memory: is anything left that should be gone?

Whoever asks knows the bytes: a text that was stored, the first bytes of a ciphertext, the first
bytes of a wrapped key. Each is looked for as it is, as hexadecimal (how PostgreSQL writes bytes
into its log) and as base64 in each of the three ways in which it can fall into it.
"""

import base64
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from domain.errors import SourceUnreadable

BLOCK = 4_194_304
"""Bytes that are read at once."""
SHORTEST = 8
"""Fewer bytes than this are found in any random ones."""
LONGEST = 4_096

Canary = bytes


@dataclass(frozen=True)
class Sighting:
    """A canary that was found. canary: its number, from 1. form: how it stood there."""

    canary: int
    form: str
    path: Path
    offset: int


@dataclass(frozen=True)
class Searched:
    """What a search covered. unreadable: what could not be looked into, so nothing is known of
    it."""

    files: int
    size: int
    unreadable: tuple[Path, ...]
    found: tuple[Sighting, ...]


def read_canaries(lines: Iterable[str]) -> Sequence[Canary]:
    """One per line: `text:...`, `hex:...` or `base64:...`. Raises SourceUnreadable with the number
    of the line, never with what stands in it."""
    canaries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        kind, _, value = line.strip("\r\n").partition(":")
        try:
            canary = _DECODERS[kind](value)
        except (KeyError, ValueError):
            raise SourceUnreadable(
                f"line {number} is no canary: write text:..., hex:... or base64:..."
            ) from None
        if not SHORTEST <= len(canary) <= LONGEST:
            raise SourceUnreadable(
                f"line {number}: a canary has {SHORTEST} to {LONGEST} bytes; fewer would be found "
                "anywhere"
            )
        canaries.append(canary)
    if not canaries:
        raise SourceUnreadable("there are no canaries to look for")
    return canaries


_DECODERS: Mapping[str, Callable[[str], bytes]] = {
    "text": lambda text: text.encode(),
    "hex": lambda text: bytes.fromhex(text.strip()),
    "base64": lambda text: base64.b64decode(text.strip(), validate=True),
}


def search(paths: Iterable[Path], canaries: Sequence[Canary], block: int = BLOCK) -> Searched:
    """Look into these files, and into all files below these folders. Links are not followed: what
    lies behind them has a name of its own."""
    forms: dict[bytes, list[tuple[int, str]]] = {}
    for number, canary in enumerate(canaries, start=1):
        for form, needle in _forms(canary):
            if (number, form) not in forms.setdefault(needle, []):
                forms[needle].append((number, form))
    longest = max(map(len, forms))
    files = size = 0
    unreadable: list[Path] = []
    found: list[Sighting] = []
    for path in _files(paths, unreadable):
        try:
            length, matches = _search_file(path, forms, longest, block)
        except FileNotFoundError:
            continue  # such as a segment of a write-ahead log, meanwhile
        except OSError:
            unreadable.append(path)
            continue
        files, size = files + 1, size + length
        found += [
            Sighting(number, form, path, offset)
            for offset, needle in matches
            for number, form in forms[needle]
        ]
    return Searched(files, size, tuple(unreadable), tuple(found))


def _forms(canary: Canary) -> Iterator[tuple[str, bytes]]:
    yield "bytes", canary
    yield "hex", canary.hex().encode()
    yield "hex", canary.hex().upper().encode()
    for before in range(3):
        # The characters that are made of these bytes alone: 6 bits each.
        encoded = base64.b64encode(bytes(before) + canary + bytes(3))
        first, last = -(-before * 8 // 6), (before + len(canary)) * 8 // 6
        whole = encoded[first:last]
        yield "base64", whole
        yield "base64", whole.translate(_URL_SAFE)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _files(paths: Iterable[Path], unreadable: list[Path]) -> Iterator[Path]:
    """Every regular file, once."""
    seen: set[tuple[int, int]] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        try:
            if path.is_symlink():
                continue
            if path.is_dir():
                waiting += path.iterdir()
                continue
            about = path.stat()
        except FileNotFoundError:
            continue
        except OSError:
            unreadable.append(path)
            continue
        if path.is_file() and (about.st_dev, about.st_ino) not in seen:
            seen.add((about.st_dev, about.st_ino))
            yield path


def _search_file(
    path: Path, needles: Collection[bytes], longest: int, block: int
) -> tuple[int, Sequence[tuple[int, bytes]]]:
    """(bytes, where what stands; not more than some). Blocks overlap by what the longest needle
    takes, so none is missed between two of them."""
    matches: dict[tuple[int, bytes], None] = {}
    at, kept = 0, b""
    with path.open("rb", buffering=0) as file:
        while fresh := file.read(block):
            content = kept + fresh
            begins = at - len(kept)
            for needle in needles:
                place = content.find(needle)
                while place >= 0 and len(matches) < _MOST_PER_FILE:
                    matches[begins + place, needle] = None
                    place = content.find(needle, place + 1)
            at += len(fresh)
            kept = content[-(longest - 1) :]
    return at, list(matches)


_MOST_PER_FILE = 100
