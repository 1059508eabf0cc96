"""Jobs, claims, webhooks and artifacts with real processes that are killed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import httpx2
import psutil
import pytest

from tests.processes import API_KEY, Server
from tests.store.receiving import answering, receiving

LONG_S = 60.0


def client_of(server: Server) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=server.url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=30.0
    )


async def made(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


async def a_job(client: httpx2.AsyncClient, *tasks: str) -> dict[str, Any]:
    order = [
        (await made(client, "/v1/workflows", {"name": t, "taskIdentifier": t, "maxAttempts": 5}))[
            "id"
        ]
        for t in tasks
    ]
    return await made(
        client, "/v1/jobs", {"name": "job", "config": {"workflowExecutionOrder": order}}
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_no_delivery_is_lost_when_the_server_is_killed_among_them(
    kind: str, request: pytest.FixtureRequest, start_server: Callable[..., Server]
) -> None:
    """Killed in the middle of a few hundred, and started again: each arrives at least once."""
    server = start_server(request.getfixturevalue(f"{kind}_url"))
    async with receiving() as receiver, client_of(server) as client:
        slow = answering(200)

        async def a_little_slow(message: Any, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.005)
            await slow(message, writer)

        receiver.behaviour["/"] = a_little_slow
        webhook = await made(
            client, "/v1/webhooks", {"url": receiver.url(), "events": ["run.created"]}
        )
        commands = [{"create": {"taskIdentifier": "t"}} for _ in range(300)]
        results = (await client.post("/v1/runs/bulk", json={"commands": commands})).json()
        ids = {one["run"]["id"] for one in results["results"]}
        async with asyncio.timeout(LONG_S):
            while len(receiver.messages) < 60:
                await asyncio.sleep(0.005)
            server.kill()
            assert len({message.id for message in receiver.messages}) < 300
            server.start()
            while {message.said["data"]["id"] for message in receiver.messages} != ids:
                await asyncio.sleep(0.02)
        assert all(message.is_signed_with(webhook["secret"]) for message in receiver.messages)
        sent = {(message.said["data"]["id"], message.id) for message in receiver.messages}
        assert len(sent) == 300  # once more under the same id, never under another


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_job_run_ends_as_it_should_though_server_and_worker_are_killed(
    kind: str, request: pytest.FixtureRequest, start_server: Callable[..., Server]
) -> None:
    server = start_server(request.getfixturevalue(f"{kind}_url"))
    async with client_of(server) as client:
        job = await a_job(client, "fetch", "build", "ship")
        job_run = await made(client, "/v1/job-runs", {"jobId": job["id"]})
        ask = {"tasks": ["fetch", "build", "ship"], "leaseS": 1, "waitS": 10}

        async def claimed(worker: str) -> dict[str, Any]:
            async with asyncio.timeout(LONG_S):
                while True:
                    response = await client.post("/v1/runs/claim", json=ask | {"worker": worker})
                    if response.status_code == 200 and response.json()["run"]:
                        run: dict[str, Any] = response.json()["run"]
                        return run

        # The worker dies with the first step, and the server with it.
        first = await claimed("dies")
        server.kill()
        server.start()
        again = await claimed("lives")
        assert (again["id"], again["attempt"]) == (first["id"], 2)
        late = await client.patch(
            f"/v1/runs/{first['id']}", json={"status": "COMPLETED", "ifAttempt": 1}
        )
        assert late.status_code == 409
        for position in range(3):
            step = again if position == 0 else await claimed("lives")
            assert step["position"] == position
            done = await client.patch(
                f"/v1/runs/{step['id']}",
                json={"status": "COMPLETED", "ifAttempt": step["attempt"]},
            )
            assert done.status_code == 200
            if position == 0:
                server.kill()
                server.start()
        ended = (await client.get(f"/v1/job-runs/{job_run['id']}")).json()
        assert ended["status"] == "COMPLETED"
        assert [run["status"] for run in ended["workflowRuns"]] == ["COMPLETED"] * 3
        for run in (ended["run"], *ended["workflowRuns"]):
            changes = (await client.get(f"/v1/runs/{run['id']}/changes")).json()["data"]
            said = [change["changed"].get("status") for change in changes]
            assert said.count("COMPLETED") == 1
            assert [change["version"] for change in changes] == [*range(1, run["version"] + 1)]


async def test_a_claimer_that_hangs_up_leaves_the_run_to_others(
    sqlite_url: str, start_server: Callable[..., Server]
) -> None:
    """It waits, and goes away without a word: what is queued then must not be handed to it."""
    server = start_server(sqlite_url)
    body = b'{"tasks":["t"],"worker":"gone","leaseS":600,"waitS":60}'
    head = (
        f"POST /v1/runs/claim HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
        f"Authorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    hasty = socket.create_connection(("127.0.0.1", server.port))
    hasty.sendall(head.encode() + body)
    async with client_of(server) as client:
        # Once this one waits, the other does too: they came in that order.
        ask = {"tasks": ["other"], "worker": "w", "leaseS": 60, "waitS": 0.2}
        assert (await client.post("/v1/runs/claim", json=ask)).json() == {"run": None}
        hasty.close()
        assert (await client.post("/v1/runs/claim", json=ask)).json() == {"run": None}
        run = await made(client, "/v1/runs", {"taskIdentifier": "t"})
        ask = {"tasks": ["t"], "worker": "w", "leaseS": 60, "waitS": 10}
        got = (await client.post("/v1/runs/claim", json=ask)).json()["run"]
        assert got["id"] == run["id"]


async def test_a_large_artifact_passes_through_a_server_that_stays_small(
    sqlite_url: str, start_server: Callable[..., Server]
) -> None:
    """100 MB in and out again, without the server ever holding much of it."""
    server = start_server(sqlite_url)
    size, chunk = 100_000_000, b"\x5a" * 100_000

    async def chunks() -> Any:
        for _ in range(size // len(chunk)):
            yield chunk

    async with client_of(server) as client:
        run = await made(client, "/v1/runs", {"taskIdentifier": "t"})
        before = psutil.Process(server.pid).memory_info().rss
        response = await client.post(
            f"/v1/runs/{run['id']}/artifacts", params={"name": "large"}, content=chunks()
        )
        assert response.status_code == 201
        artifact = response.json()
        assert artifact["size"] == size
        got = 0
        async with client.stream("GET", f"/v1/artifacts/{artifact['id']}/content") as stream:
            async for part in stream.aiter_bytes():
                got += len(part)
        assert got == size
        assert psutil.Process(server.pid).memory_info().rss - before < 60_000_000
