"""`lapse serve`: the HTTP API, the scheduler and the projections, until it is told to stop."""

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from socket import socket
from types import FrameType
from typing import Annotated

import orjson
import structlog
import typer

from adapters.background import repeating
from adapters.cli.errors import refusals
from adapters.cli.operate import sweep_document
from adapters.cli.options import Database, Json, load
from adapters.cli.output import print_json
from adapters.logs import Failures
from adapters.scheduler import budgets, requests
from adapters.scheduler.budgets import Budgets
from adapters.scheduler.copies import Copies
from adapters.scheduler.requests import RequestWorker
from adapters.scheduler.ticker import Ticker
from adapters.wiring import Lapse, open_lapse
from domain.errors import (
    LedgerDamaged,
    LedgerUnavailable,
    SettingsInvalid,
    StoreBusy,
    StoreUnavailable,
)
from domain.ports import SweepCount

_log = structlog.get_logger(component="serve")

REFRESH_SECONDS = 1.0
"""How often a process without a scheduler reads the policies again, and keys are looked at."""
CLEANUP_SECONDS = 5.0
"""How often it is asked whether a physical clean-up is due."""
PRUNE_SECONDS = 10.0
"""How often bodies of events are looked for whose time is over."""
PARTS = ("api", "worker")
RESTORE_AGAIN = 1.0
"""Seconds until what a restored database has forgotten is tried again."""


