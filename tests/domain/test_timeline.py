"""What is due when: rules, warnings, chains, holds, changes of policy, forecasts."""

import pytest

from domain.policy import MINUTE, Version
from domain.session import Event, Scope, Tier
from tests.domain.life import (
    Life,
    Step,
    completed,
    completed_at,
    compressed,
    created,
    created_at,
    erased,
    evicted_at,
    expired,
    extended_at,
    failed_at,
    given,
    held_at,
    instant,
    policy,
    presence_at,
    preset,
    recovered_at,
    released,
    released_at,
    seen_at,
    stored,
    stored_at,
    summarized,
    sweep,
    swept_at,
    two_versions,
    warned,
)

SUMMARIZE = '{ since = "created", after = "5m", do = "summarize" }'
COACH = preset("biometric-coach")
VIDEO = preset("video-analysis")
BOTH_EXPIRIES = policy(
    '{ since = "last_seen", after = "50m", do = "warn" },'
    '{ since = "last_seen", after = "1h", do = "expire" },'
    '{ since = "created", after = "23h", do = "warn" },'
    '{ since = "created", after = "24h", do = "expire" }'
)
"""Rooms that close when idle, and after a day in any case."""


def half_hourly(until: str) -> list[Step]:
    """Somebody is seen every half hour from 09:00 on, before `until`."""
    beats = (instant("09:00") + index * 30 * MINUTE for index in range(100))
    return [Step(beat, Life.heartbeat) for beat in beats if beat < instant(until)]


class TestIdle:
    """A room in which nobody is seen."""

    def test_it_expires_at_its_due_instant(self) -> None:
        """Not a second before 11:00, and at 11:00."""
        story = given(created, presence_at("09:50"), presence_at("10:00"), swept_at("10:50"))
        story.when(sweep("10:59:59")).then_nothing()
        story.when(sweep("11:00")).then(
            expired(at="11:00", rule="expire-last_seen", policy_version=1, last_seen="10:00")
        )

    def test_three_days_without_a_sweeper_change_nothing(self) -> None:
        """The whole overdue chain is carried out, each step effective at its own instant."""
        given(created_at("09:30"), seen_at("10:00")).when(sweep("+3d 10:00")).then(
            expired(at="11:00"), erased(at="+1d 11:00", rule="erase-expired")
        )

    def test_the_later_of_sample_and_presence_counts(self) -> None:
        """A sample in the log and a newer heartbeat beside it: the heartbeat decides."""
        given(created_at("09:30"), seen_at("10:00"), presence_at("10:30")).when(
            sweep("11:30")
        ).then(expired(at="11:30", last_seen="10:30"))

    def test_a_sample_newer_than_the_presence_counts(self) -> None:
        """A heartbeat at 09:20 and a sample of 09:40 in the log: the sample decides."""
        given(created, presence_at("09:20"), seen_at("09:40")).when(sweep("10:40")).then(
            expired(at="10:40", last_seen="09:40")
        )

    def test_a_heartbeat_after_the_end_does_not_count(self) -> None:
        """Presence loses against an expiry that was due before, swept or not."""
        story = given(created, presence_at("10:00:01"))
        story.when(sweep("12:00")).then_nothing()
        assert story.life.session.expired_at == instant("10:00")


