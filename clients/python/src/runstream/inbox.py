"""What has come for a subscription and its caller has not taken yet."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from runstream.changes import BatchProgress, Change, Changed, Entered, Left
from runstream.models import AnyRun

_OF_RUNS: Final = (Entered, Changed, Left)


class Mark:
    """A cursor in its place: all before it has been taken when it is reached."""

    __slots__ = ("cursor",)

    def __init__(self, cursor: str) -> None:
        self.cursor: Final = cursor


class Inbox:
    """A queue with a bound, which conflates under `delivery="latest"`.

    The bound is not enforced here: who fills it looks at `is_full`, since what to do
    about it (to stop listening and resume later) is no business of a queue.
    """

    def __init__(self, *, conflating: bool, max_changes: int, max_bytes: int) -> None:
        self._conflating = conflating
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        # Each entry is a cell, so that a newer change can take the place of an older one.
        self._cells: deque[list[Any]] = deque()
        # What is not given yet, while it may have to be dropped.
        self._kept: deque[list[Any]] | None = None
        self._owed: dict[str, list[Any]] = {}
        # Only what happened to runs counts: a bound that cursors and the like could
        # reach would stop a stream that has nothing to say.
        self._changes = 0
        self._bytes = 0.0

    def __len__(self) -> int:
        """How many entries can be taken."""
        return len(self._cells)

    @property
    def is_full(self) -> bool:
        """Whether it holds as much as it may."""
        return self._changes >= self._max_changes or self._bytes >= self._max_bytes

    @property
    def is_low(self) -> bool:
        """Whether there is room again; well below full, so that the two don't alternate quickly."""
        return self._changes <= self._max_changes // 4 and self._bytes <= self._max_bytes / 4

    def put_run(
        self, change: Entered[AnyRun] | Changed[AnyRun] | Left[AnyRun], weight: float
    ) -> None:
        """Adds what happened to a run; `weight` is about how many bytes it takes."""
        self._bytes += weight
        if self._conflating:
            owed = self._owed.get(change.run.id)
            if owed is not None:
                # In the older one's place, so that a busy run does not lose its turn.
                # Whole runs, so nothing is to be merged; what has not been told as
                # entered still enters.
                if isinstance(change, Changed) and isinstance(owed[0], Entered):
                    change = Entered(change.run)
                self._bytes -= owed[1]
                owed[0], owed[1] = change, weight
                return
            cell = [change, weight]
            self._owed[change.run.id] = cell
        else:
            cell = [change, weight]
        self._changes += 1
        (self._cells if self._kept is None else self._kept).append(cell)

    def put(self, change: Change[AnyRun]) -> None:
        """Adds what is about no single run. What comes before and after is not merged across it."""
        if isinstance(change, BatchProgress):
            last = self._last[-1] if self._last else None
            if last is not None and isinstance(last[0], BatchProgress):
                last[0] = change
                return
        else:
            self._owed.clear()
        self._last.append([change, 0])

    def mark(self, cursor: str) -> None:
        """Adds a cursor, in place of one that directly precedes it."""
        if self._last and isinstance(self._last[-1][0], Mark):
            self._last[-1][0] = Mark(cursor)
        else:
            self._last.append([Mark(cursor), 0])

    def take(self) -> Change[AnyRun] | Mark | None:
        """The oldest entry, no longer in here; None if there is none."""
        if not self._cells:
            return None
        change, weight = self._cells.popleft()
        self._bytes -= weight
        if isinstance(change, _OF_RUNS):
            self._changes -= 1
            if self._conflating:
                # A barrier may have forgotten it, and a later one of the same run stand there.
                run_id = change.run.id
                owed = self._owed.get(run_id)
                if owed is not None and owed[0] is change:
                    del self._owed[run_id]
        return change  # type: ignore[no-any-return]

    @property
    def _last(self) -> deque[list[Any]]:
        return self._cells if self._kept is None else self._kept

    # What may have to be dropped

    def keep(self) -> None:
        """What comes from now on is not given before `release`, nor merged into what came before."""
        if self._kept is None:
            self._kept = deque()
            self._owed.clear()

    def release(self) -> None:
        """What was kept is given from now on, after what came before it."""
        if self._kept is not None:
            self._cells += self._kept
            self._kept = None

    def drop(self) -> None:
        """Forgets what is kept; what comes instead is kept, too."""
        if self._kept is None:
            return
        for change, weight in self._kept:
            self._bytes -= weight
            self._changes -= isinstance(change, _OF_RUNS)
        self._kept.clear()
        self._owed.clear()

    def clear(self) -> None:
        """Drops everything, also what is kept."""
        self._cells.clear()
        self._kept = None
        self._owed.clear()
        self._changes = 0
        self._bytes = 0.0
