"""The log, its folded state, the vault, the keyring, and the first projections."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Ids and names are compared byte by byte, whatever the locale of the server.
NAME = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "aliases",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("lookup", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.PrimaryKeyConstraint("partition", "lookup"),
    )
    op.create_index("aliases_by_session", "aliases", ["partition", "session_id"], unique=False)
    op.create_table(
        "bookmarks",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "name"),
    )
    op.create_table(
        "commands",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("command", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "command"),
    )
    op.create_index("commands_by_expiry", "commands", ["partition", "expires_at"], unique=False)
    op.create_table(
        "counters",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("scope", NAME, nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "scope"),
    )
    op.create_table(
        "data_keys",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("tier", NAME, nullable=False),
        sa.Column("token", NAME, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "session_id", "tier", "token", "subject"),
    )
    op.create_table(
        "events",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("topic", NAME, nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("partition = 0", name="only_partition_0"),
        sa.PrimaryKeyConstraint("partition", "position"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "events_by_session", "events", ["partition", "session_id", "version"], unique=True
    )
    op.create_table(
        "heads",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition"),
    )
    op.create_table(
        "leases",
        sa.Column("name", NAME, nullable=False),
        sa.Column("holder", NAME, nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "meta",
        sa.Column("name", NAME, nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "policies",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("effective_from", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "name", "version"),
    )
    op.create_table(
        "presence",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("token", NAME, nullable=False),
        sa.Column("joined_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("left_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("partition", "session_id", "token"),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_table(
        "sessions",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("policy", NAME, nullable=False),
        sa.Column("phase", NAME, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("failures", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner_subject", NAME, nullable=True),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "session_id"),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "sessions_by_deadline",
        "sessions",
        ["partition", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "sessions_by_owner",
        "sessions",
        ["partition", "owner_subject", "created_at"],
        unique=False,
        postgresql_where=sa.text("owner_subject IS NOT NULL"),
    )
    op.create_table(
        "subject_index",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("token", NAME, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("role", NAME, nullable=False),
        sa.Column("current", sa.SmallInteger(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "session_id", "token", "subject"),
    )
    op.create_index(
        "subject_index_by_subject",
        "subject_index",
        ["partition", "subject", "session_id"],
        unique=False,
    )
    op.create_table(
        "subject_keys",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("kek", NAME, nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "subject"),
    )
    op.create_table(
        "subjects",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("lookup", sa.LargeBinary(), nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.PrimaryKeyConstraint("partition", "lookup"),
    )
    op.create_index("subjects_by_id", "subjects", ["partition", "subject"], unique=True)
    op.create_table(
        "audit",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("session_id", NAME, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event", NAME, nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("policy", NAME, nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=True),
        sa.Column("rule", NAME, nullable=True),
        sa.Column("actor", NAME, nullable=False),
        sa.Column("token", NAME, nullable=True),
        sa.Column("detail", NAME, nullable=True),
        sa.PrimaryKeyConstraint("partition", "generation", "session_id", "position"),
    )
    op.create_index(
        "audit_by_event",
        "audit",
        ["partition", "generation", "event", "effective_at", "position"],
        unique=False,
    )
    op.create_index(
        "audit_by_policy",
        "audit",
        ["partition", "generation", "policy", "event", "effective_at", "position"],
        unique=False,
    )
    op.create_index(
        "audit_by_time",
        "audit",
        ["partition", "generation", "effective_at", "position"],
        unique=False,
    )
    op.create_table(
        "projection_positions",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("failed_at", sa.BigInteger(), nullable=True),
        sa.Column("failure", NAME, nullable=True),
        sa.PrimaryKeyConstraint("partition", "name", "generation"),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "projections",
        sa.Column("name", NAME, nullable=False),
        sa.Column("serving", sa.Integer(), nullable=False),
        sa.Column("building", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "usage",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("policy", NAME, nullable=False),
        sa.Column("event", NAME, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("bytes_freed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "generation", "hour", "policy", "event"),
        postgresql_with={"fillfactor": "80"},
    )
    op.execute("INSERT INTO heads (partition, position) VALUES (0, 0)")


def downgrade() -> None:
    op.drop_table("usage")
    op.drop_table("projections")
    op.drop_table("projection_positions")
    op.drop_table("audit")
    op.drop_table("subjects")
    op.drop_table("subject_keys")
    op.drop_table("subject_index")
    op.drop_table("sessions")
    op.drop_table("presence")
    op.drop_table("policies")
    op.drop_table("meta")
    op.drop_table("leases")
    op.drop_table("heads")
    op.drop_table("events")
    op.drop_table("data_keys")
    op.drop_table("counters")
    op.drop_table("commands")
    op.drop_table("bookmarks")
    op.drop_table("aliases")
