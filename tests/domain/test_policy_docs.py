"""The page about the policy language says what the parser does."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from adapters.presets import PRESETS
from domain.errors import PolicyInvalid
from domain.policy import Do, Override, Since, Unit, parse
from domain.session import Scope

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "policies.md").read_text(
    encoding="utf-8"
)
BLOCKS = re.findall(r"^```(.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ACCEPTED = [text for kind, text in BLOCKS if kind == "toml"]
REFUSED = [
    (text, errors)
    for (kind, text), (next_kind, errors) in pairwise(BLOCKS)
    if (kind, next_kind) == ("text refused", "text errors")
]


def test_the_page_has_examples() -> None:
    """A page whose blocks were not found would pass every other test."""
    kinds = [kind for kind, _ in BLOCKS]
    assert len(ACCEPTED) == 5
    assert len(REFUSED) == kinds.count("text refused") == kinds.count("text errors") == 5


@pytest.mark.parametrize("text", ACCEPTED)
def test_examples_are_accepted(text: str) -> None:
    """Every example can be copied as it stands."""
    assert parse(text)


@pytest.mark.parametrize(("text", "errors"), REFUSED)
def test_errors_are_quoted_as_they_are(text: str, errors: str) -> None:
    """What the page says about a wrong policy is what its author will read."""
    with pytest.raises(PolicyInvalid) as refusal:
        parse(text)
    assert str(refusal.value) == errors.rstrip("\n")


def test_the_wrong_variable() -> None:
    """The example of a variable that cannot be read."""
    text = next(text for text in ACCEPTED if "STUDY_ROOM_SESSIONS" in text)
    with pytest.raises(PolicyInvalid) as refusal:
        parse(text, {"STUDY_ROOM_SESSIONS": "many"})
    assert f"```text\n{refusal.value}\n```" in PAGE


def test_the_study_room_listens_as_described() -> None:
    """A variable for two values, its long name, and a limit that the file does not have."""
    text = next(text for text in ACCEPTED if "STUDY_ROOM_SESSIONS" in text)
    room = parse(
        text, {"IDLE_HOURS": "9", "STUDY_ROOM_IDLE_HOURS": "2", "STUDY_ROOM_SESSIONS": "5"}
    )
    rules = room["study-room"].rules
    assert (rules[0].after, rules[1].after) == (1.5 * 3_600_000_000, 2 * 3_600_000_000)
    assert room["study-room"].limits.concurrent == 5
    assert Override("STUDY_ROOM_SESSIONS", "limits.concurrent", Unit.COUNT) in (
        room["study-room"].environment
    )


def _first_cells(heading: str) -> set[str]:
    """What stands in the first column of the tables of a section, in code quotes."""
    section = PAGE.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0].split("\n### ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("### Since when", set(Since)),
        ("### What happens", {*Do, *Scope}),
        ("## Presets", set(PRESETS)),
        ("## Environment", {"name", "sets", "unit", "factor"}),
        ("## Rules", {"since", "after", "do", "scope", "name"}),
    ],
)
def test_tables_are_complete(heading: str, names: set[str]) -> None:
    """Nothing is left out, and nothing described that is not there."""
    assert _first_cells(heading) == {str(name) for name in names}


@pytest.mark.parametrize(
    ("heading", "table"), [("## Keys of a policy", ""), ("## Limits", ".limits")]
)
def test_keys_are_complete(heading: str, table: str) -> None:
    """The parser's own list of known keys is the one of the page."""
    body = "unknown = 1" if not table else "limits = { unknown = 1 }"
    with pytest.raises(PolicyInvalid) as refusal:
        parse(f'[policy.p]\n{body}\nrules = [{{ since = "created", after = "1h", do = "erase" }}]')
    (problem,) = refusal.value.problems
    assert problem.place == f"policy.p{table}.unknown"
    assert _first_cells(heading) == set(problem.what.split("known: ")[1].split(", "))
