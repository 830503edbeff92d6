"""The erasure ledger in a file: one line per entry, on disk before the database commits.

For one machine. Writers hold a lock on the file. A crash can leave the last line half written: it
was never acknowledged, readers pass over it and the next writer cuts it off.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from adapters.keyring.replacing import sync_folder
from adapters.ledger.lines import beginning, chained, damaged, decoded, encoded, hash_of
from domain.errors import LedgerTooShort, LedgerUnavailable, RestorePending
from domain.ledger import Entry

_BLOCK = 64 * 1024


class LocalLedger:
    """`domain.ports.Ledger` in `folder`. store: the random id of the database."""

    def __init__(self, folder: Path, store: str) -> None:
        self._folder = folder
        self._path = folder / f"{store}.ledger.jsonl"
        self._store = store

    def append(self, entries: Sequence[Entry]) -> int:
        with _writing(), self._locked() as file:
            end, last = _last_whole_line(file)
            length, previous = self._number_and_hash(last)
            must_follow(entries, length)
            os.ftruncate(file, end)
            body, _ = encoded(entries, previous)
            try:
                _write_all(file, body)
                os.fsync(file)
                if not length:
                    sync_folder(self._folder)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file, end)
                raise
        return entries[-1].number

    def read(self, after: int) -> Iterator[Entry]:
        for entry, _ in chained(self._lines(), 0, beginning(self._store)):
            if entry.number > after:
                yield entry

    def length(self) -> int:
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _unreadable(error) from None
        try:
            _, last = _last_whole_line(file)
            return self._number_and_hash(last)[0]
        except OSError as error:
            raise _unreadable(error) from None
        finally:
            os.close(file)

    def _lines(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n") and b"\0" not in line:
                        yield line[:-1]
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(error) from None

    def _number_and_hash(self, line: bytes) -> tuple[int, str]:
        """Of the newest entry."""
        if not line:
            return 0, beginning(self._store)
        try:
            entry, _ = decoded(line)
        except ValueError:
            raise damaged(0) from None
        return entry.number, hash_of(line)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


def must_follow(entries: Sequence[Entry], length: int) -> None:
    """Raises RestorePending, LedgerTooShort unless the first entry is the next one."""
    first = entries[0].number
    if first <= length:
        raise RestorePending(
            "the erasure ledger knows of something that the database does not contain yet: it is "
            "being repeated; try again"
        )
    if first > length + 1:
        raise LedgerTooShort(
            f"the erasure ledger ends at entry {length}, the database contains {first - 1}: set "
            "LAPSE_LEDGER_URL to the one that belongs to it, or restore it from its copy; nothing "
            "was changed"
        )


def _last_whole_line(file: int) -> tuple[int, bytes]:
    """Where the last line that was written whole ends, and the line itself (empty: none is).

    Blocks that a power failure left unwritten read as zeros, which no line holds.
    """
    end = os.fstat(file).st_size
    tail = b""
    at = end
    while at > 0:
        size = min(_BLOCK, at)
        at -= size
        tail = os.pread(file, size, at) + tail
        whole = tail[: tail.rfind(b"\n") + 1]
        while whole:
            start = whole.rfind(b"\n", 0, len(whole) - 1) + 1
            if not start and at:
                break  # the line begins before what was read
            if b"\0" not in whole[start:]:
                return at + len(whole), whole[start:-1]
            whole = whole[:start]
    return 0, b""


def _write_all(file: int, body: bytes) -> None:
    rest = memoryview(body)
    while rest:
        rest = rest[os.write(file, rest) :]


def _unreadable(error: OSError) -> LedgerUnavailable:
    return LedgerUnavailable(f"the erasure ledger cannot be read ({error.strerror})")


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerUnavailable(
            f"the erasure ledger cannot be written ({error.strerror}): check the folder of "
            "LAPSE_LEDGER_URL; nothing was changed in the database"
        ) from None
