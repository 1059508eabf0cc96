"""HTTP calls about jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from starlette.responses import Response

from realtime.api.bodies import body_limit
from realtime.api.paging import PageQuery, opaque, place_of
from realtime.api.routing import Call, Operation, Resource, answer
from realtime.api.workflows import reader
from store.jobs.definitions import Job, NewJob
from store.model import wire_value


class NewJobBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job: workflows that are executed one after the other."""

    name: str
    config: dict[str, Any]
    """`workflowExecutionOrder`: the ids of its workflows, in order; and whatever else."""

    def new(self) -> NewJob:
        return NewJob(name=self.name, config=self.config)


class JobBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A job as it stands."""

    id: str
    name: str
    config: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class JobsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs, newest first."""

    data: list[JobBody]
    next: str | None


def job_body(job: Job) -> dict[str, Any]:
    """See JobBody."""
    return {
        each.encode_name: wire_value(getattr(job, each.name))
        for each in msgspec.structs.fields(JobBody)
    }


async def _new(call: Call) -> tuple[NewJob, bytes]:
    raw = await call.raw_body(body_limit(call.store.limits.metadata_bytes))
    return call.parse(raw, NewJobBody).new(), raw


async def create(call: Call) -> Response:
    call.writer()
    new, raw = await _new(call)
    made = await call.store.definitions.create_job(call.project, new, call.key(raw))
    return answer(job_body(made), 201)


async def list_all(call: Call) -> Response:
    reader(call)
    query = call.query(PageQuery)
    found, following = await call.store.definitions.list_jobs(
        call.project, query.limit, place_of(query.after, str)
    )
    return answer({"data": [job_body(one) for one in found], "next": opaque(following)})


async def get(call: Call) -> Response:
    reader(call)
    return answer(job_body(await call.store.definitions.get_job(call.project, call.id("job"))))


async def replace(call: Call) -> Response:
    call.writer()
    id = call.id("job")
    new, raw = await _new(call)
    return answer(
        job_body(await call.store.definitions.replace_job(call.project, id, new, call.key(raw)))
    )


async def delete(call: Call) -> Response:
    call.writer()
    id = call.id("job")
    await call.no_body()
    await call.store.definitions.delete_job(call.project, id, call.key())
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/jobs",
        "jobs",
        {
            "POST": Operation(
                name="createJob",
                summary="Make a job out of workflows",
                handle=create,
                body=NewJobBody,
                answers={201: JobBody},
                is_command=True,
            ),
            "GET": Operation(
                name="listJobs",
                summary="List jobs, newest first",
                handle=list_all,
                query=PageQuery,
                answers={200: JobsAnswer},
            ),
        },
    ),
    Resource(
        "/v1/jobs/{id}",
        "jobs",
        {
            "GET": Operation(
                name="getJob",
                summary="Get a job",
                handle=get,
                answers={200: JobBody},
                problems=(404,),
            ),
            "PUT": Operation(
                name="replaceJob",
                summary="Say anew what a job is; job runs that were made go on as they began",
                handle=replace,
                body=NewJobBody,
                answers={200: JobBody},
                problems=(404,),
                is_command=True,
            ),
            "DELETE": Operation(
                name="deleteJob",
                summary="Delete a job; its job runs stay and go on",
                handle=delete,
                answers={204: None},
                problems=(404, 413, 422),
                is_command=True,
            ),
        },
    ),
)
