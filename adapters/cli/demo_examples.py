"""The example pages beside the demonstration: a service of its own on loopback, at the usual pace.

It has a database and keys of its own below the demo's folder. The demo's clock runs through forty
days a minute: under it a room would be over before anybody has typed a name.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.cli.serving import answering, working
from adapters.settings import Settings
from adapters.wiring import open_lapse
from domain.policy import HOUR

POLICIES = ("biometric-coach", "reading-room", "video-analysis")
"""What the pages begin sessions of; the token is good for nothing else."""


@dataclass(frozen=True)
class Examples:
    """Where the pages are, and the producer's token that they ask for. It is good for an hour, and
    only at this service, which ends with the demo."""

    url: str
    token: str


@contextmanager
def serving_examples(settings: Settings, folder: Path) -> Iterator[Examples]:
    """The pages, until the block ends. folder: where database and keys go. Raises SettingsInvalid,
    and what else opening raises."""
    from adapters.http.opening import open_tokens  # noqa: PLC0415 - imports FastAPI
    from adapters.http.server import bind  # noqa: PLC0415
    from adapters.http.tokens import Role  # noqa: PLC0415

    own = settings.model_copy(
        update={
            "database_url": f"sqlite:///{(folder / 'db' / 'lapse.db').resolve()}",
            "key_url": (folder / "keys").resolve().as_uri(),
            "ledger_url": None,
            "pages": True,
            "examples": True,
        }
    )
    stop = threading.Event()
    with (
        open_lapse(own) as lapse,
        working(lapse, stop),
        answering(lapse, bind("127.0.0.1", 0)) as url,
    ):
        token = open_tokens(lapse).mint(Role.PRODUCER, HOUR, "demo", policies=POLICIES)
        yield Examples(f"{url}/examples/", token)
