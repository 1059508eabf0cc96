"""Commands, applied one by one to the runs as they stand in a group."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from store import changes
from store.broker import Hint
from store.commands import (
    ClaimRun,
    Command,
    CreateBatch,
    CreateRun,
    DeleteRun,
    Done,
    FireTimer,
    Limits,
    MutateMetadata,
    NewRun,
    SealBatch,
    StepOf,
    Submission,
    Timer,
    UpdateRun,
    apply,
    apply_delete,
    create,
)
from store.errors import Conflict, Invalid, NotFound, StoreError, TokenUsed
from store.jobs import following
from store.lifecycle import is_final
from store.model import Change, ChangeKind, Facet, JobRun, Plan, Run, RunStatus, new_id
from store.writer.held import BatchRow, Held, Overtaken
from store.writer.staged import Outcomes, Staged
from store.writer.taken import RunKey, TokenUse, has_key, key_of


class Applying:
    """Applies the commands of one group."""

    def __init__(self, held: Held, staged: Staged, moment: changes.Moment, limits: Limits) -> None:
        self._held = held
        self._moment = moment
        self._limits = limits
        self._numbers = iter(moment.numbers)
        self._undo: list[Callable[[], None]] = []
        self._begun: dict[str, list[str]] = {}
        """The steps that were begun in this group, by job run."""
        self._staged = staged

    @property
    def xid(self) -> int:
        """The transaction's id in the log."""
        return self._moment.xid

    def carry_out(self, submission: Submission) -> Outcomes | StoreError:
        """Applies one submission's commands to the runs as they stand in this group."""
        known = self._held.taken.known(submission)
        if known is not None:
            return known
        if not submission.atomic:
            return [self._attempt(command) for command in submission.commands]
        undo, changes = len(self._undo), len(self._staged.changes)
        done: Outcomes = []
        for command in submission.commands:
            outcome = self._attempt(command)
            if isinstance(outcome, StoreError):
                self._back_to(undo, changes)
                return outcome
            done.append(outcome)
        return done

    def _attempt(self, command: Command) -> Done | StoreError:
        undo, changes = len(self._undo), len(self._staged.changes)
        try:
            return self._apply(command)
        except StoreError as error:
            self._back_to(undo, changes)
            return error

    def _back_to(self, undo: int, changes: int) -> None:
        """Undoes what was done since there were so many steps to undo, and so many changes."""
        while len(self._undo) > undo:
            self._undo.pop()()
        del self._staged.changes[changes:]
        del self._staged.hints[changes:]

    def _apply(self, command: Command) -> Done:
        match command:
            case CreateRun():
                return self._create(command)
            case UpdateRun(as_job_run=True):
                return self._update_job_run(command)
            case UpdateRun() | ClaimRun():
                return Done(run=self._update(command))
            case MutateMetadata():
                return self._mutate(command)
            case FireTimer():
                return Done(run=self._fire(command))
            case DeleteRun():
                return self._delete(command)
            case CreateBatch():
                self._put(
                    self._held.batches,
                    command.batch_id,
                    BatchRow(command.project, self._moment.at, None, {}, None, is_new=True),
                )
                return Done()
            case SealBatch():
                return self._seal(command)

    def _at(self, run: Run) -> datetime:
        # Two servers' transactions may begin in one order and lock in the other.
        return max(self._moment.at, run.updated_at)

    def _named(self, command: UpdateRun | ClaimRun | MutateMetadata | DeleteRun | FireTimer) -> Run:
        run = self._staged.runs.get(command.run_id)
        if run is None or run.project != command.project:
            raise NotFound("run", command.run_id)
        return run

    def _create(self, command: CreateRun) -> Done:
        new = command.new
        if command.one_time_token is not None:
            use = self._held.taken.token_use.get((command.project, command.one_time_token))
            if use is not None:
                first = self._found(use.run_id)
                same = (use.task_identifier, use.idempotency_key) == (
                    new.task_identifier,
                    new.idempotency_key,
                )
                if first is None or not same or new.idempotency_key is None:
                    raise TokenUsed("the one-time token was used before")
                return Done(run=first, first=False)
        if has_key(command):
            first = self._found(self._held.taken.key_owner.get(key_of(command)))
            if first is not None:
                # Used up all the same: it would be a way to look for other people's keys.
                self._use_up(command, first)
                return Done(run=first, first=False)
        if new.batch_id is not None:
            batch = self._held.batches.get(new.batch_id)
            if batch is None or batch.project != command.project:
                raise Invalid("batchId", f"there is no batch {new.batch_id}")
            if batch.sealed_at is not None:
                raise Conflict(f"batch {new.batch_id} is sealed and takes no more runs")
        run, changed = create(
            command,
            number=next(self._numbers),
            parent=self._parent(command),
            at=self._moment.at,
            limits=self._limits,
        )
        snapshot = None
        if command.job is not None:
            snapshot = self._held.orders.get((command.project, command.job))
            if snapshot is None:
                raise Invalid("jobId", f"there is no job {command.job.job_id}")
        run = self._take(None, run, changed)
        if has_key(command):
            self._put(self._held.taken.key_owner, key_of(command), run.id)
        self._use_up(command, run)
        if snapshot is None:
            return Done(run=run)
        self._put(self._staged.job_runs, run.id, snapshot)
        step = self._begin_step(run, snapshot.plan, following.first().position)
        return Done(
            run=run,
            job_run=JobRun(run=run, config=snapshot.config, plan=snapshot.plan, steps=(step,)),
        )

    # ------------------------------------------------------------------------------- job runs

    def _update(self, command: UpdateRun | ClaimRun) -> Run:
        run = self._named(command)
        if run.job_id is not None:
            asked = RunStatus.EXECUTING if isinstance(command, ClaimRun) else command.status
            following.check_asked(run, None if asked is UNSET else asked)
        after, changed = apply(run, command, self._at(run), self._limits)
        if run.job_id is not None and after.status != run.status:
            # The step first: a job run is over with its last step or later.
            self._cancel_steps(run)
        after = self._take(run, after, changed)
        self._follow(run, after)
        return after

    def _update_job_run(self, command: UpdateRun) -> Done:
        named = self._staged.runs.get(command.run_id)
        if named is None or named.project != command.project or named.job_id is None:
            raise NotFound("job run", command.run_id)
        run = self._update(command)
        snapshot = self._held.shown.get(run.id) or self._staged.job_runs.get(run.id)
        if snapshot is None:
            raise Overtaken  # it was made after what it executes had been looked for
        steps = tuple(sorted(self._steps(run), key=lambda step: step.position or 0))
        shown = JobRun(run=run, config=snapshot.config, plan=snapshot.plan, steps=steps)
        return Done(run=run, job_run=shown)

    def _follow(self, before: Run, step: Run) -> None:
        """Does what follows in the job run from a step's change."""
        if step.workflow_id is None or step.status == before.status:
            return
        job_run = self._staged.runs.get(step.parent_run_id or "")
        if job_run is None and step.status == RunStatus.EXECUTING and step.position:
            return  # it has begun with its first step, and needs no lock for the others
        if job_run is None:
            raise Overtaken  # the step was made after its kin had been looked for
        made = self._staged.job_runs.get(job_run.id)
        plan = self._held.plans.get(job_run.id, ()) if made is None else made.plan
        if step.status == RunStatus.COMPLETED and not plan:
            raise Overtaken
        for consequence in following.follow(job_run, len(plan), before.status, step):
            job_run = self._staged.runs[job_run.id]
            match consequence:
                case following.BeginStep(position=position):
                    self._begin_step(job_run, plan, position)
                case following.MoveJobRun(to=to, error=error):
                    move = UpdateRun(
                        project=job_run.project,
                        run_id=job_run.id,
                        status=to,
                        error=UNSET if error is None else error,
                    )
                    self._take(job_run, *apply(job_run, move, self._at(job_run), self._limits))

    def _begin_step(self, job_run: Run, plan: Plan, position: int) -> Run:
        planned = plan[position]
        command = CreateRun(
            project=job_run.project,
            run_id=new_id("run"),
            new=NewRun(
                task_identifier=planned.task_identifier,
                payload=following.step_payload(job_run, plan, position),
                ttl=planned.ttl,
                max_duration=planned.max_duration,
                heartbeat_timeout=planned.heartbeat_timeout,
                max_attempts=planned.max_attempts,
                is_test=job_run.is_test,
            ),
            step=StepOf(planned.workflow_id, position),
        )
        run, changed = create(
            command,
            number=next(self._numbers),
            parent=job_run,
            at=self._at(job_run),
            limits=self._limits,
        )
        self._put(self._begun, job_run.id, [*self._begun.get(job_run.id, ()), run.id])
        return self._take(None, run, changed)

    def _steps(self, job_run: Run) -> list[Run]:
        """All the steps of a job run, as they stand in this group."""
        begun = self._begun.get(job_run.id, [])
        known = self._held.steps.get(job_run.id)
        if known is None and job_run.id not in self._staged.job_runs:
            raise Overtaken  # nobody knew that it is a job run
        return [
            self._staged.runs[id]
            for id in dict.fromkeys([*(known or ()), *begun])
            if id in self._staged.runs
        ]

    def _cancel_steps(self, job_run: Run) -> None:
        for step in following.living(self._steps(job_run)):
            cancel = UpdateRun(
                project=step.project, run_id=step.id, status=RunStatus.CANCELED
            )  # fmt: skip
            self._take(step, *apply(step, cancel, self._at(step), self._limits))

    def _found(self, run_id: str | None) -> Run | None:
        """A run that was made before, as it stands in this group."""
        if run_id is None or run_id in self._staged.deleted:
            return None
        return self._staged.runs.get(run_id) or self._held.taken.found.get(run_id)

    def _use_up(self, command: CreateRun, run: Run) -> None:
        if command.one_time_token is not None:
            self._put(
                self._held.taken.token_use,
                (command.project, command.one_time_token),
                TokenUse(run.id, command.new.task_identifier, command.new.idempotency_key),
            )

    def _parent(self, command: CreateRun) -> Run | None:
        parent_id = command.new.parent_run_id
        if parent_id is None:
            return None
        kin = self._held.kin.get(parent_id)
        if kin is None or kin.project != command.project:
            raise Invalid("parentRunId", f"there is no run {parent_id}")
        # Only what never changes of it is looked at.
        return Run(
            id=parent_id,
            project=kin.project,
            version=0,
            number=0,
            task_identifier="",
            status=RunStatus.EXECUTING,
            root_run_id=kin.root_run_id,
            depth=kin.depth,
            created_at=self._moment.at,
            updated_at=self._moment.at,
        )

    def _mutate(self, command: MutateMetadata) -> Done:
        named = self._named(command)
        target_id = self._held.target(command)
        target = None if target_id is None else self._staged.runs.get(target_id)
        if target is None:
            raise Invalid("target", f"run {named.id} has no {command.target.value}")
        self._take(target, *apply(target, command, self._at(target), self._limits))
        return Done(run=self._staged.runs[named.id])

    def _fire(self, command: FireTimer) -> Run | None:
        run = self._staged.runs.get(command.run_id)
        if run is None:
            return None
        if (
            command.timer in (Timer.HEARTBEAT, Timer.LEASE)
            and self._held.heartbeat_due.get(run.id) != command.due_at
        ):
            return run
        after = self._take(run, *apply(run, command, self._moment.at, self._limits))
        if command.timer is Timer.LEASE and after.status == RunStatus.REATTEMPTING:
            # Whoever claims next has the next attempt.
            again = UpdateRun(
                project=run.project, run_id=run.id, status=RunStatus.QUEUED
            )  # fmt: skip
            after = self._take(after, *apply(after, again, self._at(after), self._limits))
        self._follow(run, after)
        return after

    def _delete(self, command: DeleteRun) -> Done:
        run = self._named(command)
        if run.workflow_id is not None:
            raise Conflict(
                f"run {run.id} is a step of job run {run.parent_run_id}, and is deleted with it",
                run,
            )
        if run.job_id is not None and is_final(run.status):
            for step in self._steps(run):
                self._delete_run(step)
        self._delete_run(run)
        return Done(run=run)

    def _delete_run(self, run: Run) -> None:
        gone = apply_delete(run, self._at(run))
        gone = msgspec.structs.replace(gone, last_xid=self._moment.xid)
        self._log(run, gone, changes.kept(gone), ChangeKind.DELETED)
        self._put(self._staged.deleted, run.id, run)
        self._drop(self._staged.runs, run.id)
        if run.idempotency_key is not None:
            key = RunKey(run.project, run.task_identifier, run.idempotency_key)
            if key in self._held.taken.key_owner:
                self._drop(self._held.taken.key_owner, key)
        if run.batch_id is not None and run.batch_id in self._held.batches:
            old = self._held.batches[run.batch_id]
            counts = dict(old.deleted_counts)
            counts[run.status.value] = counts.get(run.status.value, 0) + 1
            finished = max(
                (at for at in (old.deleted_finished_at, run.finished_at) if at is not None),
                default=None,
            )
            self._put(
                self._held.batches,
                run.batch_id,
                msgspec.structs.replace(
                    old, deleted_counts=counts, deleted_finished_at=finished, is_changed=True
                ),
            )

    def _seal(self, command: SealBatch) -> Done:
        batch = self._held.batches.get(command.batch_id)
        if batch is None or batch.project != command.project:
            raise NotFound("batch", command.batch_id)
        if batch.sealed_at is None:
            at = self._moment.at
            self._put(
                self._held.batches,
                command.batch_id,
                msgspec.structs.replace(batch, sealed_at=at, is_changed=True),
            )
            seal = Change(
                project=command.project,
                run_id=command.batch_id,
                version=1,
                xid=self._moment.xid,
                previous_xid=0,
                at=at,
                changed={},
                before=None,
                kind=ChangeKind.SEALED,
            )
            self._staged.changes.append(seal)
            self._staged.hints.append(Hint(seal, None))
        return Done()

    def _take(self, before: Run | None, after: Run, changed: dict[str, Any]) -> Run:
        """Keeps a run's new version, if it is one."""
        if before is after or not changed:
            return after
        after = msgspec.structs.replace(after, last_xid=self._moment.xid)
        self._log(before, after, changed, ChangeKind.RUN)
        self._put(self._staged.runs, after.id, after)
        return after

    def _log(
        self, before: Run | None, after: Run, changed: dict[str, Any], kind: ChangeKind
    ) -> None:
        change = Change(
            project=after.project,
            run_id=after.id,
            version=after.version,
            xid=self._moment.xid,
            previous_xid=0 if before is None else before.last_xid,
            at=after.updated_at,
            changed=changed,
            before=None if before is None else Facet(before.status, before.tags),
            kind=kind,
        )
        self._staged.changes.append(change)
        self._staged.hints.append(
            Hint(change, changes.deleted_run(change) if kind is ChangeKind.DELETED else after)
        )

    def _put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        if key in mapping:
            old = mapping[key]
            self._undo.append(lambda: mapping.__setitem__(key, old))
        else:
            self._undo.append(lambda: mapping.pop(key, None))
        mapping[key] = value

    def _drop(self, mapping: dict[Any, Any], key: Any) -> None:
        old = mapping.pop(key)
        self._undo.append(lambda: mapping.__setitem__(key, old))
