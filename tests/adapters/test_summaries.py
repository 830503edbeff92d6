"""Aggregates that a package brings, and what the figures are made of."""

from pathlib import Path

import pytest

from adapters.vault.summaries import AggregateSummaries, check_aggregates
from domain.errors import PolicyInvalid
from domain.policy import parse

PACKAGE = '''
class Range:
    """Distance of the least number from the greatest. State: both."""

    def add(self, state, values, at):
        numbers = [*(state or []), *values]
        return [min(numbers), max(numbers)] if numbers else None

    def merge(self, states):
        return [min(low for low, _ in states), max(high for _, high in states)]

    def figure(self, state, began):
        return state[1] - state[0]
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with an aggregate, installed for this test."""
    (tmp_path / "my_figures.py").write_text(PACKAGE)
    metadata = tmp_path / "my_figures-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-figures\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[lapse.aggregates]\nrange_of_package = my_figures:Range\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def policy(call: str) -> str:
    return (
        f'[policy.p]\nsummary = {{ it = "{call}" }}\n'
        'rules = [{ since = "created", after = "1h", do = "summarize" }]\n'
    )


@pytest.mark.usefixtures("package")
def test_a_package_brings_an_aggregate() -> None:
    """Found by its entry point, used like any other, over several participants."""
    known = parse(policy("plugin.range_of_package(a.b)"))
    check_aggregates(known.values())
    summary, summaries = known["p"].summary, AggregateSummaries()
    numbers: list[list[float]] = [[1, 4], [7.5, 2]]
    parts = [
        summaries.add(summary, None, [{"a": {"b": value}} for value in values], at)
        for at, values in enumerate(numbers)
    ]
    assert summaries.figures(summary, parts, 0) == {"it": 6.5}


def test_an_aggregate_that_nobody_brings_is_refused_with_its_place() -> None:
    """When the policy is read, not when something is stored."""
    with pytest.raises(PolicyInvalid) as refused:
        check_aggregates(parse(policy("plugin.nobodys(x)")).values())
    [problem] = refused.value.problems
    assert problem.place == "policy.p.summary.it"
    assert "nobodys" in problem.what


@pytest.mark.parametrize("call", ["plugin.Range(x)", "plugin.(x)", "plugin.a.b(x)", "range(x)"])
def test_other_names_are_no_aggregates(call: str) -> None:
    """A policy is refused as a whole, whatever is installed."""
    with pytest.raises(PolicyInvalid):
        parse(policy(call))
