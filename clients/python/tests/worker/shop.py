"""A scripted server's part in a worker's work: runs to claim, and what becomes of them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from clients.python.tests.builders import a_run, a_snapshot, an_enter, live
from clients.python.tests.scripted import Answer, Asked, ScriptedServer, Socket, problem, until
from runstream import Worker

CLAIM = "/v1/runs/claim"


class Shop:
    """The server's part: a queue of runs, and what becomes of those that were claimed."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.queue: list[dict[str, Any]] = []
        self.claims: list[Asked] = []
        self.told: dict[str, dict[str, Any]] = {}
        self.beats: list[tuple[str, Any]] = []
        self.given_back: list[str] = []
        self.has_lost: set[str] = set()
        server.on("POST", CLAIM, self.claim)
        server.on("POST", "/v1/runs/bulk", self.bulk)

    def put(self, run_id: str = "run_1", **fields: Any) -> dict[str, Any]:
        """Queues a run; the worker still has to be told."""
        run = a_run(run_id, **fields)
        self.queue.append(run)
        self.server.on("PATCH", f"/v1/runs/{run_id}", functools.partial(self.update, run_id))
        self.server.on("POST", f"/v1/runs/{run_id}/metadata", Answer(200, executing(run)))
        self.server.on("POST", f"/v1/runs/{run_id}/heartbeat", functools.partial(self.beat, run_id))
        return run

    def claim(self, asked: Asked) -> Answer:
        self.claims.append(asked)
        if not self.queue:
            return Answer(200, {"run": None})
        return Answer(200, {"run": executing(self.queue.pop(0))})

    def update(self, run_id: str, asked: Asked) -> Answer:
        if run_id in self.has_lost:
            return problem(409, "conflict", run=a_run(run_id, status="QUEUED", attempt=1))
        self.told[run_id] = asked.body
        return Answer(200, a_run(run_id, version=3, status=asked.body["status"], attempt=1))

    def beat(self, run_id: str, asked: Asked) -> Answer:
        self.beats.append((run_id, asked.body))
        return problem(409, "conflict") if run_id in self.has_lost else Answer(200, {})

    def bulk(self, asked: Asked) -> Answer:
        results = []
        for command in asked.body["commands"]:
            update = command["update"]
            assert update["ifAttempt"] == 1
            results.append({"run": a_run(update["runId"], status=update["status"], attempt=1)})
            if update["status"] == "QUEUED":
                self.given_back.append(update["runId"])
        return Answer(200, {"results": results})


def executing(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "version": 2, "status": "EXECUTING", "attempt": run["attempt"] + 1}


@asynccontextmanager
async def working(worker: Worker, server: ScriptedServer) -> AsyncIterator[Socket]:
    """The worker in the background, woken by what the server says on its subscription."""
    entering = asyncio.create_task(worker.__aenter__())
    socket = await server.welcomed()
    subscribed = await socket.expect(
        "subscribeToRuns", tasks=["send-invoice"], statuses=["QUEUED"], delivery="latest"
    )
    assert "payload" in subscribed["skip"]
    await socket.send(a_snapshot(), live())
    await entering
    try:
        yield socket
    finally:
        await worker.__aexit__(None, None, None)


async def told_of(socket: Socket, run: dict[str, Any]) -> None:
    await socket.send(an_enter(run))


async def has_none_to_tell(shop: Shop, worker: Worker) -> None:
    await until(lambda: not worker.running)
    assert not shop.told
    assert not shop.given_back
    assert worker.ended == {"stopped": 1}
