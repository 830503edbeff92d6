"""Key-encryption keys (KEKs) in a file outside the database.

The key file is JSON, mode 0600, in a folder of mode 0700 that must not lie under the folder of the
database, or a copy of that one would hold both. It is named after the random id of its store, and
the database keeps a check value of every KEK it uses: a key file that is missing, foreign or
damaged is refused at the start. New keys are made only for a store that has none.

A change writes the whole file anew under another name and renames it, so that a crash leaves the
old one or the new one; a lock file keeps two writers apart. Processes that have it open notice. If
there is an escrow it gets a copy after each change, and before a destruction.
"""

import fcntl
import hmac
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from adapters.keyring.aead import KEY, seal, unseal, wiping
from adapters.keyring.escrow import Escrow
from adapters.keyring.keks import Counter, EscrowState, Kek, Placed, WrappedKey
from adapters.keyring.keyring import Keyring
from adapters.keyring.replacing import replace_file, sync_folder, write_file
from domain.errors import KeyUnavailable, SealBroken

_FORMAT = "lapse/keys/v3"
_SECOND_FORMAT = "lapse/keys/v2"  # without what signs, and counts nothing
_FIRST_FORMAT = "lapse/keys/v1"  # keks are keys alone, without times


@dataclass(frozen=True)
class FileKek:
    """A KEK and what is known of it; see `Kek`."""

    key: bytes
    created_at: int | None
    retired_at: int | None = None


@dataclass(frozen=True)
class Content:
    """What a key file holds. keks: the newest last. lookup_secret: for keyed hashes. signing: seeds
    of signing keys by purpose; none in a file of an earlier version. counter: how far ledger and
    log reached (None: nobody noted it)."""

    store: str
    keks: Mapping[str, FileKek]
    lookup_secret: bytes
    signing: Mapping[str, bytes] = field(default_factory=dict)
    counter: Counter | None = None


