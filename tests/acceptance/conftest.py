"""What acceptance tests may ask for beside databases and real input."""

from pathlib import Path

import pytest

from tests.acceptance.commands import Installation


@pytest.fixture
def site(tmp_path: Path, database_url: str, key_url: str) -> Installation:
    """A fresh installation; the test runs on each kind of database."""
    return Installation(tmp_path, database_url, key_url)
