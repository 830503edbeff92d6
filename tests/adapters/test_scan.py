"""After an erasure every store is read back, and a place that nobody knows of is noticed."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Integer, LargeBinary, MetaData, Table
from sqlalchemy.types import TypeEngine

from adapters.http.requests import RequestLog
from adapters.log.schema import metadata as log_metadata
from adapters.vault.scan import CLEAN, MEMORY, SqlScanner
from adapters.vault.stores import STORES
from domain.erasure import Reach
from domain.ports import Fault, ScanProblem
from projections.tables import metadata as projection_metadata
from tests.adapters.installations import Opened, opened
from tests.servers import PostgresServer

SESSION, SHARED, OTHER = "5e" * 16, "aa" * 16, "0e" * 16
TOKEN, SUBJECT = "70" * 16, "5b" * 16
REACH = Reach(sessions=(SESSION,), parts=((SHARED, TOKEN),), subjects=(SUBJECT,))

LEFTOVERS: dict[str, list[dict[str, Any]]] = {
    "sessions": [{"session_id": SESSION}, {"session_id": OTHER, "owner_subject": SUBJECT}],
    "counters": [{"scope": f"owner:web-visit:{SUBJECT}"}],
    "presence": [{"session_id": SESSION}, {"session_id": SHARED, "token": TOKEN}],
    "invites": [{"session_id": SESSION}],
    "subjects": [{"subject": SUBJECT}],
    "subject_index": [
        {"session_id": SESSION},
        {"session_id": SHARED, "token": TOKEN},
        {"session_id": OTHER, "subject": SUBJECT},
    ],
    "aliases": [{"session_id": SESSION}],
    "items": [
        {"session_id": SESSION},
        {"session_id": SHARED, "participants": f"{OTHER} {TOKEN}"},
    ],
    "uploads": [{"session_id": SESSION}, {"session_id": SHARED, "participants": TOKEN}],
    "partials": [
        {"session_id": SESSION},
        {"session_id": SHARED, "token": TOKEN},
        {"session_id": SHARED, "token": "", "contributors": f"{OTHER} {TOKEN}"},
    ],
    "subject_holds": [{"subject": SUBJECT}],
    "session_holds": [{"session_id": SESSION}],
    "subject_keys": [{"subject": SUBJECT}, {"subject": SESSION}],
    "data_keys": [{"session_id": SESSION}, {"session_id": SHARED, "token": TOKEN}],
    "access_requests": [{"subject": SUBJECT}],
    "access_sessions": [{"session_id": SESSION}],
}
"""For each table, rows of what was erased: one for each way in which they are found."""

CREATED = {"position": 901, "topic": "session.created.v1"}
AUDITED = {"generation": 1, "policy": "web-visit", "actor": OTHER, "token": None, "rule": None}
ASKED = {"actor": None, "role": "producer", "method": "GET", "path": "/v1/seen", "read": None}
NO_FACTS: dict[str, list[dict[str, Any]]] = {
    "events": [
        {
            **CREATED,
            "session_id": SESSION,
            "state": b'{"actor":"ann@example.org","owner":null,"policy":"web-visit",'
            b'"policy_version":1}',
        },
        {**CREATED, "session_id": SHARED, "state": b"Ann"},
    ],
    "audit": [
        {**AUDITED, "session_id": SESSION, "token": "Ann", "detail": None},
        {**AUDITED, "session_id": SHARED, "detail": '{"note":"Ann was here"}'},
        {**AUDITED, "session_id": SHARED, "detail": "Ann"},
    ],
    "requests_2026_01": [
        {**ASKED, "session": SESSION, "path": f"/v1/sessions/{SESSION}"},
        {**ASKED, "session": SHARED, "read": "Ann"},
    ],
}
"""For each store of facts, rows about an erased session that are none."""


@pytest.fixture
def here(database_url: str, key_url: str, tmp_path: Path) -> Iterator[Opened]:
    with opened(database_url, key_url, tmp_path) as lapse:
        yield lapse


def scanner(here: Opened) -> SqlScanner:
    return SqlScanner(here.lapse.engines, here.lapse.keyring.kept)


def plant(here: Opened, name: str, values: Mapping[str, Any]) -> None:
    """A row with these values, and with any others in the columns that need some."""
    with here.lapse.engines.write() as connection:
        table = Table(name, MetaData(), autoload_with=connection)
        others = {
            column.name: _anything(column.type)
            for column in table.columns
            if not column.nullable and column.name != "partition"
        }
        partition = {"partition": 0} if "partition" in table.columns else {}
        connection.execute(table.insert().values({**partition, **others, **values}))


def _anything(kind: TypeEngine[Any]) -> Any:
    if isinstance(kind, LargeBinary):
        return b"\0" * 32
    return 1 if isinstance(kind, Integer) else OTHER


def test_a_database_in_use_is_clean(here: Opened) -> None:
    """Sessions, people and requests that were not erased are no leftovers, and every table of the
    database is one that is known."""
    session = here.lapse.sessions.create("reading-room", here.now, "operator", owner="ann")
    here.lapse.sessions.join(session.id, "bob", here.now, "operator", name="Bob")
    make_log_of_requests(here)
    found = scanner(here).scan(REACH)
    assert (found.ok, found.problems) == (True, ())
    assert set(found.stores.values()) == {CLEAN}
    assert found.stores.keys() >= {MEMORY, "events", "subject_keys", "requests_2026_01"}


def make_log_of_requests(here: Opened) -> None:
    """As a service makes it with the first request of a month."""
    with closing(RequestLog(here.lapse.engines)) as log:
        log._make("requests_2026_01")


def test_a_leftover_in_any_table_is_found_and_named(here: Opened) -> None:
    """In each table that can hold something of somebody, whichever way it is looked for."""
    searched = {name for name, store in STORES.items() if store.searches}
    elsewhere = {"subject_keys_next", "access_parts"}
    assert searched - LEFTOVERS.keys() - NO_FACTS.keys() == elsewhere
    looking = scanner(here)
    for table, rows in LEFTOVERS.items():
        for row in rows:
            plant(here, table, row)
            found = looking.scan(REACH)
            assert found.problems == (ScanProblem(table, Fault.LEFT, rows=1),), row
            assert not found.ok
            assert found.stores[table] == "left"
            here.execute(f"DELETE FROM {table}")
    assert looking.scan(REACH).ok


def test_a_leftover_in_a_table_that_a_rotation_fills_is_found(here: Opened) -> None:
    """A key that was erased must not wait there to come back."""
    here.execute("CREATE TABLE subject_keys_changed (subject TEXT)")
    here.execute(
        "CREATE TABLE subject_keys_next (partition INTEGER, subject TEXT, kek TEXT, wrapped TEXT)"
    )
    looking = scanner(here)
    assert looking.scan(REACH).ok
    for subject in (SUBJECT, SESSION):
        here.execute("INSERT INTO subject_keys_next VALUES (0, ?, 'k', 'w')", subject)
        assert looking.scan(REACH).problems == (
            ScanProblem("subject_keys_next", Fault.LEFT, rows=1),
        )
        here.execute("DELETE FROM subject_keys_next")


def test_a_copy_of_what_was_erased_is_found(here: Opened) -> None:
    """Somebody asked for it before, and it waits to be fetched."""
    plant(here, "access_sessions", {"session_id": SESSION, "request_id": OTHER})
    plant(here, "access_parts", {"request_id": OTHER})
    assert scanner(here).scan(REACH).problems == (
        ScanProblem("access_parts", Fault.LEFT, rows=1),
        ScanProblem("access_sessions", Fault.LEFT, rows=1),
    )


def test_what_is_no_fact_in_a_store_of_facts_is_found_and_named(here: Opened) -> None:
    """The log, its audit and the log of requests keep what happened, in ids and closed names."""
    make_log_of_requests(here)
    here.lapse.projector.catch_up()
    here.execute("DELETE FROM audit")
    looking = scanner(here)
    assert looking.scan(REACH).ok
    for table, rows in NO_FACTS.items():
        for row in rows:
            plant(here, table, row)
            found = looking.scan(REACH)
            assert found.problems == (ScanProblem(table, Fault.NOT_A_FACT, rows=1),), row
            undo = "DELETE FROM events WHERE position = 901"
            here.execute(undo if table == "events" else f"DELETE FROM {table}")


def test_the_history_of_an_erased_session_is_nothing_but_facts(here: Opened) -> None:
    """Whatever a session went through, its events and their audit pass."""
    now, sessions = here.now, here.lapse.sessions
    session = sessions.create("reading-room", now, "operator", owner="ann")
    token = sessions.join(session.id, "bob", now, "operator", name="Bob")
    sessions.leave(session.id, token, now + 1, "operator")
    sessions.extend(session.id, now + 10**10, now + 2, "operator")
    sessions.erase(session.id, now + 3, "operator")
    here.lapse.projector.catch_up()
    found = scanner(here).scan(Reach(sessions=(session.id,), parts=((session.id, token),)))
    assert found.ok, found.problems


def test_a_key_that_this_process_still_has_is_found(here: Opened) -> None:
    """Keys are kept in memory for seconds; those of the erased are overwritten at once."""
    keyring = here.lapse.keyring
    subject = keyring.new_subject(keyring.lookup("subject", "ann"))
    reach = Reach(subjects=(subject.subject,))
    assert scanner(here).scan(reach).problems == (ScanProblem(MEMORY, Fault.LEFT, rows=1),)
    keyring.forget_subjects([subject.subject])
    assert scanner(here).scan(reach).ok


def test_a_table_that_nobody_classified_fails_every_scan(here: Opened) -> None:
    """A copy that somebody made for a moment is a place where people's data stays."""
    here.execute("CREATE TABLE people_backup AS SELECT * FROM subject_index")
    found = scanner(here).scan(Reach())
    assert found.problems == (ScanProblem("people_backup", Fault.UNCLASSIFIED),)
    assert (found.ok, found.stores["people_backup"]) == (False, "unclassified")


