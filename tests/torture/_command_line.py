"""Runs the command `lapse` on a database of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LAPSE = Path(sys.executable).with_name("lapse")
LONGEST = 3_600.0
"""Seconds after which a command that does not end is killed."""


@contextmanager
def lapse_command(
    arguments: Sequence[str], url: str, keys: Path, stdin: int | IO[bytes] = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Its standard output is a pipe. It does not outlive the block."""
    settings = {"LAPSE_DATABASE_URL": url, "LAPSE_KEY_URL": keys.as_uri()}
    inherited = {name: value for name, value in os.environ.items() if name[:6] != "LAPSE_"}
    process = subprocess.Popen(
        [sys.executable, str(LAPSE), *arguments],
        env=inherited | settings,
        cwd=keys,
        stdin=stdin,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
