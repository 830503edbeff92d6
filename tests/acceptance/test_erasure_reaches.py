"""G4: erasure reaches everything. Canaries in every field that the API takes, on both databases.

The text is never in any file, at no time. After `verified` no key in the database or in the key
store opens what was sealed. After `final` a backup from before opens nothing of it; and a backup
within the restore window opens what is alive.
"""

import base64
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from adapters.settings import load_settings
from adapters.vault.canaries import search
from adapters.wiring import open_lapse
from domain.erasure import Reach
from domain.ports import ScanResult
from tests.acceptance import databases
from tests.acceptance.clients import Client, client
from tests.acceptance.commands import FAILED, Installation, micros
from tests.acceptance.free_text import Place, free_text
from tests.independent.opening import Label, Sealed, generations_of, keks_of, opened, place
from tests.servers import PostgresServer, find_programs, wait_until

POLICIES = """
[policy.planted]
progress = ["planted"]
summary = { said = "last(said)", most = "distinct(said)" }
rules = [
  { since = "stored",     after = "5m",  do = "erase", scope = "chunks" },
  { since = "created",    after = "10m", do = "summarize" },
  { since = "summarized", after = "30m", do = "erase" },
]
[policy.lasting]
rules = [{ since = "created", after = "300d", do = "erase" }]
"""
MARK = "canary-of-the-test"


def canary(where: str) -> str:
    return f"{MARK}-in-{where}"


# -- databases whose files hold nothing else, and backups of them -------------------------------


class BackedUp(PostgresServer):
    """A server on a base backup of another one."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self._of = of

    def _make_cluster(self) -> None:
        host = unquote(urlsplit(self._of).query.partition("host=")[2].partition("&")[0])
        self._run_as_user(
            [
                *(str(find_programs() / "pg_basebackup"), "-D", str(self._cluster)),
                *("-h", host, "-p", "5432", "-U", "lapse", "-X", "stream", "-c", "fast"),
            ]
        )


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The server logs every statement in full, so that what merely travels to it is found too."""
    if request.param == "sqlite":
        (tmp_path / "db").mkdir()
        yield f"sqlite:///{tmp_path / 'db' / 'lapse.db'}"
        return
    with PostgresServer(settings={"log_statement": "all"}) as server:
        yield server.create_database()


@contextmanager
def backup_of(url: str, folder: Path) -> Iterator[str]:
    """A copy of the whole database as it is now, and its URL."""
    if databases.is_sqlite(url):
        folder.mkdir()
        with (
            closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as source,
            closing(sqlite3.connect(folder / "lapse.db")) as target,
        ):
            source.backup(target)
        yield f"sqlite:///{folder / 'lapse.db'}"
        return
    with BackedUp(url) as server:
        yield server.url(urlsplit(url).path.strip("/"))


def sealed_in(url: str) -> Sealed:
    """Every sealed value and wrapped key in a database."""
    values: dict[Label, tuple[bytes, bytes]] = {}
    query = "SELECT session_id, token, subject, sealed FROM subject_index"
    for session, token, subject, sealed in databases.rows(url, query):
        bound = place(session, "subject-index", "identity", "identity", token)
        values["identity", session, token, subject] = (bound, sealed)
    query = "SELECT session_id, item_id, part, scope, participants, sealed FROM items"
    for session, item, part, scope, participants, sealed in databases.rows(url, query):
        tokens = participants.split()
        token = tokens[0] if len(tokens) == 1 else ""
        values[scope, session, item, str(part)] = (
            place(session, item, str(part), scope, token),
            sealed,
        )
    for session, token, sealed in databases.rows(
        url, "SELECT session_id, token, sealed FROM partials"
    ):
        bound = place(session, "summary", "partial", "summary", token)
        values["partial", session, token] = (bound, sealed)
    for request, part, sealed in databases.rows(
        url, "SELECT request_id, part, sealed FROM access_parts"
    ):
        values["copy", request, str(part)] = (
            place(request, request, str(part), "full", ""),
            sealed,
        )
    subject_keys = databases.rows(url, "SELECT subject, wrapped FROM subject_keys")
    data_keys = databases.rows(
        url, "SELECT session_id, tier, token, subject, wrapped FROM data_keys"
    )
    copies = databases.rows(
        url, "SELECT request_id, wrapped FROM access_requests WHERE wrapped IS NOT NULL"
    )
    meta: dict[str, bytes] = dict(databases.rows(url, "SELECT name, value FROM meta"))
    generations = generations_of(bytes(meta["store"]).decode(), bytes(meta["subject-index"]))
    of_copies = {(id_, "full", "", id_, wrapped) for id_, wrapped in copies}
    return Sealed(
        generations,
        frozenset((row[0], row[1]) for row in subject_keys),
        frozenset((*row[:4], row[4]) for row in data_keys) | frozenset(of_copies),
        values,
    )


