"""The page of a simulation: what it says, that it needs nothing else, how its axes look."""

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.cli import charts
from adapters.cli.charts import Span, level_ticks, span_of, stacked, thinned, time_ticks
from adapters.cli.simulation_page import MOST_BARS, POINTS, Outcome, outcome, page
from adapters.importers.driver import Report
from domain.policy import DAY, HOUR, MINUTE, SECOND
from domain.session import Tier
from domain.use_cases.simulate import Simulation

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
VOID = {"meta", "br", "hr", "img", "link", "input"}

LINE = st.lists(
    st.tuples(st.integers(0, 20 * 365 * DAY), st.integers(0, 5_000)),
    min_size=1,
    max_size=200,
    unique_by=lambda point: point[0],
).map(sorted)


def at(text: str) -> int:
    """A UTC time in microseconds."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


NOON = at("2026-01-31T12:00")


def simulated(
    policy: str,
    starts: Sequence[int],
    *,
    idle: int = 30 * MINUTE,
    keep: int = DAY,
    summaries: bool = False,
) -> Outcome:
    """Sessions of two records each that idle out, and are erased (or summed up first) later."""
    simulation = Simulation(policy)
    full, summary = simulation.kept[Tier.FULL], simulation.kept[Tier.SUMMARY]
    for start in starts:
        end = start + idle
        simulation.active.change(start, 1)
        simulation.active.change(end, -1)
        simulation.expired.change(end, 1)
        full.change(start, 2)
        full.change(end if summaries else end + keep, -2)
        if summaries:
            summary.change(end, 1)
            summary.change(end + keep, -1)
    simulation.sessions = len(starts)
    simulation.expiries = {"idle": len(starts)}
    simulation.erasures = {"erase": len(starts)}
    return outcome(simulation, Report(participants=len(starts) + 1, refused=7))


def untouched(policy: str) -> Outcome:
    """What a policy did that met no record."""
    return outcome(Simulation(policy), Report())


class Reading(HTMLParser):
    """A page as a reader without a browser sees it. Raises on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1] if self.open else "", data))

    def texts(self, tag: str) -> list[str]:
        """What stands directly in tags of this name."""
        return [text for name, text in self.words if name == tag]

    def values(self, attribute: str) -> list[str]:
        """All values of an attribute."""
        return [attrs[attribute] for _, attrs in self.tags if attribute in attrs]

    def paths(self, kind: str) -> list[str]:
        """The outlines of marks of this class."""
        return [
            attrs["d"]
            for tag, attrs in self.tags
            if tag == "path" and kind in attrs["class"].split()
        ]


DAY_OF_VISITS = [at("1995-07-09T04:00:01") + n * 3 * MINUTE for n in range(400)]

PAGES = {
    "no policy": [],
    "nothing happened": [untouched("web-visit")],
    "one session": [simulated("web-visit", [NOON])],
    "one instant": [simulated("web-visit", [NOON], idle=0, keep=0)],
    "one minute": [
        simulated("web-visit", [NOON, NOON + 9 * SECOND], idle=20 * SECOND, keep=SECOND)
    ],
    "one day": [simulated("web-visit", DAY_OF_VISITS)],
    "two policies, one idle": [simulated("web-visit", DAY_OF_VISITS), untouched("reading-room")],
    "seven policies": [
        simulated(f"p{n}", DAY_OF_VISITS, idle=n * HOUR, summaries=n % 2 == 0) for n in range(1, 8)
    ],
    "20 years": [simulated("therapy-audio", [NOON + n * 5 * DAY for n in range(1461)], keep=DAY)],
    "beyond the calendar": [simulated("therapy-audio", [NOON], idle=9000 * 365 * DAY)],
}


