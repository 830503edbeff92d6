"""Whatever is wrong: a clear text on standard error, the exit code that stands for it, and nothing
half-written."""

import gzip
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.acceptance import databases
from tests.acceptance.commands import (
    DONE,
    FAILED,
    REFUSED,
    USAGE,
    Answer,
    Installation,
    written,
)
from tests.independent import readers
from tests.independent.counts import MINUTE, visits
from tests.servers import PostgresServer, wait_until

VISITS = [
    {"at": f"2026-11-01T10:{minute:02}:00Z", "activity": "seen", "visitor": f"visitor-{minute}"}
    for minute in range(10)
]
LATER = "2026-11-01T10:35:00Z"
"""When some of them have expired."""


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A small log of ten visits."""
    return written(tmp_path / "visits.jsonl", VISITS)


def ingest(log: str, **options: str) -> tuple[str, ...]:
    """The command that imports it, with other options than the right ones."""
    right = {"format": "jsonl", "policy": "web-visit", "until": "last"}
    chosen = [(f"--{name}", value) for name, value in (right | options).items()]
    return ("ingest", log, *(word for option in chosen for word in option))


@pytest.fixture
def stocked(site: Installation, log: str) -> Installation:
    """An installation with ten visits, of which some are due."""
    site.lapse(*ingest(log))
    site.now = LATER
    return site


@pytest.fixture
def embedded(tmp_path: Path, key_url: str) -> Installation:
    """An installation on SQLite, for what has no meaning on a server."""
    return Installation(tmp_path, f"sqlite:///{tmp_path / 'db' / 'lapse.db'}", key_url)


def refused(answer: Answer, code: int, *texts: str) -> Answer:
    """It ended with this code and said these texts, plainly, beside what it logged."""
    assert answer.code == code, answer
    said = "\n".join(line for line in answer.err.splitlines() if not line.startswith("{"))
    assert said.startswith("lapse: "), answer
    assert "Traceback" not in said
    for text in texts:
        assert text in said
    return answer


@contextmanager
def nothing_written(site: Installation) -> Iterator[None]:
    """Every row of every table is what it was."""
    before = databases.contents(site.database_url)
    yield
    assert databases.contents(site.database_url) == before


class TestUsage:
    """Options and files that make no sense: exit code 2, and what would have been right."""

    def test_options(self, stocked: Installation, log: str) -> None:
        """A misspelt policy, a format there is not, a time without an offset."""
        known = "no policy named 'web-vist'; known policies: biometric-coach"
        with nothing_written(stocked):
            for options, text in (
                ({"policy": "web-vist"}, known),
                ({"format": "x"}, "--format must be one of combined, common, edgar, irc, jsonl"),
                ({"visitor": "cookie"}, "--visitor must be one of host, ip, ip+agent"),
                ({"until": "tomorrow"}, "--until: write an RFC 3339 time with its offset"),
                ({"until": "2026-11-01T10:00:00"}, "--until: write an RFC 3339 time with its"),
            ):
                answer = stocked.lapse(*ingest(log, **options), expect=USAGE)
                refused(answer, USAGE, text)

    def test_files(self, stocked: Installation) -> None:
        """One that is not there, one that is a folder; its name, which may name people, is not
        repeated."""
        with nothing_written(stocked):
            for file, text in (
                ("maximilian.log", "file 1 cannot be read: No such file or directory"),
                (".", "file 1 cannot be read: Is a directory"),
            ):
                answer = refused(stocked.lapse(*ingest(file), expect=USAGE), USAGE, text)
                assert "maximilian" not in answer.err

    def test_one_of_several_files(self, site: Installation, log: str) -> None:
        """That the second one is missing is known before the first one is imported."""
        for command in ("ingest", "simulate"):
            _, _, *options = ingest(log)
            answer = site.lapse(command, log, "maximilian.log", *options, expect=USAGE)
            refused(answer, USAGE, "file 2 cannot be read: No such file or directory")
            assert "maximilian" not in answer.err
        site.lapse("status", expect=REFUSED)  # not even a database was made

    def test_a_format_that_no_line_has(self, site: Installation, log: str) -> None:
        """Exit code 1 and where to look; a single line that can be read is enough to go on."""
        for command in ("ingest", "simulate"):
            _, _, *options = ingest(log, format="combined")
            answer = site.lapse(command, log, *options, expect=FAILED)
            refused(answer, FAILED, "no line matches; is --format right?")
        mixed = Path(log).with_name("mixed.jsonl")
        mixed.write_text("nothing\n" + Path(log).read_text())
        assert site.ask(*ingest(str(mixed)))["rejected"] == 1

    def test_the_command_line_itself(self, stocked: Installation) -> None:
        """Unknown commands and options, as every command says it."""
        for arguments in (("ingset",), ("sweep", "--dry"), ("ingest",), ("show",)):
            answer = stocked.lapse(*arguments, expect=USAGE)
            assert "Usage:" in answer.err
            assert "Traceback" not in answer.err

    def test_settings(self, stocked: Installation) -> None:
        """Each is named; a value, which may be a password, is not repeated."""
        settings: tuple[tuple[dict[str, Any], str], ...] = (
            ({"LAPSE_DATABASE_URL": "mysql://somebody:secret@host/db"}, "must start with sqlite"),
            ({"LAPSE_DATABASE_URL": "not a url, secret"}, "the database URL cannot be read"),
            ({"LAPSE_KEY_URL": "secret"}, "LAPSE_KEY_URL: write file:///folder"),
            (
                {"LAPSE_ENV": "production"},
                "lapse: LAPSE_CLOCK is accepted only with LAPSE_ENV=test",
            ),
            ({"LAPSE_CLOCK": "file:/nowhere"}, "LAPSE_CLOCK: the file cannot be read"),
            ({"LAPSE_SWEEP_BATCH": "secret"}, "LAPSE_SWEEP_BATCH: "),
            ({"LAPSE_CORS_ORIGINS": "https://secret"}, "LAPSE_CORS_ORIGINS: write a JSON list"),
            ({"LAPSE_WITNESSES": "secret"}, "LAPSE_WITNESSES: write a JSON list"),
            ({"LAPSE_DATABASE_ULR": "secret"}, "did you mean LAPSE_DATABASE_URL?"),
            ({"LAPSE_POLICY_FILE": "nowhere.toml"}, "LAPSE_POLICY_FILE: the policy file cannot be"),
            ({"LAPSE_CONFIG": "nowhere.toml"}, "LAPSE_CONFIG names a file that does not exist"),
        )
        with nothing_written(stocked):
            for env, text in settings:
                answer = refused(stocked.lapse("sweep", expect=USAGE, **env), USAGE, text)
                assert "secret" not in answer.err

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"sweep_batch = 5\nsecret = = 1", "line 2: Invalid value"),
            (b"secret = ", "at the end"),
            (b"\xff\xfe", "it is not UTF-8 text"),
            (b"sweep_batch = 'secret'", "sweep_batch: "),
            (b"sweep_batsh = 1", "sweep_batsh: is no setting; did you mean sweep_batch?"),
        ],
    )
    def test_a_settings_file(self, site: Installation, text: bytes, said: str) -> None:
        """One line that names the file as the setting or the folder does, and the place in it."""
        path = site.folder / "settings.toml"
        path.write_bytes(text)
        answer = refused(site.lapse("status", expect=USAGE, LAPSE_CONFIG=str(path)), USAGE)
        assert answer.err.startswith(f"lapse: LAPSE_CONFIG: {said}")
        assert len(answer.err.splitlines()) == 1
        assert "secret" not in answer.err
        path.rename(site.folder / "lapse.toml")
        answer = refused(site.lapse("status", expect=USAGE), USAGE)
        assert answer.err.startswith(f"lapse: lapse.toml: {said}")

    def test_a_settings_file_nobody_may_read(self, site: Installation) -> None:
        """Said plainly, too, also if it is the folder that is closed."""
        (site.folder / "settings.toml").touch(mode=0o000)
        (site.folder / "closed").mkdir(mode=0o000)
        for name in ("settings.toml", "closed/settings.toml"):
            path = str(site.folder / name)
            answer = site.start("status", ordinary=True, LAPSE_CONFIG=path).wait()
            refused(answer, USAGE, "LAPSE_CONFIG: it cannot be read (Permission denied)")

    def test_a_setting_of_the_environment_is_named_as_there(self, site: Installation) -> None:
        """Also if the file has the same one, which the environment replaces."""
        (site.folder / "lapse.toml").write_text("sweep_batch = 5\npool_size = 0\n")
        answer = site.lapse("status", expect=USAGE, LAPSE_SWEEP_BATCH="0")
        refused(answer, USAGE, "LAPSE_SWEEP_BATCH: ", "lapse.toml: pool_size: ")

    def test_a_folder_that_the_demonstration_cannot_use(self, site: Installation) -> None:
        """A file is in its place, or one may not write there."""
        (site.folder / "file").touch()
        closed = site.folder / "closed"
        closed.mkdir(mode=0o500)
        for folder in ("file", "file/demo", "closed/demo"):
            running = site.start("demo", "--folder", folder, "--for", "1s", ordinary=True)
            answer = refused(running.wait(), USAGE, f"--folder: {folder} cannot be written (")
            assert len(answer.err.splitlines()) == 1

    def test_the_beginning_of_an_id(self, stocked: Installation) -> None:
        """Six characters will do where one session begins with them; fewer, or none, do not."""
        [session, *_] = stocked.ask("sessions")["sessions"]
        assert stocked.ask("show", session["id"][:8])["id"] == session["id"]
        for wrong in (session["id"][:5], "0" * 6):
            refused(stocked.lapse("show", wrong, expect=FAILED), FAILED, f"no session {wrong}")

    def test_the_beginning_of_two_ids(self, stocked: Installation) -> None:
        """Nobody guesses which one was meant."""
        url = stocked.database_url
        [(kept,), (moved,)] = databases.rows(
            url, "SELECT session_id FROM sessions ORDER BY session_id LIMIT 2"
        )
        twin = kept[:10] + moved[10:]
        databases.change(
            url, "UPDATE sessions SET session_id = ? WHERE session_id = ?", twin, moved
        )
        answer = stocked.lapse("show", kept[:8], expect=USAGE)
        refused(answer, USAGE, f"several sessions begin with {kept[:8]}")

    def test_an_unknown_session(self, stocked: Installation) -> None:
        """Exit code 1: the question was right, the answer is no."""
        refused(stocked.lapse("show", "nobody", expect=FAILED), FAILED, "no session nobody")
        answer = stocked.lapse("audit", "show", "nobody", expect=FAILED)
        refused(answer, FAILED, "nothing is known of nobody")
        assert answer.out == ""

    def test_the_beginning_of_an_id_where_the_whole_is_needed(self, stocked: Installation) -> None:
        """It is said that the id is too short, not only that there is no such session."""
        [session, *_] = stocked.ask("sessions")["sessions"]
        short = session["id"][:8]
        for command in (
            ("audit", "why", short),
            ("audit", "show", short),
            ("erase", "session", short),
            ("hold", "add", "--session", short, "--ground", "legal-claim"),
            ("hold", "release", short),
            ("request", "show", short),
        ):
            answer = stocked.lapse(*command, expect=FAILED)
            refused(answer, FAILED, short, "the whole id is needed, all 32 characters")
        for whole in (("audit", "why", "0" * 32), ("erase", "session", "0" * 32)):
            assert "whole id" not in stocked.lapse(*whole, expect=FAILED).err
        assert "whole id" not in stocked.lapse("audit", "show", "policy:x", expect=FAILED).err

    @pytest.mark.parametrize(
        ("command", "option"),
        [
            (("erase", "subject"), "--stdin"),
            (("erase", "subject", "--stdin"), "--stdin"),
            (("export", "--out", "copy.zip"), "--stdin"),
            (("hold", "add", "--ground", "legal-claim"), "--subject-stdin"),
        ],
    )
    def test_a_name_in_an_argument(
        self, stocked: Installation, command: tuple[str, ...], option: str
    ) -> None:
        """It is refused without being repeated, and the option is named that reads it from where
        nobody looks."""
        answer = stocked.lapse(*command, "ann.canary", "ben.canary", expect=USAGE)
        assert "canary" not in answer.out + answer.err
        assert f"give {option}" in " ".join(answer.err.split())

    @pytest.mark.parametrize(
        "command",
        [("certificate", "get"), ("audit", "export"), ("audit", "requests"), ("audit", "prove")],
    )
    def test_a_file_that_is_replaced(self, site: Installation, command: tuple[str, ...]) -> None:
        """Who asks for help is told so before."""
        told = " ".join(site.lapse(*command, "--help").out.replace("│", " ").split())
        assert "a file that is there is replaced" in told

    def test_a_page_that_is_not_the_last(self, stocked: Installation) -> None:
        """It ends with the command for the next one, without the URL, which may be secret."""
        url = stocked.database_url
        page = stocked.ask("sessions", "--limit", "1", "--policy", "web-visit")
        shown = stocked.lapse("sessions", "--limit", "1", "--policy", "web-visit", "--db", url).out
        *_, more = shown.splitlines()
        assert more == (
            f"more: lapse sessions --db URL --policy web-visit --limit 1 --after {page['next']}"
        )
        [session] = page["sessions"]
        shown = stocked.lapse("audit", "show", session["id"], "--limit", "1").out
        assert f"more: lapse audit show {session['id']} --limit 1 --after " in shown

    def test_sessions_of_an_old_log(self, stocked: Installation) -> None:
        """Long after, an empty list says why it is empty."""
        stocked.now = "2026-12-01T00:00:00Z"
        text = "10 sessions are due and not shown; `lapse sweep` records that"
        assert text in stocked.lapse("sessions").out
        assert text in stocked.lapse("sessions", "--policy", "web-visit").out
        assert "due" not in stocked.lapse("sessions", "--policy", "reading-room").out
        status = stocked.lapse("status").out
        assert "29 days" in status
        assert "projections catch up in `lapse serve`" in status
        assert stocked.ask("status")["due_now"] == 10
        stocked.lapse("sweep")
        assert "due" not in stocked.lapse("sessions").out
        assert stocked.ask("status")["due_now"] == 0
        log = written(stocked.folder / "again.jsonl", VISITS)
        assert text in stocked.lapse(*ingest(log)).out
        assert text not in stocked.lapse(*ingest(log, until="now")).out


WRONG = """
[policy.room]
presense = "30s"
rules = [{ since = "born", after = "soon", do = "erase" }]
limits = { concurrent = 0 }
[policy.empty]
[policy.contradictory]
rules = [
  { since = "last_seen", after = "1h", do = "expire" },
  { since = "last_seen", after = "2h", do = "warn" },
  { since = "summarized", after = "1h", do = "erase" },
  { since = "expired", after = "1h", do = "erase" },
]
"""
PLACES = (
    "policy.room.presense: unknown key",
    "policy.room.rules[0].since: must be one of created",
    'policy.room.rules[0].after: write a duration such as "30s"',
    "policy.room.limits.concurrent: must be a whole number of at least 1",
    "policy.empty.rules: a policy needs at least one rule",
    "policy.contradictory.rules[1]: ",
    "policy.contradictory.rules[2]: no rule summarizes the session",
)


class TestPolicyFile:
    """A policy file is taken whole or not at all; every problem is listed with its place."""

    @pytest.fixture
    def wrong(self, tmp_path: Path) -> str:
        path = tmp_path / "policies.toml"
        path.write_text(WRONG)
        return str(path)

    def test_every_problem_is_listed(self, stocked: Installation, wrong: str) -> None:
        """All of them, by whatever command the file is read."""
        commands = {"check": FAILED, "apply": USAGE, "impact": USAGE, "show": USAGE}
        with nothing_written(stocked):
            for command, code in commands.items():
                answer = stocked.lapse("policy", command, wrong, expect=code)
                refused(answer, code, *PLACES)

    def test_a_program_gets_them_as_json(self, stocked: Installation, wrong: str) -> None:
        """`policy check --json`: place and problem of each."""
        found = stocked.ask("policy", "check", wrong, expect=FAILED)
        assert found["ok"] is False
        listed = [f"{problem['place']}: {problem['what']}" for problem in found["problems"]]
        for expected in PLACES:
            assert any(line.startswith(expected) for line in listed), expected

    def test_nothing_starts_with_it(self, stocked: Installation, wrong: str) -> None:
        """LAPSE_POLICY_FILE: no command runs on half a configuration."""
        with nothing_written(stocked):
            for command in ("sweep", "serve", "status"):
                answer = stocked.lapse(command, expect=USAGE, LAPSE_POLICY_FILE=wrong)
                refused(answer, USAGE, *PLACES, "LAPSE_POLICY_FILE: policy.room.rules[0].since")

    def test_a_file_that_is_no_toml(self, stocked: Installation, tmp_path: Path) -> None:
        """With the line at which it goes wrong."""
        path = tmp_path / "policies.toml"
        path.write_text("[policy.room]\nrules = 1h\n")
        answer = stocked.lapse("policy", "check", str(path), expect=FAILED)
        refused(answer, FAILED, "file: ", "line")
        path.write_bytes(b"\xff\xfe")
        answer = stocked.lapse("policy", "check", str(path), expect=USAGE)
        refused(answer, USAGE, "it is not UTF-8 text")


class TestDamagedLog:
    """Rows that somebody changed behind Lapse's back are found, named, and never skipped."""

    def third_event(self, site: Installation) -> tuple[int, str]:
        """Its position, and the session it is about."""
        query = (
            "SELECT position, session_id FROM events WHERE topic LIKE 'session.%' "
            "ORDER BY position LIMIT 3"
        )
        *_, (position, session_id) = databases.rows(site.database_url, query)
        return position, session_id

    def test_an_event_that_cannot_be_read(self, stocked: Installation) -> None:
        """`db check` names its position with exit code 1; so do the commands that read the log."""
        position, session_id = self.third_event(stocked)
        for column, damaged in (
            ("state", b'{"policy": "web-vi'),
            ("state", b"\xff\xfe\x00"),
            ("state", b"{}"),
            ("state", b""),
            ("topic", "session.exploded.v1"),
        ):
            with changed(stocked.database_url, position, column, damaged):
                found = stocked.ask("db", "check", expect=FAILED)
                assert found["ok"] is False
                places = {(one["kind"], one["where"]) for one in found["findings"]}
                assert places == {("altered", f"position {position}")}
                for command in (("db", "rebuild", "audit"), ("db", "rebuild", "sessions")):
                    answer = stocked.lapse(*command, expect=FAILED)
                    refused(answer, FAILED, f"event 0/{position} cannot be read")
                answer = stocked.lapse("audit", "show", session_id, expect=FAILED)
                refused(
                    answer, FAILED, f"the audit ends before event {position}", "`lapse db check`"
                )
        assert stocked.ask("db", "check")["ok"]
        assert stocked.ask("audit", "show", session_id)["entries"]

    def test_an_event_that_is_gone(self, stocked: Installation) -> None:
        """A gap, and a session that is not what its events say."""
        position, _ = self.third_event(stocked)
        databases.change(stocked.database_url, "DELETE FROM events WHERE position = ?", position)
        found = stocked.ask("db", "check", expect=FAILED)["findings"]
        assert ("gap", f"position {position}") in {(one["kind"], one["where"]) for one in found}
        shown = stocked.lapse("db", "check", expect=FAILED)
        assert f"position {position}" in shown.out

    def test_an_event_that_says_something_else(self, stocked: Installation) -> None:
        """Readable, but not what the folded state was made from."""
        position, session_id = self.third_event(stocked)
        update = "UPDATE events SET effective_at = effective_at + 1 WHERE position = ?"
        databases.change(stocked.database_url, update, position)
        [finding] = stocked.ask("db", "check", expect=FAILED)["findings"]
        assert (finding["kind"], finding["where"]) == ("state", f"session {session_id}")

    def test_folded_state_is_made_anew(self, stocked: Installation) -> None:
        """It is derived: damaged or gone, `db rebuild` brings it back from the log."""
        before = stocked.ask("sessions")
        url = stocked.database_url
        [(first,), (second,)] = databases.rows(
            url, "SELECT session_id FROM sessions ORDER BY session_id LIMIT 2"
        )
        databases.change(url, "UPDATE sessions SET state = ? WHERE session_id = ?", b"{", first)
        databases.change(url, "DELETE FROM sessions WHERE session_id = ?", second)
        found = stocked.ask("db", "check", expect=FAILED)["findings"]
        assert {(one["kind"], one["where"]) for one in found} == {
            ("state", f"session {first}"),
            ("missing", f"session {second}"),
            ("state", "counter policy:web-visit"),
        }
        refused(stocked.lapse("show", first, expect=FAILED), FAILED, "run `lapse db rebuild`")
        stocked.lapse("db", "rebuild", "sessions")
        assert stocked.ask("sessions") == before
        assert stocked.ask("db", "check")["ok"]


