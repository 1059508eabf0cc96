"""Counters and gauges of one server process, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """What a server counts. No label holds anything that a client can make up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        # The store.
        self.changes_total = self._counter("changes", "Changes committed by this process.")
        self.commits_total = self._counter("commits", "Transactions committed by this process.")
        self.commit_changes = self._histogram(
            "commit_changes", "Changes in one transaction.", (1, 2, 5, 10, 20, 50, 100, 200, 500)
        )
        self.commit_seconds = self._histogram("commit_seconds", "How long a commit took.", _FAST)

        # The way to the sockets.
        self.found_by_tail_total = self._counter(
            "found_by_tail", "Changes that the tail found before any hint told of them."
        )
        self.hints_total = self._counter("hints", "Hints, by what became of them.", "result")
        self.fetches_total = self._counter("fetches", "Reads of the log to close a gap.")
        self.resumes_total = self._counter("resumes", "Resumed subscriptions.", "outcome")
        self.resets_total = self._counter("resets", "Subscriptions reset.", "reason")
        self.repeats_total = self._counter("repeats", "Changes that were dropped as known.")
        self.closes_total = self._counter("closes", "Connections closed by the server.", "code")
        self.connections = self._gauge("connections", "Open connections.", "kind")
        self.subscriptions = self._gauge("subscriptions", "Subscriptions that live.")
        self.mailbox_bytes = self._gauge("mailbox_bytes", "What all connections are owed.")
        self.delivered_total = self._counter("delivered", "Changes put on sockets.")
        self.delivery_seconds = self._histogram(
            "delivery_seconds", "From a change's commit to its socket.", _FAST
        )
        self.horizon_age_seconds = self._gauge(
            "horizon_age_seconds", "For how long the oldest transaction has been open."
        )
        self.broker_up = self._gauge("broker_up", "1 while the broker is all right, else 0.")

        # HTTP.
        self.http_requests_total = self._counter(
            "http_requests", "HTTP requests.", "route", "method", "status"
        )
        self.http_request_seconds = self._histogram(
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
        self.http_requests_total.labels(route, method, str(status)).inc()
        self.http_request_seconds.labels(route).observe(seconds)

    def ask(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Has a gauge ask for its value when it is read."""
        gauge.set_function(value)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"runstream_{name}", help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"runstream_{name}", help, labels, registry=self.registry)

    def _histogram(
        self, name: str, help: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"runstream_{name}", help, labels, buckets=buckets, registry=self.registry)
