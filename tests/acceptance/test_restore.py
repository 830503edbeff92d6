"""A backup is restored: what was erased since stays erased, what was held since stays held."""

import json
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from tests.acceptance import databases
from tests.acceptance.backups import Restore, back_up, back_up_folder
from tests.acceptance.clients import Client, client
from tests.acceptance.commands import FAILED, REFUSED, Installation, instant, micros
from tests.servers import wait_until

START = micros("2026-11-01T10:00:00Z")
HELD, EXTENDED, ERASED, SPARED, NEW = "held", "extended", "erased", "spared", "new"
MISSING = 7
"""Entries of the ledger after the backup: a hold, an extension, a policy, and two requests, each
with the erasure that carried it out."""
RULES = """
[policy.reading-room]
presence = "30s"
rules = [
  { since = "last_seen", after = "2h",  do = "expire" },
  { since = "expired",   after = "24h", do = "erase" },
]
"""


@pytest.fixture(autouse=True)
def begins_at_ten(site: Installation) -> None:
    site.now = instant(START)


class House:
    """A service with rooms, each with somebody in it, and a backup of it. rooms: name -> id."""

    def __init__(self, site: Installation, request: pytest.FixtureRequest) -> None:
        self.site = site
        self.rooms: dict[str, str] = {}
        self.cursor = ""
        site.lapse("db", "upgrade")
        with self.serving() as app:
            for name in (HELD, EXTENDED, ERASED, SPARED):
                self._open(app, name)
            body = {"subject": "guest", "name": "guest"}
            app.ask("POST", f"/v1/sessions/{self.rooms[SPARED]}/participants", body, expect=201)
            self.cursor = app.ask("GET", "/v1/events")["next"]
        self.restore: Restore = back_up(site, request)

    @contextmanager
    def serving(self, *options: str, **env: Any) -> Iterator[Client]:
        with (
            self.site.serving(*(options or ("--port", "0")), **env) as service,
            client(self.site, service, "admin") as app,
        ):
            yield app

    def go_on(self) -> None:
        """What happens after the backup: one is held, one extended, one erased, the policy changes,
        a room is opened and erased that the backup never knew."""
        site = self.site
        with self.serving() as app:
            self._open(app, NEW)
            app.ask("DELETE", f"/v1/sessions/{self.rooms[NEW]}", expect=204)
            app.ask("DELETE", f"/v1/sessions/{self.rooms[ERASED]}", expect=204)
            path = f"/v1/sessions/{self.rooms[EXTENDED]}/extend"
            app.ask("POST", path, {"until": instant(START + 10 * 3_600_000_000)})
            self.cursor = app.ask("GET", "/v1/events")["next"]
        until = instant(START + 400 * 86_400_000_000)
        held = site.program("tests.acceptance.programs:hold", self.rooms[HELD], until)
        assert held.wait().code == 0, held.so_far
        rules = site.folder / "rules.toml"
        rules.write_text(RULES)
        site.lapse("policy", "apply", str(rules))

    def _open(self, app: Client, name: str) -> None:
        self.rooms[name] = app.create("reading-room", owner=f"owner of {name}")["id"]
        body = {"subject": f"reader of {name}", "name": name}
        app.ask("POST", f"/v1/sessions/{self.rooms[name]}/participants", body, expect=201)

    def state(self) -> dict[str, Any]:
        return self.site.ask("db", "restore-check", expect=None)  # type: ignore[no-any-return]


@pytest.fixture
def house(site: Installation, request: pytest.FixtureRequest) -> House:
    return House(site, request)


def facts(site: Installation) -> list[dict[str, Any]]:
    rows = databases.rows(
        site.database_url, "SELECT state FROM events WHERE topic = 'log.epoch.v1'"
    )
    return [json.loads(row[0]) for row in rows]


