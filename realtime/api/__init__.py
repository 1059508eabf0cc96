"""HTTP, one file a resource."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from realtime.api import (
    artifacts,
    asyncapi,
    batches,
    claims,
    health,
    job_runs,
    jobs,
    openapi,
    runs,
    timeline,
    tokens,
    webhooks,
    workflows,
)
from realtime.api.problems import Problem
from realtime.api.routing import (
    Call,
    Health,
    Operation,
    Resource,
    Resources,
    Services,
    answer_to,
)

__all__ = ["RESOURCES", "Health", "Resources", "Services", "no_such_route", "routes"]


def _document(path: str, name: str, summary: str, make: Callable[[], dict[str, Any]]) -> Resource:
    @cache
    def text() -> bytes:
        return msgspec.json.encode(make())

    async def handle(call: Call) -> Response:
        return Response(
            text(), headers={"Cache-Control": "no-cache"}, media_type="application/json"
        )

    operation = Operation(
        name=name, summary=summary, handle=handle, answers={200: dict[str, Any]}, is_public=True
    )
    return Resource(path, "server", {"GET": operation})


RESOURCES: Final[Sequence[Resource]] = (
    *claims.RESOURCES,
    *runs.RESOURCES,
    *batches.RESOURCES,
    *workflows.RESOURCES,
    *jobs.RESOURCES,
    *job_runs.RESOURCES,
    *timeline.RESOURCES,
    *artifacts.RESOURCES,
    *webhooks.RESOURCES,
    *tokens.RESOURCES,
    *health.RESOURCES,
    _document("/openapi.json", "openapi", "This document", lambda: openapi.document(RESOURCES)),
    _document(
        "/asyncapi.json", "asyncapi", "The WebSocket messages, as AsyncAPI", asyncapi.document
    ),
)
"""Everything that can be called, the more particular path first."""


def routes(services: Services) -> list[BaseRoute]:
    """The routes of all resources."""
    return [resource.route(services) for resource in RESOURCES]


def no_such_route(request: Request, error: Exception) -> Response:
    """The answer of the router itself: there is nothing there, or not with this method."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        allow = dict(error.headers or {})
        said = f"this path takes {allow.get('Allow', 'other methods')}"
        return answer_to(Problem("method_not_allowed", said, headers=allow))
    if request.scope["path"] == "/v1/realtime":
        # Whoever asks by hand what is there is helped on.
        return answer_to(
            Problem(
                "bad_request",
                "this takes a WebSocket; as server-sent events the streams are below it, "
                "as at /v1/realtime/runs",
                headers={"Upgrade": "websocket"},
            )
        )
    return answer_to(Problem("not_found", "there is nothing at this path"))
