"""What follows in a job run when one of its steps moves on.

A job run is a run whose children with a `workflow_id` are its steps. It is moved by them alone:
it begins when the first does, completes with the last, and fails with whichever fails. All of it
is pure; the group applies what is decided here in the transaction of the step's own change, under
the locks of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, TypeAlias

import msgspec

from store.errors import Conflict
from store.lifecycle import CANCELED, COMPLETED, EXECUTING, FAILED, QUEUED, is_final
from store.model import Plan, Run, RunStatus

__all__ = [
    "BeginStep",
    "Consequence",
    "JobRunStatus",
    "MoveJobRun",
    "check_asked",
    "first",
    "follow",
    "living",
    "status_of",
    "statuses_of",
    "step_payload",
]


class BeginStep(msgspec.Struct, frozen=True):
    """Make the workflow run of that position and queue it."""

    position: int


class MoveJobRun(msgspec.Struct, frozen=True):
    """Have the job run take a step of the lifecycle."""

    to: RunStatus
    error: dict[str, Any] | None = None


Consequence: TypeAlias = BeginStep | MoveJobRun


def first() -> BeginStep:
    """What follows from the making of a job run."""
    return BeginStep(0)


def follow(job_run: Run, steps: int, before: RunStatus, step: Run) -> tuple[Consequence, ...]:
    """What follows when the step has come from the status `before` to the one it has, in order.

    `steps` is how many the job run has in all. A step is over once, so each position is begun
    once; a job run that is over is moved by nothing.
    """
    if is_final(job_run.status) or step.status == before:
        return ()
    moves: list[Consequence] = []
    if job_run.status == QUEUED and (step.status == EXECUTING or is_final(step.status)):
        # The lifecycle leads from QUEUED to FAILED by way of EXECUTING only: a job run whose
        # first step expired or was canceled unbegun has begun all the same.
        moves.append(MoveJobRun(EXECUTING))
    if step.status == COMPLETED:
        assert step.position is not None
        following = step.position + 1
        moves.append(BeginStep(following) if following < steps else MoveJobRun(COMPLETED))
    elif is_final(step.status):
        moves.append(MoveJobRun(FAILED, _why(step)))
    return tuple(moves)


def _why(step: Run) -> dict[str, Any]:
    assert step.position is not None
    message = f"workflow run {step.id} (position {step.position}) is {step.status}"
    said = step.error.get("message") if isinstance(step.error, dict) else None
    if said:
        message = f"{message}: {str(said)[:_SAID_CHARS]}"
    return {"name": "WorkflowFailed", "message": message}


_SAID_CHARS: Final = 1_000
"""How much of the step's own message is repeated; the step has all of it."""


def check_asked(job_run: Run, asked: RunStatus | None) -> None:
    """Raises Conflict where a caller asks for what only the steps decide.

    A caller may cancel a job run, and no more; the status that it has already is no question.
    """
    if asked not in (None, job_run.status, CANCELED):
        raise Conflict(
            f"run {job_run.id} is a job run: its workflow runs decide when it becomes {asked}",
            job_run,
        )


def living(steps: Iterable[Run]) -> list[Run]:
    """Those of the steps that are not over: at most one."""
    return [step for step in steps if not is_final(step.status)]


def step_payload(job_run: Run, plan: Plan, position: int) -> Any:
    """What the workflow run is given: the job run's payload, else the workflow's."""
    return plan[position].payload if job_run.payload is None else job_run.payload


# --------------------------------------------------------------------------------- as a resource


class JobRunStatus(StrEnum):
    """Where a job run stands, as those see it who only ask for that."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


def status_of(run_status: RunStatus) -> JobRunStatus:
    """The status of the resource while its run has that one."""
    if run_status == COMPLETED:
        return JobRunStatus.COMPLETED
    if is_final(run_status):
        return JobRunStatus.FAILED
    if run_status in _PENDING:
        return JobRunStatus.PENDING
    return JobRunStatus.IN_PROGRESS


_PENDING: Final = frozenset({RunStatus.WAITING_FOR_DEPLOY, RunStatus.DELAYED, QUEUED})


def statuses_of(asked: Sequence[JobRunStatus]) -> frozenset[RunStatus]:
    """The statuses of runs that look so."""
    return frozenset(status for status in RunStatus if status_of(status) in asked)
