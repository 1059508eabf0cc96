"""Joins from the log: what a horizon has not seen, shown to one subscription."""

from __future__ import annotations

from realtime.hub.joining.log import Log
from realtime.hub.joining.showing import Showing
from realtime.hub.project import Project
from realtime.session import Member
from store.errors import CannotContinue
from store.model import Horizon


class Replay:
    """Shows one subscription what its history in the log is."""

    def __init__(self, project: Project, log: Log, member: Member, showing: Showing) -> None:
        self._project = project
        self._log = log
        self._member = member
        self._showing = showing

    async def show(self, since: Horizon) -> Horizon:
        """Shows what `since` has not seen; returns what the first page has. Raises CannotContinue
        where that is cut, or too much."""
        member, project = self._member, self._project
        member.join_horizon = since
        page, read_since, narrowed = await self._log.first_page(since, member.wish.selection.run_id)
        first = page.horizon
        if project.ring is not None:
            project.ring.saw(first)
        count = 0
        while True:
            count += sum(
                not since.seen(change.xid) for group in page.groups for change in group.changes
            )
            if count > project.services.replay_changes:
                raise CannotContinue("too_far_behind")
            await self._showing.groups(page.groups)
            self._showing.remember(page.groups, first)
            after = page.next
            if after is None:
                break
            page = await self._log.page(read_since, after, narrowed)
        member.join_horizon = first
        return first
