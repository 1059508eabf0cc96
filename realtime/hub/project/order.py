"""What is next of each run, whoever tells of its changes and in whatever order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, TypeAlias

from realtime.hub.payloads import LOAD_RUNS
from realtime.hub.services import SLICE, Services
from realtime.session import Moment
from store.broker import Hint
from store.errors import CannotContinue, Unavailable
from store.lifecycle import is_final
from store.model import Change, ChangeKind, Group, Horizon, Selection

log = logging.getLogger(__name__)

HELD_HINTS: Final = 1_000
"""How many hints of one run wait while it is fetched."""
FETCH_CHANGES: Final = 10_000

HandOn: TypeAlias = Callable[[Group, Mapping[str, bytes | None]], bool]
"""Shows the next group of a run, with the payloads that were loaded for it. False, and nothing is
done, if that takes a payload that is neither loaded nor at hand."""


class Place(StrEnum):
    """Where a change stands to what was handed on."""

    NEXT = "next"
    SEEN = "seen"
    REPEAT = "repeat"
    GAP = "gap"


class Order:
    """Settles order and repeats once per run, for all subscriptions of a project alike.

    It is handed what hints tell and what the tail and fetches find, in any order and more than
    once, and hands on each version once, in order. Everything but the reads happens without
    waiting. It holds the horizon: what that covers has been handed on.
    """

    def __init__(self, project: str, services: Services, hand_on: HandOn) -> None:
        self._project = project
        self._services = services
        self._hand_on = hand_on
        self.epoch = ""
        self.horizon: Horizon | None = None
        """None until the tail has taken the first."""
        self._oldest = 0
        self._oldest_since = 0.0
        self._last: dict[str, tuple[int, int]] = {}
        """The last version handed on of each run, and its transaction, until that is seen."""
        self._held: dict[str, list[Hint]] = {}
        """Hints of runs that wait for a fetch or for a payload."""
        self._lacking: set[str] = set()
        self._loading = False
        self._life = 0
        """What was begun in another one comes to nothing."""

    # -------------------------------------------------------------------------------- the horizon

    def begin(self, epoch: str, horizon: Horizon) -> None:
        """The log goes on from here; of what was before, nothing is remembered."""
        self._life += 1
        self._last.clear()
        self._held.clear()
        self._lacking.clear()
        self.epoch, self.horizon = epoch, horizon

    def moved(self, horizon: Horizon, now: Moment) -> None:
        """All that this horizon covers has been handed on."""
        self.horizon = horizon
        if horizon.xip and horizon.xmin != self._oldest:
            self._oldest, self._oldest_since = horizon.xmin, now.monotonic
        self._last = {
            run_id: last for run_id, last in self._last.items() if not horizon.seen(last[1])
        }

    def horizon_age_s(self, now: Moment) -> float:
        """For how long the oldest transaction has been open that the horizon waits for."""
        if self.horizon is None or not self.horizon.xip:
            return 0.0
        return now.monotonic - self._oldest_since

    def close(self) -> None:
        """The project is followed no more."""
        self._life += 1
        self._held.clear()
        self._lacking.clear()

    # -------------------------------------------------------------------------------------- hints

    def hinted(self, hint: Hint) -> None:
        """A change that some process committed; perhaps late, doubled or out of order."""
        horizon, change = self.horizon, hint.change
        if horizon is None:
            # Before the first horizon there is nothing to compare with; the tail begins with it.
            self._count("unfollowed")
        elif horizon.seen(change.xid):
            self._count(Place.SEEN)
        elif (held := self._held.get(change.run_id)) is not None:
            self._count("held")
            if len(held) < HELD_HINTS:
                held.append(hint)
            else:
                self._wake_tail()
        else:
            self._offer(hint, {}, again=False)

    def _place(self, change: Change) -> Place:
        assert self.horizon is not None
        if self.horizon.seen(change.xid):
            return Place.SEEN
        last = self._last.get(change.run_id)
        if last is not None:
            if change.version <= last[0]:
                return Place.REPEAT
            return Place.NEXT if change.version == last[0] + 1 else Place.GAP
        if change.version == 1 or self.horizon.seen(change.previous_xid):
            return Place.NEXT
        return Place.GAP

    def _offer(self, hint: Hint, loaded: Mapping[str, bytes | None], *, again: bool) -> None:
        change, run = hint.change, hint.run
        place = self._place(change)
        if place in (Place.SEEN, Place.REPEAT):
            self._count(place)
            return
        is_whole = run is not None or change.kind is ChangeKind.SEALED
        if place is Place.GAP or not is_whole:
            if again:
                # The fetch did not see it. It is in the log or it is not: the tail will tell.
                self._wake_tail()
                return
            self._count(place if place is Place.GAP else "ids")
            self._held[change.run_id] = [hint]
            self._services.tasks.start(self._fetch(change.run_id), f"fetch of {change.run_id}")
            return
        self._count(Place.NEXT)
        if run is not None and run.has_payload and change.kind is ChangeKind.RUN:
            self._services.payloads.put(run.id, run.payload)
        if not self._advance(Group((change,), run), loaded):
            self._held[change.run_id] = [hint]
            self._lacking.add(change.run_id)
            if not self._loading:
                self._loading = True
                self._services.tasks.start(self._load_lacking(), "read of payloads")

    def _advance(self, group: Group, loaded: Mapping[str, bytes | None]) -> bool:
        if not self._hand_on(group, loaded):
            return False
        self._last[group.first.run_id] = (group.last.version, group.last.xid)
        if group.run is None or is_final(group.run.status):
            # It is asked for less than those of runs that live.
            self._services.payloads.drop(group.first.run_id)
        return True

    def _release(self, run_id: str, loaded: Mapping[str, bytes | None], *, again: bool) -> None:
        """What waited is as if it had been hinted just now, in the order of versions."""
        hints = self._held.pop(run_id, [])
        for hint in sorted(hints, key=lambda hint: hint.change.version):
            held = self._held.get(run_id)
            if held is not None:
                held.append(hint)
            else:
                self._offer(hint, loaded, again=again)

    async def _fetch(self, run_id: str) -> None:
        """Reads what the horizon has not seen of one run."""
        life, since, epoch = self._life, self.horizon, self.epoch
        assert since is not None
        services = self._services
        services.measures.fetches_total.inc()
        try:
            page = await services.flights.get(
                ("run", self._project, life, run_id),
                lambda: services.store.read_log(
                    self._project,
                    since,
                    epoch=epoch,
                    limit=FETCH_CHANGES,
                    selection=Selection(project=self._project, run_id=run_id),
                    payloads=True,
                ),
            )
            if life == self._life:
                await self.found(page.groups)
        except (CannotContinue, Unavailable):
            self._wake_tail()
        finally:
            if life == self._life:
                self._release(run_id, {}, again=True)

    async def _load_lacking(self) -> None:
        """Reads the payloads of all runs that wait for one, together."""
        try:
            while self._lacking:
                life = self._life
                ids = sorted(self._lacking)[:LOAD_RUNS]
                self._lacking.difference_update(ids)
                try:
                    loaded = await self._services.payloads.load(self._project, ids)
                except Exception as error:
                    # Whatever it was, what waits here waits for nothing any more. The tail tries
                    # again and again, and comes with what it finds.
                    if not isinstance(error, Unavailable):
                        log.exception("payloads could not be read")
                    if life == self._life:
                        for id in ids:
                            self._held.pop(id, None)
                    self._wake_tail()
                    continue
                if life != self._life:
                    continue  # what waited then was let go, and something else may wait now
                for id in ids:
                    self._release(id, loaded, again=False)
        finally:
            self._loading = False

    # ---------------------------------------------------------------------------- what reads find

    async def found(self, groups: Sequence[Group], *, by_tail: bool = False) -> None:
        """Some read of the log has found these. What no hint has told of them is handed on, each
        group or nothing of it."""
        life = self._life
        loaded: dict[str, bytes | None] = {}
        for start in range(0, len(groups), SLICE):
            left = groups[start : start + SLICE]
            while left:
                lacking = []
                for group in left:
                    fresh = self._not_handed_on(group)
                    if fresh is None:
                        continue
                    if not self._advance(fresh, loaded):
                        lacking.append(group)
                    elif by_tail:
                        self._services.measures.found_by_tail_total.inc(len(fresh.changes))
                left = lacking
                if lacking:
                    run_ids = [group.first.run_id for group in lacking]
                    loaded = await self._services.payloads.load(self._project, run_ids)
                    if life != self._life:
                        return
            if start + SLICE < len(groups):
                await asyncio.sleep(0)
                if life != self._life:
                    return

    def _not_handed_on(self, group: Group) -> Group | None:
        assert self.horizon is not None
        seen = self.horizon.seen
        version = self._last.get(group.first.run_id, (0, 0))[0]
        # The horizon may have moved since this was read, and what it covers was forgotten.
        fresh = tuple(
            change for change in group.changes if change.version > version and not seen(change.xid)
        )
        if not fresh:
            return None
        return group if len(fresh) == len(group.changes) else Group(fresh, group.run)

    def _wake_tail(self) -> None:
        self._services.wake_tail(self._project)

    def _count(self, result: str) -> None:
        self._services.measures.hints_total.labels(result=result).inc()
