"""The policies that come with Lapse: what the five systems were promised, and their variables."""

import tomllib
from importlib.resources import files

import pytest

from adapters.presets import PRESETS, preset_text
from domain.errors import PolicyInvalid, PolicyUnknown
from domain.policy import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Do,
    Limits,
    OnExceed,
    RetentionPolicy,
    Since,
    format_duration,
    parse,
)
from domain.session import Scope
from tests.domain.life import preset

Said = tuple[Since, str, Do, Scope | None]


def said(policy: RetentionPolicy) -> list[Said]:
    """Its rules as a person would read them."""
    return [(rule.since, format_duration(rule.after), rule.do, rule.scope) for rule in policy.rules]


def under(name: str, **variables: str) -> RetentionPolicy:
    """The preset in this environment."""
    return parse(preset_text(name), variables)[name]


class TestTheSix:
    """Names and texts."""

    def test_their_names(self) -> None:
        """Five systems and the visits of a web site; a file for each, and no file more."""
        assert len(PRESETS) == 6
        there = {entry.name for entry in files("adapters.presets").iterdir()}
        assert {name for name in there if name.endswith(".toml")} == {f"{n}.toml" for n in PRESETS}

    @pytest.mark.parametrize("name", PRESETS)
    def test_each_is_one_valid_policy_of_its_name(self, name: str) -> None:
        """The file says nothing else."""
        assert list(parse(preset_text(name))) == [name]

    @pytest.mark.parametrize("name", ["room", "../settings", ""])
    def test_there_is_no_other(self, name: str) -> None:
        """A name that is none of them is refused, with those that are."""
        with pytest.raises(PolicyUnknown) as refusal:
            preset_text(name)
        assert (refusal.value.name, refusal.value.known) == (name, PRESETS)

    def test_they_fit_into_one_file(self) -> None:
        """All presets together are a policy file too."""
        assert list(parse("\n".join(map(preset_text, PRESETS)))) == list(PRESETS)


class TestPromises:
    """Rules, limits and intervals."""

    def test_biometric_coach(self) -> None:
        """Full data 5 min, the summary 30 min, at most 10 sessions."""
        coach = preset("biometric-coach")
        assert said(coach) == [
            (Since.CREATED, "5m", Do.SUMMARIZE, None),
            (Since.SUMMARIZED, "30m", Do.ERASE, Scope.EVERYTHING),
        ]
        assert coach.limits == Limits(concurrent=10)
        assert coach.summary == {
            "avg_stillness": "mean(stillness)",
            "total_frames": "count()",
            "session_duration": "duration()",
        }

    def test_reading_room(self) -> None:
        """Seen every 30 s, warned, expired after an hour, removed a day later, swept in between."""
        room = preset("reading-room")
        assert said(room) == [
            (Since.LAST_SEEN, "50m", Do.WARN, None),
            (Since.LAST_SEEN, "1h", Do.EXPIRE, None),
            (Since.EXPIRED, "1d", Do.ERASE, Scope.EVERYTHING),
        ]
        assert (room.presence, room.sweep, room.recover) == (30 * SECOND, 15 * MINUTE, 12 * HOUR)

    def test_video_analysis(self) -> None:
        """Chunks 5 min or until the work is done, 10 min for all of it, small results."""
        video = preset("video-analysis")
        assert said(video) == [
            (Since.COMPLETED, "0s", Do.ERASE, Scope.CHUNKS),
            (Since.STORED, "5m", Do.ERASE, Scope.CHUNKS),
            (Since.CREATED, "10m", Do.EXPIRE, None),
            (Since.EXPIRED, "0s", Do.ERASE, Scope.EVERYTHING),
        ]
        assert video.limits == Limits(
            concurrent=10, session_bytes=512 * 10**6, result_bytes=5 * 10**3
        )
        assert video.progress == (
            "chunk_received",
            "processing_started",
            "frames_extracted",
            "analysis_progress",
            "analysis_complete",
            "error",
        )

    def test_therapy_audio(self) -> None:
        """Files of failed sessions go after 7 days; the record is never erased."""
        assert said(preset("therapy-audio")) == [(Since.FAILED, "7d", Do.ERASE, Scope.FILES)]

    def test_browser_session(self) -> None:
        """Compressed after 7 days, expired after 30, 10 per owner, the oldest go first."""
        browser = preset("browser-session")
        assert said(browser) == [
            (Since.CREATED, "7d", Do.COMPRESS, None),
            (Since.CREATED, "30d", Do.EXPIRE, None),
            (Since.EXPIRED, "1d", Do.ERASE, Scope.EVERYTHING),
        ]
        assert browser.limits == Limits(per_owner=10, on_exceed=OnExceed.EXPIRE_OLDEST)

    def test_web_visit(self) -> None:
        """Idle for half an hour a visit is over; a day later it is gone."""
        assert said(preset("web-visit")) == [
            (Since.LAST_SEEN, "30m", Do.EXPIRE, None),
            (Since.EXPIRED, "1d", Do.ERASE, Scope.EVERYTHING),
        ]

    @pytest.mark.parametrize("name", PRESETS)
    def test_the_log_ages(self, name: str) -> None:
        """Bodies of events go 400 days after the erasure."""
        assert preset(name).audit_retention == 400 * DAY


