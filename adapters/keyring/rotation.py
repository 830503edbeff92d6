"""Rotation of the KEKs: a new one every day, and old ones destroyed when their time is over.

Every process of an installation may run this; a lease lets one at a time. Each step leaves a state
from which the next run goes on, whoever runs it:

    a new KEK is current      -> rows under older ones are moved into a new table
    no row names an old KEK   -> it is retired: from now on it is only needed for backups
    `restore_window` later    -> it is destroyed, and with it what backups, logs and pages of the
                                 database still hold under it
    the key store has it not  -> the log says so
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from adapters.keyring import destruction, known
from adapters.keyring.clock_guard import ClockGuard
from adapters.keyring.generations import (
    PAGE,
    Generation,
    is_unfinished,
    overwrite_freed_pages,
    rows_per_kek,
)
from adapters.keyring.keks import EscrowState, Kek
from adapters.keyring.keyring import Keyring
from adapters.keyring.moving import Moving, keks_of_generations
from adapters.keyring.opening import require_known, store_of
from adapters.log.engine import Engines
from adapters.logs import Failures
from domain.errors import LapseError, RotationHeld
from domain.policy import MINUTE

_log = structlog.get_logger(component="keys")

LEASE = MINUTE
SETTLE = MINUTE
"""Until rows that another process wrote under the KEK it still knew are looked for."""


@dataclass(frozen=True)
class Rotated:
    """What a rotation did. moved: keys under `kek` now. kept: keys that do not open, left alone."""

    kek: str
    moved: int
    kept: int


@dataclass(frozen=True)
class KekState:
    """A KEK as `lapse key status` shows it. destroy_at: the earliest; None while it is in use."""

    id: str
    created_at: int | None
    retired_at: int | None
    destroy_at: int | None
    rows: int


class Rotation:
    """Rotates the KEKs behind one database.

    clock: microseconds since the epoch. every: age of a KEK at which the next one is made.
    restore_window: how long a retired one is kept. holder: of the lease, this process. wake: called
    when something was written into the log. guard: without one the clock is believed, as that of
    a test is.
    """

    def __init__(
        self,
        engines: Engines,
        keyring: Keyring,
        clock: Callable[[], int],
        holder: str,
        *,
        every: int,
        restore_window: int,
        page: int = PAGE,
        wake: Callable[[], None] = lambda: None,
        guard: ClockGuard | None = None,
    ) -> None:
        self._wake = wake
        self._guard = guard
        self._trusted = guard is None
        self._engines = engines
        self._keyring = keyring
        self._keks = keyring.keks
        self._secrets = known.KeptSecrets(engines, keyring.keks, store_of(engines))
        self._clock = clock
        self._holder = holder
        self._every = every
        self._restore_window = restore_window
        self._page = page
        self._failures = Failures(_log, "rotate", operation="rotate")
        self._settled = ""
        self._kept = 0
        self._look_at = 0
        self._overwritten = True
        self._recorded = False
        self._watched_at: int | None = None
        self._counted_anew = False
        self._closing = False

    def close(self) -> None:
        """A rotation that runs ends before its next page; the next run begins that anew."""
        self._closing = True

    def run_due(self) -> None:
        """Do what is due by now, unless another process is at it. A failure is logged, and tried
        again a minute later."""
        now = self._clock()
        if self._look_at - SETTLE <= now < self._look_at:
            return  # a clock that was set back does not keep us waiting for what it showed before
        try:
            self._watch(now)
            if self._is_due(now):
                with self._lease():
                    self._run_due(now)
                if self._is_due(now):
                    self._look_at = now + SETTLE
        except RotationHeld:
            pass
        except (LapseError, SQLAlchemyError) as error:
            self._failures.failed(result=type(error).__name__)
            self._look_at = now + SETTLE
        else:
            self._failures.worked()

    def rotate(self) -> Rotated:
        """Make a new KEK and move every key under it, at once.

        Raises RotationHeld, KeyUnavailable, StoreError.
        """
        with self._lease():
            return self._rotate(self._clock())

    def renew_table(self) -> None:
        """Move every wrapped key into a new table, and drop the old one with what was deleted in
        it. Raises RotationHeld, KeyUnavailable, StoreError."""
        with self._lease():
            Generation(self._engines, self._keks, self._fence, self._step, self._page).move()

    def status(self) -> Sequence[KekState]:
        """Oldest first; the last is the current one. Reads every wrapped key."""
        self._keks.look_again()
        rows = rows_per_kek(self._engines)
        return [
            KekState(
                kek.id, kek.created_at, kek.retired_at, self._destroy_at(kek), rows.get(kek.id, 0)
            )
            for kek in self._keks.keks()
        ]

    def is_unfinished(self) -> bool:
        """Whether keys are being moved, or a move was killed and will be begun anew."""
        return is_unfinished(self._engines)

    def escrow(self) -> EscrowState | None:
        """How the copy of the keys stands; None if there is none."""
        return self._keks.escrow_state()

    # -- what is due --------------------------------------------------------------------------

    def _watch(self, now: int) -> None:
        """Once a minute, whether something is due or not."""
        if self._watched_at is not None and abs(now - self._watched_at) < SETTLE:
            return
        self._watched_at = now
        self._keks.keep_escrow()
        if self._guard is None:
            return
        if self._trusts():
            self._count_anew(now)
            return
        jump = self._guard.steady_jump()
        if jump is not None:
            with self._lease():
                self._make_up(self._guard, jump, now)

    def _count_anew(self, now: int) -> None:
        """A clock that was far ahead was set right: terms that would begin in years begin now."""
        *earlier, current = self._keks.keks()
        if (current.created_at or 0) - now >= self._every and not self._counted_anew:
            self._counted_anew = True  # once: the clock of a Vault may stay ahead of ours
            with self._lease():
                self._rotate(now)
        retired = {kek.id: kek.retired_at for kek in earlier}
        ahead = {kek for kek, at in retired.items() if at is not None and at - now >= self._every}
        if ahead:
            with self._lease():
                self._keks.retire(ahead, now)
            _log.warning("clock", operation="count anew", result="done", keks=sorted(ahead))

    def _trusts(self) -> bool:
        """Whether the clock may destroy something."""
        if self._guard is not None:
            self._trusted = self._guard.trusts()
        return self._trusted

    def _make_up(self, guard: ClockGuard, jump: int, now: int) -> None:
        """Terms that began before a jump end later by it. Believed last: whoever is killed before
        leaves terms that are too long, never one that is too short."""
        if self._trusts():
            return  # another process was first
        for kek in self._keks.keks()[:-1]:
            # What began after it would lie ahead.
            if kek.retired_at is not None and kek.retired_at + jump <= now:
                self._keks.retire([kek.id], kek.retired_at + jump)
        guard.believe()
        self._trusts()

    def _is_due(self, now: int) -> bool:
        *earlier, current = self._keks.keks()
        return (
            self._is_old(current, now)
            or self._settled != current.id
            or not self._overwritten
            or not self._recorded
            or (self._trusted and any(self._is_over(kek, now) for kek in earlier))
        )

    def _run_due(self, now: int) -> None:
        if self._is_old(self._keks.keks()[-1], now):
            self._rotate(now)
            return
        self._settle(now)
        self._destroy(now)
        self._overwrite()

    def _is_old(self, kek: Kek, now: int) -> bool:
        return kek.created_at is None or now - kek.created_at >= self._every

    def _destroy_at(self, kek: Kek) -> int | None:
        return None if kek.retired_at is None else kek.retired_at + self._restore_window

    def _is_over(self, kek: Kek, now: int) -> bool:
        over = self._destroy_at(kek)
        return over is not None and over <= now

    # -- the steps ----------------------------------------------------------------------------

    def _rotate(self, now: int) -> Rotated:
        require_known(self._engines, self._keks)
        kek = self._keks.rotate(now)
        self._keyring.forget()
        _log.info("rotate", operation="rotate", result="new key", kek=kek)
        return self._move(now)

    def _settle(self, now: int) -> None:
        """Move what is not under the current KEK: a killed rotation, a restored backup, a process
        that did not know better, or Vault itself made a new one."""
        current = self._keks.keks()[-1].id
        if self._settled == current:
            return
        rows = rows_per_kek(self._engines)
        self._note_current()
        if sum(rows.values()) - rows.get(current, 0) > self._kept:
            self._move(now)
            return
        self._secrets.rewrap()
        self._move_rows()
        unused = {kek.id for kek in self._keks.keks()[:-1] if kek.retired_at is None} - rows.keys()
        if unused:
            self._keks.retire(unused, now)
        self._settled = current

    def _move(self, now: int) -> Rotated:
        self._note_current()
        self._secrets.rewrap()
        before = rows_per_kek(self._engines).keys()
        generation = Generation(self._engines, self._keks, self._fence, self._step, self._page)
        generation.move()
        self._kept = generation.kept
        self._move_rows()
        *earlier, current = self._keks.keks()
        still = rows_per_kek(self._engines).keys()
        unused = {kek.id for kek in earlier if kek.retired_at is None or kek.id in before} - still
        if unused:
            self._keks.retire(unused, now)
        self._overwrite()
        self._destroy(now)
        done = Rotated(current.id, generation.copied, generation.kept)
        _log.info("rotate", operation="move", result="done", **vars(done))
        return done

    def _move_rows(self) -> None:
        """Before a KEK is retired: until then it may still have to open a generation key."""
        Moving(self._engines, self._keks, self._fence, self._step, self._page).move()

    def _note_current(self) -> None:
        if self._keks.keks()[-1].id not in known.checks(self._engines):
            kek, check = self._keks.check_value()
            with self._engines.write() as connection:
                known.note_check(connection, kek, check)

    def _destroy(self, now: int) -> None:
        over = {kek.id: kek for kek in self._keks.keks()[:-1] if self._is_over(kek, now)}
        if over and self._trusts():
            self._destroy_unnamed(over, now)
        self._record_destroyed(now)

    def _destroy_unnamed(self, over: Mapping[str, Kek], now: int) -> None:
        """Only what nothing names. The database forgets a KEK first: the other way round a crash
        would leave one that is expected and not there."""
        named = over.keys() & rows_per_kek(self._engines).keys()
        if named:
            self._settled = ""  # of a restored backup: they are moved first
        going = over.keys() - named - self._secrets.keks() - keks_of_generations(self._engines)
        with self._engines.write() as connection:
            self._fence(connection)
            destruction.begin(connection, [over[kek] for kek in going], now)
        self._recorded = False
        gone = self._keks.destroy(going)
        if gone:
            _log.info("rotate", operation="destroy", result="done", keks=sorted(gone))
        elif going and self._keks.escrow_state() is not None:
            _log.error("rotate", operation="destroy", result="waits for the escrow")

    def _record_destroyed(self, now: int) -> None:
        """Not by what was asked for, but by what the key store and its copy say is there."""
        self._keks.look_again()
        if self._keks.keep_escrow() not in (None, EscrowState.CURRENT):
            return
        alive = [kek.id for kek in self._keks.keks()]
        if destruction.record(self._engines, alive, now, self._fence):
            self._wake()
        self._recorded = True

    def _overwrite(self) -> None:
        self._overwritten = overwrite_freed_pages(self._engines)

    # -- one at a time ------------------------------------------------------------------------

    @contextmanager
    def _lease(self) -> Iterator[None]:
        """Raises RotationHeld if another process has it."""
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        take = (
            f"INSERT INTO leases (name, holder, until) VALUES ('keys', {mark}, {mark}) "
            "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until "
            f"WHERE leases.holder = excluded.holder OR leases.until < {mark}"
        )
        now = self._clock()
        with self._engines.write() as connection:
            taken = connection.exec_driver_sql(take, (self._holder, now + LEASE, now)).rowcount
        if not taken:
            raise RotationHeld
        self._keks.look_again()
        try:
            yield
        finally:
            with self._engines.write() as connection:
                connection.exec_driver_sql(
                    f"DELETE FROM leases WHERE name = 'keys' AND holder = {mark}", (self._holder,)
                )

    def _fence(self, connection: Connection) -> None:
        """Prolong the lease in this transaction; one that stood still too long writes nothing."""
        mark = "?" if self._engines.dialect == "sqlite" else "%s"
        prolonged = connection.exec_driver_sql(
            f"UPDATE leases SET until = {mark} WHERE name = 'keys' AND holder = {mark}",
            (self._clock() + LEASE, self._holder),
        )
        if not prolonged.rowcount:
            raise RotationHeld

    def _step(self) -> None:
        if self._closing:
            raise RotationHeld
