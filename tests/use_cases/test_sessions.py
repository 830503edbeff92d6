"""Producers' commands: create, come and go, finish, extend, recover - on every kind of store."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from domain.errors import (
    LimitReached,
    OnHold,
    ParticipantUnknown,
    PolicyUnknown,
    SessionErased,
    SessionExists,
    SessionExpired,
    SessionNotFound,
)
from domain.policy import DAY, HOUR, MINUTE
from domain.session import Erased, Expired, Failure, Ground, Phase, Scope
from tests.use_cases.conftest import App

TEN = 10 * HOUR
A = "producer"


def test_a_visit_from_its_creation_to_the_end(app: App) -> None:
    """Created, joined, seen, expired, erased: then nothing about a person is left."""
    session = app.sessions.create("room", TEN, A, owner="host@example.org")
    token = app.sessions.join(session.id, "guest@example.org", TEN, A)
    assert app.see(session.id, token, TEN + 30 * MINUTE)
    app.sweep(TEN + 2 * HOUR)
    assert app.told(session.id) == ["created", "joined", "seen", "expired"]
    assert app.left_of_people()
    app.sweep(TEN + 3 * DAY)
    assert app.told(session.id)[-1] == "erased"
    assert app.left_of_people() == {}


def test_who_joins_twice_keeps_the_token(app: App) -> None:
    """Joining is safe to retry; leaving and coming back is the same participant."""
    session = app.sessions.create("room", TEN, A)
    token = app.sessions.join(session.id, "guest", TEN, A)
    assert app.sessions.join(session.id, "guest", TEN + MINUTE, A) == token
    app.sessions.leave(session.id, token, TEN + 2 * MINUTE, A)
    app.sessions.leave(session.id, token, TEN + 3 * MINUTE, A)
    assert app.sessions.join(session.id, "guest", TEN + 4 * MINUTE, A) == token
    assert app.told(session.id) == ["created", "joined", "left", "joined"]
    [member] = app.store.vault.members(session.id)
    assert member.left_at is None
    assert member.joined_at == TEN


def test_who_left_has_left_once(app: App) -> None:
    """Saying so again does not move the time."""
    session = app.sessions.create("room", TEN, A)
    token = app.sessions.join(session.id, "guest", TEN, A)
    app.sessions.leave(session.id, token, TEN + 2 * MINUTE, A)
    app.sessions.leave(session.id, token, TEN + 3 * MINUTE, A)
    [member] = app.store.vault.members(session.id)
    assert member.left_at == TEN + 2 * MINUTE


def test_the_same_person_has_another_token_in_another_session(app: App) -> None:
    """The log cannot be used to follow somebody from session to session."""
    tokens = set()
    for _ in range(2):
        session = app.sessions.create("room", TEN, A)
        tokens.add(app.sessions.join(session.id, "guest", TEN, A))
    assert len(tokens) == 2


def test_only_participants_can_leave(app: App) -> None:
    """A token of nowhere is refused by name."""
    session = app.sessions.create("room", TEN, A)
    with pytest.raises(ParticipantUnknown) as refusal:
        app.sessions.leave(session.id, "f" * 32, TEN, A)
    assert refusal.value.token == "f" * 32


def test_a_create_with_a_key_happens_once(app: App) -> None:
    """The same actor and key give the same session, another policy under it is refused."""
    first = app.sessions.create("room", TEN, A, key="order-7")
    again = app.sessions.create("room", TEN + MINUTE, A, key="order-7")
    assert (again.id, again.created_at) == (first.id, TEN)
    assert app.sessions.create("room", TEN, "somebody-else", key="order-7").id != first.id
    with pytest.raises(SessionExists):
        app.sessions.create("lead", TEN, A, key="order-7")
    app.sweep(TEN + 3 * DAY)
    with pytest.raises(SessionErased):
        app.sessions.create("room", TEN + 3 * DAY, A, key="order-7")


def test_a_command_with_a_key_happens_once(app: App) -> None:
    """For the same actor and session, whatever it carries; without a key it happens each time."""
    session = app.sessions.create("room", TEN, A)
    other = app.sessions.create("room", TEN, A)
    first = app.sessions.store(session.id, 2, 300, TEN + 1, A, key="upload-1")
    again = app.sessions.store(session.id, 2, 300, TEN + MINUTE, A, key="upload-1")
    assert (first.session.version, again.session.version) == (2, 2)
    assert app.told(session.id) == ["created", "stored"]
    app.sessions.store(session.id, 2, 300, TEN + 2, A, key="upload-2")
    app.sessions.store(session.id, 2, 300, TEN + 3, "somebody-else", key="upload-1")
    app.sessions.store(session.id, 2, 300, TEN + 4, A)
    app.sessions.store(session.id, 2, 300, TEN + 5, A)
    assert app.told(session.id) == ["created"] + ["stored"] * 5
    app.sessions.store(other.id, 2, 300, TEN + 1, A, key="upload-1")
    assert app.told(other.id) == ["created", "stored"]


def test_a_command_with_a_key_happens_once_under_threads(app: App) -> None:
    """Eight retries at the same time are one upload."""
    session = app.sessions.create("room", TEN, A)
    with ThreadPoolExecutor(8) as threads:
        views = list(
            threads.map(
                lambda _: app.sessions.store(session.id, 1, 9, TEN + 1, A, key="upload-1"), range(8)
            )
        )
    assert {view.session.version for view in views} == {2}
    assert app.told(session.id) == ["created", "stored"]


def test_erased_on_demand_is_erased_at_once(app: App) -> None:
    """Long before any rule asks for it, with all that is known of people; again changes nothing."""
    session = app.sessions.create("room", TEN, A, owner="host")
    app.sessions.join(session.id, "guest", TEN, A)
    app.sessions.erase(session.id, TEN + MINUTE, A)
    erased = app.events(session.id)[-1]
    assert isinstance(erased, Erased)
    assert (erased.effective_at, erased.scope, erased.rule) == (
        TEN + MINUTE,
        Scope.EVERYTHING,
        "request",
    )
    assert app.left_of_people() == {}
    assert app.store.log.live("room") == 0
    told = app.told(session.id)
    with pytest.raises(SessionErased) as refusal:
        app.sessions.erase(session.id, TEN + HOUR, A)
    assert refusal.value.erased_at == TEN + MINUTE
    assert app.told(session.id) == told
    assert app.sweep(TEN + 9 * DAY).due == 0


def test_nothing_is_erased_on_demand_while_a_hold_stands(app: App) -> None:
    """The refusal says until when; once it is released, or over, the demand is met."""
    released, ended = (app.sessions.create("room", TEN, A).id for _ in range(2))
    app.sessions.join(released, "guest", TEN, A)
    for one, until in ((released, None), (ended, TEN + 10 * MINUTE)):
        app.sessions.hold(one, "h1", Ground.LEGAL_CLAIM, until, TEN, A)
        with pytest.raises(OnHold) as refusal:
            app.sessions.erase(one, TEN + MINUTE, A)
        assert (refusal.value.session_id, refusal.value.until) == (one, until)
        assert app.told(one)[-1] == "held"
    assert app.left_of_people()
    app.sessions.release(released, "h1", TEN + 2 * MINUTE, A)
    app.sessions.erase(released, TEN + 3 * MINUTE, A)
    app.sessions.erase(ended, TEN + 10 * MINUTE, A)
    assert app.told(released)[-1] == app.told(ended)[-1] == "erased"
    assert app.left_of_people() == {}


def test_a_limit_is_refused_by_name_and_frees_itself(app: App) -> None:
    """Three at once; whoever is due already does not count, although no sweep ran."""
    for _ in range(3):
        app.sessions.create("room", TEN, A)
    with pytest.raises(LimitReached) as refusal:
        app.sessions.create("room", TEN + MINUTE, A)
    assert (refusal.value.scope, refusal.value.limit) == ("concurrent", 3)
    assert app.sessions.create("room", TEN + HOUR, A)
    assert app.store.log.live("room") == 1


def test_a_limit_holds_under_threads(app: App) -> None:
    """Thirty creators, three slots: three sessions."""

    def attempt(_: int) -> bool:
        try:
            app.sessions.create("room", TEN, A)
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(30))) == 3
    assert app.store.log.live("room") == 3


def test_an_owners_oldest_session_makes_room(app: App) -> None:
    """`expire-oldest` ends the oldest session of that owner and of nobody else."""
    ids = [
        app.sessions.create("lead", TEN + number * MINUTE, A, owner="lead-1").id
        for number in range(3)
    ]
    other = app.sessions.create("lead", TEN, A, owner="lead-2").id
    assert app.told(ids[0]) == ["created", "expired"]
    expired = app.events(ids[0])[-1]
    assert isinstance(expired, Expired)
    assert expired.rule == "limit"
    assert [app.told(one)[-1] for one in (*ids[1:], other)] == ["created"] * 3


def test_an_owners_limit_can_refuse_instead(app: App) -> None:
    """`refuse` is the default; other owners are not concerned."""
    for _ in range(2):
        app.sessions.create("strict-lead", TEN, A, owner="lead-1")
    with pytest.raises(LimitReached) as refusal:
        app.sessions.create("strict-lead", TEN, A, owner="lead-1")
    assert refusal.value.scope == "owner"
    assert app.sessions.create("strict-lead", TEN, A, owner="lead-2")


def test_an_unswept_session_is_over_at_its_due_instant(app: App) -> None:
    """A command that comes too late is refused, and records the expiry for when it was due."""
    session = app.sessions.create("room", TEN, A)
    with pytest.raises(SessionExpired) as refusal:
        app.sessions.join(session.id, "late", TEN + HOUR, A)
    assert (refusal.value.rule, refusal.value.expired_at) == ("idle", TEN + HOUR)
    assert app.told(session.id)[-1] == "expired"
    assert app.events(session.id)[-1].effective_at == TEN + HOUR
    view = app.sessions.view(session.id, TEN + HOUR)
    assert view.session.phase is Phase.EXPIRED


def test_a_heartbeat_after_the_end_does_not_count(app: App) -> None:
    """Due is over, whether or not a sweeper has said so; before, it counts."""
    session = app.sessions.create("room", TEN, A)
    token = app.sessions.join(session.id, "guest", TEN, A)
    assert app.see(session.id, token, TEN + 59 * MINUTE)
    assert not app.see(session.id, token, TEN + 59 * MINUTE + HOUR)
    assert not app.see(session.id, "nobody", TEN + 59 * MINUTE)
    assert not app.see("f" * 32, token, TEN)


def test_a_heartbeat_of_the_future_is_cut_to_now(app: App) -> None:
    """A producer's wrong clock cannot keep a session alive for ever."""
    session = app.sessions.create("room", TEN, A)
    token = app.sessions.join(session.id, "guest", TEN, A)
    assert app.see(session.id, token, TEN + 9 * DAY, now=TEN + MINUTE)
    assert app.sessions.view(session.id, TEN + MINUTE).last_seen == TEN + MINUTE


