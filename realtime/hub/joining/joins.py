"""The subscriptions of a project that are joining it."""

from __future__ import annotations

import asyncio

from realtime.errors import StoreAway
from realtime.hub.connection import Connection
from realtime.hub.joining.joining import Joining
from realtime.hub.joining.shared import Shared
from realtime.hub.project import Project
from realtime.protocol import ErrorCode
from realtime.session import Member


class Joins:
    """One task for each."""

    def __init__(self, project: Project) -> None:
        self._tasks = project.services.tasks
        self._shared = Shared(project)
        self._joining: dict[Member, asyncio.Task[None]] = {}

    def start(self, connection: Connection, member: Member) -> None:
        """It is in the index: what is handed on from now on is held back for it."""
        task = self._tasks.start(
            self._join(connection, member), f"join of {member.id}", connection.broke
        )
        self._joining[member] = task
        task.add_done_callback(lambda done: self._done(member, done))

    async def _join(self, connection: Connection, member: Member) -> None:
        joining = Joining(self._shared, connection, member)
        try:
            await joining.run()
        except StoreAway:
            joining.deny(ErrorCode.UNAVAILABLE, "the store can't be read just now; try again")

    def _done(self, member: Member, task: asyncio.Task[None]) -> None:
        if self._joining.get(member) is task:
            del self._joining[member]
        if not self._joining:
            self._shared.parcels.clear()

    def stop(self, member: Member) -> None:
        """The subscription is over, or starts again; it may have been live for long."""
        task = self._joining.pop(member, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Stops them all."""
        for task in self._joining.values():
            task.cancel()
