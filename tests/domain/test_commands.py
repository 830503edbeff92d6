"""What a session allows: every command, every refusal, and what happens when it is asked twice."""

from collections.abc import Callable

import pytest

from domain.errors import NotAllowed, SessionErased, SessionExists, SessionExpired
from domain.policy import MINUTE
from domain.session import By, Failure, Ground, Phase, Tier, create
from tests.domain.life import (
    APPLICATION,
    Step,
    completed,
    completed_at,
    created,
    created_at,
    created_event,
    erased,
    evicted_at,
    expired,
    extended,
    extended_at,
    failed,
    failed_at,
    given,
    held,
    held_at,
    instant,
    joined,
    joined_at,
    left,
    left_at,
    policy,
    presence_at,
    recovered,
    recovered_at,
    released,
    released_at,
    seen,
    seen_at,
    stored,
    stored_at,
    summarized,
    sweep,
    swept_at,
    warned,
)

JANE = "token-of-jane"

FOREVER = policy('{ since = "failed", after = "7d", do = "erase", scope = "files" }')
"""Nothing ends a session that does not fail."""


class TestCreate:
    """A session begins."""

    def test_it_begins_under_the_version_in_force(self) -> None:
        """The session carries the policy and the version it began under."""
        told = given().when(created)
        told.then(created_event(at="09:00", policy="reading-room", policy_version=1, owner=None))
        told.then_state(phase=Phase.ACTIVE, tier=Tier.FULL, live=True, created_at="09:00")

    def test_again_under_the_same_policy_changes_nothing(self) -> None:
        """The same command twice gives one session."""
        given(created).when(created_at("09:05")).then_nothing().then_state(version=1)

    def test_again_under_another_policy_is_refused(self) -> None:
        """An id belongs to one session."""
        session = given(created).life.session
        with pytest.raises(SessionExists) as refused:
            create(session, "s", "another", 1, instant("09:05"), APPLICATION)
        assert refused.value.session_id == "s"

    def test_the_owner_is_a_token(self) -> None:
        """Who owns it stands in the event as the token that was given, and in the state."""
        (event,) = create(None, "s", "p", 3, instant("09:00"), APPLICATION, owner="token")
        assert created_event(owner="token", policy_version=3).differs_from(event) is None


class TestComingAndGoing:
    """Participants join, are seen and leave."""

    def test_joining_counts_as_being_seen(self) -> None:
        """Who joins at 09:40 was there at 09:40."""
        told = given(created).when(joined_at("09:40", JANE))
        told.then(joined(at="09:40", token=JANE))
        told.then_state(joined=1, present=1, last_seen_at="09:40")

    def test_joining_twice_is_joining_once(self) -> None:
        """Someone who is in already cannot come in."""
        given(created, joined_at("09:10")).when(joined_at("09:20", present=True)).then_nothing()

    def test_leaving(self) -> None:
        """Who leaves was there until then."""
        told = given(created, joined_at("09:10", JANE)).when(left_at("09:30", JANE))
        told.then(left(at="09:30", token=JANE)).then_state(present=0, last_seen_at="09:30")

    def test_leaving_twice_is_leaving_once(self) -> None:
        """Someone who is not in cannot go."""
        given(created).when(left_at("09:20", present=False)).then_nothing()

    def test_seen_is_a_sample(self) -> None:
        """Of the heartbeats within six minutes the log keeps one."""
        told = given(created, seen_at("09:06")).when(
            seen_at("09:11:59", every=6 * MINUTE), seen_at("09:12", every=6 * MINUTE)
        )
        told.then(seen(at="09:12")).then_state(last_seen_at="09:12")

    def test_an_older_heartbeat_is_no_news(self) -> None:
        """Being seen earlier than is known already is not recorded."""
        given(created, seen_at("09:06")).when(seen_at("09:06"), seen_at("09:04")).then_nothing()


