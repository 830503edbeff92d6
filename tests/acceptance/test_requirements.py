"""docs/requirements.md says of every row what the tests show."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "requirements.md"
ROWS = [
    *(
        f"P{system}.{row}"
        for system, rows in enumerate((6, 7, 7, 7, 7), 1)
        for row in range(1, rows + 1)
    ),
    *(f"G{row}" for row in range(1, 14)),
]
_ROW = re.compile(r"^\| ([PG][\d.]+) \|.*\| ([^|]+) \|$", re.MULTILINE)
_MARKED = re.compile(r"mark\.row\(([^)]*)\)")


def shown_by() -> dict[str, str]:
    """Row -> what stands in its last column."""
    return dict(_ROW.findall(DOCUMENT.read_text()))


def marked(path: Path) -> set[str]:
    """The rows that tests in this file name."""
    arguments = " ".join(_MARKED.findall(path.read_text()))
    return set(re.findall(r'"([PG][\d.]+)"', arguments))


def test_every_row_is_there() -> None:
    """All 34 needs and 13 guarantees."""
    assert sorted(shown_by()) == sorted(ROWS)


def test_a_row_names_tests_that_show_it() -> None:
    """Each file that is linked has a test that names the row."""
    for row, text in shown_by().items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert row in marked(DOCUMENT.parent / link), f"{row}: {link}"


def test_no_test_shows_more_than_the_document_says() -> None:
    """A row that a test of the command names has a link there."""
    for path in (ROOT / "tests" / "acceptance").glob("test_*.py"):
        for row in marked(path):
            assert path.name in shown_by()[row], f"{row} is shown in {path.name}"
