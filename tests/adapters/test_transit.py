"""Vault Transit as a provider of key-encryption keys: what can go wrong between us and it."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stamina
from httpx2 import Client

from adapters.keyring.keks import TransitKey, WrappedKey
from adapters.keyring.keyring import KEPT_SECONDS, STOCK_SECONDS, Keyring
from adapters.keyring.transit import READ_AGAIN, TransitKeks
from adapters.settings import load_settings
from domain.errors import KeyUnavailable, SettingsInvalid
from tests.contracts.authors import TEN
from tests.contracts.key_stores import transit_key
from tests.contracts.stores import Wall
from tests.transit import NAME, TOKEN, FakeTransit, fake_transit

STORE = "0123456789abcdef"


class Remembered:
    """Retirements in memory."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}

    def read(self) -> Mapping[str, int]:
        return self.at

    def note(self, keks: Collection[str], now: int) -> None:
        self.at.update(dict.fromkeys(keks, now))

    def forget(self, keks: Collection[str]) -> None:
        for kek in keks:
            self.at.pop(kek, None)


class Uptime:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """Every retry comes at once."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[FakeTransit]:
    wall = Wall()
    wall.now = TEN
    with fake_transit(tmp_path, wall) as running:
        yield running


@pytest.fixture
def uptime() -> Uptime:
    return Uptime()


@pytest.fixture
def keks(vault: FakeTransit, uptime: Uptime) -> Iterator[TransitKeks]:
    with closing(TransitKeks(transit_key(vault), STORE, Remembered(), uptime)) as opened:
        opened.create()
        yield opened


def opened(keks: TransitKeks, one: WrappedKey) -> bytes:
    (key,) = keks.unwrap([one])
    return bytes(key)


# -- what is asked ----------------------------------------------------------------------------


def test_a_key_is_made_once(vault: FakeTransit, keks: TransitKeks) -> None:
    """One that is there is used as it is; it cannot be exported."""
    before = vault.keys[NAME].versions
    keks.create()
    assert vault.keys[NAME].versions is before


def test_a_rotation_never_sees_a_key_in_clear(vault: FakeTransit, keks: TransitKeks) -> None:
    """Vault rewraps by itself."""
    wrapped = keks.wrap([(b"place", b"k" * 32)])
    keks.rotate(TEN)
    vault.asked.clear()
    (moved,) = keks.rewrap(wrapped)
    assert vault.asked == ["rewrap"]
    assert moved is not None
    assert opened(keks, moved) == b"k" * 32


def test_vault_cannot_rewrap_what_has_associated_data(
    vault: FakeTransit, keks: TransitKeks
) -> None:
    """Why the place is bound inside: this is what Vault does, and the fake with it."""
    key, more = {"plaintext": "AAAA"}, {"associated_data": "AAAA"}
    with Client(verify=False, headers={"X-Vault-Token": TOKEN}) as client:

        def ask(what: str, item: dict[str, str]) -> Any:
            url = f"{vault.url}/v1/transit/{what}/{NAME}"
            return client.post(url, json={"batch_input": [item]}).json()["data"]["batch_results"][0]

        sealed = {"ciphertext": ask("encrypt", key | more)["ciphertext"]}
        assert ask("decrypt", sealed | more) == key
        assert "error" in ask("decrypt", sealed)
        assert "error" in ask("rewrap", sealed | more)


def test_versions_are_destroyed_from_the_oldest_on(vault: FakeTransit, keks: TransitKeks) -> None:
    """`trim` knows a floor only: one that is over waits for those before it."""
    for _ in range(3):
        keks.rotate(TEN)
    assert list(keks.destroy(["vault:v2"])) == []
    assert set(vault.keys[NAME].versions) == {1, 2, 3, 4}
    assert list(keks.destroy(["vault:v1", "vault:v2"])) == ["vault:v1", "vault:v2"]
    assert set(vault.keys[NAME].versions) == {3, 4}
    assert vault.keys[NAME].min_decryption_version == 3
    assert vault.keys[NAME].min_available_version == 3


def test_a_version_below_the_floor_is_not_there(vault: FakeTransit, keks: TransitKeks) -> None:
    """An operator raised `min_decryption_version` by hand: what is under older ones is refused by
    name, before Vault is asked to open it."""
    (old,) = keks.wrap([(b"place", b"k" * 32)])
    keks.rotate(TEN)
    vault.keys[NAME].min_decryption_version = 2
    keks.rotate(TEN)
    vault.asked.clear()
    with pytest.raises(KeyUnavailable, match="vault:v1"):
        keks.unwrap([old])
    assert "decrypt" not in vault.asked
    assert keks.rewrap([old]) == [None]


def test_a_version_that_vault_made_by_itself_is_the_current_one(
    vault: FakeTransit, keks: TransitKeks, uptime: Uptime
) -> None:
    """Its own `auto_rotate_period`, or an operator."""
    assert keks.keks()[-1].id == "vault:v1"
    with closing(TransitKeks(transit_key(vault), STORE, Remembered())) as other:
        other.rotate(TEN)
    uptime.now += READ_AGAIN
    assert keks.keks()[-1].id == "vault:v2"


def test_vault_is_not_asked_for_every_read(
    vault: FakeTransit, keks: TransitKeks, uptime: Uptime
) -> None:
    """A subject's key is kept for half a minute, and no longer."""
    keyring = Keyring(keks, b"secret" * 6, uptime)
    subject = keyring.new_subject(b"lookup")
    sealed, wrapped = keyring.seal_identity(subject, "session", "token", "ada")
    keyring.forget()
    vault.asked.clear()
    for _ in range(50):
        keyring.open_identity(subject, "session", "token", wrapped, sealed)
    assert vault.asked.count("decrypt") == 1
    uptime.now += KEPT_SECONDS
    keyring.open_identity(subject, "session", "token", wrapped, sealed)
    assert vault.asked.count("decrypt") == 2
    keyring.forget_subjects([subject.subject])
    keyring.open_identity(subject, "session", "token", wrapped, sealed)
    assert vault.asked.count("decrypt") == 3


