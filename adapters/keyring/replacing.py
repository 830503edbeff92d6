"""Files of keys are written anew as a whole, and what stood there is overwritten."""

import os
from pathlib import Path


def replace_file(path: Path, body: bytes) -> None:
    """Put a new file in the place of an old one, whose bytes are then overwritten: it may hold a
    KEK that was destroyed. A crash leaves the old one or the new one. Raises OSError.
    """
    # Not through a link, at whose other end something else would be overwritten.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+b", buffering=0) as old:
        _put(path, body)
        old.write(bytes(os.fstat(old.fileno()).st_size))
        os.fsync(old.fileno())


def put_file(path: Path, body: bytes) -> None:
    """As `replace_file`, where there may be none yet. Raises OSError."""
    try:
        replace_file(path, body)
    except FileNotFoundError:
        _put(path, body)


def write_file(path: Path, body: bytes) -> None:
    """A file that is not there yet, for its owner alone. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """What was made and renamed in it survives a loss of power. Raises OSError."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _put(path: Path, body: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)  # of a process that was killed
    write_file(fresh, body)
    fresh.rename(path)
    sync_folder(path.parent)
