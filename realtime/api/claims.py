"""The HTTP call by which workers claim queued runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from realtime.api.routing import SMALL, Call, Operation, Resource, answer, shown
from store.model import Run

T = TypeVar("T")


class ClaimBody(msgspec.Struct, frozen=True, kw_only=True, rename={"lease_s": "leaseS",
                "wait_s": "waitS"}, forbid_unknown_fields=True):  # fmt: skip
    """What a worker can do, and who it is."""

    tasks: list[str]
    worker: str
    lease_s: int
    """It keeps the run by a heartbeat at least this often, in seconds."""
    wait_s: float = 0.0
    """How long to wait for a run to be queued, at most 60 seconds."""


class ClaimAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The oldest queued run of these tasks, executing now; null if there is none."""

    run: Run | None


async def claim(call: Call) -> Response:
    call.writer()
    raw = await call.raw_body(2 * SMALL)
    body = call.parse(raw, ClaimBody)
    claimed = call.store.claims.claim(
        call.project,
        body.tasks,
        body.worker,
        body.lease_s,
        wait_s=body.wait_s,
        key=call.key(raw),
    )
    run = await _while_there(call.request, claimed)
    return answer({"run": None if run is None else shown(run, call.grant)})


async def _while_there(request: Request, work: Awaitable[T]) -> T:
    """What the work returns; it is cancelled when the caller has gone away.

    A run that is handed to nobody would be lost to all until its lease runs out.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await request.receive()


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/runs/claim",
        "runs",
        {
            "POST": Operation(
                name="claimRun",
                summary="Take the oldest queued run of some tasks, for one worker alone",
                handle=claim,
                body=ClaimBody,
                answers={200: ClaimAnswer},
                is_command=True,
            )
        },
    ),
)
