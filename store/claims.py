"""Hands out queued runs to workers: the oldest first, each to one worker alone."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy.engine import Connection

from store.broker import Hint
from store.commands import check_claim, check_words
from store.engine import Database
from store.errors import Invalid, StoreError
from store.model import Run, RunStatus
from store.once import Key
from store.writer.open_claims import OpenClaim, OpenClaims, Queue
from store.writer.picking import oldest

log = logging.getLogger(__name__)

TASKS_MAX: Final = 100
WAIT_MAX_S: Final = 60.0

LOOK_EVERY_S: Final = 0.5
"""How often it is looked whether another process has queued what claims wait for."""

TRIES: Final = 20
"""How often a claim is tried again while what it could have is in other hands for a moment."""


class Claims:
    """The claims of one process, which the writer's groups take along.

    Two servers, or two workers, never get one run: it is taken under its row's lock, and
    only while it is QUEUED.
    """

    def __init__(self, database: Database, open_claims: OpenClaims) -> None:
        self._database = database
        self._open = open_claims

    async def claim(
        self,
        project: str,
        tasks: Iterable[str],
        worker: str,
        lease_s: int,
        *,
        wait_s: float = 0.0,
        key: Key | None = None,
    ) -> Run | None:
        """The oldest QUEUED run of these tasks, EXECUTING now; None if none came in time.

        Whoever gets it keeps it by a heartbeat at least every `lease_s`. Cancelled, it leaves
        nothing claimed. Raises Invalid, IdempotencyKeyReused, Unavailable or OutcomeUnknown.
        """
        wanted = frozenset(tasks)
        _check(wanted, worker, lease_s, wait_s)
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        tries = 0
        claim = OpenClaim(project, wanted, worker, lease_s, key)
        try:
            tried = await self._open.look(claim)
            while tried.run is None:
                left_s = until - clock()
                if tried.again and tries < TRIES:
                    tries += 1
                    await asyncio.sleep(random.uniform(0.002, 0.02))
                    tried = await self._open.look(claim)
                elif left_s <= 0:
                    break
                else:
                    tries = 0
                    try:
                        async with asyncio.timeout(left_s):
                            tried = await self._open.wait(claim)
                    except TimeoutError:
                        # One last look, as the wait is over; unless it was told in this turn.
                        tried = self._open.told(claim) or await self._open.look(claim)
        except asyncio.CancelledError:
            self._open.refuse(claim)
            raise
        finally:
            self._open.drop(claim)
        return tried.run

    def told(self, hints: Iterable[Hint]) -> None:
        """Wakes as many claims as there are runs newly queued. Never raises, never waits."""
        if not len(self._open):
            return
        queued: dict[str, Queue] = {}
        for hint in hints:
            run = hint.run
            if run is None or run.job_id is not None:
                continue
            if run.status != RunStatus.QUEUED:
                queued.pop(run.id, None)  # whoever it was queued for has it already
            elif hint.change.before is None or hint.change.before.status != RunStatus.QUEUED:
                queued[run.id] = (run.project, run.task_identifier)
        if queued:
            self._open.wake(Counter(queued.values()))

    async def run(self) -> None:
        """Looks, while claims wait, for what other processes have queued; until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S * random.uniform(0.8, 1.2))
            wanted = sorted(self._open.queues)
            if not wanted:
                continue
            try:
                waiting = await self._database.read(_waiting, wanted, len(self._open))
            except StoreError as error:
                log.debug("claims: %s", error)
            else:
                self._open.wake(waiting)

    @property
    def open(self) -> int:
        """How many claims have no answer yet."""
        return len(self._open)

    async def close(self) -> None:
        """Sends home who waits, and takes no more."""
        self._open.close()


def _check(tasks: frozenset[str], worker: str, lease_s: int, wait_s: float) -> None:
    if not 1 <= len(tasks) <= TASKS_MAX:
        raise Invalid("tasks", f"must hold 1 to {TASKS_MAX} tasks")
    for task in tasks:
        check_words("tasks", task, 256)
    check_claim(worker, lease_s)
    if not 0 <= wait_s <= WAIT_MAX_S:
        raise Invalid("waitS", f"must be from 0 to {WAIT_MAX_S:g}")


def _waiting(connection: Connection, wanted: Sequence[Queue], most: int) -> Counter[Queue]:
    """How many runs wait in each queue, counted up to a bound."""
    return Counter(
        {
            queue: len(connection.execute(oldest([queue], [most])).all())
            for queue in wanted
        }
    )  # fmt: skip