class TestWarnings:
    """A warning before each expiry."""

    def test_once_for_each_deadline(self) -> None:
        """At 09:50 for 10:00, and never again for it."""
        story = given(created)
        story.when(sweep("09:49:59")).then_nothing()
        story.when(sweep("09:50")).then(
            warned(at="09:50", rule="warn-last_seen", deadline="10:00", policy_version=1)
        )
        story.when(sweep("09:55")).then_nothing()

    def test_a_late_warning_keeps_its_instant(self) -> None:
        """Swept at 09:57, it was due at 09:50."""
        given(created).when(sweep("09:57")).then(warned(at="09:50", deadline="10:00"))

    def test_never_when_overtaken(self) -> None:
        """Whoever sweeps at 10:00 expires the room and warns nobody of the past."""
        given(created).when(sweep("10:00")).then(expired(at="10:00"))

    def test_who_is_seen_is_warned_anew(self) -> None:
        """Presence moves the deadline, and the warning with it."""
        story = given(created, swept_at("09:50"), presence_at("09:55"))
        story.when(sweep("10:44:59")).then_nothing()
        story.when(sweep("10:45")).then(warned(at="10:45", deadline="10:55"))

    def test_it_moves_with_an_extension(self) -> None:
        """A room extended to noon warns ten minutes before noon, not at once."""
        story = given(created, swept_at("09:50"), extended_at("09:55", "12:00"))
        story.when(sweep("11:49:59")).then_nothing()
        story.when(sweep("11:50")).then(warned(at="11:50", deadline="12:00"))

    def test_two_reminders(self) -> None:
        """A policy may warn twice before the same end."""
        under = policy(
            '{ since = "last_seen", after = "30m", do = "warn", name = "first" },'
            '{ since = "last_seen", after = "50m", do = "warn", name = "last" },'
            '{ since = "last_seen", after = "1h", do = "expire" }'
        )
        story = given(created, under=under)
        story.when(sweep("09:30")).then(warned(at="09:30", rule="first", deadline="10:00"))
        story.when(sweep("09:49")).then_nothing()
        story.when(sweep("09:50")).then(warned(at="09:50", rule="last", deadline="10:00"))
        story.when(sweep("09:51")).then_nothing()

    def test_each_expiry_has_its_warning(self) -> None:
        """People who stay to the end of the day are told of it once, in spite of heartbeats."""
        story = given(created, *half_hourly("+1d 08:00"), under=BOTH_EXPIRIES)
        story.when(sweep("+1d 07:59:59")).then_nothing()
        story.when(sweep("+1d 08:00")).then(
            warned(at="+1d 08:00", rule="warn-created", deadline="+1d 09:00")
        )
        story.when(presence_at("+1d 08:05"), presence_at("+1d 08:50")).then_nothing()
        story.when(sweep("+1d 09:00")).then(expired(at="+1d 09:00", rule="expire-created"))

    def test_the_idle_are_warned_of_the_earlier_end(self) -> None:
        """Told of the end of the day, people who go idle are told of their earlier end as well."""
        story = given(created, *half_hourly("+1d 07:59"), under=BOTH_EXPIRIES)
        story.when(sweep("+1d 08:25")).then(
            warned(at="+1d 08:00", deadline="+1d 09:00"),
            warned(at="+1d 08:20", rule="warn-last_seen", deadline="+1d 08:30"),
        )
        # Seen again, they keep the first warning: it still holds and is not repeated.
        story.when(presence_at("+1d 08:26"), sweep("+1d 08:59")).then_nothing()

    def test_no_warning_of_an_end_that_another_comes_before(self) -> None:
        """Idle since 08:05 on the last day, nobody is told of 09:05: the room closes at 09:00."""
        story = given(
            created, *half_hourly("+1d 08:00"), presence_at("+1d 08:05"), under=BOTH_EXPIRIES
        )
        story.when(sweep("+1d 08:59")).then_nothing()


