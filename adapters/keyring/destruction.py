"""Evidence in the log that a key-encryption key (KEK) is gone.

That a destruction begins is noted in the database, in the transaction in which it forgets the KEK.
The fact is written when the key store does not have the KEK any more, in the transaction that takes
the note away: whoever comes next goes on where another was killed, and nobody says it twice.
"""

from collections.abc import Callable, Collection, Sequence

from sqlalchemy import Connection, func, select

from adapters.keyring import known
from adapters.keyring.keks import Kek
from adapters.keyring.known import Destruction
from adapters.log.engine import Engines
from adapters.log.event_log import append_facts
from adapters.log.schema import events
from domain.facts import KeyDestroyed

ACTOR = "keys"


def begin(connection: Connection, keks: Collection[Kek], now: int) -> None:
    """From now on the database does not expect these to be there."""
    known.forget_checks(connection, [kek.id for kek in keks])
    for kek in keks:
        known.note_destruction(connection, kek, now)


def record(
    engines: Engines, alive: Collection[str], now: int, fence: Callable[[Connection], None]
) -> Sequence[str]:
    """Say in the log which are gone: noted, and not among those alive. Their ids.

    fence: refuses in the transaction if somebody else is at it. Raises StoreError, RotationHeld.
    """
    begun = known.destructions(engines)
    gone = sorted(begun.keys() - set(alive))
    if not gone:
        return ()
    with engines.write() as connection:
        fence(connection)
        noted = [kek for kek in gone if known.forget_destruction(connection, kek)]
        facts = [_fact(connection, kek, begun[kek], now) for kek in noted]
        append_facts(connection, facts, now)
    return noted


def _fact(connection: Connection, kek: str, begun: Destruction, now: int) -> KeyDestroyed:
    """One that came back, with an old copy of the key file, is destroyed a second time."""
    before = connection.execute(
        select(func.max(events.c.version)).where(
            events.c.partition == 0, events.c.session_id == kek
        )
    ).scalar()
    return KeyDestroyed(kek, (before or 0) + 1, now, "", ACTOR, kek, *begun)
