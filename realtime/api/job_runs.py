"""HTTP calls about job runs and their workflow runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from realtime.api.bodies import Limit, NoBody, body_limit
from realtime.api.paging import list_key_of, opaque
from realtime.api.requests import AwareTime
from realtime.api.routing import SMALL, Call, Operation, Resource, answer, run_of, shown
from realtime.auth import RUN_TOKEN_S, Forbidden, Grant
from store.commands import Command, CreateRun, DeleteRun, JobOrder, NewRun, UpdateRun
from store.errors import NotFound
from store.jobs.following import JobRunStatus, statuses_of
from store.jobs.runs import JobRunQuery
from store.model import Filter, JobRun, Run, RunStatus, Selection, new_id
from store.wire import wire_job_run

# ---------------------------------------------------------------------------- what goes in and out


class NewJobRunBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                    forbid_unknown_fields=True):  # fmt: skip
    """A job run that is to be made."""

    job_id: str
    payload: Any = None
    """For each of its workflow runs; without it each gets its workflow's own."""
    tags: tuple[str, ...] = ()
    idempotency_key: str | None = None
    metadata: dict[str, Any] = {}
    is_test: bool = False


class ReplayBody(msgspec.Struct, frozen=True, kw_only=True, rename={"source": "from"},
                 forbid_unknown_fields=True):  # fmt: skip
    """What the new job run is to execute."""

    source: Literal["snapshot", "current"] = "snapshot"
    """What the old one executed, or the job as it is now."""


class NamedWorkflow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A workflow as the job run executes it."""

    id: str
    position: int
    name: str
    task_identifier: str


class JobRunBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A job run as it stands."""

    id: str
    job_id: str
    status: JobRunStatus
    job_config_json_snapshot: dict[str, Any]
    """The job's config when the job run was made: what is executed."""
    workflows: list[NamedWorkflow]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    run: Run
    workflow_runs: list[Run]
    """Those that were made so far, in the order of their execution."""


class JobRunsQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                   forbid_unknown_fields=True):  # fmt: skip
    """Which job runs to list, newest first."""

    status: list[JobRunStatus] = []
    job_id: str | None = None
    tag: list[str] = []
    """All of them."""
    created_after: AwareTime | None = None
    created_before: AwareTime | None = None
    limit: Limit = 50
    after: Annotated[str, Meta(max_length=1_000)] | None = None
    """The `next` of the page before."""


class JobRunsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of job runs."""

    data: list[JobRunBody]
    next: str | None


class WorkflowRunsQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                        forbid_unknown_fields=True):  # fmt: skip
    """Of which job run."""

    job_run_id: str


class WorkflowRunsAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All steps of a job run in the order of execution."""

    workflow_runs: Annotated[
        list[Any],
        Meta(
            description="Runs; and for those that have not begun "
            "{workflowId, position, status: null, id: null}"
        ),
    ]


# ---------------------------------------------------------------------------------------- shapes


def job_run_body(job_run: JobRun, grant: Grant) -> dict[str, Any]:
    """The job run as this caller may see it; see JobRunBody."""
    return wire_job_run(job_run, skip=grant.skip, reads=grant.reads)


def workflow_runs_body(job_run: JobRun, grant: Grant) -> list[dict[str, Any]]:
    """All steps in order; see WorkflowRunsAnswer."""
    made = {step.position: step for step in job_run.steps}
    body = []
    for position, planned in enumerate(job_run.plan):
        step = made.get(position)
        if step is None:
            body.append(
                {
                    "workflowId": planned.workflow_id,
                    "position": position,
                    "status": None,
                    "id": None,
                }
            )
        elif grant.reads(step):
            body.append(shown(step, grant))
    return body


# --------------------------------------------------------------------------------------- the calls


async def create(call: Call) -> Response:
    limits = call.store.limits
    raw = await call.raw_body(body_limit(limits.payload_bytes, limits.metadata_bytes))
    body = call.parse(raw, NewJobRunBody)
    grant = call.grant
    if not grant.may_trigger(body.job_id):
        raise Forbidden("this needs an API key with full rights, or a token to trigger the job")
    command = CreateRun(
        project=call.project,
        run_id=new_id("run"),
        new=NewRun(
            task_identifier=body.job_id,
            payload=body.payload,
            tags=body.tags,
            metadata=body.metadata,
            idempotency_key=body.idempotency_key,
            is_test=body.is_test,
        ),
        one_time_token=grant.token_id if grant.one_time else None,
        job=JobOrder(body.job_id),
    )
    return await _created(call, command, raw)


async def _created(call: Call, command: Command, raw: bytes) -> Response:
    # The token is signed with what is at hand before the commit: after it nothing may fail.
    signer = await call.services.authority.signer(call.project)
    done = await call.execute_one(command, raw)
    run = run_of(done)
    job_run = done.job_run or await call.store.job_runs.get(call.project, run.id)
    token = signer.sign(
        [f"read:runs:{run.id}"], expires_in_s=RUN_TOKEN_S, skip=sorted(call.grant.skip)
    )
    # Whoever makes it sees it whole, as with the token that comes with it.
    seer = call.grant if call.grant.reads_all else _maker(call.grant, run.id)
    return answer(job_run_body(job_run, seer), 201 if done.first else 200, token=token.token)


