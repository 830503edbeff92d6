"""PostgreSQL keeps no samples of sealed bytes and wrapped keys for its planner: they would outlive
the rows they were taken from."""

from alembic import op

revision = "0007"
down_revision = "0004"
branch_labels = None
depends_on = None

_SEALED = (
    ("subject_index", "sealed"),
    ("items", "sealed"),
    ("partials", "sealed"),
    ("subject_keys", "wrapped"),
    ("data_keys", "wrapped"),
)


def upgrade() -> None:
    _sample(0)
    if op.get_bind().dialect.name == "postgresql":
        # Samples that were taken stay until a column gets a type, be it the one it has: no row is
        # rewritten. How it is stored is then the type's own way again, see 0003.
        for table, column in _SEALED:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bytea")
        op.execute("ALTER TABLE items ALTER COLUMN sealed SET STORAGE EXTERNAL")


def downgrade() -> None:
    _sample(-1)


def _sample(target: int) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, column in _SEALED:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS {target}")
