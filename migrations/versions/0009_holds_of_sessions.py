"""Holds of sessions, listed with their grounds."""

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "session_holds",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("hold", NAME, nullable=False),
        sa.Column("ground", NAME, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("partition", "session_id", "hold"),
    )
    op.create_index("session_holds_by_id", "session_holds", ["partition", "hold"], unique=False)
    _list_holds()
    op.drop_index("sessions_held", table_name="sessions")
    op.drop_column("sessions", "held")


def _list_holds() -> None:
    """From the events that placed and released them: the folded state does not say on which ground
    one stands."""
    bind = op.get_bind()
    events = bind.exec_driver_sql(
        "SELECT e.session_id, e.topic, e.effective_at, e.state FROM sessions s "
        "JOIN events e ON e.partition = s.partition AND e.session_id = s.session_id "
        "WHERE s.partition = 0 AND s.held = 1 "
        "AND e.topic IN ('session.held.v1', 'session.released.v1') "
        "ORDER BY e.session_id, e.version"
    )
    standing: dict[tuple[str, str], tuple[object, ...]] = {}
    for session_id, topic, since, state in events:
        hold = json.loads(bytes(state))
        if topic == "session.released.v1":
            standing.pop((session_id, hold["hold"]), None)
        else:
            row = (session_id, hold["hold"], hold["ground"], since, hold["until"])
            standing[session_id, hold["hold"]] = row
    names = ("session_id", "hold", "ground", "since", "until")
    rows = [dict(zip(names, row, strict=True)) for row in standing.values()]
    if rows:
        bind.execute(
            sa.text(
                "INSERT INTO session_holds (partition, session_id, hold, ground, since, until) "
                "VALUES (0, :session_id, :hold, :ground, :since, :until)"
            ),
            rows,
        )


def downgrade() -> None:
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
    op.execute(
        "UPDATE sessions SET held = 1 WHERE EXISTS (SELECT 1 FROM session_holds h "
        "WHERE h.partition = sessions.partition AND h.session_id = sessions.session_id)"
    )
    op.drop_table("session_holds")
