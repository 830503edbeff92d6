"""Every deletion path there is: found in the syntax tree, and held against what was seen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deletions import MARKED, PLACES, ROOT, TABLES, offence, takes_away

SOURCES = [
    path
    for folder in ("adapters", "domain", "projections")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
CHOKE_POINT = "domain/use_cases/erase.py"


def functions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Every function of a file by name; what stands outside of them under an empty one."""
    tree = ast.parse(path.read_text())
    yield "", tree
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(node: ast.AST) -> str:
    """A string as it is written, `{table}` standing for what is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) for value in node.values)
    return "{}"


def deleting_calls(function: ast.AST) -> Iterator[str]:
    """The tables that calls in a function delete from: `*` for one that is told to it."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("delete_in", "delete_rows")
        ):
            yield ast.unparse(node.args[1])
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".drop"):
            yield ast.unparse(node.func).removesuffix(".drop")
        text = text_of(node)
        for word in ("DELETE FROM ", "DROP TABLE IF EXISTS ", "TRUNCATE "):
            if text.lstrip().startswith(word):
                words = text.lstrip().removeprefix(word).split() or ["*"]
                yield words[0].strip("{}") or "*"


def test_every_place_that_deletes_about_people_is_known() -> None:
    """Calls and statements in the syntax tree; `table` and `*` are those that are told which."""
    found = set()
    for path in SOURCES:
        if name_of(path) == "adapters/log/bulk.py":
            continue  # carries out what others ask for
        for name, function in functions(path):
            if name and {*deleting_calls(function)} & {*TABLES, "table", "*"}:
                found.add((name_of(path), name))
    months = {("adapters/http/requests.py", name) for _, name in found if name == "forget"}
    library = {place for place in found if place[0] == "adapters/log/recorder.py"}
    updates = {
        ("adapters/vault/parts.py", "_rewrite"),
        ("adapters/keyring/reindexing.py", "_update"),
        ("adapters/keyring/relayering.py", "_update"),
    }
    assert found - months - library == set(PLACES) - updates


def test_only_the_choke_point_says_what_goes() -> None:
    """`Deletion` and `Part` are made there alone, and `deletes` is what it says."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("Deletion", "Part"):
                assert name_of(path) == CHOKE_POINT, f"{name_of(path)}:{node.lineno}"
            for keyword in node.keywords:
                if keyword.arg == "deletes":
                    said = ast.unparse(keyword.value)
                    assert said.startswith("deletes("), f"{name_of(path)}:{node.lineno}: {said}"


def test_only_the_log_and_requests_call_what_deletes() -> None:
    """The functions of the vault that delete are called from the log's own transaction."""
    own = {"delete_stored", "delete_subjects", "delete_keys"}
    callers = {
        (name_of(path), name)
        for path in SOURCES
        for name, function in functions(path)
        if name
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in own
    }
    assert callers == {
        ("adapters/vault/rows.py", "write"),
        ("adapters/vault/rows.py", "_delete"),
        ("adapters/vault/rows.py", "delete_subjects"),
        ("adapters/vault/parts.py", "erase"),
    }


@pytest.mark.parametrize(
    ("statement", "taking"),
    [
        ("DELETE FROM items WHERE partition = 0", True),
        ("  delete from subject_keys", True),
        ("DROP TABLE IF EXISTS data_keys", True),
        ("TRUNCATE presence", True),
        ("UPDATE items SET participants = ''", True),
        ("UPDATE subject_index SET current = 0, sealed = NULL", True),
        ("UPDATE subject_index SET current = 0", False),
        ("UPDATE invites SET uses = uses - 1", False),
        ("DELETE FROM counters", False),
        ("DELETE FROM items_of_somebody_else", False),
        ("SELECT * FROM items", False),
    ],
)
def test_what_takes_something_away(statement: str, taking: bool) -> None:
    """By its words; whatever they are about else is nobody's data."""
    assert takes_away(statement) is taking


def test_a_deletion_from_elsewhere_is_an_offence() -> None:
    """From a place nobody knows, or from one that is right only inside the log's transaction."""
    statement = "DELETE FROM items WHERE partition = 0"
    marked = next(place for place, why in PLACES.items() if why == MARKED)
    through = ("adapters/log/event_log.py", "_write_fresh")
    assert offence(statement, [("adapters/http/items.py", "clean")]) is not None
    assert offence(statement, [marked, ("adapters/http/items.py", "clean")]) is not None
    assert offence(statement, [("adapters/log/bulk.py", "delete_in"), marked, through]) is None
    assert offence(statement, [("tests/contracts/stores.py", "execute")]) is None