def test_a_column_that_nobody_classified_fails_every_scan(here: Opened) -> None:
    """Also one more column in a table that is known."""
    here.execute("ALTER TABLE presence ADD COLUMN remark TEXT")
    found = scanner(here).scan(Reach())
    assert found.problems == (ScanProblem("presence", Fault.UNCLASSIFIED, "remark"),)


def test_a_copy_in_another_schema_or_a_view_that_keeps_rows_is_noticed(
    postgres_server: PostgresServer, key_url: str, tmp_path: Path
) -> None:
    """PostgreSQL: what holds tables with our names is searched as a whole; a view that computes
    its rows anew holds none."""
    with opened(postgres_server.create_database(), key_url, tmp_path) as here:
        here.execute("CREATE SCHEMA elsewhere")
        here.execute("CREATE TABLE elsewhere.notes (note TEXT)")
        assert scanner(here).scan(Reach()).ok
        here.execute("CREATE TABLE elsewhere.items AS SELECT * FROM items")
        here.execute("CREATE MATERIALIZED VIEW kept_view AS SELECT * FROM presence")
        here.execute("CREATE VIEW a_view AS SELECT * FROM presence")
        assert scanner(here).scan(Reach()).problems == (
            ScanProblem("elsewhere.items", Fault.UNCLASSIFIED),
            ScanProblem("elsewhere.notes", Fault.UNCLASSIFIED),
            ScanProblem("kept_view", Fault.UNCLASSIFIED),
        )