class TestWork:
    """Applications store, complete and fail."""

    def test_storing_adds_up(self) -> None:
        """Items and bytes of a session are the sums of what came in."""
        told = given(created, stored_at("09:01", 2, 500), under=FOREVER).when(
            stored_at("09:02", 1, 250)
        )
        told.then(stored(items=1, size=250)).then_state(items=3, size=750, stored_at="09:02")

    def test_completing(self) -> None:
        """Work that is done is done once."""
        story = given(created)
        story.when(completed_at("09:10")).then(completed(at="09:10"))
        story.when(completed_at("09:20")).then_nothing().then_state(phase=Phase.COMPLETED)

    def test_failing(self) -> None:
        """Work that went wrong did so once, whatever the second reason."""
        story = given(created)
        story.when(failed_at("09:10", Failure.TIMEOUT)).then(failed(reason=Failure.TIMEOUT))
        story.when(failed_at("09:20", Failure.ERROR)).then_nothing()
        story.when(sweep("09:20")).then_nothing().then_state(phase=Phase.FAILED)

    def test_what_is_completed_cannot_fail(self) -> None:
        """An outcome stays."""
        given(created, completed_at("09:10")).when(failed_at("09:11")).then_refused(
            NotAllowed, command="fail", why="it is completed"
        )

    def test_what_failed_cannot_be_completed(self) -> None:
        """An outcome stays."""
        given(created, failed_at("09:10")).when(completed_at("09:11")).then_refused(
            NotAllowed, command="complete", why="it has failed"
        )

    @pytest.mark.parametrize(
        ("ending", "phase"), [(completed_at, "completed"), (failed_at, "failed")]
    )
    def test_nothing_is_stored_after_the_work(
        self, ending: Callable[[str], Step], phase: str
    ) -> None:
        """Items belong to work that goes on."""
        given(created, ending("09:10")).when(stored_at("09:11")).then_refused(
            NotAllowed, command="store in", why=f"it is {phase}, tier full"
        )

    def test_nothing_is_stored_beside_a_summary(self) -> None:
        """Once the full tier is gone no item may come in again."""
        under = policy('{ since = "created", after = "5m", do = "summarize" }')
        given(created, stored_at("09:01"), under=under).when(stored_at("09:06")).then_refused(
            NotAllowed,
            summarized(at="09:05"),
            command="store in",
            why="it is active, tier summary",
        )


class TestExtend:
    """One call moves the end."""

    def test_it_does_not_expire_before(self) -> None:
        """A room extended until noon expires at noon, although nobody is there."""
        story = given(created)
        story.when(extended_at("09:30", "12:00")).then(extended(at="09:30", until="12:00"))
        story.when(sweep("11:49:59")).then_nothing()
        story.when(sweep("12:00")).then(expired(at="12:00", last_seen="09:00"))

    def test_presence_counts_beyond_the_extension(self) -> None:
        """Who is seen at 11:30 keeps the extended room open until 12:30."""
        given(created, extended_at("09:30", "12:00"), presence_at("11:30")).when(
            sweep("13:00")
        ).then(expired(at="12:30", last_seen="11:30"))

    @pytest.mark.parametrize("until", ["12:00", "11:00"])
    def test_extending_no_further_is_nothing(self, until: str) -> None:
        """Asked twice, or for less, it stays as it is."""
        given(created, extended_at("09:30", "12:00")).when(
            extended_at("09:31", until)
        ).then_nothing()

    @pytest.mark.parametrize("until", ["09:30", "09:29"])
    def test_the_past_is_no_end(self, until: str) -> None:
        """An end that has come already is refused."""
        given(created).when(extended_at("09:30", until)).then_refused(
            NotAllowed, command="extend", why="the new end lies in the past"
        )

    def test_further_and_further(self) -> None:
        """A second extension counts if it goes further."""
        story = given(created, extended_at("09:30", "10:30"), extended_at("09:31", "11:30"))
        story.when(sweep("12:00")).then(expired(at="11:30"))


