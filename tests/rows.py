"""Which rows of docs/requirements.md the passing tests show: `build/rows.json`.

A test names rows with `@pytest.mark.row("P2.2", ...)`. A run of the whole suite writes, for every
row shown, the tests that passed, by the database they ran on:

    {"P2.2": {"sqlite": ["tests/...::test_x[sqlite]"], "postgresql": [...], "any": [...]}}

The database is the parameter of the fixture `database_url`; `any` are the tests without it. A row
that was shown on one of the databases only is left out; a run that stopped early writes nothing.
"""

import json
import re
from collections import defaultdict

import pytest

ROW = re.compile(r"^\|\s*`?([PG]\d+(?:\.\d+)?)`?\s*\|", re.MULTILINE)
DATABASES = ("sqlite", "postgresql")
_SHOWN = "rows"
# A run narrowed by one of these options is none of the whole suite.
NARROWING = (
    *("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf"),
    *("stepwise", "collectonly"),
)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RowReport(config))


class RowReport:
    """Collects what each test of a run shows."""

    def __init__(self, config: pytest.Config) -> None:
        self._requirements = config.rootpath / "docs" / "requirements.md"
        self._report = config.rootpath / "build" / "rows.json"
        self._shown_by: dict[str, tuple[list[str], str]] = {}  # test: its rows and database
        self._passed: set[str] = set()
        self._not_passed: set[str] = set()

    @pytest.hookimpl(tryfirst=True)  # before tests are deselected: every marker is checked
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        known = self._known_rows()
        for item in items:
            rows = [row for marker in item.iter_markers("row") for row in marker.args]
            if known and (unknown := [row for row in rows if row not in known]):
                raise pytest.UsageError(
                    f"{item.nodeid} names rows that docs/requirements.md does not have: {unknown}"
                )
            if rows:
                # On the report, which reaches the process that writes the file from all that test.
                item.user_properties.append((_SHOWN, [rows, _database(item)]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, shown in report.user_properties:
            if name == _SHOWN and isinstance(shown, list):
                self._shown_by[report.nodeid] = (shown[0], shown[1])
        if not report.passed:
            self._not_passed.add(report.nodeid)
        elif report.when == "call":
            self._passed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(session.config, "workerinput"):
            return  # one of several processes: the one that started them writes
        if _is_whole_suite(session.config) and _ran_to_its_end(session, exitstatus):
            self._report.parent.mkdir(exist_ok=True)
            self._report.write_text(json.dumps(self._rows(), indent=2, sort_keys=True) + "\n")

    def _known_rows(self) -> set[str]:
        """Empty while there is no list of rows to check against."""
        if not self._requirements.exists():
            return set()
        return set(ROW.findall(self._requirements.read_text()))

    def _rows(self) -> dict[str, dict[str, list[str]]]:
        shown: dict[str, dict[str, list[str]]] = defaultdict(
            lambda: {database: [] for database in (*DATABASES, "any")}
        )
        for test in sorted(self._passed - self._not_passed):
            rows, database = self._shown_by.get(test, ([], "any"))
            for row in rows:
                shown[row][database].append(test)
        return {row: tests for row, tests in shown.items() if _on_both_or_neither(tests)}


def _database(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    database = callspec.params.get("database_url") if callspec else None
    return database if database in DATABASES else "any"


def _on_both_or_neither(tests: dict[str, list[str]]) -> bool:
    return len({bool(tests[database]) for database in DATABASES}) == 1


def _ran_to_its_end(session: pytest.Session, exitstatus: int) -> bool:
    """Not stopped by Ctrl-C, an error while collecting, or `-x` and `--maxfail` at a failure."""
    stopped = session.shouldfail or session.shouldstop
    return not stopped and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def _is_whole_suite(config: pytest.Config) -> bool:
    selected = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    return not selected and not any(config.getoption(option, None) for option in NARROWING)
