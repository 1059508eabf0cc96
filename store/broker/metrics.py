"""What a broker counts."""

from __future__ import annotations

from typing import Final, Protocol


class BrokerMetrics(Protocol):
    """Where a broker's counts go. Called on the event loop, often; must not block or raise."""

    def published(self, hints: int) -> None:
        """So many hints were taken by the server."""

    def dropped(self, hints: int, reason: str) -> None:
        """So many hints were published and thrown away.

        `reason`: `away`, `overflow` (of the queue), `refused` (by the server), `unencodable`.
        """

    def received(self, hints: int) -> None:
        """So many hints of other processes came, of followed projects."""

    def suspected(self, reason: str) -> None:
        """The listener was told to read the tail; `reason` is a `Suspicion`: `hole`, …"""

    def reconnected(self, side: str) -> None:
        """A connection was made again; `side`: `publisher` or `subscriber`."""

    def canary_missed(self) -> None:
        """A connection that seemed to stand had gone silent."""

    def state(self, ok: bool) -> None:
        """A gauge: whether hints are known to come through."""


class NoMetrics:
    """Counts nothing."""

    def published(self, hints: int) -> None: ...

    def dropped(self, hints: int, reason: str) -> None: ...

    def received(self, hints: int) -> None: ...

    def suspected(self, reason: str) -> None: ...

    def reconnected(self, side: str) -> None: ...

    def canary_missed(self) -> None: ...

    def state(self, ok: bool) -> None: ...


NO_METRICS: Final = NoMetrics()
