"""The contract of the keyring, on every implementation, and what the one with keys must refuse."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.keyring.file_keyring import (
    FileKeyring,
    create_key_file,
    discard_key_file,
    read_key_file,
)
from adapters.keyring.opening import open_keyring
from adapters.keyring.plain import PlainKeyring
from domain.errors import KeyUnavailable, SealBroken
from domain.ports import Keyring, SubjectKey
from tests.contracts.authors import at_once
from tests.contracts.stores import SqlStore

STORE = "0123456789abcdef"
NOW = 1_000_000_000
ADA = "ada.lovelace@example.org"


@pytest.fixture(params=["file", "plain"])
def keyring(request: pytest.FixtureRequest, tmp_path: Path) -> Keyring:
    if request.param == "plain":
        return PlainKeyring()
    return FileKeyring(create_key_file(tmp_path / "keys", STORE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def file_keyring(folder: Path) -> FileKeyring:
    return FileKeyring(create_key_file(folder, STORE))


# -- every keyring ----------------------------------------------------------------------------


def test_a_name_is_found_again(keyring: Keyring) -> None:
    """The same name has the same lookup, and every use of it another one."""
    lookup = keyring.lookup("subject", ADA)
    assert keyring.lookup("subject", ADA) == lookup
    others = [
        keyring.lookup("alias", ADA),
        keyring.lookup("subject", ADA + " "),
        keyring.lookup("subject", ""),
        keyring.lookup("subject", ADA.upper()),
    ]
    assert len({lookup, *others}) == 5
    # Ids of sessions are made of the first half.
    assert len({one[:16] for one in (lookup, *others)}) == 5


def test_any_name_of_a_log_can_be_looked_up(keyring: Keyring) -> None:
    """Also one that is no valid text, as hostile lines have it."""
    names = ["", "\0", "中文", "\udcff\udcfe", "a" * 70_000, "emoji 🙂"]
    assert len({keyring.lookup("subject", name) for name in names}) == len(names)


def test_tokens_do_not_repeat(keyring: Keyring) -> None:
    """128 bits in hexadecimal, since they stand in ids and events."""
    tokens = {keyring.token() for _ in range(1_000)}
    assert len(tokens) == 1_000
    assert {len(token) for token in tokens} == {32}
    assert all(set(token) <= set("0123456789abcdef") for token in tokens)


def test_a_new_subject_is_nobody_else(keyring: Keyring) -> None:
    """Each has an id of its own, even under the same lookup: the vault decides which stands."""
    lookup = keyring.lookup("subject", ADA)
    first, second = keyring.new_subject(lookup), keyring.new_subject(lookup)
    assert first.lookup == second.lookup == lookup
    assert first.subject != second.subject
    assert first.fresh


# -- a keyring with keys ----------------------------------------------------------------------


@pytest.mark.parametrize("who", [ADA, "", "\udcff", "中文", "x" * 70_000])
def test_an_identity_comes_back(file_keyring: FileKeyring, who: str) -> None:
    """Sealed under the subject's key for one session and token; the bytes show nothing of it."""
    subject = file_keyring.new_subject(file_keyring.lookup("subject", who))
    sealed, wrapped = file_keyring.seal_identity(subject, "session", "token", who)
    read = replace(subject, fresh=False)
    assert file_keyring.open_identity(read, "session", "token", wrapped, sealed) == who
    if len(who) > 4:
        assert who.encode() not in sealed + wrapped + subject.wrapped + subject.lookup


def test_every_sealing_is_under_a_key_of_its_own(file_keyring: FileKeyring) -> None:
    """The same identity twice leaves nothing in common."""
    subject = file_keyring.new_subject(file_keyring.lookup("subject", ADA))
    values = [
        value
        for _ in range(50)
        for value in file_keyring.seal_identity(subject, "session", "token", ADA)
    ]
    assert len({value[:12] for value in values}) == 100
    sealed, _ = values[:2]
    with pytest.raises(SealBroken):  # the data key of another sealing
        file_keyring.open_identity(subject, "session", "token", values[3], sealed)


Sealed = dict[str, Any]


def moved(**place: str) -> Callable[[Sealed], Sealed]:
    return lambda sealed: sealed | place


def flipped(what: str, byte: int) -> Callable[[Sealed], Sealed]:
    def change(sealed: Sealed) -> Sealed:
        value = bytearray(sealed[what])
        value[byte] ^= 1
        return sealed | {what: bytes(value)}

    return change


