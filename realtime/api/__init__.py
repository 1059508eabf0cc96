"""HTTP, one file a resource."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from realtime.api import batches, health, runs, tokens
from realtime.api.problems import Problem
from realtime.api.routing import Health, Resource, Services, answer_to

__all__ = ["RESOURCES", "Health", "Services", "no_such_route", "routes"]

RESOURCES: Final[Sequence[Resource]] = (
    *runs.RESOURCES,
    *batches.RESOURCES,
    *tokens.RESOURCES,
    *health.RESOURCES,
)
"""Everything that can be called, the more particular path first."""


def routes(services: Services) -> list[BaseRoute]:
    """The routes of all resources."""
    return [resource.route(services) for resource in RESOURCES]


def no_such_route(request: Request, error: Exception) -> Response:
    """The answer where there is no route."""
    return answer_to(Problem("not_found", "there is nothing at this path"))
