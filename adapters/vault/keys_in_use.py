"""The generation keys that this process has opened. See adapters/keyring/generation_keys.py.

That others came is noticed by who looks somebody up, by who meets a row under a key that is not
known, and by every writer.
"""

from sqlalchemy import Connection

from adapters.keyring import generation_keys, known
from adapters.keyring.generation_keys import GenerationKeys, Kept
from adapters.keyring.keks import KekProvider
from domain.errors import KeyUnavailable


class KeysInUse:
    """keks: open generation keys (None: a database that has none yet, or whoever needs none)."""

    def __init__(self, keks: KekProvider | None = None) -> None:
        self._keks = keks
        self.opened: GenerationKeys | None = None

    def unlock(self, keks: KekProvider) -> None:
        """From now on generation keys can be opened."""
        self._keks = keks

    def read(self, connection: Connection) -> GenerationKeys:
        """As the list is now. Raises KeyUnavailable."""
        return self._open(connection, generation_keys.read(connection))

    def writing(self, connection: Connection) -> "Writing":
        """For what a transaction writes."""
        return Writing(self, connection)

    def read_locked(self, connection: Connection) -> GenerationKeys:
        """As the list stands until this transaction ends. Raises KeyUnavailable."""
        return self._open(connection, generation_keys.read_locked(connection))

    def _open(self, connection: Connection, kept: Kept) -> GenerationKeys:
        keys = self.opened
        if keys is None or keys.kept != kept:
            if self._keks is None and kept.keys:
                raise KeyUnavailable("whoever reads or writes people here was given no keys")
            keys = self.opened = self._anew(connection, kept, keys)
        return keys

    def _anew(
        self, connection: Connection, kept: Kept, before: GenerationKeys | None
    ) -> GenerationKeys:
        if self._keks is None:
            return GenerationKeys(kept, {})
        store = known.store_in(connection) or ""
        return generation_keys.open_keys(kept, self._keks, store, before.keys if before else {})


class Writing:
    """The keys under which one transaction writes: asked for at most once, if anything needs
    them."""

    def __init__(self, in_use: KeysInUse, connection: Connection) -> None:
        self._in_use = in_use
        self._connection = connection
        self._keys: GenerationKeys | None = None

    @property
    def keys(self) -> GenerationKeys:
        """Raises KeyUnavailable."""
        if self._keys is None:
            self._keys = self._in_use.read_locked(self._connection)
        return self._keys