def subject_with(**fields: object) -> Callable[[Sealed], Sealed]:
    return lambda sealed: sealed | {"subject": replace(sealed["subject"], **fields)}


def cut(what: str, length: int) -> Callable[[Sealed], Sealed]:
    return lambda sealed: sealed | {what: sealed[what][:length]}


CHANGES = {
    "to another session": moved(session_id="another"),
    "to another token": moved(token="another"),  # noqa: S106 - no password
    "to another subject": subject_with(subject="another"),
    "a bit of the nonce": flipped("sealed", 0),
    "a bit of the text": flipped("sealed", 12),
    "a bit of the tag": flipped("sealed", -1),
    "a bit of the wrapped key": flipped("wrapped", 20),
    "cut off": cut("sealed", 20),
    "cut off in the nonce": cut("wrapped", 5),
    "emptied": cut("sealed", 0),
    "another subject key": subject_with(wrapped=b"x" * 60),
    "no subject key": subject_with(wrapped=b""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_or_moved_does_not_open(file_keyring: FileKeyring, change: str) -> None:
    """And the error says nothing of who it was."""
    subject = file_keyring.new_subject(file_keyring.lookup("subject", ADA))
    sealed, wrapped = file_keyring.seal_identity(subject, "session", "token", ADA)
    whole: Sealed = {
        "subject": subject,
        "session_id": "session",
        "token": "token",
        "wrapped": wrapped,
        "sealed": sealed,
    }
    assert file_keyring.open_identity(**whole) == ADA
    with pytest.raises(SealBroken) as refused:
        file_keyring.open_identity(**CHANGES[change](whole))
    assert ADA not in str(refused.value)


def test_the_key_of_one_subject_opens_nothing_of_another(file_keyring: FileKeyring) -> None:
    """Whoever swaps two people's keys in the database gets neither."""
    ada, bob = (
        file_keyring.new_subject(file_keyring.lookup("subject", name)) for name in (ADA, "bob")
    )
    sealed, wrapped = file_keyring.seal_identity(ada, "session", "token", ADA)
    for wrong in (bob, replace(bob, subject=ada.subject), replace(ada, wrapped=bob.wrapped)):
        with pytest.raises(SealBroken):
            file_keyring.open_identity(wrong, "session", "token", wrapped, sealed)


def test_an_unknown_kek_is_said_by_name(file_keyring: FileKeyring) -> None:
    """A row of a newer key store: nothing is broken, a key is missing."""
    subject = replace(file_keyring.new_subject(b"lookup"), kek="ffff")
    for attempt in (
        lambda: file_keyring.seal_identity(subject, "session", "token", ADA),
        lambda: file_keyring.open_identity(subject, "session", "token", b"", b""),
    ):
        with pytest.raises(KeyUnavailable, match="ffff"):
            attempt()


def test_another_store_finds_and_opens_nothing(folder: Path, file_keyring: FileKeyring) -> None:
    """Lookups and keys belong to one database."""
    other = FileKeyring(create_key_file(folder, "another"))
    assert other.lookup("subject", ADA) != file_keyring.lookup("subject", ADA)
    subject = file_keyring.new_subject(b"lookup")
    sealed, wrapped = file_keyring.seal_identity(subject, "session", "token", ADA)
    with pytest.raises(KeyUnavailable):
        other.open_identity(subject, "session", "token", wrapped, sealed)


def test_a_kept_key_file_opens_what_was_sealed(folder: Path, file_keyring: FileKeyring) -> None:
    """After a restart all is as it was."""
    subject = file_keyring.new_subject(file_keyring.lookup("subject", ADA))
    sealed, wrapped = file_keyring.seal_identity(subject, "session", "token", ADA)
    again = FileKeyring(read_key_file(folder, STORE))
    assert again.lookup("subject", ADA) == subject.lookup
    assert again.open_identity(subject, "session", "token", wrapped, sealed) == ADA


# -- the key file -----------------------------------------------------------------------------


def key_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_nobody_else_may_read_the_keys(folder: Path, file_keyring: FileKeyring) -> None:
    """Neither the file nor the folder."""
    assert key_file(folder).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_keys_are_never_overwritten(folder: Path, file_keyring: FileKeyring) -> None:
    """A second making of the same store is refused; the first keys stand."""
    before = key_file(folder).read_bytes()
    with pytest.raises(KeyUnavailable):
        create_key_file(folder, STORE)
    assert key_file(folder).read_bytes() == before


def test_a_discarded_key_file_is_gone(folder: Path, file_keyring: FileKeyring) -> None:
    """Also if it went before."""
    for _ in range(2):
        discard_key_file(folder, STORE)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620])