def test_presence_is_sampled_and_unsampled_presence_counts(app: App) -> None:
    """A beat each half minute gives ten `seen` an idle period, and the last beat decides."""
    session = app.sessions.create("room", TEN, A)
    token = app.sessions.join(session.id, "guest", TEN, A)
    last = TEN
    for beat in range(1, 121):
        last = TEN + beat * 30 * 1_000_000
        app.see(session.id, token, last)
    assert app.told(session.id).count("seen") == 10
    app.sweep(last + HOUR - 1)
    assert "expired" not in app.told(session.id)
    app.sweep(last + HOUR)
    expired = app.events(session.id)[-1]
    assert isinstance(expired, Expired)
    assert (expired.effective_at, expired.last_seen) == (last + HOUR, last)


def test_extend_moves_the_end_once(app: App) -> None:
    """The session ends at the new instant, not before and not later."""
    session = app.sessions.create("room", TEN, A)
    app.sessions.extend(session.id, TEN + 5 * HOUR, TEN + MINUTE, A)
    assert app.sessions.view(session.id, TEN + MINUTE).forecast.expires_at == TEN + 5 * HOUR
    app.sweep(TEN + 5 * HOUR - 1)
    assert "expired" not in app.told(session.id)
    app.sweep(TEN + 5 * HOUR)
    assert app.told(session.id)[-1] == "expired"


