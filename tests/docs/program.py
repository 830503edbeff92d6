"""A `lapse` for the PATH of shell scripts that starts in no time.

Starting Python and importing the command takes over a second, and the documents run it some hundred
times. So one process imports it, and each call is a fork of that process with the arguments, the
environment, the folder and the files of the caller. What then runs is `adapters.cli.main.main`, as
in the installed program.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import wait_until

ROOT = Path(__file__).resolve().parents[2]

_IMPORTED = (
    "adapters.cli.main",
    # What it imports only when it needs it.
    *("adapters.http.opening", "adapters.http.server", "uvloop", "httptools", "websockets"),
    *("alembic.command", "alembic.config", "psycopg2"),
    *("sqlalchemy.dialects.sqlite.pysqlite", "sqlalchemy.dialects.postgresql.psycopg2"),
)

_CALL = """\
#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    folder = os.open(".", os.O_RDONLY)
    call = json.dumps([sys.argv, dict(os.environ)]).encode()
    socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2, folder])
    server.sendall(call)
    pid = int.from_bytes(server.recv(8), "big")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    sys.exit(int.from_bytes(server.recv(1), "big"))
"""


@contextmanager
def fast_lapse(folder: Path) -> Iterator[Path]:
    """A folder for the PATH, with `lapse` in it."""
    address = folder / "server"
    script = folder / "bin" / "lapse"
    script.parent.mkdir()
    script.write_text(_CALL.format(python=sys.executable, address=str(address)))
    script.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.docs.program", str(address)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # no terminal: what the command finds when it is imported
    ) as server:
        try:
            wait_until(address.exists, 60, "lapse to be imported")
            yield script.parent
        finally:
            server.terminate()


def serve(address: str) -> None:
    """Answer calls, each in a fork of its own, until SIGTERM."""
    for module in _IMPORTED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that ended leave nothing behind
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(16)
        while True:
            caller, _ = listening.accept()
            with caller:
                if os.fork() == 0:
                    listening.close()
                    answer(caller)


def answer(caller: socket.socket) -> None:
    """Run one call in a child that can be signalled, and tell how it ended. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, descriptors, _, _ = socket.recv_fds(caller, 8, 4)
    missing, parts = int.from_bytes(length, "big"), []
    while missing > 0:
        parts.append(caller.recv(missing))
        missing -= len(parts[-1])
    arguments, environment = json.loads(b"".join(parts))
    pid = os.fork()
    if pid == 0:
        caller.close()
        become(arguments, environment, descriptors)
    caller.sendall(pid.to_bytes(8, "big"))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    caller.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def become(arguments: list[str], environment: dict[str, str], descriptors: list[int]) -> None:
    """The command itself. Does not return."""
    from adapters.cli.main import main

    *streams, folder = descriptors
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.fchdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    main()


if __name__ == "__main__":
    serve(sys.argv[1])
