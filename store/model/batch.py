"""A batch as it stands."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from store.model.run import RunStatus


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Runs made together, and how far they are."""

    id: str
    project: str
    created_at: datetime
    sealed_at: datetime | None
    counts: dict[RunStatus, int]
    last_finished_at: datetime | None

    @property
    def size(self) -> int:
        return sum(self.counts.values())

    def final(self, finals: Iterable[RunStatus]) -> int:
        """How many of its runs are over."""
        return sum(self.counts.get(status, 0) for status in finals)