@contextmanager
def changed(url: str, position: int, column: str, value: Any) -> Iterator[None]:
    """While the block runs, an event has another value there."""
    before = databases.value(url, f"SELECT {column} FROM events WHERE position = ?", position)
    update = f"UPDATE events SET {column} = ? WHERE position = ?"
    databases.change(url, update, value, position)
    yield
    databases.change(url, update, before, position)


class TestSchema:
    """A database of another version."""

    def test_a_newer_one_is_left_alone(self, stocked: Installation, log: str) -> None:
        """Exit code 3 from every command, also from `db upgrade`."""
        databases.change(stocked.database_url, "UPDATE alembic_version SET version_num = '9999'")
        with nothing_written(stocked):
            for command in (
                ingest(log),
                *(("sweep",), ("serve",), ("status",), ("sessions",)),
                *(("db", "check"), ("db", "upgrade"), ("db", "rebuild")),
            ):
                answer = stocked.lapse(*command, expect=REFUSED)
                refused(answer, REFUSED, "written by a newer version of Lapse")

    def test_an_empty_one_has_nothing_to_show(self, site: Installation) -> None:
        """Exit code 3 and what makes one; a file that is empty is left so."""
        if databases.is_sqlite(site.database_url):
            file = Path(site.database_url.removeprefix("sqlite:///"))
            refused(site.lapse("sweep", expect=REFUSED), REFUSED, "there is no database here yet")
            assert not file.exists()
            file.touch()
        for command in (("db", "check"), ("status",), ("sweep",), ("sweep", "--dry-run")):
            answer = site.lapse(*command, expect=REFUSED)
            refused(answer, REFUSED, "there is no database here yet", "`lapse db upgrade`")
        assert databases.contents(site.database_url) == {}
        assert site.ask("db", "upgrade") == {"before": "absent", "after": "current"}
        assert site.ask("db", "check")["ok"]


