"""Rows as JSON Lines, CSV or Parquet, in bounded memory: whoever asks gets bytes as they are made.

Parquet needs the extra `lapse[parquet]`.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from itertools import islice
from typing import Any

import orjson

from adapters.clock import format_instant
from domain.errors import LapseError

_AT_ONCE = 2_000
"""Rows that are held at once; a row group of Parquet."""


class Format(StrEnum):
    """How an export is written."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class Kind(StrEnum):
    """What a column holds. TIME: microseconds in a row. JSON: an object."""

    NUMBER = "number"
    TEXT = "text"
    TIME = "time"
    JSON = "json"
    TEXTS = "texts"  # a list of texts


@dataclass(frozen=True)
class Column:
    """A column of an export: every row has a value for it, or None."""

    name: str
    kind: Kind


class ParquetMissing(LapseError):
    """Parquet needs a package that is not installed here: pip install 'lapse[parquet]'"""

    def __str__(self) -> str:
        return str(self.__doc__)


MEDIA_TYPES: Mapping[Format, str] = {
    Format.JSONL: "application/jsonl",
    Format.CSV: "text/csv; charset=utf-8",
    Format.PARQUET: "application/vnd.apache.parquet",
}

Row = Mapping[str, Any]


def exported(
    rows: Iterable[Row],
    columns: Sequence[Column],
    form: Format,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[bytes]:
    """The rows in that format, piece by piece. metadata: goes into the footer of Parquet.

    In JSON Lines and CSV times are RFC 3339, UTC; in CSV and Parquet objects are JSON. Raises
    ParquetMissing at once, not at the first piece.
    """
    if form is Format.PARQUET:
        if find_spec("pyarrow") is None:
            raise ParquetMissing
        return _parquet(rows, columns, metadata or {})
    return _jsonl(rows, columns) if form is Format.JSONL else _csv(rows, columns)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    waiting = iter(rows)
    while batch := list(islice(waiting, _AT_ONCE)):
        yield batch


def _jsonl(rows: Iterable[Row], columns: Sequence[Column]) -> Iterator[bytes]:
    for batch in _batches(rows):
        yield b"".join(
            orjson.dumps({one.name: _shown(row[one.name], one.kind) for one in columns}) + b"\n"
            for row in batch
        )


def _csv(rows: Iterable[Row], columns: Sequence[Column]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
    writer.writerow([one.name for one in columns])
    for batch in _batches(rows):
        for row in batch:
            writer.writerow([_cell(row[one.name], one.kind) for one in columns])
        yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> bytes:
    piece = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return piece


def _shown(value: Any, kind: Kind) -> Any:
    return format_instant(value) if kind is Kind.TIME else value


def _cell(value: Any, kind: Kind) -> Any:
    if value is not None and kind in (Kind.JSON, Kind.TEXTS):
        return orjson.dumps(value).decode()
    return _shown(value, kind)


def _parquet(
    rows: Iterable[Row], columns: Sequence[Column], metadata: Mapping[str, str]
) -> Iterator[bytes]:
    import pyarrow as pa  # noqa: PLC0415 - an extra, and half a second
    from pyarrow import parquet  # noqa: PLC0415

    types = {
        Kind.NUMBER: pa.int64(),
        Kind.TEXT: pa.string(),
        Kind.TIME: pa.timestamp("us", tz="UTC"),
        Kind.JSON: pa.string(),
        Kind.TEXTS: pa.list_(pa.string()),
    }
    schema = pa.schema([(one.name, types[one.kind]) for one in columns], metadata=dict(metadata))
    sink = _Sink()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in _batches(rows):
            arrays = [
                pa.array([_stored(row[one.name], one.kind) for row in batch], types[one.kind])
                for one in columns
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            yield sink.taken()
    yield sink.taken()


def _stored(value: Any, kind: Kind) -> Any:
    return orjson.dumps(value).decode() if value is not None and kind is Kind.JSON else value


class _Sink(io.RawIOBase):
    """A file that only ever grows and is taken away piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any, /) -> int:
        self._pieces.append(bytes(piece))
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
