"""The erasure ledger, whoever keeps it: in order, without a gap, and nothing changed unseen."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from obstore.store import MemoryStore, S3Store

from adapters.ledger.local import LocalLedger
from adapters.ledger.objects import MOST, ObjectLedger
from adapters.ledger.opening import open_ledger
from domain.errors import (
    LedgerDamaged,
    LedgerTooShort,
    LedgerUnavailable,
    RestorePending,
    SettingsInvalid,
)
from domain.ledger import Deed, Entry, Kind, numbered
from domain.ports import Ledger
from tests.contracts.authors import TEN, at_once
from tests.contracts.memory_ledger import MemoryLedger
from tests.s3 import Bucket, open_bucket

STORE = "0123456789abcdef"
Open = Callable[[], Ledger]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with open_bucket() as opened:
        yield opened


@pytest.fixture(params=["memory", "file", "objects", "s3"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same ledger again and again, as processes do; the test runs on each kind."""
    kind: str = request.param
    if kind == "file":
        return lambda: open_ledger((tmp_path / "ledger").as_uri(), STORE, None)
    if kind == "s3":
        found: Bucket = request.getfixturevalue("bucket")
        objects = found.store(tmp_path.name)
        return lambda: ObjectLedger(objects, STORE)
    if kind == "objects":
        kept = MemoryStore()
        return lambda: ObjectLedger(kept, STORE)
    ledger = MemoryLedger()
    return lambda: ledger


@pytest.fixture
def ledger(opening: Open) -> Ledger:
    return opening()


def erasures(first: int, number: int = 1) -> list[Entry]:
    """So many entries from this number on."""
    deeds = [
        Deed(Kind.ERASED, TEN + n, {"session": f"session-{n}", "by": "request"})
        for n in range(first, first + number)
    ]
    return numbered(deeds, first - 1, epoch=1, head=7)


def test_what_is_written_is_read_in_order(opening: Open, ledger: Ledger) -> None:
    """By the process that wrote it and by one that starts later, all of it or what is behind."""
    assert ledger.length() == 0
    assert list(ledger.read(0)) == []
    entries = [*erasures(1, 3), *erasures(4), *erasures(5, 2)]
    assert ledger.append(entries[:3]) == 3
    assert ledger.append(entries[3:4]) == 4
    assert ledger.append(entries[4:]) == 6
    for one in (ledger, opening()):
        assert one.length() == 6
        assert list(one.read(0)) == entries
        assert list(one.read(2)) == entries[2:]
        assert list(one.read(6)) == []


def test_every_field_comes_back(ledger: Ledger) -> None:
    """Policies are nested, holds may have no end."""
    document = {"rules": [{"since": "created", "after": 5}], "limits": {}}
    deeds = [
        Deed(Kind.POLICY, TEN, {"policy": "room", "document": document}),
        Deed(Kind.HELD, TEN, {"session": "s", "hold": "h", "until": None}),
    ]
    entries = numbered(deeds, 0, epoch=3, head=2**40)
    ledger.append(entries)
    assert list(ledger.read(0)) == entries
    assert [entry.kind for entry in ledger.read(0)] == [Kind.POLICY, Kind.HELD]


def test_a_number_is_taken_once(opening: Open, ledger: Ledger) -> None:
    """Whoever comes second is told that the database lags behind."""
    another = opening()
    ledger.append(erasures(1, 2))
    with pytest.raises(RestorePending):
        another.append(erasures(1))
    with pytest.raises(RestorePending):
        another.append(erasures(2))
    another.append(erasures(3))
    with pytest.raises(RestorePending):
        ledger.append(numbered([_release(1)], 2, 1, 0))
    assert ledger.length() == 3


def test_of_many_who_want_one_number_one_gets_it(opening: Open) -> None:
    """Each is a process of its own; everybody else is told."""
    answers = at_once([partial(_append, opening, author) for author in range(8)])
    assert sorted(map(str, answers)).count("1") == 1
    assert sum(isinstance(answer, RestorePending) for answer in answers) == 7
    assert opening().length() == 1


def _append(opening: Open, author: int) -> int:
    return opening().append(numbered([_release(author)], 0, 1, 0))


def _release(author: int) -> Deed:
    return Deed(Kind.RELEASED, TEN + author, {"session": "s", "hold": "h"})


def test_no_entry_is_written_behind_a_gap(ledger: Ledger) -> None:
    """A ledger that lost its end, or that of another database, is told from one that is whole."""
    ledger.append(erasures(1))
    with pytest.raises(LedgerTooShort):
        ledger.append(erasures(3))
    assert ledger.length() == 1


def test_many_entries_of_one_transaction(opening: Open, ledger: Ledger) -> None:
    """More than fit in one object."""
    entries = erasures(1, 2 * MOST + 7)
    ledger.append(entries[:5])
    assert ledger.append(entries[5:]) == len(entries)
    for one in (ledger, opening()):
        assert list(one.read(0)) == entries
        assert list(one.read(MOST + 3)) == entries[MOST + 3 :]


# -- in a file --------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger" / f"{STORE}.ledger.jsonl"


@pytest.fixture
def local(path: Path) -> LocalLedger:
    return LocalLedger(path.parent, STORE)


@pytest.mark.parametrize("torn", [b'{"at":1', b"\0" * 40, b"\0" * 40 + b"\n", b'{"a\0\0\n\0'])
def test_a_line_that_a_crash_tore_is_cut_off(local: LocalLedger, path: Path, torn: bytes) -> None:
    """It was never acknowledged: readers pass over it, the next entry takes its place."""
    local.append(erasures(1, 2))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert local.length() == 2
    assert list(local.read(0)) == erasures(1, 2)
    local.append(erasures(3))
    assert path.read_bytes().startswith(whole)
    assert list(LocalLedger(path.parent, STORE).read(0)) == erasures(1, 3)


