"""Erasing people and holding what must stay, as privacy officers do it at the command line."""

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import databases
from tests.acceptance.commands import (
    DONE,
    FAILED,
    KILLED,
    REFUSED,
    USAGE,
    Installation,
    written,
)
from tests.servers import wait_until

KEYS = {
    *("request_id", "status", "requested_at", "executed_at", "verified_at", "final_at"),
    *("stores", "reason"),
}
NAME = "ann.canary@example.org"


def rooms(site: Installation, number: int, *others: str) -> None:
    """So many rooms, in each of them ann, and in every second one the others too."""
    records = [
        {"at": "2026-11-21T23:59:00Z", "activity": "seen", "visitor": who, "room": f"room-{n}"}
        for n in range(number)
        for who in (NAME, *(others if n % 2 else ()))
    ]
    path = written(site.folder / "rooms.jsonl", records)
    site.lapse("ingest", path, "--format", "jsonl", "--policy", "reading-room", "--until", "last")


def person(site: Installation, name: str = NAME) -> Path:
    path = site.folder / "person.txt"
    path.write_text(f"{name}\n")
    return path


def erase(site: Installation, expect: int = DONE, **options: Any) -> Any:
    return site.lapse(
        *("erase", "subject", "--stdin", "--json"), stdin=person(site), expect=expect, **options
    )


def count(site: Installation, query: str) -> int:
    return int(databases.value(site.database_url, query))


def test_a_person_is_erased_by_name(site: Installation) -> None:
    """What is theirs alone goes whole, of what others share only their part; the name stands in no
    output, no log and no file of the database."""
    rooms(site, 4, "bob")
    answer = erase(site)
    found = answer.document
    assert set(found) >= KEYS
    assert (found["status"], found["sessions"], found["parts"]) == ("executed", 2, 2)
    assert NAME not in answer.out + answer.err
    assert not databases.holds(site.database_url, NAME.encode())
    assert site.ask("request", "show", found["request_id"]) == found
    assert site.ask("request", "list")["requests"] == [found]
    assert count(site, "SELECT count(*) FROM subjects") == 1
    assert count(site, "SELECT count(*) FROM presence") == 2
    assert site.ask("db", "check") == {"ok": True, "findings": []}
    again = erase(site).document
    assert (again["status"], again["sessions"], again["parts"]) == ("executed", 0, 0)


@pytest.mark.row("G6")
@pytest.mark.parametrize("of", ["session", "subject"])
def test_what_is_held_waits(site: Installation, of: str) -> None:
    """Exit code 3 and the reason; rules wait too; the release resumes both."""
    rooms(site, 1)
    [session] = site.ask("sessions")["sessions"]
    which = ("--session", session["id"]) if of == "session" else ("--subject-stdin",)
    hold = site.lapse(
        *("hold", "add", *which, "--ground", "legal-claim", "--json"), stdin=person(site)
    ).document
    assert site.ask("hold", "list")["holds"] == [hold]
    found = erase(site, REFUSED).document
    assert (found["status"], found["reason"]) == ("requested", "held")
    pending = site.lapse("erase", "session", session["id"], "--json", expect=REFUSED).document
    assert pending["reason"] == "held"
    site.wait(days=3)
    assert site.ask("sweep")["events"].get("erased", 0) == 0
    site.lapse("hold", "release", hold["hold"])
    site.lapse("hold", "release", hold["hold"], expect=FAILED)
    site.lapse("request", "run")
    assert site.ask("request", "show", found["request_id"])["status"] == "executed"
    assert site.ask("request", "show", pending["request_id"])["status"] == "executed"
    assert databases.per_session(site.database_url, "session.erased.v1") == [(session["id"], 1)]


def test_what_is_asked_wrongly_changes_nothing(site: Installation) -> None:
    """Names in arguments, grounds that are none, ids of nothing: each has its exit code."""
    site.lapse("db", "upgrade")
    nothing = "0" * 32
    site.lapse("erase", "subject", expect=USAGE)
    site.lapse("erase", "subject", "--stdin", stdin=person(site, ""), expect=USAGE)
    site.lapse("erase", "session", nothing, expect=FAILED)
    site.lapse("erase", "session", nothing, "--verified-by", "rumour", expect=USAGE)
    site.lapse("hold", "add", "--ground", "legal-claim", expect=USAGE)
    site.lapse("hold", "add", "--session", nothing, "--ground", "spite", expect=USAGE)
    site.lapse("hold", "add", "--session", nothing, "--ground", "legal-claim", expect=FAILED)
    site.lapse("request", "show", nothing, expect=FAILED)
    site.lapse("request", "list", "--status", "lost", expect=USAGE)
    assert count(site, "SELECT count(*) FROM requests") == 0


