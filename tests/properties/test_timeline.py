"""Promises of the timeline, for any valid policy and any life."""

from collections.abc import Sequence

from hypothesis import assume, given
from hypothesis import strategies as st

from domain.policy import MINUTE, NOTICE, Do, RetentionPolicy, Since, Version, Versions
from domain.session import (
    Compressed,
    Erased,
    Event,
    Expired,
    Expiring,
    Held,
    Recovered,
    Released,
    Scope,
    Seen,
    Stored,
    Summarized,
    project,
)
from domain.timeline import advance
from tests.properties.clockwork import run
from tests.properties.lives import (
    AFTER,
    Deed,
    begun,
    deeds,
    do,
    lived,
    minute,
    policies,
    told,
    versions,
    without_warnings,
)

EVERY_MINUTE = range(60 + AFTER)
minutes = st.lists(st.integers(0, 60 + AFTER), max_size=8)


@given(versions(), deeds())
def test_never_early_never_forgotten(under: Versions, done: list[Deed]) -> None:
    """Swept in every minute, exactly what a clockwork finds by asking in every minute happens."""
    swept = lived(under, done, sweeps=EVERY_MINUTE)
    assert told(swept.events) == run(under, done)


@given(versions(), deeds(), minutes)
def test_it_does_not_matter_when_anybody_sweeps(
    under: Versions, done: list[Deed], sweeps: list[int]
) -> None:
    """Swept in between, every minute or only at the end: the same events at the same instants."""
    never = without_warnings(lived(under, done).events)
    sometimes = without_warnings(lived(under, done, sweeps).events)
    always = without_warnings(lived(under, done, EVERY_MINUTE).events)
    assert told(never) == told(sometimes) == told(always)


@given(versions(), deeds(), minutes)
def test_warnings_are_late_at_worst(under: Versions, done: list[Deed], sweeps: list[int]) -> None:
    """Who sweeps rarely gives fewer warnings, but none that would not have been given."""
    always = told(lived(under, done, EVERY_MINUTE).events)
    assert set(told(lived(under, done, sweeps).events)) <= set(always)


@given(versions(), deeds(), minutes)
def test_replaying_gives_the_same_state(
    under: Versions, done: list[Deed], sweeps: list[int]
) -> None:
    """The folded state is the fold of the events, from the start or from any snapshot."""
    life = lived(under, done, sweeps)
    middle = len(life.events) // 2
    assert project(None, life.events) == life.session
    assert project(project(None, life.events[:middle]), life.events[middle:]) == life.session


@given(versions(), deeds(), minutes)
def test_time_runs_forward(under: Versions, done: list[Deed], sweeps: list[int]) -> None:
    """No event is effective before one that stands in front of it."""
    instants = [event.effective_at for event in lived(under, done, sweeps).events]
    assert instants == sorted(instants)


@given(versions(), deeds(), st.integers(0, 40), st.lists(st.integers(1, 4 * MINUTE), max_size=4))
def test_nothing_is_due_before_the_next_deadline(
    under: Versions, done: list[Deed], now: int, beats: list[int]
) -> None:
    """Nor does presence bring anything forward; without it something happens at the deadline."""
    life = begun(under)
    for deed in done:
        if deed.at <= now:
            do(life, deed)
    life.sweep(minute(now))
    next_at = life.look(minute(now)).next_at
    if next_at is None:
        assert not life.look(minute(now + 10 * AFTER)).events
        return
    assert next_at > minute(now)
    assert not life.look(next_at - 1).events
    assert life.look(next_at).events
    seen = minute(now)
    for beat in beats:
        seen = min(seen + beat, next_at - 1)
        assert not advance(life.session, under, seen, next_at - 1).events


@given(versions(), deeds())
def test_terminal_is_terminal(under: Versions, done: list[Deed]) -> None:
    """After expired only recovered or erased, after erased nothing; holds come and go meanwhile."""
    expired = False
    events = lived(under, done).events
    for index, event in enumerate(events):
        if expired:
            assert isinstance(event, Recovered | Erased | Held | Released), told(events)
        if isinstance(event, Erased) and event.scope is Scope.EVERYTHING:
            assert index == len(events) - 1
        if isinstance(event, Expired | Recovered):
            expired = isinstance(event, Expired)


@given(versions(), deeds(), minutes)
def test_one_expiry_until_recovered(under: Versions, done: list[Deed], sweeps: list[int]) -> None:
    """Expired and recovered take turns, and there is one final erasure at most."""
    events = lived(under, done, sweeps).events
    turns = [type(event) for event in events if isinstance(event, Expired | Recovered)]
    assert turns == [Expired if index % 2 == 0 else Recovered for index in range(len(turns))]
    final = [e for e in events if isinstance(e, Erased) and e.scope is Scope.EVERYTHING]
    assert len(final) <= 1


