"""What a caller loops over, run by run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clients.python.tests import builders
from clients.python.tests.builders import (
    RUN,
    a_batch,
    a_change,
    a_leave,
    a_run,
    a_snapshot,
    live,
    the_end,
)
from clients.python.tests.scripted import ScriptedServer
from clients.python.tests.subscription.joining import SEND, Invoice, Request, joined, versions
from runstream import BatchProgress, Changed, Entered, Left, Live, Reset, RunStatus, Runstream


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
        runs = [run async for run in client.subscribe_to_run(RUN, task=SEND)]
    assert [run.version for run in runs] == [1, 2, 3, 4]
    last = runs[-1]
    assert last.status is RunStatus.COMPLETED
    assert last.output == Invoice(99)
    assert last.metadata == {"progress": 0.5}
    assert last.started_at is not None
    assert last.payload == Request(42)


async def test_a_context_is_entered_only_when_live(
    server: ScriptedServer, client: Runstream
) -> None:
    is_live_sent = False

    async def play() -> None:
        nonlocal is_live_sent
        socket = await server.welcomed()
        await socket.expect("subscribeToRunsWithTag", tags=["user:7"])
        await socket.send(a_snapshot(a_run()))
        is_live_sent = True
        await socket.send(live())
        await socket.expect("unsubscribe", id=1)

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        async with client.subscribe_to_runs_with_tag("user:7") as runs:
            assert is_live_sent
            assert runs.is_live
            assert (await anext(runs)).version == 1
    assert runs.end_reason == "unsubscribed"
    assert [run async for run in runs] == []


async def test_all_that_is_told_can_be_seen_in_order(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.welcomed()
        await socket.expect("subscribeToBatch", batchId="batch_1")
        await socket.send(a_snapshot(a_run("run_1"), a_run("run_2")), live())
        await socket.send({"type": "batch", "id": 1, "batch": a_batch(1)})
        await socket.send(a_leave(2, run_id="run_2"), a_leave(5, run_id="run_9"))
        await socket.send({"type": "reset", "id": 1, "reason": "retention"})
        await socket.send(a_snapshot(a_run("run_3")), live("c2"))
        await socket.send(a_change(2, run_id="run_3"))
        await socket.send({"type": "batch", "id": 1, "batch": a_batch(3, complete=True)})
        await socket.send(the_end())

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        subscription = client.subscribe_to_batch("batch_1")
        told: list[Any] = []
        async for change in subscription.changes():
            match change:
                case Entered(run=run) | Changed(run=run) | Left(run=run):
                    told.append((type(change).__name__, run.id, run.version))
                case BatchProgress(batch=batch):
                    told.append(batch.final)
                case Reset(reason=reason):
                    told.append(reason)
                case Live():
                    told.append("live")
    assert told == [
        ("Entered", "run_1", 1),
        ("Entered", "run_2", 1),
        "live",
        1,
        ("Left", "run_2", 2),
        "retention",
        ("Entered", "run_3", 1),
        ("Left", "run_1", 1),
        "live",
        ("Changed", "run_3", 2),
        3,
    ]
    assert subscription.batch is not None
    assert subscription.batch.is_complete
    assert subscription.end_reason == "completed"
    assert client.stats.resets == 1


async def test_one_task_at_a_time_waits_on_a_subscription(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription = client.subscribe_to_run(RUN)
    first = asyncio.create_task(anext(subscription))
    await server.welcomed()
    with pytest.raises(RuntimeError, match="one task at a time"):
        await anext(subscription)
    first.cancel()


async def test_cancelling_a_wait_loses_nothing(server: ScriptedServer, client: Runstream) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        subscription = client.subscribe_to_run(RUN)
        assert await versions(subscription, 1) == [1]
        socket = await playing
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(subscription)
        await socket.send(a_change(2))
        assert await versions(subscription, 1) == [2]
        await subscription.aclose()


async def test_a_job_run_and_its_steps_are_followed(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.welcomed()
        await socket.expect("subscribeToJobRun", jobRunId="run_job")
        await socket.send(a_snapshot(a_run("run_job"), a_run("run_step", position=0)), live())
        await socket.send(builders.a_change(2, "FAILED", run_id="run_step"))
        await socket.send(builders.a_change(2, "FAILED", run_id="run_job"), the_end())

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        told = [(r.id, r.version) async for r in client.subscribe_to_job_run("run_job")]
    assert told == [("run_job", 1), ("run_step", 1), ("run_step", 2), ("run_job", 2)]
