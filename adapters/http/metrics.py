"""Figures for Prometheus. Labels are closed names: methods, path templates, policies, events."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from adapters.wiring import Lapse
from domain.policy import SECOND
from projections import usage


class Metrics:
    """What one process counts, and what it reads when it is asked."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lapse_http_requests",
            "Requests by method, path template and outcome (2xx, 4xx, ...).",
            ("method", "path", "outcome"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "lapse_http_request_seconds",
            "How long requests took.",
            ("method", "path"),
            registry=self._registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
        )
        self._events = Gauge(
            "lapse_events",
            "Events in the log by policy and kind, as far as the usage projection has come.",
            ("policy", "event"),
            registry=self._registry,
        )
        self._head = Gauge(
            "lapse_log_position", "Position of the newest event.", registry=self._registry
        )
        self._late = Gauge(
            "lapse_sweep_lateness_seconds",
            "How long the earliest deadline is overdue.",
            registry=self._registry,
        )
        self._behind = Gauge(
            "lapse_projection_events_behind",
            "Events a projection has not handled yet.",
            ("projection",),
            registry=self._registry,
        )

        self._freed = Gauge(
            "lapse_bytes_freed",
            "Bytes that events freed by policy and kind, as far as the usage projection has come.",
            ("policy", "event"),
            registry=self._registry,
        )
        self._stored = Gauge(
            "lapse_stored_bytes", "What all sessions store, sealed.", registry=self._registry
        )
        self._alerts = Gauge(
            "lapse_alert", "Whether an alert stands now.", ("alert",), registry=self._registry
        )

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        self._requests.labels(method, path, f"{status // 100}xx").inc()
        self._seconds.labels(method, path).observe(seconds)

    def text(self, lapse: Lapse, now: int) -> bytes:
        """Everything, in the text format."""
        due = lapse.log.next_due()
        self._late.set(max(0, now - due) / SECOND if due is not None else 0)
        self._head.set(lapse.log.head())
        self._stored.set(lapse.log.stored_bytes())
        for alert, stands in lapse.alerts.standing().items():
            self._alerts.labels(alert).set(stands)
        with lapse.engines.read() as connection:
            for total in usage.totals(connection):
                self._events.labels(total.policy, total.event).set(total.count)
                if total.bytes_freed:
                    self._freed.labels(total.policy, total.event).set(total.bytes_freed)
        for name, lag in lapse.projector.lag().items():
            self._behind.labels(name).set(lag.events_behind)
        return generate_latest(self._registry)
