"""One copy of the key file in another folder, under the same term: the escrow.

It is written with the key file, and what is destroyed is destroyed there first. No key is ever
taken from it: whoever restores the key file copies it by hand. The folder is not made: a disk that
is not mounted must not be taken for an empty one.
"""

import os
from collections.abc import Callable
from pathlib import Path

import structlog

from adapters.keyring.replacing import put_file

_log = structlog.get_logger(component="keys")


class Escrow:
    """A folder for copies of key files. tell: whether the last one could be kept."""

    def __init__(self, folder: Path, tell: Callable[[bool], None] = lambda well: None) -> None:
        self.folder = folder
        self._tell = tell
        self._well = True

    def keep(self, name: str, body: bytes) -> bool:
        """Whether the copy is there now; if not, that is said loudly and everything else goes
        on."""
        try:
            put_file(self.folder / name, body)
        except OSError as error:
            self.fail(error.strerror or type(error).__name__)
            return False
        self.succeed()
        return True

    def succeed(self) -> None:
        """The copy is what it should be."""
        self._well = True
        self._tell(True)

    def fail(self, why: str) -> None:
        """The copy is not what it should be."""
        if self._well:
            _log.error("escrow", operation="copy", result="failed", error=why)
        self._well = False
        self._tell(False)

    def read(self, name: str) -> bytes | None:
        """The copy, None if there is none yet. Raises OSError if the folder is not there."""
        self.folder.stat()
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
