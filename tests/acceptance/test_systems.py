"""The first three systems from end to end on real input: over HTTP, against real processes, on each
database, the clock moved by the test."""

import json
import shutil
import subprocess
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from domain.policy import HOUR, MINUTE, SECOND
from domain.use_cases.items import CHUNK
from tests.acceptance import databases
from tests.acceptance.clients import Client, client
from tests.acceptance.commands import Installation, Running, instant, micros
from tests.independent import poses, readers
from tests.independent.counts import Deed, rooms, since_the_last_silence
from tests.servers import wait_until
from tests.streams import PATIENCE, socket, watching

Told = Sequence[tuple[str, Mapping[str, Any]]]
"""What somebody who watches got: kind and data."""

START = micros("2026-11-01T10:00:00Z")


@pytest.fixture
def service(site: Installation) -> Iterator[Running]:
    """API, scheduler and projections in one process."""
    site.now = instant(START)
    site.lapse("db", "upgrade")
    with site.serving("--port", "0") as running:
        yield running


def stored_bytes(site: Installation, service: Running) -> int:
    """What the service says all sessions store."""
    with client(site, service, "operator") as operator:
        text = operator.http.get("/metrics").text
    [line] = [one for one in text.splitlines() if one.startswith("lapse_stored_bytes ")]
    return int(float(line.split()[1]))


def people_left(site: Installation) -> int:
    """Rows about people, in all tables."""
    return sum(databases.row_counts(site.database_url, databases.PEOPLE).values())


class TestBiometricCoach:
    """P1: landmarks of OpenPose, their figures, nothing."""

    BATCH = 25
    """Frames that are sent together."""
    PAUSE = 416_667
    """Microseconds between two batches: 25 frames at 60 a second."""

    @pytest.mark.row("P1.1", "P1.2", "P1.5")
    def test_landmarks_become_figures_and_go(
        self, site: Installation, service: Running, shared_data: Path
    ) -> None:
        """Eight cameras at once, a session each, several people before most of them: the figures
        are those counted without Lapse, outlive the landmarks, and go half an hour later."""
        found = [
            frames
            for trial in ("balancing_trial", "two_participants")
            for frames in poses.cameras(
                shared_data / "pose_pose2sim" / f"{trial}_openpose_json.tar.gz"
            ).values()
        ]
        assert [len(frames) for frames in found] == [100] * 8
        with client(site, service) as app:
            sessions = self.send(app, site, found)
            expected = [self.counted(frames) for frames in found]
            for path, figures in zip(sessions, expected, strict=True):
                assert self.figures(app, path, tier="full") == figures
            full = stored_bytes(site, service)
            site.now = instant(START + 5 * MINUTE)
            for path, figures in zip(sessions, expected, strict=True):
                assert app.ask("GET", f"{path}/items")["items"] == []
                assert self.figures(app, path, tier="summary") == figures
            count = "SELECT count(*) FROM items"
            wait_until(lambda: databases.value(site.database_url, count) == 0, 30, "the sweep")
            summarized = stored_bytes(site, service)
            assert 0 < summarized <= full / 5
            freed = [self.freed(app, path) for path in sessions]
            assert sum(freed) == full - summarized
            site.now = instant(START + 35 * MINUTE - 1)
            assert self.figures(app, sessions[0], tier="summary") == expected[0]
            site.now = instant(START + 35 * MINUTE)
            for path in sessions:
                assert app.status("GET", f"{path}/summary") == 410
            wait_until(lambda: people_left(site) == 0, 30, "the erasure")
            assert stored_bytes(site, service) == 0

    def send(
        self, app: Client, site: Installation, found: Sequence[Sequence[poses.Frame]]
    ) -> list[str]:
        """The paths of the sessions, after all frames were sent as they came."""
        sessions = [f"/v1/sessions/{app.create('biometric-coach')['id']}" for _ in found]
        joined = [
            [
                app.ask("POST", f"{path}/participants", {"subject": f"{path}#{n}"}, expect=201)
                for n in range(max(map(len, frames)))
            ]
            for path, frames in zip(sessions, found, strict=True)
        ]
        for begin in range(0, 100, self.BATCH):
            if begin:
                site.wait(microseconds=self.PAUSE)
            for path, frames, people in zip(sessions, found, joined, strict=True):
                values = list(poses.stillness(frames))
                batch = range(begin, begin + self.BATCH)
                for number, person in enumerate(people):
                    records = [
                        {"stillness": values[n][number], "landmarks": frames[n][number]}
                        for n in batch
                        if number < len(frames[n])
                    ]
                    if records:
                        item = {"kind": "landmarks", "records": records}
                        about = {"participants": [person["token"]]}
                        app.ask("POST", f"{path}/items", {**item, **about}, expect=201)
        return sessions

    def counted(self, frames: Sequence[poses.Frame]) -> Mapping[str, Any]:
        """What the figures must be; the last batch came after three pauses."""
        values = [one for frame in poses.stillness(frames) for one in frame]
        return {
            "avg_stillness": pytest.approx(poses.average(values), rel=1e-12),
            "total_frames": len(values),
            "session_duration": 3 * self.PAUSE / 1_000_000,
        }

    def figures(self, app: Client, path: str, tier: str) -> Any:
        found = app.ask("GET", f"{path}/summary")
        assert found["tier"] == tier
        if tier == "summary":
            assert micros(found["erases_at"]) == START + 35 * MINUTE
        return found["figures"]

    def freed(self, app: Client, path: str) -> int:
        """Bytes, as the event of the session says."""
        [one] = [
            event
            for event in app.ask("GET", f"{path}/events")["events"]
            if event["event"] == "summarized"
        ]
        return int(one["data"]["bytes_freed"])


