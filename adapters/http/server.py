"""Runs the application with uvicorn, in a thread of the process that also sweeps and projects."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from domain.errors import SettingsInvalid

BACKLOG = 2_048
GRACE_SECONDS = 20
"""How long requests that run may go on when the service stops."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: any free one. Raises SettingsInvalid."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # From here on nobody is refused: who comes before the server runs waits for it.
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise SettingsInvalid(
            f"--host, --port: this address cannot be listened on ({error.strerror})"
        ) from None
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def serving(
    app: ASGIApp, listening: socket.socket, end_streams: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Answers requests until the block ends; then finishes what it took.

    end_streams: called once no new requests are taken, since streams would not end by themselves.
    """
    config = uvicorn.Config(
        app,
        access_log=False,  # it would write whole URLs
        log_config=None,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=2_000,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="lapse-http", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        end_streams()
        thread.join()
        listening.close()
