"""The recent changes of a project, for whoever comes back after a moment."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from store.model import Change, ChangeKind, Cursor, Group, Horizon, Run

RING_CHANGES: Final = 20_000
RING_BYTES: Final = 32_000_000
RUN_CHANGES: Final = 1_000
"""How many changes of one run are kept: a busy run must not push out all the others."""
KNOWN_HORIZONS: Final = 10_000
_OVERHEAD: Final = 400


class _Recent:
    """The changes of one run that are kept, and the run after the last of them."""

    __slots__ = ("changes", "run", "size")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.run: Run | None = None
        self.size = 0


class Ring:
    """What the hub has handed on since it follows the project, as much as fits.

    It serves a resume only if every change that it does not hold is seen by the cursor: those
    from before it began, and those that had to go. Else the database does.
    """

    def __init__(
        self, begun: Horizon, *, max_changes: int = RING_CHANGES, max_bytes: int = RING_BYTES
    ) -> None:
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._runs: OrderedDict[str, _Recent] = OrderedDict()
        self._count = 0
        self._size = 0
        self._gone = begun.xmax - 1
        """The greatest transaction that it may not hold."""
        self._gone_unseen: set[int] = set()
        """Those that had to go before the horizon had seen them."""
        self._horizon = begun
        self._known: OrderedDict[int, int] = OrderedDict()
        """SQLite: horizons that this process has seen, with their witnesses."""
        self.saw(begun)

    def __len__(self) -> int:
        return self._count

    def add(self, group: Group) -> None:
        """A group was handed on."""
        run_id = group.first.run_id
        recent = self._runs.get(run_id)
        if recent is None:
            recent = self._runs[run_id] = _Recent()
        else:
            self._runs.move_to_end(run_id)
        recent.changes.extend(group.changes)
        recent.run = group.run
        size = _size(group)
        recent.size += size
        self._size += size
        self._count += len(group.changes)
        if len(recent.changes) > RUN_CHANGES:
            self._evict(recent, len(recent.changes) - RUN_CHANGES // 2)
        while self._runs and (self._count > self._max_changes or self._size > self._max_bytes):
            oldest = self._runs.popitem(last=False)[1]
            self._evict(oldest, len(oldest.changes))

    def moved(self, horizon: Horizon) -> None:
        """The hub's horizon has moved."""
        self._horizon = horizon
        self._gone_unseen = {xid for xid in self._gone_unseen if not horizon.seen(xid)}
        self.saw(horizon)

    def saw(self, horizon: Horizon) -> None:
        """This process has seen the log like that; cursors are made of such horizons."""
        if horizon.witness:
            self._known[horizon.xmax] = horizon.witness
            while len(self._known) > KNOWN_HORIZONS:
                self._known.popitem(last=False)

    def since(self, cursor: Cursor) -> list[Group] | None:
        """All that the cursor has not seen of what the hub has handed on; None: ask the database.

        The cursor's epoch is the caller's to compare.
        """
        seen = cursor.horizon
        if not self._gone < seen.xmax <= self._horizon.xmax:
            return None
        if seen.witness and self._known.get(seen.xmax) != seen.witness:
            return None  # perhaps of another history: that takes the log to tell
        for xid in seen.xip:
            # Open when the cursor was made. Nothing of it is gone if it is open still, as far as
            # the horizon knows, and nothing of it that came by hints had to go.
            if xid <= self._gone and (xid not in self._horizon.xip or xid in self._gone_unseen):
                return None
        groups = []
        for recent in self._runs.values():
            changes = tuple(change for change in recent.changes if not seen.seen(change.xid))
            if changes:
                groups.append(Group(changes, recent.run))
        return groups

    def _evict(self, recent: _Recent, count: int) -> None:
        gone, recent.changes = recent.changes[:count], recent.changes[count:]
        share = recent.size if not recent.changes else recent.size * count // (
            count + len(recent.changes)
        )  # fmt: skip
        recent.size -= share
        self._size -= share
        self._count -= len(gone)
        for change in gone:
            self._gone = max(self._gone, change.xid)
            if not self._horizon.seen(change.xid):
                self._gone_unseen.add(change.xid)


def _size(group: Group) -> int:
    """About how much memory it takes."""
    size = _OVERHEAD * (len(group.changes) + 1)
    for change in group.changes:
        if change.kind is not ChangeKind.SEALED:
            size += len(msgspec.msgpack.encode(change.changed))
    if group.run is not None:
        size += len(msgspec.msgpack.encode((group.run.output, group.run.metadata)))
    return size
