"""`db check` finds what is wrong with the folded state, `db rebuild` makes it anew from the log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.log.checks import Finding, check_log, rebuild_sessions
from adapters.log.engine import Engines, open_engines
from adapters.log.event_log import SqlLog
from adapters.log.migrate import downgrade, require_current, state_format, upgrade
from adapters.log.schema import meta
from adapters.log.transcoder import STATE_FORMAT
from domain.errors import SchemaTooOld
from domain.policy import MINUTE
from domain.ports import Append, Changes, SubjectKey
from tests.acceptance.commands import REFUSED, Installation, written
from tests.contracts.authors import (
    ROOM,
    TEN,
    VERSION,
    admission,
    apply_policies,
    ended,
    erased,
    opening,
    person,
)
from tests.contracts.stores import SqlStore, open_sql_store


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """A log with the sessions a (open), b (expired) and c (erased)."""
    with open_sql_store(database_url) as opened:
        apply_policies(opened.log)
        openings = [owned(name, person(f"owner of {name}")) for name in "abc"]
        opened.log.append(openings, TEN)
        found = opened.log.find(["b", "c"])
        opened.log.append([ended(found["b"]), erased(found["c"])], TEN)
        yield opened


def owned(session_id: str, owner: SubjectKey) -> Append:
    """A session begins that is somebody's."""
    changes = Changes(admitted=(admission(owner, role="owner", joined_at=None),))
    warned_at = TEN + 50 * MINUTE
    return opening(session_id, owner=owner.subject, changes=changes, due_at=warned_at)


def sql_log(store: SqlStore) -> SqlLog:
    assert isinstance(store.log, SqlLog)
    return store.log


def findings(store: SqlStore) -> list[Finding]:
    return list(check_log(store.engines, sql_log(store), TEN, lambda *_: None))


def rebuild(store: SqlStore) -> int:
    """The number of live sessions, as it says."""
    return rebuild_sessions(store.engines, sql_log(store), {ROOM: (VERSION,)}, TEN, lambda *_: None)


def folded(store: SqlStore) -> list[Any]:
    """The folded state, as it is stored."""
    columns = "session_id, version, phase, last_seen_at, due_at, owner_subject, failures"
    rows = store.execute(f"SELECT {columns}, state FROM sessions ORDER BY session_id")
    return [(*row[:-1], bytes(row[-1])) for row in rows]


def copy_state(store: SqlStore, session_id: str, to: str) -> None:
    """As if another session had the state of this one."""
    columns = "version, policy, phase, created_at, last_seen_at, due_at, owner_subject, state"
    store.execute(
        f"INSERT INTO sessions (partition, session_id, {columns}) "
        f"SELECT partition, ?, {columns} FROM sessions WHERE session_id = ?",
        to,
        session_id,
    )


def test_what_rebuild_makes_is_what_was_there(store: SqlStore) -> None:
    """Every row and counter, so that it may be run at any time; check has nothing to say."""
    before, counters = folded(store), store.counters()
    assert findings(store) == []
    assert rebuild(store) == 2
    assert (folded(store), store.counters()) == (before, counters)
    assert findings(store) == []


def test_rebuild_drops_states_that_should_not_be_there(store: SqlStore) -> None:
    """That of an erased session, and one of which the log knows nothing, with what they count."""
    before, counters = folded(store), store.counters()
    for name in ("c", "stranger"):
        copy_state(store, "a", name)
    store.execute("UPDATE counters SET used = used + 2")
    assert {(one.kind, one.where) for one in findings(store)} == {
        ("extra", "session c"),
        ("extra", "session stranger"),
    }
    assert rebuild(store) == 2
    assert (folded(store), store.counters()) == (before, counters)
    assert findings(store) == []


def test_rebuild_restores_states_that_are_missing_or_wrong(store: SqlStore) -> None:
    """Both are found, and come back as the log tells them."""
    before, counters = folded(store), store.counters()
    store.execute("DELETE FROM sessions WHERE session_id = 'a'")
    store.execute("UPDATE sessions SET state = ? WHERE session_id = 'b'", b"{}")
    store.execute("DELETE FROM counters")
    assert {(one.kind, one.where) for one in findings(store)} == {
        ("missing", "session a"),
        ("state", "session b"),
    }
    assert rebuild(store) == 2
    assert (folded(store), store.counters()) == (before, counters)
    assert findings(store) == []


