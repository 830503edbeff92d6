"""Policies in use: versions, their start, what they change, on every kind of store."""

from collections.abc import Iterator

import pytest

from domain.errors import EffectiveTooSoon, PolicyUnknown
from domain.policy import DAY, HOUR, MINUTE, NOTICE, SECOND, RetentionPolicy, parse
from domain.use_cases import policies as use_case
from domain.use_cases.policies import SETTLES, PolicyBook
from tests.use_cases.conftest import App

TEN = 10 * HOUR
A = "producer"


def room(idle: str) -> RetentionPolicy:
    """The room's policy with another idle period."""
    text = f"""
    [policy.room]
    rules = [
      {{ since = "last_seen", after = "{idle}", do = "expire", name = "idle" }},
      {{ since = "expired", after = "24h", do = "erase" }},
    ]
    """
    return parse(text)["room"]


def rearmed(app: App, now: int) -> Iterator[int]:
    return use_case.rearm(app.store.log, "room", app.store.log.policies()["room"], now)


def test_a_new_version_lies_ahead(app: App) -> None:
    """Every instance must know it in time; the first version of a name holds since ever."""
    log = app.store.log
    with pytest.raises(EffectiveTooSoon) as refusal:
        use_case.apply(log, room("20m"), TEN, A, effective_from=TEN + SECOND)
    assert refusal.value.earliest == TEN + NOTICE
    version = use_case.apply(log, room("20m"), TEN, A)
    assert version is not None
    assert (version.number, version.effective_from) == (2, TEN + NOTICE)
    fresh = parse('[policy.new]\nrules = [{ since = "created", after = "1h", do = "erase" }]')[
        "new"
    ]
    first = use_case.apply(log, fresh, TEN, A)
    assert first is not None
    assert first.effective_from == 0


def test_the_same_policy_twice_is_one_version(app: App) -> None:
    """Applying is safe to repeat."""
    assert use_case.apply(app.store.log, room("20m"), TEN, A) is not None
    assert use_case.apply(app.store.log, room("20m"), TEN + DAY, A) is None


def test_a_shorter_rule_ends_open_sessions_from_its_start_on(app: App) -> None:
    """Re-armed, a session that is overdue under the new version ends when that takes effect."""
    session = app.sessions.create("room", TEN, A)
    version = use_case.apply(app.store.log, room("5m"), TEN + 20 * MINUTE, A)
    assert version is not None
    assert (
        sum(
            use_case.rearm(
                app.store.log, "room", app.store.log.policies()["room"], TEN + 20 * MINUTE
            )
        )
        == 1
    )
    assert app.store.log.next_due() == version.effective_from
    app.sweep(version.effective_from - 1)
    assert "expired" not in app.told(session.id)
    app.sweep(TEN + HOUR)
    expired = app.events(session.id)[-1]
    assert expired.effective_at == version.effective_from
    assert expired.policy_version == 2  # type: ignore[attr-defined]


def test_a_longer_rule_spares_open_sessions(app: App) -> None:
    """The stored deadline stays where it was; the sweep looks and re-arms."""
    session = app.sessions.create("room", TEN, A)
    use_case.apply(app.store.log, room("3h"), TEN, A)
    count = app.sweep(TEN + HOUR)
    assert (count.rearmed, count.done) == (1, 0)
    app.sweep(TEN + 3 * HOUR)
    assert app.events(session.id)[-1].effective_at == TEN + 3 * HOUR


def test_what_was_due_before_the_change_keeps_its_instant(app: App) -> None:
    """A late sweep judges the past by the version that was in force then."""
    session = app.sessions.create("room", TEN, A)
    use_case.apply(app.store.log, room("9h"), TEN + 2 * HOUR, A)
    app.sweep(TEN + 20 * HOUR)
    expired = app.events(session.id)[1]
    assert (expired.effective_at, expired.policy_version) == (TEN + HOUR, 1)  # type: ignore[attr-defined]


def test_the_impact_is_counted_and_written_nowhere(app: App) -> None:
    """Sooner, later, at once: before anybody decides."""
    for number in range(3):
        app.sessions.create("room", TEN + number * MINUTE, A)
    before = app.store.log.head()
    now = TEN + 30 * MINUTE
    impact = use_case.impact(app.store.log, room("10m"), now)
    assert (impact.sessions, impact.sooner, impact.later) == (3, 3, 0)
    assert use_case.impact(app.store.log, room("2h"), now).later == 3
    assert use_case.impact(app.store.log, room("1h"), now).sooner == 0
    assert app.store.log.head() == before


def test_re_arming_goes_on_where_it_stopped(app: App) -> None:
    """Killed after a batch, the next run takes the rest; a third finds nothing left."""
    for _ in range(3):
        app.sessions.create("room", TEN, A)
    use_case.apply(app.store.log, room("5m"), TEN, A)
    steps = rearmed(app, TEN)
    assert next(steps) == 3
    assert sum(rearmed(app, TEN)) == 0


def test_who_heard_late_of_a_version_is_re_armed_once_it_is_settled(app: App) -> None:
    """An instance that has not read policies again begins a session by the old version after
    everybody was re-armed; the next run, once all must know, finds it, and then there is rest."""
    elsewhere = app.store.another()
    version = use_case.apply(elsewhere, room("5m"), TEN, A)
    assert version is not None
    informed = PolicyBook(elsewhere)
    took_effect = version.effective_from

    def rearm(now: int) -> list[int]:
        return list(use_case.rearm(elsewhere, "room", informed.refresh()["room"], now))

    assert rearm(TEN + SECOND) == []
    began = took_effect + SECOND
    session = app.sessions.create("room", began, A)
    assert app.policies.known["room"][-1].number == 1
    assert app.store.log.next_due() == began + 50 * MINUTE
    settled = took_effect + SETTLES
    assert rearm(settled) == [1]
    assert app.store.log.next_due() == began + 5 * MINUTE
    assert rearm(settled + SECOND) == []
    app.sweep(began + 5 * MINUTE)
    expired = app.events(session.id)[-1]
    assert expired.TOPIC == "session.expired.v1"
    assert (expired.effective_at, expired.policy_version) == (began + 5 * MINUTE, 2)  # type: ignore[attr-defined]


def test_the_configuration_does_not_undo_what_was_applied_by_hand(app: App) -> None:
    """A version applied by an operator stays until the configuration itself changes."""
    log = app.store.log
    use_case.apply_configured(log, [room("1h")], TEN, A)
    use_case.apply(log, room("2h"), TEN + DAY, A)
    assert use_case.apply_configured(log, [room("1h")], TEN + 2 * DAY, A) == []
    [version] = use_case.apply_configured(log, [room("30m")], TEN + 3 * DAY, A)
    assert log.policies()["room"][-1].policy == version.policy == room("30m")


def test_an_unknown_policy_names_the_known_ones(app: App) -> None:
    """So that the answer says what would have been right."""
    with pytest.raises(PolicyUnknown) as refusal:
        app.policies.versions("rom")
    assert "room" in refusal.value.known
