"""The report of rows counts what was shown everywhere, by a run that came to its end."""

import json
from typing import Any

import pytest

SUITE = """
    import pytest

    @pytest.fixture(params=["sqlite", "postgresql"])
    def database_url(request):
        return request.param

    @pytest.mark.row("P1.1")
    def test_first(database_url):
        pass

    @pytest.mark.row("P1.2")
    def test_second(database_url):
        assert database_url == "sqlite"

    @pytest.mark.row("P1.3")
    def test_third():
        {third}
"""


def run(pytester: pytest.Pytester, *options: str, third: str = "pass") -> Any:
    """A whole suite with these options; the report it writes, None if it writes none."""
    pytester.makeini("[pytest]\ntestpaths = tests\nmarkers = row(*ids): rows\n")
    pytester.mkdir("tests")
    pytester.makepyfile(SUITE.format(third=third)).rename(pytester.path / "tests" / "test_it.py")
    pytester.runpytest_inprocess("-p", "tests.rows", *options, no_reraise_ctrlc=True)
    report = pytester.path / "build" / "rows.json"
    return json.loads(report.read_text()) if report.exists() else None


@pytest.mark.parametrize("options", [[], ["--maxfail=2"], ["-n", "2"]])
def test_a_row_that_failed_on_one_database_is_not_shown(
    pytester: pytest.Pytester, options: list[str]
) -> None:
    """The others are, also if the run might have stopped early and did not, or in two processes."""
    assert set(run(pytester, *options)) == {"P1.1", "P1.3"}


@pytest.mark.parametrize("option", ["-x", "--maxfail=1", "--exitfirst"])
def test_a_run_that_stopped_at_a_failure_says_nothing(
    pytester: pytest.Pytester, option: str
) -> None:
    """It did not come to the tests behind it."""
    assert run(pytester, option) is None


@pytest.mark.parametrize("third", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_an_interrupted_run_says_nothing(pytester: pytest.Pytester, third: str) -> None:
    """Nor does it take the place of the report of a whole one."""
    report = pytester.mkdir("build") / "rows.json"
    report.write_text('"of yesterday"')
    assert run(pytester, third=third) == "of yesterday"


def test_a_suite_that_cannot_be_collected_says_nothing(pytester: pytest.Pytester) -> None:
    """A file that is no Python hides the rows it names."""
    assert run(pytester, third="this is no Python") is None
