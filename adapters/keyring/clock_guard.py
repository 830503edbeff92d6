"""A clock that jumps ahead destroys no key-encryption key before its time.

What was last believed is noted in the database: the time, and by how much it was ahead of the
uptime of that machine. On the same machine, since the same start, time can pass no faster than
uptime does. Otherwise all that is known is when somebody last looked: a machine that was off looks
like a clock that jumped, and is treated as one.

Whoever finds a jump waits until the clock has run on steadily for an hour, then makes up for it.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import structlog

from adapters.keyring import known
from adapters.keyring.keyring import seconds_since_boot
from adapters.log.engine import Engines
from adapters.notify.alerts import Alerts
from domain.policy import HOUR, MINUTE, SECOND

_log = structlog.get_logger(component="keys")

ALERT = "clock-jump"
STEADY = HOUR
"""How long a clock must run on before it is believed again."""
UNSTEADY = MINUTE
"""A clock that moves by more than this against the uptime meanwhile is waited for anew."""


@dataclass(frozen=True)
class Trusted:
    """The last time that was believed. boot: of which machine, since which start. lead: by how much
    the clock was ahead of its uptime, at the least. Microseconds."""

    at: int
    boot: str
    lead: int


@dataclass(frozen=True)
class Jump:
    """by: how far the clock went ahead. seen_at: uptime. lead: as in `Trusted`. Microseconds."""

    by: int
    seen_at: int
    lead: int


class ClockGuard:
    """Watches the clock of the machine. For one thread.

    clock: microseconds since the epoch. limit: how many it may go ahead at once. uptime: seconds,
    also while the machine sleeps. boot: one id per start of the machine.
    """

    def __init__(
        self,
        engines: Engines,
        clock: Callable[[], int],
        limit: int,
        alerts: Alerts,
        *,
        uptime: Callable[[], float] = seconds_since_boot,
        boot: str | None = None,
    ) -> None:
        self._engines = engines
        self._clock = clock
        self._limit = limit
        self._alerts = alerts
        self._uptime = uptime
        self._boot = boot if boot is not None else boot_id()
        self._jump: Jump | None = None

    def trusts(self) -> bool:
        """Whether the time is plausible; then it is noted. Raises StoreError."""
        uptime, now = self._look()
        lead, trusted = now - uptime, self._read()
        by = self._ahead(trusted, now, lead)
        if by > self._limit:
            self._hold(Jump(by, uptime, lead))
            return False
        self._jump = None
        self._alerts.end(ALERT)
        self._note(trusted, now, lead)
        return True

    def steady_jump(self) -> int | None:
        """How far the clock jumped, if it has run on steadily since, as `trusts` saw it."""
        uptime, _ = self._look()
        if self._jump is None or uptime - self._jump.seen_at < STEADY:
            return None
        return self._jump.by

    def believe(self) -> None:
        """What the jump would have shortened was made longer: from here on this time counts."""
        uptime, now = self._look()
        self._write(Trusted(now, self._boot, now - uptime))
        _log.warning("clock", operation="look", result="believed again")

    def _look(self) -> tuple[int, int]:
        """Uptime and time, in this order: a process that stands still between the two finds the
        clock ahead for once, and notes nothing."""
        return round(self._uptime() * SECOND), self._clock()

    def _ahead(self, trusted: Trusted | None, now: int, lead: int) -> int:
        if trusted is None:
            return 0
        return lead - trusted.lead if trusted.boot == self._boot else now - trusted.at

    def _hold(self, jump: Jump) -> None:
        if self._jump is None or abs(jump.lead - self._jump.lead) > UNSTEADY:
            self._jump = jump
            seconds = jump.by // SECOND
            _log.error("clock", operation="look", result="jumped", seconds=seconds)
            self._alerts.begin(ALERT, seconds=seconds)

    def _note(self, trusted: Trusted | None, now: int, lead: int) -> None:
        """The least lead of all: many small steps are one large one."""
        if trusted is not None and trusted.boot == self._boot:
            is_news = abs(now - trusted.at) >= MINUTE or lead < trusted.lead - SECOND
            lead = min(lead, trusted.lead)
            if not is_news:
                return
        self._write(Trusted(now, self._boot, lead))

    def _read(self) -> Trusted | None:
        noted = known.value(self._engines, known.CLOCK)
        return Trusted(**orjson.loads(noted)) if noted is not None else None

    def _write(self, trusted: Trusted) -> None:
        with self._engines.write() as connection:
            known.put(connection, known.CLOCK, orjson.dumps(vars(trusted)))


def boot_id() -> str:
    """Of this start of this machine; where there is none, every process counts as a new start."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(16)
