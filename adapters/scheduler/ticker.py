"""The scheduler of one process: wakes at the next deadline and sweeps. APScheduler ticks.

Every process of an installation runs one; they need no leader (see domain/use_cases/sweep.py). The
next deadline is read again every second, so that a sooner one, or a policy that another instance
applied, is met in time; a deadline within that second gets a timer of its own, to be met at its
instant. A fallback sweep runs every `sweep` interval of the policies whatever the deadlines say.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import stamina
import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from adapters.logs import Failures
from adapters.notify.alerts import Alerts
from domain.errors import ClockHeld, StoreError
from domain.policy import HOUR, MINUTE, SECOND
from domain.ports import Log, SweepCount
from domain.use_cases.policies import PolicyBook, is_settled, rearm
from domain.use_cases.sweep import BATCH, sweep

_log = structlog.get_logger(component="scheduler")

READ_AGAIN = SECOND
TRUSTED_AGAIN = 2 * HOUR
"""After this long without a failure the alert ends: what failed is tried again every hour."""


class Ticker:
    """Sweeps in the background until `close`.

    clock: microseconds since the epoch. read_again: how often the earliest deadline is read,
    microseconds of the machine. alerts: told when a clean-up fails, and when one works again.
    waits: whether nothing may be swept now, asked before every batch.
    """

    def __init__(
        self,
        log: Log,
        policies: PolicyBook,
        clock: Callable[[], int],
        holder: str,
        *,
        batch: int = BATCH,
        read_again: int = READ_AGAIN,
        alerts: Alerts | None = None,
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self._alerts = alerts or Alerts()
        self._waits = waits
        self._failed_at = 0
        self._failures = Failures(_log, "tick", operation="tick")
        self._read_again = read_again
        self._log = log
        self._policies = policies
        self._clock = clock
        self._holder = holder
        self._batch = batch
        self._last_fallback = clock()
        self._versions = _version_count(policies)
        self._unsettled = {
            name for name, known in policies.known.items() if not is_settled(known, clock())
        }
        self._sweeping = threading.Lock()
        self._closing = False
        self.swept = SweepCount()
        # Our schedules live in the log; this only ticks. One store per process, nothing pickled.
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Begin to tick."""
        self._scheduler.add_job(
            self.tick,
            "interval",
            seconds=self._read_again / SECOND,
            id="tick",
            next_run_time=_utc_now(),
        )
        self._scheduler.start()

    def close(self) -> None:
        """End; a sweep that runs finishes its batch."""
        self._closing = True
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def tick(self) -> None:
        """Look once: sweep what is due, set a timer for what comes within the next second."""
        if self._waits():
            return
        try:
            self._notice_new_policies()
            now = self._clock()
            due = self._log.next_due()
            if (due is not None and due <= now) or self._fallback_is_due(now):
                self.sweep_now()
                due = self._log.next_due()
                if due is not None and due <= now:
                    return  # somebody else holds it, or the clock: look again at the next tick
            self._set_timer(due)
        except StoreError as error:
            self._failures.failed(result=type(error).__name__)
            self._cleanup_failed()
        else:
            self._failures.worked()
            if self._clock() - self._failed_at > TRUSTED_AGAIN:
                self._alerts.end("cleanup-failed")

    def sweep_now(self) -> SweepCount:
        """Sweep until nothing is due. A failure is logged and retried at the next tick.

        What was committed is counted, also when a later batch fails. Raises StoreError.
        """
        began = time.perf_counter()
        total = SweepCount()

        def keep_on(count: SweepCount) -> bool:
            nonlocal total
            total += count
            self.swept += count
            return not self._closing and not self._waits()

        with self._sweeping:  # the timer of a deadline may fire while a tick still sweeps
            try:
                for attempt in stamina.retry_context(on=StoreError, attempts=3, timeout=10.0):
                    with attempt:
                        sweep(
                            self._log,
                            self._policies.known,
                            self._clock(),
                            self._holder,
                            limit=self._batch,
                            keep_on=keep_on,
                        )
            except ClockHeld:
                _log.info("sweep", operation="sweep", result="clock held by an import")
            except StoreError:
                log_sweep(total, time.perf_counter() - began)
                raise
        log_sweep(total, time.perf_counter() - began)
        if total.failed:
            self._cleanup_failed(sessions=total.failed)
        return total

    def _cleanup_failed(self, **figures: float) -> None:
        self._failed_at = self._clock()
        self._alerts.begin("cleanup-failed", **figures)

    def _set_timer(self, due: int | None) -> None:
        if due is None or self._closing:
            return
        wait = due - self._clock()
        if wait >= self._read_again:
            return
        self._scheduler.add_job(
            self.tick,
            "date",
            run_date=_utc_now() + timedelta(microseconds=max(wait, 0)),
            id="deadline",
            replace_existing=True,
        )

    def _fallback_is_due(self, now: int) -> bool:
        intervals = [versions[-1].policy.sweep for versions in self._policies.known.values()]
        if now - self._last_fallback < min(intervals, default=15 * MINUTE):
            return False
        self._last_fallback = now
        self._log.forget_commands(now)
        return True

    def _notice_new_policies(self) -> None:
        """A version that appeared re-arms the sessions that are open under its policy."""
        known, now = self._policies.refresh(), self._clock()
        count = _version_count(self._policies)
        changed = {name for name in count if count[name] != self._versions.get(name, count[name])}
        settled = {name for name in self._unsettled if is_settled(known[name], now)}
        for name in sorted(changed | settled):
            looked_at = sum(rearm(self._log, name, known[name], now))
            _log.info("rearm", operation="rearm", result="done", policy=name, looked_at=looked_at)
        self._unsettled = {
            name for name in self._unsettled | changed if not is_settled(known[name], now)
        }
        self._versions = count


def log_sweep(count: SweepCount, seconds: float) -> None:
    """The reconciled count of one sweep: due = done + held + rearmed + failed."""
    _log.info(
        "sweep",
        operation="sweep",
        result="failed" if count.failed else "done",
        duration_ms=round(seconds * 1000, 1),
        due=count.due,
        done=count.done,
        held=count.held,
        rearmed=count.rearmed,
        failed=count.failed,
    )


def _version_count(policies: PolicyBook) -> dict[str, int]:
    return {name: versions[-1].number for name, versions in policies.known.items()}


def _utc_now() -> datetime:
    return datetime.now(UTC)
