"""HTTP calls about runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from realtime.api import problems
from realtime.api.bodies import (
    BulkAnswer,
    BulkBody,
    BulkItem,
    BulkItems,
    ChangesAnswer,
    ChangesQuery,
    HeartbeatBody,
    MetadataBody,
    NewRunBody,
    NoBody,
    RunsAnswer,
    RunsQuery,
    UpdateBody,
    UpdateItem,
    body_limit,
)
from realtime.api.paging import list_key_of, opaque
from realtime.api.problems import FieldError, Problem, unprocessable
from realtime.api.requests import decoder, fit
from realtime.api.routing import (
    SMALL,
    Call,
    Operation,
    Resource,
    answer,
    run_of,
    shown,
)
from realtime.auth import RUN_TOKEN_S, Forbidden
from store.commands import (
    Command,
    CreateRun,
    DeleteRun,
    Done,
    JobOrder,
    Limits,
    MetadataOperation,
    MutateMetadata,
    NewRun,
    UpdateRun,
)
from store.errors import Invalid, NotFound, StoreError
from store.model import Change, Facet, Filter, Run, RunQuery, RunStatus, Selection, new_id, rfc3339

# --------------------------------------------------------------------------------------- the calls


def create_limit(limits: Limits) -> int:
    return body_limit(limits.payload_bytes, limits.metadata_bytes)


async def create(call: Call) -> Response:
    limit = create_limit(call.store.limits)
    raw = await call.raw_body(limit)
    body = call.parse(raw, NewRunBody)
    grant = call.grant
    if not grant.may_trigger(body.task_identifier):
        raise Forbidden("this needs an API key with full rights, or a token to trigger the task")
    if not grant.full and (body.batch_id is not None or body.parent_run_id is not None):
        raise Forbidden("a token to trigger a task puts its run neither in a batch nor below a run")
    command = CreateRun(
        project=call.project,
        run_id=new_id("run"),
        new=body.new_run(),
        one_time_token=grant.token_id if grant.one_time else None,
    )
    return await _created(call, command, raw)


async def _created(call: Call, command: Command, raw: bytes = b"") -> Response:
    # The token is signed with what is at hand before the commit: after it nothing may fail.
    signer = await call.services.authority.signer(call.project)
    done = await call.execute_one(command, raw)
    run = run_of(done)
    token = signer.sign(
        [f"read:runs:{run.id}"], expires_in_s=RUN_TOKEN_S, skip=sorted(call.grant.skip)
    )
    return answer(shown(run, call.grant), 201 if done.first else 200, token=token.token)


async def get(call: Call) -> Response:
    return answer(shown(await readable_run(call, call.id("run")), call.grant))


async def readable_run(call: Call, run_id: str) -> Run:
    """The run, if there is one and this caller may read it; else NotFound, either way."""
    run = await call.store.get_run(call.project, run_id)
    if not call.grant.reads(run):
        raise NotFound("run", run_id)
    return run


async def list_all(call: Call) -> Response:
    query = call.query(RunsQuery)
    grant = call.grant
    wish = Selection(
        project=call.project,
        tags=tuple(query.tag),
        batch_id=query.batch_id,
        job_run_id=query.parent_run_id,
        filter=Filter(tasks=frozenset(query.task) or None),
    )
    if not grant.allows(wish):
        raise Forbidden("the token does not cover these runs")
    runs, after = await call.store.list_runs(
        RunQuery(
            project=call.project,
            statuses=frozenset(query.status),
            tags=tuple(dict.fromkeys(query.tag)),
            tasks=frozenset(query.task),
            batch_id=query.batch_id,
            parent_run_id=query.parent_run_id,
            is_test=query.is_test,
            created_after=query.created_after,
            created_before=query.created_before,
            limit=query.limit,
            after=list_key_of(query.after),
        )
    )
    return answer(
        {
            "data": [shown(run, grant) for run in runs if grant.reads(run)],
            "next": opaque(after),
        }
    )


async def update(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    limits = call.store.limits
    raw = await call.raw_body(body_limit(2 * limits.output_bytes, limits.metadata_bytes))
    command = call.parse(raw, UpdateBody).update(call.project, run_id)
    return await _changed(call, command, raw)


async def _changed(call: Call, command: Command, raw: bytes = b"") -> Response:
    """Carries out a command about one run, and answers with the run."""
    return answer(shown(run_of(await call.execute_one(command, raw)), call.grant))


async def mutate(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    raw = await call.raw_body(body_limit(2 * call.store.limits.metadata_bytes))
    body = call.parse(raw, MetadataBody)
    command = MutateMetadata(
        project=call.project,
        run_id=run_id,
        operations=tuple(
            MetadataOperation(op=step.op, path=step.path, value=step.value)
            for step in body.operations
        ),
        target=body.target,
    )
    return await _changed(call, command, raw)


async def cancel(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    await call.no_body()
    return await _changed(
        call, UpdateRun(project=call.project, run_id=run_id, status=RunStatus.CANCELED)
    )


def first_answer_of(call: Call, run_id: str) -> Command:
    """A command that a run which is not there refuses. But what was asked before with the same
    `Idempotency-Key` gets its first answer, also if the run was deleted since."""
    return UpdateRun(project=call.project, run_id=run_id)


async def replay(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    await call.no_body()
    try:
        old = await call.store.get_run(call.project, run_id)
    except NotFound:
        return await _created(call, first_answer_of(call, run_id))
    command = CreateRun(
        project=call.project,
        run_id=new_id("run"),
        new=NewRun(
            task_identifier=old.task_identifier,
            payload=old.payload,
            tags=old.tags,
            ttl=old.ttl,
            max_duration=old.max_duration,
            heartbeat_timeout=old.heartbeat_timeout,
            is_test=old.is_test,
            max_attempts=old.max_attempts,
        ),
        job=None if old.job_id is None else JobOrder(old.job_id, again=old.id),
    )
    return await _created(call, command)


async def heartbeat(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    body = call.parse(await call.raw_body(SMALL), HeartbeatBody)
    await call.store.heartbeat(call.project, run_id, body.attempt)
    return answer({})


async def delete(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    await call.no_body()
    await call.execute_one(DeleteRun(project=call.project, run_id=run_id))
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


async def history(call: Call) -> Response:
    run_id = call.id("run")
    query = call.query(ChangesQuery)
    run = await readable_run(call, run_id)
    changes, after = await call.store.history(
        call.project, run_id, query.after_version, query.limit
    )
    grant = call.grant
    return answer(
        {
            "data": [
                {
                    "version": change.version,
                    "at": rfc3339(change.at),
                    "changed": {k: v for k, v in change.changed.items() if k not in grant.skip},
                }
                for change in changes
                # A token by tag shows a run only while it has the tag.
                if grant.reads_all or grant.covers(run, _facet_after(change))
            ],
            "next": after,
        }
    )


def _facet_after(change: Change) -> Facet:
    before, changed = change.before, change.changed
    status = changed["status"] if "status" in changed or before is None else before.status
    tags = changed["tags"] if "tags" in changed or before is None else before.tags
    return Facet(RunStatus(status), tuple(tags))


async def bulk(call: Call) -> Response:
    call.writer()
    raw = await call.raw_body(call.services.settings.body_bytes)
    items: Sequence[Any]
    try:
        items = decoder(BulkItems).decode(raw).commands
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # One that does not fit must not stop the others, so each is read alone.
        items = call.parse(raw, BulkBody).commands
    most = call.store.limits.batch_items
    if len(items) > most:
        raise unprocessable([FieldError("commands", f"has more than {most} items")])
    results: list[Any] = [None] * len(items)
    commands: dict[int, Command] = {}
    for place, item in enumerate(items):
        try:
            commands[place] = _bulk_command(call, item)
        except Problem as problem:
            results[place] = {"error": problem.body()}
    if commands:
        outcomes = await call.execute(*commands.values(), raw=raw)
        for (place, command), outcome in zip(commands.items(), outcomes, strict=True):
            results[place] = _bulk_result(call, command, outcome)
    return answer({"results": results})


def _bulk_command(call: Call, item: Any) -> Command:
    new: NewRunBody | UnsetType = UNSET
    changes: UpdateItem | UnsetType = UNSET
    match item:
        case BulkItem():
            new, changes = item.create, item.update
        case {"create": said} if len(item) == 1:
            new = fit(said, NewRunBody, path="create")
        case {"update": said} if len(item) == 1:
            changes = fit(said, UpdateItem, path="update")
    if new is UNSET and changes is not UNSET:
        return changes.update(call.project, changes.run_id)
    if changes is UNSET and new is not UNSET:
        return CreateRun(
            project=call.project, run_id=new_id("run"), new=new.new_run(path="create.")
        )
    raise unprocessable([FieldError("", "needs create or update, and nothing else")])


def _bulk_result(call: Call, command: Command, outcome: Done | StoreError) -> dict[str, Any]:
    if isinstance(outcome, Invalid):
        kind = "create" if isinstance(command, CreateRun) else "update"
        outcome = Invalid(f"{kind}.{outcome.path}", outcome.detail)
    if isinstance(outcome, StoreError):
        problem = problems.of(outcome)
        if problem is None:
            raise outcome
        return {"error": problem.body()}
    return {"run": shown(run_of(outcome), call.grant)}


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/runs",
        "runs",
        {
            "POST": Operation(
                name="createRun",
                summary="Make a run",
                handle=create,
                body=NewRunBody,
                answers={201: Run, 200: Run},
                problems=(404, 409, 413),
                gives_token=True,
                is_command=True,
            ),
            "GET": Operation(
                name="listRuns",
                summary="List runs, newest first",
                handle=list_all,
                query=RunsQuery,
                answers={200: RunsAnswer},
            ),
        },
    ),
    Resource(
        "/v1/runs/bulk",
        "runs",
        {
            "POST": Operation(
                name="bulk",
                summary="Create and update many runs; each stands or falls alone",
                handle=bulk,
                body=BulkItems,
                answers={200: BulkAnswer},
                problems=(413,),
                is_command=True,
            )
        },
    ),
    Resource(
        "/v1/runs/{id}",
        "runs",
        {
            "GET": Operation(
                name="getRun", summary="Get a run", handle=get, answers={200: Run}, problems=(404,)
            ),
            "PATCH": Operation(
                name="updateRun",
                summary="Change a run: its status, output, metadata, tags, cost",
                handle=update,
                body=UpdateBody,
                answers={200: Run},
                problems=(404, 409, 413),
                is_command=True,
            ),
            "DELETE": Operation(
                name="deleteRun",
                summary="Delete a final run",
                handle=delete,
                answers={204: None},
                problems=(404, 409),
                is_command=True,
            ),
        },
    ),
    Resource(
        "/v1/runs/{id}/metadata",
        "runs",
        {
            "POST": Operation(
                name="changeMetadata",
                summary="Change the metadata of a run, of its parent or of its root, step by step",
                handle=mutate,
                body=MetadataBody,
                answers={200: Run},
                problems=(404, 409, 413),
                is_command=True,
            )
        },
    ),
    Resource(
        "/v1/runs/{id}/cancel",
        "runs",
        {
            "POST": Operation(
                name="cancelRun",
                summary="Cancel a run",
                handle=cancel,
                body=NoBody,
                answers={200: Run},
                problems=(404, 409, 413),
                is_command=True,
            )
        },
    ),
    Resource(
        "/v1/runs/{id}/replay",
        "runs",
        {
            "POST": Operation(
                name="replayRun",
                summary="Make a new run of the same task and payload",
                handle=replay,
                body=NoBody,
                answers={201: Run},
                problems=(404, 413),
                gives_token=True,
                is_command=True,
            )
        },
    ),
    Resource(
        "/v1/runs/{id}/heartbeat",
        "runs",
        {
            "POST": Operation(
                name="heartbeat",
                summary="Say that the run's worker lives",
                handle=heartbeat,
                body=HeartbeatBody,
                answers={200: NoBody},
                problems=(404, 409, 413),
            )
        },
    ),
    Resource(
        "/v1/runs/{id}/changes",
        "runs",
        {
            "GET": Operation(
                name="listChanges",
                summary="The history of a run",
                handle=history,
                query=ChangesQuery,
                answers={200: ChangesAnswer},
                problems=(404,),
            )
        },
    ),
)