def test_a_crowd_of_new_people_is_a_few_questions(
    vault: FakeTransit, keks: TransitKeks, uptime: Uptime
) -> None:
    """Keys are wrapped some in advance, more the more come; what is left over is soon dropped."""
    keyring = Keyring(keks, b"secret" * 6, uptime)
    keyring.new_subject(b"one alone")
    vault.asked.clear()
    people = [keyring.new_subject(b"%d" % number) for number in range(1_000)]
    assert len({one.subject for one in people}) == len({one.wrapped for one in people}) == 1_000
    assert vault.asked.count("encrypt") < 15
    keks.rotate(TEN)
    uptime.now += STOCK_SECONDS
    assert keyring.new_subject(b"later").kek == "vault:v2"


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [412, 429, 500, 502, 503])
def test_a_vault_that_is_busy_is_asked_again(
    vault: FakeTransit, keks: TransitKeks, status: int
) -> None:
    """Sealed for a moment, failing over, or too many requests."""
    vault.faults.extend([status] * 3)
    (one,) = keks.wrap([(b"place", b"k" * 32)])
    assert opened(keks, one) == b"k" * 32


def test_a_vault_that_stays_away_is_said(vault: FakeTransit, keks: TransitKeks) -> None:
    """After a bounded number of attempts, with the status."""
    vault.faults.extend([503] * 4)
    with pytest.raises(KeyUnavailable, match="503"):
        keks.wrap([(b"place", b"k" * 32)])


def test_a_rotation_is_not_asked_for_twice(vault: FakeTransit, keks: TransitKeks) -> None:
    """Its answer may have been lost only: the next run finds the new version."""
    vault.faults.append(503)
    vault.asked.clear()
    with pytest.raises(KeyUnavailable):
        keks.rotate(TEN)
    assert vault.asked == ["rotate"]


def test_a_vault_that_is_not_there_is_said(keks: TransitKeks, tmp_path: Path) -> None:
    """The connection is refused."""
    with fake_transit(tmp_path, Wall()) as gone:
        key = transit_key(gone)
    with (
        closing(TransitKeks(key, STORE, Remembered())) as away,
        pytest.raises(KeyUnavailable, match="cannot be reached"),
    ):
        away.keks()


@pytest.mark.parametrize("status", [400, 405, 418])
def test_a_request_that_is_refused_is_not_repeated(
    vault: FakeTransit, keks: TransitKeks, status: int
) -> None:
    """It would be refused again."""
    vault.faults.append(status)
    vault.asked.clear()
    with pytest.raises(KeyUnavailable, match=str(status)):
        keks.wrap([(b"place", b"k" * 32)])
    assert vault.asked == ["encrypt"]


def test_a_token_that_was_renewed_is_read_again(vault: FakeTransit) -> None:
    """An agent writes the new one into the file."""
    tokens = iter([TOKEN, "renewed"])
    key = transit_key(vault, lambda: next(tokens))
    with closing(TransitKeks(key, STORE, Remembered())) as keks:
        keks.create()
        vault.token = "renewed"  # noqa: S105
        assert keks.wrap([(b"place", b"k" * 32)])


def test_a_refused_token_is_said_and_never_shown(vault: FakeTransit) -> None:
    """Nor is what Vault said about it."""
    key = transit_key(vault, lambda: "hvs.wrong-token")
    with (
        closing(TransitKeks(key, STORE, Remembered())) as keks,
        pytest.raises(KeyUnavailable, match="LAPSE_VAULT_TOKEN") as refused,
    ):
        keks.keks()
    told = f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"
    assert "hvs.wrong-token" not in told
    assert "permission denied" not in told


