"""The scaffold: dev.py, the lock, PostgreSQL for tests, the report of rows."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.servers import PostgresServer, find_programs, is_gone, wait_until

ROOT = Path(__file__).resolve().parents[1]


class Checkout:
    """A small checkout with the real dev.py, and a `uv` that installs nothing but is counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder.parent / "bin"
        self.install_log = folder.parent / "installs"
        for kind in ("torture", "benchmarks"):
            (folder / "tests" / kind).mkdir(parents=True)
        (folder / "requirements.lock").write_text("some-package==1\n")
        (folder / "pyproject.toml").write_text("[project]\n")
        shutil.copy(ROOT / "dev.py", folder)
        self.bin.mkdir()
        self.let_installing_end_with(0)

    def let_installing_end_with(self, code: int) -> None:
        uv = self.bin / "uv"
        uv.write_text(f"#!/bin/sh\necho ran >>'{self.install_log}'\nexit {code}\n")
        uv.chmod(0o755)

    @property
    def installs(self) -> int:
        """How often the installer ran; setting up runs it twice, for the lock and for Lapse."""
        return len(self.install_log.read_text().split()) if self.install_log.exists() else 0

    def torture(self, name: str, source: str) -> None:
        (self.folder / "tests" / "torture" / f"{name}.py").write_text(source)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        inherited = {name: os.environ[name] for name in os.environ if name != "DEV_VENV"}
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.Popen(
            [sys.executable, str(self.folder / "dev.py"), *arguments],
            env=inherited | {"PATH": path} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def dev(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, **environment) as command:
            stdout, stderr = command.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, command.returncode, stdout, stderr)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_dev_needs_only_the_standard_library() -> None:
    """A machine with nothing but Python can run it."""
    imported = set()
    for node in ast.walk(ast.parse((ROOT / "dev.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == set()


def test_an_old_python_is_told_so() -> None:
    """Python 3.8 can read dev.py, which then names the version it needs."""
    ast.parse((ROOT / "dev.py").read_text(), feature_version=(3, 8))
    pretend = (
        "import runpy, sys; sys.version_info = (3, 8); sys.argv = ['dev.py', 'test'];"
        "runpy.run_path('dev.py', run_name='__main__')"
    )
    told = subprocess.run(
        [sys.executable, "-c", pretend], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 1
    assert "3.11" in told.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["deploy"],
        ["lint", "tests"],
        ["setup", "now"],
        ["bench"],
        ["bench", "nothing"],
        ["torture", "nothing"],
    ],
)
def test_wrong_usage_exits_with_2_and_installs_nothing(
    checkout: Checkout, arguments: list[str]
) -> None:
    """A mistyped command is refused at once, before a minute of set-up."""
    assert checkout.dev(*arguments).returncode == 2
    assert checkout.installs == 0


def test_the_environment_is_made_once(checkout: Checkout) -> None:
    """A second command finds everything current and installs nothing."""
    assert checkout.dev("setup").returncode == 0
    assert checkout.installs == 2
    assert checkout.dev("setup").returncode == 0
    assert checkout.installs == 2


def add_a_package(checkout: Checkout) -> None:
    (checkout.folder / "requirements.lock").write_text("some-package==1\nanother==2\n")


def edit_the_project(checkout: Checkout) -> None:
    (checkout.folder / "pyproject.toml").write_text("[project]\nname = 'renamed'\n")


def move_the_checkout(checkout: Checkout) -> None:
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))


@pytest.mark.parametrize("change", [add_a_package, edit_the_project, move_the_checkout])
def test_a_change_is_installed(checkout: Checkout, change: Callable[[Checkout], None]) -> None:
    """What was installed from another lock, project file or place is not trusted."""
    checkout.dev("setup")
    change(checkout)
    assert checkout.dev("setup").returncode == 0
    assert checkout.installs == 4


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    """Without the network the command fails and says so; the next one starts over."""
    checkout.let_installing_end_with(2)
    failed = checkout.dev("setup")
    assert failed.returncode == 1
    assert "network" in failed.stderr
    checkout.let_installing_end_with(0)
    assert checkout.dev("setup").returncode == 0
    assert checkout.installs == 3


def test_a_folder_that_is_no_environment_is_left_alone(checkout: Checkout) -> None:
    """A mistaken DEV_VENV costs no files."""
    precious = checkout.folder / "photographs"
    precious.mkdir()
    (precious / "one").touch()
    assert checkout.dev("setup", DEV_VENV=str(precious)).returncode == 1
    assert (precious / "one").exists()


