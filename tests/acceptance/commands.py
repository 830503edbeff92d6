"""`lapse` as people run it: a process with arguments, an environment and an exit code.

Starting Python and importing the command takes over a second. So each process here is forked from
one that has imported it already, with an environment, a folder and files of its own; `installed`
starts the program that people start.
"""

import ctypes
import io
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from tests.servers import wait_until

DONE, FAILED, USAGE, REFUSED = range(4)
KILLED = -signal.SIGKILL
INTERRUPTED = 130
PATIENCE = 120
"""Seconds after which a command is taken to hang."""

PROGRAM = Path(sys.executable).with_name("lapse")

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        "adapters.cli.main",
        *("alembic.command", "alembic.config", "sqlite3", "psycopg2"),
        *("sqlalchemy.dialects.sqlite.pysqlite", "sqlalchemy.dialects.postgresql.psycopg2"),
        "tests.acceptance.commands",
    ]
)


@dataclass(frozen=True)
class Answer:
    """How a command ended: exit code (negative: the signal that ended it) and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.out)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The JSON log on standard error."""
        return [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]

    def logged(self, operation: str) -> list[dict[str, Any]]:
        """The entries about one operation."""
        return [entry for entry in self.log if entry.get("operation") == operation]


class Running:
    """A command that has not ended yet, or may have. ready: the ready file of a service."""

    def __init__(self, process: Any, out: Path, err: Path) -> None:
        self.ready = out
        self._process = process
        self._out = out
        self._err = err

    @property
    def url(self) -> str:
        """Where a service answers."""
        return str(json.loads(self.ready.read_text())["url"])

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def is_alive(self) -> bool:
        return bool(self._process.is_alive())

    def kill(self) -> Answer:
        """`kill -9`; also fine if it has ended already."""
        self._process.kill()
        return self.wait()

    def interrupt(self) -> Answer:
        """Ctrl-C, and what it came to."""
        os.kill(self.pid, signal.SIGINT)
        return self.wait()

    def stop(self) -> Answer:
        """SIGTERM, and what it came to."""
        self._process.terminate()
        return self.wait()

    def wait(self) -> Answer:
        """Until it ends."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"lapse did not end within {PATIENCE} s: {self.so_far}")
        return self.so_far

    @property
    def so_far(self) -> Answer:
        """What it wrote up to now; the code is 0 while it runs."""
        code = self._process.exitcode or 0
        return Answer(code, self._out.read_text(), self._err.read_text())


_MEASURING = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Installation:
    """A database, a key folder and a clock, and the commands people run on them.

    environment: what the commands find in theirs. folder: where they run; nothing of the machine
    that runs the tests reaches them. The clock stands still until it is set.
    """

    def __init__(self, folder: Path, database_url: str, key_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self._clock = folder / "clock"
        self._numbers = count(1)
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "HOME": str(folder),
            "LAPSE_DATABASE_URL": database_url,
            "LAPSE_KEY_URL": key_url,
            "LAPSE_ENV": "test",
            "LAPSE_CLOCK": f"file:{self._clock}",
        }
        self.now = "2026-11-22T00:00:00+00:00"

    @property
    def now(self) -> str:
        """What the clock says."""
        return self._clock.read_text()

    @now.setter
    def now(self, instant: str) -> None:
        # Whole at every moment: a service reads it while it is set.
        partial = self._clock.with_name("clock.partial")
        partial.write_text(instant)
        partial.replace(self._clock)

    def wait(self, **time: float) -> None:
        """Let so much time (as of `timedelta`) pass."""
        self.now = (datetime.fromisoformat(self.now) + timedelta(**time)).isoformat()

    def lapse(
        self, *arguments: str, expect: int | None = DONE, stdin: Path | None = None, **env: Any
    ) -> Answer:
        """Run a command to its end. expect: its exit code; None: whatever."""
        return _as_expected(self.start(*arguments, stdin=stdin, **env).wait(), expect)

    def ask(self, *arguments: str, expect: int | None = DONE, **env: Any) -> Any:
        """The JSON document a command answers with."""
        return self.lapse(*arguments, "--json", expect=expect, **env).document

    def start(
        self, *arguments: str, stdin: Path | None = None, ordinary: bool = False, **env: Any
    ) -> Running:
        """Start a command. env: more variables. ordinary: modes of files stop it, also if root runs
        the tests."""
        return run_in_process(
            "adapters.cli.main:app",
            arguments,
            self._outputs(),
            self.environment | env,
            stdin,
            ordinary=ordinary,
        )

    @contextmanager
    def start_fed(self, *arguments: str) -> Iterator[tuple[Running, io.FileIO]]:
        """Start a command, and the end of a pipe from which it reads its standard input."""
        pipe = self.folder / f"pipe-{next(self._numbers)}"
        os.mkfifo(pipe)
        # For reading too, so that opening it waits for nobody.
        keeper = os.open(pipe, os.O_RDWR)
        running = self.start(*arguments, stdin=pipe)
        with io.FileIO(os.open(pipe, os.O_WRONLY), "w") as end:
            wait_until(lambda: _has_open(running, pipe), PATIENCE, "the command to read")
            os.close(keeper)
            yield running, end

    def program(self, target: str, *arguments: str) -> Running:
        """Start `target` (module:function) with `arguments` in place of the command."""
        return run_in_process(target, arguments, self._outputs(), self.environment)

    def installed(
        self, *arguments: str, expect: int | None = DONE, stdin: bytes = b"", **env: Any
    ) -> Answer:
        """Run the installed program itself."""
        ended = subprocess.run(
            [str(PROGRAM), *arguments],
            input=stdin,
            capture_output=True,
            env=self.environment | env,
            cwd=self.folder,
            timeout=PATIENCE,
            check=False,
        )
        answer = Answer(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
        return _as_expected(answer, expect)

    def peak(self, *arguments: str, stdin: Iterable[bytes]) -> int:
        """Run the installed program, piping `stdin` into it; the most memory it used, in bytes."""
        # Linux counts what a process was before `exec`, too: us, who may be large. So somebody
        # small starts it.
        running = subprocess.Popen(
            [sys.executable, "-c", _MEASURING, str(PROGRAM), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            cwd=self.folder,
        )
        assert running.stdin is not None
        assert running.stdout is not None
        with running.stdin as end, running.stdout as answer:
            for part in stdin:
                end.write(part)
            end.close()
            peak = int(answer.read())
        assert running.wait() == DONE
        return peak * 1024

    @contextmanager
    def serving(self, *options: str, **env: Any) -> Iterator[Running]:
        """`lapse serve` while the block runs; SIGTERM must end it in order."""
        ready = self.folder / f"ready-{next(self._numbers)}"
        options = options or ("--only", "worker")
        service = self.start("serve", "--ready-file", str(ready), *options, **env)
        service.ready = ready
        try:
            wait_until(lambda: ready.exists() or not service.is_alive, PATIENCE, "lapse serve")
            assert service.is_alive, service.so_far
            yield service
        except BaseException:
            service.kill()
            raise
        if service.is_alive:
            _as_expected(service.stop(), DONE)

    def _outputs(self) -> tuple[Path, Path]:
        number = next(self._numbers)
        return self.folder / f"{number}.out", self.folder / f"{number}.err"


def run_in_process(
    target: str,
    arguments: tuple[str, ...],
    outputs: tuple[Path, Path],
    environment: Mapping[str, str],
    stdin: Path | None = None,
    *,
    ordinary: bool = False,
) -> Running:
    """Start `target` (module:function) as a program; its outputs go to the two files."""
    for path in outputs:
        path.touch()
    process = _processes.Process(
        target=_become,
        args=(target, arguments, outputs, dict(environment), stdin, ordinary),
        daemon=True,  # ends with the test run
    )
    process.start()
    return Running(process, *outputs)


def _become(
    target: str,
    arguments: tuple[str, ...],
    outputs: tuple[Path, Path],
    environment: dict[str, str],
    stdin: Path | None,
    ordinary: bool,
) -> None:
    """In the forked process."""
    for number, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.dup2(os.open(stdin or os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing closed the first
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["HOME"])
    os.umask(0o022)
    if ordinary and os.getuid() == 0:
        _drop_capabilities()
    sys.argv = ["lapse", *arguments]
    module, _, name = target.partition(":")
    __import__(module)
    getattr(sys.modules[module], name)()


def _drop_capabilities() -> None:
    """Root without them is an ordinary user who owns root's files: see capabilities(7)."""
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    assert ctypes.CDLL(None).capset(header, bytes(24)) == 0


def _has_open(running: Running, path: Path) -> bool:
    """Whether the command has the file open, as its standard input."""
    return path.samefile(f"/proc/{running.pid}/fd/0")


def _as_expected(answer: Answer, code: int | None) -> Answer:
    assert code is None or answer.code == code, answer
    return answer


def instant(micros: int) -> str:
    """Microseconds since the epoch as RFC 3339."""
    return (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)).isoformat()


def micros(text: str) -> int:
    """RFC 3339 as microseconds since the epoch."""
    return (datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)) // timedelta(
        microseconds=1
    )


def written(path: Path, lines: list[dict[str, Any]]) -> str:
    """The name of `path`, with a JSON document on each line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)
