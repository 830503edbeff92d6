"""What is left in the files of the database: searched and cleaned at the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import databases
from tests.acceptance.clients import client
from tests.acceptance.commands import FAILED, REFUSED, USAGE, Installation
from tests.servers import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database whose files hold nothing else."""
    if request.param == "sqlite":
        (tmp_path / "db").mkdir()
        yield f"sqlite:///{tmp_path / 'db' / 'lapse.db'}"
        return
    with PostgresServer() as server:
        yield server.create_database()


def test_three_canaries_are_searched_and_what_is_cleaned_is_not_found(
    site: Installation, tmp_path: Path
) -> None:
    """The text is never there; the ciphertext and the wrapped key are until they are erased and
    the database is cleaned up. With PostgreSQL they stay in its write-ahead log for a while."""
    site.lapse("db", "upgrade")
    with site.serving("--only", "api", "--port", "0") as service, client(site, service) as app:
        room = app.create("reading-room")["id"]
        body = {"subject": "canary@example.org", "name": "Canary Example"}
        app.ask("POST", f"/v1/sessions/{room}/participants", body, expect=201)
        url = site.database_url
        sealed = databases.value(url, "SELECT sealed FROM subject_index")
        wrapped = databases.value(url, "SELECT wrapped FROM subject_keys")
        canaries = tmp_path / "canaries.txt"
        canaries.write_text(
            f"text:canary@example.org\nhex:{sealed[:16].hex()}\nhex:{wrapped[:16].hex()}\n"
        )
        command = ("db", "search-canaries", "--stdin", "--json")
        found = site.lapse(*command, stdin=canaries, expect=FAILED).document
        assert {one["canary"] for one in found["found"]} == {2, 3}
        assert not found["unreadable"]
        app.ask("DELETE", f"/v1/sessions/{room}", expect=204)
    site.lapse("db", "clean")
    found = site.lapse(*command, stdin=canaries, expect=None).document
    elsewhere = [one for one in found["found"] if "pg_wal" not in one["file"]]
    assert {one["canary"] for one in elsewhere} <= ({2} if not databases.is_sqlite(url) else set())
    assert found["ok"] is databases.is_sqlite(url)


def test_other_folders_are_searched_too(site: Installation, tmp_path: Path) -> None:
    """Logs, exports, backups; the canary itself is printed nowhere."""
    site.lapse("db", "upgrade")
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "service.log").write_text('{"name": "canary@example.org"}')
    canaries = tmp_path / "canaries.txt"
    canaries.write_text("text:canary@example.org\n")
    answer = site.lapse(
        "db", "search-canaries", "--stdin", "--folder", str(logs), stdin=canaries, expect=FAILED
    )
    assert "service.log" in answer.out
    assert "canary@example.org" not in answer.out + answer.err


def test_what_cannot_be_searched_is_refused(site: Installation, tmp_path: Path) -> None:
    """No database, no canaries, a folder that is not there: each says what is missing."""
    canaries = tmp_path / "canaries.txt"
    canaries.write_text("text:canary@example.org\n")
    command = ("db", "search-canaries")
    if databases.is_sqlite(site.database_url):
        site.lapse(*command, "--stdin", stdin=canaries, expect=REFUSED)
    site.lapse("db", "clean", expect=REFUSED)
    site.lapse("db", "upgrade")
    site.lapse(*command, stdin=canaries, expect=USAGE)
    missing = str(tmp_path / "nowhere")
    site.lapse(*command, "--stdin", "--folder", missing, stdin=canaries, expect=USAGE)
    canaries.write_text("canary@example.org\n")
    answer = site.lapse(*command, "--stdin", stdin=canaries, expect=USAGE)
    assert "canary@example.org" not in answer.err
