"""Writes into the erasure ledger what a restored database has to be told again.

It is the last step before COMMIT: if the ledger cannot be written, nothing is committed. If the
commit then fails, the ledger is ahead of the database, and what it says is done again (see
adapters/restoring.py). The number of the newest entry that the database contains stands in `meta`;
whoever writes entries locks it, behind the head, so numbers are in the order of commits. Nobody
else touches that row.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from domain.errors import LedgerUnavailable, RestorePending
from domain.ledger import Deed, numbered
from domain.ports import Ledger

NUMBER = "ledger"
"""The row of `meta` with the number of the newest entry that the database contains."""
EPOCH = "epoch"
"""The row of `meta` with the epoch of the log; without one it is the first."""


class Remembering:
    """The ledger as transactions write it.

    told: called with whether the last write succeeded. is_behind: the ledger was found to be ahead
    of the database; whoever repeats what it says sets it back.
    """

    def __init__(self, ledger: Ledger, told: Callable[[bool], None] = lambda well: None) -> None:
        self.ledger = ledger
        self.is_behind = False
        self._told = told

    def write(self, connection: Connection, deeds: Sequence[Deed], written: int = 0) -> None:
        """Remember these deeds, as the last step of the caller's transaction.

        written: how many events and facts this transaction has put into the log. Raises
        LedgerUnavailable, RestorePending, LedgerTooShort; the caller must not commit then.
        """
        if not deeds:
            return
        after = locked_number(connection)
        head = head_in(connection) - written
        entries = numbered(deeds, after, epoch_in(connection), head)
        try:
            length = self.ledger.append(entries)
        except LedgerUnavailable:
            self._told(False)
            raise
        except RestorePending:
            self.is_behind = True
            raise
        self._told(True)
        put_number(connection, length)


class Repeating:
    """In the place of `Remembering` while the ledger is replayed: nothing is written into it, and
    what a transaction repeats counts as contained in the database once that commits."""

    def __init__(self) -> None:
        self.upto = 0

    def write(self, connection: Connection, deeds: Sequence[Deed], written: int = 0) -> None:
        """Raises RestorePending if another process repeated this already."""
        if locked_number(connection) >= self.upto:
            raise RestorePending("another process repeats what the ledger says; try again")
        put_number(connection, self.upto)


# -- what the database knows ------------------------------------------------------------------


def locked_number(connection: Connection) -> int:
    """The number of the newest entry that the database contains; nobody else changes it until the
    transaction ends."""
    found = connection.exec_driver_sql(
        f"INSERT INTO meta (name, value) VALUES ('{NUMBER}', {_bytes(connection, b'0')}) "
        "ON CONFLICT (name) DO UPDATE SET value = meta.value RETURNING value"
    ).scalar_one()
    return int(bytes(found))


def put_number(connection: Connection, number: int) -> None:
    put(connection, NUMBER, number)


def put(connection: Connection, name: str, value: int) -> None:
    """Write a number into a row of `meta`."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    connection.exec_driver_sql(
        f"INSERT INTO meta (name, value) VALUES ({mark}, {mark}) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, b"%d" % value),
    )


def number_in(connection: Connection) -> int:
    """As `locked_number`, without the lock."""
    return _value(connection, NUMBER, 0)


def epoch_in(connection: Connection) -> int:
    """The epoch of the log, from 1."""
    return _value(connection, EPOCH, 1)


def _value(connection: Connection, name: str, default: int) -> int:
    query = f"SELECT value FROM meta WHERE name = '{name}'"
    row = connection.exec_driver_sql(query).fetchone()
    return default if row is None else int(bytes(row[0]))


def head_in(connection: Connection) -> int:
    """The position of the newest event of the log, 0 if there is none."""
    query = "SELECT position FROM heads WHERE partition = 0"
    row = connection.exec_driver_sql(query).fetchone()
    return int(row[0]) if row else 0


def _bytes(connection: Connection, value: bytes) -> str:
    """A literal of BLOB or BYTEA."""
    text = value.hex()
    return f"X'{text}'" if connection.dialect.name == "sqlite" else f"'\\x{text}'::bytea"
