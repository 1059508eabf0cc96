"""Jobs in a store, and the commands that move their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store import RunStore
from store.commands import CreateRun, JobOrder, NewRun
from store.jobs.definitions import Job, NewJob, NewWorkflow
from store.model import JobRun, Run, RunStatus, new_id
from tests.builders import PROJECT
from tests.store.asking import one, update


async def a_job(store: RunStore, *tasks: str, **workflow: Any) -> Job:
    """A job whose workflows are runs of these tasks."""
    order = [
        (
            await store.definitions.create_workflow(
                PROJECT, NewWorkflow(name=f"the {task}", task_identifier=task, **workflow)
            )
        ).id
        for task in tasks
    ]
    return await store.definitions.create_job(
        PROJECT, NewJob(name="nightly", config={"workflowExecutionOrder": order})
    )


async def begin(store: RunStore, job: Job | str, again: str | None = None, **new: Any) -> JobRun:
    """A new job run of the job."""
    job_id = job if isinstance(job, str) else job.id
    command = CreateRun(
        project=PROJECT,
        run_id=new_id("run"),
        new=NewRun(task_identifier=job_id, **new),
        job=JobOrder(job_id, again),
    )
    done = await one(store, command)
    assert done.job_run is not None
    return done.job_run


async def move(store: RunStore, run: Run, *statuses: RunStatus, **fields: Any) -> Run:
    """The run after it took these steps; the fields come with the last."""
    for status in statuses:
        more = fields if status is statuses[-1] else {}
        run = await update(store, run.id, status=status, **more)
    return run


async def now(store: RunStore, job_run: JobRun) -> JobRun:
    """The job run as it stands."""
    return await store.job_runs.get(PROJECT, job_run.run.id)


def statuses(steps: Sequence[Run]) -> list[RunStatus]:
    return [step.status for step in steps]