class KeyFile:
    """The KEKs of one store, in a file; `adapters.keyring.keks.KekProvider`."""

    def __init__(self, path: Path, content: Content, escrow: Escrow | None = None) -> None:
        self._path = path
        self._escrow = escrow
        self._content = content
        # As if it had changed: it may have, between our reading it and a look at it here.
        self._seen: tuple[int, int, int] | None = None

    @property
    def lookup_secret(self) -> bytes:
        return self._content.lookup_secret

    def keks(self) -> Sequence[Kek]:
        keks = self._newest().keks
        return [Kek(name, one.created_at, one.retired_at) for name, one in keks.items()]

    def look_again(self) -> None:
        """The file is looked at for every answer."""

    def wrap(self, keys: Sequence[Placed]) -> list[WrappedKey]:
        keks = self._newest().keks
        current = list(keks)[-1]
        return [
            WrappedKey(place, current, seal(keks[current].key, key, place)) for place, key in keys
        ]

    def unwrap(self, keys: Sequence[WrappedKey]) -> list[bytearray]:
        return [unseal(self._kek(one.kek), one.wrapped, one.place) for one in keys]

    def rewrap(self, keys: Sequence[WrappedKey]) -> list[WrappedKey | None]:
        return [self._rewrapped(one) for one in keys]

    def _rewrapped(self, one: WrappedKey) -> WrappedKey | None:
        try:
            (key,) = self.unwrap([one])
        except (KeyUnavailable, SealBroken):
            return None
        with wiping(key):
            return self.wrap([(one.place, key)])[0]

    def rotate(self, now: int) -> str:
        name = secrets.token_hex(16)
        fresh = FileKek(secrets.token_bytes(KEY), created_at=now)
        self._change_keks(lambda keks: {**keks, name: fresh})
        return name

    def retire(self, keks: Collection[str], now: int) -> None:
        self._change_keks(
            lambda known: {
                name: replace(one, retired_at=now) if name in keks else one
                for name, one in known.items()
            }
        )

    def destroy(self, keks: Collection[str]) -> Collection[str]:
        """Raises KeyUnavailable."""
        gone = set(keks) - {self.keks()[-1].id}
        with self._locked() as content:
            left = {name: one for name, one in content.keks.items() if name not in gone}
            changed = replace(content, keks=left)
            if not self._copy(changed):
                return ()  # it waits until it can be destroyed in both
            self._write(changed)
        return gone

    def escrow_state(self) -> EscrowState | None:
        return None if self._escrow is None else _state(self._escrow, self._path, self._newest())

    def keep_escrow(self) -> EscrowState | None:
        """Raises KeyUnavailable."""
        if self._escrow is None:
            return None
        if self.escrow_state() is EscrowState.CURRENT:
            self._escrow.succeed()
        else:
            with self._locked() as content:
                self._copy(content)
        return self.escrow_state()

    def signing_seeds(self, purposes: frozenset[str], *, make: bool) -> Mapping[str, bytes]:
        """The seeds of the signing keys. make: those that are missing are made.

        Raises KeyUnavailable if they cannot be kept.
        """
        known = self._newest().signing  # another process may have made them since we read the file
        if not make or not purposes - known.keys():
            return known
        made = {purpose: secrets.token_bytes(KEY) for purpose in purposes}
        self._change(lambda content: replace(content, signing={**made, **content.signing}))
        return self._content.signing

    def counter(self) -> Counter | None:
        return self._newest().counter

    def note_counter(self, counter: Counter) -> None:
        """Never less than another process noted."""

        def further(content: Content) -> Content:
            known = content.counter or counter
            entries = max(known.entries, counter.entries)
            reach = max(known[1:], counter[1:])
            return replace(content, counter=Counter(entries, *reach))

        self._change(further)

    def check_value(self) -> tuple[str, bytes]:
        name = self.keks()[-1].id
        return name, self._check_value(name)

    def recognises(self, kek: str, check: bytes) -> bool:
        known = kek in self._content.keks or kek in self._newest().keks
        return known and hmac.compare_digest(self._check_value(kek), check)

    def close(self) -> None:
        """Nothing stays open between two uses."""

    def lookup_check_value(self) -> bytes:
        """What the database keeps to recognise the secret by under which names are found again."""
        message = b"lapse/lookup-check/v1" + self._content.store.encode()
        return hmac.digest(self._content.lookup_secret, message, "sha256")

    def _check_value(self, kek: str) -> bytes:
        message = b"lapse/kek-check/v1" + self._content.store.encode()
        return hmac.digest(self._content.keks[kek].key, message, "sha256")

    def _kek(self, name: str) -> bytes:
        known = self._content.keks.get(name) or self._newest().keks.get(name)
        if known is None:
            raise KeyUnavailable(f"key-encryption key {name} is not in the key store")
        return known.key

    def _newest(self) -> Content:
        """What the file says now, if it can be read and is still the same store's: one that was
        taken away while we work does not end our work."""
        signature = _signature(self._path)
        if signature != self._seen:
            try:
                content = _read(self._path, self._content.store)
            except KeyUnavailable:
                return self._content
            if content.lookup_secret == self._content.lookup_secret:
                self._content, self._seen = content, signature
        return self._content

    def _change_keks(
        self, change: Callable[[Mapping[str, FileKek]], Mapping[str, FileKek]]
    ) -> None:
        self._change(lambda content: replace(content, keks=change(content.keks)))

    def _change(self, change: Callable[[Content], Content]) -> None:
        """Write the file anew, while no other process does. Raises KeyUnavailable."""
        with self._locked() as content:
            changed = change(content)
            self._write(changed)
            self._copy(changed)

    @contextmanager
    def _locked(self) -> Iterator[Content]:
        """What the file says, while no other process changes it. Raises KeyUnavailable."""
        with _locked(self._path):
            yield _read(self._path, self._content.store)

    def _write(self, content: Content) -> None:
        with _writing():
            replace_file(self._path, _encoded(content))
        self._content, self._seen = content, _signature(self._path)

    def _copy(self, content: Content) -> bool:
        """Whether the escrow, if there is one, has this now."""
        if self._escrow is None:
            return True
        if _state(self._escrow, self._path, content) is EscrowState.AHEAD:
            self._escrow.fail("it holds other keys: newer ones, or those of another database")
            return False
        return self._escrow.keep(self._path.name, _encoded(content))


class FileKeyring(Keyring):
    """A keyring whose KEKs are in a file."""

    def __init__(self, keys: KeyFile) -> None:
        super().__init__(keys, keys.lookup_secret)


def create_key_file(folder: Path, store: str, now: int | None = None) -> KeyFile:
    """Make the keys of a new store. Raises KeyUnavailable if they cannot be kept safely."""
    kek = FileKek(secrets.token_bytes(KEY), created_at=now)
    content = Content(store, {secrets.token_hex(16): kek}, secrets.token_bytes(KEY))
    path = _path(folder, store)
    with _writing():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, _encoded(content))
        sync_folder(folder)
    return KeyFile(path, content)


def discard_key_file(folder: Path, store: str) -> None:
    """Take back the keys of a store that never came to be."""
    _path(folder, store).unlink(missing_ok=True)


def read_key_file(folder: Path, store: str, escrow: Escrow | None = None) -> KeyFile:
    """The keys of a store. Raises KeyUnavailable with what is wrong and what to do."""
    path = _path(folder, store)
    return KeyFile(path, _read(path, store), escrow)


def _path(folder: Path, store: str) -> Path:
    return folder / f"{store}.keys.json"


# -- reading ----------------------------------------------------------------------------------


