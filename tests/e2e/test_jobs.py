"""Claims, webhooks and artifacts with real processes, some of which are killed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import httpx2
import psutil
import pytest

from tests.e2e.kills import serving
from tests.processes import API_KEY, Server
from tests.receiving import receiving

LONG_S = 240.0


def client_of(server: Server) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=server.url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=30.0
    )


async def made(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_no_delivery_is_lost_when_the_server_is_killed_among_them(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed in the middle of a thousand, and started again: each arrives at least once.

    What it was sending when it died is sent again when its claim on it is over, here after a
    second. Taken out: that a claim is ever over; what it had been sending never arrived.
    """
    with serving(kind, request, tmp_path_factory) as server:
        async with receiving() as receiver, client_of(server) as client:
            secrets = {}
            for n in range(4):
                asked = {"url": receiver.url(f"/{n}"), "events": ["run.created"]}
                secrets[f"/{n}"] = (await made(client, "/v1/webhooks", asked))["secret"]
            commands = [{"create": {"taskIdentifier": "t"}} for _ in range(250)]
            results = (await client.post("/v1/runs/bulk", json={"commands": commands})).json()
            due = {
                (path, one["run"]["id"]) for one in results["results"] for path in secrets
            }  # fmt: skip
            assert len(due) == 1_000
            async with asyncio.timeout(LONG_S):
                while len(receiver.messages) < 300:
                    await asyncio.sleep(0.005)
                server.kill()  # here, where meanwhile nothing more is taken
                assert len({message.id for message in receiver.messages}) < 1_000
                await asyncio.to_thread(server.start)
                came: dict[str, tuple[str, str]] = {}
                looked = 0
                while set(came.values()) != due:
                    for message in receiver.messages[looked:]:
                        looked += 1
                        assert message.is_signed_with(secrets[message.path])
                        came[message.id] = (message.path, message.said["data"]["id"])
                    await asyncio.sleep(0.02)
            assert len(came) == 1_000  # once more under the same id, never under another


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