class TestPage:
    """What everybody can read, who has only the file."""

    @pytest.mark.parametrize("outcomes", PAGES.values(), ids=PAGES)
    def test_needs_nothing_but_itself(self, outcomes: list[Outcome]) -> None:
        """Its policy allows no script, no resource, and of styles only the one that is in it."""
        reading = Reading(page(outcomes))
        names = {tag for tag, _ in reading.tags}
        assert not names & {"script", "link", "img", "iframe", "object", "image", "foreignobject"}
        assert not reading.values("style")
        assert not reading.values("src")
        assert all(target.startswith("#") for target in reading.values("href"))
        [style] = reading.texts("style")
        assert "url(" not in style
        assert "@import" not in style
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        [policy] = [text for text in reading.values("content") if "default-src" in text]
        assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")

    @pytest.mark.parametrize("outcomes", PAGES.values(), ids=PAGES)
    def test_every_drawing_has_words(self, outcomes: list[Outcome]) -> None:
        """Each chart is an image with title and description; every reference leads somewhere."""
        reading = Reading(page(outcomes))
        ids = reading.values("id")
        assert len(ids) == len(set(ids))
        named = [name for names in reading.values("aria-labelledby") for name in names.split()]
        assert set(named) <= set(ids)
        assert {target.removeprefix("#") for target in reading.values("href")} <= set(ids)
        images = [attrs for tag, attrs in reading.tags if attrs.get("role") == "img"]
        assert all(attrs["aria-labelledby"] for attrs in images)
        assert len(reading.texts("desc")) == len(images)

    @pytest.mark.parametrize("outcomes", PAGES.values(), ids=PAGES)
    def test_marks_stay_in_their_box(self, outcomes: list[Outcome]) -> None:
        """Nothing is drawn beside or below the axes."""
        for path in (path for kind in ("line", "area", "bars") for path in _paths(outcomes, kind)):
            assert all(0 <= int(x) <= charts.WIDTH for x in re.findall(r"[MH](-?\d+)", path))
            assert all(0 <= int(y) <= charts.HEIGHT for y in re.findall(r"V(-?\d+)", path))

    def test_shows_each_policy_three_times(self) -> None:
        """Active sessions, expiries per hour and records kept, below each other for comparison."""
        two = [simulated("web-visit", DAY_OF_VISITS), simulated("coach", DAY_OF_VISITS, idle=HOUR)]
        reading = Reading(page(two))
        charts_of = ["Active sessions", "Expiries per hour", "Records kept"]
        assert reading.texts("h2") == [*charts_of, "Totals", "By rule"]
        assert reading.texts("b") == ["web-visit", "coach"] * 3
        expected = [f"{chart}: {name}" for chart in charts_of for name in ("web-visit", "coach")]
        assert reading.texts("title")[1:] == expected

    def test_says_the_figures_in_words(self) -> None:
        """Who sees no drawing still learns how many, how often and until when."""
        reading = Reading(page([simulated("web-visit", DAY_OF_VISITS)]))
        assert reading.texts("desc") == [
            "at most 10 at once, first on 9 Jul 1995, 04:27",
            "400 in all, at most 20 in an hour, first on 9 Jul 1995, 05:00",
            "at most 800 full records, none after 11 Jul 1995, 00:27",
        ]

    def test_lists_totals_and_rules(self) -> None:
        """Sessions, participants, peak, expired, erased and refused; then every rule."""
        starts = [NOON + n * SECOND for n in range(1_234)]
        reading = Reading(page([simulated("web-visit", starts), untouched("coach")]))
        cells = reading.texts("td")
        assert cells[:6] == ["1,234", "1,235", "1,234", "1,234", "1,234", "7"]
        assert cells[6:12] == ["0"] * 6
        assert cells[12:] == ["0", "1,234", "1,234", "0", "0", "0"]
        names = ["web-visit", "coach", "web-visit", "erase", "idle", "coach", "none"]
        assert reading.texts("th")[-11:] == [
            *names[:2],
            "Policy",
            "Rule",
            "Expired",
            "Erased",
            *names[2:],
        ]

    def test_says_what_did_not_happen(self) -> None:
        """A chart without a single point is a sentence."""
        reading = Reading(page([untouched("web-visit")]))
        assert "No session was opened." in reading.texts("p")
        assert "No session expired." in reading.texts("p")
        assert "No record was kept." in reading.texts("p")
        assert reading.paths("line") == []

    def test_explains_summaries_only_where_there_are_some(self) -> None:
        """The legend of tiers comes with the second tier."""
        plain = Reading(page([simulated("web-visit", DAY_OF_VISITS)]))
        summed = Reading(page([simulated("coach", DAY_OF_VISITS, summaries=True)]))
        assert plain.texts("li") == []
        assert summed.texts("li") == ["full records", "summaries, one for each session"]
        assert len(summed.paths("summary")) == 1
        assert summed.texts("desc")[-1] == (
            "at most 20 full records and 400 summaries, none after 11 Jul 1995, 00:27"
        )

    def test_ends_where_the_last_thing_changes(self) -> None:
        """A clock that ran on for 31 years leaves no empty tail."""
        still = [(DAY_OF_VISITS[0], 1), (DAY_OF_VISITS[9], 0), (NOON, 0)]
        one = Outcome("old", 1, 1, 0, 1, {}, {}, still, [], {Tier.FULL: still, Tier.SUMMARY: []})
        text = page([one])
        assert "9 Jul 1995, 04:00 to 04:27." in text
        assert "2026" not in text

    def test_what_is_left_stays_until_the_edge(self) -> None:
        """A session that nothing ended is drawn to the right edge, and counted as left."""
        line = [(NOON, 3)]
        one = Outcome("on", 1, 1, 0, 3, {}, {}, line, [], {Tier.FULL: line, Tier.SUMMARY: []})
        reading = Reading(page([one]))
        assert all(path.endswith(f"H{charts.WIDTH}") for path in reading.paths("line"))
        assert reading.texts("desc")[-1] == "at most 3 full records, 3 left at the end"

    def test_names_are_only_text(self) -> None:
        """Whatever a policy or rule is called, it cannot become markup."""
        evil = '"><script>alert(1)</script>&'
        line = [(NOON, 1)]
        one = Outcome(evil, 1, 1, 0, 1, {evil: 1}, {}, line, line, {Tier.FULL: line})
        reading = Reading(page([one]))
        assert "script" not in {tag for tag, _ in reading.tags}
        assert "".join(reading.texts("b")) == evil * 3

    def test_many_years_of_expiries_fold_into_busiest_hours(self) -> None:
        """More hours than bars fit: each bar is the busiest hour of a longer stretch."""
        counts = [(NOON + n * HOUR, n % 7 + 1) for n in range(0, 20 * 365 * 24, 5)]
        one = Outcome("p", 1, 1, 0, 1, {}, {}, [], counts, {Tier.FULL: [], Tier.SUMMARY: []})
        reading = Reading(page([one]))
        [bars] = reading.paths("bars")
        assert bars.count("M") <= MOST_BARS
        assert any(
            "Each bar is the busiest hour of 4 weeks." in text for text in reading.texts("p")
        )
        assert "at most 7 in an hour" in reading.texts("desc")[0]

    def test_colours_stand_out_from_their_paper(self) -> None:
        """In light and in dark, each has the 3:1 that WCAG 2.2 asks of graphics."""
        [style] = Reading(page([])).texts("style")
        for scheme in style.split("@media (prefers-color-scheme: dark)"):
            colours = dict(re.findall(r"--(paper|ink-\d): (#[0-9a-f]{6});", scheme))
            paper = _luminance(colours.pop("paper"))
            assert len(colours) == charts.INKS
            for colour in colours.values():
                darker, lighter = sorted((_luminance(colour), paper))
                assert (lighter + 0.05) / (darker + 0.05) >= 3

    def test_is_small(self) -> None:
        """Six policies over years of records are a page that a mail takes."""
        starts = [NOON + n * 7 * HOUR for n in range(20_000)]
        six = [simulated(f"p{n}", starts, idle=n * DAY, summaries=True) for n in range(1, 7)]
        assert len(page(six)) < 500_000


