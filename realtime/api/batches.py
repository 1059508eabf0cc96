"""HTTP calls about batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET
from starlette.responses import Response

from realtime.api.bodies import (
    BatchBody,
    ItemsAnswer,
    ItemsBody,
    NewBatchAnswer,
    NewBatchBody,
    NewRunBody,
    NoBody,
)
from realtime.api.problems import FieldError, not_found, unprocessable
from realtime.api.routing import Call, Operation, Resource, answer, run_of, shown
from realtime.auth import RUN_TOKEN_S
from store.commands import (
    Command,
    CreateBatch,
    CreateRun,
    Done,
    Limits,
    NewRun,
    SealBatch,
    check_new_run,
)
from store.errors import Invalid, NotFound, StoreError, TooLarge
from store.lifecycle import is_final
from store.model import Batch, new_id, wire_value


def batch_body(batch: Batch) -> dict[str, Any]:
    """The batch as the wire has it; see BatchBody."""
    size = batch.size
    final = sum(count for status, count in batch.counts.items() if is_final(status))
    completed_at = None
    if batch.sealed_at is not None and final == size:
        completed_at = max(batch.sealed_at, batch.last_finished_at or batch.sealed_at)
    return {
        "id": batch.id,
        "createdAt": wire_value(batch.created_at),
        "sealedAt": wire_value(batch.sealed_at),
        "size": size,
        "final": final,
        "counts": {status: count for status, count in batch.counts.items() if count},
        "completedAt": wire_value(completed_at),
    }


async def create(call: Call) -> Response:
    call.writer()
    raw = await call.raw_body(call.services.settings.body_bytes)
    asked = call.parse(raw, NewBatchBody)
    batch_id = new_id("batch")
    items = _items(call, asked.items, batch_id)
    commands: list[Command] = [CreateBatch(project=call.project, batch_id=batch_id), *items]
    if bool(items) if asked.sealed is UNSET else asked.sealed:
        commands.append(SealBatch(project=call.project, batch_id=batch_id))
    # The token is signed with what is at hand before the commit: after it nothing may fail.
    signer = await call.services.authority.signer(call.project)
    outcomes = await _execute(call, commands, items, raw)
    batch = next(done.batch for done in reversed(outcomes) if done.batch is not None)
    token = signer.sign([f"read:batch:{batch.id}"], expires_in_s=RUN_TOKEN_S)
    runs = [shown(done.run, call.grant) for done in outcomes if done.run is not None]
    return answer({"batch": batch_body(batch), "runs": runs}, 201, token=token.token)


async def add_items(call: Call) -> Response:
    call.writer()
    batch_id = call.id("batch")
    raw = await call.raw_body(call.services.settings.body_bytes)
    items = _items(call, call.parse(raw, ItemsBody).items, batch_id)
    if not items:
        await call.store.get_batch(call.project, batch_id)
        return answer({"runs": []})
    outcomes = await _execute(call, items, items, raw)
    return answer({"runs": [shown(run_of(done), call.grant) for done in outcomes]})


def _items(call: Call, items: Sequence[NewRunBody], batch_id: str) -> list[CreateRun]:
    most = call.store.limits.batch_items
    if len(items) > most:
        raise unprocessable([FieldError("items", f"has more than {most} items")])
    return [
        CreateRun(
            project=call.project,
            run_id=new_id("run"),
            new=item.new_run(batch_id, f"items.{place}."),
        )
        for place, item in enumerate(items)
    ]


async def _execute(
    call: Call, commands: Sequence[Command], items: Sequence[CreateRun], raw: bytes
) -> list[Done]:
    """Carries all of it out, or nothing."""
    try:
        outcomes = await call.execute(*commands, raw=raw, atomic=True)
    except (Invalid, TooLarge) as error:
        if error.path == "batchId":
            raise not_found("batch") from None
        raise _placed(error, [item.new for item in items], call.store.limits) from None
    done = []
    for outcome in outcomes:
        if isinstance(outcome, StoreError):
            raise outcome
        done.append(outcome)
    return done


def _placed(
    error: Invalid | TooLarge, items: Sequence[NewRun], limits: Limits
) -> Invalid | TooLarge:
    """The error with the item that it is about in its path."""
    for place, item in enumerate(items):
        try:
            check_new_run(item, limits)
        except Invalid as found:
            return Invalid(f"items.{place}.{found.path}", found.detail)
        except TooLarge as found:
            return TooLarge(f"items.{place}.{found.path}", found.size, found.limit)
    return error


async def seal(call: Call) -> Response:
    call.writer()
    batch_id = call.id("batch")
    await call.no_body()
    done = await call.execute_one(SealBatch(project=call.project, batch_id=batch_id))
    assert done.batch is not None
    return answer(batch_body(done.batch))


async def get(call: Call) -> Response:
    batch_id = call.id("batch")
    if not call.grant.reads_batch(batch_id):
        raise NotFound("batch", batch_id)
    return answer(batch_body(await call.store.get_batch(call.project, batch_id)))


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/batches",
        "batches",
        {
            "POST": Operation(
                name="createBatch",
                summary="Make a batch, with runs or open for them",
                handle=create,
                body=NewBatchBody,
                answers={201: NewBatchAnswer},
                problems=(404, 409, 413),
                gives_token=True,
                is_command=True,
            )
        },
    ),
    Resource(
        "/v1/batches/{id}",
        "batches",
        {
            "GET": Operation(
                name="getBatch",
                summary="Get a batch: how many of its runs stand where",
                handle=get,
                answers={200: BatchBody},
                problems=(404,),
            )
        },
    ),
    Resource(
        "/v1/batches/{id}/items",
        "batches",
        {
            "POST": Operation(
                name="addToBatch",
                summary="Make more runs in an open batch",
                handle=add_items,
                body=ItemsBody,
                answers={200: ItemsAnswer},
                problems=(404, 409, 413),
                is_command=True,
            )
        },
    ),
    Resource(
        "/v1/batches/{id}/seal",
        "batches",
        {
            "POST": Operation(
                name="sealBatch",
                summary="Take no more runs into a batch",
                handle=seal,
                body=NoBody,
                answers={200: BatchBody},
                problems=(404, 413),
                is_command=True,
            )
        },
    ),
)