def test_the_map_names_every_table_and_column_of_the_code() -> None:
    """Whoever adds one says in adapters/vault/stores.py what of whom can be in it."""
    for table in (*log_metadata.sorted_tables, *projection_metadata.sorted_tables):
        columns = {column.name for column in table.columns}
        assert table.name in STORES, table.name
        assert STORES[table.name].columns == columns, table.name
        assert STORES[table.name].sealed <= columns, table.name


def test_every_search_goes_by_an_index(key_url: str, tmp_path: Path) -> None:
    """However large a table is, it is not read whole. On SQLite, whose plans depend on no figures;
    the indexes are the same."""
    (tmp_path / "db").mkdir()
    with opened(f"sqlite:///{tmp_path / 'db' / 'lapse.db'}", key_url, tmp_path) as here:
        statements: list[str] = []
        with here.lapse.engines.read() as connection:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            driver.set_trace_callback(statements.append)
        scanner(here).scan(REACH)
        driver.set_trace_callback(None)
        searches = [one for one in statements if "VALUES" in one or " IN (" in one]
        assert len(searches) > 15
        for statement in searches:
            with here.lapse.engines.read() as connection:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            steps = {row[3] for row in plan} - {"SCAN u", "SCAN CONSTANT ROW"}
            assert not [step for step in steps if step.startswith("SCAN")], (statement, steps)
