"""Who somebody was stands nowhere in clear, and is gone for good once the session is erased."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import databases
from tests.acceptance.commands import Installation
from tests.independent import readers
from tests.servers import PostgresServer

NASA = "weblog_nasa_19950709/access_09jul1995.txt.gz"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database whose files hold nothing else. The server logs every statement in full, so that
    what merely travels to it is found as well."""
    if request.param == "sqlite":
        (tmp_path / "db").mkdir()
        yield f"sqlite:///{tmp_path / 'db' / 'lapse.db'}"
        return
    with PostgresServer(settings={"log_statement": "all"}) as server:
        yield server.create_database()


@pytest.fixture
def hosts(shared_data: Path) -> set[str]:
    """All 2 554 of the log."""
    return {host for _, host in readers.web(shared_data / NASA)}


def found_in(folder: Path, names: set[str], patterns: Path) -> set[str]:
    """Which names stand in the raw bytes of the files in `folder`, as text or as hexadecimal.

    patterns: a file for those, outside `folder`.
    """
    searched = {name: name for name in names} | {name.encode().hex(): name for name in names}
    patterns.write_text("".join(f"{pattern}\n" for pattern in searched))
    search = subprocess.run(
        [
            *("grep", "--recursive", "--text", "--only-matching", "--no-filename"),
            *("--fixed-strings", f"--file={patterns}", str(folder)),
        ],
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        check=False,
    )
    assert search.returncode in (0, 1), search.stderr  # 1: nothing found
    return {searched[pattern] for pattern in search.stdout.decode().split()}


def test_no_host_stands_in_the_raw_bytes(
    site: Installation,
    shared_data: Path,
    hosts: set[str],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With a whole day imported and nobody erased yet: not in the database, its write-ahead log,
    the server's log, the key folder, nor in anything the command wrote. After the erasure the
    tables about people are empty."""
    patterns = tmp_path_factory.mktemp("patterns") / "hosts"
    url = site.database_url
    done = site.lapse(
        *("ingest", str(shared_data / NASA), "--format", "common", "--policy", "web-visit"),
        *("--until", "last", "--json"),
        LAPSE_LOG_LEVEL="debug",
    ).document
    erased = done["events"].get("erased", 0)
    sealed = databases.row_counts(url, databases.PEOPLE)
    assert sealed["presence"] == sealed["subject_index"] == sealed["data_keys"] == 3_042 - erased
    assert 0 < sealed["subjects"] == sealed["subject_keys"] <= len(hosts)

    _flush(url)
    for folder in (databases.folder_of(url), tmp_path):
        assert found_in(folder, hosts, patterns) == set()

    site.lapse("sweep", LAPSE_LOG_LEVEL="debug")
    assert set(databases.row_counts(url, databases.PEOPLE).values()) == {0}

    planted = min(hosts)
    databases.change(url, "INSERT INTO meta (name, value) VALUES ('planted', ?)", planted.encode())
    _flush(url)
    assert found_in(databases.folder_of(url), hosts, patterns) == {planted}


def _flush(url: str) -> None:
    """Bring what the server has in memory to its files; SQLite has all of it in its own."""
    if not databases.is_sqlite(url):
        databases.change(url, "CHECKPOINT")


def test_rooms_and_new_names_are_sealed_too(
    site: Installation, shared_data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nicks, those that people change to, and the names of rooms, which may say who meets."""
    unpacked = tmp_path_factory.mktemp("irc")
    files = readers.irc_files(shared_data / "irc_ubuntu_cc" / "ubuntu-irc-raw.tar.gz", unpacked)[:2]
    deeds = list(readers.irc(files))
    names = {deed.who for deed in deeds if deed.who} | {d.new_name for d in deeds if d.new_name}
    # A short nick is found in any random bytes.
    telling = {name for name in names if len(name) >= 7} | {path.name for path in files}
    assert len(telling) > 100

    site.lapse(
        *("ingest", *map(str, files), "--format", "irc", "--policy", "reading-room"),
        *("--until", "last"),
        LAPSE_LOG_LEVEL="debug",
    )
    _flush(site.database_url)
    patterns = unpacked.with_name("nicks")
    assert found_in(databases.folder_of(site.database_url), telling, patterns) == set()
    assert found_in(tmp_path, telling, patterns) == set()

    site.lapse("sweep")
    assert set(databases.row_counts(site.database_url, databases.PEOPLE).values()) == {0}
