"""Settings: from the environment, then a file, then defaults; refused with name and reason."""

from pathlib import Path

import pytest

from adapters.settings import Settings, load_settings
from domain.errors import SettingsInvalid


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One order for everything."""
    file = tmp_path / "settings.toml"
    file.write_text("sweep_batch = 7\npool_size = 5\n")
    monkeypatch.setenv("LAPSE_CONFIG", str(file))
    monkeypatch.setenv("LAPSE_SWEEP_BATCH", "9")
    settings = load_settings()
    assert (settings.sweep_batch, settings.pool_size, settings.lock_timeout) == (9, 5, 10.0)


def test_all_errors_are_told_at_once_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value may be a password."""
    monkeypatch.setenv("LAPSE_SWEEP_BATCH", "hunter2")
    monkeypatch.setenv("LAPSE_POOL_SIZE", "0")
    with pytest.raises(SettingsInvalid) as refusal:
        load_settings()
    told = str(refusal.value)
    assert "LAPSE_SWEEP_BATCH" in told
    assert "LAPSE_POOL_SIZE" in told
    assert "hunter2" not in told


def test_a_misspelled_setting_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignored in silence it would be a promise broken in silence."""
    monkeypatch.setenv("LAPSE_DATABASE_ULR", "sqlite:///x")
    with pytest.raises(SettingsInvalid) as refusal:
        load_settings()
    assert "LAPSE_DATABASE_URL" in str(refusal.value)


def test_a_clock_from_a_file_is_for_tests_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Production lives by the clock of the machine."""
    clock = tmp_path / "now"
    clock.write_text("2026-01-02T03:04:05Z\n")
    monkeypatch.setenv("LAPSE_CLOCK", f"file:{clock}")
    with pytest.raises(SettingsInvalid):
        load_settings()
    monkeypatch.setenv("LAPSE_ENV", "test")
    read = load_settings().make_clock()
    assert read() == 1_767_323_045_000_000
    clock.write_text("soon")
    with pytest.raises(SettingsInvalid):
        read()


@pytest.mark.parametrize("url", ["https://keys", "file://host/keys", "keys", "file:"])
def test_a_key_url_is_an_absolute_folder(url: str) -> None:
    """Other key stores are not part of this version, and say so."""
    with pytest.raises(SettingsInvalid):
        _ = load_settings(key_url=url).key_folder


@pytest.mark.parametrize(
    "url", ["s3://bucket", "escrow", "file:", "file:///etc/lapse/keys", "file:///etc/lapse/keys/in"]
)
def test_an_escrow_is_another_folder(url: str) -> None:
    """In the key folder it would be lost with the key file."""
    settings = load_settings(key_url="file:///etc/lapse/keys", key_escrow_url=url)
    with pytest.raises(SettingsInvalid, match="LAPSE_KEY_ESCROW_URL"):
        _ = settings.key_escrow


def test_an_escrow_is_for_a_key_file() -> None:
    """What is in Vault is backed up with Vault."""
    key_url = "vault+https://vault.example.org:8200/v1/transit/keys/lapse"
    settings = load_settings(
        key_url=key_url, vault_token_file=Path("token"), key_escrow_url="file:///mnt/escrow/lapse"
    )
    with pytest.raises(SettingsInvalid, match="back up Vault"):
        _ = settings.key_escrow


def test_the_defaults_keep_keys_and_database_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the database's folder never holds the keys."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings()
    database = Path(settings.database_url.removeprefix("sqlite:///"))
    assert not settings.key_folder.is_relative_to(database.parent)


def test_every_setting_says_what_it_is_for() -> None:
    """Unit, default and reason stand with the field."""
    assert all(field.description for field in Settings.model_fields.values())
