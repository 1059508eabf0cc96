"""How the process is: for load balancers, for Prometheus, for whoever looks in by browser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.responses import Response

from realtime import VERSION, dash
from realtime.api.routing import Call, Operation, Resource, answer
from store.errors import StoreError

CHECK_S: Final = 2.0
"""A database that does not answer within this is not there."""


async def live(call: Call) -> Response:
    return answer({"status": "ok", "version": VERSION})


async def ready(call: Call) -> Response:
    health = call.services.health
    database = "ok"
    try:
        async with asyncio.timeout(CHECK_S):
            await health.check_database()
    except (StoreError, TimeoutError):
        database = "unavailable"
    serves = database == "ok" and not health.draining
    parts = {
        "status": "ok" if serves else "draining" if health.draining else "unavailable",
        "database": database,
        # Streams go on without it, so it is told and no more.
        "broker": health.broker,
        "draining": health.draining,
    }
    return answer(parts, 200 if serves else 503)


async def metrics(call: Call) -> Response:
    return Response(
        call.services.health.metrics_text(),
        headers={"Cache-Control": "no-store"},
        media_type="text/plain; version=0.0.4; charset=utf-8",
    )


async def home(call: Call) -> Response:
    return dash.page(call.request)


def _page(
    path: str,
    name: str,
    summary: str,
    handle: Callable[[Call], Awaitable[Response]],
    answers: dict[int, Any],
) -> Resource:
    return Resource(
        path,
        "server",
        {
            "GET": Operation(
                name=name, summary=summary, handle=handle, answers=answers, is_public=True
            )
        },
    )


RESOURCES: Final[Sequence[Resource]] = (
    _page("/", "home", "The page that shows what goes on", home, {200: "text/html"}),
    _page("/healthz", "healthz", "Whether the process lives", live, {200: dict[str, str]}),
    _page(
        "/readyz",
        "readyz",
        "Whether it serves, and how each part is",
        ready,
        {200: dict[str, Any], 503: dict[str, Any]},
    ),
    _page("/metrics", "metrics", "Counters and gauges", metrics, {200: "text/plain"}),
)
