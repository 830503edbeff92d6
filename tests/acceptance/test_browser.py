"""The example pages clicked through in Chromium, against a real `lapse serve`, on each database."""

import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, ViewportSize, expect

from tests.acceptance.commands import Installation, Running
from tests.browsers import chromium, opened
from tests.docs.documents import ROOT, blocks
from tests.proxies import Proxy, proxied
from tests.servers import wait_until

START = "2026-11-01T10:00:00+00:00"
PATIENCE = 60_000
"""Milliseconds after which a page is taken to hang."""

PHONE: ViewportSize = {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with chromium() as found:
        yield found


@pytest.fixture
def service(site: Installation) -> Iterator[Running]:
    """API, scheduler and projections in one process, with the pages."""
    site.now = START
    site.lapse("db", "upgrade")
    with site.serving("--port", "0", LAPSE_EXAMPLES="true") as running:
        yield running


@contextmanager
def visitor(browser: Browser, site: Installation) -> Iterator[Page]:
    """Somebody with a browser of their own, whose clock says what that of the service says."""
    with (
        browser.new_context(viewport=PHONE, color_scheme="dark") as context,
        opened(context) as page,
    ):
        page.set_default_timeout(PATIENCE)
        page.clock.install(time=datetime.fromisoformat(site.now))
        yield page


def stop_time(page: Page) -> None:
    """From now on it passes for the page only when the test says so."""
    # Not sooner, since it still runs until then; not later than the client takes silence for a cut.
    soon = page.evaluate("Date.now()") / 1_000 + 15
    page.clock.pause_at(datetime.fromtimestamp(soon, UTC))


def token(site: Installation, policy: str, role: str = "producer") -> str:
    return site.lapse("token", "--role", role, "--policy", policy, "--ttl", "30d").out.strip()


def ask(service: Running, bearer: str, path: str) -> Any:
    headers = {"Authorization": f"Bearer {bearer}"}
    answer = httpx2.get(f"{service.url}{path}", headers=headers, timeout=60.0)
    answer.raise_for_status()
    return answer.json()


def session_of(service: Running, bearer: str, policy: str) -> str:
    """The one session there is; the page may just be beginning it."""
    path = f"/v1/sessions?policy={policy}"
    found: list[Any] = []

    def begun() -> bool:
        found[:] = ask(service, bearer, path)["sessions"]
        return len(found) == 1

    wait_until(begun, 60, "the session")
    return str(found[0]["id"])


def fits_a_phone(page: Page) -> bool:
    """Nothing sticks out to the side."""
    wide: bool = page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    return wide


class TestReadingRoom:
    """P2: rooms with presence, on the page."""

    def open_room(self, page: Page, site: Installation, service: Running | Proxy) -> str:
        """As the host; the token of the producer."""
        made = token(site, "reading-room")
        page.goto(f"{service.url}/examples/reading-room.html")
        page.get_by_label("Producer token").fill(made)
        page.get_by_label("Your name", exact=True).fill("Ann")
        page.get_by_role("button", name="Open a room").click()
        expect(page.get_by_role("list", name="Who is here")).to_have_text("Ann")
        return made

    def invite(self, page: Page) -> str:
        page.get_by_role("button", name="Make an invite link").click()
        link = page.get_by_label("Invite link")
        expect(link).to_have_value(re.compile("#invite="))
        return link.input_value()

    @pytest.mark.row("P2.1", "P2.3")
    def test_people_come_by_a_link_and_leave_by_closing_the_page(
        self, browser: Browser, site: Installation, service: Running
    ) -> None:
        """The host sees the guest come and go, live; the link's token leaves the address bar."""
        with visitor(browser, site) as host, visitor(browser, site) as guest:
            made = self.open_room(host, site, service)
            link = self.invite(host)
            assert fits_a_phone(host)
            guest.goto(link)
            expect(guest).to_have_url(f"{service.url}/examples/reading-room.html")
            guest.get_by_label("Your name (may stay empty)").fill("Bob <b>")
            guest.get_by_role("button", name="Come in").click()
            people = host.get_by_role("list", name="Who is here").get_by_role("listitem")
            expect(people).to_have_count(2)
            expect(people.filter(has_text="Bob <b>")).to_have_count(1)
            expect(guest.get_by_role("button", name="Make an invite link")).to_be_hidden()
            guest.goto("about:blank")
            expect(people).to_have_text(["Ann"])
            path = f"/v1/sessions/{session_of(service, made, 'reading-room')}/participants"
            left = {one["name"]: one["left_at"] for one in ask(service, made, path)["participants"]}
            assert (left["Ann"], left["Bob <b>"] is None) == (None, False)

    @pytest.mark.row("P2.1")
    def test_a_page_that_is_open_keeps_its_person_present(
        self, browser: Browser, site: Installation, service: Running
    ) -> None:
        """A heartbeat every 30 s by the page's clock, which the service counts by its own."""
        with visitor(browser, site) as host:
            made = self.open_room(host, site, service)
            path = f"/v1/sessions/{session_of(service, made, 'reading-room')}"
            for minutes in (20, 40, 60, 80):
                site.wait(minutes=20)
                host.clock.run_for(30_000)
                wait_until(
                    partial(is_seen_since, service, made, path, f"2026-11-01T{minute(minutes)}"),
                    60,
                    "the heartbeat",
                )
            assert ask(service, made, f"{path}/expiry")["expired"] is False

    @pytest.mark.row("P2.4", "P2.7")
    def test_a_warning_is_answered_with_one_click_and_the_end_comes_later(
        self, browser: Browser, site: Installation, service: Running
    ) -> None:
        """The banner, the extension, the end told by push, the redirect; then a recovery."""
        with visitor(browser, site) as host:
            made = self.open_room(host, site, service)
            path = f"/v1/sessions/{session_of(service, made, 'reading-room')}"
            stop_time(host)  # and with it the heartbeats
            ends = ask(service, made, path)["expires_at"]
            site.now = before(ends, minutes=9)
            warning = host.get_by_role("alert")
            expect(warning).to_contain_text("This room closes at")
            assert fits_a_phone(host)
            warning.get_by_role("button", name="Stay an hour longer").click()
            expect(warning).to_be_hidden()
            later = ask(service, made, path)["expires_at"]
            assert before(later, minutes=60) == before(ends, minutes=0)
            site.now = before(later, minutes=0)
            closed = host.get_by_role("heading", name="This room is closed")
            expect(closed).to_be_focused()
            expect(host.get_by_text("By the rule expire-last_seen.")).to_be_visible()
            host.get_by_role("button", name="Open it again").click()
            expect(host.get_by_role("list", name="Who is here")).to_contain_text("Ann")
            assert ask(service, made, path)["state"] == "active"
            site.now = before(ask(service, made, path)["expires_at"], minutes=0)
            expect(closed).to_be_visible()
            host.clock.run_for(19_000)
            assert host.url.endswith("reading-room.html")
            host.clock.run_for(1_000)
            expect(host).to_have_url(f"{service.url}/examples/")

    @pytest.mark.row("P2.4")
    def test_a_page_that_hears_nothing_looks_every_five_minutes(
        self, browser: Browser, site: Installation
    ) -> None:
        """Its stream and its heartbeats get lost, and nothing sweeps: it asks by itself."""
        site.now = START
        site.lapse("db", "upgrade")
        with (
            site.serving("--only", "api", "--port", "0", LAPSE_EXAMPLES="true") as service,
            visitor(browser, site) as host,
        ):
            host.route(re.compile("/(seen|watch)$"), lambda route: route.abort())
            made = self.open_room(host, site, service)
            stop_time(host)
            path = f"/v1/sessions/{session_of(service, made, 'reading-room')}"
            site.now = before(ask(service, made, path)["expires_at"], minutes=0)
            host.clock.run_for(4 * 60_000)
            expect(host.get_by_role("list", name="Who is here")).to_be_visible()
            host.clock.run_for(60_000)
            expect(host.get_by_role("heading", name="This room is closed")).to_be_focused()

    def test_a_page_that_was_cut_off_misses_nothing(
        self, browser: Browser, site: Installation, service: Running
    ) -> None:
        """The stream goes on behind the last event that came, once there is a network again."""
        with proxied(service.url) as network, visitor(browser, site) as host:
            asked: list[str | None] = []
            host.on(
                "request",
                lambda request: (
                    asked.append(request.headers.get("last-event-id"))
                    if request.url.endswith("/watch")
                    else None
                ),
            )
            made = self.open_room(host, site, network)
            path = f"/v1/sessions/{session_of(service, made, 'reading-room')}/participants"
            headers = {"Authorization": f"Bearer {made}"}
            with httpx2.Client(base_url=service.url, headers=headers, timeout=60.0) as app:
                app.post(path, json={"name": "Bob"}).raise_for_status()
                people = host.get_by_role("list", name="Who is here").get_by_role("listitem")
                expect(people).to_have_count(2)
                network.cut()
                app.post(path, json={"name": "Cem"}).raise_for_status()
                network.mend()
                expect(people).to_have_count(3)
                assert asked[0] is None
                assert asked[-1]

    @pytest.mark.row("P2.3")
    def test_a_link_to_a_room_that_is_over_shows_what_can_be_done(
        self, browser: Browser, site: Installation
    ) -> None:
        """At once, although nothing sweeps: what happened, when, where to go."""
        site.now = START
        site.lapse("db", "upgrade")
        with (
            site.serving("--only", "api", "--port", "0", LAPSE_EXAMPLES="true") as service,
            visitor(browser, site) as host,
            visitor(browser, site) as guest,
        ):
            made = self.open_room(host, site, service)
            link = self.invite(host)
            path = f"/v1/sessions/{session_of(service, made, 'reading-room')}"
            host.goto("about:blank")
            site.now = before(ask(service, made, path)["expires_at"], minutes=0)
            guest.goto(link)
            guest.get_by_role("button", name="Come in").click()
            expect(guest.get_by_role("heading", name="You cannot come in")).to_be_focused()
            expect(guest.get_by_text("What you were invited to is over.")).to_be_visible()
            expect(guest.get_by_text(re.compile("It ended at 1 Nov 2026"))).to_be_visible()
            expect(guest.locator("#over-options li")).to_have_text(
                ["Ask whoever invited you for another invite.", "Begin another one."]
            )
            assert fits_a_phone(guest)


def is_seen_since(service: Running, bearer: str, path: str, time: str) -> bool:
    return str(ask(service, bearer, path)["last_seen_at"]) >= time


def minute(minutes: int) -> str:
    """Minutes after ten o'clock, as a time of day."""
    return f"{10 + minutes // 60}:{minutes % 60:02}"


def before(time: str, *, minutes: float) -> str:
    return (datetime.fromisoformat(time) - timedelta(minutes=minutes)).isoformat()


class TestBiometricCoach:
    """P1: landmarks for minutes, figures for half an hour, on the page."""

    @pytest.mark.row("P1.2", "P1.6")
    def test_figures_outlive_the_landmarks_and_the_copy_does_not_outlive_the_figures(
        self,
        browser: Browser,
        site: Installation,
        service: Running,
        shared_data: Path,
        tmp_path: Path,
    ) -> None:
        """Real frames in, their summary out; the browser answers first, until the erasure."""
        frames = openpose_frames(shared_data, tmp_path)
        with visitor(browser, site) as page:
            page.goto(f"{service.url}/examples/biometric-coach.html")
            page.get_by_label("Producer token").fill(token(site, "biometric-coach"))
            page.get_by_role("button", name="Begin a session").click()
            expect(page.get_by_role("status")).to_have_text("The session has begun.")
            stop_time(page)
            page.get_by_label("Or frames from OpenPose").set_input_files(frames)
            expect(page.get_by_role("status")).to_have_text(f"{len(frames)} frames were sent.")
            figures = page.locator("#summary")
            stillness = f"{mean_stillness(frames):.3f}".rstrip("0")
            expect(figures).to_contain_text(f"avg stillness{stillness}")
            expect(figures).to_contain_text(f"total frames{len(frames)}")
            source = page.locator("#source")
            expect(source).to_contain_text("From the service")
            assert copies(page) == []
            site.wait(minutes=5)
            expect(page.get_by_role("status")).to_contain_text("The landmarks are gone")
            expect(figures).to_contain_text(f"avg stillness{stillness}")
            expect(source).to_contain_text("From the service, kept until 1 Nov 2026, 10:35")
            page.get_by_role("button", name="Ask again").click()
            expect(source).to_contain_text("From this browser")
            assert fits_a_phone(page)
            self.look_from_another_tab(page, stillness)
            site.wait(minutes=30)
            erased = page.get_by_role("heading", name="The session was erased")
            expect(erased).to_be_focused()
            assert copies(page) == []
            page.reload()
            expect(page.get_by_role("status")).to_contain_text("no figures of that session")

    def look_from_another_tab(self, page: Page, stillness: str) -> None:
        """The copy is there without a token, and nobody is asked for it."""
        with opened(page.context) as other:
            asked: list[str] = []
            other.on("request", lambda request: asked.append(request.url))
            other.goto(page.url)
            expect(other.locator("#summary")).to_contain_text(f"avg stillness{stillness}")
            expect(other.locator("#source")).to_contain_text("From this browser")
            assert not [url for url in asked if "/v1/" in url]

    def test_a_drawn_figure_sends_landmarks_too(
        self, browser: Browser, site: Installation, service: Running
    ) -> None:
        """For who has no camera: ten frames a second while it sways."""
        with visitor(browser, site) as page:
            page.goto(f"{service.url}/examples/biometric-coach.html")
            page.get_by_label("Producer token").fill(token(site, "biometric-coach"))
            page.get_by_role("button", name="Begin a session").click()
            page.get_by_role("button", name="Let the figure sway").click()
            made = token(site, "biometric-coach")
            path = f"/v1/sessions/{session_of(service, made, 'biometric-coach')}"
            page.clock.run_for(10_000)
            wait_until(
                lambda: (
                    (ask(service, made, f"{path}/summary")["figures"]["total_frames"] or 0) >= 100
                ),
                60,
                "a hundred frames",
            )
            page.get_by_role("button", name="Let it rest").click()


class TestVideoAnalysis:
    """P3: an upload in chunks, analysed and forgotten, on the page."""

    def upload(self, page: Page, site: Installation, service: Running, file: Path) -> str:
        made = token(site, "video-analysis")
        page.goto(f"{service.url}/examples/video-analysis.html")
        page.get_by_label("Producer token").fill(made)
        page.get_by_label("Video").set_input_files(file)
        page.get_by_role("button", name="Upload").click()
        return made

    @pytest.mark.row("P3.1", "P3.2", "P3.3")
    def test_a_video_is_analysed_and_only_the_result_stays_for_a_while(
        self, browser: Browser, site: Installation, service: Running, shared_data: Path
    ) -> None:
        """Every step is told live; the chunks go with the completion, the rest ten minutes in."""
        if shutil.which("ffmpeg") is None:
            pytest.skip("there is no ffmpeg: install the Debian package ffmpeg")
        video = shared_data / "video" / "bigbuckbunny.mp4"
        with visitor(browser, site) as page:
            made = self.upload(page, site, service, video)
            expect(page.get_by_role("status")).to_contain_text("waits to be analysed")
            stop_time(page)
            log = page.get_by_role("log").get_by_role("listitem")
            expect(log.filter(has_text="chunk received")).to_have_count(2)
            program, *arguments = page.locator("#command").inner_text().split()
            environment = {"LAPSE_TOKEN": made, "PATH": os.environ["PATH"]}
            subprocess.run(
                [sys.executable, ROOT / program, *arguments], env=environment, check=True
            )
            for step in ("processing started", "analysis progress", "frames extracted"):
                expect(log.filter(has_text=step).first).to_be_visible()
            expect(log.filter(has_text="analysis complete")).to_have_count(1)
            expect(page.locator("#figures")).to_contain_text(f"frames{frames_in(video)}brightness")
            assert fits_a_phone(page)
            _, session, upload = arguments
            gone = f"{service.url}/v1/sessions/{session}/uploads/{upload}/content"
            headers = {"Authorization": f"Bearer {made}"}
            assert httpx2.get(gone, headers=headers, timeout=60.0).status_code in (404, 410)
            assert copies(page) == [f"lapse:{session}:result"]
            site.wait(minutes=10)
            expect(page.get_by_role("heading", name="Everything was erased")).to_be_focused()
            assert copies(page) == []

    @pytest.mark.row("P3.1")
    def test_an_upload_that_was_paused_goes_on_where_it_was(
        self, browser: Browser, site: Installation, service: Running, tmp_path: Path
    ) -> None:
        """What had arrived is not sent again, and the bytes are those of the file."""
        file = tmp_path / "noise.mp4"
        file.write_bytes(random.Random(7).randbytes(5_500_000))
        with visitor(browser, site) as page:
            held: list[Route] = []
            sent: list[str] = []
            page.on(
                "requestfinished", lambda request: sent.append(f"{request.method} {request.url}")
            )

            def hold_the_last(route: Route) -> None:
                if route.request.url.endswith(("/4", "/5")):
                    held.append(route)
                else:
                    route.continue_()

            page.route("**/chunks/*", hold_the_last)
            made = self.upload(page, site, service, file)
            expect(page.locator("#amount")).to_have_text("4.2 of 5.5 MB")
            page.get_by_role("button", name="Pause").click()
            page.unroute("**/chunks/*")
            page.get_by_role("button", name="Go on").click()
            expect(page.get_by_role("status")).to_contain_text("waits to be analysed")
            expect(page.locator("#amount")).to_have_text("5.5 of 5.5 MB")

            def chunks() -> list[str]:
                page.evaluate("0")  # lets what happened arrive
                return sorted(one[-1] for one in sent if "/chunks/" in one and "PUT" in one)

            wait_until(lambda: len(chunks()) >= 6, 60, "the last chunk")
            assert (len(held), chunks()) == (2, list("012345"))
            _, _, session, upload = page.locator("#command").inner_text().split()
            content = f"{service.url}/v1/sessions/{session}/uploads/{upload}/content"
            headers = {"Authorization": f"Bearer {made}"}
            assert httpx2.get(content, headers=headers, timeout=60.0).content == file.read_bytes()


def copies(page: Page) -> list[str]:
    """The keys of what the browser keeps."""
    found: list[str] = page.evaluate("Object.keys(localStorage)")
    return found


def openpose_frames(shared_data: Path, folder: Path) -> list[Path]:
    """The frames of one camera, a file each, in order."""
    archive = shared_data / "pose_pose2sim" / "balancing_trial_openpose_json.tar.gz"
    with tarfile.open(archive) as found:
        files = sorted(
            (one for one in found if one.name.endswith(".json")), key=lambda one: one.name
        )
        camera = [one for one in files if Path(one.name).parent == Path(files[0].name).parent]
        found.extractall(folder, camera, filter="data")
    return [folder / one.name for one in camera]


def mean_stillness(frames: list[Path]) -> float:
    """1 / (1 + mean movement of the points that were seen twice), averaged over the frames."""
    values, before = [], None
    for file in frames:
        people = json.loads(file.read_text())["people"]
        if not people:
            continue
        flat = people[0]["pose_keypoints_2d"]
        points = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        moved = [
            math.dist(now[:2], then[:2])
            for now, then in zip(points, before or points, strict=True)
            if before and now[2] > 0 and then[2] > 0
        ]
        values.append(1 / (1 + statistics.fmean(moved)) if moved else 1.0)
        before = points
    return statistics.fmean(values)


def frames_in(video: Path) -> int:
    """As ffprobe counts them."""
    counted = subprocess.run(
        [
            *("ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0"),
            *("-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", str(video)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(counted.stdout.strip().strip(","))


class TestPages:
    """What is beside the examples."""

    def test_the_description_can_be_read_and_tried_out(
        self, browser: Browser, site: Installation, service: Running
    ) -> None:
        """Every operation is listed, from own assets; a request with a token is answered."""
        with visitor(browser, site) as page:
            elsewhere: list[str] = []
            page.on(
                "request",
                lambda request: (
                    None
                    if request.url.startswith((service.url, "data:"))
                    else elsewhere.append(request.url)
                ),
            )
            page.goto(f"{service.url}/docs")
            document = httpx2.get(f"{service.url}/openapi.json", timeout=60.0).json()
            operations = sum(len(methods) for methods in document["paths"].values())
            expect(page.locator(".opblock")).to_have_count(operations)
            assert elsewhere == []

    def test_the_snippets_of_the_how_to_do_what_they_say(
        self, browser: Browser, site: Installation, service: Running
    ) -> None:
        """As one script on a page that a guest opened by a link."""
        made = token(site, "reading-room")
        headers = {"Authorization": f"Bearer {made}"}
        with httpx2.Client(base_url=service.url, headers=headers, timeout=60.0) as app:
            room = app.post("/v1/sessions", json={"policy": "reading-room"}).json()["id"]
            invite = app.post(f"/v1/sessions/{room}/invites", json={}).json()["invite"]
            how_to = ROOT / "docs" / "how-to" / "browser-client.md"
            snippets = [block.text for block in blocks(how_to) if block.language == "js"]
            with visitor(browser, site) as page:
                said: list[str] = []
                page.on("console", lambda message: said.append(message.text))
                script = f"{service.url}/examples/snippets.js"
                text = "".join(snippets)
                page.route(
                    script, lambda route: route.fulfill(body=text, content_type="text/javascript")
                )
                page.goto(f"{service.url}/examples/#invite={invite}")
                page.add_script_tag(url=script, type="module")
                expected = ["here Ann", "cached true", "complete true", "refused 401 true 0"]
                wait_until(lambda: pumped(page, said, expected[-1]), 60, "the last snippet")
                for line in expected:
                    assert line in said, said
                app.delete(f"/v1/sessions/{room}")
                wait_until(
                    lambda: pumped(page, said, "everything is gone, here too"), 60, "the erasure"
                )
                assert copies(page) == []


def pumped(page: Page, said: list[str], line: str) -> bool:
    """Whether the page said so; asking it lets its messages arrive."""
    page.evaluate("0")
    return line in said