class TestEvict:
    """A limit ends the oldest."""

    def test_it_expires_now(self) -> None:
        """The event names the limit in place of a rule."""
        told = given(created).when(evicted_at("09:30"))
        told.then(expired(at="09:30", rule=By.LIMIT)).then_state(
            phase=Phase.EXPIRED, expired_by=By.LIMIT, live=False
        )

    def test_what_has_expired_does_not_expire_again(self) -> None:
        """One expiry each."""
        given(created, swept_at("10:00")).when(evicted_at("10:05")).then_nothing()

    def test_it_goes_on_to_be_erased(self) -> None:
        """What a limit ended is erased like any other."""
        given(created, evicted_at("09:30")).when(sweep("+1d 09:30")).then(erased(at="+1d 09:30"))

    def test_what_is_erased_cannot_expire(self) -> None:
        """Erased is final, whether it expired before or not."""
        story = given(created, swept_at("+2d 09:00"))
        story.when(evicted_at("+2d 10:00")).then_refused(SessionErased, erased_at="+1d 10:00")


class TestRecover:
    """A session that has just expired lives again."""

    def test_as_if_seen_now(self) -> None:
        """A room recovered at 15:00 is open until 16:00 at least."""
        story = given(created, swept_at("10:00"))
        told = story.when(recovered_at("15:00")).then(recovered(at="15:00"))
        told.then_state(phase=Phase.ACTIVE, live=True, expired_by=None, last_seen_at="15:00")
        story.when(sweep("15:55")).then(warned(at="15:50", deadline="16:00"))
        story.when(sweep("16:00")).then(expired(at="16:00"))

    def test_also_if_no_sweep_saw_the_expiry(self) -> None:
        """The expiry that was due is recorded first, at its own instant."""
        given(created).when(recovered_at("15:00")).then(expired(at="10:00"), recovered(at="15:00"))

    def test_until_its_deadline(self) -> None:
        """Expired at 10:00, a room can be recovered before 22:00 and not at 22:00."""
        given(created).when(recovered_at("21:59:59")).then(expired, recovered)
        given(created).when(recovered_at("22:00")).then_refused(
            SessionExpired,
            expired(at="10:00"),
            expired_at="10:00",
            rule="expire-last_seen",
            recover_until=None,
        )

    def test_a_living_session_needs_no_recovery(self) -> None:
        """Recovering what lives changes nothing."""
        given(created).when(recovered_at("09:30")).then_nothing()

    def test_without_a_term_there_is_none(self) -> None:
        """A policy that does not speak of recovery allows none."""
        under = policy('{ since = "created", after = "1h", do = "expire" }')
        given(created, under=under).when(recovered_at("10:00")).then_refused(
            SessionExpired,
            expired,
            expired_at="10:00",
            rule="expire-created",
            recover_until=None,
        )

    def test_what_is_erased_cannot_come_back(self) -> None:
        """Erased is final."""
        given(created, swept_at("+2d 09:00")).when(recovered_at("+2d 09:00")).then_refused(
            SessionErased, erased_at="+1d 10:00"
        )

    def test_and_again(self) -> None:
        """A recovered session expires and can be recovered once more."""
        story = given(created, recovered_at("15:00"), recovered_at("20:00"))
        story.when(sweep("+3d 00:00")).then(expired(at="21:00"), erased(at="+1d 21:00"))

    def test_an_expiry_since_created_counts_anew(self) -> None:
        """What expires an hour after it was created has an hour again after its recovery."""
        under = policy(
            '{ since = "created", after = "1h", do = "expire" },'
            '{ since = "expired", after = "1d", do = "erase" }',
            recover='"12h"',
        )
        story = given(created, recovered_at("14:30"), presence_at("15:00"), under=under)
        story.when(sweep("16:00")).then(expired(at="15:30"))


