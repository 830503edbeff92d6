"""The emergency: more is stored than there should be, so the oldest goes before its time.

Finished sessions first (completed, failed or expired, the oldest first), then those nobody was seen
in, or stored something in, for longest - until what is left fits. Holds win here too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from domain.ports import Found, Log
from domain.session import SCHEDULER, By, Phase
from domain.use_cases.sessions import Sessions

BATCH = 200
"""Sessions looked at per transaction."""


@dataclass(frozen=True)
class Relief:
    """What an emergency did. held: sessions it had to leave. stored: bytes that are left."""

    erased: int = 0
    bytes_freed: int = 0
    held: int = 0
    stored: int = 0


def relieve(log: Log, sessions: Sessions, now: int, most: int) -> Relief:
    """Erase until at most `most` bytes are stored, or nothing is left that may go."""
    erased = freed = 0
    left: set[str] = set()
    while (stored := log.stored_bytes()) > most:
        found = [one for one in log.relievable(BATCH + len(left)) if one.session.id not in left]
        chosen = _until(sorted(found, key=_order), stored - most)
        if not chosen:
            break
        gone = sessions.erase_all(chosen, now, SCHEDULER, by=By.EMERGENCY)
        erased += len(gone)
        freed += sum(one.session.stored_bytes for one in chosen if one.session.id in gone)
        # Held, or changed meanwhile: somebody was there, so it is not the oldest any more.
        left |= {one.session.id for one in chosen} - gone
    return Relief(erased, freed, len(left), stored)


def _order(found: Found) -> tuple[bool, int]:
    session = found.session
    if session.phase is not Phase.ACTIVE:
        return False, session.created_at
    return True, max(found.last_seen, session.stored_at or 0)


def _until(found: Sequence[Found], surplus: int) -> Sequence[Found]:
    """As many of these as it takes to free `surplus` bytes."""
    chosen: list[Found] = []
    for one in found:
        if surplus <= 0:
            break
        chosen.append(one)
        surplus -= one.session.stored_bytes
    return chosen
