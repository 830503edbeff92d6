"""The migrations make the schema that the code believes in, on both databases, and unmake it."""

from collections.abc import Iterator
from functools import partial

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from adapters.log.engine import Engines, open_engines
from adapters.log.event_log import SqlLog
from adapters.log.migrate import Schema, downgrade, require_current, schema_of, upgrade
from adapters.log.schema import metadata as log_metadata
from domain.errors import SchemaTooNew, SchemaTooOld
from domain.policy import HOUR
from domain.session import Event, Ground, Session
from migrations import REVISIONS
from projections.tables import metadata as projection_metadata
from tests.contracts.authors import ACTOR, TEN, apply_policies, following, opening


@pytest.fixture
def engines(database_url: str) -> Iterator[Engines]:
    opened = open_engines(database_url)
    yield opened
    opened.close()


def tables(engines: Engines) -> set[str]:
    with engines.read() as connection:
        return set(inspect(connection).get_table_names())


def test_migrations_replayed_from_nothing_give_the_metadata_in_code(engines: Engines) -> None:
    """A table, column, key or index that stands in one place only is a mistake."""
    upgrade(engines)
    with engines.write() as connection:
        context = MigrationContext.configure(connection)
        differences = compare_metadata(context, [log_metadata, projection_metadata])  # type: ignore[arg-type]
    assert differences == []


def test_every_migration_goes_down_again(engines: Engines) -> None:
    """Down to nothing and up again, and an empty log has its head."""
    upgrade(engines)
    downgrade(engines, "base")
    assert tables(engines) <= {"alembic_version"}
    upgrade(engines)
    with engines.read() as connection:
        assert connection.exec_driver_sql("SELECT position FROM heads").scalar_one() == 0


def test_holds_from_before_they_had_a_table_are_listed(engines: Engines) -> None:
    """Those that stand, with their grounds: the upgrade finds them in the events of their
    sessions."""
    upgrade(engines)
    log = SqlLog(engines, lambda: 0)
    apply_policies(log)
    held = opening("a"), opening("b")
    log.append([*held, opening("c")], TEN)
    for one, hold in zip(held, ("stands", "ends"), strict=True):
        place = partial(place_hold, hold=hold)
        log.append([following(one, place)], TEN)
    log.append([following(log.find(["b"])["b"], lambda s: s.release("ends", TEN, ACTOR))], TEN)
    log.wakeups.close()
    downgrade(engines, "0004")
    upgrade(engines)
    with engines.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM session_holds").fetchall()
    assert [tuple(row) for row in rows] == [(0, "a", "stands", "legal-claim", TEN, TEN + HOUR)]


def place_hold(session: Session, hold: str) -> tuple[Event, ...]:
    return session.hold(hold, Ground.LEGAL_CLAIM, TEN + HOUR, TEN, ACTOR)


def test_an_empty_database_gets_the_schema_only_when_asked(engines: Engines) -> None:
    """Looking changes nothing."""
    assert schema_of(engines) is Schema.ABSENT
    with pytest.raises(SchemaTooOld):
        require_current(engines, create=False)
    assert tables(engines) == set()
    require_current(engines, create=True)
    assert schema_of(engines) is Schema.CURRENT


def test_a_database_of_a_newer_version_is_refused_untouched(engines: Engines) -> None:
    """An old Lapse must not guess at a schema it does not know."""
    upgrade(engines)
    with engines.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    assert schema_of(engines) is Schema.NEWER
    with pytest.raises(SchemaTooNew):
        require_current(engines, create=True)


def test_the_revisions_known_to_the_code_are_those_of_the_folder() -> None:
    """A start compares with this list instead of loading Alembic."""
    config = Config()
    config.set_main_option("script_location", "migrations")
    script = ScriptDirectory.from_config(config)
    found = [revision.revision for revision in script.walk_revisions()]
    assert list(reversed(found)) == list(REVISIONS)
