"""Pages of what was read, each with what its statement could see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from store.model.asked import ListKey
from store.model.batch import Batch
from store.model.change import Group
from store.model.horizon import Horizon
from store.model.run import Run


class SnapshotPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the runs of a selection, and what the statement that read them could see."""

    runs: Sequence[Run]
    horizon: Horizon
    epoch: str
    next: ListKey | None
    """Give it as `after` for the next page; None: this was the last."""
    found: bool = True
    """For a selection by one run or batch or job run: whether that exists."""
    batch: Batch | None = None
    """For a selection by batch: the batch as the same statement saw it."""


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some groups of the log that a horizon had not seen, whole runs at a time."""

    groups: Sequence[Group]
    horizon: Horizon
    epoch: str
    next: str | None
    """Give it as `after` for the next page; None: this was the last."""
    batches: Mapping[str, Batch] = {}
    """The batches that were asked for, as the same statement saw them."""
    found: bool = True
    """For a selection by one run, batch or job run: whether that exists."""
