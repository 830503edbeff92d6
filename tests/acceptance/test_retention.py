"""Sessions end when their policy says so, whoever asks, sweeps, or changes the policy."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from adapters.presets import PRESETS, preset_text
from tests.acceptance import databases
from tests.acceptance.commands import (
    DONE,
    FAILED,
    USAGE,
    Answer,
    Installation,
    written,
)
from tests.servers import wait_until

DAY = "2026-11-01"
FIVE = ("due", "done", "held", "rearmed", "failed")


def seen(
    time: str, visitor: str, room: str | None = None, activity: str = "seen"
) -> dict[str, Any]:
    """A line of a log: somebody did something at a time of the first of November."""
    at = time if "T" in time else f"{DAY}T{time}Z"
    line = {"at": at, "activity": activity, "visitor": visitor}
    return line if room is None else line | {"room": room}


def record(site: Installation, policy: str, *lines: dict[str, Any], **env: Any) -> Any:
    """Import lines, the clock standing at the last one afterwards."""
    path = written(site.folder / f"{policy}.jsonl", list(lines))
    done = site.ask(
        *("ingest", path, "--format", "jsonl", "--policy", policy, "--until", "last"), **env
    )
    site.now = done["last"]
    return done


LIBRARY = [
    seen("10:00:00", "ann", "library", "joined"),
    seen("10:10:00", "bob", "library"),
    seen("10:20:00", "cleo", "library", "joined"),
    seen("10:25:00", "cleo", "library", "left"),
]
"""Three people in a room, where somebody was last seen at 10:25."""
PEOPLE_OF_LIBRARY = 3


def only_session(site: Installation, *options: str) -> Any:
    [session] = site.ask("sessions", *options)["sessions"]
    return session


def history(site: Installation, session_id: str, *events: str) -> list[tuple[str, str]]:
    """(event, when it took effect) of a session; of these events, or of all."""
    entries = site.ask("audit", "show", session_id)["entries"]
    told = [(e["event"].removeprefix("session."), e["effective_at"]) for e in entries]
    return [(event, at) for event, at in told if not events or event in events]


def at(time: str, day: str = DAY) -> str:
    """As the command prints it."""
    return f"{day}T{time}.000Z"


class TestReadingRoom:
    """A room in which nobody was seen for an hour expires and is later removed."""

    @pytest.mark.row("P2.2")
    def test_a_silent_room_expires_at_its_instant_and_is_removed_a_day_later(
        self, site: Installation
    ) -> None:
        """Not a moment earlier, and at that instant however late the sweep; with it go the rows of
        its participants and their keys, and nothing is left of them."""
        record(site, "reading-room", *LIBRARY)
        room = only_session(site)
        assert (room["state"], room["expires_at"]) == ("active", at("11:25:00"))
        assert databases.row_counts(site.database_url, ("presence",)) == {"presence": 3}

        site.now = f"{DAY}T11:24:59.999999Z"
        assert "expired" not in site.ask("sweep")["events"]
        assert only_session(site)["state"] == "active"

        site.now = f"{DAY}T11:25:00Z"
        assert site.ask("sweep")["events"] == {"expired": 1}
        assert only_session(site, "--state", "expired")["id"] == room["id"]
        assert databases.row_counts(site.database_url, ("presence",)) == {"presence": 3}

        site.now = "2026-11-02T11:24:59.999999Z"
        assert site.ask("sweep")["due"] == 0
        site.now = "2026-11-02T11:25:00Z"
        assert site.ask("sweep")["events"] == {"erased": 1}
        assert site.ask("sessions")["sessions"] == []
        everything = (*databases.PEOPLE, "sessions")
        assert set(databases.row_counts(site.database_url, everything).values()) == {0}
        assert "has been erased" in site.lapse("show", room["id"], expect=FAILED).err
        assert history(site, room["id"], "expired", "erased") == [
            ("expired", at("11:25:00")),
            ("erased", at("11:25:00", "2026-11-02")),
        ]

    @pytest.mark.row("P2.2")
    def test_a_sweep_three_days_late_changes_no_instant(self, site: Installation) -> None:
        """What nobody swept has ended all the same; the audit says when, and when it was noted."""
        record(site, "reading-room", *LIBRARY)
        room = only_session(site)["id"]
        site.now = "2026-11-01T11:25:00Z"
        assert only_session(site)["state"] == "expired"
        site.now = "2026-11-04T10:00:00Z"
        assert site.ask("sessions")["sessions"] == []
        site.lapse("show", room, expect=FAILED)
        assert site.ask("sweep")["events"] == {"expired": 1, "erased": 1}
        entries = site.ask("audit", "show", room)["entries"][-2:]
        assert [(e["rule"], e["effective_at"], e["recorded_at"]) for e in entries] == [
            ("expire-last_seen", at("11:25:00"), at("10:00:00", "2026-11-04")),
            ("erase-expired", at("11:25:00", "2026-11-02"), at("10:00:00", "2026-11-04")),
        ]

    @pytest.mark.row("P2.2")
    def test_no_orphans(self, site: Installation) -> None:
        """Of two rooms one is removed: the other keeps its people, among them one who was in both;
        nobody stays who was in neither."""
        lines = [*LIBRARY, seen("11:20:00", "ann", "studio"), seen("11:20:00", "dan", "studio")]
        record(site, "reading-room", *lines)
        url = site.database_url
        assert databases.row_counts(url, ("presence", "subjects")) == {"presence": 5, "subjects": 4}
        site.now = "2026-11-02T11:25:00Z"
        assert site.ask("sweep")["events"]["erased"] == 1
        left = only_session(site)
        assert (left["state"], left["participants"]) == ("expired", 2)
        for table in ("presence", "subject_index", "data_keys"):
            of_sessions = databases.rows(url, f"SELECT DISTINCT session_id FROM {table}")
            assert of_sessions == [(left["id"],)]
        counts = databases.row_counts(url, databases.PEOPLE)
        assert counts == {
            **dict.fromkeys(("presence", "subject_index", "data_keys"), 2),
            **dict.fromkeys(("subjects", "subject_keys"), 2),
            "aliases": 1,
            **dict.fromkeys(("items", "uploads", "partials"), 0),
        }

    @pytest.mark.row("P2.2")
    def test_a_late_sign_of_life_opens_a_new_room(self, site: Installation) -> None:
        """At the due instant the room is over; a moment earlier it goes on."""
        record(site, "reading-room", *LIBRARY, seen("11:24:59", "bob", "library"))
        assert only_session(site)["expires_at"] == at("12:24:59")
        record(
            site,
            "reading-room",
            *LIBRARY,
            seen("11:24:59", "bob", "library"),
            seen("12:24:59", "bob", "library"),
        )
        states = Counter(one["state"] for one in site.ask("sessions")["sessions"])
        assert states == {"expired": 1, "active": 1}


Variable = tuple[str, str, str, tuple[str | int, ...], str | int]
VARIABLES: list[Variable] = [
    ("biometric-coach", "SESSION_TIMEOUT", "60", ("rules", 0, "after"), "1m"),
    ("biometric-coach", "SUMMARY_TIMEOUT", "90", ("rules", 1, "after"), "1m30s"),
    ("biometric-coach", "MAX_CONCURRENT_SESSIONS", "3", ("limits", "concurrent"), 3),
    ("reading-room", "SESSION_TIMEOUT_HOURS", "2", ("rules", 1, "after"), "2h"),
    ("reading-room", "SESSION_TIMEOUT_HOURS", "2", ("rules", 0, "after"), "1h40m"),
    ("reading-room", "PRESENCE_UPDATE_SECONDS", "10", ("presence",), "10s"),
    ("reading-room", "CLEANUP_INTERVAL_MINUTES", "5", ("sweep",), "5m"),
    (
        *("video-analysis", "VIDEO_ANALYSIS_MAX_CONCURRENT_SESSIONS", "3"),
        *(("limits", "concurrent"), 3),
    ),
]


class TestConfiguration:
    """Everything comes from the environment or the policy file."""

    def newest(self, site: Installation, **env: Any) -> dict[str, Any]:
        """The newest version of each policy, after a command that works with this environment."""
        site.wait(minutes=1)
        site.lapse("db", "upgrade")
        site.lapse("sweep", **env)
        shown = site.ask("policy", "show", **env)
        return {name: versions[-1]["policy"] for name, versions in shown.items()}

    @pytest.mark.row("P1.4")
    def test_each_variable_changes_its_policy_and_no_other(self, site: Installation) -> None:
        """Those of one preset after those of another; what a preset names there is all tried."""
        named = {
            entry["name"]
            for name in PRESETS
            for entry in tomllib.loads(preset_text(name))["policy"][name].get("environment", [])
        }
        assert named == {variable for _, variable, *_ in VARIABLES}
        presets = self.newest(site)
        for policy in dict.fromkeys(policy for policy, *_ in VARIABLES):
            changes = [one for one in VARIABLES if one[0] == policy]
            changed = self.newest(site, **{variable: value for _, variable, value, *_ in changes})
            for _, variable, _, path, expected in changes:
                found, before = changed[policy], presets[policy]
                for step in path:
                    found, before = found[step], before[step]
                assert found == expected != before, variable
            for other in presets.keys() - {policy}:
                assert changed[other] == presets[other]

    @pytest.mark.row("P1.4")
    def test_timeouts_of_biometric_coach_are_what_the_variables_say(
        self, site: Installation
    ) -> None:
        """SESSION_TIMEOUT until it is summarized, SUMMARY_TIMEOUT from then until it is erased."""
        site.environment |= {"SESSION_TIMEOUT": "60", "SUMMARY_TIMEOUT": "120"}
        record(site, "biometric-coach", seen("10:00:00", "ann"))
        session = only_session(site)["id"]
        site.wait(hours=1)
        site.lapse("sweep")
        assert history(site, session, "summarized", "erased") == [
            ("summarized", at("10:01:00")),
            ("erased", at("10:03:00")),
        ]

    @pytest.mark.row("P1.4")
    def test_timeouts_of_biometric_coach_are_5_and_30_minutes_otherwise(
        self, site: Installation
    ) -> None:
        """The defaults that the system names."""
        record(site, "biometric-coach", seen("10:00:00", "ann"))
        session = only_session(site)["id"]
        site.wait(hours=1)
        site.lapse("sweep")
        assert history(site, session, "summarized", "erased") == [
            ("summarized", at("10:05:00")),
            ("erased", at("10:35:00")),
        ]

    @pytest.mark.row("P1.4")
    @pytest.mark.parametrize(("env", "most"), [({}, 10), ({"MAX_CONCURRENT_SESSIONS": "2"}, 2)])
    def test_concurrent_sessions_are_limited_as_the_variable_says(
        self, site: Installation, env: dict[str, str], most: int
    ) -> None:
        """Twelve people come at once."""
        lines = [seen("10:00:00", f"person-{number}") for number in range(12)]
        done = record(site, "biometric-coach", *lines, **env)
        assert (done["sessions"], done["refused"]) == (most, 12 - most)

    @pytest.mark.row("P1.4")
    def test_a_room_expires_when_the_variable_says(self, site: Installation) -> None:
        """SESSION_TIMEOUT_HOURS=2."""
        site.environment |= {"SESSION_TIMEOUT_HOURS": "2"}
        record(site, "reading-room", *LIBRARY)
        assert only_session(site, "--state", "active")["expires_at"] == at("12:25:00")

    @pytest.mark.row("P1.4")
    def test_the_long_name_of_a_variable_wins(self, site: Installation) -> None:
        """For systems that share a name with another."""
        env = {"SESSION_TIMEOUT_HOURS": "3", "READING_ROOM_SESSION_TIMEOUT_HOURS": "2"}
        assert self.newest(site, **env)["reading-room"]["rules"][1]["after"] == "2h"

    @pytest.mark.row("P1.4")
    @pytest.mark.parametrize("value", ["soon", "-1", "0", "", "1e99"])
    def test_a_variable_that_makes_no_sense_is_refused(
        self, site: Installation, value: str
    ) -> None:
        """By name, before anything is written."""
        refused = site.lapse("status", expect=USAGE, SESSION_TIMEOUT=value)
        assert "environment variable SESSION_TIMEOUT: must be a number above 0" in refused.err

    @pytest.mark.row("P1.4")
    def test_no_number_of_a_preset_is_hard_coded(self, site: Installation, tmp_path: Path) -> None:
        """A policy file that doubles every number of every preset is what counts."""
        presets = self.newest(site)
        doubled = {name: _doubled(document) for name, document in presets.items()}
        path = tmp_path / "policies.toml"
        path.write_text(_toml(doubled))
        assert self.newest(site, LAPSE_POLICY_FILE=str(path)) == doubled

    @pytest.mark.row("P1.4")
    def test_the_policy_file_replaces_a_preset(self, site: Installation, tmp_path: Path) -> None:
        """A reading room that closes after six minutes; named in a settings file this time."""
        path = tmp_path / "policies.toml"
        path.write_text(_rooms(6))
        (tmp_path / "settings.toml").write_text(f'policy_file = "{path}"\n')
        site.environment |= {"LAPSE_CONFIG": str(tmp_path / "settings.toml")}
        done = record(site, "reading-room", *LIBRARY)
        assert done["events"]["expired"] == 2  # after 10:00 and after 10:10
        assert only_session(site, "--state", "active")["expires_at"] == at("10:31:00")

    @pytest.mark.row("P1.4")
    def test_a_changed_variable_reaches_sessions_that_are_open(self, site: Installation) -> None:
        """Started with SESSION_TIMEOUT_HOURS=0.5 the service closes a room that was open, when the
        new version takes effect: five seconds later."""
        record(site, "reading-room", seen("10:00:00", "ann", "library"))
        room = only_session(site)["id"]
        site.now = f"{DAY}T10:40:00Z"
        with site.serving(SESSION_TIMEOUT_HOURS="0.5"):
            assert databases.events(site.database_url) == {"created": 1, "joined": 1}
            site.now = f"{DAY}T10:40:05Z"
            _wait_for_event(site, "expired")
        assert history(site, room, "expired") == [("expired", at("10:40:05"))]


def _doubled(document: dict[str, Any]) -> dict[str, Any]:
    """Every duration and every limit twice as much."""

    def twice(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: twice(name, inner) for name, inner in value.items()}
        if key == "rules":
            return [rule | {"after": twice("after", rule["after"])} for rule in value]
        if key in ("after", "sweep", "recover", "audit_retention", "presence"):
            return _duration(2 * _seconds(value))
        return 2 * value if isinstance(value, int) else value

    return {key: twice(key, value) for key, value in document.items()}


_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def _seconds(text: str) -> int:
    total = number = 0
    for sign in text:
        if sign.isdigit():
            number = 10 * number + int(sign)
        else:
            total, number = total + number * _SECONDS[sign], 0
    return total


def _duration(seconds: int) -> str:
    parts = []
    for unit, size in _SECONDS.items():
        number, seconds = divmod(seconds, size)
        parts += [f"{number}{unit}"] if number else []
    return "".join(parts) or "0s"


def _toml(policies: dict[str, dict[str, Any]]) -> str:
    """Inline tables may hold everything, so each policy is one value per key."""
    lines = []
    for name, document in policies.items():
        lines.append(f"[policy.{name}]")
        lines += [f"{key} = {_value(value)}" for key, value in document.items()]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _rooms(minutes: int) -> str:
    """A policy file in which reading rooms expire after so many minutes."""
    return f"""
        [policy.reading-room]
        rules = [
          {{ since = "last_seen", after = "{minutes}m", do = "expire" }},
          {{ since = "expired", after = "24h", do = "erase" }},
        ]
        """


class TestSweep:
    """What is due is emitted by a service by itself, and by hand; the numbers add up."""

    @pytest.mark.row("P2.5", "G11")
    def test_the_service_emits_what_is_due_by_itself(self, site: Installation) -> None:
        """The warning, the expiry and the erasure, each once its time has come; every sweep logs a
        count that adds up. SIGTERM ends the service in order."""
        record(site, "reading-room", *LIBRARY)
        room = only_session(site)["id"]
        with site.serving() as service:
            for when, event in (
                (f"{DAY}T11:15:00Z", "expiring"),
                (f"{DAY}T11:25:00Z", "expired"),
                ("2026-11-02T11:25:00Z", "erased"),
            ):
                site.now = when
                _wait_for_event(site, event)
        assert history(site, room, "expiring", "expired", "erased") == [
            ("expiring", at("11:15:00")),
            ("expired", at("11:25:00")),
            ("erased", at("11:25:00", "2026-11-02")),
        ]
        sweeps = service.so_far.logged("sweep")
        assert sum(entry["done"] for entry in sweeps) == 3
        for entry in sweeps:
            assert_adds_up(entry)
            assert {"component", "result", "duration_ms", "timestamp"} <= entry.keys()
        assert_no_people(service.so_far)

    @pytest.mark.row("P2.5")
    @pytest.mark.parametrize(("env", "minutes"), [({}, 15), ({"CLEANUP_INTERVAL_MINUTES": "5"}, 5)])
    def test_a_sweep_runs_every_interval_whatever_the_deadlines_say(
        self, site: Installation, env: dict[str, str], minutes: int
    ) -> None:
        """The fallback: 15 minutes, or what CLEANUP_INTERVAL_MINUTES says."""
        with site.serving(**env) as service:
            assert service.so_far.logged("sweep") == []
            site.wait(minutes=minutes)
            wait_until(lambda: bool(service.so_far.logged("sweep")), 30, "the fallback sweep")
        assert [entry["due"] for entry in service.so_far.logged("sweep")] == [0]

    @pytest.mark.row("P2.5", "G11")
    def test_a_sweep_by_hand_says_first_what_it_would_do(self, site: Installation) -> None:
        """`--dry-run` writes not a byte, and the sweep then does exactly what it said."""
        record(
            site,
            "reading-room",
            *LIBRARY,
            seen("10:50:00", "dan", "studio"),
            seen("11:10:00", "dan", "studio"),
        )
        site.now = f"{DAY}T12:00:00Z"
        before = databases.contents(site.database_url)
        preview = site.ask("sweep", "--dry-run")
        assert databases.contents(site.database_url) == before
        assert preview["dry_run"]
        assert preview["events"]["expired"] == 1

        swept = site.lapse("sweep", "--json")
        assert swept.document == preview | {"dry_run": False}
        [entry] = swept.logged("sweep")
        assert {key: entry[key] for key in FIVE} == {key: preview[key] for key in FIVE}
        assert site.ask("sweep")["due"] == 0
        assert databases.contents(site.database_url) != before

    def test_what_is_due_is_what_the_sweep_then_does(self, site: Installation) -> None:
        """The longest overdue first, page by page, with the rule; who was seen is not among it."""
        record(site, "web-visit", *(seen(f"10:0{number}:00", f"v{number}") for number in range(3)))
        record(site, "reading-room", *LIBRARY)
        site.now = f"{DAY}T10:50:00Z"
        page = site.ask("sessions", "--due", "--limit", "2")
        rest = site.ask("sessions", "--due", "--limit", "2", "--after", page["next"])
        assert rest["next"] is None
        due = page["due"] + rest["due"]
        assert [one["due_at"] for one in due] == [at(f"10:3{number}:00") for number in range(3)]
        assert {(one["policy"], one["do"], one["rule"]) for one in due} == {
            ("web-visit", "expire", "expire-last_seen")
        }
        assert site.ask("sessions", "--due", "--policy", "reading-room")["due"] == []
        assert "expire-last_seen" in site.lapse("sessions", "--due").out
        assert site.ask("sweep")["events"] == {"expired": 3}
        assert site.ask("sessions", "--due")["due"] == []
        for wrong in (("--state", "active"), ("--after", "nowhere")):
            site.lapse("sessions", "--due", *wrong, expect=USAGE)

    @pytest.mark.row("P2.5")
    def test_statistics(self, site: Installation) -> None:
        """Total, active and inactive sessions, participants per session, last activity: as they
        are at this instant, whether a sweep ran or not."""
        record(
            site,
            "reading-room",
            *LIBRARY,
            seen("11:20:00", "dan", "studio"),
            seen("11:22:00", "eve", "studio"),
        )
        for sweep_first in (False, True):
            site.now = f"{DAY}T11:30:00Z"
            if sweep_first:
                assert site.ask("sweep")["events"] == {"expired": 1}
            found = site.ask("status")["policies"]["reading-room"]
            assert (found["total"], found["active"], found["inactive"]) == (2, 1, 1)
            assert found["last_activity"] == at("11:22:00")
            assert (found["participants"], found["participants_per_session"]) == (5, 2.5)
        shown = site.lapse("status").out
        assert "reading-room" in shown
        assert "participants_per_session" in shown

    @pytest.mark.row("G11")
    def test_every_outcome_is_counted_and_the_numbers_add_up(self, site: Installation) -> None:
        """Two visits to be erased, one that is held, one that was seen again, one whose state
        cannot be read: due = done + held + rearmed + failed, in the answer and in the log. The one
        that failed stops nobody; repaired, it is erased too."""
        url = site.database_url
        record(
            site,
            "web-visit",
            *(seen("10:00:00", f"visitor-{number}") for number in range(4)),
            seen("2026-11-02T10:10:00Z", "late"),
            seen("2026-11-02T10:20:00Z", "late"),
        )
        held, broken, *_ = sorted(
            one["id"] for one in site.ask("sessions", "--state", "expired")["sessions"]
        )
        place_hold = site.program("tests.acceptance.programs:hold", held, "2026-11-09T00:00:00Z")
        assert place_hold.wait().code == DONE
        state = databases.value(url, "SELECT state FROM sessions WHERE session_id = ?", broken)
        databases.change(
            url, "UPDATE sessions SET state = ? WHERE session_id = ?", state[:-1], broken
        )

        site.now = "2026-11-02T10:45:00Z"
        preview = site.ask("sweep", "--dry-run", expect=FAILED)
        swept = site.lapse("sweep", "--json", expect=FAILED)
        expected = {"due": 5, "done": 2, "held": 1, "rearmed": 1, "failed": 1}
        assert {key: swept.document[key] for key in FIVE} == expected
        assert {key: preview[key] for key in FIVE} == expected
        [entry] = swept.logged("sweep")
        assert {key: entry[key] for key in FIVE} == expected
        assert entry["result"] == "failed"
        assert swept.document["events"] == preview["events"] == {"erased": 2}

        assert site.ask("db", "rebuild", "sessions")["rebuilt"] == {"sessions": 3}
        site.now = "2026-11-02T10:50:00Z"
        again = site.ask("sweep")
        assert_adds_up(again)
        assert again["events"] == {"erased": 1, "expired": 1}
        left = {one["id"]: one["held"] for one in site.ask("sessions")["sessions"]}
        assert (len(left), left[held]) == (2, True)

        site.now = "2026-11-09T00:00:00Z"
        assert site.ask("sweep")["events"] == {"erased": 2}
        assert site.ask("sessions")["sessions"] == []


def _wait_for_event(site: Installation, event: str) -> None:
    wait_until(lambda: databases.events(site.database_url).get(event) == 1, 30, event)


def assert_adds_up(count: dict[str, Any]) -> None:
    """due = done + held + rearmed + failed."""
    assert count["due"] == sum(count[part] for part in FIVE[1:]), count


def assert_no_people(answer: Answer) -> None:
    for name in ("ann", "bob", "cleo", "library"):
        assert name not in answer.out + answer.err


class TestPolicyChange:
    """A new version of a policy: checked, previewed, applied; open sessions are re-evaluated."""

    @pytest.fixture
    def quarter(self, tmp_path: Path) -> str:
        """A policy file in which rooms expire after a quarter of an hour."""
        path = tmp_path / "quarter.toml"
        path.write_text(_rooms(15))
        return str(path)

    @pytest.mark.row("P1.4")
    def test_a_change_shows_its_impact_and_then_ends_open_sessions_sooner(
        self, site: Installation, quarter: str
    ) -> None:
        """One room idles for longer than the new limit, another will soon: the impact says so and
        writes nothing; applied, the version takes effect five seconds later and the rooms end by
        it, not before."""
        record(site, "reading-room", *LIBRARY, seen("10:40:00", "dan", "studio"))
        site.now = f"{DAY}T10:45:00Z"
        library, studio = (
            one["id"]
            for one in sorted(site.ask("sessions")["sessions"], key=lambda one: one["created_at"])
        )
        assert site.ask("policy", "check", quarter) == {
            "ok": True,
            "policies": ["reading-room"],
            "problems": [],
            "notes": [],
        }
        before = databases.contents(site.database_url)
        impact = site.ask("policy", "impact", quarter)
        assert impact["reading-room"] == {"sessions": 2, "sooner": 2, "later": 0, "at_once": 1}
        assert databases.contents(site.database_url) == before

        applied = site.ask("policy", "apply", quarter)["reading-room"]
        assert applied == {
            "version": 2,
            "effective_from": at("10:45:05"),
            "changed": True,
            "rearmed": 2,
        }
        assert site.ask("policy", "apply", quarter)["reading-room"]["changed"] is False
        assert site.ask("sweep")["due"] == 0
        site.now = f"{DAY}T10:45:05Z"
        assert site.ask("sweep")["events"] == {"expired": 1}
        site.now = f"{DAY}T10:55:00Z"
        assert site.ask("sweep")["events"] == {"expired": 1}
        assert history(site, library, "expired") == [("expired", at("10:45:05"))]
        assert history(site, studio, "expired") == [("expired", at("10:55:00"))]
        versions = site.ask("policy", "show", "reading-room")["reading-room"]
        assert [one["version"] for one in versions] == [1, 2]
        assert site.ask("audit", "show", library)["entries"][-1]["policy_version"] == 2
        assert [
            entry["event"] for entry in site.ask("audit", "show", "policy:reading-room")["entries"]
        ] == ["policy.applied", "policy.applied"]

    @pytest.mark.row("P1.4")
    def test_a_longer_limit_keeps_open_sessions_longer(
        self, site: Installation, tmp_path: Path
    ) -> None:
        """A room whose hour is almost over gets the two hours of the new version."""
        path = tmp_path / "longer.toml"
        path.write_text(_rooms(120))
        record(site, "reading-room", *LIBRARY)
        site.now = f"{DAY}T11:20:00Z"
        assert site.ask("policy", "impact", str(path))["reading-room"]["later"] == 1
        site.lapse("policy", "apply", str(path))
        site.now = f"{DAY}T12:24:59Z"
        assert "expired" not in site.ask("sweep")["events"]
        assert only_session(site)["expires_at"] == at("12:25:00")
        site.now = f"{DAY}T12:25:00Z"
        assert site.ask("sweep")["events"] == {"expired": 1}

    @pytest.mark.row("P1.4")
    def test_a_running_service_follows_a_change(self, site: Installation, quarter: str) -> None:
        """Nobody restarts it: the room ends by the version that another process applied."""
        record(site, "reading-room", *LIBRARY)
        with site.serving():
            site.lapse("policy", "apply", quarter)
            site.now = f"{DAY}T10:40:00Z"
            _wait_for_event(site, "expired")

    @pytest.mark.row("P1.4")
    def test_a_change_lies_ahead(self, site: Installation, quarter: str) -> None:
        """At least five seconds, so that every instance knows it in time; or as long as one says,
        and until then the old version holds."""
        record(site, "reading-room", *LIBRARY)
        refused = site.lapse(
            *("policy", "apply", quarter, "--effective-from", f"{DAY}T10:25:04Z"), expect=USAGE
        )
        assert "at least 5 s ahead" in refused.err
        assert f"the earliest possible time is {at('10:25:05')}" in refused.err
        assert len(site.ask("policy", "show", "reading-room")["reading-room"]) == 1
        site.lapse("policy", "apply", quarter, "--effective-from", f"{DAY}T11:00:00Z")
        site.now = f"{DAY}T10:59:59Z"
        assert only_session(site)["state"] == "active"
        site.now = f"{DAY}T11:00:00Z"
        assert only_session(site)["state"] == "expired"
        assert site.ask("sweep")["events"] == {"expired": 1}

    @pytest.mark.row("P1.4")
    def test_a_change_that_lies_far_ahead_is_in_nobodys_way(
        self, site: Installation, quarter: str, tmp_path: Path
    ) -> None:
        """A later version that takes effect sooner supersedes it: rooms end by that one, on either
        side of the instant for which the superseded one was meant, which nobody sees again."""
        longer = tmp_path / "longer.toml"
        longer.write_text(_rooms(45))
        record(site, "reading-room", seen("10:00:00", "ann", "library"))
        site.lapse("policy", "apply", quarter, "--effective-from", f"{DAY}T10:30:00Z")
        assert only_session(site)["expires_at"] == at("10:30:00")
        site.now = f"{DAY}T10:20:00Z"
        answer = site.lapse("policy", "apply", str(longer))
        assert "version 3 from 2026-11-01T10:20:05Z" in answer.out
        assert "version 2 from 2026-11-01T10:30:00Z is superseded" in answer.out
        room = only_session(site)
        assert (room["expires_at"], room["policy_version"]) == (at("10:45:00"), 3)
        site.now = f"{DAY}T10:44:59Z"
        assert "expired" not in site.ask("sweep")["events"]
        site.now = f"{DAY}T10:45:00Z"
        assert site.ask("sweep")["events"] == {"expired": 1}
        assert site.ask("audit", "show", room["id"])["entries"][-1]["policy_version"] == 3
        assert site.ask("db", "check")["ok"]
        told = site.ask("policy", "show", "reading-room")["reading-room"]
        assert [(one["version"], one["superseded"]) for one in told] == [
            (1, False),
            (2, True),
            (3, False),
        ]
        shown = site.lapse("policy", "show", "reading-room").out
        assert "reading-room, version 3, in force since 2026-11-01T10:20:05Z" in shown
        assert "version 2" not in shown

    def test_a_change_that_lies_ahead_can_be_brought_forward(
        self, site: Installation, quarter: str
    ) -> None:
        """The same policy with an earlier time; without one it is unchanged, with a later one too,
        since it holds by then."""
        site.lapse("db", "upgrade")
        site.lapse("sweep")
        apply = ("policy", "apply", quarter)
        for at_time, version in (
            ("2026-12-01T00:00:00Z", 2),
            ("2026-12-01T00:00:00Z", None),
            ("2026-12-24T00:00:00Z", None),
            (None, None),
            ("2026-11-23T00:00:00Z", 3),
        ):
            when = ("--effective-from", at_time) if at_time else ()
            applied = site.ask(*apply, *when)["reading-room"]
            assert applied["version"] == version, at_time
        shown = site.lapse("policy", "show", "reading-room").out
        assert "reading-room, version 1, in force since ever" in shown
        assert "reading-room, version 3, takes effect at 2026-11-23T00:00:00Z" in shown
        assert "version 2" not in shown

    def test_the_configured_file_itself_can_be_applied_from_a_time_on(
        self, site: Installation, quarter: str
    ) -> None:
        """Edited and applied by hand, the file that LAPSE_POLICY_FILE names does not take effect
        before the time that was said; commands that come later change nothing about it."""
        site.environment |= {"LAPSE_POLICY_FILE": quarter}
        record(site, "reading-room", *LIBRARY)
        Path(quarter).write_text(_rooms(10))
        site.lapse("policy", "apply", quarter, "--effective-from", f"{DAY}T11:00:00Z")
        site.wait(seconds=10)
        site.lapse("sweep")
        told = site.ask("policy", "show", "reading-room")["reading-room"]
        assert [one["effective_from"] for one in told] == [None, at("11:00:00")]

    def test_a_policy_that_is_configured_can_be_shown_before_it_is_recorded(
        self, site: Installation, tmp_path: Path
    ) -> None:
        """Nothing has opened the database with it yet; looking does not record it either."""
        site.lapse("db", "upgrade")
        site.lapse("sweep")
        path = tmp_path / "policies.toml"
        path.write_text(_rooms(20).replace("reading-room", "study-room"))
        env: dict[str, Any] = {"LAPSE_POLICY_FILE": str(path)}
        shown = site.lapse("policy", "show", "study-room", **env).out
        assert "study-room, configured, not recorded yet" in shown
        assert "20m" in shown
        [told] = site.ask("policy", "show", "study-room", **env)["study-room"]
        assert (told["version"], told["effective_from"]) == (0, None)
        assert "study-room" in site.ask("policy", "show", **env)
        assert "study-room" not in site.ask("policy", "show")

    def test_a_policy_is_shown_with_all_of_its_keys(self, site: Installation) -> None:
        """Not only its rules."""
        shown = site.lapse("policy", "show", "biometric-coach").out
        for text in (
            "biometric-coach, configured, not recorded yet",
            "concurrent = 10",
            "avg_stillness = ",
            "SESSION_TIMEOUT sets rules[0].after",
            "sweep            15m",
            "recover          0s",
            "audit_retention  400d",
        ):
            assert text in shown

    def test_what_somebody_applied_outlasts_a_restart(
        self, site: Installation, quarter: str
    ) -> None:
        """The preset, which the installation is configured with, does not come back by itself."""
        site.lapse("db", "upgrade")
        site.lapse("sweep")
        site.wait(minutes=1)
        site.lapse("policy", "apply", quarter)
        site.wait(minutes=1)
        site.lapse("sweep")
        [*_, newest] = site.ask("policy", "show", "reading-room")["reading-room"]
        assert newest["policy"]["rules"][0]["after"] == "15m"
