"""Watches every statement of a test run: nothing about people is deleted but where it may be.

`PLACES` are all places that delete from the vault, or empty what it holds, with what makes each one
right. A statement that comes from anywhere else fails the run. `tests/test_deletions.py` holds the
same list against the syntax tree.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

ROOT = Path(__file__).resolve().parents[1]

TABLES = (
    *("presence", "subjects", "subject_index", "aliases", "items", "uploads", "partials"),
    *("invites", "subject_keys", "data_keys", "subject_holds"),
)
"""What is held about people."""
CONTENT = ("sealed", "wrapped", "participants", "lookup")
"""Columns whose change takes away what stood there."""

MARKED = "what `domain/use_cases/erase.py` marked, in the transaction of the log"
PLACES: Mapping[tuple[str, str], str] = {
    ("adapters/vault/rows.py", "_delete"): MARKED,
    ("adapters/vault/rows.py", "delete_subjects"): MARKED,
    ("adapters/vault/rows.py", "delete_keys"): MARKED,
    ("adapters/vault/item_rows.py", "_delete_scope"): MARKED,
    ("adapters/vault/parts.py", "_delete"): MARKED,
    ("adapters/vault/parts.py", "_rewrite"): MARKED,
    ("adapters/log/tree.py", "open_epoch"): "hashes, which are made anew",
    ("adapters/vault/rows.py", "admit"): "people who came with a refused author, and were nowhere",
    ("adapters/vault/requests.py", "save"): "what a request sealed about whom it was about",
    ("adapters/vault/outdated.py", "outdate"): MARKED,
    ("adapters/vault/copies.py", "_take"): "a copy that somebody asked for, by its own key; what "
    "it was made of stays, so no hold is about it",
    ("adapters/keyring/generations.py", "_swap"): "wrapped keys, once they are copied",
    ("adapters/keyring/generations.py", "_drop_unfinished"): "copies that a killed move left",
    ("adapters/keyring/reindexing.py", "_update"): "the same people, under the next generation key",
    ("adapters/keyring/relayering.py", "_update"): "the same keys, under the next generation key",
}
THROUGH: frozenset[tuple[str, str]] = frozenset({("adapters/log/event_log.py", "_write_fresh")})
"""What every deletion that is `MARKED` comes through."""

_DELETING = re.compile(
    rf"\s*(?:DELETE FROM|TRUNCATE(?: TABLE)?|DROP TABLE(?: IF EXISTS)?)\s+\"?"
    rf"(?:{'|'.join(TABLES)})\"?\b",
    re.IGNORECASE,
)
_UPDATING = re.compile(
    rf"\s*UPDATE\s+(?:{'|'.join(TABLES)})\s+SET\s.*\b(?:{'|'.join(CONTENT)})\s*=",
    re.IGNORECASE | re.DOTALL,
)

Place = tuple[str, str]


def takes_away(statement: str) -> bool:
    """Whether a statement may take something about people away."""
    return _DELETING.match(statement) is not None or _UPDATING.match(statement) is not None


def callers(frame: FrameType | None) -> Iterator[Place]:
    """(file, function) of this checkout's code up the stack, the nearest first; that of tests too,
    but for this file."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts and path != Path(__file__):
            yield str(path.relative_to(ROOT)), frame.f_code.co_name
        frame = frame.f_back


_CARRIERS = {
    ("adapters/log/bulk.py", name) for name in ("delete_in", "delete_rows", "execute_in", "update")
}


def offence(statement: str, stack: list[Place]) -> str | None:
    """What is wrong about a statement that comes from there; None if nothing is."""
    author = next((place for place in stack if place not in _CARRIERS), ("nowhere", ""))
    if author[0].startswith(("tests/", "migrations/")):
        return None  # a test that reaches into the database, or a schema that changes
    if author not in PLACES:
        return f"{author[0]}:{author[1]} deletes from the vault: {statement[:60]}"
    if PLACES[author] == MARKED and not THROUGH & set(stack):
        return f"{author[0]}:{author[1]} deletes outside the transaction of the log"
    return None


class Watch:
    """Looks at every statement that any engine of this process runs."""

    def __init__(self) -> None:
        self.offences: list[str] = []
        self.seen: set[Place] = set()

    def look(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not takes_away(statement):
            return
        stack = list(callers(sys._getframe(1)))
        self.seen |= PLACES.keys() & set(stack)
        wrong = offence(statement, stack)
        if wrong is not None:
            self.offences.append(wrong)
            raise AssertionError(wrong)


watch = Watch()


def pytest_configure() -> None:
    if not event.contains(Engine, "before_cursor_execute", watch.look):
        event.listen(Engine, "before_cursor_execute", watch.look)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Also where the error was caught and taken for another."""
    if watch.offences:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for wrong in dict.fromkeys(watch.offences):
        terminalreporter.write_line(f"deletion around the choke point: {wrong}", red=True)
