"""The application with its real store, called over HTTP without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from realtime.app import Runtime, create_app
from realtime.settings import Settings
from tests.realtime.bearer import Bearer

KEY = "a-key-for-the-tests-0123456789"
A_RUN = b'{"taskIdentifier": "send"}'
"""A body that makes one."""


class Caller(Bearer):
    """Somebody with a key or token, who calls the API."""

    def __init__(self, client: httpx2.AsyncClient, runtime: Runtime, token: str | None) -> None:
        super().__init__(client, token)
        self.runtime = runtime

    def with_token(self, token: str | None) -> Caller:
        """Somebody else, who calls the same server."""
        return Caller(self.client, self.runtime, token)

    async def patch(self, path: str, json: Any, **how: Any) -> httpx2.Response:
        return await self.call("PATCH", path, json=json, **how)

    async def delete(self, path: str, **how: Any) -> httpx2.Response:
        return await self.call("DELETE", path, **how)

    async def run(self, task: str = "send-invoice", **fields: Any) -> dict[str, Any]:
        """A new run."""
        response = await self.post("/v1/runs", {"taskIdentifier": task, **fields})
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    async def update(self, run: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """The run after a change that must be taken."""
        response = await self.patch(f"/v1/runs/{run['id']}", fields)
        assert response.status_code == 200, response.text
        changed: dict[str, Any] = response.json()
        return changed

    async def a_token(self, *scopes: str, **fields: Any) -> Caller:
        """Somebody with a new token."""
        response = await self.post("/v1/tokens", {"scopes": list(scopes), **fields})
        assert response.status_code == 201, response.text
        return self.with_token(response.json()["token"])


@asynccontextmanager
async def serving(database: str, **settings: Any) -> AsyncIterator[Caller]:
    """A running application; whoever calls has its first key, if it has one."""
    settings.setdefault("api_key", KEY)
    app = create_app(Settings(database=database, **settings))
    runtime: Runtime = app.state.runtime
    transport = httpx2.ASGITransport(app=app)
    async with app.router.lifespan_context(app):
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost:8080"
        ) as client:
            yield Caller(client, runtime, settings["api_key"])


def assert_problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is that problem, in the form that all have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    return body


@asynccontextmanager
async def serving_on(
    kind: str, request: pytest.FixtureRequest, **settings: Any
) -> AsyncIterator[Caller]:
    """A running application on a new database of that kind, for all tests of a module."""
    if kind == "sqlite":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("api")
        async with serving(f"sqlite:///{folder / 'runstream.db'}", **settings) as caller:
            yield caller
        return
    server = request.getfixturevalue("postgres_server")
    url = await asyncio.to_thread(server.create_database)
    try:
        async with serving(url, **settings) as caller:
            yield caller
    finally:
        await asyncio.to_thread(server.drop_database, url)
