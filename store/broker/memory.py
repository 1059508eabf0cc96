"""The broker of one process: hints go from its writer to its listener, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from store.broker import BrokerState, Hint, Listener, Suspicion
from store.broker.inbox import Inbox, Reading
from store.broker.metrics import NO_METRICS, BrokerMetrics


class MemoryBroker:
    """Loses nothing that is published after `start`, and keeps the order.

    Hints are handed over by the loop's next callback, not inside `publish`: that costs some
    20 µs, joins the commits of one turn into one call, and keeps the writer's stack, its timing
    and its errors apart from the readers'.
    """

    def __init__(self, *, metrics: BrokerMetrics = NO_METRICS) -> None:
        self._metrics = metrics
        self._inbox = Inbox(metrics, _read_nothing)
        self._started = False

    @property
    def state(self) -> BrokerState:
        return BrokerState.OK

    async def start(self, listener: Listener) -> None:
        if self._started:
            raise RuntimeError("a broker is started once")
        self._started = True
        self._metrics.state(ok=True)
        self._inbox.open(listener)
        self._inbox.suspect(None, Suspicion.SUBSCRIBED)

    async def close(self) -> None:
        self._inbox.close()

    def publish(self, hints: Sequence[Hint]) -> None:
        self._inbox.publish(hints)
        self._metrics.published(len(hints))

    def follow(self, project: str) -> None:
        if self._inbox.follow(project):
            self._inbox.suspect(project, Suspicion.FOLLOWED)

    def unfollow(self, project: str) -> None:
        self._inbox.unfollow(project)


def _read_nothing(origin: bytes, message: bytes) -> Reading:
    raise AssertionError("nobody else speaks to the memory of one process")