def test_the_environment_can_lie_elsewhere(checkout: Checkout, tmp_path: Path) -> None:
    """DEV_VENV names another folder, for a second Python say."""
    assert checkout.dev("setup", DEV_VENV=str(tmp_path / "other")).returncode == 0
    assert (tmp_path / "other" / "bin" / "python").exists()
    assert not (checkout.folder / ".venv").exists()


def test_the_exit_code_is_that_of_the_command(checkout: Checkout) -> None:
    """One torture run that fails makes its own code that of dev.py, alone and among others."""
    checkout.torture("fails", "raise SystemExit(7)")
    checkout.torture("works", "")
    checkout.torture("_shared", "raise SystemExit(9)")
    assert checkout.dev("torture", "works").returncode == 0
    assert checkout.dev("torture", "fails").returncode == 7
    assert checkout.dev("torture").returncode == 7


def test_torture_prints_one_list(checkout: Checkout) -> None:
    """With --json the rows of all runs stand in one list, and nothing else on standard output."""
    for name in ("first", "second"):
        checkout.torture(name, f"import json; print(json.dumps([{{'name': '{name}'}}]))")
    printed = checkout.dev("torture", "--json")
    assert printed.returncode == 0
    assert json.loads(printed.stdout) == [{"name": "first"}, {"name": "second"}]


def test_ctrl_c_lets_the_command_tidy_up_and_starts_no_other(checkout: Checkout) -> None:
    """An interrupted series ends with the run it was in."""
    checkout.torture(
        "a",
        "import signal\n"
        "try:\n    print('started', flush=True); signal.pause()\n"
        "except KeyboardInterrupt:\n    print('tidied up')\n",
    )
    checkout.torture("b", "print('not reached')")
    checkout.dev("setup")
    with checkout.start("torture") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "started\n"
        os.killpg(command.pid, signal.SIGINT)
        rest, errors = command.communicate(timeout=60)
    assert (command.returncode, rest, errors) == (130, "tidied up\n", "")


def locked() -> dict[str, str]:
    """The version of every package of requirements.lock, for the newest Python."""
    return dict(pins())


def pins() -> list[tuple[str, str]]:
    """Every pin: of some packages there are several, for different Pythons."""
    return re.findall(r"^([a-z0-9-]+)==([^ ]+) ", (ROOT / "requirements.lock").read_text(), re.M)


def test_the_lock_names_no_address_and_no_machine() -> None:
    """Where packages come from is up to whoever installs them."""
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|(^|\s)(/|~)|index-url|find-links|trusted-host", lock, re.M)


def test_every_package_of_the_lock_is_pinned_with_hashes() -> None:
    """Nothing but the very files that were tested can be installed."""
    lock = (ROOT / "requirements.lock").read_text()
    header, *entries = re.split(r"^(?=[a-zA-Z0-9])", lock, flags=re.M)
    assert header.startswith("#")
    assert len(entries) == len(pins())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_lock_fits_the_project() -> None:
    """A dependency that was added or raised in pyproject.toml is in the lock too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for group in project["dependency-groups"].values():
        wanted += group
    versions = locked()
    unmet = [
        text
        for text in wanted
        if (requirement := Requirement(text)).specifier
        and not requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
    ]
    assert unmet == []


def test_committed_rows_outlive_a_killed_postgres() -> None:
    """After `kill -9` of the server what was committed is there, and nothing else."""
    with PostgresServer(fsync=True) as server:
        url = server.create_database()
        connection = psycopg2.connect(url)
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE visits (host text)")
        cursor.execute("INSERT INTO visits VALUES ('committed')")
        connection.commit()
        cursor.execute("INSERT INTO visits VALUES ('not committed')")
        server.kill()
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(url)
        server.start()
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW fsync")
            assert cursor.fetchall() == [("on",)]
            cursor.execute("SELECT host FROM visits")
            assert cursor.fetchall() == [("committed",)]


def test_postgres_ends_with_the_run_that_started_it() -> None:
    """No server stays behind when the test run itself is killed, and no files after the next."""
    script = (
        "import os, signal\n"
        "from tests.servers import PostgresServer\n"
        "with PostgresServer() as server:\n"
        "    print(server.pid, server.folder, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    pid, folder = killed.stdout.split()
    wait_until(partial(is_gone, int(pid)), 60, "PostgreSQL to end")
    with PostgresServer():
        assert not Path(folder).exists()


def test_postgres_comes_from_the_wheel_where_none_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded PostgreSQL starts and answers."""
    monkeypatch.delenv("PG_BIN", raising=False)
    programs = find_programs(debian=tmp_path)
    assert programs.is_relative_to(sys.prefix)
    monkeypatch.setenv("PG_BIN", str(programs))
    with PostgresServer() as server, psycopg2.connect(server.create_database()) as connection:
        assert connection.info.server_version >= 180000


