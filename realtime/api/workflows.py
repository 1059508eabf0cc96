"""HTTP calls about workflows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from starlette.responses import Response

from realtime.api.bodies import body_limit
from realtime.api.paging import PageQuery, opaque, place_of
from realtime.api.routing import Call, Operation, Resource, answer
from realtime.auth import Forbidden
from store.jobs.definitions import NewWorkflow, Workflow
from store.model import wire_value


class NewWorkflowBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                      forbid_unknown_fields=True):  # fmt: skip
    """A workflow: one kind of step that jobs are made of."""

    name: str
    task_identifier: str
    payload: Any = None
    """For its runs, where the job run brings none."""
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    max_attempts: int = 1
    """How many workers may lose one of its runs before that is CRASHED."""

    def new(self) -> NewWorkflow:
        return NewWorkflow(**msgspec.structs.asdict(self))


class WorkflowBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A workflow as it stands."""

    id: str
    name: str
    task_identifier: str
    payload: Any
    ttl: int | None
    max_duration: int | None
    heartbeat_timeout: int | None
    max_attempts: int
    created_at: datetime
    updated_at: datetime


class WorkflowsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of workflows, newest first."""

    data: list[WorkflowBody]
    next: str | None


def workflow_body(workflow: Workflow) -> dict[str, Any]:
    """See WorkflowBody."""
    return {
        each.encode_name: wire_value(getattr(workflow, each.name))
        for each in msgspec.structs.fields(WorkflowBody)
    }


def reader(call: Call) -> None:
    """Goes no further for a token: what it covers are runs."""
    if not (call.grant.full or call.grant.read_only):
        raise Forbidden("this needs an API key")


async def _new(call: Call) -> tuple[NewWorkflow, bytes]:
    raw = await call.raw_body(body_limit(call.store.limits.payload_bytes))
    return call.parse(raw, NewWorkflowBody).new(), raw


async def create(call: Call) -> Response:
    call.writer()
    new, raw = await _new(call)
    made = await call.store.definitions.create_workflow(call.project, new, call.key(raw))
    return answer(workflow_body(made), 201)


async def list_all(call: Call) -> Response:
    reader(call)
    query = call.query(PageQuery)
    found, following = await call.store.definitions.list_workflows(
        call.project, query.limit, place_of(query.after, str)
    )
    return answer({"data": [workflow_body(one) for one in found], "next": opaque(following)})


async def get(call: Call) -> Response:
    reader(call)
    id = call.id("workflow")
    return answer(workflow_body(await call.store.definitions.get_workflow(call.project, id)))


async def replace(call: Call) -> Response:
    call.writer()
    id = call.id("workflow")
    new, raw = await _new(call)
    replaced = await call.store.definitions.replace_workflow(
        call.project, id, new, call.key(raw)
    )  # fmt: skip
    return answer(workflow_body(replaced))


async def delete(call: Call) -> Response:
    call.writer()
    id = call.id("workflow")
    await call.no_body()
    await call.store.definitions.delete_workflow(call.project, id, call.key())
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/workflows",
        "jobs",
        {
            "POST": Operation(
                name="createWorkflow",
                summary="Make a workflow",
                handle=create,
                body=NewWorkflowBody,
                answers={201: WorkflowBody},
                is_command=True,
            ),
            "GET": Operation(
                name="listWorkflows",
                summary="List workflows, newest first",
                handle=list_all,
                query=PageQuery,
                answers={200: WorkflowsAnswer},
            ),
        },
    ),
    Resource(
        "/v1/workflows/{id}",
        "jobs",
        {
            "GET": Operation(
                name="getWorkflow",
                summary="Get a workflow",
                handle=get,
                answers={200: WorkflowBody},
                problems=(404,),
            ),
            "PUT": Operation(
                name="replaceWorkflow",
                summary="Say anew what a workflow is; job runs that were made go on as they began",
                handle=replace,
                body=NewWorkflowBody,
                answers={200: WorkflowBody},
                problems=(404,),
                is_command=True,
            ),
            "DELETE": Operation(
                name="deleteWorkflow",
                summary="Delete a workflow that no job uses",
                handle=delete,
                answers={204: None},
                problems=(404, 409, 413, 422),
                is_command=True,
            ),
        },
    ),
)
