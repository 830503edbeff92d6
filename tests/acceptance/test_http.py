"""P1, P2 and P3 over HTTP: a real `lapse serve` in a process of its own, on both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import pytest

from adapters.clock import format_instant
from domain.policy import HOUR
from tests.acceptance import databases
from tests.acceptance.clients import PATIENCE, client, eventually
from tests.acceptance.commands import Installation, Running, instant, micros
from tests.servers import wait_until

START = micros("2026-11-01T10:00:00Z")


@pytest.fixture(autouse=True)
def begins_at_ten(site: Installation) -> None:
    site.now = instant(START)


@pytest.fixture
def service(site: Installation) -> Iterator[Running]:
    """API, scheduler and projections in one process."""
    site.lapse("db", "upgrade")
    with site.serving("--port", "0") as running:
        yield running


class TestReadingRoom:
    """P2: rooms with presence."""

    @pytest.mark.row("P2.1", "P2.2", "P2.4")
    def test_a_room_lives_while_somebody_is_seen(
        self, site: Installation, service: Running
    ) -> None:
        """Joined, seen, left; after an hour without anybody it is over, and removed a day later."""
        with client(site, service) as app:
            room = app.create("reading-room")
            path = f"/v1/sessions/{room['id']}"
            ann = app.ask("POST", f"{path}/participants", {"subject": "ann"}, expect=201)
            nobody = app.ask("POST", f"{path}/participants", {"name": "Guest"}, expect=201)
            site.wait(minutes=30)
            app.ask("POST", f"{path}/seen", {"participant": ann["token"]}, expect=202)
            people = app.ask("GET", f"{path}/participants")["participants"]
            active = {one["token"]: one["is_active"] for one in people}
            assert active == {ann["token"]: True, nobody["token"]: False}
            app.ask("POST", f"{path}/leave", {"participant": ann["token"]})
            site.wait(minutes=59)
            assert app.ask("GET", f"{path}/expiry")["expired"] is False
            site.wait(minutes=1)
            expiry = app.ask("GET", f"{path}/expiry")
            assert (expiry["expired"], expiry["rule"]) == (True, "expire-last_seen")
            app.ask("POST", f"{path}/seen", {"participant": ann["token"]}, expect=410)
            site.wait(minutes=24 * 60)
            wait_until(lambda: app.status("GET", path) == 410, 30, "the room to be removed")
            wait_until(
                lambda: not any(databases.row_counts(site.database_url, databases.PEOPLE).values()),
                30,
                "its people to be removed",
            )

    @pytest.mark.row("P2.3")
    def test_an_invite_to_a_room_that_is_over_is_refused_at_once(self, site: Installation) -> None:
        """No sweeper runs anywhere; the page learns what happened and where to go."""
        site.lapse("db", "upgrade")
        with site.serving("--only", "api", "--port", "0") as service, client(site, service) as app:
            room = app.create("reading-room")
            path = f"/v1/sessions/{room['id']}/invites"
            invite = app.ask("POST", path, {"uses": 5}, expect=201)["invite"]
            body = {"invite": invite, "name": "Bob"}
            came = app.ask("POST", "/v1/invites/redeem", body, expect=201)
            assert came["session"] == room["id"]
            site.wait(minutes=60)
            problem = app.ask("POST", "/v1/invites/redeem", body, expect=410)
            assert problem["type"] == "urn:lapse:problem:invite-expired"
            assert problem["reason"] == "session-expired"
            assert {option["rel"] for option in problem["options"]} == {
                "ask-for-an-invite",
                "create",
            }

    @pytest.mark.row("P2.7")
    def test_a_warning_an_extension_and_a_recovery(
        self, site: Installation, service: Running
    ) -> None:
        """Ten minutes before the end; one call extends; too late, another recovers."""
        with client(site, service) as app:
            room = app.create("reading-room")
            path = f"/v1/sessions/{room['id']}"
            site.wait(minutes=50)
            wait_until(
                lambda: (
                    "expiring"
                    in [event["event"] for event in app.ask("GET", f"{path}/events")["events"]]
                ),
                30,
                "the warning",
            )
            until = format_instant(START + 3 * HOUR)
            assert app.ask("POST", f"{path}/extend", {"until": until})["expires_at"] == until
            site.wait(minutes=130)
            expired = eventually(app, path, state="expired")
            assert expired["expires_at"] == until

    @pytest.mark.row("G3")
    def test_with_every_sweeper_stopped_nothing_that_is_over_is_shown(
        self, site: Installation
    ) -> None:
        """Content, participants, joining and watching answer 410 at the instant."""
        site.lapse("db", "upgrade")
        with site.serving("--only", "api", "--port", "0") as service, client(site, service) as app:
            room = app.create("reading-room", owner="host@example.org")
            path = f"/v1/sessions/{room['id']}"
            ann = app.ask("POST", f"{path}/participants", {"subject": "ann"}, expect=201)
            site.now = instant(START + HOUR)
            for method, end, body in (
                ("GET", "participants", None),
                ("POST", "participants", {"subject": "bob"}),
                ("POST", "seen", {"participant": ann["token"]}),
                ("POST", "extend", {"until": "2040-01-01T00:00:00Z"}),
                ("GET", "watch", None),
            ):
                assert app.status(method, f"{path}/{end}", body) == 410, end
            assert app.ask("GET", "/v1/sessions?state=active")["sessions"] == []
            search = {"owner": "host@example.org", "policy": "reading-room"}
            assert app.ask("POST", "/v1/sessions/search", search)["sessions"] == []
            assert app.ask("GET", "/v1/statistics")["total"]["active"] == 0
            assert app.ask("GET", path)["state"] == "expired"
            site.now = instant(START + 25 * HOUR)
            assert app.status("GET", path) == 410
            assert app.ask("GET", "/v1/statistics")["total"]["total"] == 0


class TestLimits:
    """Exactly as many as may be, however many ask at once."""

    @pytest.mark.row("P1.3", "G9")
    def test_a_thousand_at_once_and_ten_get_in(self, site: Installation) -> None:
        """Two processes answer; the others are told which limit it was."""
        site.lapse("db", "upgrade")
        with ExitStack() as stack:
            services = [
                stack.enter_context(site.serving("--only", "api", "--port", "0")) for _ in range(2)
            ]
            apps = [stack.enter_context(client(site, service)) for service in services]

            def create(number: int) -> tuple[int, str]:
                answer = apps[number % 2].http.post(
                    "/v1/sessions", json={"policy": "biometric-coach"}
                )
                return answer.status_code, answer.json().get("type", "")

            with ThreadPoolExecutor(32) as pool:
                answers = list(pool.map(create, range(1_000)))
            taken = [kind for status, kind in answers if status == 201]
            refused = {answer for answer in answers if answer[0] != 201}
            assert len(taken) == 10
            assert refused == {(429, "urn:lapse:problem:limit-concurrent")}
            listed = apps[0].ask("GET", "/v1/sessions?policy=biometric-coach")["sessions"]
            assert len(listed) == 10


class TestErasure:
    """P3.4: on demand, and verifiable afterwards."""

    @pytest.mark.row("P3.4")
    def test_a_session_is_erased_on_demand(self, site: Installation, service: Running) -> None:
        """Its people are gone from the database, its history says by which rule and when."""
        with client(site, service) as app, client(site, service, "auditor") as auditor:
            session = app.create("video-analysis", owner="patient@example.org")
            path = f"/v1/sessions/{session['id']}"
            app.ask("POST", f"{path}/participants", {"subject": "ann"}, expect=201)
            app.ask("DELETE", path, expect=204)
            assert not any(databases.row_counts(site.database_url, databases.PEOPLE).values())
            problem = app.ask("GET", path, expect=410)
            assert problem["type"] == "urn:lapse:problem:session-erased"
            entries = auditor.ask("GET", f"/v1/audit/sessions/{session['id']}")["entries"]
            assert (entries[-1]["event"], entries[-1]["rule"]) == ("session.erased", "request")


class TestService:
    """The process: parts, tokens, stopping."""

    @pytest.mark.row("P4.5")
    def test_a_token_is_made_at_the_command_line_and_expires(
        self, site: Installation, service: Running
    ) -> None:
        """For a role, for policies, for a time; nothing else opens the door."""
        token = site.lapse("token", "--role", "producer", "--policy", "web-visit", "--ttl", "5m")
        headers = {"Authorization": f"Bearer {token.out.strip()}"}

        def create(policy: str) -> int:
            url = f"{service.url}/v1/sessions"
            answer = httpx2.post(url, json={"policy": policy}, headers=headers, timeout=PATIENCE)
            return answer.status_code

        assert create("web-visit") == 201
        assert create("reading-room") == 403
        assert httpx2.get(f"{service.url}/metrics", headers=headers).status_code == 403
        site.wait(minutes=5)
        assert create("web-visit") == 401

    def test_what_was_acknowledged_is_kept_when_the_service_is_killed(
        self, site: Installation
    ) -> None:
        """`kill -9` of one of two instances: the other goes on, nothing expires twice."""
        site.lapse("db", "upgrade")
        with site.serving("--port", "0") as other:
            ready = site.folder / "killed"
            killed = site.start("serve", "--port", "0", "--ready-file", str(ready))
            killed.ready = ready
            wait_until(ready.exists, 60, "the service")
            with client(site, killed) as app:
                ids = [app.create("reading-room")["id"] for _ in range(20)]
            killed.kill()
            with client(site, other) as app, client(site, other, "auditor") as auditor:
                assert {app.ask("GET", f"/v1/sessions/{id_}")["state"] for id_ in ids} == {"active"}
                site.wait(minutes=60)
                for id_ in ids:
                    eventually(app, f"/v1/sessions/{id_}", state="expired")
                wait_until(
                    lambda: (
                        sum(
                            event["event"] == "expired"
                            for event in auditor.ask("GET", "/v1/events?limit=1000")["events"]
                        )
                        >= 20
                    ),
                    30,
                    "the expiries",
                )
                events = auditor.ask("GET", "/v1/events?limit=1000")["events"]
                expired = [one["session"] for one in events if one["event"] == "expired"]
                assert sorted(expired) == sorted(ids)

    def test_a_port_that_is_taken_is_said(self, site: Installation, service: Running) -> None:
        """Exit code 2, and what to change."""
        port = service.url.rpartition(":")[2]
        answer = site.lapse("serve", "--port", port, expect=2)
        assert "--port" in answer.err
        assert "Traceback" not in answer.err
