"""A copy of what is held about a person, at the command line and by the running service."""

import json
import stat
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.clients import client
from tests.acceptance.commands import REFUSED, USAGE, Installation
from tests.servers import wait_until


@pytest.fixture
def name(tmp_path: Path) -> Path:
    """Standard input: who it is."""
    path = tmp_path / "name"
    path.write_text("ann@example.org\n")
    return path


def test_a_copy_is_written_for_its_owner_alone(
    site: Installation, name: Path, tmp_path: Path
) -> None:
    """Mode 0600, whole or not at all, never over another file; and the log says that it was."""
    out = tmp_path / "copy.zip"
    command = ("export", "--stdin", "--out", str(out))
    if site.database_url.startswith("sqlite"):
        site.lapse(*command, stdin=name, expect=REFUSED)
    site.lapse("db", "upgrade")
    with site.serving("--port", "0") as service, client(site, service) as app:
        room = app.create("reading-room")["id"]
        body = {"subject": "ann@example.org", "name": "Ann"}
        app.ask("POST", f"/v1/sessions/{room}/participants", body, expect=201)
        done = site.lapse(*command, "--json", stdin=name).document
        assert done["bytes"] == out.stat().st_size
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        with zipfile.ZipFile(out) as archive:
            (ann,) = json.loads(archive.read(f"sessions/{room}/session.json"))["names"]
        assert (ann["subject"], ann["name"]) == ("ann@example.org", "Ann")
        answer = site.lapse(*command, stdin=name, expect=USAGE)
        assert "ann@example.org" not in answer.out + answer.err
        assert not list(tmp_path.glob("*.partial"))
        with client(site, service, "auditor") as auditor:
            events = auditor.ask("GET", "/v1/events?limit=1000")["events"]
            topics = [one["topic"] for one in events if one["topic"].startswith("access.")]
            assert topics == ["access.received.v1", "access.sent.v1"]


def test_the_service_makes_a_copy_and_lets_it_go(site: Installation) -> None:
    """Within seconds of being asked; and it is gone after its term."""
    site.lapse("db", "upgrade")
    with site.serving("--port", "0") as service, client(site, service, "privacy") as officer:
        body = {"subject": "ann@example.org", "verified_by": "identity-provider"}
        asked = officer.ask("POST", "/v1/access-requests", body, expect=202)
        path = f"/v1/access-requests/{asked['request_id']}"
        wait_until(lambda: officer.ask("GET", path)["status"] == "ready", 30, "the copy")
        assert officer.status("GET", f"{path}/content") == 200
        site.wait(days=7)
        assert officer.status("GET", f"{path}/content") in (401, 410)
        with client(site, service, "privacy") as again:
            assert again.status("GET", f"{path}/content") == 410


def test_whose_copy_it_is_comes_on_standard_input_only(
    site: Installation, name: Path, tmp_path: Path
) -> None:
    """Not as an argument, which every list of processes shows; nor as an empty line."""
    site.lapse("db", "upgrade")
    out = str(tmp_path / "copy.zip")
    site.lapse("export", "--out", out, stdin=name, expect=USAGE)
    wrong = ("--verified-by", "somebody")
    site.lapse("export", "--stdin", "--out", out, *wrong, stdin=name, expect=USAGE)
    name.write_text("\n")
    site.lapse("export", "--stdin", "--out", out, stdin=name, expect=USAGE)