def test_the_newest_installed_postgres_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PG_BIN wins, then Debian's newest; one that is too old is passed over."""
    monkeypatch.delenv("PG_BIN", raising=False)

    def install(version: str) -> Path:
        programs = tmp_path / version / "bin"
        programs.mkdir(parents=True)
        (programs / "postgres").touch()
        return programs

    assert find_programs(tmp_path) != install("9")
    assert find_programs(tmp_path) != install("13")
    install("16")
    newest = install("18")
    assert find_programs(tmp_path) == newest
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    assert find_programs(tmp_path) == tmp_path


@pytest.mark.parametrize("turn", ["first", "second"])
def test_every_test_gets_a_fresh_database(database_url: str, turn: str) -> None:
    """The table of one test is not there in the next."""
    url = sqlalchemy.make_url(database_url)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg2")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE visits (host TEXT)")
        assert sqlalchemy.inspect(connection).get_table_names() == ["visits"]
    engine.dispose()


SUITE = """
    import pytest

    @pytest.fixture(params=["sqlite", "postgresql"])
    def database_url(request):
        return request.param

    @pytest.mark.row("P1.1", "G2")
    def test_on_both(database_url):
        assert database_url

    @pytest.mark.row("G2")
    def test_on_one(database_url):
        assert database_url == "sqlite"

    @pytest.mark.row("P1.1")
    def test_without():
        pass

    @pytest.mark.row("P1.2")
    def test_skipped():
        pytest.skip("no network here")

    @pytest.mark.row("P1.2")
    @pytest.mark.xfail
    def test_not_done_yet():
        assert False
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A whole suite of five tests with rows, in a project of its own."""
    pytester.makeini("[pytest]\ntestpaths = tests\nmarkers = row(*ids): rows\n")
    tests = pytester.mkdir("tests")
    pytester.makepyfile(SUITE).rename(tests / "test_rows.py")
    return pytester


def test_the_report_names_the_tests_that_passed(suite: pytest.Pytester) -> None:
    """Per row and database; a test that failed or was skipped shows nothing."""
    suite.runpytest_inprocess("-p", "tests.rows").assert_outcomes(
        passed=4, failed=1, skipped=1, xfailed=1
    )
    name = "tests/test_rows.py::test"
    assert json.loads((suite.path / "build" / "rows.json").read_text()) == {
        "P1.1": {
            "sqlite": [f"{name}_on_both[sqlite]"],
            "postgresql": [f"{name}_on_both[postgresql]"],
            "any": [f"{name}_without"],
        },
        "G2": {
            "sqlite": [f"{name}_on_both[sqlite]", f"{name}_on_one[sqlite]"],
            "postgresql": [f"{name}_on_both[postgresql]"],
            "any": [],
        },
    }


@pytest.mark.parametrize("narrowed", [["-k", "both"], ["tests/test_rows.py"], ["--collect-only"]])
def test_a_partial_run_leaves_the_report_as_it_is(
    suite: pytest.Pytester, narrowed: list[str]
) -> None:
    """Only a run of everything says which rows are shown."""
    suite.runpytest_inprocess("-p", "tests.rows", *narrowed)
    assert not (suite.path / "build" / "rows.json").exists()


def test_a_row_that_is_not_required_is_refused(suite: pytest.Pytester) -> None:
    """A mistyped id in a marker stops the run, before any test."""
    suite.mkdir("docs").joinpath("requirements.md").write_text("| P1.1 | x |\n| P1.2 | y |\n")
    refused = suite.runpytest_inprocess("-p", "tests.rows")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*test_on_both*G2*"])


def test_a_skipped_test_fails_where_nothing_may_be_skipped(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CI sees what it did not run, a whole module included; an expected failure stays one."""
    (suite.path / "tests" / "test_module.py").write_text(
        "import pytest\npytest.skip('not on this machine', allow_module_level=True)\n"
    )
    monkeypatch.setenv("LAPSE_NO_SKIPS", "1")
    strict = suite.runpytest_inprocess("-p", "tests.skips", "--continue-on-collection-errors")
    strict.assert_outcomes(passed=4, failed=2, errors=1, xfailed=1)
    strict.stdout.fnmatch_lines(["*no network here*"])


def test_the_ci_script_is_valid_bash() -> None:
    """A slip in it shows here, not after the session."""
    assert subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=False).returncode == 0
