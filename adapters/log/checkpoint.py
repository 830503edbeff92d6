"""Checkpoints: signed statements of how large the log was, and of the root over all of it.

Whoever has one can prove later that the log was altered, cut or set back. So none is ever signed
over a log that does not continue the last one: neither the last in the database, nor the last in
the evidence store, which a restored or replaced database does not take with it.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection

from adapters.evidence import Evidence
from adapters.keyring.signing import Signer, origin
from adapters.log import merkle
from adapters.log.engine import Engines
from adapters.log.note import Note, NoteInvalid, TreeHead, VerifierKey, parse_note, tree_head
from adapters.log.tree import Standing, Tree
from adapters.log.witness import Witness, WitnessFailed
from adapters.logs import Failures
from adapters.notify.alerts import Alerts
from domain.errors import EvidenceUnavailable, LapseError, LogForked

_log = structlog.get_logger(component="checkpoints")

ALERT = "checkpoint-failed"


@dataclass(frozen=True)
class Checkpoint:
    """origin: which log. size: leaves. root: over them. note: signed, cosignatures included.

    signed_at: microseconds.
    """

    origin: str
    epoch: int
    size: int
    root: bytes
    signed_at: int
    note: str

    @property
    def text(self) -> str:
        """What is signed."""
        return TreeHead(self.origin, self.size, self.root).text


class Checkpoints:
    """Makes and keeps the checkpoints of one database.

    signer: asked for when something is signed. every: microseconds between two by schedule.
    """

    def __init__(
        self,
        engines: Engines,
        tree: Tree,
        store: str,
        signer: Callable[[], Signer],
        *,
        every: int,
        evidence: Evidence | None = None,
        witnesses: Sequence[Witness] = (),
        alerts: Alerts | None = None,
    ) -> None:
        self._engines = engines
        self._tree = tree
        self._store = store
        self._signer = signer
        self._every = every
        self._evidence = evidence
        self._witnesses = witnesses
        self._alerts = alerts or Alerts()
        self._one = threading.Lock()
        self._published: tuple[int, int] | None = None
        self._seen: Checkpoint | None = None
        self._failures = Failures(_log, "checkpoint", operation="make")

    # -- making -----------------------------------------------------------------------------------

    def make(self, now: int) -> Checkpoint:
        """Bring the tree up to the head and sign it; the last one if nothing was added since.

        It is cosigned by witnesses and written to the evidence store, or an alert begins: what does
        not answer stops neither the log nor its checkpoints. Raises LogForked, CorruptEvent.
        """
        made, failures = self.attempt(now)
        self._tell(failures)
        return made

    def attempt(self, now: int) -> tuple[Checkpoint, Sequence[Exception]]:
        """As `make`, for somebody who waits for the answer: why it is not wherever it should be
        outside the database (EvidenceUnavailable, WitnessFailed) is handed back, not told."""
        with self._one:
            self._tree.follow()
            made = self._signed(now)
            failures = [*self._cosign(made), *self._publish()]
        return self.current() or made, failures

    def over(self, position: int, now: int) -> Checkpoint:
        """The newest one of this epoch if it covers the event at this position, else one that is
        made now. Raises as `make`."""
        last = self.current()
        if last is None or self._tree.standing().index(position) >= last.size:
            return self.make(now)
        return last

    def run_due(self, now: int) -> None:
        """Make one if the log grew and the last is old enough; try again what failed. A failure is
        logged and begins the alert; it is tried again with the next call."""
        try:
            last, standing = self._newest(), self._tree.standing()
            grown = last is None or (standing.epoch, standing.size) != (last.epoch, last.size)
            if last is None or (grown and not 0 <= now - last.signed_at < self._every):
                self.make(now)
            elif last is not None and self._published != (last.epoch, last.size):
                with self._one:
                    failures = self._publish()
                self._tell(failures)
        except (LapseError, merkle.TileMissing) as error:
            self._tell([error])

    def _newest(self) -> Checkpoint | None:
        """Of this epoch. Remembered: its row may be taken away afterwards, and what this process
        saw signed must be continued all the same."""
        last, seen = self.current(), self._seen
        if last is not None and (seen is None or (seen.epoch, seen.size) < (last.epoch, last.size)):
            self._seen = last
        return last

    def _signed(self, now: int) -> Checkpoint:
        last = self._newest()  # first: then the tree is no smaller than what anybody signed
        standing = self._tree.standing()
        for before in (last, self._seen):
            if before is not None and before.epoch == standing.epoch:
                self._must_continue(before.size, before.root, standing.size)
        if last is not None and (last.epoch, last.size) == (standing.epoch, standing.size):
            return last
        self._must_continue_evidence(standing.epoch, standing.size)
        name = origin(self._store, standing.epoch)
        head = TreeHead(name, standing.size, self._tree.root(standing.size))
        signer = self._signer()
        line = signer.verifier_key(name).signature(head.text, signer.sign)
        made = Checkpoint(
            name, standing.epoch, head.size, head.root, now, str(Note(head.text, (line,)))
        )
        with self._engines.write() as connection:
            _insert(connection, made)
        _log.info("checkpoint", operation="sign", result="done", size=made.size, epoch=made.epoch)
        return made

    def _must_continue(self, old: int, root: bytes, size: int) -> None:
        """Raises LogForked unless the tree of `size` begins with that of `old`."""
        if old > size or self._tree.root(old) != root:
            raise LogForked(old)

    def _must_continue_evidence(self, epoch: int, size: int) -> None:
        """Once per process: what this process signs afterwards continues what it signed before."""
        if self._evidence is None or self._published is not None:
            return
        try:
            kept = self._evidence.latest_checkpoint(epoch)
        except EvidenceUnavailable:
            return  # the alert says so when it cannot be written either
        try:
            head = tree_head(parse_note(kept).text) if kept is not None else None
        except NoteInvalid:
            raise LogForked(0) from None
        if head is not None and head.origin == origin(self._store, epoch):
            self._must_continue(head.size, head.root, size)

    def _cosign(self, made: Checkpoint) -> Sequence[WitnessFailed]:
        """Ask the witnesses whose line is missing; what went wrong."""
        note, failures = parse_note(made.note), []
        before = note
        for witness in self._witnesses:
            try:
                note = witness.cosigned(
                    note, made.size, lambda old: self._tree.consistency(old, made.size)
                )
            except WitnessFailed as failed:
                failures.append(failed)
        if note != before:
            with self._engines.write() as connection:
                _note(connection, made, str(note))
        return failures

    def _publish(self) -> Sequence[EvidenceUnavailable]:
        """Write the latest checkpoint to the evidence store; what went wrong."""
        last = self._newest()
        if last is None:
            return []
        try:
            if self._evidence is not None:
                self._evidence.put_checkpoint(last.epoch, last.size, last.note)
        except EvidenceUnavailable as error:
            return [error]
        self._published = (last.epoch, last.size)
        return []

    def _tell(self, failures: Sequence[Exception]) -> None:
        if not failures:
            self._failures.worked()
            self._alerts.end(ALERT)
            return
        if self._failures.failed(result="failed", error=type(failures[0]).__name__):
            _log_each(failures)
        self._alerts.begin(ALERT)

    # -- reading ----------------------------------------------------------------------------------

    def latest(self) -> Checkpoint | None:
        """The newest one, None if none was ever made."""
        return self._one_of("ORDER BY epoch DESC, size DESC LIMIT 1")

    def current(self) -> Checkpoint | None:
        """The newest one of the epoch that the log is in: what proofs lead to. None until one is
        made, such as after a restore."""
        return self.last_of(self._tree.standing().epoch)

    def last_of(self, epoch: int) -> Checkpoint | None:
        """The newest one of an epoch."""
        return self._one_of(f"AND epoch = {int(epoch)} ORDER BY size DESC LIMIT 1")

    def last_before(self, epoch: int) -> Checkpoint | None:
        """The newest one of all earlier epochs: the first leaf of this epoch commits to it."""
        return self._one_of(f"AND epoch < {int(epoch)} ORDER BY epoch DESC, size DESC LIMIT 1")

    def of_epoch(self, epoch: int, after: int, limit: int) -> Sequence[Checkpoint]:
        """Those of an epoch whose size is above `after`, the smallest first."""
        query = (
            f"{_SELECT} AND epoch = {int(epoch)} AND size > {int(after)} "
            f"ORDER BY size LIMIT {int(limit)}"
        )
        with self._engines.read() as connection:
            return [self._checkpoint(row) for row in connection.exec_driver_sql(query)]

    def _one_of(self, which: str) -> Checkpoint | None:
        with self._engines.read() as connection:
            row = connection.exec_driver_sql(f"{_SELECT} {which}").fetchone()
        return self._checkpoint(row) if row else None

    def _checkpoint(self, row: Any) -> Checkpoint:
        epoch, size, root, signed_at, note = row
        # SQLite keeps whatever somebody writes there; what is none of ours is not signed either.
        root = bytes(root) if isinstance(root, bytes | memoryview) else b""
        note = note if isinstance(note, str) else ""
        return Checkpoint(origin(self._store, epoch), epoch, size, root, signed_at, note)


def _log_each(failures: Sequence[Exception]) -> None:
    for failure in failures:
        if isinstance(failure, WitnessFailed):
            _log.error("witness", operation="cosign", result="failed", answer=str(failure))
        elif isinstance(failure, EvidenceUnavailable):
            _log.error("evidence", operation="publish", result="failed", error=failure.why)


SOUND = f"epoch BETWEEN 1 AND {2**31} AND size BETWEEN 0 AND {2**62}"
"""Of rows that may be checkpoints; in SQLite texts and bytes lie beyond all numbers."""
_SELECT = (
    f"SELECT epoch, size, root, signed_at, note FROM checkpoints WHERE partition = 0 AND {SOUND}"
)


def _insert(connection: Connection, made: Checkpoint) -> None:
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    connection.exec_driver_sql(
        "INSERT INTO checkpoints (partition, epoch, size, root, signed_at, note) "
        f"VALUES (0, {mark}, {mark}, {mark}, {mark}, {mark}) "
        "ON CONFLICT (partition, epoch, size) DO NOTHING",
        (made.epoch, made.size, made.root, made.signed_at, made.note),
    )


def _note(connection: Connection, made: Checkpoint, note: str) -> None:
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    connection.exec_driver_sql(
        f"UPDATE checkpoints SET note = {mark} "
        f"WHERE partition = 0 AND epoch = {mark} AND size = {mark}",
        (note, made.epoch, made.size),
    )


# -- what is known outside the database -------------------------------------------------------


def published_reach(
    evidence: Evidence | None, store: str, key: bytes | None
) -> tuple[int, int] | None:
    """How far the newest published checkpoint reaches, as (epoch, position); None if there is none,
    or if nobody can be asked: ledger and key store know, too. key: the public one that signs them
    (None: nothing was ever signed). Raises LogForked if it is not signed."""
    published = _published(evidence, store, key)
    if published is None:
        return None
    head, _ = published
    standing = Standing(epoch_of(head.origin), head.size)
    return standing.epoch, standing.position(standing.size - 1)


def keep_last(
    connection: Connection, evidence: Evidence | None, store: str, key: bytes | None, now: int
) -> str:
    """The text of the last checkpoint that anybody has, for the first leaf of a new epoch; empty if
    nothing was ever signed. From now on the database has it, too: whoever verifies that leaf need
    not have the evidence of today. key: as of `published_reach`."""
    row = connection.exec_driver_sql(f"{_SELECT} ORDER BY epoch DESC, size DESC LIMIT 1").fetchone()
    ours = tree_head(parse_note(row[4]).text) if row is not None else None
    published = _published(evidence, store, key)
    if published is None:
        return ours.text if ours is not None else ""
    head, note = published
    if ours is not None and _reach(ours) >= _reach(head):
        return ours.text
    # When it was signed it does not say.
    _insert(connection, Checkpoint(head.origin, *_reach(head), head.root, now, note))
    return head.text


def _published(
    evidence: Evidence | None, store: str, key: bytes | None
) -> tuple[TreeHead, str] | None:
    """The newest one, and its note. Signed: or whoever may write there could have a new epoch
    opened, as after a restore."""
    if evidence is None or key is None:
        return None
    try:
        note = evidence.latest_checkpoint()
    except EvidenceUnavailable as error:
        _log.warning("evidence", operation="look", result="failed", error=error.why)
        return None
    if note is None:
        return None
    try:
        head = tree_head(parse_note(note).text)
    except NoteInvalid:
        raise LogForked(0) from None
    if not _is_of(head, store):
        return None
    if signed_head(note, store, key) is None:
        raise LogForked(head.size)
    return head, note


def signed_head(note: str, store: str, key: bytes) -> TreeHead | None:
    """What a checkpoint of any epoch of this store says; None if it is none, or not signed. key:
    the public one that signs them."""
    try:
        parsed = parse_note(note)
        head = tree_head(parsed.text)
    except NoteInvalid:
        return None
    is_signed = _is_of(head, store) and parsed.is_signed_by(VerifierKey(head.origin, key))
    return head if is_signed else None


def epoch_of(name: str) -> int:
    """The epoch of a log that has this name."""
    _, _, epoch = name.partition("/epoch-")
    return int(epoch) if epoch else 1


def _is_of(head: TreeHead, store: str) -> bool:
    return head.origin.split("/epoch-")[0] == origin(store, 1)


def _reach(head: TreeHead) -> tuple[int, int]:
    return epoch_of(head.origin), head.size