def _luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, as WCAG 2.2 defines it."""
    shares = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _paths(outcomes: list[Outcome], kind: str) -> list[str]:
    return Reading(page(outcomes)).paths(kind)


class TestLines:
    """What becomes of the points of a line before they are drawn."""

    @given(LINE, st.sampled_from([3, 30, POINTS]))
    def test_thinning_keeps_what_is_seen(self, line: list[tuple[int, int]], most: int) -> None:
        """The highest, the lowest and the last number survive, and no point is made up."""
        few = thinned(line, most)
        assert len(few) <= most
        assert set(few) <= set(line)
        assert few == sorted(few)
        assert few[-1] == line[-1]
        levels = [level for _, level in line]
        assert {min(levels), max(levels)} <= {level for _, level in few}

    @given(LINE, st.integers(0, 20 * 365 * DAY))
    def test_thinning_moves_no_level_by_more_than_a_column(
        self, line: list[tuple[int, int]], when: int
    ) -> None:
        """Between two points that are kept side by side, the number is the one of then."""
        few = thinned(line, 30)
        column = (line[-1][0] - line[0][0]) // 10 + 1
        lately = {level for then, level in line if when - column <= then <= when}
        assert _level(few, when) in lately | {_level(line, when - column), _level(line, when)}

    def test_a_bar_is_as_high_as_its_busiest_hour(self) -> None:
        """Weeks begin on Monday; one without an expiry has no bar."""
        sunday, monday = at("2026-02-01T00:00"), at("2026-02-02T00:00")
        counts = [(sunday, 1), (monday, 2), (monday + HOUR, 9), (monday + 6 * DAY, 4)]
        assert charts.busiest([*counts, (monday + 15 * DAY, 3)], 7 * DAY) == [
            (monday - 7 * DAY, 1),
            (monday, 9),
            (monday + 14 * DAY, 3),
        ]

    @given(st.lists(LINE, min_size=1, max_size=3), st.integers(0, 20 * 365 * DAY))
    def test_stacked_lines_add_up(self, lines: list[list[tuple[int, int]]], when: int) -> None:
        """The height of each line is its own and that of all below it, at any time."""
        heights = [_level(line, when) for line in stacked(lines)]
        assert heights == [
            sum(_level(line, when) for line in lines[: n + 1]) for n in range(len(lines))
        ]


def _level(line: list[tuple[int, int]], when: int) -> int:
    return next((level for then, level in reversed(line) if then <= when), 0)


class TestAxes:
    """Round numbers and round times, as many as fit."""

    @pytest.mark.parametrize(
        ("highest", "expected"),
        [
            (0, [0, 1]),
            (1, [0, 1]),
            (3, [0, 1, 2, 3]),
            (7, [0, 5, 10]),
            (143, [0, 50, 100, 150]),
            (37_204, [0, 20_000, 40_000]),
        ],
    )
    def test_levels_are_round(self, highest: int, expected: list[int]) -> None:
        """They start at 0 and reach the highest number."""
        assert level_ticks(highest, 3) == expected

    @given(st.integers(0, 10**12), st.sampled_from([3, 4, 5]))
    def test_levels_reach_the_highest_and_waste_little(self, highest: int, most: int) -> None:
        """Few enough to be read, and less than one stretch of them is empty."""
        levels = level_ticks(highest, most)
        step = levels[1]
        assert levels == [step * n for n in range(len(levels))]
        assert len(levels) <= most + 1
        assert highest <= levels[-1] < max(highest, 1) + step

    @pytest.mark.parametrize(
        ("start", "length", "labels"),
        [
            (
                "2026-01-31T11:59:55",
                MINUTE,
                ["12:00:00 31 Jan", "12:00:20", "12:00:40"],
            ),
            ("1995-07-09T20:10", 9 * HOUR, ["21:00 9 Jul", "00:00 10 Jul", "03:00"]),
            ("1995-07-09T04:00", 2 * DAY, ["12:00 9 Jul", "00:00 10 Jul", "12:00", "00:00 11 Jul"]),
            ("2004-12-30T04:00", 3 * DAY, ["31 Dec 2004", "1 Jan 2005", "2 Jan"]),
            ("2015-05-17T10:00", 34 * DAY, ["25 May 2015", "8 Jun"]),
            ("2024-10-20T00:00", 200 * DAY, ["Nov 2024", "Jan 2025", "Mar", "May"]),
            ("2004-11-16T00:00", 20 * 365 * DAY, ["2005", "2010", "2015", "2020"]),
        ],
    )
    def test_times_adapt_to_the_span(self, start: str, length: int, labels: list[str]) -> None:
        """Seconds, hours, days, months or years; the day or the year where it changes."""
        span = Span(at(start), at(start) + length)
        ticks = time_ticks(span, 4)
        assert [f"{tick.label} {tick.context}".strip() for tick in ticks] == labels

    @given(
        st.integers(at("1970-01-01T00:00"), at("2100-01-01T00:00")),
        st.floats(0, 1).map(lambda share: int(MINUTE * (20 * 365 * 24 * 60) ** share)),
        st.sampled_from([(charts.MOST_WIDE, 590), (charts.MOST_NARROW, 212)]),
    )
    def test_labels_never_overlap(self, start: int, length: int, fit: tuple[int, int]) -> None:
        """Not on a desk and not on a phone, whatever is drawn: there is room around each label.

        The widths in pixels are those of the narrowest desk and of a phone of 320 pixels, beside
        numbers below a million; a character takes 7.1.
        """
        most, width = fit
        span = Span(start, start + length)
        ticks = time_ticks(span, most)
        assert (1 if length < 2 * MINUTE else 2) <= len(ticks) <= most + 1
        assert all(span.start <= tick.at <= span.end for tick in ticks)
        for left, right in pairwise(ticks):
            apart = (right.at - left.at) / span.length * width
            assert apart > 7.1 * (len(left.label) + len(right.label)) / 2
            if left.context and right.context:
                assert apart > 7.1 * (len(left.context) + len(right.context)) / 2

    @given(st.lists(LINE, min_size=1, max_size=3))
    def test_a_span_shows_its_ends(self, lines: list[list[tuple[int, int]]]) -> None:
        """It is never shorter than a minute, and the first and last point are not on its edge."""
        span = span_of([*lines, []])
        assert span.length >= MINUTE
        assert all(span.start < line[0][0] <= line[-1][0] < span.end for line in lines)
