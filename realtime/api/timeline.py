"""The HTTP call that says what happened in a job run, in order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from realtime.api.bodies import Limit
from realtime.api.job_runs import readable_job_run
from realtime.api.paging import opaque, place_of
from realtime.api.routing import Call, Operation, Resource, answer
from realtime.auth import Grant
from store.jobs.following import JobRunStatus, status_of
from store.jobs.runs import Moment, spent
from store.model import Change, Facet, JobRun, RunStatus, rfc3339, wire_value


class TimelineQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of a timeline."""

    limit: Limit = 1_000
    after: Annotated[str, Meta(max_length=1_000)] | None = None
    """The `next` of the page before."""


class StepBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A step of a job run at one glance."""

    workflow_id: str
    position: int
    name: str
    task_identifier: str
    run_id: str | None
    status: RunStatus | None
    attempt: int
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    waited_ms: int | None
    """From being queued to being begun."""
    duration_ms: int
    error: Any


class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change of a job run or of one of its steps."""

    at: datetime
    run_id: str
    position: int | None
    """Which step; null is the job run itself."""
    version: int
    changed: dict[str, Any]
    since_start_ms: int
    """Since the job run was made."""
    lasted_ms: int | None
    """With a transition: how long the status before it lasted, if that began on this page."""


class TimelineAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What happened in a job run, in order."""

    job_run_id: str
    status: JobRunStatus
    steps: list[StepBody]
    data: list[TimelineEntry]
    next: str | None


async def timeline(call: Call) -> Response:
    run_id = call.id("run")
    query = call.query(TimelineQuery)
    await readable_job_run(call, run_id)
    grant = call.grant
    found = await call.store.job_runs.timeline(
        call.project, run_id, place_of(query.after, Moment), query.limit
    )
    job_run = found.job_run
    runs = {run.id: run for run in (job_run.run, *job_run.steps)}
    lasted = spent(change for _, change in found.changes)
    start = job_run.run.created_at
    return answer(
        {
            "jobRunId": run_id,
            "status": status_of(job_run.run.status),
            "steps": _steps(job_run, grant),
            "data": [
                {
                    "at": rfc3339(change.at),
                    "runId": change.run_id,
                    "position": moment.position if moment.position >= 0 else None,
                    "version": change.version,
                    "changed": {k: v for k, v in change.changed.items() if k not in grant.skip},
                    "sinceStartMs": round((change.at - start).total_seconds() * 1000),
                    "lastedMs": lasted.get((change.run_id, change.version)),
                }
                for moment, change in found.changes
                if grant.reads_all or grant.covers(runs[change.run_id], _facet_after(change))
            ],
            "next": opaque(found.next),
        }
    )


def _facet_after(change: Change) -> Facet:
    before, changed = change.before, change.changed
    status = changed["status"] if "status" in changed or before is None else before.status
    tags = changed["tags"] if "tags" in changed or before is None else before.tags
    return Facet(RunStatus(status), tuple(tags))


_SHOWN: Final = {
    "attempt": "attempt",
    "queuedAt": "queued_at",
    "startedAt": "started_at",
    "finishedAt": "finished_at",
    "durationMs": "duration_ms",
    "error": "error",
}


def _steps(job_run: JobRun, grant: Grant) -> list[dict[str, Any]]:
    made = {step.position: step for step in job_run.steps}
    steps = []
    for position, planned in enumerate(job_run.plan):
        step = made.get(position)
        said: dict[str, Any] = {
            "workflowId": planned.workflow_id,
            "position": position,
            "name": planned.name,
            "taskIdentifier": planned.task_identifier,
            "runId": None,
            "status": None,
            "attempt": 0,
            "queuedAt": None,
            "startedAt": None,
            "finishedAt": None,
            "waitedMs": None,
            "durationMs": 0,
            "error": None,
        }
        if step is not None and grant.reads(step):
            said |= {"runId": step.id, "status": step.status}
            said |= {wire: wire_value(getattr(step, name)) for wire, name in _SHOWN.items()}
            if step.started_at is not None:
                waited = step.started_at - step.created_at
                said["waitedMs"] = round(waited.total_seconds() * 1000)
        steps.append({name: value for name, value in said.items() if name not in grant.skip})
    return steps


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/job-runs/{id}/timeline",
        "job runs",
        {
            "GET": Operation(
                name="getTimeline",
                summary="What happened in a job run, in order",
                handle=timeline,
                query=TimelineQuery,
                answers={200: TimelineAnswer},
                problems=(404,),
            )
        },
    ),
)
