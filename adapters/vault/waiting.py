"""What a request for erasure waits for when nothing keeps it back. Asked when it is shown, never
stored."""

from enum import StrEnum

from adapters.vault.maintenance import CleanUp, Verification
from domain.erasure import Status
from domain.ports import Pending, RequestRow


class WaitingFor(StrEnum):
    """What must happen before a request goes on to its next status."""

    EXECUTION = "execution"  # the worker, which carries it out
    CACHES = "caches"  # half a minute, until no process keeps a key that is gone
    CLEANUP = "cleanup"  # a physical clean-up that began after the execution
    READER = "reader"  # the end of what still reads deleted rows, such as a backup that runs
    ROTATION = "rotation"  # the end of a rotation, which moves the keys that a clean-up would
    SCAN = "scan"  # the worker, which has every store read back
    KEYS = "keys"  # the destruction of the keys under which a backup could be opened


_OF_PENDING = {
    Pending.CACHES: WaitingFor.CACHES,
    Pending.CLEANUP: WaitingFor.CLEANUP,
    Pending.READER: WaitingFor.READER,
    Pending.KEYS: WaitingFor.ROTATION,
}


def waiting_for(
    row: RequestRow, verification: Verification, now: int, last: CleanUp | None
) -> WaitingFor | None:
    """None: nothing more happens to it, or its reason says why it does not go on. last: the last
    clean-up, read once for a list of requests."""
    request = row.request
    if request.reason is not None or request.is_done:
        return None
    if request.status is Status.REQUESTED or request.executed_at is None:
        return WaitingFor.EXECUTION
    if request.status is Status.VERIFIED:
        return WaitingFor.KEYS
    pending = verification.pending(request.executed_at, now, last)
    return WaitingFor.SCAN if pending is None else _OF_PENDING[pending]
