"""What sweeps reported, hour by hour; operations and actors in the log of requests."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COUNTS = ("batches", "due", "done", "held", "rearmed", "failed", "events")


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        sa.PrimaryKeyConstraint("partition", "hour"),
    )
    for month in _months():
        op.add_column(month, sa.Column("operation", sa.Text()))
        op.create_index(f"{month}_by_actor", month, ["actor"])


def downgrade() -> None:
    for month in _months():
        op.drop_index(f"{month}_by_actor", month)
        op.drop_column(month, "operation")
    op.drop_table("sweeps")


def _months() -> list[str]:
    """The tables of the log of requests; the service makes one each month."""
    names = sa.inspect(op.get_bind()).get_table_names()
    return [name for name in names if re.fullmatch(r"requests_\d{4}_\d{2}", name)]