# -- planting ---------------------------------------------------------------------------------


class Planter:
    """Sends a canary to every place that takes free text, and remembers to which."""

    def __init__(self, app: Client) -> None:
        self._app = app
        self.planted: set[Place] = set()
        self.copies: list[str] = []
        self.tokens: dict[str, str] = {}
        self._sessions = 0

    def _ask(
        self, operation: str, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """Every text with the mark in it counts as planted in the place where it stands."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self._note(operation, path, body, given)
        content = body if isinstance(body, bytes) else None
        answer = self._app.http.request(
            method, path, headers=given, content=content, json=None if content else body
        )
        kind = answer.headers.get("content-type", "")
        return answer.status_code, answer.json() if answer.content and "json" in kind else None

    def _note(self, operation: str, path: str, body: Any, headers: Mapping[str, str]) -> None:
        query = dict(one.split("=", 1) for one in urlsplit(path).query.split("&") if "=" in one)
        self.planted |= {
            (operation, name)
            for name, value in {**query, **headers}.items()
            if MARK in unquote(value) or name == "Content-Digest"
        }
        if isinstance(body, bytes):
            self.planted |= {(operation, "bytes")} if MARK.encode() in body else set()
        elif isinstance(body, dict):
            self.planted |= {
                (operation, name) for name, value in body.items() if MARK in json.dumps(value)
            }

    def _must(self, operation: str, status: int, *arguments: Any, **headers: str) -> Any:
        answered, body = self._ask(operation, *arguments, **headers)
        assert answered == status, (operation, answered, body)
        return body

    def session(self, policy: str) -> str:
        """A session in which everything that can be stored is, sealed for each kind of person."""
        self._sessions += 1
        body = {"policy": policy, "owner": canary(f"owner-{self._sessions}")}
        key = canary("key-of-create") + str(self._sessions)
        found = self._must("create", 201, "POST", "/v1/sessions", body, Idempotency_Key=key)
        session = str(found["id"])
        path = f"/v1/sessions/{session}"
        ann = self._must(
            "join",
            201,
            *("POST", f"{path}/participants"),
            {"subject": canary(f"subject-{self._sessions}"), "name": canary("name")},
            Idempotency_Key=canary("key-of-join"),
        )["token"]
        self.tokens[session] = ann
        invite = self._must("invite", 201, "POST", f"{path}/invites", {"uses": 2})["invite"]
        # Who is in all of them: their key lives on when a session, or a part of it, is erased.
        person = {"subject": canary("guest"), "name": canary("guest-name")}
        bob = self._must("redeem", 201, "POST", "/v1/invites/redeem", {**person, "invite": invite})[
            "token"
        ]
        shared: tuple[list[str], ...] = ([ann], [bob], [ann, bob], [])
        stored = (*(("full", tokens) for tokens in shared), ("summary", []))
        for number, (tier, tokens) in enumerate(stored):
            records = [{"said": canary(f"records-{number}"), canary("field"): 1}]
            content = {"kind": "notes", "tier": tier, "participants": tokens, "records": records}
            key = canary(f"key-of-store-{number}")
            self._must("store", 201, "POST", f"{path}/items", content, Idempotency_Key=key)
        picture = canary("bytes").encode() * 20
        kind = {"Content_Type": "image/png"}
        query = f"?kind=picture&participant={ann}"
        self._must("store", 201, "POST", f"{path}/items{query}", picture, **kind)
        self._upload(path, ann)
        if policy == "planted":
            progress = {"type": "planted", "data": {"text": canary("progress")}}
            self._must("progress", 202, "POST", f"{path}/progress", progress)
        left = {"participant": bob}
        self._must("leave", 200, "POST", f"{path}/leave", left, Idempotency_Key=canary("leave"))
        self._must("search", 200, "POST", "/v1/sessions/search", body)
        return session

    def _upload(self, path: str, token: str) -> None:
        chunk = canary("chunk").encode() * 10
        body = {"kind": "video", "size": len(chunk), "participants": [token]}
        key = canary("key-of-upload")
        upload = self._must(
            "begin-upload", 201, "POST", f"{path}/uploads", body, Idempotency_Key=key
        )["id"]
        digest = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
        headers = {
            "Content_Digest": f"sha-256=:{digest}:",
            "Content_Type": "application/octet-stream",
        }
        self._must("put-chunk", 201, "PUT", f"{path}/uploads/{upload}/chunks/0", chunk, **headers)

    def elsewhere(self, session: str) -> None:
        """What is refused, only looked at, or told to nobody: it must leave no trace either."""
        path, key = f"/v1/sessions/{session}", {"Idempotency_Key": canary("key")}
        text = canary("cursor")
        self._ask("show", "GET", path, If_None_Match=f'"{canary("tag")}"')
        until = {"until": "2026-11-22T00:00:01Z"}
        self._ask("extend", "POST", f"{path}/extend", until, **key)
        for command in ("recover", "summarize", "complete"):
            self._ask(command, "POST", f"/v1/sessions/{'0' * 32}/{command}", {}, **key)
        self._ask("fail", "POST", f"/v1/sessions/{'0' * 32}/fail", {"reason": "error"}, **key)
        self._ask("redeem", "POST", "/v1/invites/redeem", {"invite": canary("invite")})
        for operation, where in (
            ("events", "/v1/events"),
            ("audit", "/v1/audit"),
            ("audit-completeness", "/v1/audit/completeness"),
            ("statistics-hourly", "/v1/statistics/hourly"),
        ):
            self._ask(operation, "GET", f"{where}?after={text}")
        for operation, where in (("stream", "/v1/events/stream"), ("watch", f"{path}/watch")):
            self._look(operation, f"{where}?after={text}", {})
            self._look(operation, where, {"Last-Event-ID": text})
        nobody = {"subject": canary("held"), "ground": "legal-claim"}
        self._ask("hold", "POST", "/v1/holds", nobody)
        proof = {"participant_token": canary("proof")}
        self._ask("request-erasure", "POST", "/v1/erasure-requests", proof)
        document = {"policy": {"rules": [], canary("policy"): 1}}
        self._ask("apply-policy", "PUT", "/v1/policies/planted", document)
        self._ask("policy-impact", "POST", "/v1/policies/planted/impact", document)

    def _look(self, operation: str, path: str, headers: dict[str, str]) -> None:
        """A stream, left after its first answer."""
        self._note(operation, path, None, headers)
        with self._app.http.stream("GET", path, headers=headers):
            pass

    def copy(self) -> None:
        """A copy of what is held about somebody waits, sealed."""
        body = {"subject": canary(f"subject-{self._sessions}"), "verified_by": "controller"}
        asked = self._must("request-access", 202, "POST", "/v1/access-requests", body)
        path = f"/v1/access-requests/{asked['request_id']}"
        wait_until(
            lambda: self._must("access-request", 200, "GET", path)["status"] == "ready", 60, "it"
        )
        self.copies.append(str(asked["request_id"]))

    def erase(self, session: str) -> None:
        """A session, on request."""
        path, key = f"/v1/sessions/{session}", canary("key-of-erase")
        self._must("erase", 204, "DELETE", path, Idempotency_Key=key)

    def erase_person(self, number: int) -> str:
        """Everything of whoever joined the session of this number first; the request."""
        body = {"subject": canary(f"subject-{number}"), "verified_by": "controller"}
        path, key = "/v1/erasure-requests", canary("key-of-request")
        asked = self._must("request-erasure", 202, "POST", path, body, Idempotency_Key=key)
        assert asked["status"] == "executed", asked
        return f"{path}/{asked['request_id']}"


# -- the test ---------------------------------------------------------------------------------


@pytest.fixture
def planted_site(site: Installation, tmp_path: Path) -> Installation:
    (tmp_path / "policies.toml").write_text(POLICIES)
    site.environment |= {
        "LAPSE_POLICY_FILE": str(tmp_path / "policies.toml"),
        "LAPSE_RESTORE_WINDOW": "2d",
        "LAPSE_PHYSICAL_CLEANUP": "1m",
        "LAPSE_LEDGER_URL": (tmp_path / "ledger").as_uri(),
        "LAPSE_EVIDENCE_URL": (tmp_path / "evidence").as_uri(),
        "LAPSE_LOG_LEVEL": "debug",
    }
    site.now = "2026-11-22T00:00:00+00:00"
    site.lapse("db", "upgrade")
    return site


def no_text_in(*folders: Path) -> None:
    """Not in any file below these: database, write-ahead log, logs, key folder, backups."""
    done = search(folders, [MARK.encode()])
    assert done.files > 0
    assert done.found == ()
    assert done.unreadable == ()


def gone_from(url: str, query: str, *values: Any) -> Callable[[], bool]:
    return lambda: databases.value(url, query, *values) == 0


def clean_up(site: Installation) -> None:
    """Time passes until the service has cleaned up what was erased by now."""
    began = micros(site.now)
    site.wait(minutes=2)

    def done() -> bool:
        rows = databases.rows(site.database_url, "SELECT value FROM meta WHERE name = 'cleanup'")
        return bool(rows) and json.loads(rows[0][0])["began_at"] > began

    wait_until(done, 60, "the clean-up")


def verified(site: Installation, reach: Reach, executed_at: int) -> ScanResult:
    """What a process that just came says of an erasure."""
    settings = load_settings(
        database_url=site.database_url,
        key_url=site.environment["LAPSE_KEY_URL"],
        env="test",
        clock=site.environment["LAPSE_CLOCK"],
    )
    with open_lapse(settings, create=False) as lapse:
        found = lapse.verification.verify(reach, executed_at, lapse.clock())
    assert isinstance(found, ScanResult), found
    return found


def reaches(site: Installation, app: Client, request: str, status: str) -> None:
    """The worker looks again after a while, so time passes until the request is so far."""

    def there() -> bool:
        if app.ask("GET", request)["status"] == status:
            return True
        site.wait(seconds=30)
        return False

    wait_until(there, 60, status)


@pytest.mark.row("G4")
def test_erasure_reaches_everything(
    planted_site: Installation, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each tier at its time, a session on request, a person among others; what is alive opens all
    the while."""
    site, url = planted_site, planted_site.database_url
    keys = Path(site.environment["LAPSE_KEY_URL"].removeprefix("file://"))
    everywhere = (tmp_path, databases.folder_of(url))
    backup_folder = tmp_path_factory.mktemp("backup") / "db"

    with site.serving("--port", "0") as service, client(site, service, "admin") as app:
        planter = Planter(app)
        timed, asked, shared, living = (
            planter.session(policy) for policy in ("planted", "lasting", "lasting", "lasting")
        )
        planter.elsewhere(living)
        planter.copy()
        before = sealed_in(url)
        kinds = {label[0] for label in before.values}
        assert kinds == {"identity", "full", "chunks", "summary", "partial", "copy"}
        databases.change(url, "SELECT 1" if databases.is_sqlite(url) else "CHECKPOINT")
        no_text_in(*everywhere)
        with backup_of(url, backup_folder) as backup:
            copied = sealed_in(backup)
            assert opened(copied.values, [copied], keks_of(keys)) == {
                label for label in copied.values if label[0] != "copy"
            } | {("copy", planter.copies[0], "0")}
            no_text_in(databases.folder_of(backup))

            def alive(*sessions: str) -> set[Label]:
                """Which of the values from before open with what is there now."""
                found = opened(copied.values, [sealed_in(url)], keks_of(keys))
                assert {label[1] for label in found} <= {*sessions, *planter.copies}
                return found

            # The tiers of one session, each at its time.
            site.wait(minutes=5)
            chunks = "SELECT count(*) FROM items WHERE session_id = ? AND scope = 'chunks'"
            wait_until(gone_from(url, chunks, timed), 60, "the chunks to go")
            clean_up(site)
            left = {label[0] for label in alive(timed, asked, shared, living) if label[1] == timed}
            assert left == {"identity", "full", "summary", "partial"}
            site.wait(minutes=5)
            full = "SELECT count(*) FROM items WHERE session_id = ? AND scope = 'full'"
            wait_until(gone_from(url, full, timed), 60, "the full tier to go")
            clean_up(site)
            left = {label[0] for label in alive(timed, asked, shared, living) if label[1] == timed}
            assert left == {"identity", "summary", "partial"}
            site.wait(minutes=30)
            rows = "SELECT count(*) FROM sessions WHERE session_id = ?"
            wait_until(gone_from(url, rows, timed), 60, "the session to go")

            # Another one on request, and one person of a third.
            planter.erase(asked)
            request = planter.erase_person(3)
            executed_at = micros(site.now)
            clean_up(site)
            result = verified(site, Reach(sessions=(timed, asked)), executed_at)
            assert (result.ok, result.problems) == (True, ())
            reaches(site, app, request, "verified")
            theirs = {
                label
                for label, (bound, _) in copied.values.items()
                if bound.endswith(b"\0" + planter.tokens[shared].encode())
            }
            assert {label[0] for label in theirs} == {"identity", "full", "chunks"}
            now = alive(shared, living)
            assert not now & theirs
            assert {label[0] for label in now if label[1] == shared} >= {"identity"}
            assert planter.planted == free_text(app.ask("GET", "/openapi.json"))
            no_text_in(*everywhere)

            # Within the restore window a backup opens, what is alive and what was not erased yet.
            first = set(keks_of(keys))
            site.wait(hours=24)
            wait_until(lambda: len(keks_of(keys)) == 2, 60, "a rotation")
            old = "SELECT count(*) FROM subject_keys WHERE kek = ?"
            kek = databases.value(backup, "SELECT min(kek) FROM subject_keys")
            wait_until(gone_from(url, old, kek), 60, "the keys to move")
            site.lapse("db", "check", LAPSE_DATABASE_URL=backup)
            within = opened(copied.values, [copied], keks_of(keys))
            assert {label[1] for label in within} == {
                *(timed, asked, shared, living),
                *planter.copies,
            }
            assert not alive(shared, living) & theirs

            # Behind it nothing of that day opens, by design; what is alive opens from today's.
            site.wait(hours=49)
            wait_until(lambda: not first & set(keks_of(keys)), 60, "the key to be destroyed")
            reaches(site, app, request, "final")
            assert opened(copied.values, [copied], keks_of(keys)) == set()
            with_both = opened(copied.values, [copied, sealed_in(url)], keks_of(keys))
            assert {label[1] for label in with_both} <= {shared, living, *planter.copies}
            assert not with_both & theirs
            assert not {label for label in with_both if label[1] in (timed, asked)}
            assert alive(shared, living) <= with_both
            refused = site.lapse("db", "check", expect=FAILED, LAPSE_DATABASE_URL=backup)
            assert "LAPSE_RESTORE_WINDOW" in refused.err
        people = app.ask("GET", f"/v1/sessions/{living}/participants")["participants"]
        assert canary("name") in {one["name"] for one in people}
        no_text_in(*everywhere)
    no_text_in(*everywhere)
