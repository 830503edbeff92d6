"""Copies for people who ask for their data; and PostgreSQL keeps no samples of sealed bytes and
wrapped keys for its planner, which would outlive the rows they were taken from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

_SEALED = (
    ("subject_index", "sealed"),
    ("items", "sealed"),
    ("partials", "sealed"),
    ("subject_keys", "wrapped"),
    ("data_keys", "wrapped"),
    ("access_requests", "wrapped"),
    ("access_parts", "sealed"),
    ("requests", "sealed"),
)


def upgrade() -> None:
    op.create_table(
        "access_requests",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("request_id", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("verified_by", NAME, nullable=False),
        sa.Column("status", NAME, nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("ready_at", sa.BigInteger(), nullable=True),
        sa.Column("erases_at", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("reason", NAME, nullable=True),
        sa.Column("wrapped", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("partition", "request_id"),
    )
    op.create_index("access_requests_by_due", "access_requests", ["partition", "due_at"])
    op.create_index("access_requests_by_subject", "access_requests", ["partition", "subject"])
    op.create_table(
        "access_sessions",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("request_id", NAME, nullable=False),
        sa.PrimaryKeyConstraint("partition", "session_id", "request_id"),
    )
    op.create_index("access_sessions_by_request", "access_sessions", ["partition", "request_id"])
    op.create_table(
        "access_parts",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("request_id", NAME, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "request_id", "part"),
    )
    _sample(0)
    if op.get_bind().dialect.name == "postgresql":
        # Samples that were taken stay until a column gets a type, be it the one it has: no row is
        # rewritten. How it is stored is then the type's own way again, see 0003.
        for table, column in _SEALED:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bytea")
        for table in ("items", "access_parts"):
            op.execute(f"ALTER TABLE {table} ALTER COLUMN sealed SET STORAGE EXTERNAL")


def downgrade() -> None:
    _sample(-1)
    # The keys of copies, which are under the ids of the requests.
    op.execute("DELETE FROM subject_keys WHERE subject IN (SELECT request_id FROM access_requests)")
    op.drop_table("access_parts")
    op.drop_table("access_sessions")
    op.drop_table("access_requests")


def _sample(target: int) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, column in _SEALED:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS {target}")
