"""Keys rotate while `lapse serve` runs, and old ones are destroyed; in a file and with Vault."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.acceptance import databases
from tests.acceptance.clients import Client, client
from tests.acceptance.commands import REFUSED, USAGE, Installation, Running, micros
from tests.servers import wait_until
from tests.transit import TOKEN, fake_transit

PEOPLE = {"Ann", "Bob", "Cem"}


@pytest.fixture(params=["file", "vault"])
def sealed_site(
    request: pytest.FixtureRequest, site: Installation, tmp_path: Path
) -> Iterator[Any]:
    """An installation whose keys are in a file, or with Vault."""
    if request.param == "file":
        yield site
        return
    with fake_transit(tmp_path, lambda: micros(site.now)) as vault:
        site.environment |= {
            "LAPSE_KEY_URL": vault.key_url,
            "LAPSE_VAULT_TOKEN": TOKEN,
            "LAPSE_VAULT_CA_FILE": str(vault.ca_file),
        }
        yield site


def keks(site: Installation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = site.ask("key", "status")["keks"]
    return found


def wrapped(site: Installation) -> set[bytes]:
    return {row[0] for row in databases.rows(site.database_url, "SELECT wrapped FROM subject_keys")}


def kek_in_use(site: Installation) -> set[str]:
    """Which KEKs the rows name."""
    return {row[0] for row in databases.rows(site.database_url, "SELECT kek FROM subject_keys")}


def says(app: Client, line: str) -> bool:
    return line in app.http.get("/metrics").text


def names(app: Client, room: str) -> set[str]:
    people = app.ask("GET", f"/v1/sessions/{room}/participants")["participants"]
    return {one["name"] for one in people}


def pass_days(site: Installation, service: Running, days: int) -> None:
    """Day by day, a few minutes after the service has seen each: so it settles what it moved."""
    for _ in range(days):
        before = kek_in_use(site)
        site.wait(hours=24)
        wait_until(lambda before=before: not kek_in_use(site) & before, 60, "keys to move")  # type: ignore[misc]
        assert service.is_alive


@pytest.mark.row("P3.5")
def test_keys_rotate_every_day_while_people_come_and_read(sealed_site: Installation) -> None:
    """Nobody is lost over some days, and the KEK of the first day is destroyed at the end of the
    window of backups; the bytes it wrapped are in no row."""
    site = sealed_site
    site.environment["LAPSE_RESTORE_WINDOW"] = "2d"
    site.lapse("db", "upgrade")
    with site.serving("--port", "0") as service, client(site, service, "admin") as app:
        room = app.create("therapy-audio")["id"]
        for name in sorted(PEOPLE):
            body = {"subject": name, "name": name}
            app.ask("POST", f"/v1/sessions/{room}/participants", body, expect=201)
        (first,) = keks(site)
        assert first["rows"] == len(PEOPLE)
        old = wrapped(site)
        pass_days(site, service, 1)
        assert names(app, room) == PEOPLE
        assert not wrapped(site) & old
        assert [one["rows"] for one in keks(site)] == [0, len(PEOPLE)]
        app.ask(
            "POST", f"/v1/sessions/{room}/participants", {"subject": "d", "name": "Dot"}, expect=201
        )
        pass_days(site, service, 1)
        assert first["id"] in {one["id"] for one in keks(site)}
        pass_days(site, service, 2)
        wait_until(
            lambda: first["id"] not in {one["id"] for one in keks(site)}, 60, "it to be destroyed"
        )
        assert names(app, room) == PEOPLE | {"Dot"}
    with site.serving("--port", "0") as again, client(site, again, "admin") as app:
        assert names(app, room) == PEOPLE | {"Dot"}


def test_the_command_rotates_at_once_beside_a_service(sealed_site: Installation) -> None:
    """Who was sealed before and who comes after can be read, by the service that was running."""
    site = sealed_site
    site.lapse("db", "upgrade")
    with site.serving("--port", "0") as service, client(site, service, "admin") as app:
        room = app.create("therapy-audio")["id"]
        path = f"/v1/sessions/{room}/participants"
        app.ask("POST", path, {"subject": "ann", "name": "Ann"}, expect=201)
        done = site.ask("key", "rotate")
        assert (done["moved"], done["kept"]) == (1, 0)
        assert kek_in_use(site) == {done["kek"]}
        app.ask("POST", path, {"subject": "bob", "name": "Bob"}, expect=201)
        assert names(app, room) == {"Ann", "Bob"}


def test_a_copy_of_the_key_file_follows_it(site: Installation, tmp_path: Path) -> None:
    """The command says how it stands; while it cannot be written an alert does, at /metrics too."""
    escrow = tmp_path / "escrow"
    escrow.mkdir(mode=0o700)
    site.lapse("db", "upgrade")
    assert site.ask("key", "status")["escrow"] is None
    site.environment["LAPSE_KEY_ESCROW_URL"] = escrow.as_uri()
    assert site.ask("key", "status")["escrow"] == "behind"
    site.lapse("token", "--role", "admin")
    with site.serving("--port", "0") as service, client(site, service, "operator") as app:
        assert site.ask("key", "status")["escrow"] == "current"
        site.ask("key", "rotate")
        assert site.ask("key", "status")["escrow"] == "current"
        (copy,) = escrow.iterdir()
        assert len(orjson.loads(copy.read_bytes())["keks"]) == 2
        escrow.rename(tmp_path / "away")
        assert site.ask("key", "status")["escrow"] == "unavailable"
        site.wait(hours=1)
        wait_until(lambda: says(app, 'lapse_alert{alert="escrow"} 1.0'), 60, "the alert")
        (tmp_path / "away").rename(escrow)
        site.wait(hours=1)
        wait_until(lambda: says(app, 'lapse_alert{alert="escrow"} 0.0'), 60, "its end")
    site.environment["LAPSE_KEY_ESCROW_URL"] = site.environment["LAPSE_KEY_URL"]
    refused = site.lapse("key", "status", expect=USAGE)
    assert "LAPSE_KEY_ESCROW_URL" in refused.err


def test_keys_need_a_database(site: Installation) -> None:
    """Neither command makes one."""
    for command in ("status", "rotate"):
        site.lapse("key", command, expect=REFUSED)


@pytest.mark.row("P3.5")
def test_a_service_writes_no_core_dump(site: Installation) -> None:
    """What would be in it is keys and names."""
    site.lapse("db", "upgrade")
    with site.serving("--port", "0") as service:
        limits = Path(f"/proc/{service.pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"]


def test_a_vault_that_is_away_is_said_without_the_token(site: Installation, tmp_path: Path) -> None:
    """A start is refused; nothing is printed that would open Vault."""
    with fake_transit(tmp_path, lambda: micros(site.now)) as vault:
        site.environment |= {
            "LAPSE_KEY_URL": vault.key_url,
            "LAPSE_VAULT_TOKEN": TOKEN,
            "LAPSE_VAULT_CA_FILE": str(vault.ca_file),
        }
        site.lapse("db", "upgrade")
        site.lapse("token", "--role", "admin")
    refused = site.lapse("token", "--role", "admin", expect=1)
    assert "LAPSE_KEY_URL" in refused.err
    assert TOKEN not in refused.err + refused.out