@pytest.mark.row("G5")
def test_a_restored_database_forgets_again(house: House) -> None:
    """What was erased is gone again, keys and names included; the hold, the longer life and the
    policy of after the backup hold again; who follows the log is told to begin anew."""
    site = house.site
    house.go_on()
    assert house.state()["state"] == "current"
    house.restore()
    assert databases.row_counts(site.database_url, ("sessions",)) == {"sessions": 4}
    found = house.state()
    assert (found["state"], found["ledger"]["missing"]) == ("older", 7)
    with house.serving() as app:
        assert app.status("GET", f"/v1/sessions/{house.rooms[ERASED]}") == 410
        assert app.status("GET", f"/v1/sessions/{house.rooms[NEW]}") == 404
        kept = app.ask("GET", f"/v1/sessions/{house.rooms[EXTENDED]}")
        assert micros(kept["expires_at"]) == START + 10 * 3_600_000_000
        assert app.ask("GET", f"/v1/sessions/{house.rooms[SPARED]}")["state"] == "active"
        refused = app.http.delete(f"/v1/sessions/{house.rooms[HELD]}")
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "held")
        policy = app.ask("GET", "/v1/policies/reading-room")
        assert [one["version"] for one in policy["versions"]] == [1, 2]
        old = app.http.get("/v1/events", params={"after": house.cursor})
        assert (old.status_code, old.json()["type"]) == (409, "urn:lapse:problem:cursor-epoch")
        again = app.ask("GET", "/v1/events")
        assert {one["event"] for one in again["events"]} >= {"epoch", "erased", "held"}
        assert app.http.get("/v1/events", params={"after": again["next"]}).status_code == 200
    gone = {house.rooms[ERASED], house.rooms[NEW]}
    for table in ("sessions", "subject_index", "presence", "data_keys"):
        rows = databases.rows(site.database_url, f"SELECT session_id FROM {table}")
        assert gone.isdisjoint(row[0] for row in rows), table
    (fact,) = facts(site)
    assert (fact["epoch"], fact["missing"]) == (2, 7)
    assert house.state()["state"] == "current"
    assert site.ask("db", "check") == {"ok": True, "findings": []}


@pytest.mark.row("G5")
def test_who_was_erased_among_others_is_gone_again_and_who_was_held_is_held(house: House) -> None:
    """A person's part of a room that goes on, and a hold of a person; the request stands again, and
    the tree of the new epoch proves it all."""
    site = house.site
    guest = {"subject": "guest", "verified_by": "controller"}
    with house.serving() as app:
        request = app.ask("POST", "/v1/erasure-requests", guest, expect=202)
        assert request["executed_at"]
        hold = {"subject": f"reader of {HELD}", "ground": "legal-claim"}
        app.ask("POST", "/v1/holds", hold, expect=201)
        gone = app.ask(
            "POST", "/v1/holds", {**hold, "subject": f"reader of {EXTENDED}"}, expect=201
        )
        app.ask("DELETE", f"/v1/holds/{gone['hold']}", expect=204)
    house.restore()
    with house.serving() as app:
        people = app.ask("GET", f"/v1/sessions/{house.rooms[SPARED]}/participants")["participants"]
        assert [one["name"] for one in people] == [SPARED]
        again = app.ask("GET", f"/v1/erasure-requests/{request['request_id']}")
        kept = ("about", "verified_by", "requested_at", "executed_at", "parts", "deadline_at")
        assert {key: again[key] for key in kept} == {key: request[key] for key in kept}
        refused = app.http.delete(f"/v1/sessions/{house.rooms[HELD]}")
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "held")
        app.ask("DELETE", f"/v1/sessions/{house.rooms[EXTENDED]}", expect=204)
    assert house.state()["state"] == "current"
    assert site.ask("audit", "verify")["ok"]
    assert site.ask("db", "check") == {"ok": True, "findings": []}


