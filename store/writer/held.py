"""What a group has read and locked, before anything is applied.

The order of locks is the same in every process, so that two groups never wait for each other in
a ring: keys and one-time tokens (by inserting them, sorted), batches, runs, each by id. What
never changes of a run (its parent, root, batch) is read before and needs no lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.among import among, among_given, given
from store.commands import (
    ClaimRun,
    Command,
    CreateRun,
    DeleteRun,
    FireTimer,
    JobOrder,
    MetadataTarget,
    MutateMetadata,
    SealBatch,
    Submission,
    Timer,
    UpdateRun,
)
from store.jobs import rows as job_rows
from store.model import Plan, Run, RunStatus
from store.rows import WHOLE, run_of
from store.tables import batches, heartbeats, runs
from store.tables.jobs import job_runs
from store.writer.taken import Taken


class Kin(NamedTuple):
    """What never changes of a run."""

    project: str
    parent_run_id: str | None
    root_run_id: str | None
    batch_id: str | None
    depth: int
    workflow_id: str | None = None
    job_id: str | None = None


class Overtaken(Exception):
    """What was read before the locks is not true under them: to be rolled back and run again."""


class BatchRow(msgspec.Struct):
    """A batch's row while a group is applied."""

    project: str
    created_at: datetime
    sealed_at: datetime | None
    deleted_counts: dict[str, int]
    deleted_finished_at: datetime | None
    is_new: bool = False
    is_changed: bool = False


