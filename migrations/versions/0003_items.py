"""Items, uploads and partial figures in the vault, and what each session stores."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column(
        "sessions",
        sa.Column("stored_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    for name, column, phase in (
        ("sessions_storing_finished", "created_at", "phase <> 'active'"),
        ("sessions_storing_active", "last_seen_at", "phase = 'active'"),
    ):
        which = sa.text(f"stored_bytes > 0 AND {phase}")
        op.create_index(
            name,
            "sessions",
            ["partition", column],
            unique=False,
            sqlite_where=which,
            postgresql_where=which,
        )
    op.create_table(
        "items",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("item_id", NAME, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("scope", NAME, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("participants", NAME, nullable=False),
        sa.Column("media_type", NAME, nullable=True),
        sa.Column("count", sa.Integer(), nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "session_id", "item_id", "part"),
    )
    op.create_table(
        "uploads",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("upload_id", NAME, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("participants", NAME, nullable=False),
        sa.Column("media_type", NAME, nullable=True),
        sa.PrimaryKeyConstraint("partition", "session_id", "upload_id"),
    )
    op.create_table(
        "partials",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("token", NAME, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "session_id", "token"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # What is sealed cannot be compressed: do not try.
        op.execute("ALTER TABLE items ALTER COLUMN sealed SET STORAGE EXTERNAL")
    # States that were folded before say how much their sessions store, the column did not.
    stored = sa.text(_STORED[op.get_bind().dialect.name])
    op.execute(stored)
    op.execute(
        "INSERT INTO counters (partition, scope, used) SELECT partition, 'bytes:' || policy, "
        "sum(stored_bytes) FROM sessions WHERE stored_bytes > 0 GROUP BY partition, policy"
    )


_STORED = {
    "sqlite": (
        "UPDATE sessions SET stored_bytes = "
        "coalesce(json_extract(CAST(state AS TEXT), '$.size'), 0)"
    ),
    "postgresql": (
        "UPDATE sessions SET stored_bytes = "
        "coalesce((convert_from(state, 'UTF8')::jsonb ->> 'size')::bigint, 0)"
    ),
}


def downgrade() -> None:
    op.execute("DELETE FROM counters WHERE scope LIKE 'bytes:%'")
    op.drop_table("partials")
    op.drop_table("uploads")
    op.drop_table("items")
    # Keys of what was stored; those of people stay.
    op.execute("DELETE FROM data_keys WHERE tier <> 'identity'")
    op.execute("DELETE FROM subject_keys WHERE subject NOT IN (SELECT subject FROM subjects)")
    op.drop_index("sessions_storing_active", table_name="sessions")
    op.drop_index("sessions_storing_finished", table_name="sessions")
    op.drop_column("sessions", "stored_bytes")
