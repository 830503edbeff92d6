#!/usr/bin/env python3
"""Everything a developer does with Lapse; needs nothing but Python 3.11 or newer.

usage: python3 dev.py COMMAND [ARGUMENTS]

  run [--for 60s]          the demonstration: a realistic feed through all presets, the clock fast
  test [PYTEST ARGUMENTS]  every test, on SQLite and on a real PostgreSQL
  lint                     ruff, mypy --strict and the import rules
  setup                    make the environment and do nothing else
  bench NAME [--json]      one benchmark of tests/benchmarks
  torture [NAME] [--json]  the long crash and race runs of tests/torture; without a name, all

The first command makes a virtual environment in .venv (or in the folder that DEV_VENV names)
and installs what requirements.lock pins, with uv if that is on PATH, else with pip; later ones
start at once. The exit code is that of the command; 1 if the set-up failed, 2 for wrong usage.
"""

from __future__ import annotations  # Python 3.8 must get as far as being told that it is too old

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
VENV = Path(os.environ.get("DEV_VENV") or ROOT / ".venv").absolute()
PYTHON = str(VENV / "bin" / "python")
STAMP = VENV / "dev.stamp"

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - says so instead of failing somewhere later
        return fail(f"Lapse needs Python 3.11 or newer; this is {platform.python_version()}")
    name, *rest = arguments or [""]
    if name in ("-h", "--help", "help"):
        print(__doc__)
        return DONE
    if name not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return WRONG_USAGE
    try:
        return COMMANDS[name](rest)
    except KeyboardInterrupt:
        return INTERRUPTED


def run(arguments: list[str]) -> int:
    return set_up() or become([PYTHON, script("lapse"), "demo", *arguments])


def test(arguments: list[str]) -> int:
    # One process per core; who has done its part takes tests from the others.
    at_once = ["-n", "auto", "--dist", "worksteal"]
    return set_up() or become([PYTHON, "-m", "pytest", *at_once, *arguments])


def lint(arguments: list[str]) -> int:
    if arguments:
        return fail("lint takes no arguments", WRONG_USAGE)
    if code := set_up():
        return code
    checks = {
        "ruff check": [PYTHON, "-m", "ruff", "check"],
        "ruff format": [PYTHON, "-m", "ruff", "format", "--check"],
        "mypy": [PYTHON, "-m", "mypy", "--strict"],
        "import rules": [PYTHON, script("lint-imports"), "--no-logo"],
    }
    failed = [name for name, command in checks.items() if call(command) != DONE]
    return fail(f"not clean: {', '.join(failed)}") if failed else DONE


def setup(arguments: list[str]) -> int:
    if arguments:
        return fail("setup takes no arguments", WRONG_USAGE)
    return set_up()


def bench(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in modules("benchmarks"):
        return fail(f"bench takes one of: {', '.join(modules('benchmarks'))}", WRONG_USAGE)
    name, *rest = arguments
    return set_up() or become([PYTHON, "-m", f"tests.benchmarks.{name}", *rest])


def torture(arguments: list[str]) -> int:
    names = modules("torture")
    if arguments and not arguments[0].startswith("-"):
        name, *rest = arguments
        if name not in names:
            return fail(f"torture takes one of: {', '.join(names)}", WRONG_USAGE)
        return set_up() or become([PYTHON, "-m", f"tests.torture.{name}", *rest])
    if code := set_up():
        return code
    commands = [[PYTHON, "-m", f"tests.torture.{name}", *arguments] for name in names]
    if "--json" in arguments:
        return joined_json(commands)
    return max([call(command) for command in commands], default=DONE)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "test": test,
    "lint": lint,
    "setup": setup,
    "bench": bench,
    "torture": torture,
}


def modules(kind: str) -> list[str]:
    """The names of the runnable modules in tests/KIND."""
    found = (ROOT / "tests" / kind).glob("[!_]*.py")
    return sorted(path.stem for path in found if not path.stem.startswith("test_"))


