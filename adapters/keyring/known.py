"""What the database knows about its keys, in the table `meta`: no key, but how to recognise each.

`store`: the random id of the key store. `kek:ID`: a check value of a KEK. `retired:ID`: since when
no wrapped key names it, for a provider that cannot remember that. `destroying:ID`: what was known
of a KEK when its destruction began, until the log says that it is gone. `secret:NAME`: a secret of
the whole installation, wrapped by a KEK, for a provider that is no place of its own. `clock`: the
time that was last believed.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import orjson
from sqlalchemy import Connection

from adapters.keyring.aead import wiping
from adapters.keyring.keks import Kek, KekProvider, WrappedKey
from adapters.log.engine import Engines
from adapters.log.schema import meta

_STORE = "store"
_CHECK = "kek:"
_RETIRED = "retired:"
_DESTROYING = "destroying:"
_SECRET = "secret:"  # noqa: S105 - the name of a row
LOOKUP_CHECK = "lookup-check"
CLOCK = "clock"


def value(engines: Engines, name: str) -> bytes | None:
    with engines.read() as connection:
        row = connection.execute(meta.select().where(meta.c.name == name)).fetchone()
    return bytes(row.value) if row else None


def put_new(connection: Connection, name: str, value: bytes) -> bool:
    """Write a value unless there is one; whether it was written."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    written = connection.exec_driver_sql(
        f"INSERT INTO meta (name, value) VALUES ({mark}, {mark}) ON CONFLICT (name) DO NOTHING",
        (name, value),
    )
    return written.rowcount == 1


def put(connection: Connection, name: str, value: bytes) -> None:
    """In the place of whatever there is."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    connection.exec_driver_sql(
        f"INSERT INTO meta (name, value) VALUES ({mark}, {mark}) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _remove(connection: Connection, names: Collection[str]) -> int:
    """How many there were."""
    return connection.execute(meta.delete().where(meta.c.name.in_(names))).rowcount


def _all(engines: Engines, prefix: str) -> dict[str, bytes]:
    with engines.read() as connection:
        rows = connection.execute(meta.select().where(meta.c.name.startswith(prefix))).fetchall()
    return {row.name.removeprefix(prefix): bytes(row.value) for row in rows}


# -- the store and its KEKs -------------------------------------------------------------------


def store_of(engines: Engines) -> str | None:
    """The id of the key store of this database, None if it was never opened."""
    with engines.read() as connection:
        return store_in(connection)


def store_in(connection: Connection) -> str | None:
    """As `store_of`, for somebody who is in a transaction."""
    row = connection.execute(meta.select().where(meta.c.name == _STORE)).fetchone()
    return bytes(row.value).decode() if row else None


def claim(connection: Connection, store: str) -> bool:
    """Whether this process is the first to open the database."""
    return put_new(connection, _STORE, store.encode())


def checks(engines: Engines) -> Mapping[str, bytes]:
    """Check values of the KEKs that this database uses, by id."""
    return _all(engines, _CHECK)


def note_check(connection: Connection, kek: str, check: bytes) -> None:
    """Unless there is one."""
    put_new(connection, _CHECK + kek, check)


def forget_checks(connection: Connection, keks: Collection[str]) -> None:
    _remove(connection, [_CHECK + kek for kek in keks])


class Destruction(NamedTuple):
    """Of a KEK: what was known of it, and when it began. Times in microseconds."""

    created_at: int | None
    retired_at: int | None
    asked_at: int


def note_destruction(connection: Connection, kek: Kek, now: int) -> None:
    """That it begins, unless it began before."""
    begun = Destruction(kek.created_at, kek.retired_at, now)
    put_new(connection, _DESTROYING + kek.id, orjson.dumps(begun._asdict()))


def destructions(engines: Engines) -> Mapping[str, Destruction]:
    """Those that the log does not know to be done, by KEK."""
    noted = _all(engines, _DESTROYING)
    return {kek: Destruction(**orjson.loads(begun)) for kek, begun in noted.items()}


def forget_destruction(connection: Connection, kek: str) -> bool:
    """Whether it was still noted."""
    return _remove(connection, [_DESTROYING + kek]) == 1


class RetiredInDatabase:
    """`adapters.keyring.transit.Retirements`."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def read(self) -> Mapping[str, int]:
        return {kek: int(at) for kek, at in _all(self._engines, _RETIRED).items()}

    def note(self, keks: Collection[str], now: int) -> None:
        with self._engines.write() as connection:
            for kek in keks:
                put(connection, _RETIRED + kek, b"%d" % now)

    def forget(self, keks: Collection[str]) -> None:
        with self._engines.write() as connection:
            _remove(connection, [_RETIRED + kek for kek in keks])


# -- secrets of the installation --------------------------------------------------------------


class KeptSecrets:
    """Secrets by name, each wrapped by a KEK. store: whose they are."""

    def __init__(self, engines: Engines, keks: KekProvider, store: str) -> None:
        self._engines = engines
        self._keks = keks
        self._store = store

    def get(self, name: str) -> bytes | None:
        """Raises KeyUnavailable, SealBroken."""
        kept = value(self._engines, _SECRET + name)
        if kept is None:
            return None
        (secret,) = self._keks.unwrap([self._read(name, kept)])
        with wiping(secret):
            return bytes(secret)

    def put_new(self, name: str, secret: bytes) -> bytes:
        """Keep a secret unless there is one of this name; the one that is kept."""
        row = self.wrapped(name, secret)
        with self._engines.write() as connection:
            put_new(connection, *row)
        return self.get(name) or secret

    def wrapped(self, name: str, secret: bytes) -> tuple[str, bytes]:
        """The row of `meta` that keeps a secret."""
        (wrapped,) = self._keks.wrap([(self._place(name), secret)])
        return _SECRET + name, _written(wrapped)

    def rewrap(self) -> None:
        """Under the current KEK. Raises KeyUnavailable."""
        current = self._keks.keks()[-1].id
        for name, kept in _all(self._engines, _SECRET).items():
            wrapped = self._read(name, kept)
            if wrapped.kek == current:
                continue
            (fresh,) = self._keks.rewrap([wrapped])
            if fresh is not None:
                with self._engines.write() as connection:
                    put(connection, _SECRET + name, _written(fresh))

    def keks(self) -> set[str]:
        """The KEKs that wrap any of them."""
        kept = _all(self._engines, _SECRET)
        return {self._read(name, value).kek for name, value in kept.items()}

    def _read(self, name: str, kept: bytes) -> WrappedKey:
        kek, _, wrapped = kept.partition(b"\0")
        return WrappedKey(self._place(name), kek.decode(), wrapped)

    def _place(self, name: str) -> bytes:
        return b"\0".join((b"lapse/secret/v1", self._store.encode(), name.encode()))


def _written(wrapped: WrappedKey) -> bytes:
    return wrapped.kek.encode() + b"\0" + wrapped.wrapped
