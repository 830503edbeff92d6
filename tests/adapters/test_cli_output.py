"""What people see at a terminal: tables that fit, durations and times they can read."""

import io

import pytest
from rich.console import Console

from adapters.cli import output
from adapters.cli.operate import _in_words

ID = "0795055e19d3d7b07131526b6bcb29ed"
COLUMNS = ("id", "policy", "state", "last_seen_at", "expires_at")
ROW = (ID, "web-visit", "active", "2026-11-10T09:58:00.250Z", None)


def printed(monkeypatch: pytest.MonkeyPatch, width: int, rows: list[tuple[str | None, ...]]) -> str:
    """The table at a terminal of so many columns."""
    terminal = Console(file=io.StringIO(), width=width, highlight=False)
    monkeypatch.setattr(output, "console", terminal)
    output.print_table("Sessions", COLUMNS, rows, first_to_go=("last_seen_at", "policy"))
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(120, []), (80, ["last_seen_at"]), (60, ["last_seen_at", "policy"])],
)
def test_a_narrow_terminal_gets_fewer_columns(
    monkeypatch: pytest.MonkeyPatch, width: int, left_out: list[str]
) -> None:
    """Ids stand on one line, and what has no room is named."""
    text = printed(monkeypatch, width, [ROW])
    assert max(map(len, text.splitlines())) <= width
    assert ID in text
    head = text.splitlines()[2]
    assert {column for column in COLUMNS if column not in head.split()} == set(left_out)
    assert ("no room for " + ", ".join(left_out) in text) is bool(left_out)


def test_a_table_without_rows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads alone look as if something was missing."""
    assert printed(monkeypatch, 80, []) == "Sessions\n  none\n\n"


def test_times_go_to_the_second_and_nothing_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds are for programs."""
    text = printed(monkeypatch, 120, [ROW])
    assert "2026-11-10T09:58:00Z" in text
    assert text.splitlines()[4].split()[-1] == "-"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "-"),
        (0.9, "-"),
        (5.2, "5 s"),
        (65, "1 min 5 s"),
        (2 * 3600 + 5 * 60 + 7, "2 h 5 min"),
        (3600 + 7, "1 h 7 s"),
        (2 * 86_400 + 3600, "2 days"),
        (31 * 365 * 86_400 + 86_400, "31 years"),
    ],
)
def test_lateness_is_readable(seconds: float, words: str) -> None:
    """Two units at most."""
    assert _in_words(seconds) == words