def _maker(grant: Grant, run_id: str) -> Grant:
    return Grant(
        project=grant.project, scopes=frozenset({f"read:runs:{run_id}"}), skip=grant.skip
    )  # fmt: skip


async def list_all(call: Call) -> Response:
    query = call.query(JobRunsQuery)
    grant = call.grant
    wish = Selection(
        project=call.project,
        tags=tuple(query.tag),
        filter=Filter(tasks=None if query.job_id is None else frozenset({query.job_id})),
    )
    if not grant.allows(wish):
        raise Forbidden("the token does not cover these job runs")
    found, following = await call.store.job_runs.list(
        JobRunQuery(
            project=call.project,
            statuses=statuses_of(query.status),
            job_id=query.job_id,
            tags=tuple(dict.fromkeys(query.tag)),
            created_after=query.created_after,
            created_before=query.created_before,
            limit=query.limit,
            after=list_key_of(query.after),
        )
    )
    return answer(
        {
            "data": [job_run_body(one, grant) for one in found if grant.reads(one.run)],
            "next": opaque(following),
        }
    )


async def readable_job_run(call: Call, run_id: str) -> JobRun:
    """The job run, if there is one and this caller may read it; else NotFound, either way."""
    job_run = await call.store.job_runs.get(call.project, run_id)
    if not call.grant.reads(job_run.run):
        raise NotFound("job run", run_id)
    return job_run


async def get(call: Call) -> Response:
    job_run = await readable_job_run(call, call.id("run"))
    return answer(job_run_body(job_run, call.grant))


async def cancel(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    await call.no_body()
    done = await call.execute_one(
        UpdateRun(project=call.project, run_id=run_id, status=RunStatus.CANCELED, as_job_run=True)
    )
    # Not as it stands by now: asked again with its key, this is the first answer, even if the
    # job run has been deleted.
    assert done.job_run is not None
    return answer(job_run_body(done.job_run, call.grant))


async def replay(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    raw = await call.raw_body(SMALL)
    body = call.parse(raw, ReplayBody)
    try:
        old = (await call.store.job_runs.get(call.project, run_id)).run
    except NotFound:
        # What was asked before with the same key gets its first answer.
        return await _created(call, UpdateRun(project=call.project, run_id=run_id), raw)
    assert old.job_id is not None
    command = CreateRun(
        project=call.project,
        run_id=new_id("run"),
        new=NewRun(
            task_identifier=old.job_id,
            payload=old.payload,
            tags=old.tags,
            is_test=old.is_test,
        ),
        job=JobOrder(old.job_id, again=old.id if body.source == "snapshot" else None),
    )
    return await _created(call, command, raw)


async def delete(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    await call.no_body()
    await call.execute_one(DeleteRun(project=call.project, run_id=run_id))
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


async def workflow_runs(call: Call) -> Response:
    run_id = call.query(WorkflowRunsQuery).job_run_id
    if not call.is_id("run", run_id):
        raise NotFound("job run", run_id)
    job_run = await readable_job_run(call, run_id)
    return answer({"workflowRuns": workflow_runs_body(job_run, call.grant)})


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/job-runs",
        "job runs",
        {
            "POST": Operation(
                name="createJobRun",
                summary="Begin a job: its first workflow run is queued",
                handle=create,
                body=NewJobRunBody,
                answers={201: JobRunBody, 200: JobRunBody},
                gives_token=True,
                is_command=True,
            ),
            "GET": Operation(
                name="listJobRuns",
                summary="List job runs, newest first",
                handle=list_all,
                query=JobRunsQuery,
                answers={200: JobRunsAnswer},
            ),
        },
    ),
    Resource(
        "/v1/job-runs/{id}",
        "job runs",
        {
            "GET": Operation(
                name="getJobRun",
                summary="Get a job run with its workflow runs",
                handle=get,
                answers={200: JobRunBody},
                problems=(404,),
            ),
            "DELETE": Operation(
                name="deleteJobRun",
                summary="Delete a job run that is over, with its workflow runs",
                handle=delete,
                answers={204: None},
                problems=(404, 409, 413),
                is_command=True,
            ),
        },
    ),
    Resource(
        "/v1/job-runs/{id}/cancel",
        "job runs",
        {
            "POST": Operation(
                name="cancelJobRun",
                summary="Cancel a job run, and the workflow run that lives",
                handle=cancel,
                body=NoBody,
                answers={200: JobRunBody},
                problems=(404, 409),
                is_command=True,
            )
        },
    ),
    Resource(
        "/v1/job-runs/{id}/replay",
        "job runs",
        {
            "POST": Operation(
                name="replayJobRun",
                summary="Make a new job run of the same snapshot, or of the job as it is now",
                handle=replay,
                body=ReplayBody,
                answers={201: JobRunBody},
                problems=(404,),
                gives_token=True,
                is_command=True,
            )
        },
    ),
    Resource(
        "/v1/workflow-runs",
        "job runs",
        {
            "GET": Operation(
                name="listWorkflowRuns",
                summary="The workflow runs of a job run, in the order of execution",
                handle=workflow_runs,
                query=WorkflowRunsQuery,
                answers={200: WorkflowRunsAnswer},
                problems=(404,),
            )
        },
    ),
)
