"""The recent changes of a project, for whoever comes back after a moment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from store.model import Change, ChangeKind, Cursor, Group, Horizon, Match, Run, Selection

RING_CHANGES: Final = 20_000
RING_BYTES: Final = 32_000_000
RUN_CHANGES: Final = 1_000
"""How many changes of one run are kept: a busy run must not push out all the others."""
KNOWN_HORIZONS: Final = 10_000
FIRST_STEP: Final = 256
"""So many transactions before its beginning are read at least, when somebody comes from there."""
_OVERHEAD: Final = 400
_EVERYTHING: Final = ("", "")

_Topic = tuple[str, str]


class _Recent:
    """The changes of one run that are kept, and the run after the last of them."""

    __slots__ = ("changes", "given", "looked_at", "run", "size", "topics")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.run: Run | None = None
        self.size = 0
        self.given: dict[int, Group] = {}
        """What was given of it since it last changed, by the first version."""
        self.topics: set[_Topic] = set()
        self.looked_at = 0
        """How many of the changes the topics are of."""

    def since(self, seen: Horizon) -> Group | None:
        """What of it the horizon has not seen; the same object until there is more of it."""
        changes = self.changes
        start = len(changes)
        # Versions that are seen are so without a gap: what is not seen is the end of it.
        while start and not seen.seen(changes[start - 1].xid):
            start -= 1
        if start == len(changes):
            return None
        first = changes[start].version
        group = self.given.get(first)
        if group is None:
            group = self.given[first] = Group(tuple(changes[start:]), self.run)
        return group


class Ring:
    """What the hub has handed on since it follows the project, as much as fits.

    It serves a resume only if every change that it does not hold is seen by the cursor: those
    from before it began, and those that had to go. Else the database does; and what that says of
    the time before can be put in front (`reach_back`), for whoever comes next.
    """

    def __init__(
        self, begun: Horizon, *, max_changes: int = RING_CHANGES, max_bytes: int = RING_BYTES
    ) -> None:
        self.begun: Final = begun
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._runs: OrderedDict[str, _Recent] = OrderedDict()
        self._count = 0
        self._size = 0
        self._gone = begun.xmax - 1
        """The greatest transaction that it may not hold."""
        self._gone_unseen: set[int] = set()
        """Those that had to go before the horizon had seen them."""
        self._reached: Horizon | None = begun
        """What this has not seen, it holds; None once something had to go."""
        self._unreachable = 0
        """How far back the log has more than would fit."""
        self._evicts = False
        self._horizon = begun
        self._known: OrderedDict[int, int] = OrderedDict()
        """SQLite: horizons that this process has seen, with their witnesses."""
        self._by_topic: dict[_Topic, dict[str, None]] = {}
        self._unlooked: dict[str, None] = {}
        """The runs that may have come under topics since somebody last asked by topic."""
        self._last_all: tuple[Horizon, list[Group]] | None = None
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
            recent.given.clear()
        self._last_all = None
        self._unlooked[run_id] = None
        recent.changes.extend(group.changes)
        recent.run = group.run
        size = _size(group)
        recent.size += size
        self._size += size
        self._count += len(group.changes)
        if len(recent.changes) > RUN_CHANGES:
            self._evict(run_id, recent, len(recent.changes) - RUN_CHANGES // 2)
        while self._runs and (self._count > self._max_changes or self._size > self._max_bytes):
            oldest_id, oldest = self._runs.popitem(last=False)
            self._evict(oldest_id, oldest, len(oldest.changes))

    def moved(self, horizon: Horizon) -> None:
        """The hub's horizon has moved."""
        self._horizon = horizon
        self._gone_unseen = {xid for xid in self._gone_unseen if not horizon.seen(xid)}
        self.saw(horizon)

    def saw(self, horizon: Horizon) -> None:
        """This process has seen the log like that; cursors are made of such horizons."""
        if horizon.witness:
            self._know(horizon.xmax, horizon.witness)

    def _know(self, xmax: int, witness: int) -> None:
        self._known[xmax] = witness
        while len(self._known) > KNOWN_HORIZONS:
            self._known.popitem(last=False)

    def learn(self, witnesses: Mapping[int, int]) -> None:
        """SQLite: what the log says are the witnesses of these horizons."""
        for xmax, witness in witnesses.items():
            self._know(xmax, witness)

    # ---------------------------------------------------------------------------------- to a cursor

    def is_behind(self, horizon: Horizon) -> bool:
        """Whether that has seen what the hub's horizon has not: another process made it, which
        read the log later; or it is of another history."""
        return not self._horizon.covers(horizon)

    def vouches_for(self, horizon: Horizon) -> bool:
        """Whether that is of this history."""
        return not horizon.witness or self._known.get(horizon.xmax) == horizon.witness

    def knows(self, horizon: Horizon) -> bool:
        """Whether it can tell if the horizon is of this history."""
        return not horizon.witness or horizon.xmax in self._known

    def since(self, cursor: Cursor, selection: Selection | None = None) -> list[Group] | None:
        """All that the cursor has not seen of what the hub has handed on; None: ask the database.

        With a selection, what may concern that, and not much more. The cursor's epoch is the
        caller's to compare.
        """
        seen = cursor.horizon
        if seen.xmax <= self._gone or self.is_behind(seen):
            return None
        if not self.vouches_for(seen):
            return None  # perhaps of another history: that takes the log to tell
        for xid in seen.xip:
            # Open when the cursor was made. Nothing of it is gone if it was open still where this
            # begins; or if it is so as far as the horizon knows, and nothing of it that came by
            # hints had to go.
            if (
                xid <= self._gone
                and (self._reached is None or self._reached.seen(xid))
                and (xid not in self._horizon.xip or xid in self._gone_unseen)
            ):
                return None
        topics = _topics_of(selection)
        if topics[0] is _EVERYTHING:
            return self._all_since(seen)
        self._look()
        # Of tags of which a run must have each, the one that the fewest have.
        hits = sorted((self._by_topic.get(topic, {}) for topic in topics), key=len)
        if selection is not None and selection.tags and selection.match is Match.ALL:
            del hits[1:]
        ids = dict.fromkeys(id for hit in hits for id in hit)
        found = (self._runs[id].since(seen) for id in ids)
        return [group for group in found if group is not None]

    def _all_since(self, seen: Horizon) -> list[Group]:
        if self._last_all is None or self._last_all[0] != seen:
            found = (recent.since(seen) for recent in self._runs.values())
            self._last_all = seen, [group for group in found if group is not None]
        return self._last_all[1]

    def _look(self) -> None:
        """Notes the topics of what has come since it was last asked for."""
        for id in self._unlooked:
            recent = self._runs[id]
            topics = _topics_among(recent.changes[recent.looked_at :], recent.run)
            recent.looked_at = len(recent.changes)
            for topic in topics - recent.topics:
                self._by_topic.setdefault(topic, {})[id] = None
            recent.topics |= topics
        self._unlooked.clear()

    # ------------------------------------------------------------------------- to before it began

    def may_reach(self, since: Horizon) -> bool:
        """Whether it might be made to begin there: nothing had to go yet, so there is room."""
        return not self._evicts and self._unreachable < since.xmax <= self._horizon.xmax

    def step_to(self, since: Horizon) -> int:
        """How many transactions before its beginning it would be made to begin, to reach there:
        up to twice as many as are between, so that whoever comes from near there is served too."""
        step = FIRST_STEP
        while self.begun.xmax - step > since.xmax and step < self.begun.xmax:
            step *= 2
        return step

    def beginning(self, step: int, waiting: Iterable[Horizon]) -> Horizon | None:
        """What has to be read of the log for those who wait, who have seen all that this has;
        None: nothing, or it makes no sense to try."""
        xmax = max(self.begun.xmax - step, 1)
        since = meet([Horizon(xmax, xmax), *waiting])
        reached = self._reached
        if reached is not None and since.covers(reached):
            return None
        return since if self.may_reach(since) else None

    @property
    def room(self) -> int:
        """How many more changes it would hold."""
        return self._max_changes - self._count

    def reach_back(self, since: Horizon, groups: Sequence[Group]) -> None:
        """Puts in front what was before it began, if there is room.

        The groups are all that `since` has not seen, read by statements that began after this
        ring did, and all of it was handed on by now.
        """
        earlier: list[tuple[Group, int]] = []
        for group in groups:
            recent = self._runs.get(group.first.run_id)
            version = None if recent is None else recent.changes[0].version
            count = sum(version is None or change.version < version for change in group.changes)
            if count:
                earlier.append((group, count))
        count = sum(count for _, count in earlier)
        size = sum(_size(group) for group, _ in earlier)
        if (
            self._evicts
            or self._count + count > self._max_changes
            or self._size + size > self._max_bytes
        ):
            self.give_up(since)
            return
        for group, count in earlier:
            id = group.first.run_id
            recent = self._runs.get(id)
            if recent is None:
                recent = self._runs[id] = _Recent()
                recent.run = group.run
            recent.changes[:0] = group.changes[:count]
            recent.looked_at = 0
            recent.given.clear()
            recent.size += _size(group)
            # Older than all that was here: the first to go.
            self._runs.move_to_end(id, last=False)
            self._unlooked[id] = None
        self._count += count
        self._size += size
        self._reached = since
        self._gone = since.xmax - 1
        self._last_all = None

    def give_up(self, since: Horizon) -> None:
        """It can't be made to begin there, nor before."""
        self._unreachable = max(self._unreachable, since.xmax)

    # ------------------------------------------------------------------------------ what has to go

    def _evict(self, run_id: str, recent: _Recent, count: int) -> None:
        gone, recent.changes = recent.changes[:count], recent.changes[count:]
        share = recent.size if not recent.changes else recent.size * count // (
            count + len(recent.changes)
        )  # fmt: skip
        recent.size -= share
        self._size -= share
        self._count -= len(gone)
        self._evicts = True
        self._reached = None
        self._last_all = None
        recent.given.clear()
        recent.looked_at = max(0, recent.looked_at - count)
        if not recent.changes:
            for topic in recent.topics:
                of_topic = self._by_topic[topic]
                del of_topic[run_id]
                if not of_topic:
                    del self._by_topic[topic]
            self._unlooked.pop(run_id, None)
        for change in gone:
            self._gone = max(self._gone, change.xid)
            if not self._horizon.seen(change.xid):
                self._gone_unseen.add(change.xid)