class TestChains:
    """What follows from what, when all of it is overdue."""

    def test_three_steps(self) -> None:
        """Summarized, expired and erased: one sweep, three instants."""
        under = policy(
            SUMMARIZE + ',{ since = "summarized", after = "30m", do = "expire" },'
            '{ since = "expired", after = "24h", do = "erase" }'
        )
        given(created, under=under).when(sweep("+5d 09:00")).then(
            summarized(at="09:05", rule="summarize-created"),
            expired(at="09:35", rule="expire-summarized"),
            erased(at="+1d 09:35", rule="erase-expired"),
        )

    def test_the_coach(self) -> None:
        """Landmarks for five minutes, the summary for thirty, then nothing."""
        story = given(created, under=COACH)
        story.when(sweep("09:05")).then(summarized(at="09:05")).then_state(tier=Tier.SUMMARY)
        story.when(sweep("09:34:59")).then_nothing()
        story.when(sweep("09:35")).then(erased(at="09:35")).then_state(tier=Tier.NOTHING)

    def test_only_what_is_due_by_now(self) -> None:
        """A sweep in the middle of a chain stops there and says when to come again."""
        story = given(created)
        story.when(sweep("12:00")).then(expired(at="10:00"))
        assert story.life.look(instant("12:00")).next_at == instant("+1d 10:00")

    def test_two_rules_at_one_instant(self) -> None:
        """The rule that stands first comes first."""
        under = policy(
            '{ since = "created", after = "1h", do = "expire" },'
            '{ since = "created", after = "1h", do = "erase" }'
        )
        given(created, under=under).when(sweep("10:00")).then(
            expired(at="10:00"), erased(at="10:00")
        )

    def test_compression_happens_once(self) -> None:
        """Lossless, after a week, and not again."""
        under = preset("browser-session")
        story = given(created, under=under)
        story.when(sweep("+7d 09:00")).then(compressed(at="+7d 09:00"))
        story.when(sweep("+29d 09:00")).then_nothing().then_state(compressed_at="+7d 09:00")


class TestExpiredBeforeItWasSummarized:
    """Nothing but erasures follows an expiry, and yet nothing outlives its term."""

    UNDER = policy(
        '{ since = "last_seen", after = "2m", do = "expire" },'
        + SUMMARIZE
        + ',{ since = "summarized", after = "30m", do = "erase" }'
    )

    def test_the_full_tier_goes_at_its_term(self) -> None:
        """Five minutes after it was created the landmarks go, without a summary being made."""
        story = given(created, stored_at("09:01"), under=self.UNDER)
        story.when(sweep("09:05")).then(
            expired(at="09:02"), erased(at="09:05", scope=Scope.FULL, rule="summarize-created")
        )

    def test_and_the_rest_at_its_own(self) -> None:
        """What counts from the summary counts from the moment it would have been made."""
        given(created, under=self.UNDER).when(sweep("10:00")).then(
            expired(at="09:02"), erased(scope=Scope.FULL), erased(at="09:35")
        )

    def test_a_hold_in_between_forgets_nothing(self) -> None:
        """Expired while a hold suspended its summary, a session is still erased in the end."""
        under = policy(
            SUMMARIZE + ',{ since = "created", after = "10m", do = "expire" },'
            '{ since = "summarized", after = "30m", do = "erase" }'
        )
        story = given(created, held_at("09:01"), under=under)
        story.when(released_at("09:20")).then(expired(at="09:10"), released)
        story.when(sweep("11:00")).then(
            erased(at="09:20", scope=Scope.FULL), erased(at="09:50", scope=Scope.EVERYTHING)
        )


