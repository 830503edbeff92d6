"""The outcome of a simulation, for programs (JSON) and people (one self-contained HTML page)."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from adapters.cli import charts
from adapters.cli.charts import Frame, Line, Panel
from adapters.clock import format_instant
from adapters.importers.driver import Report
from domain.policy import DAY, HOUR
from domain.session import Tier
from domain.use_cases.simulate import Simulation, per_hour

POINTS = 600
"""Points of a drawn line: more than a screen shows side by side."""

MOST_BARS = 300
"""Bars in a chart: three pixels each on a desk, one on a phone."""

_BARS = (
    (HOUR, "one hour"),
    (6 * HOUR, "the busiest of 6 hours"),
    (DAY, "the busiest hour of a day"),
    (7 * DAY, "the busiest hour of a week"),
    (28 * DAY, "the busiest hour of 4 weeks"),
    (364 * DAY, "the busiest hour of 52 weeks"),
)
"""How long a bar may be, in microseconds, and what its height then says."""

_RECORDS = {Tier.FULL: ("full record", "full records"), Tier.SUMMARY: ("summary", "summaries")}

_NOTHING = Markup("")

_STYLE = Path(__file__).with_suffix(".css")

_PAGE = Markup("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>What would happen: a simulation by Lapse</title>
<style>{style}</style>
</head>
<body class="{size}">
<header>
<h1>What would happen</h1>
<p>{lead}</p>
</header>
<main>
{sections}</main>
</body>
</html>
""")

_SECTION = Markup("""\
<section>
<h2>{title}</h2>
<p>{text}</p>
{content}</section>
""")

_KEYS = Markup("""\
<ul class="keys ink-0">
<li class="full">full records</li>
<li class="summary">summaries, one for each session</li>
</ul>
""")

_BODY = Markup("<tbody>\n{}</tbody>\n")

_ROW = Markup("<tr>{policy}{cells}</tr>\n")

_TABLE = Markup("""\
<div class="scroll" role="region" aria-label="{title}" tabindex="0">
<table>
<thead><tr>{columns}</tr></thead>
{bodies}</table>
</div>
""")


@dataclass(frozen=True)
class Outcome:
    """What one policy did. Lines are (when in microseconds, number), ascending.

    active: live sessions. expired: expiries per hour. kept: records kept, per tier.
    """

    policy: str
    sessions: int
    participants: int
    refused: int
    peak_active: int
    expiries: Mapping[str, int]
    erasures: Mapping[str, int]
    active: Sequence[tuple[int, int]]
    expired: Sequence[tuple[int, int]]
    kept: Mapping[Tier, Sequence[tuple[int, int]]]

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "sessions": self.sessions,
            "participants": self.participants,
            "refused": self.refused,
            "peak_active": self.peak_active,
            "expiries": dict(self.expiries),
            "erasures": dict(self.erasures),
            "active": _points(self.active),
            "expired_per_hour": _points(self.expired),
            "records_kept": {str(tier): _points(line) for tier, line in self.kept.items() if line},
        }


def outcome(simulation: Simulation, report: Report) -> Outcome:
    """The figures of one policy after its run."""
    return Outcome(
        policy=simulation.policy,
        sessions=simulation.sessions,
        participants=report.participants,
        refused=report.refused,
        peak_active=simulation.active.peak,
        expiries=simulation.expiries,
        erasures=simulation.erasures,
        active=charts.thinned(simulation.active.levels(), POINTS),
        expired=per_hour(simulation.expired.counts()),
        kept={
            tier: charts.thinned(series.levels(), POINTS)
            for tier, series in simulation.kept.items()
        },
    )