def test_recover_until_the_deadline_and_within_the_limit(app: App) -> None:
    """Two hours to change one's mind; a slot is needed again."""
    session = app.sessions.create("room", TEN, A)
    app.sweep(TEN + HOUR)
    for _ in range(3):
        app.sessions.create("room", TEN + HOUR, A)
    with pytest.raises(LimitReached):
        app.sessions.recover(session.id, TEN + HOUR + MINUTE, A)
    app.sweep(TEN + 2 * HOUR)
    assert app.sessions.recover(session.id, TEN + 3 * HOUR - 1, A).session.phase is Phase.ACTIVE
    app.sweep(TEN + 4 * HOUR)
    with pytest.raises(SessionExpired):
        app.sessions.recover(session.id, TEN + 7 * HOUR, A)


def test_a_hold_keeps_what_is_due_until_it_is_released(app: App) -> None:
    """The release makes it due at once, effective no earlier."""
    session = app.sessions.create("room", TEN, A)
    app.sessions.hold(session.id, "h1", Ground.LEGAL_CLAIM, None, TEN, A)
    app.sweep(TEN + HOUR)
    assert app.told(session.id)[-1] == "expired"
    app.sweep(TEN + 3 * DAY)
    assert app.told(session.id)[-1] == "expired"
    released = TEN + 4 * DAY
    app.sessions.release(session.id, "h1", released, A)
    assert app.events(session.id)[-1].effective_at == released
    assert app.told(session.id)[-2:] == ["released", "erased"]


