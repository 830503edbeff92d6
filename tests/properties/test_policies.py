"""Promises of the policy language, for any rules anybody could write."""

from collections.abc import Iterator
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from domain.errors import PolicyInvalid
from domain.policy import (
    MINUTE,
    SECOND,
    Limits,
    OnExceed,
    RetentionPolicy,
    Rule,
    Since,
    Version,
    from_document,
    parse,
    to_document,
)
from domain.session import Expired, Scope
from tests.properties.lives import (
    AFTER,
    Deed,
    RawRule,
    begun,
    deeds,
    do,
    lived,
    minute,
    policies,
    raw_rules,
    toml,
)

ORDINARY = ("seen", "seen", "sampled", "joined", "left", "stored", "completed", "failed")
"""What happens without anybody extending, recovering, holding or being over a limit."""

EVICTING = 'limits = { per_owner = 2, on_exceed = "expire-oldest" }'


@given(policies())
def test_what_the_log_keeps_reads_back(under: RetentionPolicy) -> None:
    """The canonical form gives an equal policy, which is valid in a file again."""
    assert from_document("p", to_document(under)) == under


@given(raw_rules(), st.booleans())
def test_a_refused_rule_never_fires(rules: list[RawRule], evicting: bool) -> None:
    """And an accepted one does: tried in the lives that leave each rule the most room."""
    refused = _refused(rules, evicting=evicting)
    fired = {name for life in _lives(_unchecked(rules, evicting=evicting)) for name in life}
    for index, rule in enumerate(rules):
        if not _has_no_meaning(rule, rules):
            assert (rule["name"] in fired) is (index not in refused), (rule, sorted(fired))


@given(raw_rules(), deeds(ORDINARY))
def test_a_refused_rule_never_fires_in_any_life(rules: list[RawRule], done: list[Deed]) -> None:
    """Whatever people do, in whatever order."""
    refused = {
        rules[index]["name"]
        for index in _refused(rules, evicting=False)
        if not _has_no_meaning(rules[index], rules)
    }
    life = lived((Version(1, 0, _unchecked(rules, evicting=False)),), done)
    assert not refused & {getattr(event, "rule", None) for event in life.events}


@given(policies(), deeds(ORDINARY))
def test_what_expires_is_erased(under: RetentionPolicy, done: list[Deed]) -> None:
    """If a policy erases sessions at all, then none stays hidden and kept for ever."""
    session = lived((Version(1, 0, under),), done).session
    if any(rule.scope is Scope.EVERYTHING for rule in under.rules):
        assert session.expired_at is None or session.erased_at is not None


@given(policies(), deeds())
def test_who_expired_can_be_recovered_in_time(under: RetentionPolicy, done: list[Deed]) -> None:
    """The promised term is never cut short by a rule that counts from the same moment."""
    life = lived((Version(1, 0, under),), done)
    sinces = {rule.since for rule in under.rules if rule.scope is Scope.EVERYTHING}
    for index, event in enumerate(life.events):
        if isinstance(event, Expired) and under.recover and event.rule != "limit":
            last = index + 1 < len(life.events) and life.events[index + 1] is life.events[-1]
            if last and sinces == {Since.EXPIRED}:
                assert life.events[-1].effective_at >= event.effective_at + under.recover


def _refused(rules: list[RawRule], *, evicting: bool) -> set[int]:
    """The rules that `parse` refuses, by index."""
    try:
        parse(toml(rules, [EVICTING] if evicting else []))
    except PolicyInvalid as refusal:
        places = {problem.place for problem in refusal.problems}
        return {index for index in range(len(rules)) if f"policy.p.rules[{index}]" in places}
    return set()


def _has_no_meaning(rule: RawRule, rules: list[RawRule]) -> bool:
    """Refused for what it says, though something would come of it.

    Summarizing what has expired would erase it, and the full data can go without a summary.
    """
    if rule["since"] == "summarized":
        return all(other["do"] != "summarize" for other in rules)
    return (rule["since"], rule["do"]) == ("expired", "summarize")


def _unchecked(rules: list[RawRule], *, evicting: bool) -> RetentionPolicy:
    """The same rules as a policy that nobody has checked."""
    limits = Limits(per_owner=2, on_exceed=OnExceed.EXPIRE_OLDEST) if evicting else Limits()
    document = {"rules": rules}
    unchecked: tuple[Rule, ...] = from_document("p", document).rules
    return RetentionPolicy("p", unchecked, limits=limits)


def _lives(under: RetentionPolicy) -> Iterator[set[str]]:
    """The rules that fire, in every combination of what can happen at the start of a life.

    Somebody is there from the start, or comes to stay when a rule since `last_seen` has fired.
    """
    possible = ["stored", "completed", "failed"]
    if under.limits.on_exceed is OnExceed.EXPIRE_OLDEST:
        possible.append("evicted")
    pauses = {rule.after // MINUTE for rule in under.rules if rule.since is Since.LAST_SEEN}
    for count in range(len(possible) + 1):
        for happens in combinations(possible, count):
            for pause in (*pauses, 0, AFTER):
                life = begun((Version(1, 0, under),))
                for what in happens:
                    do(life, Deed(0, what))
                for at in range(AFTER + 1):
                    life.sweep(minute(at))
                    if at >= pause:
                        life.heartbeat(minute(at))
                        life.heartbeat(minute(at) + 30 * SECOND)
                yield {str(getattr(event, "rule", None)) for event in life.events}
