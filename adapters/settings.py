"""Every setting, with its unit, default and reason. The only file that reads the environment.

Settings come from `LAPSE_*` environment variables, then from a TOML file (`LAPSE_CONFIG`, or
`lapse.toml` in the working folder), then from the defaults. They are validated as a whole at start.
"""

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from adapters.clock import FileClock, system_clock
from domain.errors import SettingsInvalid


def _xdg(variable: str, fallback: str) -> Path:
    """A base folder of the XDG Base Directory Specification."""
    return Path(os.environ.get(variable) or Path.home() / fallback)


def _default_database() -> str:
    return f"sqlite:///{_xdg('XDG_DATA_HOME', '.local/share') / 'lapse' / 'db' / 'lapse.db'}"


def _default_keys() -> str:
    return (_xdg("XDG_CONFIG_HOME", ".config") / "lapse" / "keys").as_uri()


class Settings(BaseSettings):
    """The settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix="LAPSE_", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    database_url: str = Field(
        default_factory=_default_database,
        description="Where the log and the vault are: sqlite:///path or postgresql://... "
        "The embedded default is one SQLite file below XDG_DATA_HOME.",
    )
    key_url: str = Field(
        default_factory=_default_keys,
        description="Folder of the key files, file:///path. Never below the database's folder: a "
        "copy of that folder would then hold both the sealed data and its keys.",
    )
    policy_file: Path | None = Field(
        default=None,
        description="A TOML file with policies beside the presets; one of the same name replaces "
        "the preset.",
    )
    env: Literal["production", "test"] = Field(
        default="production", description="`test` allows LAPSE_CLOCK."
    )
    clock: str | None = Field(
        default=None,
        description="file:PATH, a file that holds the time (RFC 3339): for tests only.",
    )
    log_level: Literal["debug", "info", "warning", "error"] | None = Field(
        default=None,
        description="Least level of the JSON log on standard error. By default info for `serve` "
        "and `sweep`, warning for commands that answer somebody at a terminal.",
    )
    sweep_batch: int = Field(
        default=1_000,
        ge=1,
        le=10_000,
        description="Sessions per sweep transaction. More is faster and locks longer.",
    )
    pool_size: int = Field(
        default=10,
        ge=2,
        le=200,
        description="Most pooled database connections of one process, of each kind: reading and "
        "writing ones on PostgreSQL.",
    )
    lock_timeout: float = Field(
        default=10.0, gt=0, le=600, description="Seconds a writer waits for another one."
    )

    @field_validator("clock")
    @classmethod
    def _clock_is_a_file(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("file:"):
            raise ValueError("must be file:PATH")
        return value

    @model_validator(mode="after")
    def _clock_only_in_tests(self) -> "Settings":
        if self.clock is not None and self.env != "test":
            raise ValueError("LAPSE_CLOCK is accepted only with LAPSE_ENV=test")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        path = _config_file()
        if path is not None:
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=path))
        return tuple(sources)

    @property
    def key_folder(self) -> Path:
        """The folder behind `key_url`. Raises SettingsInvalid."""
        parts = urlsplit(self.key_url)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path:
            raise SettingsInvalid(
                "LAPSE_KEY_URL: write file:///folder, an absolute path; other key stores are not "
                "part of this version"
            )
        return Path(unquote(parts.path))

    def make_clock(self) -> Callable[[], int]:
        """The clock this process lives by: a function that answers microseconds."""
        if self.clock is None:
            return system_clock
        return FileClock(Path(self.clock.removeprefix("file:")))


def _config_file() -> Path | None:
    named = os.environ.get("LAPSE_CONFIG")
    if named:
        path = Path(named)
        if not path.is_file():
            raise SettingsInvalid("LAPSE_CONFIG names a file that does not exist")
        return path
    path = Path("lapse.toml")
    return path if path.is_file() else None


def load_settings(**given: Any) -> Settings:
    """The settings of this process; `given` ones win. Raises SettingsInvalid, all errors at once.

    The values themselves are never repeated: one of them may be a password.
    """
    known = {key: value for key, value in given.items() if value is not None}
    _refuse_misspelled()
    try:
        return Settings(**known)
    except ValidationError as error:
        problems = [
            f"LAPSE_{'_'.join(str(part) for part in entry['loc']).upper() or 'settings'}: "
            f"{entry['msg']}"
            for entry in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsInvalid("\n".join(problems)) from None


def _refuse_misspelled() -> None:
    """A setting that is almost right would be ignored in silence."""
    known = {f"LAPSE_{name.upper()}" for name in Settings.model_fields} | {"LAPSE_CONFIG"}
    for name in os.environ.keys() - known:
        if name.startswith("LAPSE_") and (near := get_close_matches(name, known, 1, 0.85)):
            raise SettingsInvalid(f"{name} is no setting; did you mean {near[0]}?")


def environment() -> Mapping[str, str]:
    """The variables that policies may name in `environment`."""
    return os.environ
