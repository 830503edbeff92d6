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

INKS = 6
"""Colours that the style has."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_MONDAY = 4 * DAY
"""The epoch was a Thursday; weeks are counted from a Monday."""

_REGULAR = (
    *(n * SECOND for n in (1, 2, 5, 10, 15, 30)),
    *(n * MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR for n in (1, 2, 3, 6, 12)),
    *(n * DAY for n in (1, 2, 4, 7, 14)),
)
_MONTHS = (1, 3, 6, *(12 * n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)))
_WIDE, _NARROW = 7, 3
"""Stretches between dates that fit side by side on a desk and on a phone."""


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


def peak(line: Line) -> tuple[int, int]:
    """The first of the highest points; `line` has one."""
    return max(line, key=lambda point: point[1])


def span_of(lines: Iterable[Line], shortest: int = MINUTE) -> Span:
    """From the first point to the last, and a little more so that both are seen."""
    ends = [at for line in lines if line for at in (line[0][0], line[-1][0])]
    first, last = min(*ends, _LAST), min(max(ends), _LAST)
    margin = max((last - first) // 64, (shortest - (last - first)) // 2)
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
        if span.length <= step * most:
            return _labelled(_multiples(span, step), _clock_or_day(step))
    months = next((n for n in _MONTHS if span.length <= n * 30 * DAY * most), _MONTHS[-1])
    return _labelled(_months(span, months), ("%b", "%Y") if months < 12 else ("%Y", ""))


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
        return "%H:%M:%S", "{day} %b %Y"
    if step < DAY:
        return "%H:%M", "{day} %b %Y"
    return "{day} %b", "%Y"


def _labelled(times: Sequence[int], formats: tuple[str, str]) -> list[Tick]:
    ticks, before = [], ""
    for at in times:
        label, context = (f"{utc(at):{text.format(day=utc(at).day)}}" for text in formats)
        ticks.append(Tick(at, label, "" if context == before else context))
        before = context
    return ticks


def compared(number: int, lines: Sequence[Line], frame: Frame) -> Markup:
    """The step line of the policy with this number, from 1; thin behind it those of the others."""
    others = [n for n, line in enumerate(lines, start=1) if line and n != number]
    behind = Markup("").join(Markup('<use href="#line-{}" class="other"/>').format(n) for n in others)
    own = lines[number - 1]
    path = Markup('<path id="line-{}" class="line" d="{}"/>').format(number, _steps(own, frame))
    return behind + (area("below", own, frame) + path if own else Markup(""))


def area(kind: str, points: Line, frame: Frame) -> Markup:
    """What is below a step line. kind: its class."""
    path = f"{_steps(points, frame)}V{HEIGHT}Z"
    return Markup('<path class="area {}" d="{}"/>').format(kind, path)


def bars(points: Line, width: int, frame: Frame) -> Markup:
    """One bar per point, from its time on. width: microseconds."""
    path = "".join(
        f"M{frame.x(at)} {HEIGHT}V{frame.y(count)}H{frame.x(at + width)}V{HEIGHT}Z"
        for at, count in points
    )
    return Markup('<path class="bars" d="{}"/>').format(path)


def _steps(points: Line, frame: Frame) -> str:
    steps = "".join(f"H{frame.x(at)}V{frame.y(level)}" for at, level in points)
    return f"M0 {HEIGHT}{steps}H{WIDTH}"


_PANEL = Markup("""\
<figure class="ink-{ink}">
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
            anchor=f"{kind}-{number}",
            axes=_axes(frame, dates=number == len(panels)),
            dot=_dot(panel.peak, frame),
            width=WIDTH,
            height=HEIGHT,
        )
        for number, panel in enumerate(panels, start=1)
    ]
    return Markup("").join(figures)


def ink(number: int) -> int:
    """The colour of the policy with this number, from 1; beyond the last they begin again."""
    return (number - 1) % INKS + 1


def _axes(frame: Frame, *, dates: bool) -> Markup:
    levels = Markup("").join(_level(level, frame) for level in frame.levels)
    wide = _dates(frame, _WIDE, "wide", dates=dates)
    return levels + wide + _dates(frame, _NARROW, "narrow", dates=dates)


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
    marks = Markup("").join(_tick(tick, frame, dates=dates) for tick in ticks)
    return Markup('<g class="{}">{}</g>').format(kind, marks)


def _tick(tick: Tick, frame: Frame, *, dates: bool) -> Markup:
    x = _percent(frame.x(tick.at), WIDTH)
    grid = Markup('<line class="grid" x1="{x}%" x2="{x}%" y2="100%"/>').format(x=x)
    if not dates:
        return grid
    # A label at the right edge ends there, since the page does.
    kind = "date last" if frame.x(tick.at) > 0.92 * WIDTH else "date"
    text = Markup('<text class="{}" x="{}%" y="100%" dy="{}em">{}</text>')
    return (
        grid
        + text.format(kind, x, 1.6, tick.label)
        + (text.format(kind, x, 2.9, tick.context) if tick.context else Markup(""))
    )


def _dot(point: tuple[int, int] | None, frame: Frame) -> Markup:
    if point is None:
        return Markup("")
    at, level = point
    x, y = _percent(frame.x(at), WIDTH), _percent(frame.y(level), HEIGHT)
    return Markup('<circle class="peak" cx="{}%" cy="{}%" r="3.5"/>').format(x, y)


def _percent(position: int, size: int) -> str:
    return f"{100 * position / size:.2f}".rstrip("0").rstrip(".")