def meet(horizons: Iterable[Horizon]) -> Horizon:
    """What all of them have seen. If there is but one, it is that."""
    several = tuple(horizons)
    if len(several) == 1:
        return several[0]
    xmax = min(horizon.xmax for horizon in several)
    xip = sorted({xid for horizon in several for xid in horizon.xip if xid < xmax})
    return Horizon(xip[0] if xip else xmax, xmax, tuple(xip))


def _topics_of(selection: Selection | None) -> Sequence[_Topic]:
    """Under which of them all stands that may concern the selection."""
    if selection is None:
        return (_EVERYTHING,)
    if selection.run_id is not None:
        return (("run", selection.run_id),)
    if selection.batch_id is not None:
        return (("batch", selection.batch_id),)
    if selection.job_run_id is not None:
        return ("run", selection.job_run_id), ("parent", selection.job_run_id)
    if selection.tags:
        return [("tag", tag) for tag in selection.tags]
    return (_EVERYTHING,)


def _topics_among(changes: Iterable[Change], run: Run | None) -> set[_Topic]:
    """What the changes are about, and the run after them."""
    topics: set[_Topic] = set()
    for change in changes:
        if change.kind is ChangeKind.SEALED:
            topics.add(("batch", change.run_id))
        elif change.before is not None:
            topics.update(("tag", tag) for tag in change.before.tags)
    if run is not None:
        topics.add(("run", run.id))
        topics.update(("tag", tag) for tag in run.tags)
        if run.batch_id is not None:
            topics.add(("batch", run.batch_id))
        if run.parent_run_id is not None:
            topics.add(("parent", run.parent_run_id))
    return topics


def _size(group: Group) -> int:
    """About how much memory it takes."""
    size = _OVERHEAD * (len(group.changes) + 1)
    for change in group.changes:
        if change.kind is not ChangeKind.SEALED:
            size += len(msgspec.msgpack.encode(change.changed))
    if group.run is not None:
        size += len(msgspec.msgpack.encode((group.run.output, group.run.metadata)))
    return size
