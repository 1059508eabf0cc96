"""What was secret stays so: out of logs, errors and metrics, and out of other projects."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from realtime.auth import new_key
from tests.processes import API_KEY, Server
from tests.security.serving import Serving


async def test_no_log_line_error_or_metric_holds_a_token(
    sqlite_url: str, start_server: Callable[..., Server]
) -> None:
    """A real server that logs all it can, and everything that it said."""
    server = await asyncio.to_thread(
        start_server, sqlite_url, args=("--log-level", "debug", "--access-log")
    )
    said: list[str] = []
    wrong, forged = new_key(), f"{secrets.token_hex(20)}.{secrets.token_hex(20)}.x"
    async with httpx2.AsyncClient(base_url=server.url, timeout=30) as client:
        key = {"Authorization": f"Bearer {API_KEY}"}
        made = await client.post("/v1/tokens", json={"scopes": ["read:runs"]}, headers=key)
        run = await client.post("/v1/runs", json={"taskIdentifier": "t"}, headers=key)
        tokens = [made.json()["token"], run.headers["runstream-token"], API_KEY, wrong, forged]
        for token in tokens:
            headers = {"Authorization": f"Bearer {token}"}
            for method, path in (
                ("GET", "/v1/runs"),
                ("GET", f"/v1/runs/{token[:200]}"),
                ("POST", "/v1/tokens"),
                ("DELETE", "/v1/runs/x"),
            ):
                if token[:200] in path:
                    continue  # what a caller writes into a path is no longer a secret
                said.append((await client.request(method, path, headers=headers)).text)
            headers = {"Authorization": token}
            said.append((await client.get("/v1/runs", headers=headers)).text)
            said.append((await client.get("/v1/realtime/batches/x", headers=headers)).text)
            url = server.url.replace("http", "ws") + "/v1/realtime"
            for in_header in (True, False):
                shown = {"Authorization": f"Bearer {token}"} if in_header else {}
                async with connect(url, additional_headers=shown, proxy=None) as socket:
                    try:
                        if not in_header:
                            await socket.send(json.dumps({"type": "authenticate", "token": token}))
                        await socket.send(json.dumps({"type": "authenticate", "x": token}))
                        await socket.send("nonsense " + token)
                        while True:
                            said.append(str(await socket.recv()))
                    except ConnectionClosed as closed:
                        said.append(str(closed))
        said.append((await client.get("/metrics")).text)
    await asyncio.to_thread(server.stop)
    log = server.log(most=10_000_000)
    assert "GET /v1/runs" in log, "it was to log all it can"
    for token in tokens:
        for text in (log, *said):
            assert token not in text
            # Not by half, either: a token without its signature tells what it is for.
            assert token[8:40] not in text


async def test_two_projects_that_share_every_name_share_nothing(served: Serving) -> None:
    """Tags, tasks, batches made alike, metadata alike: what one is shown is its own."""
    name = secrets.token_hex(6)
    projects = [f"one-{name}", f"two-{name}"]
    keys = [await served.a_key(project) for project in projects]
    marks = [secrets.token_hex(12) for _ in projects]
    seen: list[str] = ["", ""]
    ready = [asyncio.Event() for _ in projects]
    over = [asyncio.Event() for _ in projects]

    async def watch(place: int) -> None:
        async with served.reader(keys[place]) as reader:
            await reader.until("welcome")
            await reader.say(
                {"type": "subscribeToRunsWithTag", "id": 1, "tag": name},
                {"type": "subscribeToRuns", "id": 2, "tasks": [name]},
                {"type": "subscribeToRuns", "id": 3},
            )
            waiting = {1, 2, 3}
            while waiting:
                waiting.discard((await reader.until("live"))["id"])
            ready[place].set()
            while not over[place].is_set():
                message = await reader.next()
                seen[place] += str(message)
                run: dict[str, Any] = message.get("run", {})
                if (run.get("metadata") or {}).get("last"):
                    over[place].set()

    async def work(place: int) -> None:
        await asyncio.gather(*(each.wait() for each in ready))
        async with served.caller(keys[place]) as caller:
            body = {
                "taskIdentifier": name,
                "tags": [name],
                "payload": {"mark": marks[place]},
                "idempotencyKey": name,
            }
            batch = await caller.made("/v1/batches", {"items": [body]})
            id = batch["runs"][0]["id"]
            for n in range(20):
                change = {"metadata": {"n": n, "mark": marks[place]}}
                assert (await caller.call("PATCH", f"/v1/runs/{id}", json=change)).is_success
            last = {"metadata": {"last": True}, "addTags": ["done"]}
            assert (await caller.call("PATCH", f"/v1/runs/{id}", json=last)).is_success
            # An answer that was kept for one is not given to the other.
            again = {"Idempotency-Key": name}
            kept = await caller.made("/v1/runs", {"taskIdentifier": name}, headers=again)
            assert kept["id"] != id
            for path in ("runs", "job-runs", "workflows", "jobs", "webhooks"):
                seen[place] += (await caller.get(f"/v1/{path}?limit=1000")).text

    async with asyncio.timeout(30):
        await asyncio.gather(*(step(place) for place in (0, 1) for step in (watch, work)))
    for place in (0, 1):
        assert marks[place] in seen[place]
        assert marks[1 - place] not in seen[place]
