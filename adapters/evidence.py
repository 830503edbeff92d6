"""What is kept outside the database so that it cannot be rewritten with it: checkpoints of the log
and certificates, in a folder or an object store (LAPSE_EVIDENCE_URL).

Each is an object of its own that is written once and never again. A store that forbids deleting
(object lock, a disk mounted append-only) makes it evidence against the operator too.

    checkpoints/EPOCH/MILLIONS/SIZE     the note; names sort by epoch and size
    certificates/ID-EVENT-POSITION      a certificate of what an event says, the first one issued
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.folders import folder_of, goes_with
from adapters.object_stores import CREDENTIALS, client_options, is_bucket
from domain.errors import EvidenceUnavailable, SettingsInvalid

_CHECKPOINT = re.compile(r"checkpoints/(\d{6})/\d{12}/(\d{18})")
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


def open_evidence(url: str, database: Path | None) -> "Evidence":
    """The store behind a URL. database: the file of an embedded one, beside which evidence would
    go where the database goes. Raises SettingsInvalid."""
    folder = folder_of(url)
    if folder is None and not is_bucket(url):
        raise SettingsInvalid(
            "LAPSE_EVIDENCE_URL: write file:///folder, an absolute path, or s3://bucket/prefix; "
            f"{CREDENTIALS}"
        )
    if folder is not None and goes_with(folder, database):
        raise SettingsInvalid(
            "LAPSE_EVIDENCE_URL lies below the folder of the database: whoever replaces that "
            "folder would replace the evidence too; name a folder elsewhere"
        )
    return Evidence(url, folder)


class Evidence:
    """The evidence of one installation. Everything here raises EvidenceUnavailable.

    folder: where it is, None for an object store.
    """

    def __init__(self, url: str, folder: Path | None) -> None:
        self._url = url
        self._folder = folder
        self._opened: Any = None

    def put_checkpoint(self, epoch: int, size: int, note: str) -> None:
        """Keep a checkpoint, unless it is there already: with the same text, whoever cosigned."""
        path = f"checkpoints/{epoch:06d}/{size // 1_000_000:012d}/{size:018d}"
        if self._put(path, note.encode()):
            return
        if self._get(path).rpartition("\n\n")[0] != note.rpartition("\n\n")[0]:
            raise EvidenceUnavailable("another checkpoint of this size is there")

    def put_certificate(self, name: str, body: bytes) -> None:
        """Keep a certificate under a name, unless one is there already. Raises ValueError for a
        name that is none."""
        if not _ID.fullmatch(name):
            raise ValueError("not the id of a certificate")
        self._put(f"certificates/{name}", body)

    def latest_checkpoint(self, epoch: int | None = None) -> str | None:
        """The largest checkpoint of an epoch (None: of the newest one)."""
        prefix = "checkpoints/"
        while True:
            if epoch is not None and prefix == "checkpoints/":
                prefix = f"checkpoints/{epoch:06d}/"
            folders, objects = self._listed(prefix)
            if objects:
                return self._get(objects[-1])
            if not folders:
                return None
            prefix = f"{folders[-1]}/"

    def checkpoints(self, epoch: int) -> Iterator[tuple[int, str]]:
        """(size, note) of every checkpoint of an epoch, the smallest first."""
        for folder in self._listed(f"checkpoints/{epoch:06d}/")[0]:
            for name in self._listed(f"{folder}/")[1]:
                yield int(name.rpartition("/")[2]), self._get(name)

    # -- objects ----------------------------------------------------------------------------------

    def _put(self, path: str, body: bytes) -> bool:
        """Written once: mode `create` refuses what is there, whoever wrote it first (False)."""
        import obstore  # noqa: PLC0415 - see _store
        from obstore.exceptions import AlreadyExistsError, BaseError  # noqa: PLC0415

        try:
            obstore.put(self._store(), path, body, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise EvidenceUnavailable(type(error).__name__) from None
        return True

    def _get(self, path: str) -> str:
        import obstore  # noqa: PLC0415
        from obstore.exceptions import BaseError  # noqa: PLC0415

        try:
            body = bytes(obstore.get(self._store(), path).bytes())
            return body.decode("utf-8", "replace")
        except (BaseError, OSError) as error:
            raise EvidenceUnavailable(type(error).__name__) from None

    def _listed(self, prefix: str) -> tuple[list[str], list[str]]:
        """The folders and the checkpoints right below a prefix, sorted; else nothing counts."""
        import obstore  # noqa: PLC0415
        from obstore.exceptions import BaseError  # noqa: PLC0415

        try:
            found = obstore.list_with_delimiter(self._store(), prefix)
        except (BaseError, OSError) as error:
            raise EvidenceUnavailable(type(error).__name__) from None
        folders = sorted(one.rstrip("/") for one in found["common_prefixes"])
        objects = sorted(one["path"] for one in found["objects"])
        numbered = [one for one in folders if one.rpartition("/")[2].isdecimal()]
        return numbered, [one for one in objects if _CHECKPOINT.fullmatch(one)]

    def _store(self) -> Any:
        """Opened when it is first used: the library takes its time to load."""
        if self._opened is not None:
            return self._opened
        from obstore.exceptions import BaseError  # noqa: PLC0415
        from obstore.store import LocalStore, from_url  # noqa: PLC0415

        try:
            if self._folder is not None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._opened = LocalStore(self._folder, automatic_cleanup=False)
            else:
                self._opened = from_url(
                    self._url,
                    client_options=client_options(),
                    retry_config=_RETRIES,
                )
        except (BaseError, OSError, ValueError) as error:
            raise EvidenceUnavailable(type(error).__name__) from None
        return self._opened


_RETRIES: Any = {"max_retries": 2}
