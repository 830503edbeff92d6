"""Every deadline can be explained, for any valid policy and any life."""

from hypothesis import given
from hypothesis import strategies as st

from domain.explanation import Ending, explain
from domain.policy import Since, Versions
from domain.ports import Recorded
from domain.session import SCHEDULER, Expired
from domain.timeline import Because
from tests.properties.lives import AFTER, Deed, deeds, lived, versions

minutes = st.lists(st.integers(0, 60 + AFTER), max_size=8)


@given(versions(), deeds(), minutes)
def test_the_explained_deadline_is_the_one_that_was_carried_out(
    under: Versions, done: list[Deed], sweeps: list[int]
) -> None:
    """Whatever a rule took away, when it was swept and what delayed it: each is explained, its last
    step is the instant at which it took effect, and every position named came before it."""
    events = lived(under, done, sweeps).events
    history = [Recorded(0, n, event.effective_at, event) for n, event in enumerate(events, 1)]
    explained = explain(history, under)
    endings = [one for one in history if isinstance(one.event, Ending)]
    assert [one.recorded for one in explained] == endings
    for one in explained:
        assert one.agrees
        if one.recorded.event.actor != SCHEDULER:
            assert one.by is not None
            continue
        assert one.steps[0].because is Because.SINCE
        assert one.steps[-1].at == one.recorded.event.effective_at
        assert [step.at for step in one.steps] == sorted(step.at for step in one.steps)
        named = [step.position for step in one.steps if step.position is not None]
        assert all(position < one.recorded.position for position in named)


@given(versions(), deeds(), st.integers(1, 10**9))
def test_an_event_at_another_instant_is_not_explained(
    under: Versions, done: list[Deed], by: int
) -> None:
    """The computation does not follow the event: a moved one does not agree with it."""
    events = lived(under, done).events
    history = [Recorded(0, n, event.effective_at, event) for n, event in enumerate(events, 1)]
    for one in explain(history, under):
        event = one.recorded.event
        assert isinstance(event, Ending)
        if event.actor != SCHEDULER or one.rule is None:
            continue
        if isinstance(event, Expired) or one.rule.since is not Since.LAST_SEEN:
            moved = event.__class__(**{**vars(event), "effective_at": event.effective_at - by})
            before = history[: one.recorded.position - 1]
            (*_, again) = explain([*before, one.recorded._replace(event=moved)], under)
            assert not again.agrees
