"""Transactions that take their time, and what nobody else may touch meanwhile."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from store.commands import CreateBatch, CreateRun, SealBatch, Submission
from store.engine import Database
from store.errors import OutcomeUnknown, Unavailable
from store.writer.group import Committed, run_group
from tests.oracle.commands import LIMITS
from tests.oracle.known import Known


class RolledBack(Exception):
    """A transaction was."""


class Slow:
    """A transaction that takes its time: stops once it has its id, and again before its commit."""

    def __init__(self, database: Database, submission: Submission, *, early: bool) -> None:
        self.submission = submission
        self.early = early
        self.is_waiting = asyncio.Event()
        self.holds_locks = False
        self.rolls_back = False
        self.is_cut_off = False
        """Its connection was taken away; it has come to nothing."""
        self.committed: Committed | None = None
        self._go = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(database))

    async def _run(self, database: Database) -> None:
        try:
            self.committed = await database.write(self._work)
        except RolledBack:
            pass
        except (Unavailable, OutcomeUnknown):
            if not self.is_cut_off:
                raise

    def _work(self, connection: Connection) -> Committed:
        if self.is_cut_off:
            raise RolledBack  # this is its second try
        connection.execute(sa.text("SELECT pg_current_xact_id()"))
        if self.early:
            await_only(self._stop())
        committed = run_group(connection, [self.submission], LIMITS)
        self.holds_locks = True
        await_only(self._stop())
        if self.rolls_back:
            raise RolledBack
        return committed

    async def _stop(self) -> None:
        self.is_waiting.set()
        await self._go.wait()
        self._go.clear()

    async def step(self) -> bool:
        """On to where it stops next; whether it is over."""
        if not self.task.done():
            self.is_waiting.clear()
            self._go.set()
            stops = asyncio.ensure_future(self.is_waiting.wait())
            await asyncio.wait([self.task, stops], return_when=asyncio.FIRST_COMPLETED)
            stops.cancel()
            await asyncio.sleep(0)
        if self.task.done():
            await self.task
        return self.task.done()


def keys(submission: Submission, known: Known) -> set[str | None]:
    """What it locks."""
    keys: set[str | None] = set()
    for command in submission.commands:
        if isinstance(command, CreateBatch | SealBatch):
            keys.add(command.batch_id)
            continue
        keys.add(command.run_id)
        run = known.runs.get(command.run_id)
        if run is not None:
            keys |= {run.parent_run_id, run.batch_id, run.root_run_id}
            if run.job_id is not None:
                keys |= {id for id, each in known.runs.items() if each.parent_run_id == run.id}
        if isinstance(command, CreateRun):
            keys |= {command.new.batch_id, command.new.parent_run_id}
            keys.add(f"{command.project} {command.new.task_identifier} {_key_of(command)}")
    return keys - {None}


def _key_of(command: CreateRun) -> str:
    return command.new.idempotency_key or command.run_id
