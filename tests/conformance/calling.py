"""What most of the tests ask of the API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx2

Http = httpx2.AsyncClient


async def create(http: Http, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/v1/runs", json={"taskIdentifier": "t", **fields})
    assert answer.status_code in (200, 201), answer.text
    run: dict[str, Any] = answer.json()
    return run


async def patch(http: Http, run: dict[str, Any], expect: int = 200, **fields: Any) -> Any:
    answer = await http.patch(f"/v1/runs/{run['id']}", json=fields)
    assert answer.status_code == expect, answer.text
    return answer.json()


async def read(http: Http, run: dict[str, Any]) -> dict[str, Any]:
    """The run as it stands."""
    now: dict[str, Any] = (await http.get(f"/v1/runs/{run['id']}")).json()
    return now


async def becomes(http: Http, run: dict[str, Any], status: str) -> dict[str, Any]:
    """The run, once it has that status."""
    async with asyncio.timeout(30):
        while (now := await read(http, run))["status"] != status:
            await asyncio.sleep(0.05)
    return now


async def grows_older(http: Http, run: dict[str, Any], by_ms: int) -> dict[str, Any]:
    """The run, changed until it is by so much newer, by the server's own clock."""
    now, step = run, 0
    async with asyncio.timeout(30):
        while elapsed_ms(run, now) < by_ms:
            step += 1
            now = await patch(http, run, metadata={"step": step})
    return now


def elapsed_ms(before: dict[str, Any], after: dict[str, Any]) -> float:
    """What passed between two versions of a run."""
    begin, end = (datetime.fromisoformat(run["updatedAt"]) for run in (before, after))
    return (end - begin).total_seconds() * 1_000


@asynccontextmanager
async def changing(http: Http, run: dict[str, Any]) -> AsyncIterator[None]:
    """Changes the run again and again meanwhile."""

    async def change() -> None:
        step = 0
        while True:
            step += 1
            await patch(http, run, metadata={"step": step})
            await asyncio.sleep(0.02)

    writing = asyncio.ensure_future(change())
    try:
        yield
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that it was answered with."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert {"type", "title", "detail"} <= body.keys()
    return body
