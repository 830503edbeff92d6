"""The tables of the projections, and what a projection is.

Every row carries the `generation` of its projection: a rebuild fills the next generation beside the
one that is served, so readers notice nothing and no table is created at run time. `partition`
stands in the keys for the reason given in adapters/log/schema.py. Times are integers
(microseconds, UTC).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    ScalarSelect,
    SmallInteger,
    Table,
    Text,
    select,
)
from sqlalchemy.dialects import postgresql

from domain.ports import Recorded

metadata = MetaData()

# Ids and names are compared byte by byte, whatever the locale of the server.
Name = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def _partition() -> Column[int]:
    return Column("partition", SmallInteger, primary_key=True, autoincrement=False)


def _generation() -> Column[int]:
    return Column("generation", Integer, primary_key=True, autoincrement=False)


# -- how far each projection is ---------------------------------------------------------------

projections = Table(
    "projections",
    metadata,
    Column("name", Name, primary_key=True),
    # The generation that queries read. It only ever grows.
    Column("serving", Integer, nullable=False),
    # The one that a rebuild fills, if there is one; then it is `serving` + 1.
    Column("building", Integer),
)

projection_positions = Table(
    "projection_positions",
    metadata,
    _partition(),
    Column("name", Name, primary_key=True),
    _generation(),
    # The last event whose rows are in this generation.
    Column("position", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # Since when the event behind `position` cannot be handled, and the name of the error's class.
    Column("failed_at", BigInteger),
    Column("failure", Name),
    # Rewritten with every batch: room for new versions on its page.
    postgresql_with={"fillfactor": "50"},
)

# -- audit ------------------------------------------------------------------------------------

audit = Table(
    "audit",
    metadata,
    _partition(),
    _generation(),
    # The life of a session is read in order of position, and nothing else is.
    Column("session_id", Name, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("event", Name, nullable=False),
    Column("effective_at", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("policy", Name, nullable=False),
    Column("policy_version", Integer),
    Column("rule", Name),
    Column("actor", Name, nullable=False),
    Column("token", Name),
    Column("detail", Name),
    # One index per search; each ends with the order in which it pages.
    Index(
        "audit_by_policy",
        *("partition", "generation", "policy", "event", "effective_at", "position"),
    ),
    Index("audit_by_event", "partition", "generation", "event", "effective_at", "position"),
    Index("audit_by_time", "partition", "generation", "effective_at", "position"),
)

# -- usage ------------------------------------------------------------------------------------

usage = Table(
    "usage",
    metadata,
    _partition(),
    _generation(),
    # The start of the hour.
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("policy", Name, primary_key=True),
    Column("event", Name, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("bytes_freed", BigInteger, nullable=False),
    # Most batches add to rows of the present hour: room for their new versions on the page.
    postgresql_with={"fillfactor": "80"},
)

# -- what a projection is ---------------------------------------------------------------------


@dataclass(frozen=True)
class Projection:
    """A read model that is made from the log alone.

    table: where its rows are, with `partition` and `generation` first in its primary key. rows: the
    values of `columns` for events that follow each other in the log, in a given generation; pure,
    whoever runs it writes them in the transaction that moves the position, so that each event
    counts once. on_conflict: what becomes of a row whose key is there already, in SQL.
    """

    name: str
    table: Table
    columns: tuple[str, ...]
    rows: Callable[[int, Sequence[Recorded]], list[tuple[Any, ...]]]
    on_conflict: str = ""


def serving(name: str) -> ScalarSelect[Any]:
    """The generation to read, as a part of the query itself: it cannot change in between."""
    return select(projections.c.serving).where(projections.c.name == name).scalar_subquery()


def event_name(topic: str) -> str:
    """`session.expired` of the topic `session.expired.v1`: versions are a matter of storage."""
    return topic.rpartition(".")[0]


def marked(number: str) -> int:
    """A number of the mark with which a page ended. Raises ValueError if it came from nowhere."""
    try:
        found = int(number, 16)
    except ValueError:
        found = -1
    if not 0 <= found < 2**63:
        raise ValueError("this is not where a page ended")
    return found