class TestItems:
    """Rules since `stored`, and erasures that take a part."""

    def test_chunks_go_at_once_when_the_work_is_done(self) -> None:
        """Completed at 09:03, not at the five minutes of each chunk."""
        story = given(created, stored_at("09:02"), completed_at("09:03"), under=VIDEO)
        story.when(sweep("09:03")).then(
            erased(at="09:03", scope=Scope.CHUNKS, rule="erase-chunks-completed", oldest_left=None)
        )

    def test_a_chunk_goes_five_minutes_after_it_came(self) -> None:
        """The only chunk came at 09:02."""
        story = given(created, stored_at("09:02"), under=VIDEO)
        story.when(sweep("09:06:59")).then_nothing()
        story.when(sweep("09:07")).then(
            erased(at="09:07", scope=Scope.CHUNKS, rule="erase-chunks-stored", oldest_left=None)
        )
        story.when(sweep("09:09")).then_nothing()

    def test_what_came_later_goes_later(self) -> None:
        """No chunk is erased before its own five minutes are over."""
        story = given(created, stored_at("09:02"), stored_at("09:04"), under=VIDEO)
        story.when(sweep("09:07")).then(
            erased(at="09:07", scope=Scope.CHUNKS, oldest_left="09:04")
        ).then_state(erased=frozenset())
        story.when(sweep("09:09")).then(erased(at="09:09", scope=Scope.CHUNKS, oldest_left=None))

    def test_a_chunk_after_an_erasure_has_its_own_time(self) -> None:
        """New data in a scope that was empty is not taken before its time, and not forgotten."""
        story = given(created, stored_at("09:01"), swept_at("09:06"), under=VIDEO)
        story.when(stored_at("09:07")).then(stored)
        story.when(sweep("09:09:59")).then_nothing()
        story.when(completed_at("09:09:59")).then(completed)
        story.when(sweep("09:09:59")).then(erased(at="09:09:59", scope=Scope.CHUNKS))

    def test_data_that_comes_after_its_erasure_goes_at_once(self) -> None:
        """Chunks are gone at 09:05; one that comes at 09:06 goes at 09:06, not in the past."""
        under = policy('{ since = "created", after = "5m", do = "erase", scope = "chunks" }')
        story = given(created, stored_at("09:06"), under=under)
        story.when(sweep("09:06")).then(erased(at="09:06", scope=Scope.CHUNKS))

    def test_the_session_counts_from_the_newest(self) -> None:
        """An expiry an hour after something was stored waits for the last of it."""
        under = policy('{ since = "stored", after = "1h", do = "expire" }')
        story = given(created, stored_at("09:30"), stored_at("10:15"), under=under)
        story.when(sweep("12:00")).then(expired(at="11:15"))

    def test_nothing_stored_nothing_due(self) -> None:
        """A moment that never came starts no clock."""
        under = policy('{ since = "stored", after = "1h", do = "erase" }')
        story = given(created, under=under)
        story.when(sweep("+9d 09:00")).then_nothing()
        assert story.life.look(instant("+9d 09:00")).next_at is None

    def test_scopes_do_not_touch_each_other(self) -> None:
        """Files that go because the session failed leave the chunks to their own time."""
        under = policy(
            '{ since = "failed", after = "1m", do = "erase", scope = "files" },'
            '{ since = "stored", after = "1h", do = "erase", scope = "chunks" }'
        )
        story = given(created, stored_at("09:10"), failed_at("09:20"), under=under)
        story.when(sweep("11:00")).then(
            erased(at="09:21", scope=Scope.FILES), erased(at="10:10", scope=Scope.CHUNKS)
        )

    def test_what_went_with_the_full_tier_does_not_go_again(self) -> None:
        """Chunks and files belong to the full tier."""
        under = policy(
            '{ since = "stored", after = "5m", do = "erase", scope = "full" },'
            '{ since = "failed", after = "10m", do = "erase", scope = "files" }'
        )
        story = given(created, stored_at("09:01"), failed_at("09:02"), under=under)
        story.when(sweep("10:00")).then(erased(at="09:06", scope=Scope.FULL))

    def test_the_summary_goes_when_there_is_one(self) -> None:
        """A summary can be erased before the rest, and then nothing is left but the record."""
        under = policy(
            SUMMARIZE + ',{ since = "summarized", after = "10m", do = "erase", scope = "summary" }'
        )
        told = given(created, stored_at("09:01"), under=under).when(sweep("10:00"))
        told.then(summarized, erased(at="09:15", scope=Scope.SUMMARY))
        told.then_state(tier=Tier.NOTHING, erased_at=None)

    def test_files_of_a_failed_session_go_and_the_record_stays(self) -> None:
        """Seven days after it failed; the session itself is never erased."""
        story = given(created, failed_at("09:10"), under=preset("therapy-audio"))
        story.when(sweep("+7d 09:09:59")).then_nothing()
        story.when(sweep("+700d 00:00")).then(erased(at="+7d 09:10", scope=Scope.FILES)).then_state(
            erased_at=None
        )


