"""Opens the erasure ledger that a setting names."""

from pathlib import Path

from adapters.folders import folder_of, goes_with
from adapters.ledger.local import LocalLedger
from adapters.object_stores import CREDENTIALS, client_options, is_bucket
from domain.errors import SettingsInvalid
from domain.ports import Ledger


def open_ledger(url: str, store: str, database: Path | None) -> Ledger:
    """The ledger of one database. store: its random id. database: its file, if it is one.

    Nothing is made before the first entry. Raises SettingsInvalid.
    """
    folder = folder_of(url)
    if folder is None:
        if is_bucket(url):
            return _in_bucket(url, store)
        raise SettingsInvalid(
            "LAPSE_LEDGER_URL: write file:///folder, an absolute path, or s3://bucket/prefix; "
            f"{CREDENTIALS}"
        )
    if goes_with(folder, database):
        raise SettingsInvalid(
            "LAPSE_LEDGER_URL: the ledger lies below the folder of the database, so whoever "
            "restores that folder restores an older ledger too: name a folder elsewhere"
        )
    return LocalLedger(folder, store)


def _in_bucket(url: str, store: str) -> Ledger:
    # An S3 client, rarely used.
    from obstore.store import S3Store  # noqa: PLC0415

    from adapters.ledger.objects import ObjectLedger  # noqa: PLC0415

    # Few retries: a transaction waits for the answer.
    objects = S3Store.from_url(
        url, client_options=client_options(), retry_config={"max_retries": 2}
    )
    return ObjectLedger(objects, store)
