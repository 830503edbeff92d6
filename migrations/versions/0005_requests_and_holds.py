"""Requests of people, holds of people, and whom joint figures are made of."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column(
        "sessions",
        sa.Column("held", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_index(
        "sessions_held",
        "sessions",
        ["partition", "session_id"],
        unique=False,
        sqlite_where=sa.text("held = 1"),
        postgresql_where=sa.text("held = 1"),
    )
    op.add_column(
        "partials", sa.Column("contributors", NAME, server_default=sa.text("''"), nullable=False)
    )
    op.create_table(
        "requests",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("request_id", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", NAME, nullable=False),
        sa.Column("deadline_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("failures", sa.SmallInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("target", sa.LargeBinary(), nullable=True),
        sa.Column("session_id", NAME, nullable=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "request_id"),
    )
    for column, unique in (("key", True), ("target", True), ("due", False), ("session", False)):
        indexed = {"due": "due_at", "session": "session_id"}.get(column, column)
        op.create_index(f"requests_by_{column}", "requests", ["partition", indexed], unique=unique)
    op.create_table(
        "subject_holds",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("hold", NAME, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("ground", NAME, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("partition", "hold"),
    )
    op.create_index(
        "subject_holds_by_subject", "subject_holds", ["partition", "subject"], unique=False
    )
    # Nobody noted them before: whoever takes part may be in the joint figures.
    dialect = op.get_bind().dialect.name
    op.execute(_CONTRIBUTORS.format(join=_JOIN[dialect]))
    op.execute(_HELD[dialect])


_JOIN = {
    "sqlite": "group_concat(p.token, ' ')",
    "postgresql": "string_agg(p.token, ' ')",
}
_CONTRIBUTORS = (
    "UPDATE partials SET contributors = coalesce((SELECT {join} FROM presence p "
    "WHERE p.partition = partials.partition AND p.session_id = partials.session_id), '') "
    "WHERE token = ''"
)
_HELD = {
    "sqlite": (
        "UPDATE sessions SET held = 1 WHERE json_array_length(CAST(state AS TEXT), '$.holds') > 0"
    ),
    "postgresql": (
        "UPDATE sessions SET held = 1 "
        "WHERE position('\"holds\":[[' IN convert_from(state, 'UTF8')) > 0"
    ),
}


def downgrade() -> None:
    op.drop_table("subject_holds")
    op.execute("DELETE FROM data_keys WHERE subject IN (SELECT request_id FROM requests)")
    op.execute("DELETE FROM subject_keys WHERE subject IN (SELECT request_id FROM requests)")
    op.drop_table("requests")
    op.drop_column("partials", "contributors")
    op.drop_index("sessions_held", table_name="sessions")
    op.drop_column("sessions", "held")
