"""The Merkle tree over the log: a leaf hash for every event, tiles, checkpoints, pruned positions.

The leaves of an existing log are hashed here, by the database or row by row, in bounded memory and
in the one transaction of the migration: one that is killed left nothing behind. The tiles are
filled from the leaves afterwards, in batches that go on where the last one stopped
(adapters/log/tree.py).
"""

import struct
from hashlib import sha256

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

BATCH = 50_000
"""Events per statement on PostgreSQL."""

_COLUMNS = (
    "partition, position, session_id, version, topic, effective_at, recorded_at, nonce, state"
)
_HASHED = (
    r"sha256('\x00'::bytea || convert_to(E'lapse/leaf/v2\n', 'UTF8') || int2send(partition) "
    "|| int4send(version) || int8send(effective_at) || int8send(recorded_at) || nonce "
    "|| int4send(octet_length(convert_to(session_id, 'UTF8'))) "
    "|| int4send(octet_length(convert_to(topic, 'UTF8'))) || int4send(octet_length(state)) "
    "|| convert_to(session_id, 'UTF8') || convert_to(topic, 'UTF8') || state)"
)


def _leaf(
    partition: int,
    session_id: str,
    version: int,
    topic: str,
    effective_at: int,
    recorded_at: int,
    nonce: bytes,
    state: bytes,
) -> bytes:
    """Written out here: a migration does what it did when it was new."""
    id_, name = session_id.encode(), topic.encode()
    fixed = struct.pack(
        ">HIqq16sIII",
        *(partition, version, effective_at, recorded_at, nonce),
        *(len(id_), len(name), len(state)),
    )
    return sha256(b"\0lapse/leaf/v2\n" + fixed + id_ + name + state).digest()


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _copy_events(leaf=True)
    else:
        _add_leaves()
    op.create_table(
        "pruned",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("pruned_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "position"),
    )
    op.create_table(
        "trees",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("epoch_leaf", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("partition"),
    )
    op.create_table(
        "tiles",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("tile", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "level", "tile"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("signed_at", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "epoch", "size"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Hashes cannot be compressed: do not try.
        op.execute("ALTER TABLE tiles ALTER COLUMN hashes SET STORAGE EXTERNAL")


def _add_leaves() -> None:
    bind = op.get_bind()
    op.add_column("events", sa.Column("leaf", sa.LargeBinary(), nullable=True))
    head = bind.execute(sa.text("SELECT coalesce(max(position), 0) FROM events")).scalar_one()
    for first in range(1, head + 1, BATCH):
        bind.exec_driver_sql(
            f"UPDATE events SET leaf = {_HASHED} "  # noqa: S608 - our own column names
            "WHERE partition = 0 AND position >= %s AND position < %s",
            (first, first + BATCH),
        )
    op.alter_column("events", "leaf", nullable=False)


def _copy_events(*, leaf: bool) -> None:
    """SQLite adds no column that must hold something: the rows move into a new table."""
    bind = op.get_bind()
    connection = bind.connection.dbapi_connection
    connection.create_function("lapse_leaf", 8, _leaf, deterministic=True)  # type: ignore[union-attr]
    leaf_column = [sa.Column("leaf", sa.LargeBinary(), nullable=False)] if leaf else []
    op.create_table(
        "events_moved",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("topic", NAME, nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        *leaf_column,
        sa.CheckConstraint("partition = 0", name="only_partition_0"),
        sa.PrimaryKeyConstraint("partition", "position"),
        sqlite_with_rowid=False,
    )
    made = (
        ", lapse_leaf(partition, session_id, version, topic, effective_at, recorded_at, nonce, "
        "state)"
    )
    op.execute(
        f"INSERT INTO events_moved SELECT {_COLUMNS}{made if leaf else ''} FROM events "  # noqa: S608
        "ORDER BY partition, position"
    )
    op.drop_table("events")
    op.rename_table("events_moved", "events")
    op.create_index(
        "events_by_session", "events", ["partition", "session_id", "version"], unique=True
    )


def downgrade() -> None:
    """Refuses once bodies were pruned: without the tree nothing says why they are missing."""
    pruned = op.get_bind().execute(sa.text("SELECT count(*) FROM pruned")).scalar_one()
    if pruned:
        raise RuntimeError("events were pruned: this database cannot go back to before the tree")
    for table in ("checkpoints", "tiles", "trees", "pruned"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "sqlite":
        _copy_events(leaf=False)
    else:
        op.drop_column("events", "leaf")
