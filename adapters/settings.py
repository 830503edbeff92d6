"""Every setting, with its unit, default and reason. The only file that reads the environment.

Settings come from `LAPSE_*` environment variables, then from a TOML file (`LAPSE_CONFIG`, or
`lapse.toml` in the working folder), then from the defaults. They are validated as a whole at start.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from adapters.clock import FileClock, system_clock
from adapters.folders import folder_of
from adapters.keyring.keks import TransitKey
from domain.errors import KeyUnavailable, SettingsInvalid
from domain.policy import DAY, MINUTE, SECOND, format_duration, parse_duration

LONGEST_ROTATION = 30 * DAY
LONGEST_WINDOW = 28 * DAY

_TRANSIT_PATH = re.compile(r"/v1/(?P<mount>[\w/.-]+)/keys/(?P<name>[\w.-]+)")


def _xdg(variable: str, fallback: str) -> Path:
    """A base folder of the XDG Base Directory Specification."""
    return Path(os.environ.get(variable) or Path.home() / fallback)


def _default_database() -> str:
    return f"sqlite:///{_xdg('XDG_DATA_HOME', '.local/share') / 'lapse' / 'db' / 'lapse.db'}"


def _config_folder() -> Path:
    return _xdg("XDG_CONFIG_HOME", ".config") / "lapse"


def _default_keys() -> str:
    return (_config_folder() / "keys").as_uri()


# `NoDecode`: what is no JSON is then an error of this setting, listed with those of the others.
_JsonList = Annotated[list[str], NoDecode]


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
        description="Folder of the key files, file:///path, or a key of HashiCorp Vault, "
        "vault+https://host:port/v1/transit/keys/NAME. The folder is never below the database's: a "
        "copy of that folder would then hold both the sealed data and its keys.",
    )
    key_escrow_url: str | None = Field(
        default=None,
        description="Folder for one copy of the key file, file:///path: it must exist, on another "
        "disk or machine. It follows every change; keys are destroyed there first, and as long as "
        "it cannot be written none is. Never below the database's folder, nor in the key folder; "
        "not with Vault. By default none.",
    )
    ledger_url: str | None = Field(
        default=None,
        description="Where the erasure ledger is: a folder, file:///path, or s3://bucket/prefix "
        "for several machines (credentials in the usual AWS_* variables). By default the folder "
        "`ledger` beside the key folder. Never below the database's folder, and never restored "
        "with the database: it tells a restored one what it has forgotten.",
    )
    vault_token: SecretStr | None = Field(
        default=None,
        description="Token for HashiCorp Vault that may use the key.",
    )
    vault_token_file: Path | None = Field(
        default=None,
        description="File with that token; read again when Vault refuses it, as agents renew it.",
    )
    vault_ca_file: Path | None = Field(
        default=None,
        description="Certificate authorities (PEM) that Vault's certificate must come from; by "
        "default those of the machine.",
    )
    key_rotation: str = Field(
        default="24h",
        description="Age at which the key-encryption key is replaced, 1m to 30d.",
    )
    restore_window: str = Field(
        default="7d",
        description="How long a replaced key-encryption key is kept, 1m to 28d: the age of the "
        "oldest backup of the database that can be restored. Then it is destroyed.",
    )
    evidence_url: str | None = Field(
        default=None,
        description="Where checkpoints and certificates are kept outside the database: a folder, "
        "file:///path, or an object store, s3://bucket/prefix. Never below the database's folder. "
        "By default nowhere, and then an older state of the whole database goes unnoticed.",
    )
    checkpoint_every: str = Field(
        default="1m",
        description="How often a log that grew is signed, 1s to 1d.",
    )
    witnesses: _JsonList = Field(
        default_factory=list,
        description="Witnesses that cosign checkpoints (C2SP tlog-witness), as a JSON list of "
        "`VERIFIER-KEY URL`; by default none.",
    )
    physical_cleanup: str = Field(
        default="15m",
        description="How long after one physical clean-up of the database the next may begin, 1m "
        "to 30d. It runs if something was erased since; an erasure is verified after it.",
    )
    copy_term: str = Field(
        default="7d",
        description="How long a copy that somebody asked for (GDPR Art. 15) waits at most, 1m to "
        "30d.",
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

    http_body: int = Field(
        default=2_000_000,
        ge=1_000,
        le=100_000_000,
        description="Most bytes of a request's body over HTTP.",
    )
    upload_memory: int = Field(
        default=64_000_000,
        ge=8_000_000,
        le=10**11,
        description="Most bytes of stored content on its way through one process; one session may "
        "use a quarter. Who comes beyond is asked to come again.",
    )
    storage_budget: int | None = Field(
        default=None,
        ge=1_000_000,
        description="Bytes that all sessions together should store at most. Above "
        "`emergency_share` of it the oldest are erased, see docs/how-to/store-data.md.",
    )
    memory_budget: int | None = Field(
        default=None,
        ge=50_000_000,
        description="Bytes of memory that one `lapse serve` should use at most; above "
        "`emergency_share` of it no more content is taken.",
    )
    emergency_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Share of a budget above which an emergency begins.",
    )
    rate_limit: str | None = Field(
        default="2000/second",
        pattern=r"^[1-9][0-9]{0,8}/(second|minute|hour)$",
        description="Requests of one actor at one instance, such as 2000/second.",
    )
    cors_origins: _JsonList = Field(
        default_factory=list,
        description="Origins whose pages may call the HTTP API, as a JSON list; by default none.",
    )
    pages: bool = Field(
        default=True,
        description="Serve the description of the API at /docs and the browser client at "
        "/static/lapse.js, both without a token. They hold no data.",
    )
    examples: bool = Field(
        default=False,
        description="Serve the example pages at /examples/: for trying out, not for production. "
        "They need LAPSE_PAGES too.",
    )
    jwks_url: str | None = Field(
        default=None,
        description="Key set (RFC 7517) of the identity provider whose tokens are accepted.",
    )
    jwt_issuer: str | None = Field(
        default=None, description="`iss` of the identity provider's tokens."
    )
    jwt_audience: str | None = Field(
        default=None, description="`aud` of the identity provider's tokens for Lapse."
    )

    @field_validator("clock")
    @classmethod
    def _clock_is_a_file(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("file:"):
            raise ValueError("must be file:PATH")
        return value

    @field_validator("witnesses", "cors_origins", mode="before")
    @classmethod
    def _is_a_json_list(cls, value: Any) -> Any:
        """A variable holds text; a list comes from the settings file."""
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list):
            raise ValueError('write a JSON list of texts, such as ["one", "two"]')
        return found

    @model_validator(mode="after")
    def _provider_is_whole(self) -> "Settings":
        named = [self.jwks_url, self.jwt_issuer, self.jwt_audience]
        if any(named) and not all(named):
            raise ValueError("LAPSE_JWKS_URL, LAPSE_JWT_ISSUER, LAPSE_JWT_AUDIENCE go together")
        return self

    @model_validator(mode="after")
    def _examples_have_the_client(self) -> "Settings":
        if self.examples and not self.pages:
            raise ValueError("LAPSE_EXAMPLES=true needs LAPSE_PAGES=true: they load the client")
        return self

    @model_validator(mode="after")
    def _bodies_fit(self) -> "Settings":
        if self.http_body > self.upload_memory // 4:
            raise ValueError("LAPSE_HTTP_BODY must be at most a quarter of LAPSE_UPLOAD_MEMORY")
        return self

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

    @field_validator("key_rotation", "restore_window", "physical_cleanup", "copy_term")
    @classmethod
    def _is_a_term(cls, value: str, checked: ValidationInfo) -> str:
        longest = LONGEST_WINDOW if checked.field_name == "restore_window" else LONGEST_ROTATION
        if not MINUTE <= parse_duration(value) <= longest:
            raise ValueError(f"must be from 1m to {format_duration(longest)}")
        return value

    @field_validator("checkpoint_every")
    @classmethod
    def _is_a_pace(cls, value: str) -> str:
        if not SECOND <= parse_duration(value) <= DAY:
            raise ValueError("must be from 1s to 1d")
        return value

    @property
    def key_store(self) -> Path | TransitKey:
        """What is behind `key_url`: a folder, or a key of Vault. Raises SettingsInvalid."""
        parts = urlsplit(self.key_url)
        if parts.scheme == "vault+https":
            return self._transit_key(parts)
        folder = folder_of(self.key_url)
        if folder is None:
            raise SettingsInvalid(
                "LAPSE_KEY_URL: write file:///folder, an absolute path, or "
                "vault+https://host:port/v1/transit/keys/NAME"
            )
        return folder

    @property
    def key_escrow(self) -> Path | None:
        """The folder behind `key_escrow_url`. Raises SettingsInvalid."""
        if self.key_escrow_url is None:
            return None
        keys = self.key_store
        if not isinstance(keys, Path):
            raise SettingsInvalid(
                "LAPSE_KEY_ESCROW_URL is for a key file, and LAPSE_KEY_URL names Vault: its keys "
                "never leave it, so back up Vault itself, and leave this unset"
            )
        folder = folder_of(self.key_escrow_url)
        if folder is None:
            raise SettingsInvalid("LAPSE_KEY_ESCROW_URL: write file:///folder, an absolute path")
        if folder.resolve().is_relative_to(keys.resolve()):
            raise SettingsInvalid(
                "LAPSE_KEY_ESCROW_URL names the key folder, or one in it: what takes one copy "
                "takes the other, so name a folder on another disk or machine"
            )
        return folder

    @property
    def ledger(self) -> str:
        """`ledger_url`, or its default."""
        if self.ledger_url is not None:
            return self.ledger_url
        keys = self.key_store
        folder = keys if isinstance(keys, Path) else _config_folder() / "keys"
        return (folder.absolute().parent / "ledger").as_uri()

    @property
    def key_folder(self) -> Path:
        """The folder behind `key_url`. Raises SettingsInvalid if it is none."""
        store = self.key_store
        if not isinstance(store, Path):
            raise SettingsInvalid("LAPSE_KEY_URL: this needs a key folder, file:///path")
        return store

    def _transit_key(self, parts: SplitResult) -> TransitKey:
        path = _TRANSIT_PATH.fullmatch(unquote(parts.path))
        if path is None or not parts.hostname or "@" in parts.netloc or parts.query:
            raise SettingsInvalid(
                "LAPSE_KEY_URL: write vault+https://host:port/v1/transit/keys/NAME, with the mount "
                "of the Transit engine in the place of `transit`; the token goes into "
                "LAPSE_VAULT_TOKEN or LAPSE_VAULT_TOKEN_FILE"
            )
        if (self.vault_token is None) == (self.vault_token_file is None):
            raise SettingsInvalid(
                "LAPSE_KEY_URL names Vault: set one of LAPSE_VAULT_TOKEN, LAPSE_VAULT_TOKEN_FILE"
            )
        return TransitKey(
            address=f"https://{parts.netloc}",
            mount=path["mount"],
            name=path["name"],
            token=self._vault_token,
            ca_file=self.vault_ca_file,
        )

    def _vault_token(self) -> str:
        """Raises KeyUnavailable."""
        if self.vault_token is not None:
            return self.vault_token.get_secret_value()
        try:
            return Path(self.vault_token_file or "").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise KeyUnavailable("the file of LAPSE_VAULT_TOKEN_FILE cannot be read") from None

    def make_clock(self) -> Callable[[], int]:
        """The clock this process lives by: a function that answers microseconds."""
        if self.clock is None:
            return system_clock
        return FileClock(Path(self.clock.removeprefix("file:")))


def _config_file() -> Path | None:
    named = os.environ.get("LAPSE_CONFIG")
    if named:
        path = Path(named)
        try:
            is_file = path.is_file()
        except OSError as error:
            raise SettingsInvalid(f"LAPSE_CONFIG: it cannot be read ({error.strerror})") from None
        if not is_file:
            raise SettingsInvalid("LAPSE_CONFIG names a file that does not exist")
        return path
    path = Path("lapse.toml")
    return path if path.is_file() else None


def _name_of_file() -> str:
    """How errors call the settings file: its own name may name people."""
    return "LAPSE_CONFIG" if os.environ.get("LAPSE_CONFIG") else "lapse.toml"


_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")


def _keys_of_file() -> frozenset[str]:
    """The keys in the settings file. Raises SettingsInvalid if it is no TOML or cannot be read."""
    path, name = _config_file(), _name_of_file()
    if path is None:
        return frozenset()
    try:
        return frozenset(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        text = str(error)
        place = _PLACE.search(text)
        where = f"line {place[1]}" if place else "at the end"
        raise SettingsInvalid(f"{name}: {where}: {_PLACE.sub('', text)}") from None
    except UnicodeDecodeError:
        raise SettingsInvalid(f"{name}: it is not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise SettingsInvalid(f"{name}: a number of too many digits, or too deep a list") from None
    except OSError as error:
        raise SettingsInvalid(f"{name}: it cannot be read ({error.strerror})") from None


def load_settings(**given: Any) -> Settings:
    """The settings of this process; `given` ones win. Raises SettingsInvalid, all errors at once.

    The values themselves are never repeated: one of them may be a password.
    """
    known = {key: value for key, value in given.items() if value is not None}
    _refuse_misspelled()
    of_file = _keys_of_file() - known.keys()
    try:
        return Settings(**known)
    except ValidationError as error:
        problems = [
            _problem(entry["loc"], entry["type"], entry["msg"], of_file)
            for entry in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsInvalid("\n".join(problems)) from None


def _problem(loc: tuple[int | str, ...], kind: str, text: str, of_file: frozenset[str]) -> str:
    """One error on one line, with the variable or the key of the file that it is about."""
    text = text.removeprefix("Value error, ")
    if not loc:
        return text  # it names the settings itself
    key = str(loc[0])
    if kind == "extra_forbidden":
        text = "is no setting"
        if near := get_close_matches(key, Settings.model_fields, 1, 0.6):
            text += f"; did you mean {near[0]}?"
    variable = f"LAPSE_{key.upper()}"
    if key in of_file and variable not in os.environ:
        return f"{_name_of_file()}: {key}: {text}"
    return f"{variable}: {text}"


def _refuse_misspelled() -> None:
    """A setting that is almost right would be ignored in silence."""
    known = {f"LAPSE_{name.upper()}" for name in Settings.model_fields} | {"LAPSE_CONFIG"}
    for name in os.environ.keys() - known:
        if name.startswith("LAPSE_") and (near := get_close_matches(name, known, 1, 0.85)):
            raise SettingsInvalid(f"{name} is no setting; did you mean {near[0]}?")


def environment() -> Mapping[str, str]:
    """The variables that policies may name in `environment`."""
    return os.environ
