"""The policies that come with Lapse, one TOML file each; docs/reference/policies.md lists them."""

from importlib.resources import files

from domain.errors import PolicyUnknown

PRESETS: tuple[str, ...] = (
    "biometric-coach",
    "reading-room",
    "video-analysis",
    "therapy-audio",
    "browser-session",
    "web-visit",
)
"""Their names: the file is NAME.toml, the policy in it [policy.NAME]."""


def preset_text(name: str) -> str:
    """The TOML of a preset, for `domain.policy.parse`. Raises PolicyUnknown."""
    if name not in PRESETS:
        raise PolicyUnknown(name, PRESETS)
    return files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
