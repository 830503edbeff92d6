"""The example pages clicked through in Chromium, against a real `lapse serve`, on each database."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.acceptance.commands import Installation, Running
from tests.browsers import chromium, opened
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
    soon = page.evaluate("Date.now()") / 1_000 + 2
    page.clock.pause_at(datetime.fromtimestamp(soon, UTC))


def token(site: Installation, policy: str, role: str = "producer") -> str:
    return site.lapse("token", "--role", role, "--policy", policy, "--ttl", "30d").out.strip()


def ask(service: Running, bearer: str, path: str) -> Any:
    headers = {"Authorization": f"Bearer {bearer}"}
    answer = httpx2.get(f"{service.url}{path}", headers=headers, timeout=60.0)
    answer.raise_for_status()
    return answer.json()


def session_of(service: Running, bearer: str, policy: str) -> str:
    """The one session there is."""
    [found] = ask(service, bearer, f"/v1/sessions?policy={policy}")["sessions"]
    return str(found["id"])


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
