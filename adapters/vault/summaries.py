"""The figures of a summary: what each record adds, and what all of it makes together.

Partial figures are small, whatever they are made of: counts, sums and moments (Chan, Golub, LeVeque
1979, for merging means and variances), and sketches of Apache DataSketches for what cannot be kept
exactly in bounded memory - HyperLogLog for `distinct` (standard error 1.6 %), KLL for `quantile`
(rank error 1.7 %). So the parts of several participants merge, and a part can be left out.

A policy names an aggregate of one's own as `plugin.NAME(field)`: a Python entry point NAME in the
group `lapse.aggregates` that is an `Aggregate` (docs/how-to/store-data.md).
"""

import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

import orjson

from domain.errors import PolicyInvalid, Problem
from domain.policy import RetentionPolicy
from domain.ports import Buffer, Records

GROUP = "lapse.aggregates"
_LG_REGISTERS = 12
_KLL_K = 200
_LONGEST_TEXT = 200
_LARGEST_WHOLE = 2**53
_CALL = re.compile(r"(?:(plugin)\.)?([a-z][a-z0-9_]*)\(([^,)]*)(?:, ?(0?\.\d+))?\)")

State = Any
"""What an aggregate keeps between records: plain JSON."""


class Aggregate(Protocol):
    """How one figure is made. Its state is JSON, small however many values there were."""

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        """The state with these values (of records stored at `at`, microseconds) added."""
        ...

    def merge(self, states: Sequence[State]) -> State:
        """The state of all of them together; at least one."""
        ...

    def figure(self, state: State, began: int) -> Any:
        """The figure: a number, text or null. began: when the session did."""
        ...


class AggregateSummaries:
    """The summaries behind `domain.ports.Summaries`."""

    def add(
        self, summary: Mapping[str, str], partial: Buffer | None, records: Records, at: int
    ) -> bytes:
        states: dict[str, State] = orjson.loads(partial) if partial else {}
        for call in sorted(set(summary.values())):
            aggregate, path = aggregate_of(call)
            values = list(records) if path is None else list(_values(records, path))
            states[call] = aggregate.add(states.get(call), values, at)
        return orjson.dumps(states, option=orjson.OPT_SORT_KEYS)

    def figures(
        self, summary: Mapping[str, str], partials: Sequence[Buffer], began: int
    ) -> Mapping[str, Any]:
        opened = [orjson.loads(partial) for partial in partials]
        figures = {}
        for name, call in summary.items():
            aggregate, _ = aggregate_of(call)
            states = [states[call] for states in opened if states.get(call) is not None]
            figures[name] = aggregate.figure(aggregate.merge(states), began) if states else None
        return figures


def check_aggregates(policies: Iterable[RetentionPolicy]) -> None:
    """Raises PolicyInvalid where a policy names a plugin that is not installed."""
    problems = []
    for policy in policies:
        for name, call in policy.summary.items():
            try:
                aggregate_of(call)
            except LookupError:
                what = f"no installed package has the entry point {_named(call)} in group {GROUP}"
                problems.append(Problem(f"policy.{policy.name}.summary.{name}", what))
    if problems:
        raise PolicyInvalid(problems)


@cache
def aggregate_of(call: str) -> tuple[Aggregate, tuple[str, ...] | None]:
    """The aggregate that a policy calls, and the path of its field (None: whole records).

    Raises LookupError for a plugin that is not installed.
    """
    match = _CALL.fullmatch(call)
    if match is None:
        raise LookupError(call)
    plugin, name, field, rank = match.groups()
    path = tuple(field.split(".")) if field else None
    if plugin:
        (found,) = entry_points(group=GROUP, name=name) or (None,)
        if found is None:
            raise LookupError(call)
        aggregate: Aggregate = found.load()()
        return aggregate, path
    return (Quantile(float(rank)) if name == "quantile" else _BUILT_IN[name]()), path


def _named(call: str) -> str:
    match = _CALL.fullmatch(call)
    return match[2] if match else call


def _values(records: Records, path: tuple[str, ...]) -> Iterable[Any]:
    """The field of each record that has it, and not null."""
    for record in records:
        value: Any = record
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            yield value


def _numbers(values: Iterable[Any]) -> list[float]:
    return [
        value
        for value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and _is_number(value)
    ]


def _is_number(value: float) -> bool:
    return abs(value) <= _LARGEST_WHOLE if isinstance(value, int) else math.isfinite(value)


def _scalar(value: Any) -> Any:
    """What may stand in a figure as it is; None for what may not."""
    if isinstance(value, str):
        return value[:_LONGEST_TEXT]
    if isinstance(value, bool):
        return value
    return value if isinstance(value, int | float) and _is_number(value) else None


# -- the aggregates of the policy language ----------------------------------------------------


class Count:
    """How many records, or how many have the field."""

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        return (state or 0) + len(values)

    def merge(self, states: Sequence[State]) -> State:
        return sum(states)

    def figure(self, state: State, began: int) -> Any:
        return state


class Sum:
    """The sum of the numbers; null once it is too large for a number."""

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        return OVERFLOW if state == OVERFLOW else _sum([state or 0, *_numbers(values)])

    def merge(self, states: Sequence[State]) -> State:
        return OVERFLOW if OVERFLOW in states else _sum(states)

    def figure(self, state: State, began: int) -> Any:
        return None if state == OVERFLOW else state


OVERFLOW = "overflow"
"""The state of a figure that no number holds any more."""


def _sum(numbers: Sequence[float]) -> State:
    whole = all(isinstance(number, int) for number in numbers)
    try:
        total = sum(numbers) if whole else math.fsum(numbers)
    except OverflowError:
        return OVERFLOW
    # Whole numbers beyond this are no numbers of JSON that everybody reads alike (RFC 8259, 6).
    return total if abs(total) <= _LARGEST_WHOLE else _finite(float(total))


