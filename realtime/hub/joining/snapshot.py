"""Joins from a snapshot: the present state of every run that is asked for, in pages."""

from __future__ import annotations

import asyncio
from typing import Final

from realtime.errors import StoreAway
from realtime.hub.joining.reading import Reading
from realtime.hub.joining.replay import Replay
from realtime.hub.joining.showing import Showing
from realtime.hub.joining.target import Target
from realtime.hub.project import Project
from realtime.session import Member
from store.model import Horizon, ListKey, Selection, SnapshotPage

PAGE_RUNS: Final = 100
PAGE_RUNS_MAX: Final = 1_000
PAGE_BYTES: Final = 1_000_000
"""About how much a page of a snapshot should hold; pages are made larger or smaller for it."""


class Snapshots:
    """The runs of a project as they stand, read once for all who ask for the same."""

    def __init__(self, project: Project, reading: Reading) -> None:
        self._project = project
        self._reading = reading

    async def page(self, selection: Selection, after: ListKey | None, limit: int) -> SnapshotPage:
        """One page. Raises StoreAway, as all of these do."""
        return await self._reading.shared(
            ("snapshot", selection, after, limit),
            lambda: self._project.services.store.snapshot(selection, after=after, limit=limit),
        )

    async def one(self, run_id: str) -> SnapshotPage:
        """One run, or none."""
        selection = Selection(project=self._project.project, run_id=run_id)
        return await self._reading.shared(
            ("snapshot", selection, 1),
            lambda: self._project.services.store.snapshot(selection, limit=1),
        )

    async def horizon(self) -> tuple[str, Horizon]:
        """The log's epoch and what a read of it would see, of no run."""
        id = self._project.project
        return await self._reading.shared(
            ("horizon", id), lambda: self._project.services.store.horizon(id)
        )


class FromSnapshot:
    """Shows one subscription the present state, as far as it asks for one."""

    def __init__(
        self,
        project: Project,
        snapshots: Snapshots,
        member: Member,
        target: Target,
        showing: Showing,
        replay: Replay,
    ) -> None:
        self._project = project
        self._snapshots = snapshots
        self._member = member
        self._target = target
        self._showing = showing
        self._replay = replay

    async def show(self) -> tuple[Horizon, bool] | None:
        """The horizon that it was read with, and whether there was more than the limit; None where
        the subscription was refused."""
        member, target = self._member, self._target
        selection = member.wish.selection
        if not member.snapshot and _is_open(selection):
            epoch, horizon = await self._snapshots.horizon()
            await self._same_epoch(epoch)
            member.join_horizon = horizon
            return horizon, False
        if selection.run_id is not None:
            return await self._show_one(selection.run_id)
        limit = member.limit if member.snapshot else 1
        page = await self._snapshots.page(selection, None, min(PAGE_RUNS, limit))
        await self._same_epoch(page.epoch)
        if not target.is_there(page):
            return None
        first = page.horizon
        member.join_horizon = first
        if self._project.ring is not None:
            self._project.ring.saw(first)
        count = 0
        rows = PAGE_RUNS
        met_job_run = False
        while True:
            count += len(page.runs)
            for run in page.runs:
                if run.id == selection.job_run_id:
                    met_job_run = True
                    target.note_end(run)
                if not first.seen(run.last_xid):
                    member.shown[run.id] = run.version
            if member.snapshot:
                size = await self._showing.runs(page.runs)
                # As many of the like as fit a page.
                per_run = size // max(len(page.runs), 1) + 1
                rows = max(1, min(PAGE_RUNS_MAX, PAGE_BYTES // per_run))
            if page.next is None or count >= limit:
                break
            page = await self._snapshots.page(selection, page.next, min(rows, limit - count))
        truncated = member.snapshot and page.next is not None
        if page.horizon is not first:
            # A run that left before its page was read was not shown, and what is held back of it
            # would be changes of a run that the client does not have. The log has all of it.
            member.clear_buffer()
            first = await self._replay.show(first)
        if selection.job_run_id is not None and not met_job_run:
            found = await self._snapshots.one(selection.job_run_id)
            for run in found.runs:
                target.note_end(run)
        return first, truncated

    async def _show_one(self, run_id: str) -> tuple[Horizon, bool] | None:
        """Of the run as it stood under the token of now: one that comes while it is read, or waits
        its turn, may not cover what was read, and cover what has become of the run since."""
        member, target = self._member, self._target
        while True:
            wish = member.wish
            page = await self._snapshots.one(run_id)
            await self._same_epoch(page.epoch)
            if member.wish is not wish:
                continue
            if not target.is_there(page):
                return None
            run = page.runs[0]
            if not member.snapshot or await self._showing.one(run, wish):
                break
        member.join_horizon = page.horizon
        if self._project.ring is not None:
            self._project.ring.saw(page.horizon)
        target.note_end(run)
        if not page.horizon.seen(run.last_xid):
            member.shown[run.id] = run.version
        return page.horizon, False

    async def _same_epoch(self, epoch: str) -> None:
        if epoch != self._project.order.epoch:
            # The tail will find that too, and start everything again, this included.
            self._project.wake_tail()
            await asyncio.sleep(self._project.services.join_s)
            raise StoreAway


def _is_open(selection: Selection) -> bool:
    """Whether it is about no one thing that may be missing or over."""
    return selection.run_id is None and selection.batch_id is None and selection.job_run_id is None
