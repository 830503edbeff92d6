"""Retention policies: what is kept, for how long, and what ends it.

A policy file is TOML with one table per policy, `[policy.NAME]`; docs/reference/policies.md
describes every key. It is validated as a whole: `parse` answers with every error and its place, or
with policies that are complete and free of contradictions. Nothing here does I/O or reads a clock.

Policies are versioned in the log: `Applied` is the event, `Version` what it folds into.
"""

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar, TypeVar

from domain.errors import PolicyInvalid, Problem
from domain.session import By, Scope

E = TypeVar("E", bound=StrEnum)

MICROSECOND = 1
MILLISECOND = 1_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

NAME = re.compile(r"[a-z0-9_-]{1,40}")
"""Names that enter events and metrics: too narrow to smuggle personal data into the log."""

NOTICE = 5 * SECOND
"""A new version lies at least this far ahead, so that every instance has read it by then."""


class Since(StrEnum):
    """The moment a rule counts from."""

    CREATED = "created"
    LAST_SEEN = "last_seen"
    COMPLETED = "completed"
    FAILED = "failed"
    SUMMARIZED = "summarized"
    EXPIRED = "expired"
    STORED = "stored"


class Do(StrEnum):
    """What a rule does."""

    WARN = "warn"
    SUMMARIZE = "summarize"
    COMPRESS = "compress"
    EXPIRE = "expire"
    ERASE = "erase"


class OnExceed(StrEnum):
    """What happens to a create beyond a limit per owner."""

    REFUSE = "refuse"
    EXPIRE_OLDEST = "expire-oldest"


class Shared(StrEnum):
    """What becomes of an item that several people share when one of them is erased."""

    KEEP = "keep"
    REDACT = "redact"
    ERASE = "erase"


class Unit(StrEnum):
    """What a number in an environment variable counts."""

    SECONDS = "s"
    MINUTES = "m"
    HOURS = "h"
    DAYS = "d"
    COUNT = "count"


@dataclass(frozen=True)
class Rule:
    """This long (`after`, microseconds) since that moment, do this (to `scope`, for erase)."""

    name: str
    since: Since
    after: int
    do: Do
    scope: Scope | None = None


@dataclass(frozen=True)
class Limits:
    """How much there may be at once; None: no limit. Sizes in bytes."""

    concurrent: int | None = None
    per_owner: int | None = None
    on_exceed: OnExceed = OnExceed.REFUSE
    session_bytes: int | None = None
    total_bytes: int | None = None
    result_bytes: int | None = None


@dataclass(frozen=True)
class Override:
    """An environment variable that replaces one value of the policy.

    sets: path of the value, such as `rules[1].after`. unit: what the number given counts; COUNT
    for limits, those in bytes included. factor: multiplies the number given, for values that follow
    another (a warning before an expiry).
    """

    name: str
    sets: str
    unit: Unit
    factor: float = 1.0


@dataclass(frozen=True)
class RetentionPolicy:
    """One policy, complete and free of contradictions. Durations in microseconds."""

    name: str
    rules: tuple[Rule, ...]
    limits: Limits = Limits()
    presence: int | None = None
    sweep: int = 15 * MINUTE
    recover: int = 0
    audit_retention: int = 400 * DAY
    shared: Shared = Shared.REDACT
    summary: Mapping[str, str] = field(default_factory=dict)
    progress: tuple[str, ...] = ()
    environment: tuple[Override, ...] = ()

    @property
    def expires(self) -> bool:
        """Whether a session can expire at all."""
        return (
            any(rule.do is Do.EXPIRE for rule in self.rules)
            or self.limits.on_exceed is OnExceed.EXPIRE_OLDEST
        )

    @cached_property
    def sample_every(self) -> int:
        """Least distance of two `seen` events: a tenth of the idle period, 1 h without one."""
        idle = [rule for rule in self.rules if rule.since is Since.LAST_SEEN]
        ending = [rule for rule in idle if rule.do is Do.EXPIRE] or idle
        return min(rule.after for rule in ending) // 10 if ending else HOUR


@dataclass(frozen=True)
class Version:
    """A policy as it stands from `effective_from` (0: since ever) until the next version."""

    number: int
    effective_from: int
    policy: RetentionPolicy


Versions = Sequence[Version]
"""All versions of one policy, ascending."""