def _finite(number: float) -> State:
    return number if math.isfinite(number) else OVERFLOW


class _Extreme:
    """The least or the greatest number."""

    pick: Callable[..., float]

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        numbers = _numbers(values if state is None else [state, *values])
        return type(self).pick(numbers) if numbers else None

    def merge(self, states: Sequence[State]) -> State:
        return self.add(None, states, 0)

    def figure(self, state: State, began: int) -> Any:
        return state


class Min(_Extreme):
    """The least number."""

    pick = staticmethod(min)


class Max(_Extreme):
    """The greatest number."""

    pick = staticmethod(max)


class Mean:
    """The arithmetic mean. State: count, mean, sum of squared distances from the mean."""

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        numbers = _numbers(values)
        if not numbers:
            return state or [0, 0.0, 0.0]
        return _together(state or [0, 0.0, 0.0], _moments(numbers))

    def merge(self, states: Sequence[State]) -> State:
        merged: State = [0, 0.0, 0.0]
        for state in states:
            merged = _together(merged, state)
        return merged

    def figure(self, state: State, began: int) -> Any:
        return None if state == OVERFLOW or not state[0] else state[1]


class StdDev(Mean):
    """The standard deviation of the sample (n - 1); null below two numbers."""

    def figure(self, state: State, began: int) -> Any:
        if state == OVERFLOW or state[0] < 2:
            return None
        return math.sqrt(state[2] / (state[0] - 1))


def _moments(numbers: Sequence[float]) -> State:
    try:
        mean = math.fsum(numbers) / len(numbers)
        spread = math.fsum((number - mean) ** 2 for number in numbers)
    except OverflowError:
        return OVERFLOW
    return [len(numbers), mean, spread]


def _together(one: State, other: State) -> State:
    """Chan, Golub, LeVeque: the moments of two samples as one."""
    if OVERFLOW in (one, other):
        return OVERFLOW
    count = one[0] + other[0]
    if not count:
        return one
    apart = other[1] - one[1]
    mean = one[1] + apart * other[0] / count
    spread = one[2] + other[2] + apart * apart * one[0] * other[0] / count
    return [count, mean, spread] if math.isfinite(mean + spread) else OVERFLOW


class First:
    """The earliest value. State: when, and what."""

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        if state is not None and state[0] <= at:
            return state
        return [at, _scalar(values[0])] if values else state

    def merge(self, states: Sequence[State]) -> State:
        return min(states, key=lambda state: int(state[0]))

    def figure(self, state: State, began: int) -> Any:
        return state[1]


class Last:
    """The latest value. State: when, and what."""

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        if state is not None and state[0] > at:
            return state
        return [at, _scalar(values[-1])] if values else state

    def merge(self, states: Sequence[State]) -> State:
        return max(states, key=lambda state: int(state[0]))

    def figure(self, state: State, began: int) -> Any:
        return state[1]


class Duration:
    """Seconds from the session's beginning to the last record. State: when that was stored."""

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        return max(state or 0, at)

    def merge(self, states: Sequence[State]) -> State:
        return max(states)

    def figure(self, state: State, began: int) -> Any:
        return max(0, state - began) / 1_000_000


class Distinct:
    """About how many different values. State: a HyperLogLog sketch, which holds none of them."""

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        sketch = _hll(state)
        for value in values:
            sketch.update(orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode())
        return b64encode(sketch.serialize_compact()).decode()

    def merge(self, states: Sequence[State]) -> State:
        sketches = _sketches()
        union = sketches.hll_union(_LG_REGISTERS)
        for state in states:
            union.update(_hll(state))
        merged = union.get_result(sketches.tgt_hll_type.HLL_4)
        return b64encode(merged.serialize_compact()).decode()

    def figure(self, state: State, began: int) -> Any:
        return round(_hll(state).get_estimate())


def _sketches() -> Any:
    """Imported when a policy needs it: with numpy behind it, it takes longer than all the rest of
    a command."""
    return import_module("datasketches")


def _hll(state: State | None) -> Any:
    sketches = _sketches()
    if state is None:
        return sketches.hll_sketch(_LG_REGISTERS, sketches.tgt_hll_type.HLL_4)
    return sketches.hll_sketch.deserialize(b64decode(state))


class Quantile:
    """About the number below which this share (`rank`) of all lies. State: a KLL sketch."""

    def __init__(self, rank: float) -> None:
        self._rank = rank

    def add(self, state: State | None, values: Sequence[Any], at: int) -> State:
        sketch = _kll(state)
        for number in _numbers(values):
            sketch.update(float(number))
        return b64encode(sketch.serialize()).decode()

    def merge(self, states: Sequence[State]) -> State:
        merged = _kll(None)
        for state in states:
            merged.merge(_kll(state))
        return b64encode(merged.serialize()).decode()

    def figure(self, state: State, began: int) -> Any:
        sketch = _kll(state)
        return None if sketch.is_empty() else sketch.get_quantile(self._rank)


def _kll(state: State | None) -> Any:
    sketches = _sketches()
    if state is None:
        return sketches.kll_doubles_sketch(_KLL_K)
    return sketches.kll_doubles_sketch.deserialize(b64decode(state))


_BUILT_IN: Mapping[str, Callable[[], Aggregate]] = {
    "count": Count,
    "sum": Sum,
    "mean": Mean,
    "min": Min,
    "max": Max,
    "stddev": StdDev,
    "first": First,
    "last": Last,
    "distinct": Distinct,
    "duration": Duration,
}
