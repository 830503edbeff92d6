"""Reads back every store after an erasure: is anything left, and is there a place nobody knows of?

The tables come from the catalogue of the database, not from our own list of them, so a copy that
somebody made, or a table that a later version adds, is noticed. What may be in each, and how it is
looked for, stands in adapters/vault/stores.py. Every search is one statement over an index for all
ids together, and all of them see the same state of the database.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Set

from sqlalchemy import Connection, inspect
from sqlalchemy.engine.reflection import ObjectKind

from adapters.log.engine import Engines
from adapters.vault.stores import STORES, Store, store_of
from domain.erasure import Reach
from domain.ports import Fault, ScanProblem, ScanResult

MEMORY = "memory"
"""The store that is no table: keys that this process keeps for seconds."""
STATISTICS = "statistics"
"""Samples of values that PostgreSQL keeps for its planner."""
CLEAN = "clean"
_NOT_OURS = ("information_schema", "pg_catalog", "pg_toast")


class SqlScanner:
    """The scanner behind `domain.ports.Scanner`.

    kept_keys: of these subjects, those whose key this process has in memory.
    """

    def __init__(
        self, engines: Engines, kept_keys: Callable[[Collection[str]], Collection[str]]
    ) -> None:
        self._engines = engines
        self._kept_keys = kept_keys

    def scan(self, reach: Reach) -> ScanResult:
        """Raises StoreError if the database cannot be read: then nothing is known."""
        problems: list[ScanProblem] = []
        names = [MEMORY]
        with self._engines.snapshot() as connection:
            _keep_tables(connection)
            catalogue, ours = _catalogue(connection)
            for name, columns in sorted(catalogue.items()):
                names.append(name)
                store = store_of(name)
                problems += _unknown(name, columns, store)
                if store is not None:
                    problems += _left(connection, name, columns, store, reach)
            if connection.dialect.name == "postgresql":
                names.append(STATISTICS)
                problems += _sampled(connection, ours)
        kept = self._kept_keys({*reach.subjects, *reach.sessions})
        if kept:
            problems.append(ScanProblem(MEMORY, Fault.LEFT, rows=len(kept)))
        states = dict.fromkeys(names, CLEAN)
        states.update({problem.store: str(problem.fault) for problem in problems})
        return ScanResult(not problems, states, tuple(problems))


def _keep_tables(connection: Connection) -> None:
    """No rotation may swap the tables of keys meanwhile: rows that it copied are not in our
    snapshot. Locked before the snapshot is taken."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE subject_keys IN ACCESS SHARE MODE")


def _catalogue(connection: Connection) -> tuple[Mapping[str, Set[str]], str | None]:
    """(columns by table, our schema): of every schema that holds tables with names of ours. Those
    outside our own schema are named with theirs, so none of them is classified."""
    if connection.dialect.name == "sqlite":
        return _sqlite_tables(connection), None
    looking = inspect(connection)
    ours = looking.default_schema_name
    found: dict[str, Set[str]] = {}
    for schema in looking.get_schema_names():
        if schema.startswith(_NOT_OURS):
            continue
        tables = {
            **looking.get_multi_columns(
                schema=schema, kind=ObjectKind.TABLE | ObjectKind.MATERIALIZED_VIEW
            )
        }
        if schema == ours or any(name in STORES for _, name in tables):
            for (_, name), columns in tables.items():
                full = name if schema == ours else f"{schema}.{name}"
                found[full] = {column["name"] for column in columns}
    return found, ours


def _sqlite_tables(connection: Connection) -> Mapping[str, Set[str]]:
    """But for SQLite's own tables: only sqlite_stat4 would hold samples of values."""
    query = (
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c "
        "WHERE m.type = 'table' AND (m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "OR m.name = 'sqlite_stat4')"
    )
    found: dict[str, set[str]] = {}
    for table, column in connection.exec_driver_sql(query):
        found.setdefault(table, set()).add(column)
    return found


def _unknown(name: str, columns: Set[str], store: Store | None) -> Iterator[ScanProblem]:
    if store is None:
        yield ScanProblem(name, Fault.UNCLASSIFIED)
        return
    for column in sorted(columns - store.columns):
        yield ScanProblem(name, Fault.UNCLASSIFIED, column)


def _left(
    connection: Connection, name: str, columns: Set[str], store: Store, reach: Reach
) -> Iterator[ScanProblem]:
    if not store.columns <= columns:
        return  # of another version; what it has more is reported
    rows = sum(search(connection, name, reach) for search in store.searches)
    if rows:
        yield ScanProblem(name, store.fault, rows=rows)


def _sampled(connection: Connection, schema: str | None) -> Iterator[ScanProblem]:
    """Sealed bytes and wrapped keys that the planner has samples of: they would outlive the row."""
    query = "SELECT tablename, attname FROM pg_stats WHERE schemaname = %s"
    sealed = {(table, column) for table, store in STORES.items() for column in store.sealed}
    rows = connection.exec_driver_sql(query, (schema,))
    for table, column in sorted({(row[0], row[1]) for row in rows} & sealed):
        yield ScanProblem(STATISTICS, Fault.LEFT, f"{table}.{column}")