def test_completed_and_failed_exclude_each_other(app: App) -> None:
    """Each is idempotent, the other is refused."""
    session = app.sessions.create("room", TEN, A)
    app.sessions.complete(session.id, TEN, A)
    app.sessions.complete(session.id, TEN + MINUTE, A)
    with pytest.raises(Exception, match="completed"):
        app.sessions.fail(session.id, Failure.ERROR, TEN, A)
    assert app.told(session.id) == ["created", "completed"]


def test_what_never_was_and_what_is_gone_are_told_apart(app: App) -> None:
    """404 and 410 to be; an unknown policy names the known ones."""
    with pytest.raises(SessionNotFound):
        app.sessions.view("f" * 32, TEN)
    session = app.sessions.create("room", TEN, A)
    app.sweep(TEN + 3 * DAY)
    with pytest.raises(SessionErased) as refusal:
        app.sessions.view(session.id, TEN + 3 * DAY)
    assert refusal.value.erased_at == TEN + HOUR + DAY
    with pytest.raises(PolicyUnknown) as unknown:
        app.sessions.create("nonsense", TEN, A)
    assert "room" in unknown.value.known


def test_racing_joins_of_one_person_give_one_participant(app: App) -> None:
    """Eight threads, one guest: one token, one `joined`."""
    session = app.sessions.create("room", TEN, A)
    with ThreadPoolExecutor(8) as threads:
        tokens = set(
            threads.map(lambda _: app.sessions.join(session.id, "guest", TEN, A), range(8))
        )
    assert len(tokens) == 1
    assert app.told(session.id) == ["created", "joined"]


def test_beyond_the_limit_of_a_policy_its_oldest_session_makes_room(app: App) -> None:
    """If the policy says so; exactly one ends, under the rule `limit`, and the count stays."""
    first, second = (app.sessions.create("crowd", TEN + at, A) for at in range(2))
    third = app.sessions.create("crowd", TEN + 2, A)
    assert app.store.log.live("crowd") == 2
    assert app.told(first.id) == ["created", "expired"]
    assert getattr(app.events(first.id)[-1], "rule", "") == "limit"
    assert app.told(second.id) == app.told(third.id) == ["created"]


def test_of_an_owner_beyond_their_limit_the_oldest_goes_and_nobody_elses(app: App) -> None:
    """Theirs is the narrower scope."""
    other = app.sessions.create("crowd", TEN, A, owner="bob")
    mine = app.sessions.create("crowd", TEN + 1, A, owner="ann")
    app.sessions.create("crowd", TEN + 2, A, owner="ann")
    assert app.told(mine.id)[-1] == "expired"
    assert app.told(other.id) == ["created"]
