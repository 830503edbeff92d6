"""`lapse certificate get`, `verify`: signed statements of what ended, and of what was erased."""

from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from adapters.certificates import CertificateInvalid, verified
from adapters.cli.errors import FAILED, refusals, say_error
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, print_json, write_whole
from adapters.issuing import certificate
from adapters.log.note import NoteInvalid, VerifierKey, verifier_key
from adapters.wiring import open_lapse, require_database
from domain.errors import SettingsInvalid


def get(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A session's or a request's id.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE", help="Where it goes; a file that is there is replaced."
        ),
    ],
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Write the certificate of a session that expired or was erased, or of a request for erasure.
    Exit code 1 if there is none."""
    with refusals():
        settings = load(db)
        require_database(settings)
        with open_lapse(settings) as lapse:
            made = certificate(lapse, id_, lapse.clock())
        write_whole(out, [made])
        if as_json:
            print_json({"id": id_, "bytes": len(made)})


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate.")],
    key: Annotated[
        Path,
        typer.Option("--key", metavar="PUB", help="The public key of certificates, in PEM."),
    ],
    log_key: Annotated[
        str | None,
        typer.Option("--log-key", metavar="KEY", help="The verifier key of the log's checkpoints."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a certificate offline: its signature, the proof that its event stands in the log, and
    with --log-key the signature of the checkpoint. Exit code 1 if something does not hold."""
    with refusals():
        public, log = _public_key(key), _log_key(log_key)
        try:
            statement = verified(_read(file, "FILE"), public, log)
        except CertificateInvalid as invalid:
            if as_json:
                print_json({"ok": False, "problem": str(invalid), "statement": None})
            else:
                say_error(f"not verified: {invalid}")
            raise typer.Exit(FAILED) from None
        if as_json:
            print_json({"ok": True, "problem": None, "statement": statement})
        else:
            console.print(f"verified: {statement['what']} of {statement['id']}", markup=False)


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsInvalid(f"{where}: cannot be read ({error.strerror})") from None


def _public_key(path: Path) -> bytes:
    text = _read(path, "--key")
    if text.count(b"-----BEGIN") > 1:  # the first one would be taken, whichever it is
        raise SettingsInvalid(
            "--key: the file holds several keys: leave only the one below `certificates:` in it"
        )
    try:
        found = load_pem_public_key(text)
    except ValueError:
        raise SettingsInvalid("--key: this is no public key in PEM") from None
    if not isinstance(found, Ed25519PublicKey):
        raise SettingsInvalid("--key: certificates are signed with Ed25519")
    return found.public_bytes_raw()


def _log_key(text: str | None) -> VerifierKey | None:
    try:
        return verifier_key(text) if text is not None else None
    except NoteInvalid as error:
        raise SettingsInvalid(f"--log-key: {error}") from None