class Held:
    """The rows and keys that a group of submissions is about, read and locked."""

    def __init__(self, connection: Connection, submissions: Sequence[Submission]) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._postgres = self._dialect == "postgresql"
        self.taken = Taken(connection)
        self.batches: dict[str, BatchRow] = {}
        self.runs: dict[str, Run] = {}
        """The locked runs."""
        self.heartbeat_due: dict[str, datetime] = {}
        self.kin: dict[str, Kin] = {}
        self.plans: dict[str, Plan] = {}
        """What the job runs execute whose steps may complete."""
        self.shown: dict[str, job_rows.Snapshot] = {}
        """What the job runs execute that are to be shown."""
        self.orders: dict[tuple[str, JobOrder], job_rows.Snapshot] = {}
        """What new job runs are to execute, by project and order; what is not there is unknown."""
        self.steps: dict[str, list[str]] = {}
        """The steps of the job runs that may be canceled or deleted."""

        self._read_kin([command for one in submissions for command in one.commands])
        self.taken.take_answers(submissions)
        live = [
            command
            for one in submissions
            if (one.project, one.key) not in self.taken.answers
            for command in one.commands
        ]
        creates = [command for command in live if isinstance(command, CreateRun)]
        self.creates = len(creates) + self._read_job_runs(live)
        """How many runs may be made."""
        self.taken.take_keys(creates)
        self.taken.take_tokens(creates)
        self._lock_batches(live)
        self._lock_runs(live)

    def _read_kin(self, commands: Sequence[Command]) -> None:
        ids = set()
        completed = set()
        for command in commands:
            match command:
                case MutateMetadata(target=target) if target is not MetadataTarget.SELF:
                    ids.add(command.run_id)
                case UpdateRun(status=status) if status is not msgspec.UNSET:
                    ids.add(command.run_id)
                    if status is RunStatus.COMPLETED:
                        completed.add(command.run_id)
                case DeleteRun() | FireTimer() | ClaimRun():
                    ids.add(command.run_id)
                case CreateRun(new=new) if new.parent_run_id is not None:
                    ids.add(new.parent_run_id)
                case _:
                    pass
        if not ids:
            return
        for id, plan, *kin in self._connection.execute(
            _kin(self._dialect),
            given(self._dialect, ids) | given(self._dialect, completed, "completed"),
        ):
            self.kin[id] = one = Kin(*kin)
            if plan is not None and one.parent_run_id is not None:
                self.plans[one.parent_run_id] = msgspec.convert(plan, Plan)
        # Runs that this group means to make may be named by what comes after.
        for command in commands:
            if isinstance(command, CreateRun) and command.run_id in ids:
                self.kin.setdefault(command.run_id, self._kin_of(command))

    def _kin_of(self, command: CreateRun) -> Kin:
        parent_id = command.new.parent_run_id
        parent = None if parent_id is None else self.kin.get(parent_id)
        if parent_id is None or parent is None:
            return Kin(command.project, None, None, command.new.batch_id, 0)
        return Kin(
            command.project,
            parent_id,
            parent.root_run_id or parent_id,
            command.new.batch_id,
            parent.depth + 1,
        )

    def _read_job_runs(self, commands: Iterable[Command]) -> int:
        """What new job runs and those to be shown execute; how many steps may begin."""
        ending = set()
        orders = set()
        shown = set()
        begun = 0
        for command in commands:
            if isinstance(command, UpdateRun) and command.as_job_run:
                shown.add(command.run_id)
            match command:
                case UpdateRun(status=RunStatus.COMPLETED):
                    if self.job_run(command.run_id) is not None:
                        begun += 1
                case UpdateRun(status=RunStatus.CANCELED) | DeleteRun():
                    kin = self.kin.get(command.run_id)
                    if kin is not None and kin.job_id is not None:
                        ending.add(command.run_id)
                case CreateRun(project=project, job=JobOrder() as order):
                    orders.add((project, order))
                    begun += 1
                case _:
                    pass
        if shown:
            self.shown = job_rows.snapshots(self._connection, shown)
        if orders:
            self.orders = job_rows.ordered(self._connection, orders)
        if ending:
            self.steps = job_rows.step_ids(self._connection, ending)
        return begun

    def job_run(self, run_id: str) -> str | None:
        """The job run that the run is a step of."""
        kin = self.kin.get(run_id)
        return None if kin is None or kin.workflow_id is None else kin.parent_run_id

    def _lock_batches(self, commands: Iterable[Command]) -> None:
        ids = set()
        exclusive = False
        for command in commands:
            match command:
                case CreateRun(new=new) if new.batch_id is not None:
                    ids.add(new.batch_id)
                case SealBatch():
                    ids.add(command.batch_id)
                    exclusive = True
                case DeleteRun():
                    kin = self.kin.get(command.run_id)
                    if kin is not None and kin.batch_id is not None:
                        ids.add(kin.batch_id)
                        exclusive = True
                case _:
                    pass
        if not ids:
            return
        # All in one mode: two statements would take them in two orders.
        named = among(self._connection, batches.c.id, ids)
        locked = sa.select(batches).where(named).order_by(batches.c.id)
        if self._postgres:
            locked = locked.with_for_update(read=not exclusive)
        for row in self._connection.execute(locked):
            self.batches[row.id] = BatchRow(
                row.project,
                row.created_at,
                row.sealed_at,
                row.deleted_counts,
                row.deleted_finished_at,
            )

    def _lock_runs(self, commands: Iterable[Command]) -> None:
        ids = set()
        beating = set()
        for command in commands:
            match command:
                case UpdateRun() | ClaimRun():
                    ids.add(command.run_id)
                case DeleteRun():
                    # One that was made just now is not known to be in a batch, or not: its
                    # deletion is answered as if it had come a moment earlier.
                    if command.run_id in self.kin:
                        ids.add(command.run_id)
                case FireTimer():
                    ids.add(command.run_id)
                    if command.timer in (Timer.HEARTBEAT, Timer.LEASE):
                        beating.add(command.run_id)
                case MutateMetadata(target=MetadataTarget.SELF):
                    ids.add(command.run_id)
                case MutateMetadata() if command.run_id in self.kin:
                    ids.add(command.run_id)
                    target = self.target(command)
                    if target is not None:
                        ids.add(target)
                case _:
                    pass
        # A job run is moved by its steps, and takes them along when it ends.
        ids |= {job_run for id in ids if (job_run := self.job_run(id)) is not None}
        for steps in self.steps.values():
            ids.update(steps)
        if not ids:
            return
        for run in lock_runs(self._connection, ids):
            self.runs[run.id] = run
        if self.steps and self._postgres:
            # Until its lock was had, a job run may have begun a step that was not read.
            now = job_rows.step_ids(self._connection, self.steps)
            if any(id not in self.runs for steps in now.values() for id in steps):
                raise Overtaken
        if beating:
            named = among(self._connection, heartbeats.c.run_id, beating)
            beats = sa.select(heartbeats).where(named)
            if self._postgres:
                beats = beats.order_by(heartbeats.c.run_id).with_for_update()
            for row in self._connection.execute(beats):
                self.heartbeat_due[row.run_id] = row.due_at

    def target(self, command: MutateMetadata) -> str | None:
        """The id of the run whose metadata is meant; None if there is none."""
        if command.target is MetadataTarget.SELF:
            return command.run_id
        kin = self.kin.get(command.run_id)
        if kin is None:
            return None
        if command.target is MetadataTarget.PARENT:
            return kin.parent_run_id
        return kin.root_run_id or command.run_id


def lock_runs(
    connection: Connection, ids: Collection[str], *, skip_locked: bool = False
) -> list[Run]:
    """The runs that are there, locked in the order of their ids; or those that can be at once."""
    if not ids:
        return []
    dialect = connection.dialect.name
    found = connection.execute(_lock(dialect, skip_locked), given(dialect, ids))
    return [run_of(row) for row in found]


@lru_cache
def _lock(dialect: str, skip_locked: bool) -> sa.Select[Any]:
    locked = sa.select(*WHOLE).where(among_given(dialect, runs.c.id)).order_by(runs.c.id)
    return locked.with_for_update(skip_locked=skip_locked) if dialect == "postgresql" else locked


@lru_cache
def _kin(dialect: str) -> sa.Select[Any]:
    columns = (runs.c[name] for name in Kin._fields)
    # With what the job runs execute whose steps are completed: it never changes either. No join:
    # while there are few job runs it would read them all.
    plan = sa.select(job_runs.c.plan).where(job_runs.c.run_id == runs.c.parent_run_id)
    is_completed = sa.and_(
        runs.c.workflow_id.is_not(None), among_given(dialect, runs.c.id, "completed")
    )
    return sa.select(
        runs.c.id, sa.case((is_completed, plan.scalar_subquery())).label("plan"), *columns
    ).where(among_given(dialect, runs.c.id))