class Room:
    """An application that keeps one room open: it begins another session when the service says that
    the one before is over."""

    def __init__(self, app: Client) -> None:
        self._app = app
        self.sessions: list[str] = []
        self.participants = 0
        self.present: dict[str, str] = {}
        self._known: dict[str, str] = {}

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.sessions[-1]}"

    def live_through(self, deeds: Sequence[Deed]) -> None:
        """What people did at one moment."""
        if not self.sessions or self._app.ask("GET", f"{self.path}/expiry")["expired"]:
            self._open()
        seen: dict[str, str] = {}
        for deed in deeds:
            assert deed.who is not None
            if deed.what == "left":
                self._leave(deed.who)
                seen.pop(deed.who, None)
                continue
            if deed.who not in self.present:
                self._join(deed.who)
            seen[deed.who] = self.present[deed.who]
            if deed.new_name is not None:
                for names in (self.present, self._known, seen):
                    names[deed.new_name] = names.pop(deed.who)
        if seen:
            beats = [{"session": self.sessions[-1], "participant": one} for one in seen.values()]
            counted = self._app.ask("POST", "/v1/seen", {"seen": beats}, expect=202)
            assert counted == {"counted": len(set(seen.values())), "ignored": 0}

    def _open(self) -> None:
        self.sessions.append(self._app.create("reading-room")["id"])
        self.present, self._known = {}, {}

    def _join(self, nick: str) -> None:
        """A nick is a name: who takes one that somebody had before is somebody else."""
        if nick not in self._known:
            self.participants += 1
            self._known[nick] = f"person {self.participants}"
        body = {"subject": self._known[nick], "name": nick}
        joined = self._app.ask("POST", f"{self.path}/participants", body, expect=201)
        self.present[nick] = joined["token"]

    def _leave(self, nick: str) -> None:
        token = self.present.pop(nick, None)
        if token is not None:
            self._app.ask("POST", f"{self.path}/leave", {"participant": token})


