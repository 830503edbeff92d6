"""Opens the keyring of a database, or refuses to: never new keys for data that exists."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.folders import goes_with
from adapters.keyring import known, signing
from adapters.keyring.escrow import Escrow
from adapters.keyring.file_keyring import (
    FileKeyring,
    KeyFile,
    create_key_file,
    discard_key_file,
    read_key_file,
)
from adapters.keyring.keks import KekProvider, TransitKey
from adapters.keyring.keyring import Keyring
from adapters.keyring.signing import Signers
from adapters.log.engine import Engines
from domain.errors import KeyUnavailable

if TYPE_CHECKING:
    from adapters.keyring.transit import TransitKeks

_LOOKUP = "lookup"
_LOOKUP_SECRET = 32


def open_keyring(
    engines: Engines,
    keys: Path | TransitKey,
    database: Path | None,
    now: int,
    escrow: Escrow | None = None,
) -> Keyring:
    """The keyring for this database. keys: folder of key files, or a key of Vault. database: its
    file, if it is one. escrow: of the key file.

    A database that was never opened before gets an id and keys of its own. Raises KeyUnavailable.
    """
    if isinstance(keys, TransitKey):
        return _open_transit(engines, keys)
    _refuse_beside("the key folder", "LAPSE_KEY_URL", keys, database)
    if escrow is not None:
        _refuse_beside("the escrow", "LAPSE_KEY_ESCROW_URL", escrow.folder, database)
    store = known.store_of(engines) or _new_store_in_file(engines, keys, now)
    file = read_key_file(keys, store, escrow)
    if known.value(engines, known.LOOKUP_CHECK) != file.lookup_check_value():
        raise KeyUnavailable(
            "the key file does not hold the lookup secret of this database: restore the key file "
            "that belongs to it; nothing was changed"
        )
    require_known(engines, file)
    return FileKeyring(file)


def store_of(engines: Engines) -> str:
    """The random id of the store behind a database that was opened before."""
    return known.store_of(engines) or ""


def open_signers(engines: Engines, keyring: Keyring) -> Signers:
    """What this installation signs with. Made with the first use of a version that signs; never
    again once the database knows what signs. Raises KeyUnavailable."""
    store, make = store_of(engines), not signing.public_keys(engines)
    seeds: Mapping[str, bytes]
    if isinstance(keyring.keks, KeyFile):
        seeds = keyring.keks.signing_seeds(frozenset(signing.PURPOSES), make=make)
    else:
        seeds = _kept_seeds(known.KeptSecrets(engines, keyring.keks, store), make=make)
    if missing := set(signing.PURPOSES) - seeds.keys():
        raise KeyUnavailable(
            f"the key store does not hold what signs the {' and '.join(sorted(missing))} of this "
            "database: restore the key file that belongs to it; nothing was changed"
        )
    return signing.open_signers(engines, store, seeds)


def _kept_seeds(kept: known.KeptSecrets, *, make: bool) -> dict[str, bytes]:
    """With Vault, which signs nothing for us: wrapped in the database."""
    seeds: dict[str, bytes] = {}
    for purpose in signing.PURPOSES:
        name = f"signer-{purpose}"
        seed = kept.get(name)
        if seed is None and make:
            seed = kept.put_new(name, secrets.token_bytes(signing.SEED))
        if seed is not None:
            seeds[purpose] = seed
    return seeds


def require_known(engines: Engines, keks: KekProvider) -> None:
    """Every KEK that the database was sealed with must be there, unchanged.

    Raises KeyUnavailable.
    """
    for kek, check in known.checks(engines).items():
        if not keks.recognises(kek, check):
            raise KeyUnavailable(
                f"the key store does not hold key {kek} with which this database was sealed: set "
                "LAPSE_KEY_URL to the one that does, or restore the key file that belongs to it. A "
                "backup of the database that is older than LAPSE_RESTORE_WINDOW cannot be opened "
                "any more; nothing was changed"
            )


def _refuse_beside(what: str, variable: str, folder: Path, database: Path | None) -> None:
    if goes_with(folder, database):
        raise KeyUnavailable(
            f"{what} lies below the folder of the database, so a copy of that folder would "
            f"hold both the sealed data and its keys: set {variable} to a folder elsewhere"
        )


def _new_store_in_file(engines: Engines, folder: Path, now: int) -> str:
    """Keys first, then the database's knowledge of them: a crash between leaves a spare file."""
    store = secrets.token_hex(8)
    keys = create_key_file(folder, store, now)
    try:
        won = _claim_for_file(engines, store, keys)
    except BaseException:
        discard_key_file(folder, store)
        raise
    if won:
        return store
    discard_key_file(folder, store)
    return known.store_of(engines) or store


def _claim_for_file(engines: Engines, store: str, keys: KeyFile) -> bool:
    with engines.write() as connection:
        won = known.claim(connection, store)
        if won:
            known.note_check(connection, *keys.check_value())
            known.put_new(connection, known.LOOKUP_CHECK, keys.lookup_check_value())
    return won


def _open_transit(engines: Engines, key: TransitKey) -> Keyring:
    """The secret of the lookups lies wrapped in the database and is unwrapped once: it is used for
    every request, which Vault should not be."""
    store = known.store_of(engines)
    if store is None:
        store = _new_store_in_transit(engines, key)
    keks = _transit(engines, key, store)
    try:
        require_known(engines, keks)
        lookup_secret = known.KeptSecrets(engines, keks, store).get(_LOOKUP)
        if lookup_secret is None:
            raise KeyUnavailable(
                "the secret of the lookups is missing from the database: restore it from a backup"
            )
    except BaseException:
        keks.close()
        raise
    return Keyring(keks, lookup_secret)


def _new_store_in_transit(engines: Engines, key: TransitKey) -> str:
    store = secrets.token_hex(8)
    keks = _transit(engines, key, store)
    try:
        keks.create()
        kek, check = keks.check_value()
        lookup = known.KeptSecrets(engines, keks, store).wrapped(
            _LOOKUP, secrets.token_bytes(_LOOKUP_SECRET)
        )
        with engines.write() as connection:
            won = known.claim(connection, store)
            if won:
                known.note_check(connection, kek, check)
                known.put_new(connection, *lookup)
    finally:
        keks.close()
    return store if won else known.store_of(engines) or store


def _transit(engines: Engines, key: TransitKey, store: str) -> "TransitKeks":
    from adapters.keyring.transit import TransitKeks  # noqa: PLC0415 - an HTTP client, rarely used

    return TransitKeks(key, store, known.RetiredInDatabase(engines))
