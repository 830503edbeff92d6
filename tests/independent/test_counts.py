"""The counts themselves: small cases worked out by hand, and what the real logs come to."""

from pathlib import Path

import pytest

from tests.independent import open_format, readers
from tests.independent.counts import HOUR, MINUTE, Deed, rooms, visits

HALF_AN_HOUR = 30 * MINUTE


def test_a_visit_ends_at_its_due_instant() -> None:
    """Seen again a moment before the half hour is up it goes on, at that moment it is a new one."""
    one = visits([(0, "a"), (HALF_AN_HOUR - 1, "a")], HALF_AN_HOUR)
    two = visits([(0, "a"), (HALF_AN_HOUR, "a")], HALF_AN_HOUR)
    assert (one["sessions"], two["sessions"]) == (1, 2)


def test_an_older_record_does_not_prolong_a_visit() -> None:
    """The last sign of life is the newest, whatever order the records come in."""
    late = [(20 * MINUTE, "a"), (0, "a"), (50 * MINUTE, "a")]
    assert visits(late, HALF_AN_HOUR)["sessions"] == 2


def test_the_clock_of_others_ends_a_visit() -> None:
    """An older record finds its visit expired when somebody else was read at a later time."""
    late = [(0, "a"), (40 * MINUTE, "b"), (10 * MINUTE, "a")]
    assert visits(late, HALF_AN_HOUR) == {
        "sessions": 3,
        "expired_at_last_record": 2,
        "expired_if_clock_runs_on": 3,
    }


def test_people_come_and_go_in_a_room() -> None:
    """Joining, being renamed, leaving under the new name and coming back: one participant."""
    said = [
        Deed(0, "renamed", "ann", "r", "anna"),
        Deed(1, "left", "ann", "r"),
        Deed(2, "left", "anna", "r"),
        Deed(3, "seen", "anna", "r"),
        Deed(4, "joined", "anna", "r"),
        Deed(5, "completed", None, "r"),
        Deed(6, "completed", None, "r"),
    ]
    assert rooms(said, HOUR) == {
        "created": 1,
        "participants": 1,
        "joined": 2,
        "left": 1,
        "completed": 1,
        "failed": 0,
        "expired": 1,
    }


def test_an_expired_room_starts_empty() -> None:
    """Leaving opens no session; who speaks in the next one joins it anew."""
    said = [
        Deed(0, "seen", "ann", "r"),
        Deed(HOUR, "left", "ann", "r"),
        Deed(HOUR, "seen", "b", "r"),
    ]
    count = rooms(said, HOUR)
    assert (count["created"], count["participants"], count["left"]) == (2, 2, 0)


@pytest.mark.parametrize(
    ("file", "agent", "sessions"),
    [
        ("weblog_nasa_19950709/access_09jul1995.txt.gz", False, 3042),
        ("weblog_apache_elastic/apache_logs.gz", False, 3052),
        ("weblog_apache_elastic/apache_logs.gz", True, 3224),
        ("weblog_attackers/hackers-access.log.gz", False, 765),
    ],
)
def test_visits_of_the_web_logs(shared_data: Path, file: str, agent: bool, sessions: int) -> None:
    """The figures of the data's own README (NASA: the one for `now >= due`)."""
    records = readers.web(shared_data / file, agent=agent)
    assert visits(records, HALF_AN_HOUR)["sessions"] == sessions


def test_visits_of_edgar(shared_data: Path) -> None:
    """1 490, as the data's README says."""
    records = readers.edgar(shared_data / "weblog_edgar_20030220" / "log-1000k.csv.gz")
    assert visits(records, HALF_AN_HOUR)["sessions"] == 1490


def test_rooms_of_the_irc_logs(shared_data: Path, tmp_path: Path) -> None:
    """173 rooms, 18 of which fall silent for an hour and start again."""
    files = readers.irc_files(shared_data / "irc_ubuntu_cc" / "ubuntu-irc-raw.tar.gz", tmp_path)
    count = rooms(readers.irc(files), HOUR)
    assert len(files) == 173
    assert count["created"] == count["expired"] == 191
    assert (count["participants"], count["joined"], count["left"]) == (34_966, 35_389, 2_241)


def test_the_meeting_channel(shared_data: Path) -> None:
    """Nine meetings start, seven finish; between meetings the channel is a room like any other."""
    files = readers.meeting_files(shared_data / "irc_ubuntu_meeting_cc")
    meetings = rooms(open_format.deeds(open_format.meetings_to_jsonl(files)), HOUR)
    assert (meetings["created"], meetings["completed"]) == (9, 7)
    channel = rooms(readers.irc(files), HOUR)
    assert (channel["created"], channel["joined"], channel["left"]) == (11, 264, 12)


def test_the_recorded_meetings(shared_data: Path) -> None:
    """Seven joins in six recordings, one of which holds two meetings; all are ended."""
    paths = sorted(shared_data.glob("bbb_meetings/raw/*/events.xml"))
    lines = list(open_format.recordings_to_jsonl(paths))
    count = rooms(open_format.deeds(lines), HOUR)
    assert sum(line["activity"] == "seen" for line in lines) == 327
    assert {count[name] for name in ("created", "joined", "left", "completed")} == {7}


def test_the_shop_sessions(shared_data: Path) -> None:
    """Twenty sessions of 862 events that last weeks; a month of silence ends none of them early."""
    lines = list(open_format.otto_to_jsonl(shared_data / "clickstream_otto" / "train.jsonl"))
    assert len(lines) == 862
    assert rooms(open_format.deeds(lines), 30 * 24 * HOUR)["created"] == 20
    assert rooms(open_format.deeds(lines), HOUR)["created"] == 138
