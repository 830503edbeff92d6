"""A zip (APPNOTE 6.3) that is made while it is read, in bounded memory, whatever its files hold."""

import io
import zipfile
from collections.abc import Iterable, Iterator

from domain.use_cases.access import Entry

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can say: when its files were made tells nothing."""


class _Sink(io.RawIOBase):
    """Takes what the zip writes until it is fetched. Cannot be sought, so sizes and checksums come
    behind each file."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self._written += content
        return len(content)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written[:] = bytes(len(self._written))
        self._written.clear()
        return taken


def zipped(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The zip of these files, piece by piece. The names of all files are kept until the end."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            about = zipfile.ZipInfo(entry.path, _EPOCH)
            about.compress_type = zipfile.ZIP_DEFLATED
            about.external_attr = 0o600 << 16
            # Nobody knows how large it gets: room for the size of any file.
            with archive.open(about, "w", force_zip64=True) as file:
                for chunk in entry.chunks:
                    file.write(chunk)
                    if piece := sink.take():
                        yield piece
            if piece := sink.take():
                yield piece
    yield sink.take()
