"""What a watcher has been told so far: runs as they stand, and how many are in which status."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, TypeGuard

from runstream.changes import BatchProgress, Change, Changed, Entered, Left, Reset
from runstream.models import AnyRun, Batch, RunStatus

MAX_KEPT: Final = 2_000
"""Final runs kept to be shown; a long watch of a busy tag must not grow for ever."""

MAX_COUNTED: Final = 50_000
"""Runs no longer kept of which the status is still known, should they change or leave."""


class Board:
    """Holds the runs that move, the newest of those that are over, and counts them all."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self._runs: dict[str, AnyRun] = {}
        self._final: dict[str, None] = {}
        self._forgotten: dict[str, RunStatus] = {}
        self._counts: Counter[RunStatus] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    @property
    def counts(self) -> dict[RunStatus, int]:
        """How many runs are in which status, in the order of the lifecycle, no zeros."""
        return {status: self._counts[status] for status in RunStatus if self._counts[status] > 0}

    def get(self, run_id: str) -> AnyRun | None:
        """The run as it stands, if it is kept."""
        return self._runs.get(run_id)

    def children(self, run_id: str) -> list[AnyRun]:
        """The runs that are its steps, in order."""
        found = [run for run in self._runs.values() if run.parent_run_id == run_id]
        return sorted(found, key=lambda run: (run.position or 0, run.number))

    def take(self, change: Change[AnyRun]) -> None:
        """Takes what a subscription tells."""
        match change:
            case Entered(run=run) | Changed(run=run):
                self.show(run)
            case Left(run=run):
                self.drop(run.id)
            case BatchProgress(batch=batch):
                self.batch = batch
            case Reset():
                self.clear()

    def show(self, run: AnyRun) -> None:
        """Takes a run as it stands now."""
        self.drop(run.id)
        self._runs[run.id] = run
        self._counts[run.status] += 1
        if run.is_final:
            self._final[run.id] = None
            if len(self._final) > MAX_KEPT:
                self._forget(next(iter(self._final)))

    def drop(self, run_id: str) -> None:
        """Takes a run away."""
        run = self._runs.pop(run_id, None)
        status = self._forgotten.pop(run_id, None) if run is None else run.status
        self._final.pop(run_id, None)
        if status is not None:
            self._counts[status] -= 1

    def clear(self) -> None:
        """Takes all away."""
        self._runs.clear()
        self._final.clear()
        self._forgotten.clear()
        self._counts.clear()

    def top(self, most: int) -> Sequence[AnyRun]:
        """The first of them: what moves, then what waits, then what is over, the newest on top."""
        return heapq.nsmallest(most, self._runs.values(), key=_rank)

    def _forget(self, run_id: str) -> None:
        del self._final[run_id]
        self._forgotten[run_id] = self._runs.pop(run_id).status
        if len(self._forgotten) > MAX_COUNTED:
            del self._forgotten[next(iter(self._forgotten))]


def _rank(run: AnyRun) -> tuple[int, float, int]:
    if run.is_final:
        ended = run.finished_at or run.updated_at
        return 2, -ended.timestamp(), -run.number
    return int(run.is_queued), 0.0, -run.number


def progress_of(run: AnyRun) -> float | None:
    """How far the run says it is, from 0 to 1; None if it does not say.

    It may say it as a number up to 1, per cent, or as an object with `completed` and `total`.
    """
    return fraction(run.metadata.get("progress"))


def fraction(said: Any) -> float | None:
    """What the value of `progress` means, from 0 to 1; None if it means nothing."""
    if isinstance(said, dict):
        names = ("completed", "current", "done", "value")
        done = next((said[name] for name in names if said.get(name) is not None), None)
        total = said.get("total")
        if not _is_number(done) or not _is_number(total) or total <= 0:
            return None
        return _within(done / total)
    if not _is_number(said):
        return None
    return _within(said / 100 if said > 1 else said)


def message_of(run: AnyRun) -> str:
    """What the run says it is doing, as it came."""
    for name in ("message", "step", "text"):
        said: Any = run.metadata.get(name)
        if said is not None:
            return said if isinstance(said, str) else ""
    return ""


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _within(part: float) -> float:
    return min(1.0, max(0.0, float(part)))
