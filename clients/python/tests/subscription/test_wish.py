"""What a caller asks for: its options reach the server, and its tasks give the types."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from clients.python.tests.builders import RUN, a_run
from clients.python.tests.scripted import ScriptedServer
from clients.python.tests.subscription.joining import REFUND, SEND, Request, joined
from runstream import DecodeError, RunStatus, Runstream


async def test_runs_of_several_tasks_have_each_its_types(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(
            joined(
                server,
                a_run("run_1"),
                a_run("run_2", taskIdentifier="refund", payload=7, output="done"),
            )
        )
        subscription = client.subscribe_to_runs_with_tag(
            ["a", "b"], match="any", tasks=(SEND, REFUND)
        )
        first, second = await anext(subscription), await anext(subscription)
        await playing
    assert first.payload == Request(42)
    assert (second.payload, second.output) == (7, "done")
    await subscription.aclose()


async def test_a_payload_that_does_not_fit_is_raised_where_it_comes(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run(), a_run("run_2", payload={"x": 1})))
        subscription = client.subscribe_to_runs(tasks=SEND)
        assert (await anext(subscription)).payload == Request(42)
        with pytest.raises(DecodeError, match="payload of run run_2"):
            await anext(subscription)
        await (await playing).expect("unsubscribe", id=1)


async def test_a_run_of_another_task_than_was_said_is_raised(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(joined(server, a_run()))
        with pytest.raises(DecodeError, match="a run of send-invoice, not of refund"):
            await anext(client.subscribe_to_run(RUN, task=REFUND))


async def test_every_option_reaches_the_server(server: ScriptedServer, client: Runstream) -> None:
    subscription = client.subscribe_to_runs_with_tag(
        ["a", "b"],
        match="any",
        tasks=[SEND, "other"],
        statuses=[RunStatus.QUEUED],
        created_after=datetime(2026, 3, 1, tzinfo=UTC),
        is_test=False,
        limit=7,
        cursor="c0",
        delivery="latest",
        skip=["payload", "batch_id"],
        stop_on_completion=False,
        snapshot=False,
    )
    waiting = asyncio.create_task(anext(subscription))
    socket = await server.welcomed()
    message = await socket.receive()
    assert message == {
        "type": "subscribeToRunsWithTag",
        "id": 1,
        "tags": ["a", "b"],
        "match": "any",
        "tasks": ["send-invoice", "other"],
        "statuses": ["QUEUED"],
        "createdAfter": "2026-03-01T00:00:00.000000Z",
        "isTest": False,
        "limit": 7,
        "cursor": "c0",
        "delivery": "latest",
        "skip": ["payload", "batchId"],
        "stopOnCompletion": False,
        "snapshot": False,
    }
    waiting.cancel()
    with pytest.raises(TypeError, match="unknown option: tga"):
        client.subscribe_to_runs(tga="x")  # type: ignore[call-overload]
