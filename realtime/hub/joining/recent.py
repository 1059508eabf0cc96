"""Joins from the ring: what of a cursor's history is recent enough to be at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final

from realtime.hub.joining.log import OPEN_SHARED, Log, open_of
from realtime.hub.joining.reading import Reading
from realtime.hub.project import Project
from realtime.ring import Ring
from store.errors import CannotContinue
from store.model import Cursor, Group, Horizon, Selection

RING_PAGE: Final = 5_000


class Recent:
    """A project's ring, and what it takes to have it serve a cursor: read once for all."""

    def __init__(self, project: Project, reading: Reading, log: Log) -> None:
        self._project = project
        self._reading = reading
        self._log = log
        self._wanted_beginnings: dict[int, set[Horizon]] = {}
        """From where those come who wait for the ring to begin earlier."""
        self._wanted_witnesses: set[int] = set()

    async def since(self, cursor: Cursor, selection: Selection) -> Sequence[Group] | None:
        """What the ring has for the cursor, once it has what it can have; None: ask the log.

        Nothing is awaited after the last look.
        """
        project = self._project
        for mend in (self._catch_up, self._find_witness, self._reach_back):
            ring = project.ring
            groups = None if ring is None else ring.since(cursor, selection)
            if ring is None or groups is not None:
                return groups
            await mend(ring, cursor.horizon)
        return None if project.ring is None else project.ring.since(cursor, selection)

    async def _catch_up(self, ring: Ring, since: Horizon) -> None:
        """Has the tail come as far as the cursor, which another process made."""
        if ring.is_behind(since):
            await self._reading.until(self._project.waits.caught_up)

    async def _find_witness(self, ring: Ring, since: Horizon) -> None:
        """Has the ring learn whether the cursor is of this history; for all who wait, at once."""
        if ring.knows(since) or ring.is_behind(since):
            return
        services = self._project.services

        async def read() -> None:
            wanted, self._wanted_witnesses = self._wanted_witnesses, set()
            ring.learn(await services.store.witnesses(sorted(wanted)))

        def ask() -> Awaitable[None]:
            self._wanted_witnesses.add(since.xmax)
            return services.flights.get(("witnesses", self), read)

        await self._reading.patiently(ask)

    async def _reach_back(self, ring: Ring, since: Horizon) -> None:
        """Has the ring begin as early as the cursor: the log is read once for all who come from
        about there, and not again for those who come after them."""
        project = self._project
        if not ring.may_reach(since) or not ring.knows(since):
            return
        step = ring.step_to(since)
        wanted = self._wanted_beginnings
        if open_of(since, wanted.get(step, ())) > OPEN_SHARED:
            return

        async def read() -> None:
            beginning = ring.beginning(step, wanted.pop(step))
            if project.ring is ring and beginning is not None:
                await self._read_beginning(ring, beginning)

        def ask() -> Awaitable[None]:
            wanted.setdefault(step, set()).add(since)
            return project.services.flights.get(("beginning", self, step), read)

        await self._reading.patiently(ask)

    async def _read_beginning(self, ring: Ring, since: Horizon) -> None:
        project = self._project
        groups: list[Group] = []
        room, after = min(ring.room, project.services.replay_changes), None
        while True:
            try:
                page = await self._log.read(since, after, None, RING_PAGE)
            except CannotContinue:
                # Retention, most likely: those for whom nothing was cut read the log themselves.
                ring.give_up(since)
                return
            if project.ring is not ring:
                return  # it is of a history that is over
            # What it brings and no hint has told yet is handed on, or it would be shown twice to
            # those who wait: out of the ring, and again when it comes.
            await project.order.found(page.groups)
            if project.ring is not ring:
                return
            groups += page.groups
            room -= sum(len(group.changes) for group in page.groups)
            after = page.next
            if room < 0:
                ring.give_up(since)
                return
            if after is None:
                ring.reach_back(since, groups)
                return
