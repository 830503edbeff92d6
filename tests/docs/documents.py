"""Documents as tests see them: blocks of code, links, tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^ *```(.*)\n((?:.*\n)*?) *```$", re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block. info: what stands behind the opening fence. after: text up to the next."""

    info: str
    text: str
    after: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def exit_code(self) -> int:
        """What its last command ends with: ```` ```sh exit=1 ````."""
        _, _, code = self.info.partition("exit=")
        return int(code or 0)


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a document, in order."""
    text = path.read_text()
    found = list(_FENCE.finditer(text))
    starts = [*(match.start() for match in found), len(text)]
    return [
        Block(match[1], dedent(match[2]), text[match.end() : end])
        for match, end in zip(found, starts[1:], strict=True)
    ]


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", path.read_text())


def links(path: Path) -> list[str]:
    """Where a document points to."""
    return _LINK.findall(prose(path))


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(path))
    }


def sections(path: Path) -> dict[str, str]:
    """Heading -> the text below it, up to the next heading of any level."""
    _, *parts = re.split(r"^#+ +", prose(path), flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of every row of the tables in a text, heads and rulers left out."""
    lines = text.splitlines()
    for line, above in zip(lines, ["", *lines], strict=False):
        is_row = line.startswith("|")
        if is_row and above.startswith("|") and not line.startswith("|-"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def code(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)