@given(versions(), deeds(), minutes)
def test_nothing_is_lost_while_a_hold_stands(
    under: Versions, done: list[Deed], sweeps: list[int]
) -> None:
    """From its placing to its release or end nothing is erased or summarized."""
    standing: dict[str, int | None] = {}
    for event in lived(under, done, sweeps).events:
        at = event.effective_at
        if isinstance(event, Held):
            standing[event.hold] = event.until
        elif isinstance(event, Released):
            standing.pop(event.hold, None)
        elif isinstance(event, Erased | Summarized):
            assert all(until is not None and until <= at for until in standing.values())


@given(policies(), deeds(("stored", "completed", "failed")), st.integers(0, 20), st.integers(1, 40))
def test_a_hold_only_delays(
    under: RetentionPolicy, done: list[Deed], placed: int, stands: int
) -> None:
    """Whatever would have been erased without it is erased when it is released, or later."""
    at_once = [Deed(0, deed.what) for deed in done]
    alone = (Version(1, 0, under),)
    free = lived(alone, at_once).session
    held = lived(alone, [*at_once, Deed(placed, "held"), Deed(placed + stands, "released")]).session
    if free.erased_at is not None:
        assert held.erased_at is not None
        assert held.erased_at >= free.erased_at
        assert held.erased_at == free.erased_at or free.erased_at >= minute(placed)
    assert held.erased_at is not None or held.erased >= free.erased


@given(versions(), deeds(), st.integers(0, 40))
def test_the_forecast_comes_true(under: Versions, done: list[Deed], now: int) -> None:
    """If nobody is seen again, the session ends when it was said, and for the reason given."""
    life = begun(under)
    for deed in done:
        if deed.at <= now:
            do(life, deed)
    life.sweep(minute(now))
    assume(life.session.erased_at is None)
    ahead = life.forecast(minute(now))
    for at in range(now, now + 5 * AFTER):
        life.sweep(minute(at))
    session = life.session
    assert (ahead.expires_at, ahead.erases_at) == (session.expired_at, session.erased_at)
    ends = [e for e in life.events if isinstance(e, Erased) and e.scope is Scope.EVERYTHING]
    if session.expired_by is not None:
        assert ahead.rule == session.expired_by
    elif ends:
        assert (ahead.rule, ahead.policy_version) == (ends[0].rule, ends[0].policy_version)
    else:
        assert ahead.rule is None


@given(policies(), policies(), deeds(), st.integers(1, 40), st.integers(0, 10))
def test_a_new_version_acts_from_its_instant_on(
    old: RetentionPolicy, new: RetentionPolicy, done: list[Deed], effective: int, notice: int
) -> None:
    """Before it, all is as if it did not exist; the events say which version decided."""
    alone = (Version(1, 0, old),)
    start = minute(effective)
    both = (*alone, Version(2, start, new))
    changed = lived(both, done).events
    assert _before(changed, start) == _before(lived(alone, done).events, start)
    for event in changed:
        if isinstance(event, BY_RULE) and event.rule != "limit":
            assert event.policy_version == (2 if event.effective_at >= start else 1)
    # Known late or from the beginning, it changes the same: here it enters the log while they live.
    life = begun(alone)
    announced = max(0, start - NOTICE - notice * MINUTE)
    for deed in done:
        if minute(deed.at) >= announced:
            life.versions = list(both)
        do(life, deed)
    life.versions = list(both)
    life.sweep(minute((done[-1].at if done else 0) + AFTER))
    assert told(without_warnings(life.events)) == told(without_warnings(changed))


BY_RULE = (Summarized, Compressed, Expiring, Expired, Erased)


def _before(events: Sequence[Event], instant: int) -> list[tuple[str, int, str]]:
    return told([e for e in without_warnings(events) if e.effective_at < instant])


@given(versions(), deeds(), minutes)
def test_no_item_goes_before_its_time(under: Versions, done: list[Deed], sweeps: list[int]) -> None:
    """A rule since `stored` that leaves nothing leaves nothing that had not its full time."""
    rules = {(v.number, rule.name): rule for v in under for rule in v.policy.rules}
    newest = 0
    for event in lived(under, done, sweeps).events:
        if isinstance(event, Stored):
            newest = event.effective_at
        elif isinstance(event, Erased):
            rule = rules[event.policy_version, event.rule]
            if rule.since is not Since.STORED or rule.do is not Do.ERASE:
                continue
            if event.oldest_left is None:
                assert event.effective_at >= newest + rule.after
            else:
                assert event.oldest_left == newest > event.effective_at - rule.after


@given(versions(), deeds())
def test_presence_between_sweeps(under: Versions, done: list[Deed]) -> None:
    """A heartbeat beside the log and a sample in it mean the same for what happens when."""
    beaten = [Deed(d.at, "seen") if d.what == "sampled" else d for d in done]
    sampled = [Deed(d.at, "sampled") if d.what == "seen" else d for d in done]
    by_heartbeat = [e for e in lived(under, beaten).events if not isinstance(e, Seen)]
    by_sample = [e for e in lived(under, sampled).events if not isinstance(e, Seen)]
    assert told(by_heartbeat) == told(by_sample)