class TestReadingRoom:
    """P2: a day of an IRC channel as a room."""

    DAY = "2005-12-16.train-c.raw.txt"
    """1 497 deeds of 151 people. The first of them is alone for hours, and the room ends."""

    @pytest.mark.row("P2.1", "P2.2", "P2.3", "P2.4")
    def test_a_day_of_a_channel(
        self, site: Installation, shared_data: Path, tmp_path: Path
    ) -> None:
        """Who came, spoke and left is as counted without Lapse; nothing sweeps until the day is
        over, and yet the invite is refused at its instant; then everybody is forgotten."""
        archive = shared_data / "irc_ubuntu_cc" / "ubuntu-irc-raw.tar.gz"
        readers.irc_files(archive, tmp_path)
        deeds = list(readers.irc([tmp_path / self.DAY]))
        site.now = instant(deeds[0].at)
        site.lapse("db", "upgrade")
        with (
            site.serving("--only", "api", "--port", "0") as service,
            client(site, service) as app,
            client(site, service, "subscriber") as subscriber,
        ):
            room = Room(app)
            for at, happened in groupby(deeds, key=lambda deed: deed.at):
                site.now = instant(at)
                room.live_through(list(happened))
            invite = app.ask("POST", f"{room.path}/invites", {"uses": 5}, expect=201)["invite"]
            self.compare(app, subscriber, room, deeds)
            self.is_over_at_once(site, app, room, invite, deeds[-1].at + HOUR)
            with site.serving():
                wait_until(lambda: self.expired(subscriber) != {}, 30, "the expiry")
                site.now = instant(deeds[-1].at + 25 * HOUR)
                wait_until(lambda: people_left(site) == 0, 30, "everybody to be forgotten")
                assert self.expired(subscriber) == {
                    session: instant(last + HOUR)
                    for session, last in zip(room.sessions, self.last_deeds(deeds), strict=True)
                }

    def compare(self, app: Client, subscriber: Client, room: Room, deeds: Sequence[Deed]) -> None:
        """What the service says of the room, with counts made without it."""
        counted = rooms(deeds, HOUR)
        last = rooms(since_the_last_silence(deeds, HOUR), HOUR)
        events = Counter(one["event"] for one in pages(subscriber, "/v1/events", "events"))
        for name in ("created", "joined", "left"):
            assert events[name] == counted[name], name
        assert room.participants == counted["participants"]
        people = pages(app, f"{room.path}/participants", "participants")
        assert len(people) == last["participants"]
        present = {one["token"] for one in people if one["left_at"] is None}
        assert len(present) == last["joined"] - last["left"]
        assert present >= set(room.present.values())
        now = deeds[-1].at
        for one in people:
            seen = micros(one["last_seen_at"])
            assert micros(one["joined_at"]) <= seen <= now
            assert one["is_active"] == (one["left_at"] is None and seen > now - 90 * SECOND)
        assert {seen for one in people if (seen := micros(one["last_seen_at"])) == now}
        assert app.ask("GET", room.path)["participants"] == len(present)
        total = app.ask("GET", "/v1/statistics")["total"]
        assert (total["total"], total["active"]) == (counted["created"], 1)
        assert total["participants"] == counted["participants"]
        assert micros(total["last_activity"]) == now

    def is_over_at_once(
        self, site: Installation, app: Client, room: Room, invite: str, due: int
    ) -> None:
        """A microsecond before its end people come in by the link; then nobody, and it says why."""
        site.now = instant(due - 1)
        assert app.ask("GET", f"{room.path}/expiry")["expired"] is False
        site.now = instant(due)
        body = {"invite": invite, "name": "late"}
        problem = app.ask("POST", "/v1/invites/redeem", body, expect=410)
        assert (problem["type"], problem["reason"]) == (
            "urn:lapse:problem:invite-expired",
            "session-expired",
        )
        assert {one["rel"] for one in problem["options"]} == {"ask-for-an-invite", "create"}
        expiry = app.ask("GET", f"{room.path}/expiry")
        assert (expiry["expired"], expiry["rule"]) == (True, "expire-last_seen")
        assert app.ask("GET", "/v1/statistics")["total"]["active"] == 0

    def expired(self, subscriber: Client) -> Mapping[str, str]:
        """Session -> when it expired. None does twice."""
        found = [
            (one["session"], instant(micros(one["effective_at"])))
            for one in pages(subscriber, "/v1/events", "events")
            if one["event"] == "expired"
        ]
        assert len(found) == len(dict(found))
        return dict(found)

    def last_deeds(self, deeds: Sequence[Deed]) -> list[int]:
        """When somebody was last seen before each silence."""
        later = since_the_last_silence(deeds, HOUR)
        return [deeds[len(deeds) - len(later) - 1].at, later[-1].at]


def pages(app: Client, path: str, name: str) -> list[Mapping[str, Any]]:
    """All of a list that comes in pages."""
    found: list[Mapping[str, Any]] = []
    after = ""
    while True:
        page = app.ask("GET", f"{path}?limit=1000{after}")
        found += page[name]
        if not page[name] or page["next"] is None:
            return found
        after = f"&after={page['next']}"


