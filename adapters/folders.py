"""Folders that settings name by URL, and where they must not lie."""

from pathlib import Path
from urllib.parse import unquote, urlsplit


def folder_of(url: str) -> Path | None:
    """The folder of `file:///path`; None for any other URL."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path:
        return None
    return Path(unquote(parts.path))


def goes_with(folder: Path, database: Path | None) -> bool:
    """Whether whoever copies or replaces the folder of an embedded database takes this one along.
    database: its file, None if a server has it."""
    return database is not None and folder.resolve().is_relative_to(database.resolve().parent)
