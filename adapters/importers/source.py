"""Where lines come from: a file or standard input, plain or gzip, of any size.

Memory stays bounded whatever comes: a line longer than 64 KiB is dropped while it is read. Errors
carry no file name and nothing of the content, both may name people.
"""

import errno
import gzip
import hashlib
import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

MAX_LINE = 64 * 1024
"""The longest line that is read, in bytes without its line feed."""

_CHUNK = 64 * 1024
_HEAD = 1024
_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_DIGIT_OR_BLANK = re.compile(rb"[0-9 ]")


class SourceError(Exception):
    """A source cannot be read, or not to its end.

    reason: in words of the operating system or of gzip. lines_read: the complete lines that came
    out of it before.
    """

    def __init__(self, reason: str, lines_read: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lines_read = lines_read


class Source:
    """Lines of a file, or of standard input for `-`. Gzip is known by its first bytes.

    Opening raises SourceError (missing, a folder, not permitted), and so does reading on when the
    file turns out to be cut off or corrupt; the complete lines before that place come first.

    name: the base name without `.gz` (`stdin` for `-`), the room of an IRC log; it may name people.
    fingerprint: SHA-256 (hex) by which an import finds its source again, compressed or not: of the
    first line of a file, which stays when the file grows; of the first 1 KiB of standard input,
    which has no path to tell one log from another that begins with the same line. size: bytes on
    disk, None for a pipe. unfinished: the number of a file's last line if it has no line feed,
    known once `lines` came to it; whoever writes the file may be in the middle of that line.
    """

    def __init__(self, path: str) -> None:
        self.name = "stdin" if path == "-" else Path(path).name.removesuffix(".gz")
        self.lines_read = 0
        self.unfinished: int | None = None
        self._piped = path == "-"
        self._raw = _open(path)
        self.size = _size(self._raw)
        try:
            self._chunks = _decoded(self._raw)
            self._ahead, self._broken = self._look_ahead()
        except BaseException:
            self.close()
            raise
        head = b"".join(self._ahead)
        known_by = head[:_HEAD] if self._piped else _beginning(head)
        self.fingerprint = hashlib.sha256(known_by).hexdigest()

    @property
    def bytes_read(self) -> int:
        """How much of `size` was read so far, in bytes as stored (compressed ones for gzip)."""
        return self._raw.bytes_read

    def lines(self, skip: int = 0) -> Iterator[tuple[int, bytes | None]]:
        """Each line after the first `skip` ones with its number (from 1), None if it is too long.

        Lines end with LF or CRLF, which are taken off, the last one perhaps with neither. To be
        called once: what was read is gone. Raises SourceError where the source breaks off.
        """
        self.lines_read = skip
        rest = b""
        for chunk in self._after(skip):
            lines = (rest + chunk).split(b"\n")
            # Of a line that is too long only that fact is kept, so an endless one costs no memory.
            rest = lines.pop()[: MAX_LINE + 1]
            for number, line in enumerate(lines, self.lines_read + 1):
                self.lines_read = number
                yield number, _trimmed(line)
        if rest:
            self.lines_read += 1
            if not self._piped:
                self.unfinished = self.lines_read
            yield self.lines_read, _trimmed(rest)

    def close(self) -> None:
        """Let go of the file. Standard input stays open."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _look_ahead(self) -> tuple[list[bytes], SourceError | None]:
        """The chunks that the fingerprint takes, and what stopped them from being more."""
        ahead: list[bytes] = []
        enough = _HEAD if self._piped else 2 * MAX_LINE  # a header and a line
        try:
            while sum(map(len, ahead)) < enough and (chunk := next(self._chunks, b"")):
                ahead.append(chunk)
        except SourceError as error:
            if not ahead:
                raise
            return ahead, error
        return ahead, None

    def _text(self) -> Iterator[bytes]:
        """All chunks, without a byte order mark."""
        head, self._ahead = b"".join(self._ahead), []
        yield head.removeprefix(_BOM)
        if self._broken is not None:
            raise self._broken
        yield from self._chunks

    def _after(self, skip: int) -> Iterator[bytes]:
        """The chunks with the first `skip` lines cut off, which takes a count of line feeds."""
        try:
            for chunk in self._text():
                if skip == 0:
                    yield chunk
                    continue
                ends = chunk.count(b"\n")
                if ends >= skip:
                    yield chunk.split(b"\n", skip)[skip]
                skip = max(0, skip - ends)
        except SourceError as error:
            error.lines_read = self.lines_read
            raise


class _Raw:
    """The bytes as stored: counts them, and gives the first two a second time to who asks."""

    def __init__(self, stream: BinaryIO, *, ours: bool) -> None:
        self._stream = stream
        self._ours = ours
        self._kept = b""
        self.bytes_read = 0

    def is_gzip(self) -> bool:
        while len(self._kept) < 2 and (more := self._read(2 - len(self._kept))):
            self._kept += more
        return self._kept == _GZIP_MAGIC

    def read(self, size: int) -> bytes:
        """Up to `size` bytes as soon as there are some, none at the end."""
        if self._kept:
            kept, self._kept = self._kept[:size], self._kept[size:]
            return kept
        return self._read(size)

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        if self._ours:
            self._stream.close()

    def _read(self, size: int) -> bytes:
        taken: bytes | None = self._stream.read(size)
        if taken is None:  # a pipe in non-blocking mode that is empty for now
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.bytes_read += len(taken)
        return taken


def _open(path: str) -> _Raw:
    if path == "-":
        stream = sys.stdin.buffer
        # The raw stream answers with what a pipe holds instead of waiting for a full buffer.
        return _Raw(getattr(stream, "raw", stream), ours=False)
    try:
        return _Raw(Path(path).open("rb", buffering=0), ours=True)
    except (OSError, ValueError) as error:
        raise SourceError(_said(error)) from None


def _beginning(head: bytes) -> bytes:
    """The first line of a text, after a header that it has in common with other logs.

    A header, such as that of EDGAR's logs, is one word without a digit; no record is.
    """
    first, _, behind = head.partition(b"\n")
    if behind and _DIGIT_OR_BLANK.search(first) is None:
        first = behind.partition(b"\n")[0]
    return _without_return(first[:MAX_LINE])


def _size(raw: _Raw) -> int | None:
    try:
        status = os.fstat(raw.fileno())
    except (OSError, io.UnsupportedOperation):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _decoded(raw: _Raw) -> Iterator[bytes]:
    """The text of a source in chunks, decompressed if it is compressed."""
    try:
        if raw.is_gzip():
            with gzip.GzipFile(fileobj=raw, mode="rb") as unzipped:  # type: ignore[call-overload]
                # read1, because read() throws away what it has when the file breaks off.
                while chunk := unzipped.read1(_CHUNK):
                    yield chunk
        else:
            while chunk := raw.read(_CHUNK):
                yield chunk
    except EOFError:
        raise SourceError("the compressed file ends too early") from None
    except (gzip.BadGzipFile, zlib.error):
        raise SourceError("the compressed file is corrupt") from None
    except OSError as error:
        raise SourceError(_said(error)) from None


def _said(error: Exception) -> str:
    """What the system says, without the file name that `str(error)` would add."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return "not the name of a file"


def _trimmed(line: bytes) -> bytes | None:
    if len(line) > MAX_LINE:
        return None
    return _without_return(line)


def _without_return(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line