class TestKeys:
    """Without the keys it was sealed with a database is not opened, and never gets new ones."""

    def key_file(self, site: Installation) -> Path:
        [path] = (site.folder / "keys").glob("*.keys.json")
        return path

    def spoil(self, site: Installation, how: str) -> None:
        path = self.key_file(site)
        match how:
            case "missing":
                path.unlink()
            case "damaged":
                path.write_bytes(path.read_bytes()[:-20])
            case "foreign":
                other = Installation(
                    _made(site.folder / "other"),
                    f"sqlite:///{site.folder / 'other' / 'db' / 'lapse.db'}",
                    (site.folder / "other" / "keys").as_uri(),
                )
                other.lapse("db", "upgrade")
                other.lapse("sweep")
                path.write_bytes(self.key_file(other).read_bytes())
            case "changed":
                text = path.read_text()
                start = text.index('"keks"') + text[text.index('"keks"') :].index(': "') + 3
                path.write_text(text[:start] + _turned(text[start]) + text[start + 1 :])
            case "open":
                path.chmod(0o644)

    def test_a_key_file_that_is_not_right(self, stocked: Installation) -> None:
        """Missing, cut off, of another database, with another key, readable by everybody."""
        keys = stocked.folder / "keys"
        kept = shutil.copytree(keys, stocked.folder / "kept")
        for how, text in (
            ("missing", "is missing from the key folder"),
            ("damaged", "is damaged: restore it"),
            ("foreign", "belongs to another database"),
            ("changed", "with which this database was sealed"),
            ("open", "may be read by other users: run chmod 600"),
        ):
            self.spoil(stocked, how)
            files = list(keys.iterdir())
            with nothing_written(stocked):
                for command in ("sweep", "serve"):
                    refused(stocked.lapse(command, expect=FAILED), FAILED, text)
            assert list(keys.iterdir()) == files
            shutil.rmtree(keys)
            shutil.copytree(kept, keys)
        assert stocked.ask("sweep")["done"] > 0

    def test_the_key_folder_is_somewhere_else(self, stocked: Installation) -> None:
        """A wrong LAPSE_KEY_URL: the same as a missing file, and no keys are made there."""
        elsewhere = stocked.folder / "elsewhere"
        answer = stocked.lapse("sweep", expect=FAILED, LAPSE_KEY_URL=elsewhere.as_uri())
        refused(answer, FAILED, "no new keys are made for data that exists")
        assert not elsewhere.exists()

    def test_keys_beside_the_data_are_refused(self, embedded: Installation, log: str) -> None:
        """A copy of the database's folder would hold both."""
        keys = databases.folder_of(embedded.database_url) / "keys"
        answer = embedded.lapse(*ingest(log), expect=FAILED, LAPSE_KEY_URL=keys.as_uri())
        refused(answer, FAILED, "the key folder lies below the folder of the database")
        assert not keys.exists()
        assert databases.value(embedded.database_url, "SELECT count(*) FROM events") == 0

    def test_a_key_folder_that_cannot_be_made(self, site: Installation, log: str) -> None:
        """Its parent is a file."""
        (site.folder / "file").touch()
        keys = (site.folder / "file" / "keys").as_uri()
        answer = site.lapse(*ingest(log), expect=FAILED, LAPSE_KEY_URL=keys)
        refused(answer, FAILED, "cannot be written")
        assert databases.value(site.database_url, "SELECT count(*) FROM events") == 0
        site.lapse(*ingest(log))  # with a folder that can be made all is well


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _turned(digit: str) -> str:
    return "0" if digit != "0" else "1"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="lapse-acceptance-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class TestReadOnly:
    """A database that may only be read."""

    def test_it_says_so(self, stocked: Installation) -> None:
        """A file, then also a folder, without write permission; a server that allows no more than
        reading."""
        url = stocked.database_url
        with nothing_written(stocked), ExitStack() as undo:
            if databases.is_sqlite(url):
                folder = databases.folder_of(url)
                undo.callback(folder.chmod, 0o755)
                for path, mode in ((folder / "lapse.db", 0o444), (folder, 0o555)):
                    path.chmod(mode)
                    answer = stocked.start("sweep", ordinary=True).wait()
                    refused(answer, FAILED, "the database is read-only")
            else:
                name = databases.value(url, "SELECT current_database()")
                setting = "SET default_transaction_read_only = on"
                databases.change(url, f"ALTER DATABASE {name} {setting}")
                answer = stocked.lapse("sweep", expect=FAILED)
                refused(answer, FAILED, "the database is read-only")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of a few megabytes on `folder`; what it yields changes its size."""
    folder.mkdir()
    _mount("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield lambda size: _mount("mount", "-o", f"remount,size={size}", str(folder))
    finally:
        _mount("umount", "--lazy", str(folder))


def _mount(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {ended.stderr.strip()}")


class TestFullDisk:
    """The disk of the database fills up in the middle of an import."""

    @pytest.fixture
    def grow(self, open_folder: Path) -> Iterator[Callable[[str], None]]:
        with small_disk(open_folder / "disk", "5m") as grow:
            yield grow

    @pytest.fixture(params=["sqlite", "postgresql"])
    def database_url(
        self, request: pytest.FixtureRequest, open_folder: Path, grow: Callable[[str], None]
    ) -> Iterator[str]:
        """A database on the small disk; of PostgreSQL its tables, since a server whose log has no
        room stops."""
        disk = open_folder / "disk"
        if request.param == "sqlite":
            yield f"sqlite:///{disk / 'lapse.db'}"
            return
        server: PostgresServer = request.getfixturevalue("postgres_server")
        owner = server.folder.stat()
        os.chown(disk, owner.st_uid, owner.st_gid)
        url = server.create_database()
        name = databases.value(url, "SELECT current_database()")
        with ExitStack() as undo:
            administer(server, f"CREATE TABLESPACE small LOCATION '{disk}'")
            undo.callback(administer, server, "DROP TABLESPACE small")
            undo.callback(server.drop_database, url)
            administer(server, f"ALTER DATABASE {name} SET default_tablespace = small")
            yield url

    def test_it_says_so_and_goes_on_when_there_is_room(
        self, site: Installation, shared_data: Path, grow: Callable[[str], None]
    ) -> None:
        """Exit code 1; the log is whole as far as it goes. With more room the same command ends as
        if nothing had been."""
        nasa = shared_data / "weblog_nasa_19950709" / "access_09jul1995.txt.gz"
        ingest = (
            *("ingest", str(nasa), "--format", "common", "--policy", "web-visit"),
            *("--until", "last", "--json"),
        )
        answer = site.lapse(*ingest, expect=FAILED)
        refused(answer, FAILED, "the disk of the database is full: make room")
        grow("200m")
        kept = databases.events(site.database_url)
        assert 0 < kept["created"] < 3_042
        assert site.ask("db", "check")["ok"]
        site.wait(seconds=61)
        done = site.lapse(*ingest).document
        expected = visits(readers.web(nasa), 30 * MINUTE)
        assert done["events"]["created"] == expected["sessions"]
        assert done["events"]["expired"] == expected["expired_at_last_record"]
        assert done["events"] == databases.events(site.database_url)
        assert site.ask("db", "check")["ok"]


def administer(server: PostgresServer, statement: str) -> None:
    """Run a statement that no transaction may hold."""
    connection = psycopg2.connect(server.url("postgres"))
    connection.autocommit = True
    try:
        connection.cursor().execute(statement)
    finally:
        connection.close()


class TestUnreachable:
    """A database that is not there, or is none."""

    def test_it_cannot_be_reached(self, site: Installation, log: str) -> None:
        """No server, no such database, a folder that cannot be made."""
        url = site.database_url
        if databases.is_sqlite(url):
            (site.folder / "file").touch()
            answer = site.lapse(
                *ingest(log), "--db", f"sqlite:///{site.folder}/file/db/lapse.db", expect=USAGE
            )
            refused(answer, USAGE, "the database's folder cannot be made")
            answer = site.lapse("status", "--db", f"sqlite:///{site.folder}", expect=FAILED)
            refused(answer, FAILED, "the database cannot be opened")
            return
        for wrong in (
            f"postgresql://lapse@/lapse?host={site.folder}",
            "postgresql://lapse@127.0.0.1:1/lapse",
            url.replace("/lapse_", "/nowhere_"),
            url.replace("lapse@", "nobody:secret@"),
        ):
            answer = site.lapse(*ingest(log), "--db", wrong, expect=FAILED)
            refused(answer, FAILED, "the database cannot be opened")
            assert "secret" not in answer.err

    def test_a_file_that_is_no_database(self, embedded: Installation, log: str) -> None:
        """It is left as it is."""
        path = databases.folder_of(embedded.database_url) / "lapse.db"
        path.parent.mkdir()
        noise = random.Random(1).randbytes(10_000)
        path.write_bytes(noise)
        refused(
            embedded.lapse(*ingest(log), expect=FAILED), FAILED, "damaged or no database at all"
        )
        assert path.read_bytes() == noise


def test_a_compressed_file_that_is_corrupt(
    site: Installation, shared_data: Path, tmp_path: Path
) -> None:
    """What stands before the damage is imported; exit code 1 and where it stopped."""
    packed = bytearray((shared_data / "weblog_attackers" / "hackers-access.log.gz").read_bytes())
    middle = len(packed) // 2
    packed[middle : middle + 64] = bytes(64)
    path = tmp_path / "access.log.gz"
    path.write_bytes(packed)
    answer = site.lapse(*ingest(str(path), format="combined"), "--json", expect=FAILED)
    refused(answer, FAILED, "file 1 the compressed file is corrupt; everything before it was")
    done = answer.document
    assert 0 < done["lines"] < 3_456
    assert done["events"] == databases.events(site.database_url)


def test_a_file_of_noise(site: Installation, tmp_path: Path) -> None:
    """A file of random bytes has no visit in it, and does no harm."""
    path = tmp_path / "noise"
    noise = random.Random(2).randbytes(200_000)
    path.write_bytes(b"noise" + noise)
    done = site.ask(*ingest(str(path), format="combined"), expect=FAILED)
    assert 100 < done["rejected"] <= done["lines"]
    assert done["sessions"] == 0
    path.write_bytes(gzip.compress(noise))
    assert site.ask(*ingest(str(path), format="irc"), expect=FAILED)["sessions"] == 0


def test_rejects_and_ready_files_that_cannot_be_written(stocked: Installation, log: str) -> None:
    """Said before anything is done."""
    with nothing_written(stocked):
        answer = stocked.lapse(*ingest(log), "--rejects", "/nowhere/rejects", expect=USAGE)
        refused(answer, USAGE, "--rejects: the file cannot be written")
        answer = stocked.lapse("serve", "--ready-file", "/nowhere/ready", expect=USAGE)
        refused(answer, USAGE, "--ready-file cannot be written")


def test_a_log_is_not_written_over(stocked: Installation, log: str) -> None:
    """By a slip of the hand behind --html or --rejects, under whatever name."""
    before = Path(log).read_bytes()
    other = stocked.folder / "other"
    other.symlink_to(log)
    with nothing_written(stocked):
        for name in (log, str(other)):
            answer = stocked.lapse(*ingest(log), "--rejects", name, expect=USAGE)
            refused(answer, USAGE, "--rejects names one of the logs")
            _, *options = ingest(log)
            answer = stocked.lapse("simulate", *options, "--html", name, expect=USAGE)
            refused(answer, USAGE, "--html names one of the logs")
    assert Path(log).read_bytes() == before


def test_the_ready_file_of_a_service_that_is_not_ready(stocked: Installation) -> None:
    """What a killed service left is gone before the next one is ready; at the end it is removed."""
    ready = stocked.folder / "ready"
    ready.write_text("of one that was killed")
    keys = (stocked.folder / "elsewhere").as_uri()
    stocked.lapse("serve", "--ready-file", str(ready), expect=FAILED, LAPSE_KEY_URL=keys)
    assert not ready.exists()
    service = stocked.start("serve", "--ready-file", str(ready))
    wait_until(ready.exists, 60, "lapse serve")
    assert service.stop().code == DONE
    assert not ready.exists()


def test_the_installed_program(stocked: Installation) -> None:
    """What people start themselves answers with the same codes."""
    assert stocked.installed("sweep", "--json", expect=DONE).document["done"] > 0
    refused(stocked.installed("show", "nobody", expect=FAILED), FAILED)


def test_what_nobody_foresaw_is_no_stack_trace(stocked: Installation) -> None:
    """A row of another type than any version of Lapse writes: its kind, never its text."""
    databases.change(stocked.database_url, "UPDATE policies SET document = 'ann@example.org'")
    for command in (("status",), ("sweep",), ("db", "check")):
        answer = stocked.lapse(*command, expect=FAILED)
        assert "Traceback" not in answer.err
        assert "ann@" not in answer.err + answer.out


def test_a_file_steers_no_terminal(site: Installation, tmp_path: Path) -> None:
    """Escape sequences in a policy file do not come out as such."""
    path = tmp_path / "hostile.toml"
    path.write_text('[policy.room]\n"\\u001b]0;pwn\\u0007" = 1\n')
    answer = site.lapse("policy", "check", str(path), expect=FAILED)
    assert "\x1b" not in answer.err + answer.out
    assert "pwn" in answer.err + answer.out
