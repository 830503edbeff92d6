"""Alembic's entry: runs migrations on the connection that adapters/log/migrate.py hands over."""

from alembic import context
from sqlalchemy import MetaData

from adapters.log.schema import metadata as log_metadata
from projections.tables import metadata as projection_metadata

connection = context.config.attributes["connection"]
metadata: list[MetaData] = [log_metadata, projection_metadata]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=False,
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