def test_a_key_file_others_may_read_is_refused(
    folder: Path, file_keyring: FileKeyring, mode: int
) -> None:
    """Its keys may be known: the operator decides, not we."""
    key_file(folder).chmod(mode)
    with pytest.raises(KeyUnavailable, match="chmod 600"):
        read_key_file(folder, STORE)


def test_a_missing_key_file_is_no_reason_for_new_keys(folder: Path) -> None:
    """Neither the file nor its folder is made."""
    with pytest.raises(KeyUnavailable, match="missing"):
        read_key_file(folder, STORE)
    assert not folder.exists()


def test_the_key_file_of_another_database_is_refused(
    folder: Path, file_keyring: FileKeyring
) -> None:
    """Also under the right name."""
    key_file(folder).rename(folder / "feed.keys.json")
    with pytest.raises(KeyUnavailable, match="another database"):
        read_key_file(folder, "feed")


def changed_field(name: str, value: object) -> Callable[[bytes], bytes]:
    return lambda body: json.dumps(json.loads(body) | {name: value}).encode()


def without_field(name: str) -> Callable[[bytes], bytes]:
    return lambda body: json.dumps(
        {key: value for key, value in json.loads(body).items() if key != name}
    ).encode()


def written_kek(key: object, created_at: object = NOW) -> dict[str, object]:
    return {"key": key, "created_at": created_at, "retired_at": None}


KEY_FILE_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda body: b"",
    "cut off": lambda body: body[: len(body) // 2],
    "no JSON": lambda body: b"secret" + body,
    "not text": lambda body: b"\xff\xfe" + body,
    "a list": lambda body: b"[]",
    "another format": changed_field("format", "lapse/keys/v9"),
    "no format": without_field("format"),
    "no store": without_field("store"),
    "no keys": changed_field("keks", {}),
    "keys left out": without_field("keks"),
    "keys as a list": changed_field("keks", ["secret"]),
    "a key alone": changed_field("keks", {"a": "00" * 32}),
    "a short key": changed_field("keks", {"a": written_kek("00" * 31)}),
    "a long key": changed_field("keks", {"a": written_kek("00" * 33)}),
    "a key in no hexadecimal": changed_field("keks", {"a": written_kek("secret")}),
    "a number for a key": changed_field("keks", {"a": written_kek(7)}),
    "a key without times": changed_field("keks", {"a": {"key": "00" * 32}}),
    "a text for a time": changed_field("keks", {"a": written_kek("00" * 32, "now")}),
    "a short lookup secret": changed_field("lookup_secret", "00"),
    "no lookup secret": without_field("lookup_secret"),
}


@pytest.mark.parametrize("damage", KEY_FILE_DAMAGES)
def test_a_damaged_key_file_is_refused(
    folder: Path, file_keyring: FileKeyring, damage: str
) -> None:
    """By name, without a byte of it, and it is left as it is."""
    path = key_file(folder)
    body = path.read_bytes()
    secret = json.loads(body)["lookup_secret"]
    path.write_bytes(KEY_FILE_DAMAGES[damage](body))
    damaged = path.read_bytes()
    with pytest.raises(KeyUnavailable, match="damaged") as refused:
        read_key_file(folder, STORE)
    text = str(refused.value) + repr(refused.value.__cause__)
    assert path.name in text
    assert "secret" not in text
    assert secret not in text
    assert path.read_bytes() == damaged


