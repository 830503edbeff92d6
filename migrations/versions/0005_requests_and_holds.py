"""Requests of people, holds of people, and whom joint figures are made of."""

import json

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
    # Nobody noted them before: whoever takes part may be in the joint figures.
    dialect = op.get_bind().dialect.name
    op.execute(_CONTRIBUTORS.format(join=_JOIN[dialect]))


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
    "sqlite": "json_array_length(CAST(s.state AS TEXT), '$.holds') > 0",
    "postgresql": "position('\"holds\":[[' IN convert_from(s.state, 'UTF8')) > 0",
}


def _list_holds() -> None:
    """The holds of sessions, from the events that placed and released them: the folded state does
    not say on which ground one stands."""
    bind = op.get_bind()
    events = bind.exec_driver_sql(
        "SELECT e.session_id, e.topic, e.effective_at, e.state FROM sessions s "  # noqa: S608
        "JOIN events e ON e.partition = s.partition AND e.session_id = s.session_id "
        f"WHERE s.partition = 0 AND {_HELD[bind.dialect.name]} "
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
    op.drop_table("session_holds")
    op.drop_table("subject_holds")
    op.execute("DELETE FROM data_keys WHERE subject IN (SELECT request_id FROM requests)")
    op.execute("DELETE FROM subject_keys WHERE subject IN (SELECT request_id FROM requests)")
    op.drop_table("requests")
    op.drop_column("partials", "contributors")
