"""Random policies and random lives, in whole minutes.

Policies come out of `parse`: what is refused is mended until it is valid, so that every property is
tried on rules that somebody could use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from domain.errors import LapseError, PolicyInvalid
from domain.policy import MINUTE, Do, RetentionPolicy, Since, Version, Versions, parse
from domain.session import By, Event, Expiring, Failure, Ground, Scope
from tests.domain.life import APPLICATION, MIDNIGHT, Life

LONGEST = 12
"""No rule waits for longer, in minutes: short enough that moments collide often."""

AFTER = 5 * LONGEST
"""Minutes after the last deed of a life by which everything has happened that ever will."""


# -- policies ---------------------------------------------------------------------------------

RawRule = dict[str, str]


@st.composite
def raw_rules(draw: st.DrawFn) -> list[RawRule]:
    """One to five rules of any kind, valid each, whether or not they fit each other."""
    rules = []
    for index in range(draw(st.integers(1, 5))):
        do = draw(st.sampled_from(list(Do)))
        rule = {
            "name": f"r{index}",
            "since": str(draw(st.sampled_from(list(Since)))),
            "after": f"{draw(st.integers(0, LONGEST))}m",
            "do": str(do),
        }
        if do is Do.ERASE:
            rule["scope"] = str(draw(st.sampled_from(list(Scope))))
        rules.append(rule)
    return rules


def toml(rules: Sequence[RawRule], keys: Sequence[str] = ()) -> str:
    """A policy file with one policy."""
    tables = (
        "{ " + ", ".join(f'{key} = "{value}"' for key, value in rule.items()) + " }"
        for rule in rules
    )
    return "\n".join(["[policy.p]", *keys, f"rules = [{', '.join(tables)}]"])


@st.composite
def policies(draw: st.DrawFn) -> RetentionPolicy:
    """A valid policy."""
    rules = draw(raw_rules())
    keys = []
    if draw(st.booleans()):
        keys.append('limits = { per_owner = 2, on_exceed = "expire-oldest" }')
    if draw(st.booleans()):
        keys.append(f'recover = "{draw(st.integers(1, LONGEST))}m"')
    while True:
        try:
            return parse(toml(rules, keys))["p"]
        except PolicyInvalid as refusal:
            rules, keys = _mended(rules, keys, {problem.place for problem in refusal.problems})


def _mended(
    rules: list[RawRule], keys: list[str], places: set[str]
) -> tuple[list[RawRule], list[str]]:
    """Without the first rule that is refused, or with what was missed."""
    if "policy.p.recover" in places:
        return rules, [key for key in keys if not key.startswith("recover")]
    for index in range(len(rules)):
        if f"policy.p.rules[{index}]" in places:
            rest = rules[:index] + rules[index + 1 :]
            return rest or [_rule("x", "last_seen", 9, "expire")], keys
    return [*rules, _rule("y", "expired", 5, "erase")], keys


def _rule(name: str, since: str, minutes: int, do: str) -> RawRule:
    return {"name": name, "since": since, "after": f"{minutes}m", "do": do}


@st.composite
def versions(draw: st.DrawFn) -> Versions:
    """One to three versions of a policy, in ascending order."""
    instants = draw(st.lists(st.integers(1, 40), max_size=2, unique=True))
    starts = [0, *(minute(at) for at in sorted(instants))]
    return tuple(
        Version(number, start, draw(policies())) for number, start in enumerate(starts, start=1)
    )


# -- lives ------------------------------------------------------------------------------------


def minute(number: int) -> int:
    """The instant that many minutes after the session was created."""
    return MIDNIGHT + number * MINUTE


@dataclass(frozen=True)
class Deed:
    """What somebody does in a minute. span: minutes, for what reaches into the future."""

    at: int
    what: str
    span: int | None = None


DEEDS = (
    *("seen", "seen", "seen", "sampled", "joined", "left", "stored", "stored"),
    *("completed", "failed", "extended", "recovered", "evicted", "held", "released"),
)


@st.composite
def deeds(draw: st.DrawFn, kinds: Sequence[str] = DEEDS) -> list[Deed]:
    """What happens in the life of a session, in the order in which it happens."""
    done, now = [], 0
    for _ in range(draw(st.integers(0, 10))):
        now += draw(st.integers(0, LONGEST // 2))
        what = draw(st.sampled_from(kinds))
        span = draw(st.integers(1, LONGEST)) if what == "extended" else None
        if what == "held":
            span = draw(st.none() | st.integers(1, LONGEST))
        done.append(Deed(now, what, span))
    return done


def begun(under: Versions) -> Life:
    """A session created at minute 0."""
    life = Life(under)
    life.create(minute(0))
    return life


def do(life: Life, deed: Deed) -> None:
    """It happens, or is refused: what was due is recorded in either case."""
    now = minute(deed.at)
    until = None if deed.span is None else minute(deed.at + deed.span)
    within = max(v.policy.recover for v in life.versions if v.effective_from <= now)
    try:
        match deed.what:
            case "seen":
                life.heartbeat(now)
            case "sampled":
                life.command(now, lambda s: s.see(now, APPLICATION, every=0))
            case "joined":
                life.command(now, lambda s: s.join("t", now, APPLICATION, present=False))
            case "left":
                life.command(now, lambda s: s.leave("t", now, APPLICATION, present=True))
            case "stored":
                life.command(now, lambda s: s.store(1, 1, now, APPLICATION))
            case "completed":
                life.command(now, lambda s: s.complete(now, APPLICATION))
            case "failed":
                life.command(now, lambda s: s.fail(Failure.ERROR, now, APPLICATION))
            case "extended":
                life.command(now, lambda s: s.extend(until or now, now, APPLICATION))
            case "recovered":
                life.command(now, lambda s: s.recover(within, now, APPLICATION))
            case "evicted":
                life.command(now, lambda s: s.expire(By.LIMIT, 1, now, APPLICATION))
            case "held":
                ground = Ground.LEGAL_CLAIM
                life.command(now, lambda s: s.hold("h", ground, until, now, APPLICATION))
            case "released":
                life.command(now, lambda s: s.release("h", now, APPLICATION))
    except LapseError:
        life.sweep(now)


def lived(under: Versions, done: Sequence[Deed], sweeps: Sequence[int] = ()) -> Life:
    """A whole life, swept in these minutes (before what is done in the same), and at its end."""
    life = begun(under)
    ahead = sorted(sweeps)
    for deed in done:
        while ahead and ahead[0] <= deed.at:
            life.sweep(minute(ahead.pop(0)))
        do(life, deed)
    end = (done[-1].at if done else 0) + AFTER
    for at in ahead:
        if at <= end:
            life.sweep(minute(at))
    life.sweep(minute(end))
    return life


def told(events: Sequence[Event]) -> list[tuple[str, int, str]]:
    """Events without their numbers: kind, minute, and the rule or scope."""
    return [
        (
            type(event).__name__,
            (event.effective_at - MIDNIGHT) // MINUTE,
            f"{getattr(event, 'rule', '')} {getattr(event, 'scope', '') or ''}",
        )
        for event in events
    ]


def without_warnings(events: Sequence[Event]) -> list[Event]:
    """Warnings are given when somebody looks; one that nobody looked for in time is none."""
    return [event for event in events if not isinstance(event, Expiring)]