def test_a_key_that_is_not_there_is_said(vault: FakeTransit) -> None:
    """The name in LAPSE_KEY_URL is another one."""
    key = replace(transit_key(vault), name="another")
    with (
        closing(TransitKeks(key, STORE, Remembered())) as keks,
        pytest.raises(KeyUnavailable, match="LAPSE_KEY_URL"),
    ):
        keks.keks()


@pytest.mark.parametrize(
    "answer", [None, [], {"keys": None}, {"keys": {"one": "two"}}, {"batch_results": []}]
)
def test_something_else_that_answers_is_no_vault(
    vault: FakeTransit, keks: TransitKeks, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy, or another service at that address."""
    monkeypatch.setattr(vault, "answer", lambda *_: answer if answer is not None else {})
    keks.look_again()
    for attempt in (keks.keks, lambda: keks.wrap([(b"place", b"k" * 32)])):
        with pytest.raises(KeyUnavailable):
            attempt()


def test_a_vault_with_another_certificate_is_not_asked(vault: FakeTransit) -> None:
    """Without LAPSE_VAULT_CA_FILE the authorities of the machine count, and none knows this one."""
    key = replace(transit_key(vault), ca_file=None)
    with closing(TransitKeks(key, STORE, Remembered())) as keks, pytest.raises(KeyUnavailable):
        keks.keks()
    assert vault.asked == []


def test_certificates_that_cannot_be_read_are_said(vault: FakeTransit, tmp_path: Path) -> None:
    """Before anything is asked."""
    (tmp_path / "no.pem").write_text("no certificate")
    for name in ("no.pem", "nowhere.pem"):
        with pytest.raises(KeyUnavailable, match="LAPSE_VAULT_CA_FILE"):
            TransitKeks(replace(transit_key(vault), ca_file=tmp_path / name), STORE, Remembered())


# -- settings ---------------------------------------------------------------------------------

URL = "vault+https://vault.example.org:8200/v1/transit/keys/lapse"


def test_settings_name_a_key_of_vault(tmp_path: Path) -> None:
    """Address, mount, name; the token from a variable or from a file that is read when needed."""
    key = load_settings(key_url=URL, vault_token="hvs.secret").key_store  # noqa: S106
    assert isinstance(key, TransitKey)
    assert (key.address, key.mount, key.name) == (
        "https://vault.example.org:8200",
        "transit",
        "lapse",
    )
    assert key.token() == "hvs.secret"
    file = tmp_path / "token"
    url = "vault+https://vault.example.org/v1/team/a/transit/keys/lapse.prod"
    key = load_settings(key_url=url, vault_token_file=file).key_store
    assert isinstance(key, TransitKey)
    assert (key.mount, key.name) == ("team/a/transit", "lapse.prod")
    with pytest.raises(KeyUnavailable, match="LAPSE_VAULT_TOKEN_FILE"):
        key.token()
    file.write_text("hvs.secret\n")
    assert key.token() == "hvs.secret"


@pytest.mark.parametrize(
    "url",
    [
        "vault+http://vault.example.org/v1/transit/keys/lapse",
        "vault+https://vault.example.org/transit/keys/lapse",
        "vault+https://vault.example.org/v1/transit/encrypt/lapse",
        "vault+https://vault.example.org/v1/transit/keys/",
        "vault+https:///v1/transit/keys/lapse",
        "vault+https://hvs.secret@vault.example.org/v1/transit/keys/lapse",
        "vault+https://vault.example.org/v1/transit/keys/lapse?token=hvs.secret",
    ],
)
def test_another_address_of_vault_is_refused(url: str) -> None:
    """Without repeating it: somebody may have written the token into it."""
    with pytest.raises(SettingsInvalid, match="LAPSE_KEY_URL") as refused:
        _ = load_settings(key_url=url, vault_token="t").key_store  # noqa: S106
    assert "hvs.secret" not in str(refused.value)


@pytest.mark.parametrize("more", [{}, {"vault_token": "t", "vault_token_file": "f"}])
def test_vault_needs_one_token(more: dict[str, str]) -> None:
    """Neither none nor two."""
    with pytest.raises(SettingsInvalid, match="LAPSE_VAULT_TOKEN"):
        _ = load_settings(key_url=URL, **more).key_store


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key_rotation", "31d"),
        ("key_rotation", "1s"),
        ("restore_window", "29d"),
        ("restore_window", "soon"),
    ],
)
def test_terms_of_keys_are_bounded(name: str, value: str) -> None:
    """A key that is never destroyed would make no erasure final."""
    with pytest.raises(SettingsInvalid, match=f"LAPSE_{name.upper()}"):
        load_settings(**{name: value})


def test_the_token_is_not_shown_with_the_settings() -> None:
    """Whoever prints them."""
    settings = load_settings(key_url=URL, vault_token="hvs.secret")  # noqa: S106
    assert "hvs.secret" not in f"{settings!r} {settings} {settings.key_store!r}"