def test_a_key_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A file stands in its place."""
    (tmp_path / "keys").write_text("no folder")
    with pytest.raises(KeyUnavailable, match="LAPSE_KEY_URL"):
        create_key_file(tmp_path / "keys", STORE)
    with pytest.raises(KeyUnavailable):
        read_key_file(tmp_path / "keys", STORE)


def test_a_key_file_that_cannot_be_read_is_said(folder: Path, file_keyring: FileKeyring) -> None:
    """A folder under its name, say."""
    path = key_file(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(KeyUnavailable, match="cannot be read"):
        read_key_file(folder, STORE)


# -- the keyring of a database ----------------------------------------------------------------


def test_a_new_database_gets_keys_and_keeps_them(sql_store: SqlStore, folder: Path) -> None:
    """The first opening makes them, the second reads them."""
    first = open_keyring(sql_store.engines, folder, None, NOW)
    second = open_keyring(sql_store.engines, folder, None, NOW)
    assert first.lookup("subject", ADA) == second.lookup("subject", ADA)
    assert len(list(folder.iterdir())) == 1


def test_instances_that_open_a_new_database_at_once_agree(
    sql_store: SqlStore, folder: Path
) -> None:
    """One makes the keys, all use them, none is left over."""
    keyrings = at_once([lambda: open_keyring(sql_store.engines, folder, None, NOW)] * 8)
    assert not [one for one in keyrings if isinstance(one, Exception)]
    lookups = {one.lookup("subject", ADA) for one in keyrings if isinstance(one, FileKeyring)}
    assert len(lookups) == 1
    assert len(list(folder.iterdir())) == 1


def test_a_database_with_data_gets_no_new_keys(sql_store: SqlStore, folder: Path) -> None:
    """If its key file is gone, or the folder is another one, it says so."""
    open_keyring(sql_store.engines, folder, None, NOW)
    key_file(folder).unlink()
    for wrong in (folder, folder.with_name("elsewhere")):
        with pytest.raises(KeyUnavailable, match="missing"):
            open_keyring(sql_store.engines, wrong, None, NOW)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["aaaa", None], ids=["other keys", "the same name, another key"])
def test_a_key_file_with_other_keys_is_refused(
    sql_store: SqlStore, folder: Path, name: str | None
) -> None:
    """It names the right store, but is not what the database was sealed with."""
    open_keyring(sql_store.engines, folder, None, NOW)
    path = key_file(folder)
    fields = json.loads(path.read_bytes())
    fields["keks"] = {name or next(iter(fields["keks"])): written_kek("00" * 32)}
    path.write_text(json.dumps(fields))
    with pytest.raises(KeyUnavailable, match="does not hold key"):
        open_keyring(sql_store.engines, folder, None, NOW)


def test_the_keys_may_not_lie_beside_the_database(sql_store: SqlStore, tmp_path: Path) -> None:
    """A copy of the folder would hold both; also through a link."""
    database = tmp_path / "data" / "lapse.db"
    database.parent.mkdir()
    (tmp_path / "link").symlink_to(database.parent)
    for folder in (database.parent, database.parent / "keys", tmp_path / "link" / "keys"):
        with pytest.raises(KeyUnavailable, match="LAPSE_KEY_URL"):
            open_keyring(sql_store.engines, folder, database, NOW)
        assert list(database.parent.iterdir()) == []
    open_keyring(sql_store.engines, tmp_path / "keys", database, NOW)


# -- the keyring without keys -----------------------------------------------------------------


def test_a_simulation_seals_nothing_and_can_be_repeated() -> None:
    """Tokens come in the same order from the same seed; nobody's identity is kept."""
    first, second, other = PlainKeyring(7), PlainKeyring(7), PlainKeyring(8)
    tokens = [first.token() for _ in range(5)]
    assert [second.token() for _ in range(5)] == tokens
    assert not set(tokens) & {other.token() for _ in range(5)}
    subject: SubjectKey = first.new_subject(first.lookup("subject", ADA))
    assert first.seal_identity(subject, "session", "token", ADA) == (b"", b"")
    with pytest.raises(SealBroken):
        first.open_identity(subject, "session", "token", b"", b"")


def test_a_key_file_with_another_lookup_secret_is_refused(
    sql_store: SqlStore, folder: Path
) -> None:
    """Nobody would be found again, and everybody would get a second session."""
    open_keyring(sql_store.engines, folder, None, NOW)
    path = key_file(folder)
    path.write_bytes(changed_field("lookup_secret", "00" * 32)(path.read_bytes()))
    with pytest.raises(KeyUnavailable, match="lookup secret"):
        open_keyring(sql_store.engines, folder, None, NOW)


def test_a_key_file_that_is_a_link_is_refused(
    tmp_path: Path, folder: Path, file_keyring: FileKeyring
) -> None:
    """It could lead to where the database lies."""
    path = key_file(folder)
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    with pytest.raises(KeyUnavailable):
        read_key_file(folder, STORE)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_key_folder_others_may_write_is_refused(
    folder: Path, file_keyring: FileKeyring, mode: int
) -> None:
    """They could put another file in its place."""
    folder.chmod(mode)
    with pytest.raises(KeyUnavailable, match="chmod 700"):
        read_key_file(folder, STORE)
