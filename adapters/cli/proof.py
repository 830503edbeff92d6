"""`lapse audit checkpoint`, `prove`, `verify`, `publish`, `key`: proof of what the log says."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli.errors import FAILED, refusals, say_error
from adapters.cli.options import Database, Json, load
from adapters.cli.output import console, print_json, print_table, write_whole
from adapters.clock import format_instant
from adapters.keyring.signing import spki
from adapters.log.checkpoint import Checkpoint
from adapters.log.merkle import HASH
from adapters.log.note import NoteInvalid, VerifierKey, proof_text, verifier_key
from adapters.log.tile_paths import tile_name, tiles_of
from adapters.log.verify import Verdict
from adapters.log.witness import WitnessFailed
from adapters.wiring import Lapse, open_lapse, require_database
from domain.errors import SettingsInvalid
from domain.ports import PARTITION

_LONGEST = 1_000_000
"""Bytes of a checkpoint that is read at most."""


def checkpoint(db: Database = None, as_json: Json = False) -> None:
    """Sign the log as it is now and print the checkpoint (a signed note, C2SP tlog-checkpoint).

    Keep it outside this machine: `lapse audit verify --against` compares with it. Exit code 1 if
    the evidence store or a witness does not take it.
    """
    with refusals():
        settings = load(db, "error")  # what does not answer is said once, at the end
        require_database(settings)
        with open_lapse(settings) as lapse:
            made, failures = lapse.checkpoints.attempt(lapse.clock())
        if as_json:
            print_json(_checkpoint_document(made))
        else:
            typer.echo(made.note, nl=False)
        if failures:
            say_error(_not_kept(made, failures))
            raise typer.Exit(FAILED)


def _not_kept(made: Checkpoint, failures: Sequence[Exception]) -> str:
    why = "; ".join(
        f"a witness did not cosign it ({failure})"
        if isinstance(failure, WitnessFailed)
        else str(failure)
        for failure in failures
    )
    return (
        f"the checkpoint of size {made.size} was made and is kept in the database, but not "
        f"everywhere outside it: {why}. Then run `lapse audit checkpoint` again"
    )


def _checkpoint_document(made: Checkpoint) -> dict[str, Any]:
    return {
        "origin": made.origin,
        "size": made.size,
        "root": base64.b64encode(made.root).decode(),
        "signed_at": format_instant(made.signed_at),
        "note": made.note,
    }


def prove(
    position: Annotated[
        int, typer.Argument(metavar="POSITION", min=1, help="An event's place in the log.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Where the proof goes (C2SP tlog-proof); a file that is there is replaced.",
        ),
    ],
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Prove that an event stands in the log, with the checkpoint that the proof leads to.

    It stays valid when the event's body was pruned.
    """
    with refusals():
        settings = load(db)
        require_database(settings)
        with open_lapse(settings) as lapse:
            made = lapse.checkpoints.make(lapse.clock())
            try:
                proof = lapse.tree.inclusion(position, made.size)
            except ValueError:
                head = lapse.log.head()
                raise SettingsInvalid(f"POSITION: the log ends at position {head}") from None
            write_whole(out, [proof_text(proof.index, proof.hashes, made.note).encode()])
        found = {
            "position": position,
            "index": proof.index,
            "size": proof.size,
            "leaf": base64.b64encode(proof.leaf).decode(),
            "hashes": [base64.b64encode(one).decode() for one in proof.hashes],
            "checkpoint": made.note,
        }
        if as_json:
            print_json(found)
        else:
            rows = [(name, found[name]) for name in ("position", "index", "size", "leaf")]
            print_table("Proof", ("what", "is"), rows)


def verify(
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FILE", help="A checkpoint that was kept elsewhere."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="KEY",
            help="The verifier key that was kept elsewhere; by default this installation's.",
        ),
    ] = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Read the whole log and compare it with what was signed. Writes nothing; ends with 1 if the
    log was altered, cut or set back, and says where."""
    with refusals():
        kept = _read(against) if against is not None else None
        with open_lapse(load(db), create=False) as lapse:
            verdict = lapse.verifier(_key(key)).verify(kept)
        if as_json:
            print_json(_verdict_document(verdict))
        else:
            _print_verdict(verdict)
        if not verdict.ok:
            raise typer.Exit(FAILED)


def _key(text: str | None) -> VerifierKey | None:
    if text is None:
        return None
    try:
        return verifier_key(text)
    except NoteInvalid as error:
        raise SettingsInvalid(f"--key: {error}") from None


def _verdict_document(verdict: Verdict) -> dict[str, Any]:
    return {
        "ok": verdict.ok,
        "size": verdict.size,
        "signed": verdict.signed,
        "lost": verdict.lost,
        "trust": str(verdict.trust),
        "problems": [
            {
                "kind": str(found.kind),
                "partition": PARTITION,
                "position": found.position,
                "where": found.where,
            }
            for found in verdict.findings
        ],
        "more": verdict.more,
    }


def _print_verdict(verdict: Verdict) -> None:
    if verdict.ok:
        console.print(
            f"{verdict.size} events are as they were written; {verdict.signed} leaves are signed "
            f"({verdict.trust})",
            soft_wrap=True,
        )
        if verdict.lost:
            console.print(
                f"{verdict.lost} events that were signed are lost since a restore, at least"
            )
        return
    rows = [(found.kind, found.position, found.where) for found in verdict.findings]
    print_table("Problems", ("kind", "position", "where"), rows)
    if verdict.more:
        console.print(f"and {verdict.more} more")
    say_error("the log is not what was written or signed: docs/how-to/verify-the-log.md")


def publish(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Served as it is, this is a log of C2SP."),
    ],
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Write the checkpoint and the hash tiles as files (C2SP tlog-tiles), for any web server.

    Done again, it adds what is new. Tiles hold hashes only, nothing of what happened.
    """
    with refusals():
        settings = load(db)
        require_database(settings)
        with open_lapse(settings) as lapse:
            made = lapse.checkpoints.make(lapse.clock())
            written = _publish_tiles(lapse, made, out)
            write_whole(out / "checkpoint", [made.note.encode()], parents=True)
        found = {"origin": made.origin, "size": made.size, "tiles": written}
        if as_json:
            print_json(found)
        else:
            print_table("Published", ("origin", "size", "tiles"), [list(found.values())])


def _publish_tiles(lapse: Lapse, made: Checkpoint, out: Path) -> int:
    """How many were written: what is there already is never written again."""
    written = 0
    for level, tile, width in tiles_of(made.size):
        path = out / "tile" / str(level) / tile_name(tile, width)
        if not path.exists():
            write_whole(path, [lapse.tree.tile(level, tile)[: width * HASH]], parents=True)
            written += 1
    return written


def keys(db: Database = None, as_json: Json = False) -> None:
    """Print the public keys: what verifies checkpoints, and what verifies certificates."""
    with refusals(), open_lapse(load(db), create=False) as lapse:
        found = {
            "checkpoints": {
                "verifier_key": str(lapse.signers.checkpoints.verifier_key()),
                "pem": spki(lapse.signers.checkpoints.public_key).decode(),
            },
            "certificates": {"pem": spki(lapse.signers.certificates.public_key).decode()},
        }
    if as_json:
        print_json(found)
        return
    typer.echo(f"checkpoints: {found['checkpoints']['verifier_key']}")
    for name, one in found.items():
        typer.echo(f"{name}:\n{one['pem']}", nl=False)


def _read(path: Path) -> str:
    """Raises SettingsInvalid."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST).decode()
    except OSError as error:
        raise SettingsInvalid(f"--against: it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsInvalid("--against: the file holds no checkpoint") from None