class TestHolds:
    """A hold suspends deletions, and only deletions."""

    def test_an_expiry_happens_all_the_same(self) -> None:
        """It hides, but deletes nothing."""
        story = given(created, held_at("09:10"))
        story.when(sweep("+9d 00:00")).then(expired(at="10:00"))
        outcome = story.life.look(instant("+9d 00:00"))
        assert outcome.held
        assert outcome.next_at is None

    def test_the_erasure_resumes_at_the_release(self) -> None:
        """What was suspended is due the moment the hold is released."""
        story = given(created, held_at("09:10"), swept_at("+3d 00:00"))
        story.when(released_at("+5d 12:00")).then(released)
        story.when(sweep("+6d 00:00")).then(erased(at="+5d 12:00"))

    def test_the_erasure_resumes_at_the_end_of_the_hold(self) -> None:
        """A hold with a term needs no release; the sweep is told when to come again."""
        story = given(created, held_at("09:10", until="+5d 12:00"), swept_at("+3d 00:00"))
        outcome = story.life.look(instant("+3d 00:00"))
        assert (outcome.held, outcome.next_at) == (True, instant("+5d 12:00"))
        story.when(sweep("+9d 00:00")).then(erased(at="+5d 12:00"))

    def test_a_hold_that_ends_before_changes_nothing(self) -> None:
        """It suspended nothing."""
        story = given(created, held_at("09:10", until="12:00"))
        assert not story.life.look(instant("11:00")).held
        story.when(sweep("+9d 00:00")).then(expired(at="10:00"), erased(at="+1d 10:00"))

    def test_a_release_before_anything_was_due_changes_nothing(self) -> None:
        """Erased a day after its expiry, not at the release."""
        given(created, held_at("09:10"), released_at("12:00")).when(sweep("+9d 00:00")).then(
            erased(at="+1d 10:00")
        )

    def test_several_holds(self) -> None:
        """While any of them stands nothing is deleted, whichever ends first."""
        story = given(
            created,
            held_at("09:10", hold="a"),
            held_at("09:11", hold="b", until="+4d 00:00"),
            swept_at("+2d 00:00"),
        )
        story.when(released_at("+3d 00:00", hold="a")).then(released)
        story.when(sweep("+3d 23:59")).then_nothing()
        story.when(sweep("+4d 00:00")).then(erased(at="+4d 00:00"))

    def test_overlapping_terms_are_one(self) -> None:
        """A hold that begins before another has ended prolongs the protection."""
        story = given(
            created,
            held_at("09:10", hold="a", until="+2d 00:00"),
            held_at("+1d 00:00", hold="b", until="+3d 00:00"),
        )
        story.when(sweep("+9d 00:00")).then(erased(at="+3d 00:00"))

    def test_a_gap_between_two_holds_is_no_protection(self) -> None:
        """Due in the gap, the data is gone when the second hold would begin."""
        story = given(created, held_at("09:10", hold="a", until="+2d 00:00"))
        told = story.when(held_at("+2d 00:01", hold="b"))
        assert told.refusal is not None
        assert [type(event).__name__ for event in told.events] == ["Expired", "Erased"]

    def test_what_was_due_before_the_hold_is_gone(self) -> None:
        """Nobody swept, but at the due instant the data was hidden, and a hold cannot unhide it."""
        under = policy('{ since = "created", after = "1h", do = "erase", scope = "chunks" }')
        story = given(created, stored_at("09:05"), under=under)
        told = story.when(held_at("11:00"))
        assert told.refusal is None
        first: Event = told.events[0]
        assert erased(at="10:00", scope=Scope.CHUNKS).differs_from(first) is None

    def test_a_summary_waits_and_compression_does_not(self) -> None:
        """Summarizing deletes the full tier; compressing loses nothing."""
        under = policy('{ since = "created", after = "4m", do = "compress" },' + SUMMARIZE)
        story = given(created, held_at("09:01"), under=under)
        story.when(sweep("09:30")).then(compressed(at="09:04"))
        story.when(released_at("10:00")).then(released)
        story.when(sweep("10:00")).then(summarized(at="10:00"))

    def test_a_limit_may_end_what_is_held(self) -> None:
        """Expired by a limit, its data stays while the hold stands."""
        story = given(created, held_at("09:10"), evicted_at("09:30"))
        story.when(sweep("+9d 00:00")).then_nothing()


