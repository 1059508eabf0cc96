"""The log as those who join read it: what a horizon has not seen, in pages that several share."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Final

from realtime.hub.joining.reading import Reading
from realtime.hub.project import Project
from realtime.ring import FIRST_STEP, meet
from store.errors import CannotContinue
from store.model import Horizon, LogPage, Selection

PAGE_CHANGES: Final = 1_000
OPEN_SHARED: Final = 1_000
"""Those who share a read may name so many open transactions together."""


class Log:
    """The log of a project, read once for all who come from about the same place."""

    def __init__(self, project: Project, reading: Reading) -> None:
        self._project = project
        self._reading = reading
        self._wanted: dict[tuple[str, Horizon | int], dict[Horizon, set[str | None]]] = {}
        """For each who waits for a read: since when, and of which runs."""

    async def first_page(
        self, since: Horizon, run_id: str | None
    ) -> tuple[LogPage, Horizon, Selection | None]:
        """The page, what it was read since, and of what.

        Those who resume from about the same place share it, from what all of them have seen on,
        and of all runs; none of them reads more than about twice what it needs.
        """
        ring, horizon = self._project.ring, self._project.order.horizon
        if ring is not None and horizon is not None and ring.vouches_for(since):
            distance = max(horizon.xmax - since.xmax, 0) // FIRST_STEP
            try:
                found = await self._shared_page(since, run_id, distance.bit_length())
            except CannotContinue:
                pass  # perhaps only for another of them
            else:
                if since.xmax <= found[0].horizon.xmax:
                    return found
        return await self._shared_page(since, run_id, since)

    async def _shared_page(
        self, since: Horizon, run_id: str | None, near: Horizon | int
    ) -> tuple[LogPage, Horizon, Selection | None]:
        project, wanted = self._project, self._wanted
        place = (project.order.epoch, near)
        if open_of(since, wanted.get(place, ())) > OPEN_SHARED:
            place = (project.order.epoch, since)

        async def read() -> tuple[LogPage, Horizon, Selection | None]:
            waiting = wanted.pop(place)
            runs = set().union(*waiting.values())
            only = next(iter(runs)) if len(runs) == 1 else None
            selection = None if only is None else Selection(project=project.project, run_id=only)
            seen_by_all = meet(waiting)
            return await self.read(seen_by_all, None, selection), seen_by_all, selection

        def ask() -> Awaitable[tuple[LogPage, Horizon, Selection | None]]:
            wanted.setdefault(place, {}).setdefault(since, set()).add(run_id)
            # Shared by those of this project as it is followed now: what is wanted is known here.
            return project.services.flights.get(("log", self, place), read)

        return await self._reading.patiently(ask)

    async def page(self, since: Horizon, after: str, selection: Selection | None) -> LogPage:
        """The page that follows."""
        project = self._project
        key = ("log", project.project, project.order.epoch, since, after, selection)
        return await self._reading.shared(key, lambda: self.read(since, after, selection))

    async def read(
        self,
        since: Horizon,
        after: str | None,
        selection: Selection | None,
        limit: int = PAGE_CHANGES,
    ) -> LogPage:
        """A page, read for nobody else. Raises CannotContinue, Unavailable."""
        project = self._project
        return await project.services.store.read_log(
            project.project,
            since,
            epoch=project.order.epoch,
            after=after,
            limit=limit,
            selection=selection,
        )


def open_of(since: Horizon, waiting: Iterable[Horizon]) -> int:
    """How many open transactions they name together, or more; most name none."""
    if not since.xip:
        return 0
    return len(since.xip) + sum(len(each.xip) for each in waiting)
