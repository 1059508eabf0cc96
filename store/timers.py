"""What is due: delays, ttls, durations, promised heartbeats that did not come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import changes
from store.commands import FireTimer, Submission, Timer
from store.engine import Database
from store.errors import Conflict, NotFound, StoreError, Unavailable
from store.model import RunStatus
from store.tables import heartbeats, runs
from store.writer.staged import CLOCKS, Outcomes

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
AT_ONCE = 500


class Timers:
    """Fires the clocks of runs, in every server process alike.

    Each clock is a command that carries the due time it was read with, and does nothing if
    under the lock the run has another: so however many servers look, it fires once.
    """

    def __init__(
        self,
        database: Database,
        submit: Callable[[Submission], Awaitable[Outcomes]],
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._database = database
        self._submit = submit
        self._look_every_s = look_every_s

    async def run(self) -> None:
        """Fires what is due until cancelled, whatever goes wrong."""
        wait_s = self._look_every_s
        while True:
            try:
                fired = await self.fire()
                # A backlog is worked off without a pause.
                wait_s = 0.0 if fired >= AT_ONCE else self._look_every_s
            except Unavailable:
                wait_s = min(max(wait_s, 0.1) * 2, 5.0)
            except StoreError as error:
                log.warning("timers: %s", error)
                wait_s = self._look_every_s
            except Exception:
                # Runs that never expire would be the price of giving up.
                log.exception("timers")
                wait_s = self._look_every_s
            await asyncio.sleep(wait_s)

    async def fire(self) -> int:
        """Fires what is due now; how many clocks that were."""
        due = await self._database.read(_due)
        due.sort(key=lambda command: command.project)
        for project, commands in groupby(due, key=lambda command: command.project):
            await self._submit(Submission(project=project, commands=tuple(commands)))
        return len(due)


def _due(connection: Connection) -> list[FireTimer]:
    at = changes.database_time(connection)
    clocks = connection.execute(
        sa.select(runs.c.project, runs.c.id, runs.c.status, runs.c.due_at)
        .where(runs.c.due_at.is_not(None), runs.c.due_at <= at)
        .order_by(runs.c.due_at)
        .limit(AT_ONCE)
    )
    beats = connection.execute(
        sa.select(
            heartbeats.c.project, heartbeats.c.run_id, heartbeats.c.due_at, heartbeats.c.leased
        )
        .where(heartbeats.c.due_at <= at)
        .order_by(heartbeats.c.due_at)
        .limit(AT_ONCE)
    )
    return [
        FireTimer(
            project=row.project,
            run_id=row.id,
            timer=CLOCKS[RunStatus(row.status)],
            due_at=row.due_at,
        )
        for row in clocks
    ] + [
        FireTimer(
            project=row.project,
            run_id=row.run_id,
            timer=Timer.LEASE if row.leased else Timer.HEARTBEAT,
            due_at=row.due_at,
        )
        for row in beats
    ]


def beat(
    connection: Connection, project: str, run_id: str, attempt: int | None = None
) -> None:  # fmt: skip
    """Notes a worker's heartbeat, outside the run's row, its version and the log.

    Raises NotFound for a run that is not there, and Conflict where it is not executing in that
    attempt: then somebody else has it, or nobody any more. Without an attempt, for a run that
    promised none, or is not executing, it means nothing.
    """
    names = ("status", "attempt", "heartbeat_timeout", "lease_s", "executing_since")
    asked = sa.select(*(runs.c[name] for name in names)).where(
        runs.c.id == run_id, runs.c.project == project
    )
    if connection.dialect.name == "postgresql":
        # Else it might be given to another worker meanwhile, whose lease would become this one's.
        asked = asked.with_for_update(read=True)
    row = connection.execute(asked).one_or_none()
    if row is None:
        raise NotFound("run", run_id)
    if attempt is not None and (row.attempt, row.status) != (attempt, RunStatus.EXECUTING):
        raise Conflict(f"run {run_id} is {row.status} in attempt {row.attempt}, not {attempt}")
    holds_s = row.lease_s or row.heartbeat_timeout
    if holds_s is None:
        return
    at = changes.database_time(connection)
    if row.executing_since is not None:
        # A clock that was set back makes none due earlier than its spell: that would never fire.
        at = max(at, row.executing_since)
    due: datetime = at + timedelta(seconds=holds_s)
    connection.execute(
        sa.update(heartbeats).where(heartbeats.c.run_id == run_id).values(due_at=due)
    )