class TestExtensionsAndErasures:
    """An extension moves expiries, and nothing else."""

    def test_an_erasure_since_created_stands(self) -> None:
        """Who extends beyond the erasure extends to the erasure."""
        under = policy(
            '{ since = "last_seen", after = "1h", do = "expire" },'
            '{ since = "created", after = "3h", do = "erase" }'
        )
        given(created, extended_at("09:30", "20:00"), under=under).when(sweep("21:00")).then(
            erased(at="12:00")
        )


class TestANewVersion:
    """A policy changes while sessions live."""

    OLD = policy(
        '{ since = "last_seen", after = "50m", do = "warn" },'
        '{ since = "last_seen", after = "1h", do = "expire" },'
        '{ since = "expired", after = "24h", do = "erase" }'
    )
    SHORTER = policy(
        '{ since = "last_seen", after = "20m", do = "warn" },'
        '{ since = "last_seen", after = "30m", do = "expire" },'
        '{ since = "expired", after = "1h", do = "erase" }'
    )
    LONGER = policy(
        '{ since = "last_seen", after = "110m", do = "warn" },'
        '{ since = "last_seen", after = "2h", do = "expire" },'
        '{ since = "expired", after = "24h", do = "erase" }'
    )

    def test_it_never_acts_before_it_takes_effect(self) -> None:
        """Idle since 09:00, shortened to 30 minutes at 09:45: expired at 09:45."""
        story = given(created, under=two_versions(self.OLD, self.SHORTER, "09:45"))
        story.when(sweep("09:44:59")).then_nothing()
        story.when(sweep("09:45")).then(expired(at="09:45", policy_version=2))

    def test_what_was_due_before_keeps_its_instant(self) -> None:
        """Due at 10:00 under the old version, no longer one of 10:30 changes it."""
        story = given(created, under=two_versions(self.OLD, self.LONGER, "10:30"))
        story.when(sweep("+9d 00:00")).then(
            expired(at="10:00", policy_version=1), erased(at="+1d 10:00", policy_version=2)
        )

    def test_open_sessions_live_longer(self) -> None:
        """Changed before it was due, the session lives by the new version."""
        story = given(created, under=two_versions(self.OLD, self.LONGER, "09:55"))
        story.when(sweep("+9d 00:00")).then(
            expired(at="11:00", policy_version=2), erased(at="+1d 11:00", policy_version=2)
        )

    def test_a_chain_across_the_change(self) -> None:
        """Expired under the old version, erased under the new one, but not before that began."""
        story = given(created, under=two_versions(self.OLD, self.SHORTER, "14:00"))
        story.when(sweep("+9d 00:00")).then(
            expired(at="10:00", policy_version=1), erased(at="14:00", policy_version=2)
        )

    def test_no_warning_of_a_deadline_that_will_not_hold(self) -> None:
        """Lengthened from 09:55 on, nobody is warned at 09:50 of an expiry at 10:00."""
        story = given(created, under=two_versions(self.OLD, self.LONGER, "09:55"))
        story.when(sweep("10:49:59")).then_nothing()
        story.when(sweep("10:50")).then(warned(at="10:50", deadline="11:00", policy_version=2))

    def test_a_rule_that_goes_takes_its_deadline_with_it(self) -> None:
        """Without an expiry in the new version the session lives on."""
        new = policy('{ since = "created", after = "30d", do = "erase" }')
        story = given(created, under=two_versions(self.OLD, new, "09:59"))
        story.when(sweep("+29d 00:00")).then_nothing()

    def test_three_versions(self) -> None:
        """Each acts in its own time."""
        versions = (
            Version(1, 0, self.LONGER),
            Version(2, instant("09:20"), self.SHORTER),
            Version(3, instant("09:25"), self.LONGER),
        )
        given(created, under=versions).when(sweep("+9d 00:00")).then(
            expired(at="11:00", policy_version=3), erased(policy_version=3)
        )

    def test_a_session_of_the_new_version_knows_no_old_one(self) -> None:
        """Created after the change, it lives by the new version alone."""
        story = given(created, under=two_versions(self.LONGER, self.SHORTER, "08:00"))
        story.when(sweep("09:30")).then(expired(at="09:30", policy_version=2))

    def test_held_across_the_change(self) -> None:
        """Suspended under the old version, an erasure happens when the new one wants it."""
        new = policy(
            '{ since = "last_seen", after = "1h", do = "expire" },'
            '{ since = "expired", after = "72h", do = "erase" }'
        )
        story = given(
            created,
            held_at("09:10"),
            swept_at("+1d 12:00"),
            under=two_versions(self.OLD, new, "+1d 11:00"),
        )
        story.when(released_at("+2d 00:00")).then(released)
        story.when(sweep("+9d 00:00")).then(erased(at="+3d 10:00", policy_version=2))


