"""Files that commands write whole or not at all."""

from pathlib import Path

from domain.errors import SettingsInvalid


def partial(out: Path) -> Path:
    """Where a file is written first, so that nobody reads half of it. Raises SettingsInvalid."""
    if not out.name:
        raise SettingsInvalid("--out names a folder: name a file")
    return out.with_name(f"{out.name}.partial")
