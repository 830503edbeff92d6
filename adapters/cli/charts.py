"""Charts as inline SVG, without scripts: panels below each other that share both axes.

Positions are percentages and marks are stretched to the box they get, while text and strokes keep
their size: the same drawing is readable on a phone and on a desk. The page's style gives the
colours, by the classes `ink-1` and so on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from domain.policy import DAY, HOUR, MINUTE, SECOND

Line = Sequence[tuple[int, int]]
"""(when in microseconds, number), ascending."""

WIDTH, HEIGHT = 10_000, 1_000
"""The box that marks are drawn into, in its own units."""

MOST_WIDE, MOST_NARROW = 9, 4
"""Stretches between dates that fit side by side on a desk and on a phone."""

INKS = 6
"""Colours that the style has."""

_NOTHING = Markup("")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_MONDAY = 4 * DAY
"""The epoch was a Thursday; weeks are counted from a Monday."""

_MONTH = 365 * DAY // 12

_REGULAR = (
    *(n * SECOND for n in (1, 2, 5, 10, 20, 30)),
    *(n * MINUTE for n in (1, 2, 3, 5, 10, 15, 30)),
    *(n * HOUR for n in (1, 2, 3, 6, 12)),
    *(n * DAY for n in (1, 2, 4, 7, 14, 21)),
)
_MONTHS = (1, 2, 3, 6, *(12 * n for n in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)))


@dataclass(frozen=True)
class Span:
    """A stretch of time in microseconds, longer than nothing."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Tick:
    """A mark on the time axis; `context` is the day or year below it, where that changes."""

    at: int
    label: str
    context: str


@dataclass(frozen=True)
class Frame:
    """The axes that the panels of a chart share. levels: marks on the upright one, from 0 up."""

    span: Span
    levels: Sequence[int]

    def x(self, at: int) -> int:
        share = (at - self.span.start) / self.span.length
        return min(WIDTH, round(WIDTH * share))

    def y(self, level: int) -> int:
        return HEIGHT - round(HEIGHT * level / self.levels[-1])


@dataclass(frozen=True)
class Panel:
    """One policy in one chart. figure: what it says in words. peak: where a dot goes."""

    name: str
    figure: str
    marks: Markup
    peak: tuple[int, int] | None = None


def utc(at: int) -> datetime:
    """What the calendar says; after the year 9999 it stands still."""
    return _EPOCH + timedelta(microseconds=min(at, _LAST))


def changes(line: Line) -> list[tuple[int, int]]:
    """The points at which the number is another than before; before the first it is 0."""
    before = [0, *(level for _, level in line)]
    return [point for point, level in zip(line, before, strict=False) if point[1] != level]


