"""The migrations make the schema that the code believes in, on both databases, and unmake it."""

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from adapters.log.engine import Engines, open_engines
from adapters.log.migrate import Schema, downgrade, require_current, schema_of, upgrade
from adapters.log.schema import metadata as log_metadata
from domain.errors import SchemaTooNew, SchemaTooOld
from migrations import REVISIONS
from projections.tables import metadata as projection_metadata


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
