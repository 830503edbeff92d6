"""What every test may ask for: databases, a key folder, real input."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.servers import PostgresServer

pytest_plugins = ["pytester", "tests.deletions", "tests.rows", "tests.skips"]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
KEPT_VARIABLES = {"LAPSE_NO_SKIPS"}  # that of the tests themselves

# The same examples in every run, so that a failure belongs to the change that shows it. Look for
# new ones with HYPOTHESIS_PROFILE=thorough.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile(
    "thorough", max_examples=5000, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure() -> None:
    """Settings of the developer's shell must not reach the tests, nor redirect libpq."""
    for name in os.environ.keys() - KEPT_VARIABLES:
        if name.startswith("LAPSE_") or (name.startswith("PG") and name != "PG_BIN"):
            del os.environ[name]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The one PostgreSQL of the run, shared: a test that kills or restarts makes its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty database; the test runs on each kind."""
    if request.param == "sqlite":
        folder = tmp_path / "db"
        folder.mkdir()
        yield f"sqlite:///{folder / 'lapse.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.create_database()
        yield url
        server.drop_database(url)


@pytest.fixture
def key_url(tmp_path: Path) -> str:
    """Where the key-encryption keys go: a folder of its own, not yet there."""
    return (tmp_path / "keys").as_uri()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real input beside the checkout, described in its README.md."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real input, ../shared/data, is not beside this checkout")
    return SHARED_DATA
