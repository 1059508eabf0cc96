"""What is read over HTTP because a change came of a run that is not held."""

from __future__ import annotations

import asyncio
from typing import Any

from clients.python.tests.builders import RUN, a_change, a_run, an_enter, live, the_end
from clients.python.tests.scripted import Answer, ScriptedServer
from runstream import Runstream


async def test_a_change_of_a_run_that_is_not_held_is_read_once(
    server: ScriptedServer, client: Runstream
) -> None:
    """After `snapshot: false`, say; and what comes meanwhile is not lost."""
    asked = asyncio.Event()

    async def respond(_: Any) -> Answer:
        asked.set()
        await go_on.wait()
        return Answer(200, a_run(version=5, status="EXECUTING"))

    go_on = asyncio.Event()
    server.on("GET", f"/v1/runs/{RUN}", respond)

    async def play() -> None:
        socket = await server.welcomed()
        await socket.receive()
        await socket.send(live())
        await socket.send(a_change(4), a_change(5), a_change(6, metadata={"n": 6}))
        await asked.wait()
        await socket.send(a_change(7, "COMPLETED"), the_end())
        go_on.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        runs = [run async for run in client.subscribe_to_run(RUN, snapshot=False)]
    assert [run.version for run in runs] == [5, 6, 7]
    assert runs[0].payload == {"order_id": 42}
    assert runs[-1].metadata == {"n": 6}
    assert len(server.asked) == 1


async def test_a_run_that_is_gone_when_it_is_read_is_forgotten(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.welcomed()
        await socket.receive()
        await socket.send(live(), a_change(4, run_id="run_gone"))
        await server.has_been_asked(1, "GET", "/v1/runs/run_gone")
        await socket.send(an_enter(a_run("run_2")))

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        subscription = client.subscribe_to_runs(snapshot=False)
        assert (await anext(subscription)).id == "run_2"
        await subscription.aclose()