def serve(
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Where the HTTP API listens.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0: any free one.")
    ] = 8000,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="PART", help="api: HTTP. worker: scheduler and projections."
        ),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            "--ready-file", metavar="FILE", help='Written when ready: {"url": …, "pid": …}.'
        ),
    ] = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Run the HTTP API, the scheduler and the projections until SIGTERM or Ctrl-C.

    Requests that run are finished, streams are ended after what is known was sent.
    """
    with refusals():
        if only not in (None, *PARTS):
            raise SettingsInvalid(f"--only must be {' or '.join(PARTS)}")
        _dump_no_core()
        if ready_file is not None:
            _remove(ready_file)  # of a service that was killed: nobody may take it for this one
        try:
            with open_lapse(load(db, "info"), restore=False) as lapse:
                swept = _serve(lapse, only, host, port, ready_file)
        finally:
            if ready_file is not None:
                _remove(ready_file)
        if as_json:
            print_json({"swept": sweep_document(swept)})


def _dump_no_core() -> None:
    """What a core dump would write to disk is keys and names."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(
    lapse: Lapse, only: str | None, host: str, port: int, ready_file: Path | None
) -> SweepCount:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    if ready_file is not None:
        # That it can be written is known before anything is done.
        _write_ready(_partial(ready_file), None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    url, ticker = None, None
    with ExitStack() as parts:
        listening = None
        if only != "worker":
            from adapters.http.server import bind  # noqa: PLC0415 - see `answering`

            listening = bind(host, port)
        restore(lapse, listening, stop)
        if stop.is_set():
            return SweepCount()
        watching_ledger = partial(lapse.restoring.watch, lambda: not stop.is_set())
        parts.enter_context(repeating("ledger", watching_ledger, REFRESH_SECONDS))
        parts.enter_context(repeating("forget-keys", lapse.keyring.forget_old, REFRESH_SECONDS))
        if only != "api":
            ticker = parts.enter_context(working(lapse, stop))
            _work_beside(lapse, parts)
        else:
            # A scheduler reads the policies every second; without one somebody else must.
            parts.enter_context(repeating("policies", lapse.policies.refresh, REFRESH_SECONDS))
        watching = _budgets(lapse, erasing=only != "api")
        look = _once_restored(lapse, watching.look)
        parts.enter_context(repeating("budgets", look, budgets.SECONDS, first=0))
        if listening is not None:
            url = parts.enter_context(answering(lapse, listening))
        if ready_file is not None:
            _write_ready(_partial(ready_file), url)
            _partial(ready_file).replace(ready_file)
        _log.info("serve", operation="start", result="ready", pid=os.getpid(), url=url)
        stop.wait()
    _log.info("serve", operation="stop", result="done")
    return ticker.swept if ticker is not None else SweepCount()


def _once_restored(lapse: Lapse, step: Callable[[], object]) -> Callable[[], object]:
    """Not while a database that was put back under this process is told what it has forgotten: it
    may have to keep what it would delete."""
    return lambda: None if lapse.restoring.is_pending else step()


@contextmanager
def working(lapse: Lapse, stop: threading.Event) -> Iterator[Ticker]:
    """Scheduler and projections."""
    ticker = Ticker(
        lapse.log,
        lapse.policies,
        lapse.clock,
        lapse.holder,
        batch=lapse.settings.sweep_batch,
        alerts=lapse.alerts,
        waits=lambda: lapse.restoring.is_pending,
    )
    projecting = threading.Thread(
        target=lapse.projector.run, args=(stop,), name="lapse-projector", daemon=True
    )
    ticker.start()
    projecting.start()
    try:
        yield ticker
    finally:
        stop.set()
        lapse.projector.wake()
        ticker.close()
        projecting.join()


def _work_beside(lapse: Lapse, parts: ExitStack) -> None:
    """What else a worker does, each in a thread of its own: moving many keys, or cleaning up, takes
    a while, and sweeps must not wait. Long work is told to end before it is waited for."""
    parts.enter_context(repeating("tree", lapse.tree.follow, REFRESH_SECONDS, first=0))
    sign = partial(_at_present, lapse, lapse.checkpoints.run_due)
    parts.enter_context(repeating("checkpoints", sign, REFRESH_SECONDS))
    pruning = lapse.pruning()
    prune = _once_restored(lapse, partial(_at_present, lapse, pruning.run_due))
    parts.enter_context(repeating("prune", prune, PRUNE_SECONDS))
    parts.enter_context(closing(pruning))
    rotation = lapse.rotation()
    parts.enter_context(repeating("keys", rotation.run_due, REFRESH_SECONDS))
    parts.enter_context(closing(rotation))
    copies = Copies(lapse.access(), lapse.engines, lapse.clock, lapse.holder)
    parts.enter_context(repeating("copies", _once_restored(lapse, copies.work), REFRESH_SECONDS))
    cleaning = lapse.maintenance.run_due
    parts.enter_context(repeating("cleanup", cleaning, CLEANUP_SECONDS))
    worker = RequestWorker(lapse.requests, lapse.alerts, lapse.clock)
    look = _once_restored(lapse, worker.look)
    parts.enter_context(repeating("requests", look, requests.SECONDS))


def _at_present(lapse: Lapse, run_due: Callable[[int], object]) -> None:
    run_due(lapse.clock())


def _budgets(lapse: Lapse, *, erasing: bool) -> Budgets:
    """erasing: whether this process does what a worker does, too."""
    settings = lapse.settings
    return Budgets(
        lapse.log,
        lapse.sessions,
        lapse.alerts,
        lapse.clock,
        storage=settings.storage_budget if erasing else None,
        memory=settings.memory_budget,
        share=settings.emergency_share,
    )


def restore(lapse: Lapse, listening: socket | None, stop: threading.Event) -> None:
    """Do again what a restored database has forgotten; who asks meanwhile is told to come again.

    Tried again while the database or the ledger are away, until it is told to stop.
    """
    failures = Failures(_log, "restore", operation="replay")
    with ExitStack() as parts:
        if lapse.restoring.is_needed():
            _log.warning("restore", operation="replay", result="begins")
            if listening is not None:
                parts.enter_context(_turning_away(listening))
        while not stop.is_set():
            try:
                lapse.restore(lambda: not stop.is_set())
                failures.worked()
                break
            except (StoreBusy, StoreUnavailable, LedgerUnavailable) as error:
                if isinstance(error, LedgerDamaged):
                    raise
                failures.failed(result=type(error).__name__)
                stop.wait(RESTORE_AGAIN)


@contextmanager
def _turning_away(listening: socket) -> Iterator[None]:
    from adapters.http.restoring import Gate  # noqa: PLC0415 - see `answering`
    from adapters.http.server import serving  # noqa: PLC0415

    # A second descriptor: the server closes the one it is given, and nobody is refused between.
    with serving(Gate(None, lambda: True), listening.dup()):
        yield


@contextmanager
def answering(lapse: Lapse, listening: socket) -> Iterator[str]:
    """The HTTP API; its address."""
    # FastAPI takes half a second to import: only what serves pays for it.
    from adapters.http.opening import open_http  # noqa: PLC0415
    from adapters.http.server import serving, url_of  # noqa: PLC0415

    with open_http(lapse) as app, serving(app, listening, app.state.feed.end):
        yield url_of(listening)


def _partial(path: Path) -> Path:
    """Renamed in the end: whoever waits for the file reads it the moment it appears."""
    return path.with_name(f"{path.name}.partial")


def _write_ready(path: Path, url: str | None) -> None:
    try:
        path.write_bytes(orjson.dumps({"url": url, "pid": os.getpid()}))
    except OSError as error:
        raise SettingsInvalid(f"--ready-file cannot be written ({error.strerror})") from None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsInvalid(f"--ready-file cannot be written ({error.strerror})") from None
