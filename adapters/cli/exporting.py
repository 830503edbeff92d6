"""`lapse export`: a copy of what is held about somebody (GDPR Art. 15 and 20)."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.errors import refusals
from adapters.cli.files import partial
from adapters.cli.options import Database, Json, VerifiedBy, choice, load, person_on_stdin
from adapters.cli.output import console, print_json
from adapters.wiring import OPERATOR, open_lapse, require_database
from domain.errors import SettingsInvalid
from domain.facts import Verification


def export(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The zip; must not be there yet.")
    ],
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read who it is from standard input, one line.")
    ] = False,
    verified_by: VerifiedBy = str(Verification.CONTROLLER),
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Write a copy of all that is held about a person, as a zip that its owner alone can read. That
    it was made stands in the log."""
    with refusals():
        way = choice(Verification, verified_by, "--verified-by")
        name = person_on_stdin(stdin=stdin, option="--stdin")
        settings = load(db)
        require_database(settings)
        with open_lapse(settings) as lapse:  # a restored one forgets again before anything is read
            size = _write(out, lambda: lapse.access().export(name, way, lapse.clock(), OPERATOR))
        if as_json:
            print_json({"bytes": size})
        else:
            console.print(f"{size} bytes")


def _write(out: Path, make: Callable[[], Iterable[bytes]]) -> int:
    """Whole or not at all; its bytes. Nothing is made before the file can be written."""
    beside = partial(out)
    try:
        if out.exists():
            raise SettingsInvalid("--out names a file that is there already")
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SettingsInvalid(f"--out cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            size = sum(map(file.write, make()))
            file.flush()
            os.fsync(file.fileno())
        beside.rename(out)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return size
