"""The policies that ship with Lapse, one TOML file each."""

from importlib.resources import files

PRESETS = (
    "biometric-coach",
    "reading-room",
    "video-analysis",
    "therapy-audio",
    "browser-session",
    "web-visit",
)


def preset_text(name: str) -> str:
    """The TOML text of a preset."""
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
