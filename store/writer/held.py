"""What a group has read and locked, before anything is applied.

The order of locks is the same in every process, so that two groups never wait for each other in
a ring: keys and one-time tokens (by inserting them, sorted), batches, runs, each by id. What
never changes of a run (its parent, root, batch) is read before and needs no lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from store import answers as answer_codec
from store.among import among, among_given, given
from store.commands import (
    ClaimRun,
    Command,
    CreateRun,
    DeleteRun,
    Done,
    FireTimer,
    JobOrder,
    MetadataTarget,
    MutateMetadata,
    SealBatch,
    Submission,
    Timer,
    UpdateRun,
)
from store.errors import IdempotencyKeyReused, StoreError
from store.jobs import rows as job_rows
from store.model import Plan, Run, RunStatus
from store.once import Key
from store.rows import WHOLE, run_of
from store.tables import answers, batches, heartbeats, idempotency_keys, runs, used_tokens
from store.tables.jobs import job_runs


class RunKey(NamedTuple):
    """A run's idempotency key with its project and task."""

    project: str
    task_identifier: str
    key: str


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


class TokenUse(NamedTuple):
    """What a one-time token was used for."""

    run_id: str
    task_identifier: str
    idempotency_key: str | None


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
        self.answers: dict[tuple[str, str], tuple[str, str]] = {}
        """Fingerprint and outcomes of each idempotency key that was used before."""
        self.key_owner: dict[RunKey, str] = {}
        """The run that was made with a run's idempotency key before."""
        self.key_rows: dict[RunKey, str] = {}
        """The keys' rows as they are in this transaction: those that were there, and those that
        this group has taken, each for a run that it means to make."""
        self.token_use: dict[tuple[str, str], TokenUse] = {}
        """What one-time tokens were used for before."""
        self.own_tokens: dict[tuple[str, str], TokenUse] = {}
        """The rows of the one-time tokens that this group has taken."""
        self.found: dict[str, Run] = {}
        """The runs of keys and tokens that were used before; not locked."""
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
        self.claim_answers(submissions)
        live = [
            command
            for one in submissions
            if (one.project, one.key) not in self.answers
            for command in one.commands
        ]
        creates = [command for command in live if isinstance(command, CreateRun)]
        self.creates = len(creates) + self._read_job_runs(live)
        """How many runs may be made."""
        self._claim_keys(creates)
        self._claim_tokens(creates)
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

    def known(self, submission: Submission) -> list[Done | StoreError] | StoreError | None:
        """What a submission with an idempotency key that was used before is answered."""
        if submission.key is None:
            return None
        found = self.answers.get((submission.project, submission.key))
        if found is None:
            return None
        fingerprint, outcomes = found
        if fingerprint != submission.fingerprint:
            return IdempotencyKeyReused(submission.key)
        return answer_codec.decode(outcomes)

    def read_answers(self, keys: Iterable[Key]) -> None:
        """Looks which of the keys were used before, and takes none."""
        projects: dict[str, set[str]] = {}
        for key in keys:
            projects.setdefault(key.project, set()).add(key.key)
        for project, some in projects.items():
            named = sa.select(answers).where(
                answers.c.project == project, among(self._connection, answers.c.key, some)
            )
            for row in self._connection.execute(named):
                self.answers[row.project, row.key] = (row.fingerprint, row.outcomes)

    def claim_answers(self, submissions: Iterable[Submission]) -> None:
        """Takes the keys of the submissions, and reads the answers to those that are taken."""
        # The time is this process's: it decides only when the answer may be forgotten.
        now = datetime.now(UTC)
        wanted = {
            (one.project, one.key): {
                "project": one.project,
                "key": one.key,
                "fingerprint": one.fingerprint,
                "outcomes": "",
                "created_at": now,
            }
            for one in submissions
            if one.key is not None
        }
        if not wanted:
            return
        columns = (answers.c.project, answers.c.key)
        for row in self._claim(answers, columns, wanted, sa.select(answers)):
            self.answers[row.project, row.key] = (row.fingerprint, row.outcomes)

    def _claim_keys(self, creates: Iterable[CreateRun]) -> None:
        wanted: dict[RunKey, dict[str, Any]] = {}
        for command in creates:
            if has_key(command):
                key = key_of(command)
                wanted.setdefault(key, {**key._asdict(), "run_id": command.run_id})
        if not wanted:
            return
        columns = (
            idempotency_keys.c.project,
            idempotency_keys.c.task_identifier,
            idempotency_keys.c.key,
        )
        # The run in the key's statement: between two it might be deleted, and the key with it.
        named = (
            sa.select(
                *(column.label(f"of_{column.name}") for column in columns),
                idempotency_keys.c.run_id.label("of_run_id"),
                *WHOLE,
            )
            .select_from(idempotency_keys)
            .outerjoin(runs, runs.c.id == idempotency_keys.c.run_id)
        )
        for row in self._claim(idempotency_keys, columns, wanted, named):
            key = RunKey(row.of_project, row.of_task_identifier, row.of_key)
            del wanted[key]
            self.key_rows[key] = row.of_run_id
            if row.id is not None:
                self.key_owner[key] = row.id
                self.found[row.id] = run_of(row, skip=4)
        self.key_rows |= {key: row["run_id"] for key, row in wanted.items()}

    def _claim_tokens(self, creates: Iterable[CreateRun]) -> None:
        now = datetime.now(UTC)
        wanted: dict[tuple[str, str], dict[str, Any]] = {}
        for command in creates:
            if command.one_time_token is not None:
                wanted.setdefault(
                    (command.project, command.one_time_token),
                    {
                        "project": command.project,
                        "token_id": command.one_time_token,
                        "run_id": command.run_id,
                        "task_identifier": command.new.task_identifier,
                        "idempotency_key": command.new.idempotency_key,
                        "used_at": now,
                    },
                )
        if not wanted:
            return
        columns = (used_tokens.c.project, used_tokens.c.token_id)
        for row in self._claim(used_tokens, columns, wanted, sa.select(used_tokens)):
            token = (row.project, row.token_id)
            del wanted[token]
            self.token_use[token] = TokenUse(row.run_id, row.task_identifier, row.idempotency_key)
        self.own_tokens = {
            token: TokenUse(row["run_id"], row["task_identifier"], row["idempotency_key"])
            for token, row in wanted.items()
        }
        used_for = {use.run_id for use in self.token_use.values()}
        if used_for:
            named = sa.select(*WHOLE).where(among(self._connection, runs.c.id, used_for))
            for row in self._connection.execute(named):
                self.found[row.id] = run_of(row)

    def _claim(
        self,
        table: sa.Table,
        key: tuple[sa.Column[Any], ...],
        wanted: Mapping[Any, dict[str, Any]],
        named: sa.Select[Any],
    ) -> Iterator[sa.Row[Any]]:
        """Inserts the wanted rows in the order of their keys; what is there already of them.

        Waits for whoever is inserting one just now. What is then neither inserted nor there has
        been given back in between, and is asked for again.
        """
        left = dict(sorted(wanted.items()))
        dialect = postgresql if self._postgres else sqlite
        insert = dialect.insert(table).on_conflict_do_nothing().returning(*key)
        while left:
            for row in self._connection.execute(insert, list(left.values())).all():
                del left[tuple(row)]
            if not left:
                return
            there = named.where(sa.tuple_(*key).in_(list(left)))
            for row in self._connection.execute(there).all():
                yield row
                del left[tuple(row)[: len(key)]]

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


def has_key(command: CreateRun) -> bool:
    """Whether the create names an idempotency key."""
    return command.new.idempotency_key is not None


def key_of(command: CreateRun) -> RunKey:
    """The key of a create that has one."""
    key = command.new.idempotency_key
    assert key is not None
    return RunKey(command.project, command.new.task_identifier, key)
