"""Several processes open the same new key file at once."""

from pathlib import Path

from adapters.keyring.file_keyring import create_key_file, read_key_file

PURPOSES = frozenset({"checkpoints", "certificates"})


def test_who_opened_first_learns_what_another_process_signs_with(tmp_path: Path) -> None:
    """It read the file before the signing keys were in it, and the database knows them already."""
    create_key_file(tmp_path / "keys", "store")
    early = read_key_file(tmp_path / "keys", "store")
    made = read_key_file(tmp_path / "keys", "store").signing_seeds(PURPOSES, make=True)
    assert early.signing_seeds(PURPOSES, make=False) == made
    assert made.keys() == PURPOSES
