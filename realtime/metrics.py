"""Counters and gauges of one server process, in a registry of their own."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """What a server counts. No label holds anything that a client can make up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        # The store.
        self.changes_total = self.counter("changes", "Changes committed by this process.")
        self.commits_total = self.counter("commits", "Transactions committed by this process.")
        self.commit_changes = self.histogram(
            "commit_changes", "Changes in one transaction.", (1, 2, 5, 10, 20, 50, 100, 200, 500)
        )
        self.commit_seconds = self.histogram("commit_seconds", "How long a commit took.", _FAST)

        # The way to the sockets.
        self.found_by_tail_total = self.counter(
            "found_by_tail", "Changes that the tail found before any hint told of them."
        )
        self.hints_total = self.counter("hints", "Hints, by what became of them.", "result")
        self.fetches_total = self.counter("fetches", "Reads of the log to close a gap.")
        self.resumes_total = self.counter("resumes", "Resumed subscriptions.", "outcome")
        self.resets_total = self.counter("resets", "Subscriptions reset.", "reason")
        self.closes_total = self.counter("closes", "Connections closed by the server.", "code")
        self.connections = self.gauge("connections", "Open connections.", "kind")
        self.subscriptions = self.gauge("subscriptions", "Subscriptions that live.")
        self.mailbox_bytes = self.gauge("mailbox_bytes", "What all connections are owed.")
        self.delivered_total = self.counter(
            "delivered", "Changes shown, once for each subscription."
        )
        self.delivery_seconds = self.histogram(
            "delivery_seconds", "From a change's commit to its socket.", _FAST
        )
        self.horizon_age_seconds = self.gauge(
            "horizon_age_seconds",
            "For how long the oldest transaction is open that a horizon waits for.",
        )
        self.broker = BrokerCounts(self)

        self.tasks = self.gauge(
            "tasks", "Tasks at work in this process, as many when it idles as when it began."
        )

        # HTTP.
        self.http_requests_total = self.counter(
            "http_requests", "HTTP requests.", "route", "method", "status"
        )
        self._requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.http_request_seconds = self.histogram(
            "http_request_seconds", "How long an HTTP request took.", _FAST, "route"
        )

    def committed(self, changes: int, seconds: float) -> None:
        """Counts one transaction of the writer."""
        self.commits_total.inc()
        self.changes_total.inc(changes)
        self.commit_changes.observe(changes)
        self.commit_seconds.observe(seconds)

    def http_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts one answered request, by the route's pattern, never by its path."""
        counted = self._requests.get((route, method, status))
        if counted is None:
            # To look these up costs as much as a request's way to where it is answered.
            counted = self._requests[route, method, status] = (
                self.http_requests_total.labels(route, method, str(status)),
                self.http_request_seconds.labels(route),
            )
        counted[0].inc()
        counted[1].observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"runstream_{name}", help, labels, registry=self.registry)

    def gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"runstream_{name}", help, labels, registry=self.registry)

    def histogram(
        self, name: str, help: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"runstream_{name}", help, labels, buckets=buckets, registry=self.registry)


class BrokerCounts:
    """What a broker counts."""

    def __init__(self, metrics: Metrics) -> None:
        self._published = metrics.counter("broker_published", "Hints published.")
        self._dropped = metrics.counter("broker_dropped", "Hints thrown away.", "reason")
        self._received = metrics.counter("broker_received", "Hints of other processes.")
        self._suspected = metrics.counter(
            "broker_suspected", "Times that hints may have been lost.", "reason"
        )
        self._reconnected = metrics.counter("broker_reconnected", "Connections made again.", "side")
        self._canary_missed = metrics.counter(
            "broker_canary_missed", "Connections that had gone silent."
        )
        self._up = metrics.gauge("broker_up", "1 while hints are known to come through, else 0.")
        self._up.set(1)

    def published(self, hints: int) -> None:
        self._published.inc(hints)

    def dropped(self, hints: int, reason: str) -> None:
        self._dropped.labels(reason).inc(hints)

    def received(self, hints: int) -> None:
        self._received.inc(hints)

    def suspected(self, reason: str) -> None:
        self._suspected.labels(reason).inc()

    def reconnected(self, side: str) -> None:
        self._reconnected.labels(side).inc()

    def canary_missed(self) -> None:
        self._canary_missed.inc()

    def state(self, ok: bool) -> None:
        self._up.set(ok)