class TestForecast:
    """What a reader is told awaits the session."""

    def test_of_a_room(self) -> None:
        """When it expires and is erased if nobody comes, and which rule ends it."""
        seen_ahead = given(created, presence_at("09:30")).life.forecast(instant("09:30"))
        assert seen_ahead.expires_at == instant("10:30")
        assert seen_ahead.erases_at == instant("+1d 10:30")
        assert (seen_ahead.rule, seen_ahead.policy_version) == ("expire-last_seen", 1)

    def test_of_one_that_never_expires(self) -> None:
        """A policy may erase without an expiry."""
        seen_ahead = given(created, under=COACH).life.forecast(instant("09:00"))
        assert seen_ahead.expires_at is None
        assert seen_ahead.erases_at == instant("09:35")
        assert seen_ahead.rule == "erase-summarized"

    def test_of_one_that_stays(self) -> None:
        """Nothing ends a recording that did not fail."""
        seen_ahead = given(created, under=preset("therapy-audio")).life.forecast(instant("09:00"))
        assert (seen_ahead.expires_at, seen_ahead.erases_at, seen_ahead.rule) == (None, None, None)

    def test_of_one_that_has_expired(self) -> None:
        """It says when it did and why, and when it is erased."""
        life = given(created, swept_at("10:30")).life
        seen_ahead = life.forecast(instant("10:30"))
        assert seen_ahead.expires_at == instant("10:00")
        assert seen_ahead.erases_at == instant("+1d 10:00")
        assert seen_ahead.rule == "expire-last_seen"

    def test_under_a_hold(self) -> None:
        """No erasure is promised while nobody knows when the hold ends."""
        seen_ahead = given(created, held_at("09:10")).life.forecast(instant("09:10"))
        assert (seen_ahead.expires_at, seen_ahead.erases_at) == (instant("10:00"), None)

    def test_under_a_hold_with_a_term(self) -> None:
        """The erasure is promised for its end."""
        seen_ahead = given(created, held_at("09:10", "+9d 00:00")).life.forecast(instant("09:10"))
        assert seen_ahead.erases_at == instant("+9d 00:00")


class TestNextAt:
    """When a sweep should come again."""

    @pytest.mark.parametrize(
        ("steps", "next_at"),
        [
            ([], "09:50"),
            ([swept_at("09:50")], "10:00"),
            ([presence_at("09:20")], "10:10"),
            ([extended_at("09:20", "12:00")], "11:50"),
            ([swept_at("10:00")], "+1d 10:00"),
            ([swept_at("10:00"), recovered_at("11:00")], "11:50"),
            ([swept_at("10:00"), held_at("10:30", "+3d 00:00")], "+3d 00:00"),
        ],
    )
    def test_it_is_the_next_due_instant(self, steps: list[Step], next_at: str) -> None:
        """Warnings, expiries, erasures and the ends of holds."""
        life = given(created, *steps).life
        now = max([instant("09:00"), *(step.at for step in steps)])
        assert life.look(now).next_at == instant(next_at)