def joined_json(commands: list[list[str]]) -> int:
    """Run each and print one JSON list of all that they printed; the worst exit code."""
    rows, worst = [], DONE
    for command in commands:
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
        worst = max(worst, exit_code(ended.returncode))
        try:
            rows += json.loads(ended.stdout)
        except ValueError:
            worst = max(worst, fail(f"{command[2]} printed no JSON"))
    print(json.dumps(rows, indent=2))
    return worst


def set_up() -> int:
    """Make the environment current; 0, or the exit code after saying what is wrong."""
    if is_current():
        return DONE
    with one_at_a_time():
        if is_current():
            return DONE
        return make_venv() or install()


def fingerprint() -> str:
    """What the environment was made from. The places are in it because scripts and the editable
    install name them: a copied checkout must not run the code of the one it was copied from.
    """
    parts = [LOCK.read_bytes(), PROJECT.read_bytes(), os.fsencode(ROOT), os.fsencode(VENV)]
    parts.append(repr((sys.implementation.name, sys.version_info[:2])).encode())
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def is_current() -> bool:
    return Path(PYTHON).exists() and STAMP.exists() and STAMP.read_text() == fingerprint()


def mark_current() -> None:
    """Written last and at once, so that an interrupted set-up is done again."""
    unfinished = STAMP.with_suffix(".unfinished")
    unfinished.write_text(fingerprint())
    unfinished.replace(STAMP)


def make_venv() -> int:
    if is_usable():
        return DONE
    if VENV.exists() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").exists():
        return fail(f"{VENV} is no virtual environment; it is left as it is")
    say(f"making the virtual environment {VENV}")
    without_pip = ["--without-pip"] if shutil.which("uv") else []
    if call([sys.executable, "-m", "venv", "--clear", *without_pip, str(VENV)], stdout=sys.stderr):
        return fail("that failed, see above (Debian and Ubuntu: `apt-get install python3-venv`)")
    return DONE


def is_usable() -> bool:
    """Whether there is an environment of this Python's version that things can be installed in."""
    installer = "" if shutil.which("uv") else "import pip;"
    version = tuple(sys.version_info[:2])
    probe = f"import sys; {installer} sys.exit(sys.version_info[:2] != {version})"
    if not Path(PYTHON).exists():
        return False
    return subprocess.run([PYTHON, "-c", probe], capture_output=True, check=False).returncode == 0


def install() -> int:
    """Install the locked packages and Lapse itself, editable."""
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "--python", PYTHON] if uv else [PYTHON, "-m", "pip", "install"]
    say("installing the packages of requirements.lock (the first time: one to three minutes)")
    steps = [
        [*pip, "--quiet", "--require-hashes", "-r", str(LOCK)],
        [*pip, "--quiet", "--no-deps", "--no-build-isolation", "-e", str(ROOT)],
    ]
    for step in steps:
        if call(step, stdout=sys.stderr):  # stdout belongs to the command: `bench --json`
            return fail("installing failed, see above; it needs the network the first time")
    mark_current()
    return DONE


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two commands started together must not install into the same environment."""
    checkout = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(checkout, fcntl.LOCK_EX)
        yield
    finally:
        os.close(checkout)


def script(name: str) -> str:
    """The path of an installed command, to be run by PYTHON: a moved checkout's first lines lie."""
    return str(VENV / "bin" / name)


def become(command: list[str]) -> int:
    """Replace this process, so that signals and the exit code are those of the command."""
    sys.stdout.flush()
    os.chdir(ROOT)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def call(command: list[str], stdout: TextIO | None = None) -> int:
    """Run to the end; its exit code. Ctrl-C reaches the child too, which may tidy up first."""
    sys.stdout.flush()
    child = subprocess.Popen(command, cwd=ROOT, stdout=stdout)
    try:
        return exit_code(child.wait())
    except KeyboardInterrupt:
        child.wait()
        raise


def exit_code(returncode: int) -> int:
    """As a shell has it: 128 + n for a process that signal n ended."""
    return 128 - returncode if returncode < 0 else returncode


def say(message: str) -> None:
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


def fail(message: str, code: int = FAILED) -> int:
    say(message)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
