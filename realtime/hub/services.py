"""What all projects of a hub share: the store that they read, and who does their work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from realtime.hub.cohorts import Cohort
from realtime.hub.flights import Flights
from realtime.hub.measures import Measures
from realtime.hub.payloads import Payloads
from realtime.hub.tasks import Tasks
from realtime.session import Moment
from store.model import Batch, Change, ListKey, Selection, SnapshotPage
from store.tail import TailStore

SLICE: Final = 100
"""After how many groups of a long read the sockets get their turn."""


class Store(TailStore, Protocol):
    """What the hub reads. Everything raises Unavailable while the database is away."""

    async def snapshot(
        self, selection: Selection, *, after: ListKey | None = None, limit: int
    ) -> SnapshotPage: ...

    async def payloads(self, project: str, run_ids: Sequence[str]) -> dict[str, Any]: ...

    async def get_batches(self, project: str, batch_ids: Sequence[str]) -> dict[str, Batch]: ...

    async def witnesses(self, xmaxes: Sequence[int]) -> dict[int, int]: ...


@dataclass(frozen=True)
class Services:
    """What a project is handed."""

    store: Store
    tasks: Tasks
    flights: Flights
    payloads: Payloads
    measures: Measures
    now: Callable[[], Moment]
    wake_tail: Callable[[str], None]
    """Has the log of a project read at once."""
    delivered: Callable[[Change, int], None]
    """A change was shown to so many."""
    due: Callable[[Cohort], None]
    """A cohort is to be flushed at the end of this turn."""
    replay_changes: int
    join_s: float
    is_slow: Callable[[str], bool]
    """Whether whoever holds that cursor was too slow again and again."""