@pytest.mark.row("G5")
def test_nothing_is_answered_before_it_has_forgotten_again(house: House) -> None:
    """503 with when to come again, to all but whether the process lives; readiness says why."""
    site = house.site
    house.go_on()
    house.restore()
    assert house.state()["state"] == "older"  # SQLite: whoever opens a copy first needs it alone
    ready = site.folder / "ready"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with databases.writers_kept_waiting(site.database_url):
        service = site.start(
            *("serve", "--port", str(port), "--ready-file", str(ready)), LAPSE_LOCK_TIMEOUT="60"
        )
        wait_until(lambda: _status(f"{url}/health/live") == 200, 60, "the service to live")
        answer = httpx2.get(f"{url}/v1/sessions/{house.rooms[ERASED]}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["type"] == "urn:lapse:problem:restore-pending"
        assert _status(f"{url}/v1/events/stream") == 503
        found = httpx2.get(f"{url}/health/ready")
        assert (found.status_code, found.json()["checks"]["restore"]) == (503, "restore-pending")
        assert not ready.exists()
    wait_until(ready.exists, 60, "the service to be ready")
    assert _status(f"{url}/health/ready") == 200
    assert service.stop().code == 0


def _status(url: str) -> int:
    try:
        return httpx2.get(url, timeout=60.0).status_code
    except httpx2.HTTPError:
        return 0


@pytest.mark.row("G5")
def test_a_command_that_writes_forgets_first(house: House) -> None:
    """A sweep of the restored database would erase what is held, and expire what was extended."""
    site = house.site
    house.go_on()
    house.restore()
    site.wait(hours=9)
    site.ask("sweep")
    live = databases.rows(
        site.database_url, "SELECT session_id FROM sessions WHERE phase = 'active'"
    )
    assert {row[0] for row in live} == {house.rooms[EXTENDED]}
    site.wait(days=30)
    site.ask("sweep")
    left = databases.rows(site.database_url, "SELECT session_id FROM sessions")
    assert {row[0] for row in left} == {house.rooms[HELD]}
    assert site.ask("db", "check") == {"ok": True, "findings": []}


def test_a_command_that_reads_changes_nothing(house: House) -> None:
    """So that a backup can be tried before it is used."""
    site = house.site
    house.go_on()
    house.restore()
    before = databases.contents(site.database_url)
    keys = {path.name: path.read_bytes() for path in (site.folder / "keys").iterdir()}
    for command in (("status",), ("sessions",), ("db", "check"), ("key", "status")):
        site.lapse(*command)
    site.lapse("db", "restore-check", expect=REFUSED)
    assert databases.contents(site.database_url) == before
    assert {path.name: path.read_bytes() for path in (site.folder / "keys").iterdir()} == keys


@pytest.mark.row("G5")
def test_no_copy_is_made_of_somebody_whom_a_backup_brings_back(house: House) -> None:
    """`lapse export` repeats the ledger first: it gives out what is held, and writes so."""
    site = house.site
    house.go_on()
    house.restore()
    name, out = site.folder / "name", site.folder / "copy.zip"
    name.write_text(f"reader of {ERASED}\n")
    site.lapse("export", "--stdin", "--out", str(out), stdin=name)
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == ["about.json"]
    assert house.state()["state"] == "current"


@pytest.mark.row("G5")
def test_restoring_the_ledger_too_does_not_hide_it(house: House) -> None:
    """The key store counts the entries: nothing is served before the newest ledger is there."""
    site, folder = house.site, house.site.folder
    restore_ledger = back_up_folder(folder / "ledger", folder / "old-ledger")
    house.go_on()
    newest = back_up_folder(folder / "ledger", folder / "newest-ledger")
    house.restore()
    restore_ledger()
    assert site.lapse("db", "restore-check", expect=FAILED).out.strip()
    assert house.state()["state"] == "ledger-too-short"
    for command in (("sweep",), ("serve", "--port", "0")):
        refused = site.lapse(*command, expect=FAILED)
        assert "LAPSE_LEDGER_URL" in refused.err
    newest()
    with house.serving() as app:
        assert app.status("GET", f"/v1/sessions/{house.rooms[ERASED]}") == 410


def test_a_ledger_that_is_not_there_is_no_empty_one(house: House) -> None:
    """A setting that changed, or a folder that was not mounted."""
    elsewhere = (house.site.folder / "elsewhere").as_uri()
    refused = house.site.lapse("sweep", expect=FAILED, LAPSE_LEDGER_URL=elsewhere)
    assert "LAPSE_LEDGER_URL" in refused.err
    house.site.lapse("sweep")


@pytest.mark.row("G5")
def test_the_same_backup_restored_twice(house: House) -> None:
    """Each time it is another log; nothing comes back, and what was decided in between counts."""
    site = house.site
    house.go_on()
    cursors = [house.cursor]
    for epoch in (2, 3):
        house.restore()
        with house.serving() as app:
            for cursor in cursors:
                assert app.http.get("/v1/events", params={"after": cursor}).status_code == 409
            assert app.status("GET", f"/v1/sessions/{house.rooms[ERASED]}") == 410
            if epoch == 2:
                app.ask("DELETE", f"/v1/sessions/{house.rooms[SPARED]}", expect=204)
            assert app.status("GET", f"/v1/sessions/{house.rooms[SPARED]}") == 410
            cursors.append(app.ask("GET", "/v1/events")["next"])
        assert facts(site)[-1]["epoch"] == epoch
    assert site.ask("db", "check") == {"ok": True, "findings": []}


@pytest.mark.row("G5")
def test_a_hold_wins_over_an_erasure_that_came_due_behind_it(house: House) -> None:
    """The backup is restored when the rules would have erased long ago what a hold protects."""
    site = house.site
    house.go_on()
    site.wait(days=100)
    house.restore()
    with house.serving() as app:
        wait_until(
            lambda: databases.row_counts(site.database_url, ("sessions",))["sessions"] == 1,
            60,
            "the others to be erased",
        )
        assert app.http.delete(f"/v1/sessions/{house.rooms[HELD]}").status_code == 409
    released = site.program("tests.acceptance.programs:release", house.rooms[HELD])
    assert released.wait().code == 0, released.so_far
    site.lapse("sweep")
    assert databases.row_counts(site.database_url, databases.PEOPLE)["subject_keys"] == 0


def test_an_older_state_is_noticed_without_anything_to_do_again(house: House) -> None:
    """Only rooms were opened since: the key store knows how far the log reached."""
    with house.serving() as app:
        house._open(app, NEW)
        cursor = app.ask("GET", "/v1/events")["next"]
    house.restore()
    found = house.state()
    assert (found["state"], found["ledger"]["missing"]) == ("older", 0)
    with house.serving() as app:
        assert app.http.get("/v1/events", params={"after": cursor}).status_code == 409
    assert house.state()["log"]["epoch"] == 2


def test_the_check_of_what_is_not_there_or_was_never_restored(site: Installation) -> None:
    """No database, an empty one, and one in use: all is well."""
    assert site.ask("db", "restore-check")["state"] == "fresh"
    site.lapse("db", "upgrade")
    assert site.ask("db", "restore-check")["state"] == "fresh"
    site.lapse("sweep")
    found = site.ask("db", "restore-check")
    assert (found["state"], found["ledger"]["missing"]) == ("current", 0)
    assert "contains all that is known" in site.lapse("db", "restore-check").out


def test_a_ledger_that_cannot_be_written_stops_what_it_would_forget(house: House) -> None:
    """503, an alert, and the room is still there; creating goes on; once it can be written, so does
    erasing."""
    site = house.site
    ledger = site.folder / "ledger"
    room = f"/v1/sessions/{house.rooms[SPARED]}"
    with house.serving() as app:
        (file,) = ledger.iterdir()
        kept = file.read_bytes()
        file.unlink()
        file.mkdir()
        refused = app.http.delete(room)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:lapse:problem:ledger")
        app.create("reading-room")
        assert 'lapse_alert{alert="ledger"} 1.0' in app.http.get("/metrics").text
        assert app.status("GET", room) == 200
        file.rmdir()
        file.write_bytes(kept)
        app.ask("DELETE", room, expect=204)
        assert 'lapse_alert{alert="ledger"} 0.0' in app.http.get("/metrics").text
