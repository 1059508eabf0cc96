"""Resources as the wire has them, besides runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from store.jobs.following import status_of
from store.lifecycle import is_final
from store.model import Batch, JobRun, Run, wire_run, wire_value


def wire_batch(batch: Batch) -> dict[str, Any]:
    """A batch, and how many of its runs stand where."""
    final = sum(count for status, count in batch.counts.items() if is_final(status))
    completed_at = None
    if batch.sealed_at is not None and final == batch.size:
        completed_at = max(batch.sealed_at, batch.last_finished_at or batch.sealed_at)
    return {
        "id": batch.id,
        "createdAt": wire_value(batch.created_at),
        "sealedAt": wire_value(batch.sealed_at),
        "size": batch.size,
        "final": final,
        "counts": {status: count for status, count in batch.counts.items() if count},
        "completedAt": wire_value(completed_at),
    }


def wire_job_run(
    job_run: JobRun,
    *,
    skip: frozenset[str] = frozenset(),
    reads: Callable[[Run], bool] = lambda _run: True,
) -> dict[str, Any]:
    """A job run with those of its workflow runs that may be read, less the skipped fields."""
    run = job_run.run
    body = {
        "id": run.id,
        "jobId": run.job_id,
        "status": status_of(run.status),
        "jobConfigJsonSnapshot": job_run.config,
        "workflows": [
            {
                "id": planned.workflow_id,
                "position": position,
                "name": planned.name,
                "taskIdentifier": planned.task_identifier,
            }
            for position, planned in enumerate(job_run.plan)
        ],
        "createdAt": wire_value(run.created_at),
        "startedAt": wire_value(run.started_at),
        "finishedAt": wire_value(run.finished_at),
        "run": wire_run(run, skip),
        "workflowRuns": [wire_run(step, skip) for step in job_run.steps if reads(step)],
    }
    return {name: value for name, value in body.items() if name not in skip}
