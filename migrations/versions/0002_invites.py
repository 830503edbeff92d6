"""Invites: who may come into a session without being known to its producer."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "invites",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("invite", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "invite"),
    )
    op.create_index("invites_by_session", "invites", ["partition", "session_id"], unique=False)


def downgrade() -> None:
    op.drop_table("invites")