def test_a_first_line_that_was_torn_leaves_an_empty_ledger(local: LocalLedger, path: Path) -> None:
    """As if nothing had been written."""
    local.append(erasures(1))
    path.write_bytes(path.read_bytes()[:-10])
    assert (local.length(), list(local.read(0))) == (0, [])
    local.append(erasures(1))
    assert list(local.read(0)) == erasures(1)


@pytest.mark.parametrize("length", [10, 64 * 1024 - 1, 64 * 1024, 200_000])
def test_the_last_line_is_found_however_long_it_is(local: LocalLedger, length: int) -> None:
    """A policy may be longer than one block."""
    entries = numbered([Deed(Kind.POLICY, TEN, {"document": {"x": "y" * length}})] * 3, 0, 1, 0)
    local.append(entries)
    assert local.length() == 3


def _changed(line: bytes) -> bytes:
    return line.replace(b"session-1", b"session-9")


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [_changed(lines[0]), *lines[1:]],
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0], b"{}\n", *lines[2:]],
        lambda lines: [lines[0], b'["no entry"]\n', *lines[2:]],
    ],
)
def test_what_was_changed_is_found(
    local: LocalLedger, path: Path, damage: Callable[[list[bytes]], list[bytes]]
) -> None:
    """A line that is altered, gone, moved or no entry at all."""
    local.append(erasures(1, 4))
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(LedgerDamaged):
        list(local.read(0))


def test_the_ledger_of_another_database_is_no_ledger_of_this_one(
    local: LocalLedger, path: Path
) -> None:
    """Also if somebody gave it the right name."""
    LocalLedger(path.parent, "another").append(erasures(1))
    (path.parent / "another.ledger.jsonl").rename(path)
    with pytest.raises(LedgerDamaged):
        list(local.read(0))


def test_it_is_for_its_owner_alone(local: LocalLedger, path: Path) -> None:
    local.append(erasures(1))
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_line_is_json_that_other_tools_read(local: LocalLedger, path: Path) -> None:
    local.append(erasures(1, 2))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2]
    assert lines[0]["fields"] == {"session": "session-1", "by": "request"}


def test_a_full_disk_leaves_no_half_of_an_entry(
    local: LocalLedger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had been written of it is taken back."""
    local.append(erasures(1))
    write = os.write

    def half(file: int, body: memoryview) -> int:
        if len(body) < 60:
            raise OSError(28, "No space left on device")
        return write(file, body[: len(body) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("adapters.ledger.local.os.write", half)
        with pytest.raises(LedgerUnavailable, match="No space"):
            local.append(erasures(2))
    assert path.read_bytes().count(b"\n") == 1
    local.append(erasures(2))
    assert list(local.read(0)) == erasures(1, 2)


# -- in an object store -----------------------------------------------------------------------


def test_an_object_that_is_gone_is_noticed() -> None:
    """One in the middle leaves a gap, all of them leave too few."""
    objects = MemoryStore()
    ledger = ObjectLedger(objects, STORE)
    for number in (1, 2, 3):
        ledger.append(erasures(number))
    objects.delete(f"{STORE}/{2:016d}.jsonl")
    with pytest.raises(LedgerDamaged):
        list(ObjectLedger(objects, STORE).read(0))


def test_an_answer_that_was_lost_is_no_second_writer() -> None:
    """The store took the object, the connection broke, the client asked again."""
    objects = MemoryStore()
    ObjectLedger(objects, STORE).append(erasures(1))
    again = ObjectLedger(objects, STORE)
    again._create(again._name(1), objects.get(again._name(1)).bytes().to_bytes())


def test_a_store_that_refuses_is_an_error_that_names_the_setting(bucket: Bucket) -> None:
    """Nothing of the store's own text, which may hold keys."""
    refusing = S3Store(
        "no-such-bucket",
        endpoint=bucket.url,
        access_key_id="secret-id",
        secret_access_key="secret",  # noqa: S106 - of a server of this test
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    ledger = ObjectLedger(refusing, STORE)
    for act in (ledger.length, lambda: ledger.append(erasures(1))):
        with pytest.raises(LedgerUnavailable, match="LAPSE_LEDGER_URL") as refused:
            act()
        assert "secret" not in str(refused.value)


# -- the setting ------------------------------------------------------------------------------


def test_a_bucket_is_named_by_its_url(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How to reach it stands in the variables that S3 clients know."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{bucket.name}/{tmp_path.name}"
    open_ledger(url, STORE, None).append(erasures(1))
    assert open_ledger(url, STORE, None).length() == 1


@pytest.mark.parametrize(
    "url", ["ledger", "file://host/x", "file:", "https://x/y", "s3:///x", "s3://key@bucket"]
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="LAPSE_LEDGER_URL"):
        open_ledger(url, STORE, None)


def test_a_ledger_below_the_folder_of_the_database_is_refused(tmp_path: Path) -> None:
    """Whoever restores the folder would restore both."""
    database = tmp_path / "db" / "lapse.db"
    for folder in (tmp_path / "db", tmp_path / "db" / "ledger"):
        with pytest.raises(SettingsInvalid, match="below the folder"):
            open_ledger(folder.as_uri(), STORE, database)
    open_ledger((tmp_path / "ledger").as_uri(), STORE, database)