class TestVariables:
    """The environment variables of the five systems."""

    def test_session_timeout(self) -> None:
        """Seconds in which the full data is kept."""
        coach = under("biometric-coach", SESSION_TIMEOUT="120")
        assert [rule.after for rule in coach.rules] == [2 * MINUTE, 30 * MINUTE]

    def test_summary_timeout(self) -> None:
        """Seconds in which the summary is kept."""
        coach = under("biometric-coach", SUMMARY_TIMEOUT="60")
        assert [rule.after for rule in coach.rules] == [5 * MINUTE, MINUTE]

    def test_max_concurrent_sessions(self) -> None:
        """The short name is the coach's; the video's stands under its long name."""
        both = {
            "MAX_CONCURRENT_SESSIONS": "3",
            "VIDEO_ANALYSIS_MAX_CONCURRENT_SESSIONS": "4",
        }
        assert under("biometric-coach", **both).limits.concurrent == 3
        assert under("video-analysis", **both).limits.concurrent == 4
        assert under("video-analysis", MAX_CONCURRENT_SESSIONS="3").limits.concurrent == 10
        assert under("biometric-coach", BIOMETRIC_COACH_MAX_CONCURRENT_SESSIONS="5", **both) == (
            under("biometric-coach", MAX_CONCURRENT_SESSIONS="5")
        )

    def test_presence_update_seconds(self) -> None:
        """How often people are seen."""
        assert under("reading-room", PRESENCE_UPDATE_SECONDS="45").presence == 45 * SECOND

    @pytest.mark.parametrize(
        ("hours", "warned", "expired"),
        [("1", "50m", "1h"), ("24", "20h", "1d"), ("0.5", "25m", "30m"), ("3", "2h30m", "3h")],
    )
    def test_session_timeout_hours(self, hours: str, warned: str, expired: str) -> None:
        """Hours until an idle room expires; the warning keeps its share of them."""
        room = under("reading-room", SESSION_TIMEOUT_HOURS=hours)
        assert [format_duration(rule.after) for rule in room.rules] == [warned, expired, "1d"]

    def test_cleanup_interval_minutes(self) -> None:
        """How often a sweep runs in any case."""
        assert under("reading-room", CLEANUP_INTERVAL_MINUTES="5").sweep == 5 * MINUTE

    @pytest.mark.parametrize(
        ("name", "variable"),
        [
            ("biometric-coach", "SESSION_TIMEOUT"),
            ("biometric-coach", "SUMMARY_TIMEOUT"),
            ("biometric-coach", "MAX_CONCURRENT_SESSIONS"),
            ("reading-room", "SESSION_TIMEOUT_HOURS"),
            ("reading-room", "PRESENCE_UPDATE_SECONDS"),
            ("reading-room", "CLEANUP_INTERVAL_MINUTES"),
            ("video-analysis", "VIDEO_ANALYSIS_MAX_CONCURRENT_SESSIONS"),
        ],
    )
    def test_a_wrong_value_is_named(self, name: str, variable: str) -> None:
        """Nothing starts with a setting that cannot be read."""
        with pytest.raises(PolicyInvalid) as refusal:
            under(name, **{variable: "many"})
        assert [problem.place for problem in refusal.value.problems] == [
            f"environment variable {variable}"
        ]

    def test_no_variable_reaches_two_systems(self) -> None:
        """A short name that two presets declare would change both."""
        declared = [
            (entry["name"], name)
            for name in PRESETS
            for entry in tomllib.loads(preset_text(name))["policy"][name].get("environment", [])
        ]
        owners = {variable: {n for v, n in declared if v == variable} for variable, _ in declared}
        assert all(len(names) == 1 for names in owners.values()), owners