class TestHold:
    """A hold is placed and released."""

    def test_placing_and_releasing(self) -> None:
        """Both are facts; doing either twice changes nothing."""
        story = given(created)
        told = story.when(held_at("09:10", "11:00", "h1"))
        told.then(held(hold="h1", ground=Ground.LEGAL_CLAIM, until="11:00"))
        story.when(held_at("09:11", "11:00", "h1")).then_nothing()
        story.when(released_at("09:12", "h1")).then(released(hold="h1"))
        story.when(released_at("09:13", "h1")).then_nothing().then_state(holds=())

    def test_releasing_one_that_never_stood(self) -> None:
        """There is nothing to release."""
        given(created).when(released_at("09:12", "h9")).then_nothing()

    def test_the_past_is_no_term(self) -> None:
        """A hold that would have ended already is refused, a known one too."""
        refusal = {"command": "hold", "why": "the hold would end in the past"}
        given(created).when(held_at("09:10", "09:10")).then_refused(NotAllowed, **refusal)

    def test_one_that_stands_keeps_its_term(self) -> None:
        """To silently ignore another end would leave a session unprotected."""
        for standing, wanted in (("11:00", "12:00"), ("11:00", None), (None, "12:00")):
            given(created, held_at("09:10", standing)).when(held_at("09:11", wanted)).then_refused(
                NotAllowed,
                command="hold",
                why="this hold stands already, with another end",
            )

    def test_one_that_ended_can_stand_again(self) -> None:
        """The same hold, placed anew after its end, protects again."""
        story = given(created, held_at("09:10", "09:20"))
        told = story.when(held_at("09:20", "09:50")).then(held(until="09:50"))
        assert [hold.until for hold in told.life.session.holds] == [instant("09:50")]

    def test_an_expired_session_can_be_held(self) -> None:
        """Its data is still there."""
        given(created, swept_at("10:00")).when(held_at("10:30")).then(held)

    def test_what_is_erased_cannot_be_held(self) -> None:
        """A hold on nothing would promise what is not there."""
        story = given(created, swept_at("+2d 09:00"))
        for step in (held_at("+2d 09:00"), released_at("+2d 09:00")):
            story.when(step).then_refused(SessionErased, erased_at="+1d 10:00")


COMMANDS_OF_THE_LIVING = [
    joined_at("10:30"),
    left_at("10:30"),
    seen_at("10:30"),
    stored_at("10:30"),
    completed_at("10:30"),
    failed_at("10:30"),
    extended_at("10:30", "12:00"),
]


class TestTerminal:
    """After expired only recovered or erased may come, after erased nothing."""

    @pytest.mark.parametrize("step", COMMANDS_OF_THE_LIVING)
    def test_an_expired_session_refuses(self, step: Step) -> None:
        """The refusal says when and why it ended."""
        given(created, swept_at("10:00")).when(step).then_refused(
            SessionExpired,
            expired_at="10:00",
            rule="expire-last_seen",
            recover_until=None,
        )

    @pytest.mark.parametrize("step", COMMANDS_OF_THE_LIVING)
    def test_at_once_also_when_no_sweep_ran(self, step: Step) -> None:
        """The expiry that was due at 10:00 stands before a command of 10:30."""
        given(created).when(step).then_refused(
            SessionExpired,
            expired(at="10:00"),
            expired_at="10:00",
            rule="expire-last_seen",
            recover_until=None,
        )

    @pytest.mark.parametrize("step", COMMANDS_OF_THE_LIVING)
    def test_an_erased_session_refuses(self, step: Step) -> None:
        """Nothing can happen to what is gone."""
        given(created, swept_at("+2d 10:00")).when(
            Step(instant("+2d 10:30"), step.act)
        ).then_refused(SessionErased, erased_at="+1d 10:00")

    def test_nothing_is_due_any_more(self) -> None:
        """No sweep ever finds an erased session again."""
        story = given(created, swept_at("+2d 10:00"))
        story.when(sweep("+900d 00:00")).then_nothing()
        assert story.life.look(instant("+900d 00:00")).next_at is None

    def test_what_remains_is_a_tombstone(self) -> None:
        """An erased session counts nothing and holds nothing."""
        under = policy('{ since = "created", after = "1h", do = "erase" }')
        told = given(created, stored_at("09:01"), under=under).when(sweep("10:00"))
        told.then(erased(rule="erase-created", policy_version=1)).then_state(
            phase=Phase.ERASED, tier=Tier.NOTHING, items=0, size=0, live=False, erased_at="10:00"
        )


def test_a_refusal_names_no_person() -> None:
    """What a caller reads holds ids, rules and times only."""
    told = given(created, joined_at("09:10", JANE)).when(joined_at("11:01", JANE))
    assert "jane" not in str(told.refusal)
    assert "expire-last_seen" in str(told.refusal)
