"""The schema of a Lapse database, step by step (Alembic). Every step goes up and down."""

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0007", "0008", "0009")
"""All revisions, oldest first. Known here, so that a start need not load Alembic to compare."""
