"""What the hub counts: the shape of it, so that any metrics library fits, and one of nothing."""

from __future__ import annotations

from typing import Protocol


class Counter(Protocol):
    """Only rises."""

    def inc(self, amount: float = 1, /) -> None: ...


class Counters(Protocol):
    """A counter for each value of a label."""

    def labels(self, **labels: str) -> Counter: ...


class Gauge(Protocol):
    """Rises and falls."""

    def set(self, value: float, /) -> None: ...


class Gauges(Protocol):
    """A gauge for each value of a label."""

    def labels(self, **labels: str) -> Gauge: ...


class Histogram(Protocol):
    """How values are spread."""

    def observe(self, amount: float, /) -> None: ...


class Measures(Protocol):
    """All that the hub counts."""

    @property
    def found_by_tail_total(self) -> Counter:
        """Changes that no hint had told when the tail found them; should stay near zero."""
        ...

    @property
    def hints_total(self) -> Counters:
        """By `result`: next, seen, repeat, gap, ids, held, unfollowed."""
        ...

    @property
    def fetches_total(self) -> Counter:
        """Reads of the log for one run whose next change was not at hand."""
        ...

    @property
    def resumes_total(self) -> Counters:
        """By `outcome`: ring, log, reset."""
        ...

    @property
    def resets_total(self) -> Counters:
        """By `reason`: epoch, retention, too_far_behind, token."""
        ...

    @property
    def closes_total(self) -> Counters:
        """By `code`."""
        ...

    @property
    def connections(self) -> Gauges:
        """By `kind`: websocket, sse."""
        ...

    @property
    def subscriptions(self) -> Gauge: ...

    @property
    def mailbox_bytes(self) -> Gauge:
        """What all connections together are owed."""
        ...

    @property
    def delivered_total(self) -> Counter:
        """Changes shown, once for each subscription."""
        ...

    @property
    def delivery_seconds(self) -> Histogram:
        """From a change's `at` to the write of it, once a group."""
        ...

    @property
    def horizon_age_seconds(self) -> Gauge:
        """For how long the oldest transaction has been open that a horizon waits for."""
        ...


class _Nothing:
    def inc(self, amount: float = 1, /) -> None: ...

    def set(self, value: float, /) -> None: ...

    def observe(self, amount: float, /) -> None: ...

    def labels(self, **labels: str) -> _Nothing:
        return self


class NoMeasures:
    """Counts nothing."""

    found_by_tail_total = _Nothing()
    hints_total = _Nothing()
    fetches_total = _Nothing()
    resumes_total = _Nothing()
    resets_total = _Nothing()
    closes_total = _Nothing()
    connections = _Nothing()
    subscriptions = _Nothing()
    mailbox_bytes = _Nothing()
    delivered_total = _Nothing()
    delivery_seconds = _Nothing()
    horizon_age_seconds = _Nothing()