def test_without_a_database_nothing_is_called_executed(site: Installation) -> None:
    """Somebody whose settings name another place is told so, and no database with keys is made
    there, in which nobody would be known and every request be executed."""
    nothing = "0" * 32
    for command, stdin in (
        (("erase", "subject", "--stdin"), person(site)),
        (("erase", "session", nothing), None),
        (("request", "refuse", nothing, "--ground", "legal-claim"), None),
        (("request", "run"), None),
        (("hold", "add", "--subject-stdin", "--ground", "legal-claim"), person(site)),
        (("hold", "release", nothing), None),
    ):
        answer = site.lapse(*command, stdin=stdin, expect=REFUSED)
        assert "there is no database here yet" in answer.err
        assert "LAPSE_DATABASE_URL" in answer.err
    assert not (site.folder / "keys").exists()


def test_a_request_says_what_it_waits_for(site: Installation) -> None:
    """Nothing keeps it back, and yet it does not go on at once: at every step it says what must
    happen first, in the JSON and in the table, and says nothing once a hold is the reason."""
    rooms(site, 1)
    found = erase(site).document

    def waits() -> tuple[str, str | None]:
        shown = site.ask("request", "show", found["request_id"])
        assert site.ask("request", "list")["requests"] == [shown]
        return shown["status"], shown["waiting_for"]

    assert (found["status"], found["reason"], found["waiting_for"]) == ("executed", None, "caches")
    assert waits() == ("executed", "caches")
    site.wait(seconds=30)
    assert waits() == ("executed", "cleanup")
    assert "cleanup" in site.lapse("request", "show", found["request_id"]).out
    site.lapse("db", "clean")
    assert waits() == ("executed", "scan")
    site.wait(minutes=1)
    site.lapse("request", "run")
    assert waits() == ("verified", "keys")


def test_a_request_that_is_held_waits_for_nothing_else(site: Installation) -> None:
    """`reason` says so; there is nothing that would happen by itself."""
    rooms(site, 1)
    site.lapse("hold", "add", "--subject-stdin", "--ground", "restriction", stdin=person(site))
    found = erase(site, REFUSED).document
    assert (found["reason"], found["waiting_for"]) == ("held", None)


def test_killed_in_the_middle_it_goes_on_where_it_was(site: Installation) -> None:
    """`kill -9` between two transactions: the request says that it is not done, and the next who
    looks completes it; every session was erased once."""
    rooms(site, 320)
    running = site.start("erase", "subject", "--stdin", stdin=person(site))
    left = "SELECT count(*) FROM subject_index"
    with databases.counting(site.database_url, left) as remaining:
        wait_until(lambda: remaining() < 320 or not running.is_alive, 60, "a first batch to go")
    assert running.kill().code == KILLED
    before = count(site, left)
    [found] = site.ask("request", "list")["requests"]
    assert (found["status"] == "executed") is (before == 0)
    assert before > 0
    assert found["waiting_for"] == "execution"
    site.lapse("request", "run")
    found = site.ask("request", "show", found["request_id"])
    assert (found["status"], found["sessions"]) == ("executed", 320)
    assert count(site, left) == count(site, "SELECT count(*) FROM subjects") == 0
    erased = databases.per_session(site.database_url, "session.erased.v1")
    assert [times for _, times in erased] == [1] * 320
    assert site.ask("db", "check") == {"ok": True, "findings": []}


def test_a_service_moves_requests_on(site: Installation) -> None:
    """What waited for a hold is carried out by `lapse serve` once that is released."""
    rooms(site, 2, "bob")
    hold = site.lapse(
        *("hold", "add", "--subject-stdin", "--ground", "restriction", "--json"),
        stdin=person(site),
    ).document
    found = erase(site, REFUSED).document
    ready = site.folder / "ready.json"
    service = site.start("serve", "--only", "worker", "--ready-file", str(ready))
    wait_until(ready.exists, 60, "the service to be ready")
    site.lapse("hold", "release", hold["hold"])
    executed = "SELECT count(*) FROM requests WHERE status = 'executed'"
    with databases.counting(site.database_url, executed) as done:
        wait_until(lambda: done() == 1 or not service.is_alive, 60, "the request to be executed")
    assert service.stop().code == DONE
    found = site.ask("request", "show", found["request_id"])
    assert (found["status"], found["sessions"], found["parts"]) == ("executed", 1, 1)
