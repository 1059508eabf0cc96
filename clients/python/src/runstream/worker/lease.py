"""A worker's hold on one run: kept by heartbeats, and lost without them."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from runstream.errors import Conflict, NotFound, RunstreamError
from runstream.models import AnyRun
from runstream.resources.runs import Runs

log: Final = logging.getLogger("runstream")


class Lease:
    """A worker's hold on one run, for `lease_s` after each heartbeat that the server took.

    `since` is a moment no later than that of the claim, on the loop's clock. What is not
    known to be held counts as lost: the server may by then have given the run to another.
    """

    def __init__(self, runs: Runs, run: AnyRun, lease_s: float, since: float) -> None:
        self._runs = runs
        self._run = run
        self._lease_s = lease_s
        self._begun = since
        self._clock = asyncio.get_running_loop().time

    @property
    def left_s(self) -> float:
        """For how long it holds without another heartbeat."""
        return self._begun + self._lease_s - self._clock()

    async def is_held(self) -> bool:
        """Whether the run is this worker's still; asks the server if the claim took long."""
        return self.left_s > self._lease_s * 2 / 3 or await self._beat()

    async def keep(self) -> None:
        """Sends heartbeats; returns when the lease is lost."""
        while True:
            await asyncio.sleep(max(0.0, self.left_s - self._lease_s * 2 / 3))
            if not await self._beat():
                return

    async def _beat(self) -> bool:
        """Whether the server took a heartbeat: tries until it does, or can't have it in time."""
        has_failed = False
        while True:
            begun = self._clock()
            try:
                async with asyncio.timeout(max(self._lease_s / 3, 0.1)):
                    await self._runs.heartbeat(self._run.id, attempt=self._run.attempt)
            except (Conflict, NotFound):
                return False
            except (RunstreamError, TimeoutError) as error:
                if self.left_s <= 0:
                    log.warning(
                        "no heartbeat for run %s was taken in time: %s", self._run.id, error
                    )
                    return False
                level = logging.DEBUG if has_failed else logging.INFO
                log.log(level, "a heartbeat for run %s is tried again: %s", self._run.id, error)
                has_failed = True
                await asyncio.sleep(min(max(self.left_s, 0.0), self._lease_s / 12))
            else:
                self._begun = begun
                return True
