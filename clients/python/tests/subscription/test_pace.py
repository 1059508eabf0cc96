"""A caller takes at its own pace: what its cursor covers, and what waits for it."""

from __future__ import annotations

import asyncio

from clients.python.tests.builders import RUN, a_change, a_run, a_snapshot, an_enter, live, the_end
from clients.python.tests.scripted import ScriptedServer, until
from clients.python.tests.subscription.joining import joined, versions
from runstream import Runstream


async def test_the_cursor_covers_what_was_taken_and_no_more(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        subscription = client.subscribe_to_runs()
        assert subscription.cursor is None
        await anext(subscription)
        socket = await playing
        assert subscription.cursor is None
        await socket.send(a_change(2), {"type": "checkpoint", "cursor": "c2"}, a_change(3))
        assert await versions(subscription, 1) == [2]
        assert subscription.cursor == "c1"
        assert await versions(subscription, 1) == [3]
        assert subscription.cursor == "c2"
        await subscription.aclose()


async def test_a_slow_caller_is_paused_and_goes_on_from_the_log(
    server: ScriptedServer, client: Runstream
) -> None:
    """What waits for it is bounded, it loses nothing, and another subscription notices nothing."""
    slow = client.subscribe_to_run(RUN, buffer=8)
    quick = client.subscribe_to_runs()
    async with asyncio.TaskGroup() as group:
        entering = group.create_task(slow.__aenter__())
        socket = await server.welcomed()
        await socket.expect("subscribeToRun", id=1)
        await socket.send(a_snapshot(a_run()), live())
        await entering
        entering = group.create_task(quick.__aenter__())
        await socket.expect("subscribeToRuns", id=2)
        await socket.send(a_snapshot(id=2), live(id=2))
        await entering

    for version in range(2, 20):
        await socket.send(a_change(version))
    await socket.expect("unsubscribe", id=1)
    await socket.send(the_end("unsubscribed"))
    await socket.send(an_enter(a_run("run_2"), ids=[2]))
    assert (await anext(quick)).id == "run_2"
    assert socket.has_heard_all

    taken = await versions(slow, 8)
    assert taken == list(range(1, 9))
    message = await socket.expect("subscribeToRun", id=1, cursor="c1")
    assert message["runId"] == RUN
    # The log from there on, which begins with what has been told already.
    await socket.send(*(a_change(version) for version in range(2, 20)))
    taken += await versions(slow, 2)
    await socket.expect("unsubscribe", id=1)
    await socket.send(the_end("unsubscribed"))
    while taken[-1] < 19:
        taken += await versions(slow, 1)
        if not socket.has_heard_all:
            message = await socket.receive()
            if message["type"] == "subscribeToRun":
                await socket.send(*(a_change(version) for version in range(2, 20)))
                await socket.send(live(id=message["id"], resumed=True))
            else:
                await socket.send(the_end("unsubscribed", id=message["id"]))
        await asyncio.sleep(0)
    assert taken == list(range(1, 20))
    assert client.stats.pauses >= 2
    await slow.aclose()
    await quick.aclose()


async def test_latest_gives_a_slow_caller_the_newest_state(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        subscription = client.subscribe_to_run(RUN, delivery="latest")
        async with subscription:
            socket = await playing
            await socket.send(*(a_change(version) for version in range(2, 50)))
            await socket.send(a_change(50, metadata={"n": 50}), the_end())
            await until(lambda: subscription.end_reason)
            told = [run.version async for run in subscription]
    assert told == [1, 50]