class TestVideoAnalysis:
    """P3: a video in chunks, analysed and forgotten."""

    LOOPS = 5
    PARALLEL = 3

    @pytest.mark.row("P3.1", "P3.2", "P3.3", "P3.4")
    def test_a_video_is_uploaded_analysed_and_forgotten(
        self, site: Installation, shared_data: Path
    ) -> None:
        """Interrupted and resumed; its frames counted from a pipe; everybody who watches is told of
        every step; the chunks go with the completion, although nothing sweeps."""
        if shutil.which("ffmpeg") is None:
            pytest.skip("there is no ffmpeg: install the Debian package ffmpeg")
        original = shared_data / "video" / "bigbuckbunny.mp4"
        video = played_again(original, self.LOOPS)
        site.now = instant(START)
        site.lapse("db", "upgrade")
        with (
            site.serving("--only", "api", "--port", "0") as service,
            client(site, service) as app,
            client(site, service, "auditor") as auditor,
        ):
            session = app.create("video-analysis")["id"]
            path = f"/v1/sessions/{session}"
            with (
                watching(service.url, f"{path}/watch", app.token) as events,
                socket(service.url, f"{path}/watch", app.token) as connection,
            ):
                upload = self.upload(app, path, video)
                assert not databases.holds(site.database_url, video[100_000:100_064])
                site.wait(minutes=2)
                frames = self.analyse(app, path, f"{path}/uploads/{upload}/content", video)
                assert frames == self.LOOPS * frames_of(original)
                self.complete(site, app, path, upload)
                told = until_completed(events.next)
                heard = until_completed(partial(received, connection))
            self.compare(told, heard, frames)
            self.erase(site, app, auditor, session)

    def upload(self, app: Client, path: str, video: bytes) -> str:
        """Three chunks at a time. The network breaks in the middle of one; the sender asks what
        there is and goes on."""
        chunks = [video[begin : begin + CHUNK] for begin in range(0, len(video), CHUNK)]
        assert len(chunks) > self.PARALLEL
        body = {"kind": "video", "size": len(video), "media_type": "video/mp4"}
        upload = app.ask("POST", f"{path}/uploads", body, expect=201)["id"]
        here = f"{path}/uploads/{upload}"

        def put(index: int) -> int:
            headers = {"Content-Digest": digest(chunks[index])}
            url = f"{here}/chunks/{index}"
            return app.http.put(url, content=chunks[index], headers=headers).status_code

        def break_off(index: int) -> None:
            with pytest.raises(ConnectionResetError):
                app.http.put(f"{here}/chunks/{index}", content=broken(chunks[index]))

        with ThreadPoolExecutor(self.PARALLEL) as pool:
            sent = pool.map(put, range(self.PARALLEL - 1))
            pool.submit(break_off, self.PARALLEL - 1).result()
            assert list(sent) == [201] * (self.PARALLEL - 1)
            received = app.ask("GET", here)["received"]
            assert received == list(range(self.PARALLEL - 1))
            missing = [index for index in range(len(chunks)) if index not in received]
            assert list(pool.map(put, missing)) == [201] * len(missing)
        assert app.ask("GET", here)["complete"] is True
        assert put(0) == 200
        return str(upload)

    def analyse(self, app: Client, path: str, content: str, video: bytes) -> int:
        """As the application that analyses does; the number of frames."""

        def tell(kind: str, **numbers: float) -> None:
            app.ask("POST", f"{path}/progress", {"type": kind, "data": numbers}, expect=202)

        tell("processing_started")
        found = app.http.get(content)
        assert found.content == video
        frames = frames_of(found.content)
        tell("frames_extracted", frames=frames)
        tell("analysis_progress", share=0.5)
        item = {"kind": "result", "tier": "summary", "records": [{"frames": frames}]}
        stored = app.ask("POST", f"{path}/items", item, expect=201)
        assert stored["size"] <= 5_000
        large = {**item, "records": [{"text": "x" * 5_000}]}
        assert app.status("POST", f"{path}/items", large) == 413
        tell("error", code=413)
        tell("analysis_complete", frames=frames)
        return frames

    def complete(self, site: Installation, app: Client, path: str, upload: str) -> None:
        """At once there is only the result."""
        app.ask("POST", f"{path}/complete")
        scopes = databases.rows(site.database_url, "SELECT DISTINCT scope, kind FROM items")
        assert scopes == [("summary", "result")]
        assert databases.row_counts(site.database_url, ("uploads",)) == {"uploads": 0}
        assert app.status("GET", f"{path}/uploads/{upload}/content") in (404, 410)
        [result] = app.ask("GET", f"{path}/items")["items"]
        assert result["kind"] == "result"

    def compare(self, told: Told, heard: Told, frames: int) -> None:
        """Both ways of watching say the same: type, data and time of each step."""
        assert told == heard
        progress = [data for _, data in told if "type" in data]
        assert Counter(one["type"] for one in progress) == {
            "chunk_received": 4,
            "processing_started": 1,
            "frames_extracted": 1,
            "analysis_progress": 1,
            "analysis_complete": 1,
            "error": 1,
        }
        chunks = [one for one in progress if one["type"] == "chunk_received"]
        assert sorted(one["data"]["received"] for one in chunks) == [1, 2, 3, 4]
        assert {micros(one["at"]) for one in chunks} == {START}
        [extracted] = [one for one in progress if one["type"] == "frames_extracted"]
        assert (extracted["data"], micros(extracted["at"])) == (
            {"frames": frames},
            START + 2 * MINUTE,
        )

    def erase(self, site: Installation, app: Client, auditor: Client, session: str) -> None:
        """On demand; afterwards there is nothing but the history, which says so."""
        path = f"/v1/sessions/{session}"
        app.ask("DELETE", path, expect=204)
        assert app.ask("GET", path, expect=410)["type"] == "urn:lapse:problem:session-erased"
        assert people_left(site) == 0
        entries = auditor.ask("GET", f"/v1/audit/sessions/{session}")["entries"]
        assert (entries[-1]["event"], entries[-1]["rule"]) == ("session.erased", "request")