def in_force(versions: Versions, at: int) -> Version:
    """The version in force at `at`."""
    current = versions[0]
    for version in versions[1:]:
        if version.effective_from > at:
            break
        current = version
    return current


@dataclass(frozen=True)
class Applied:
    """A version of a policy entered the log. document: its canonical form, see `to_document`."""

    TOPIC: ClassVar[str] = "policy.applied.v1"

    originator_id: str
    originator_version: int
    effective_at: int
    policy: str
    actor: str
    document: Mapping[str, Any]


def stream_of(name: str) -> str:
    """The id under which the versions of policy `name` stand in the log."""
    return f"policy:{name}"


def notes(policy: RetentionPolicy) -> tuple[str, ...]:
    """What is allowed and may not be meant."""
    if any(rule.do is Do.ERASE and rule.scope is Scope.EVERYTHING for rule in policy.rules):
        return ()
    return (
        "nothing erases everything: a session stays, with who takes part (sealed), until somebody "
        "erases it",
    )


# -- durations and sizes ----------------------------------------------------------------------

_UNITS = {
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
    "d": DAY,
    "w": WEEK,
}
_DURATION = re.compile(
    r"(?=[0-9])(?:[0-9]{1,9}w)?(?:[0-9]{1,9}d)?(?:[0-9]{1,9}h)?(?:[0-9]{1,9}m)?(?:[0-9]{1,9}s)?"
    r"(?:[0-9]{1,9}ms)?"
)
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h|d|w)")
_SIZE = re.compile(r"([0-9]{1,15})(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_SIZES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_LONGEST = 200 * 365 * DAY


def parse_duration(text: str) -> int:
    """Microseconds of a duration such as `50m`, `1h30m`, `7d`. Raises ValueError."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError('write a duration such as "30s", "50m", "1h30m" or "7d"')
    total = sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    if total > _LONGEST:
        raise ValueError("longer than 200 years")
    return total


def format_duration(micros: int) -> str:
    """The shortest text that `parse_duration` reads as `micros` (rounded to milliseconds)."""
    parts, rest = [], micros
    for unit in ("d", "h", "m", "s", "ms"):
        number, rest = divmod(rest, _UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def parse_size(value: object) -> int:
    """Bytes of a size such as `5KB`, `512MB`, or of a plain number. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise ValueError('write a size such as "5KB" or "512MB"')
    size = int(match[1]) * _SIZES[match[2]]
    if size >= 2**63:
        raise ValueError("more than any store holds")
    return size


# -- reading a policy file --------------------------------------------------------------------

AGGREGATE = re.compile(
    r"(count\(\)|duration\(\)|(?:count|sum|mean|min|max|stddev|first|last|distinct)"
    r"\([A-Za-z_][A-Za-z0-9_.]{0,79}\)|plugin\.[a-z][a-z0-9_]{0,39}"
    r"\((?:[A-Za-z_][A-Za-z0-9_.]{0,79})?\)|quantile\([A-Za-z_][A-Za-z0-9_.]{0,79}, ?0?\.\d{1,4}\))"
)


def parse(text: str, environment: Mapping[str, str] | None = None) -> dict[str, RetentionPolicy]:
    """Policies of a file by name, with the overrides of `environment` applied.

    Raises PolicyInvalid with every problem and its place.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyInvalid([Problem("file", str(error))]) from None
    except (ValueError, RecursionError):
        what = "a number of too many digits, or lists nested too deeply"
        raise PolicyInvalid([Problem("file", what)]) from None
    return from_documents(document, environment)


def from_documents(
    document: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    *,
    trusted: bool = False,
) -> dict[str, RetentionPolicy]:
    """The same from TOML that is parsed already.

    trusted: it was accepted before, so contradictions are not looked for. What stands in the log
    stays readable when a later Lapse finds more of them.
    """
    reader = _Reader(environment or {}, trusted=trusted)
    policies = reader.file(document)
    if reader.problems:
        raise PolicyInvalid(reader.problems)
    return policies


class _Reader:
    """Reads one file and collects what is wrong with it."""

    def __init__(self, environment: Mapping[str, str], *, trusted: bool) -> None:
        self.environment = environment
        self.trusted = trusted
        self.problems: list[Problem] = []
        self.replaced: list[str] = []  # variables that changed the policy being read

    def wrong(self, place: str, what: str) -> None:
        problem = Problem(place, what)
        if problem not in self.problems:  # one variable may set two values
            self.problems.append(problem)

    def file(self, document: Mapping[str, Any]) -> dict[str, RetentionPolicy]:
        for key in sorted(document.keys() - {"policy"}):
            self.wrong(key, "unknown key; policies stand in tables [policy.NAME]")
        tables = document.get("policy")
        if not isinstance(tables, dict) or not tables:
            self.wrong("policy", "no policy in this file; write [policy.NAME]")
            return {}
        return {name: self.policy(name, table) for name, table in tables.items()}

    def policy(self, name: str, table: Any) -> RetentionPolicy:
        place = f"policy.{name}"
        if not NAME.fullmatch(name):
            self.wrong(place, "a policy's name is 1 to 40 of a-z, 0-9, _ and -")
        if not isinstance(table, dict):
            self.wrong(place, "must be a table")
            return RetentionPolicy(name, ())
        before = len(self.problems)
        table = self.overridden(name, place, table)
        self.unknown(place, table, _POLICY_KEYS)
        policy = RetentionPolicy(
            name=name,
            rules=self.rules(place, table.get("rules")),
            limits=self.limits(f"{place}.limits", table.get("limits", {})),
            presence=self.duration(place, table, "presence", None, at_least=SECOND),
            sweep=self.duration(place, table, "sweep", 15 * MINUTE, at_least=SECOND) or 0,
            recover=self.duration(place, table, "recover", 0) or 0,
            audit_retention=self.duration(place, table, "audit_retention", 400 * DAY, at_least=DAY)
            or 0,
            shared=self.choice(f"{place}.shared", Shared, table.get("shared", "redact"))
            or Shared.REDACT,
            summary=self.summary(f"{place}.summary", table.get("summary", {})),
            progress=self.names(f"{place}.progress", table.get("progress", [])),
            environment=self.declared(f"{place}.environment", table),
        )
        # A value that could not be read would look like one that is missing.
        if len(self.problems) == before and not self.trusted:
            self.contradictions(place, policy)
        return policy

    # -- values

    def unknown(self, place: str, table: Mapping[str, Any], known: frozenset[str]) -> None:
        for key in sorted(table.keys() - known):
            self.wrong(f"{place}.{key}", f"unknown key; known: {', '.join(sorted(known))}")

    def duration(
        self,
        place: str,
        table: Mapping[str, Any],
        key: str,
        default: int | None,
        at_least: int = 0,
    ) -> int | None:
        if key not in table:
            return default
        try:
            micros = parse_duration(table[key])
        except ValueError as error:
            self.wrong(f"{place}.{key}", str(error))
            return default
        if micros < at_least:
            self.wrong(f"{place}.{key}", f"must be at least {format_duration(at_least)}")
        return micros

    def choice(self, place: str, kind: type[E], value: object) -> E | None:
        try:
            return kind(str(value))
        except ValueError:
            self.wrong(place, f"must be one of {', '.join(kind)}")
            return None

    def count(self, place: str, value: object) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10**9:
            return value
        self.wrong(place, "must be a whole number of at least 1")
        return None

    def size(self, place: str, value: object) -> int | None:
        try:
            return parse_size(value)
        except ValueError as error:
            self.wrong(place, str(error))
            return None

    def names(self, place: str, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            self.wrong(place, "must be a list of names")
            return ()
        for index, name in enumerate(value):
            if not isinstance(name, str) or not NAME.fullmatch(name):
                self.wrong(f"{place}[{index}]", "a name is 1 to 40 of a-z, 0-9, _ and -")
        return tuple(value)

    # -- parts

    def rules(self, place: str, value: object) -> tuple[Rule, ...]:
        if not isinstance(value, list) or not value:
            self.wrong(f"{place}.rules", "a policy needs at least one rule")
            return ()
        rules = []
        seen: set[str] = set()
        for index, table in enumerate(value):
            rule = self.rule(f"{place}.rules[{index}]", table)
            if rule is None:
                continue
            rules.append(rule)
            if rule.name in seen:
                self.wrong(
                    f"{place}.rules[{index}]",
                    f'two rules are named {rule.name}; give one a `name = "..."` of its own',
                )
            seen.add(rule.name)
        return tuple(rules)

    def rule(self, place: str, table: object) -> Rule | None:
        if not isinstance(table, dict):
            self.wrong(place, "a rule is a table { since, after, do }")
            return None
        before = len(self.problems)
        self.unknown(place, table, _RULE_KEYS)
        for key in ("since", "after", "do"):
            if key not in table:
                self.wrong(f"{place}.{key}", "is missing")
        since = self.choice(f"{place}.since", Since, table["since"]) if "since" in table else None
        do = self.choice(f"{place}.do", Do, table["do"]) if "do" in table else None
        after = self.duration(place, table, "after", 0)
        scope = None
        if "scope" in table:
            scope = self.choice(f"{place}.scope", Scope, table["scope"])
            if do is not None and do is not Do.ERASE:
                self.wrong(f"{place}.scope", f"only erase has a scope, not {do}")
        elif do is Do.ERASE:
            scope = Scope.EVERYTHING
        if len(self.problems) > before or since is None or do is None or after is None:
            return None
        name = table.get("name", _rule_name(do, since, scope))
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self.wrong(f"{place}.name", "a rule's name is 1 to 40 of a-z, 0-9, _ and -")
            return None
        if name in list(By):
            self.wrong(f"{place}.name", f"{name} is what Lapse calls an end by no rule")
            return None
        return Rule(name, since, after, do, scope)

    def limits(self, place: str, table: object) -> Limits:
        if not isinstance(table, dict):
            self.wrong(place, "must be a table")
            return Limits()
        self.unknown(place, table, _LIMIT_KEYS)
        read: dict[str, Any] = {}
        for key in ("concurrent", "per_owner"):
            if key in table:
                read[key] = self.count(f"{place}.{key}", table[key])
        for key in ("session_bytes", "total_bytes", "result_bytes"):
            if key in table:
                read[key] = self.size(f"{place}.{key}", table[key])
        if "on_exceed" in table:
            choice = self.choice(f"{place}.on_exceed", OnExceed, table["on_exceed"])
            read["on_exceed"] = choice or OnExceed.REFUSE
            if not {"per_owner", "concurrent"} & table.keys():
                self.wrong(f"{place}.on_exceed", "has no meaning without per_owner or concurrent")
        return Limits(**read)

    def summary(self, place: str, table: object) -> dict[str, str]:
        if not isinstance(table, dict):
            self.wrong(place, "must be a table of aggregates")
            return {}
        for name, aggregate in table.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", name):
                self.wrong(f"{place}.{name}", "a field's name is 1 to 40 letters, digits or _")
            if not isinstance(aggregate, str) or not AGGREGATE.fullmatch(aggregate):
                self.wrong(
                    f"{place}.{name}",
                    "must be count(), duration(), quantile(field, 0.95) or one of count, sum, "
                    "mean, min, max, stddev, first, last, distinct, plugin.NAME of a (field)",
                )
        return dict(table)

    # -- environment

    def declared(self, place: str, table: Mapping[str, Any]) -> tuple[Override, ...]:
        value = table.get("environment", [])
        if not isinstance(value, list):
            self.wrong(place, "must be a list of { name, sets, unit }")
            return ()
        overrides = []
        for index, entry in enumerate(value):
            override = self.override(f"{place}[{index}]", entry)
            if override is None:
                continue
            overrides.append(override)
            if not _has_rule(table, override.sets):
                self.wrong(f"{place}[{index}].sets", "this policy does not have that many rules")
        return tuple(overrides)

    def override(self, place: str, table: object) -> Override | None:
        if not isinstance(table, dict):
            self.wrong(place, "must be a table { name, sets, unit }")
            return None
        before = len(self.problems)
        self.unknown(place, table, _OVERRIDE_KEYS)
        name, sets = table.get("name"), table.get("sets")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Z][A-Z0-9_]{0,79}", name):
            self.wrong(f"{place}.name", "must be the name of an environment variable")
        unit = self.choice(f"{place}.unit", Unit, table.get("unit", "count"))
        times = isinstance(sets, str) and _TIME.fullmatch(sets) is not None
        if not times and not (isinstance(sets, str) and _LIMIT.fullmatch(sets)):
            self.wrong(
                f"{place}.sets",
                "must be rules[N].after (the first rule is 0), limits.KEY, presence, sweep, "
                "recover or audit_retention",
            )
        elif unit is not None and times is (unit is Unit.COUNT):
            right = "s, m, h or d" if times else "count"
            self.wrong(f"{place}.unit", f"must be {right}, since it sets {sets}")
        factor = table.get("factor", 1.0)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1e9:
            self.wrong(f"{place}.factor", "must be a number above 0")
        elif not times and factor != 1:
            self.wrong(f"{place}.factor", "only times have a factor")
        if len(self.problems) > before or unit is None:
            return None
        return Override(str(name), str(sets), unit, float(factor))

    def overridden(self, name: str, place: str, table: dict[str, Any]) -> dict[str, Any]:
        """The table with the values that environment variables replace.

        `READING_ROOM_SESSION_TIMEOUT_HOURS` wins over `SESSION_TIMEOUT_HOURS`: the long name is
        for systems that share a name with another. A policy that declares only the long name does
        not listen to the short one.
        """
        self.replaced = []
        overrides = table.get("environment", [])
        if not isinstance(overrides, list):
            return table
        table = {key: _copied(value) for key, value in table.items()}
        prefix = name.upper().replace("-", "_") + "_"
        for index, entry in enumerate(overrides):
            problems = len(self.problems)
            override = self.override(f"{place}.environment[{index}]", entry)
            del self.problems[problems:]  # `declared` reports them, once
            if override is None:
                continue
            for variable in (prefix + override.name, override.name):
                if variable in self.environment:
                    self.replace(variable, override, table)
                    break
        return table

    def replace(self, variable: str, override: Override, table: dict[str, Any]) -> None:
        place = f"environment variable {variable}"
        try:
            number = float(self.environment[variable])
        except ValueError:
            number = -1.0
        if not 0 < number < 1e9:
            self.wrong(place, f"must be a number above 0 ({_UNIT_WORDS[override.unit]})")
            return
        if override.unit is Unit.COUNT:
            if number != int(number):
                self.wrong(place, "must be a whole number")
                return
            _set(table, override.sets, int(number))
        else:
            millis = round(number * override.factor * _UNITS[override.unit] / MILLISECOND)
            if not 0 < millis * MILLISECOND <= _LONGEST:
                self.wrong(place, "must be a time of at least 1 ms and at most 200 years")
                return
            _set(table, override.sets, format_duration(millis * MILLISECOND))
        if variable not in self.replaced:
            self.replaced.append(variable)

    # -- contradictions

    def contradictions(self, place: str, policy: RetentionPolicy) -> None:
        given = f" (with {', '.join(self.replaced)} as given)" if self.replaced else ""
        for where, what in _contradictions(policy):
            self.wrong(f"{place}.{where}", what + given)


_POLICY_KEYS = frozenset(
    {
        "rules",
        "limits",
        "presence",
        "sweep",
        "recover",
        "audit_retention",
        "shared",
        "summary",
        "progress",
        "environment",
    }
)
_RULE_KEYS = frozenset({"name", "since", "after", "do", "scope"})
_LIMIT_KEYS = frozenset(
    {"concurrent", "per_owner", "on_exceed", "session_bytes", "total_bytes", "result_bytes"}
)
_OVERRIDE_KEYS = frozenset({"name", "sets", "unit", "factor"})
_UNIT_WORDS = {
    Unit.SECONDS: "seconds",
    Unit.MINUTES: "minutes",
    Unit.HOURS: "hours",
    Unit.DAYS: "days",
    Unit.COUNT: "a whole number",
}
_TIME = re.compile(r"rules\[[0-9]{1,3}\]\.after|presence|sweep|recover|audit_retention")
_LIMIT = re.compile(r"limits\.(?:concurrent|per_owner|session_bytes|total_bytes|result_bytes)")
_RULE_AFTER = re.compile(r"rules\[([0-9]+)\]\.after")


def _rule_name(do: Do, since: Since, scope: Scope | None) -> str:
    if scope is None or scope is Scope.EVERYTHING:
        return f"{do}-{since}"
    return f"{do}-{scope}-{since}"


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    return value


def _has_rule(table: Mapping[str, Any], sets: str) -> bool:
    """Whether the rule that an override sets is there; True if it sets something else."""
    match, rules = _RULE_AFTER.fullmatch(sets), table.get("rules")
    return match is None or (isinstance(rules, list) and int(match[1]) < len(rules))


def _set(table: dict[str, Any], sets: str, value: Any) -> None:
    """Replace the value at a path; where the policy is no such shape, its reader complains."""
    target: Any = table
    if match := _RULE_AFTER.fullmatch(sets):
        target = table["rules"][int(match[1])] if _has_rule(table, sets) else None
    elif sets.startswith("limits."):
        target = table.setdefault("limits", {})
    if isinstance(target, dict):
        target[sets.rpartition(".")[2]] = value


# -- contradictions ---------------------------------------------------------------------------


def _contradictions(policy: RetentionPolicy) -> Iterator[tuple[str, str]]:
    """(place, what is wrong) wherever the parts of a policy do not fit each other."""
    unreached = _unreached(policy)
    for index, rule in enumerate(policy.rules):
        what = next(filter(None, (check(policy, rule) for check in _CHECKS)), None)
        if what is None and index in unreached:
            what = f"can never be reached: {unreached[index]}"
        if what is not None:
            yield f"rules[{index}]", what
    if any(life.forgotten for life in _lives(policy)):
        yield (
            "rules",
            "a session can expire and never be erased: "
            'add a rule { since = "expired", after = "...", do = "erase" }',
        )
    yield from _between_other_values(policy)


def _between_other_values(policy: RetentionPolicy) -> Iterator[tuple[str, str]]:
    if policy.recover:
        left = _kept_after_expiry(policy)
        if not policy.expires:
            yield "recover", "nothing expires, so nothing can be recovered"
        elif left is not None and policy.recover > left:
            yield (
                "recover",
                f"is longer than the {format_duration(left)} until everything is erased",
            )
    idle = [rule for rule in policy.rules if rule.since is Since.LAST_SEEN]
    if policy.presence is not None and idle:
        first = min(idle, key=lambda rule: rule.after)
        if policy.presence >= first.after:
            yield (
                "presence",
                f"people are seen every {format_duration(policy.presence)}, "
                f"but {first.name} comes {format_duration(first.after)} after that",
            )
    limits = policy.limits
    sizes = ("result_bytes", "session_bytes", "total_bytes")
    for index, smaller in enumerate(sizes):
        for larger in sizes[index + 1 :]:
            if (getattr(limits, smaller) or 0) > (getattr(limits, larger) or math.inf):
                yield f"limits.{smaller}", f"is more than {larger}"


def _kept_after_expiry(policy: RetentionPolicy) -> int | None:
    """The shortest time between an expiry and the erasure of everything; None: not bounded."""
    final = [rule for rule in policy.rules if rule.scope is Scope.EVERYTHING]
    kept = [rule.after for rule in final if rule.since is Since.EXPIRED]
    for expiry in policy.rules:
        if expiry.do is Do.EXPIRE:
            kept += [rule.after - expiry.after for rule in final if rule.since is expiry.since]
    return min(kept) if kept else None


def _only_erase_after_expiry(_: RetentionPolicy, rule: Rule) -> str | None:
    if rule.since is Since.EXPIRED and rule.do is not Do.ERASE:
        return "once a session has expired it can only be erased"
    return None


def _expiry_exists(policy: RetentionPolicy, rule: Rule) -> str | None:
    if rule.since is Since.EXPIRED and not policy.expires:
        return "can never be reached: no rule expires the session"
    return None


def _summary_exists(policy: RetentionPolicy, rule: Rule) -> str | None:
    if rule.since is not Since.SUMMARIZED and rule.scope is not Scope.SUMMARY:
        return None
    if rule.do is Do.SUMMARIZE:
        return "a session is summarized once"
    if policy.summary or any(other.do is Do.SUMMARIZE for other in policy.rules):
        return None
    return "no rule summarizes the session"


def _warning_warns_of_something(policy: RetentionPolicy, rule: Rule) -> str | None:
    if rule.do is not Do.WARN:
        return None
    expiries = [
        other.after for other in policy.rules if other.do is Do.EXPIRE and other.since is rule.since
    ]
    if not expiries:
        return f"warns of an expiry, but no rule expires the session since {rule.since}"
    if rule.after >= min(expiries):
        return f"warns when the session has expired: {format_duration(min(expiries))} is the end"
    return None


_CHECKS: tuple[Callable[[RetentionPolicy, Rule], str | None], ...] = (
    _only_erase_after_expiry,
    _expiry_exists,
    _summary_exists,
    _warning_warns_of_something,
)

_FULL_TIER = frozenset({Scope.FULL, Scope.CHUNKS, Scope.FILES})


class _Life:
    """One life of a session as its rules alone would lead it, in steps of what is due.

    What an application does (`happens`: store, summarize, complete, fail, end it for a limit) it
    does at the start, where it leaves most time for what follows. seen_after: the rule after which
    somebody is seen all the time (START: from the beginning, None: nobody ever is). Nobody extends,
    recovers or holds: those only move what would come anyway.
    """

    START = -1

    def __init__(
        self, policy: RetentionPolicy, happens: Iterable[Since], seen_after: int | None
    ) -> None:
        self.rules = policy.rules
        self.seen_after = seen_after
        self.moments = {Since.CREATED: 0, Since.LAST_SEEN: 0}
        self.gone: set[Scope] = set()
        self.summary = False
        self.compressed = False
        self.warned_at = -1
        self.fired: list[int] = []
        # Rules that something counted for, until another took what they act on.
        self.ended: dict[int, Rule] = {}
        self._run(until=0)
        for moment in happens:
            self._happen(moment)
            self._run(until=0)
        if seen_after == self.START:
            self._stay()
        self._run(until=None)

    @property
    def forgotten(self) -> bool:
        """Whether this life ends hidden but kept, though the policy erases others for good."""
        erases = any(rule.scope is Scope.EVERYTHING for rule in self.rules)
        return erases and Since.EXPIRED in self.moments and Scope.EVERYTHING not in self.gone

    def _run(self, until: int | None) -> None:
        """Carry out what is due by then (None: ever)."""
        while (index := self._next(until)) is not None:
            waiting = [other for other in range(len(self.rules)) if self._due(other) is not None]
            self._fire(index)
            if index == self.seen_after:
                self._stay()
            for other in waiting:
                if self._due(other) is None:
                    self.ended.setdefault(other, self.rules[index])

    def _stay(self) -> None:
        """From now on somebody is seen all the time, so nothing since `last_seen` is due."""
        if Since.EXPIRED not in self.moments:
            self.moments.pop(Since.LAST_SEEN, None)

    def _happen(self, moment: Since) -> None:
        """An application does something, if the session still allows it."""
        if Since.EXPIRED in self.moments or Scope.EVERYTHING in self.gone:
            return
        if moment in (Since.STORED, Since.SUMMARIZED) and Scope.FULL in self.gone:
            return
        self.moments[moment] = 0
        if moment is Since.STORED:
            self.gone -= _FULL_TIER
        elif moment is Since.SUMMARIZED:
            self.summary = True
            self._take(Scope.FULL, 0)

    def _next(self, until: int | None) -> int | None:
        due = {
            index: at for index in range(len(self.rules)) if (at := self._due(index)) is not None
        }
        index = min(due, key=lambda index: due[index], default=None)
        return index if index is not None and (until is None or due[index] <= until) else None

    def _due(self, index: int) -> int | None:
        rule = self.rules[index]
        if rule.since not in self.moments or Scope.EVERYTHING in self.gone:
            return None
        at = self.moments[rule.since] + rule.after
        live = Since.EXPIRED not in self.moments
        match rule.do:
            case Do.ERASE:
                applies = rule.scope not in self.gone
                applies = applies and (rule.scope is not Scope.SUMMARY or self.summary)
            case Do.SUMMARIZE:
                applies = Scope.FULL not in self.gone
            case Do.COMPRESS:
                applies = live and not self.compressed and Scope.FULL not in self.gone
            case Do.WARN:
                applies = live and at > self.warned_at and self._warns(rule)
            case Do.EXPIRE:
                applies = live
        return at if applies else None

    def _warns(self, warning: Rule) -> bool:
        """Whether the expiry it belongs to is not preceded by one that presence cannot move."""
        expiries = [
            (rule.since, self.moments[rule.since] + rule.after)
            for rule in self.rules
            if rule.do is Do.EXPIRE and rule.since in self.moments
        ]
        own = min((at for since, at in expiries if since is warning.since), default=None)
        others = [at for since, at in expiries if since not in (warning.since, Since.LAST_SEEN)]
        return own is not None and all(own <= at for at in others)

    def _fire(self, index: int) -> None:
        rule = self.rules[index]
        at = self.moments[rule.since] + rule.after
        self.fired.append(index)
        match rule.do:
            case Do.ERASE:
                self._take(rule.scope or Scope.EVERYTHING, at)
            case Do.SUMMARIZE:
                self.summary = Since.EXPIRED not in self.moments
                self._take(Scope.FULL, at)
            case Do.COMPRESS:
                self.compressed = True
            case Do.WARN:
                self.warned_at = at
            case Do.EXPIRE:
                self.moments[Since.EXPIRED] = at
                self.moments.setdefault(Since.LAST_SEEN, max(0, at - 1))

    def _take(self, scope: Scope, at: int) -> None:
        self.gone |= _FULL_TIER if scope is Scope.FULL else {scope}
        if scope is Scope.FULL:
            self.moments.setdefault(Since.SUMMARIZED, at)


_HAPPENS = (Since.STORED, Since.SUMMARIZED, Since.COMPLETED, Since.FAILED, Since.EXPIRED)
"""What an application can do, in the order that allows most of it."""


def _lives(policy: RetentionPolicy) -> list[_Life]:
    """Enough lives that a rule which fires in none of them fires in no life at all."""
    possible = {rule.since for rule in policy.rules} & {
        Since.STORED,
        Since.COMPLETED,
        Since.FAILED,
    }
    if policy.summary:
        possible.add(Since.SUMMARIZED)
    if policy.limits.on_exceed is OnExceed.EXPIRE_OLDEST:
        possible.add(Since.EXPIRED)
    # Who comes back after the full tier went may outlive what others do not.
    returns = [
        index
        for index, rule in enumerate(policy.rules)
        if rule.since is Since.LAST_SEEN
        and (rule.do is Do.SUMMARIZE or (rule.do is Do.ERASE and rule.scope is Scope.FULL))
    ]
    return [
        _Life(policy, happens, seen_after)
        for count in range(len(possible) + 1)
        for happens in combinations([moment for moment in _HAPPENS if moment in possible], count)
        if not {Since.COMPLETED, Since.FAILED} <= set(happens)
        for seen_after in (None, _Life.START, *returns)
    ]


def _unreached(policy: RetentionPolicy) -> dict[int, str]:
    """Rules that fire in no life, by index, and why."""
    lives = _lives(policy)
    fired = {index for life in lives for index in life.fired}
    reasons = {}
    for index in range(len(policy.rules)):
        if index in fired:
            continue
        first = next((life.ended[index] for life in lives if index in life.ended), None)
        reasons[index] = (
            "what it counts from cannot happen any more when it could act"
            if first is None
            else f"{first.name}, {format_duration(first.after)} since {first.since}, comes first"
        )
    return reasons


# -- canonical form ---------------------------------------------------------------------------


def to_document(policy: RetentionPolicy) -> dict[str, Any]:
    """The policy as the table a file would hold: what stands in the log, after overrides."""
    document: dict[str, Any] = {
        "rules": [_rule_document(rule) for rule in policy.rules],
        "limits": {
            key: str(value) if isinstance(value, StrEnum) else value
            for key, value in vars(policy.limits).items()
            if value is not None
            # Not where it says what goes without saying: documents in logs are compared.
            and (key != "on_exceed" or policy.limits.per_owner or value != OnExceed.REFUSE)
        },
        "sweep": format_duration(policy.sweep),
        "recover": format_duration(policy.recover),
        "audit_retention": format_duration(policy.audit_retention),
        "shared": str(policy.shared),
        "summary": dict(policy.summary),
        "progress": list(policy.progress),
        "environment": [
            {
                "name": override.name,
                "sets": override.sets,
                "unit": str(override.unit),
                "factor": override.factor,
            }
            for override in policy.environment
        ],
    }
    if policy.presence is not None:
        document["presence"] = format_duration(policy.presence)
    return document


def _rule_document(rule: Rule) -> dict[str, str]:
    document = {
        "name": rule.name,
        "since": str(rule.since),
        "after": format_duration(rule.after),
        "do": str(rule.do),
    }
    if rule.scope is not None:
        document["scope"] = str(rule.scope)
    return document


def from_document(name: str, document: Mapping[str, Any]) -> RetentionPolicy:
    """The inverse of `to_document`, for what was accepted before. Raises PolicyInvalid."""
    return from_documents({"policy": {name: dict(document)}}, trusted=True)[name]