def thinned(points: Line, most: int) -> list[tuple[int, int]]:
    """At most `most` points of a step line that look the same.

    Time is cut into columns. Each keeps its lowest and highest point, and the last, whose number
    holds on until the next column that has a point.
    """
    if len(points) <= most:
        return list(points)
    start, length = points[0][0], points[-1][0] - points[0][0] + 1
    columns: dict[int, list[tuple[int, int]]] = {}
    for at, level in points:
        columns.setdefault((at - start) * (most // 3) // length, []).append((at, level))
    return [point for column in columns.values() for point in _telling(column)]


def _telling(column: Line) -> list[tuple[int, int]]:
    lowest = min(column, key=lambda point: point[1])
    return sorted({lowest, peak(column), column[-1]})


def stacked(lines: Sequence[Line]) -> list[list[tuple[int, int]]]:
    """Lines on top of each other: to each is added what stands below it."""
    times = sorted({at for line in lines for at, _ in line})
    totals = dict.fromkeys(times, 0)
    stack = []
    for line in lines:
        known, level = dict(line), 0
        for at in times:
            level = known.get(at, level)
            totals[at] += level
        stack.append(list(totals.items()))
    return stack


def busiest(counts: Line, width: int) -> list[tuple[int, int]]:
    """The highest count of each stretch of `width` microseconds, where there is one."""
    highest: dict[int, int] = {}
    for at, count in counts:
        start = at - (at - _MONDAY) % width
        highest[start] = max(highest.get(start, 0), count)
    return sorted(highest.items())


def peak(line: Line) -> tuple[int, int]:
    """The first of the highest points; `line` has one."""
    return max(line, key=lambda point: point[1])


def span_of(lines: Iterable[Line], shortest: int = MINUTE) -> Span:
    """From the first point to the last, and a little more so that both are seen."""
    ends = [at for line in lines if line for at in (line[0][0], line[-1][0])]
    first, last = min(*ends, _LAST), min(max(ends), _LAST)
    length = max(last - first + (last - first) // 32, shortest)
    margin = -(-(length - (last - first)) // 2)
    return Span(first - margin, last + margin)


def level_ticks(highest: int, most: int) -> list[int]:
    """0 and at most `most` round numbers, equally far apart; the last is not below `highest`."""
    unit = 1
    while True:
        for step in (unit, 2 * unit, 5 * unit):
            count = max(1, -(-highest // step))
            if count <= most:
                return [step * n for n in range(count + 1)]
        unit *= 10


def time_ticks(span: Span, most: int) -> list[Tick]:
    """Round times, no more than about `most`: of a clock, days, months or years."""
    for step in _REGULAR:
        # A label with seconds is longer: fewer fit.
        if span.length <= step * (most - 1 if step < MINUTE else most):
            return _labelled(_multiples(span, step), *_clock_or_day(step))
    months = next((n for n in _MONTHS if span.length <= n * _MONTH * most), _MONTHS[-1])
    starts = _months(span, months)
    return _labelled(starts, "%b", "%Y") if months < 12 else _labelled(starts, "%Y")


def _multiples(span: Span, step: int) -> list[int]:
    first = span.start + (_MONDAY - span.start) % step
    return list(range(first, span.end + 1, step))


def _months(span: Span, step: int) -> list[int]:
    """The starts of months, every `step` of them, counted from the year 0."""
    start, end = utc(span.start), utc(span.end)
    first, last = (12 * one.year + one.month - 1 for one in (start, end))
    numbers = range(first + -first % step, last + 1, step)
    starts = (datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC) - _EPOCH for n in numbers)
    times = [start // timedelta(microseconds=1) for start in starts]
    return [at for at in times if at >= span.start]


def _clock_or_day(step: int) -> tuple[str, str]:
    if step < MINUTE:
        return "%H:%M:%S", "{day} %b"
    if step < DAY:
        return "%H:%M", "{day} %b"
    return "{day} %b", "%Y"


def _labelled(times: Sequence[int], label: str, context: str = "") -> list[Tick]:
    ticks, before = [], ""
    for at in times:
        below = _text(at, context)
        ticks.append(Tick(at, _text(at, label), "" if below == before else below))
        before = below
    return ticks


def _text(at: int, form: str) -> str:
    moment = utc(at)
    return moment.strftime(form.format(day=moment.day))


def compared(number: int, lines: Sequence[Line], frame: Frame) -> Markup:
    """The step line of the policy with this number, from 1; thin behind it those of the others."""
    others = [n for n, points in enumerate(lines, start=1) if points and n != number]
    behind = _NOTHING.join(Markup('<use href="#line-{}" class="other"/>').format(n) for n in others)
    own = lines[number - 1]
    if not own:
        return behind
    step_line = Markup('<g id="line-{}">{}</g>').format(number, line(own, frame))
    return behind + area("below", own, frame) + step_line


def line(points: Line, frame: Frame) -> Markup:
    """A step line: each number holds until the next."""
    return Markup('<path class="line" d="{}"/>').format(_steps(points, frame))


def area(kind: str, points: Line, frame: Frame) -> Markup:
    """What is below a step line. kind: its class."""
    path = f"{_steps(points, frame)}V{HEIGHT}Z"
    return Markup('<path class="area {}" d="{}"/>').format(kind, path)


def bars(points: Line, width: int, frame: Frame) -> Markup:
    """One bar per point, from its time on. width: microseconds."""
    gap = width // 16
    path = "".join(
        f"M{frame.x(at + gap)} {HEIGHT}V{frame.y(count)}H{frame.x(at + width - gap)}V{HEIGHT}Z"
        for at, count in points
    )
    return Markup('<path class="bars" d="{}"/>').format(path)


def _steps(points: Line, frame: Frame) -> str:
    steps = "".join(f"H{frame.x(at)}V{frame.y(level)}" for at, level in points)
    return f"M0 {HEIGHT}{steps}H{WIDTH}"


_PANEL = Markup("""\
<figure class="ink-{ink}{room}">
<figcaption><b>{panel.name}</b> <span>{panel.figure}</span></figcaption>
<svg class="plot" role="img" aria-labelledby="{anchor}-title {anchor}-desc">
<title id="{anchor}-title">{title}: {panel.name}</title>
<desc id="{anchor}-desc">{panel.figure}</desc>
{axes}
<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" width="100%" height="100%">
{panel.marks}
</svg>
{dot}</svg>
</figure>
""")


def chart(kind: str, title: str, panels: Sequence[Panel], frame: Frame) -> Markup:
    """All panels of a chart, the dates below the last one. kind: where their ids begin."""
    figures = [
        _PANEL.format(
            panel=panel,
            title=title,
            ink=ink(number),
            room=" roomy" if len(f"{frame.levels[-1]:,}") > 7 else "",
            anchor=f"{kind}-{number}",
            axes=_axes(frame, dates=number == len(panels)),
            dot=_dot(panel.peak, frame),
            width=WIDTH,
            height=HEIGHT,
        )
        for number, panel in enumerate(panels, start=1)
    ]
    return _NOTHING.join(figures)


def ink(number: int) -> int:
    """The colour of the policy with this number, from 1; beyond the last they begin again."""
    return (number - 1) % INKS + 1


def _axes(frame: Frame, *, dates: bool) -> Markup:
    levels = _NOTHING.join(_level(level, frame) for level in frame.levels)
    wide = _dates(frame, MOST_WIDE, "wide", dates=dates)
    return levels + wide + _dates(frame, MOST_NARROW, "narrow", dates=dates)


def _level(level: int, frame: Frame) -> Markup:
    return Markup(
        '<line class="{kind}" x2="100%" y1="{y}%" y2="{y}%"/>'
        '<text class="level" y="{y}%" dx="-.8em" dy=".32em">{level}</text>'
    ).format(
        kind="base" if level == 0 else "grid",
        y=_percent(frame.y(level), HEIGHT),
        level=f"{level:,}",
    )


def _dates(frame: Frame, most: int, kind: str, *, dates: bool) -> Markup:
    ticks = time_ticks(frame.span, most)
    marks = _NOTHING.join(_tick(tick, frame, dates=dates) for tick in ticks)
    return Markup('<g class="{}">{}</g>').format(kind, marks)


def _tick(tick: Tick, frame: Frame, *, dates: bool) -> Markup:
    x = _percent(frame.x(tick.at), WIDTH)
    grid = Markup('<line class="grid" x1="{x}%" x2="{x}%" y2="100%"/>').format(x=x)
    if not dates:
        return grid
    text = Markup('<text class="date" x="{}%" y="100%" dy="{}em">{}</text>')
    return (
        grid
        + text.format(x, 1.6, tick.label)
        + (text.format(x, 2.9, tick.context) if tick.context else _NOTHING)
    )


def _dot(point: tuple[int, int] | None, frame: Frame) -> Markup:
    if point is None:
        return _NOTHING
    at, level = point
    x, y = _percent(frame.x(at), WIDTH), _percent(frame.y(level), HEIGHT)
    return Markup('<circle class="peak" cx="{}%" cy="{}%" r="3.5"/>').format(x, y)


def _percent(position: int, size: int) -> str:
    return f"{100 * position / size:.2f}".rstrip("0").rstrip(".")
