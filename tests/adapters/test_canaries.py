"""Planted bytes are found in raw files, in whatever form they stand there."""

import base64
import tracemalloc
from pathlib import Path

import pytest

from adapters.vault.canaries import read_canaries, search
from domain.errors import SourceUnreadable

CANARY = b"canary-\x00\xff\xfe-of-the-test"


def test_a_canary_is_found_in_each_form_and_between_two_blocks(tmp_path: Path) -> None:
    """As bytes, as hexadecimal and as base64 behind any number of others, wherever a block ends."""
    forms = {
        "bytes": CANARY,
        "hex": CANARY.hex().encode(),
        "HEX": CANARY.hex().upper().encode(),
        **{f"base64-{n}": base64.b64encode(b"x" * n + CANARY + b"yz") for n in range(4)},
        "url-safe": base64.urlsafe_b64encode(b"xy" + CANARY),
    }
    for name, form in forms.items():
        for before in range(90, 101):
            (tmp_path / "file").write_bytes(b"." * before + form + b"." * 100)
            found = search([tmp_path], [b"another canary", CANARY], block=100).found
            assert {one.canary for one in found} == {2}, (name, before)
            assert {one.path.name for one in found} == {"file"}
            if name == "bytes":
                assert [(one.form, one.offset) for one in found] == [("bytes", before)]


def test_nothing_else_is_found(tmp_path: Path) -> None:
    """All but the last byte is no canary; empty files and folders are looked into."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "near").write_bytes(CANARY[:-1] + b"!")
    (tmp_path / "empty").touch()
    done = search([tmp_path], [CANARY])
    assert (done.found, done.unreadable, done.files, done.size) == ((), (), 2, len(CANARY))


def test_a_file_is_searched_once_and_links_are_not_followed(tmp_path: Path) -> None:
    """However many names it has."""
    (tmp_path / "file").write_bytes(CANARY)
    (tmp_path / "same").hardlink_to(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert len(search([tmp_path, tmp_path / "file"], [CANARY]).found) == 1


def test_memory_stays_small_however_large_a_file_is(tmp_path: Path) -> None:
    """64 MB with a canary at its end, in blocks of 1 MB."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(64_000_000)
        file.seek(64_000_000)
        file.write(CANARY)
    tracemalloc.start()
    done = search([tmp_path], [CANARY], block=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [one.offset for one in done.found] == [64_000_000]
    assert peak < 5_000_000


def test_canaries_are_read_in_three_ways_and_never_repeated() -> None:
    """A line that is none is named by its number."""
    lines = ["text:a planted text\n", "\n", f"hex:{CANARY.hex()}\n", "base64:AAECAwQFBgc=\n"]
    assert read_canaries(lines) == [b"a planted text", CANARY, bytes(range(8))]
    for bad in ("ann@example.org", "hex:xyz", "base64:###", "text:short", "bytes:12345678"):
        with pytest.raises(SourceUnreadable) as refused:
            read_canaries(["text:a planted text", bad])
        assert "line 2" in str(refused.value)
        assert bad not in str(refused.value)
    with pytest.raises(SourceUnreadable):
        read_canaries(["\n"])