def until_completed(following: Callable[[], tuple[str, dict[str, Any]]]) -> Told:
    """What somebody who watches is told, in order of kind and time: what only passes and what is
    kept come by different ways."""
    told: list[tuple[str, Mapping[str, Any]]] = []
    while not {"completed", "analysis_complete"} <= {kind for kind, _ in told}:
        told.append(following())
    return sorted(told, key=lambda one: (one[0], json.dumps(one[1], sort_keys=True)))


def received(connection: ClientConnection) -> tuple[str, dict[str, Any]]:
    message = json.loads(connection.recv(timeout=PATIENCE))
    return message["event"], message["data"]


def digest(content: bytes) -> str:
    """As RFC 9530 writes it."""
    return f"sha-256=:{b64encode(sha256(content).digest()).decode()}:"


def broken(content: bytes) -> Iterator[bytes]:
    """Half of it; then the network is gone."""
    yield content[: len(content) // 2]
    raise ConnectionResetError


def played_again(video: Path, times: int) -> bytes:
    """The pictures of a video, so many times, as MP4 that can be read from front to back: from a
    pipe ffmpeg cannot go back to an index at the end, where `video` has it."""
    fragments = ("-c", "copy", "-f", "mp4", "-movflags", "frag_keyframe+empty_moov")
    loop = ("-stream_loop", str(times - 1), "-i", str(video), "-map", "0:v:0")
    return ffmpeg(*loop, *fragments, "pipe:1")


def frames_of(video: bytes | Path) -> int:
    """Of a video that comes through a pipe, or of a file: as ffmpeg decodes them into a pipe."""
    small = ("-map", "0:v:0", "-vf", "scale=16:9", "-pix_fmt", "gray", "-f", "rawvideo")
    if isinstance(video, bytes):
        decoded = ffmpeg("-i", "pipe:0", *small, "pipe:1", stdin=video)
    else:
        decoded = ffmpeg("-i", str(video), *small, "pipe:1")
    assert len(decoded) % (16 * 9) == 0
    return len(decoded) // (16 * 9)


def ffmpeg(*arguments: str, stdin: bytes = b"") -> bytes:
    command = ["ffmpeg", "-loglevel", "error", *arguments]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout
