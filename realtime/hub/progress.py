"""How far batches are: read once for all who follow one, and not too often."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from realtime import protocol
from store.errors import Unavailable
from store.lifecycle import FINAL
from store.model import Batch

if TYPE_CHECKING:
    from realtime.hub.project import Project

INTERVAL_S: Final = 0.25


def is_complete(batch: Batch) -> bool:
    """Whether it is sealed and all its runs are over."""
    return batch.sealed_at is not None and batch.final(FINAL) == batch.size


class BatchWatch:
    """Tells the subscribers of one batch when its counts change or it is sealed.

    That it is complete it does not tell: its runs may be shown later than they are counted, so
    that is left to the tail.
    """

    def __init__(self, project: Project, batch_id: str) -> None:
        self._project = project
        self._batch_id = batch_id
        self._dirty = False
        self._running = False

    def touch(self) -> None:
        """Something has changed that may count."""
        self._dirty = True
        if not self._running:
            self._running = True
            self._project.services.tasks.start(self._run(), f"progress of {self._batch_id}")

    async def _run(self) -> None:
        project = self._project
        services = project.services
        try:
            while self._dirty and project.index.of_batch(self._batch_id):
                self._dirty = False
                try:
                    # With those that others wait for: after a restart everybody asks at once.
                    project.wanted_batches.add(self._batch_id)
                    found = await services.flights.get(
                        ("batches", project.project), project.read_batches
                    )
                except Unavailable:
                    self._dirty = True
                else:
                    batch = found.get(self._batch_id)
                    if batch is None:
                        return
                    self._tell(batch)
                await asyncio.sleep(INTERVAL_S)
        finally:
            self._running = False

    def _tell(self, batch: Batch) -> None:
        members = [each for each in self._project.index.of_batch(self._batch_id) if each.is_live]
        if not members:
            return
        if is_complete(batch):
            self._project.mark_complete(self._batch_id)
            return
        encoded = protocol.batch_object(batch, FINAL)
        for member in members:
            self._project.tell_batch(member, encoded)