def _signature(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever the file is written anew; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path, store: str) -> Content:
    try:
        # Not through a link: it could lead below the database's folder, or to another's file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            opened = os.fstat(descriptor)
            body = file.read()
        folder_mode = path.parent.stat().st_mode
    except FileNotFoundError:
        raise KeyUnavailable(
            f"the key file {path.name} of this database is missing from the key folder: set "
            "LAPSE_KEY_URL to the folder that holds it, or restore it; without it nothing sealed "
            "can be read, and no new keys are made for data that exists"
        ) from None
    except OSError as error:
        raise KeyUnavailable(
            f"the key file {path.name} cannot be read ({error.strerror})"
        ) from None
    if opened.st_mode & 0o077:
        raise KeyUnavailable(
            f"the key file {path.name} may be read by other users: run chmod 600 on it"
        )
    if folder_mode & 0o022:
        raise KeyUnavailable(
            "other users may replace what is in the key folder: run chmod 700 on it"
        )
    content = _decoded(body)
    if content is None:
        newest = _signature(path)
        if newest is not None and newest[0] != opened.st_ino:
            return _read(path, store)  # overwritten while we read it: a new one took its place
        raise KeyUnavailable(f"the key file {path.name} is damaged: restore it from its copy")
    if content.store != store:
        raise KeyUnavailable(f"the key file {path.name} belongs to another database")
    return content


def _decoded(body: bytes) -> Content | None:
    """The content of a key file, None if it is damaged."""
    try:
        fields = orjson.loads(body)
        first = fields["format"] == _FIRST_FORMAT
        keks = {
            name: FileKek(bytes.fromhex(one), None) if first else _decoded_kek(one)
            for name, one in fields["keks"].items()
        }
        signing = {
            purpose: bytes.fromhex(seed) for purpose, seed in fields.get("signing", {}).items()
        }
        counter = _decoded_counter(fields.get("counter"))
        content = Content(
            fields["store"], keks, bytes.fromhex(fields["lookup_secret"]), signing, counter
        )
        secret = [*(one.key for one in keks.values()), content.lookup_secret, *signing.values()]
        known = fields["format"] in (_FORMAT, _SECOND_FORMAT, _FIRST_FORMAT)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if known and keks and all(len(key) == KEY for key in secret) else None


def _decoded_counter(fields: Mapping[str, Any] | None) -> Counter | None:
    """Raises ValueError, KeyError or TypeError."""
    if fields is None:
        return None
    counter = Counter(fields["entries"], fields["epoch"], fields["position"])
    if not all(type(number) is int for number in counter):
        raise ValueError
    return counter


def _decoded_kek(fields: Mapping[str, Any]) -> FileKek:
    """Raises ValueError, KeyError or TypeError."""
    times = fields["created_at"], fields["retired_at"]
    if not all(time is None or type(time) is int for time in times):
        raise ValueError
    return FileKek(bytes.fromhex(fields["key"]), *times)


# -- the escrow -------------------------------------------------------------------------------


def _state(escrow: Escrow, path: Path, content: Content) -> EscrowState:
    """How the copy stands to what the key file says. The counter changes all the time and says
    nothing about keys: it may lag."""
    try:
        body = escrow.read(path.name)
    except OSError:
        return EscrowState.UNAVAILABLE
    copy = _decoded(body) if body is not None else None
    if copy is None:
        return EscrowState.BEHIND
    if copy.store != content.store or _is_newer(copy, content):
        return EscrowState.AHEAD
    same = replace(copy, counter=None) == replace(content, counter=None)
    return EscrowState.CURRENT if same else EscrowState.BEHIND


def _is_newer(copy: Content, content: Content) -> bool:
    """The key file is then an older one that somebody put there. What it lacks otherwise is what
    was destroyed, or is about to be."""
    newest = max(one.created_at or 0 for one in content.keks.values())
    unknown = copy.keks.keys() - content.keks.keys()
    return any((copy.keks[kek].created_at or 0) > newest for kek in unknown)


# -- writing ----------------------------------------------------------------------------------


def _encoded(content: Content) -> bytes:
    keks = {
        name: {"key": one.key.hex(), "created_at": one.created_at, "retired_at": one.retired_at}
        for name, one in content.keks.items()
    }
    fields = {
        "format": _FORMAT,
        "store": content.store,
        "keks": keks,
        "lookup_secret": content.lookup_secret.hex(),
        "signing": {purpose: seed.hex() for purpose, seed in content.signing.items()},
        "counter": content.counter._asdict() if content.counter is not None else None,
    }
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among all who change this key file; a process that ends gives its lock back."""
    with _writing():
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with _writing():
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeyUnavailable(
            f"the key folder of LAPSE_KEY_URL cannot be written ({error.strerror}): "
            "name a folder that this user may write"
        ) from None