class TestFormat:
    """The number of the format in which the folded state is stored."""

    OTHER = STATE_FORMAT + 1

    @pytest.fixture
    def engines(self, database_url: str) -> Iterator[Engines]:
        opened = open_engines(database_url)
        yield opened
        opened.close()

    def test_a_new_database_has_that_of_this_version(
        self, engines: Engines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody who comes later changes it, by migrations neither."""
        monkeypatch.setattr("adapters.log.migrate.STATE_FORMAT", self.OTHER)
        require_current(engines, create=True)
        assert state_format(engines) == self.OTHER
        monkeypatch.undo()
        upgrade(engines)
        assert state_format(engines) == self.OTHER
        downgrade(engines, "base")
        upgrade(engines)
        assert state_format(engines) == STATE_FORMAT

    def test_a_database_without_a_number_has_the_first(
        self, engines: Engines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever made it did not know that there would be another."""
        upgrade(engines)
        with engines.write() as connection:
            connection.exec_driver_sql("DELETE FROM meta")
        assert state_format(engines) == 1
        monkeypatch.setattr("adapters.log.migrate.STATE_FORMAT", 1)
        require_current(engines, create=True)
        monkeypatch.setattr("adapters.log.migrate.STATE_FORMAT", 2)
        with pytest.raises(SchemaTooOld, match="lapse db rebuild sessions"):
            require_current(engines, create=True)

    def test_another_format_is_found_and_mended(
        self, store: SqlStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Check says so, though every state can be read; rebuild notes what it wrote."""
        monkeypatch.setattr("adapters.log.checks.STATE_FORMAT", self.OTHER)
        monkeypatch.setattr("adapters.log.migrate.STATE_FORMAT", self.OTHER)
        [found] = findings(store)
        assert (found.kind, found.where) == ("state", "the folded state")
        rebuild(store)
        assert findings(store) == []
        assert state_format(store.engines) == self.OTHER

    def test_commands_that_write_wait_for_the_rebuild(
        self, tmp_path: Path, database_url: str, key_url: str
    ) -> None:
        """They are refused with the command that helps, which then lets them go on."""
        site = Installation(tmp_path, database_url, key_url)
        line = {"at": "2026-11-21T10:00:00+00:00", "activity": "seen", "visitor": "ann"}
        visits = written(tmp_path / "visits.jsonl", [line])
        ingest = ("ingest", visits, "--format", "jsonl", "--policy", "web-visit")
        site.lapse(*ingest, "--until", "last")
        engines = open_engines(database_url)
        with engines.write() as connection:
            other = meta.update().where(meta.c.name == "state-format").values(value=b"7")
            assert connection.execute(other).rowcount == 1
        engines.close()
        for command in (ingest, ("sweep",), ("serve", "--ready-file", str(tmp_path / "ready"))):
            refusal = site.lapse(*command, expect=REFUSED)
            assert "lapse db rebuild sessions" in refusal.err
        assert site.ask("db", "rebuild", "sessions")["rebuilt"] == {"sessions": 1}
        assert site.ask("sweep")["events"] == {"expired": 1}


TAMPERED = {
    "a deadline that is gone": (
        "UPDATE sessions SET due_at = NULL WHERE session_id = 'a'",
        "state",
    ),
    "a deadline that is too late": (
        "UPDATE sessions SET due_at = due_at + 100000000000 WHERE session_id = 'a'",
        "state",
    ),
    "another policy": ("UPDATE sessions SET policy = 'nope' WHERE session_id = 'a'", "state"),
    "another phase": ("UPDATE sessions SET phase = 'expired' WHERE session_id = 'a'", "state"),
    "a head that lags": ("UPDATE heads SET position = 1", "gap"),
    "a policy that is gone": ("DELETE FROM policies", "altered"),
    "a policy that holds since later": ("UPDATE policies SET effective_from = 7", "altered"),
    "a counter that counts wrong": (
        "UPDATE counters SET used = 999 WHERE scope = 'policy:room'",
        "state",
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_check_finds_what_would_keep_data_too_long(store: SqlStore, how: str) -> None:
    """Whoever changes one column of one row has changed what is kept, and until when."""
    assert findings(store) == []
    statement, kind = TAMPERED[how]
    store.execute(statement)
    assert kind in {finding.kind for finding in findings(store)}
