"""What a caller of the subscribe methods gets, whatever happens to the connection."""

from __future__ import annotations

import asyncio

from clients.python.tests.builders import RUN, a_change, a_run, a_snapshot, live, the_end
from clients.python.tests.scripted import ScriptedServer
from runstream import RunStatus, Runstream


async def test_a_run_is_told_version_by_version_until_it_is_final(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.socket()
        assert socket.token == "key-1"
        await socket.expect("subscribeToRun", id=1, runId=RUN)
        await socket.welcome()
        await socket.send(a_snapshot(a_run()), live())
        await socket.send(a_change(2, startedAt="2026-03-01T12:00:01.500000Z"))
        await socket.send(
            a_change(3, metadata={"progress": 0.5}), a_change(4, "COMPLETED", output={"total": 99})
        )
        await socket.send(the_end())

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        runs = [run async for run in client.subscribe_to_run(RUN)]
    assert [run.version for run in runs] == [1, 2, 3, 4]
    last = runs[-1]
    assert last.status is RunStatus.COMPLETED
    assert last.output == {"total": 99}
    assert last.metadata == {"progress": 0.5}
    assert last.started_at is not None
    assert last.started_at.tzinfo is not None
    assert last.payload == {"order_id": 42}