def _points(line: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    return [{"at": format_instant(at), "value": value} for at, value in line]


def page(outcomes: Sequence[Outcome]) -> str:
    """One HTML page with charts and tables, without scripts and without anything from elsewhere.

    Its own content security policy holds it to that: the one thing allowed is the style that
    stands in it, by its hash.
    """
    style = _STYLE.read_text(encoding="utf-8")
    sections = (_active, _expired, _kept, _totals, _rules) if outcomes else ()
    return _PAGE.format(
        digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        style=Markup(style),  # noqa: S704 - the file beside this one
        size={1: "one", 2: "two"}.get(len(outcomes), "many"),
        lead=_lead(outcomes),
        sections=_NOTHING.join(section(outcomes) for section in sections),
    )


def _lead(outcomes: Sequence[Outcome]) -> str:
    match outcomes:
        case []:
            return "No policy was simulated."
        case [one]:
            under = f"The records under the policy {one.policy}."
        case _:
            under = f"The same records under {len(outcomes)} policies."
    return f"{under} Nothing was stored. All times are UTC."


def _active(outcomes: Sequence[Outcome]) -> Markup:
    """Step lines: the sessions alive, with those under the other policies thin behind."""
    title = "Active sessions"
    lines = [charts.changes(one.active) for one in outcomes]
    if not any(lines):
        return _section(title, "No session was opened.")
    frame = _frame(lines, charts.span_of(lines))
    panels = [
        Panel(
            one.policy,
            _most_active(line),
            charts.compared(number, lines, frame),
            charts.peak(line) if line else None,
        )
        for number, (one, line) in enumerate(zip(outcomes, lines, strict=True), start=1)
    ]
    others = " Thin and grey: the other policies." if len(outcomes) > 1 else ""
    text = f"{_between(lines)}.{others}"
    return _section(title, text, charts.chart("active", title, panels, frame))


def _most_active(line: Line) -> str:
    if not line:
        return "no session"
    at, most = charts.peak(line)
    return f"at most {most:,} at once, first on {_when(at)}"


def _expired(outcomes: Sequence[Outcome]) -> Markup:
    """Bars: the sessions that expired within an hour."""
    title = "Expiries per hour"
    lines = [one.expired for one in outcomes]
    if not any(lines):
        return _section(title, "No session expired.")
    length = charts.span_of(lines).length
    width, meaning = next((bar for bar in _BARS if length <= bar[0] * MOST_BARS), _BARS[-1])
    bars = [charts.busiest(line, width) for line in lines]
    ends = [(at + width, 0) for line in bars for at, _ in line[-1:]]
    frame = _frame(bars, charts.span_of([*bars, sorted(ends)], shortest=12 * width))
    panels = [
        Panel(one.policy, _most_expired(one), charts.bars(line, width, frame))
        for one, line in zip(outcomes, bars, strict=True)
    ]
    text = f"{_between(lines)}. Each bar is {meaning}."
    return _section(title, text, charts.chart("expired", title, panels, frame))


def _most_expired(one: Outcome) -> str:
    if not one.expired:
        return "no expiry"
    at, most = charts.peak(one.expired)
    total = sum(count for _, count in one.expired)
    return f"{total:,} in all, at most {most:,} in an hour, first on {_when(at)}"


def _kept(outcomes: Sequence[Outcome]) -> Markup:
    """Areas on top of each other: the records kept, in full and summed up."""
    title = "Records kept"
    stacks = [
        [charts.changes(line) for line in charts.stacked(list(one.kept.values()))]
        for one in outcomes
    ]
    totals = [stack[-1] for stack in stacks]
    if not any(totals):
        return _section(title, "No record was kept.")
    frame = _frame(totals, charts.span_of(totals))
    panels = [
        Panel(one.policy, _most_kept(one, total), _areas(one, stack, frame))
        for one, stack, total in zip(outcomes, stacks, totals, strict=True)
    ]
    text = f"{_between(totals)}."
    keys = _KEYS if any(one.kept.get(Tier.SUMMARY) for one in outcomes) else _NOTHING
    return _section(title, text, keys + charts.chart("kept", title, panels, frame))


def _areas(one: Outcome, stack: Sequence[Line], frame: Frame) -> Markup:
    """The highest first: what lies below is drawn over it."""
    tiers = [(tier, line) for tier, line in zip(one.kept, stack, strict=True) if one.kept[tier]]
    return _NOTHING.join(
        charts.area(tier, line, frame) + charts.line(line, frame) for tier, line in reversed(tiers)
    )


def _most_kept(one: Outcome, total: Line) -> str:
    if not total:
        return "no record"
    most = [
        _count(charts.peak(line)[1], *_RECORDS[tier]) for tier, line in one.kept.items() if line
    ]
    at, left = total[-1]
    end = f"none after {_when(at)}" if left == 0 else f"{left:,} left at the end"
    return f"at most {' and '.join(most)}, {end}"


def _frame(lines: Sequence[Line], span: charts.Span) -> Frame:
    """The more panels, the lower they are."""
    highest = max(level for line in lines for _, level in line)
    return Frame(span, charts.level_ticks(highest, {1: 5, 2: 4}.get(len(lines), 3)))


def _totals(outcomes: Sequence[Outcome]) -> Markup:
    """What the commands print as `What would happen`."""
    columns = ("Sessions", "Participants", "Peak active", "Expired", "Erased", "Refused")
    rows = [
        _ROW.format(
            policy=_policy(number, one),
            cells=_numbers(
                one.sessions,
                one.participants,
                one.peak_active,
                sum(one.expiries.values()),
                sum(one.erasures.values()),
                one.refused,
            ),
        )
        for number, one in enumerate(outcomes, start=1)
    ]
    body = _BODY.format(_NOTHING.join(rows))
    return _table("Totals", "How many of each, over the whole run.", ("Policy",), columns, body)


def _rules(outcomes: Sequence[Outcome]) -> Markup:
    """The sessions that each rule ended."""
    text = "Sessions that each rule expired or erased."
    bodies = _NOTHING.join(_rules_of(number, one) for number, one in enumerate(outcomes, start=1))
    return _table("By rule", text, ("Policy", "Rule"), ("Expired", "Erased"), bodies)


def _rules_of(number: int, one: Outcome) -> Markup:
    rules = sorted(one.expiries.keys() | one.erasures.keys()) or ["none"]
    policy = _policy(number, one, lines=len(rules))
    rows = _NOTHING
    for rule in rules:
        name = Markup('<th scope="row" class="text">{}</th>').format(rule)
        cells = name + _numbers(one.expiries.get(rule, 0), one.erasures.get(rule, 0))
        rows += _ROW.format(policy=policy, cells=cells)
        policy = _NOTHING
    return _BODY.format(rows)


def _policy(number: int, one: Outcome, lines: int = 1) -> Markup:
    """The name of a policy before so many lines of a table."""
    scope = "row" if lines == 1 else "rowgroup"
    return Markup('<th scope="{}" rowspan="{}" class="text policy ink-{}">{}</th>').format(
        scope, lines, charts.ink(number), one.policy
    )


def _numbers(*numbers: int) -> Markup:
    return _NOTHING.join(Markup("<td>{}</td>").format(f"{number:,}") for number in numbers)


def _table(
    title: str, text: str, names: Sequence[str], numbers: Sequence[str], bodies: Markup
) -> Markup:
    columns = [Markup('<th scope="col" class="text">{}</th>').format(name) for name in names]
    columns += [Markup('<th scope="col">{}</th>').format(name) for name in numbers]
    table = _TABLE.format(title=title, columns=_NOTHING.join(columns), bodies=bodies)
    return _section(title, text, table)


def _section(title: str, text: str, content: Markup = _NOTHING) -> Markup:
    return _SECTION.format(title=title, text=text, content=content)


def _between(lines: Sequence[Line]) -> str:
    """From the first change to the last; what stays the same before and after is not drawn."""
    first = min(line[0][0] for line in lines if line)
    last = max(line[-1][0] for line in lines if line)
    if _when(first) == _when(last):
        return _when(first)
    same_day = charts.utc(first).date() == charts.utc(last).date()
    return f"{_when(first)} to {f'{charts.utc(last):%H:%M}' if same_day else _when(last)}"


def _when(at: int) -> str:
    moment = charts.utc(at)
    return f"{moment.day} {moment:%b %Y, %H:%M}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
