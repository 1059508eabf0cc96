"""A lost connection comes back, and its subscriptions go on where they were."""

from __future__ import annotations

import asyncio

import pytest

from clients.python.tests.builders import (
    RUN,
    a_change,
    a_leave,
    a_run,
    a_snapshot,
    an_enter,
    live,
    the_end,
)
from clients.python.tests.connection.following import follow, next_version
from clients.python.tests.scripted import ScriptedServer, until
from runstream import Live, Runstream, State


@pytest.mark.parametrize("how", ["cut", 1001, 1006, 1012, 4408, 1011, 4429])
async def test_a_lost_connection_is_resumed_from_its_cursor_without_repeats(
    server: ScriptedServer, client: Runstream, how: int | str
) -> None:
    subscription, socket = await follow(client, server)
    await socket.send(a_change(2), {"type": "checkpoint", "cursor": "c2"}, a_change(3))
    assert [await next_version(subscription) for _ in range(2)] == [2, 3]
    if isinstance(how, int) and how != 1006:
        await socket.close(how)
    else:
        socket.cut()
    again = await server.socket()
    await again.expect("subscribeToRun", id=1, runId=RUN, cursor="c2")
    await again.welcome()
    # What was sent after the cursor comes again.
    await again.send(a_change(3), a_change(4), live("c4", resumed=True))
    assert await next_version(subscription) == 4
    assert client.stats.repeats_dropped == 1
    assert (client.stats.reconnects, client.stats.resumes) == (1, 1)
    await again.send(a_change(5, "COMPLETED"), the_end())
    assert [run.version async for run in subscription] == [5]


async def test_a_stream_that_was_not_live_yet_is_asked_for_anew(
    server: ScriptedServer, client: Runstream
) -> None:
    """It has no cursor, so other versions may come; a caller given both would see a gap.

    Taken out: `inbox.keep`; run_1 was told at version 1, then at version 5.
    """

    async def play() -> None:
        socket = await server.welcomed()
        await socket.receive()
        await socket.send(a_snapshot(a_run("run_1"), a_run("run_2"), a_run("run_3")))
        await until(lambda: len(subscription._stream.held) == 3)
        socket.cut()
        socket = await server.welcomed()
        message = await socket.receive()
        assert "cursor" not in message
        await socket.send(a_snapshot(a_run("run_1", 5), a_run("run_2")), live())

    subscription = client.subscribe_to_runs()
    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        told = []
        async for change in subscription.changes():
            run = getattr(change, "run", None)
            told.append((type(change).__name__, run and (run.id, run.version)))
            if isinstance(change, Live):
                break
    assert told == [("Entered", ("run_1", 5)), ("Entered", ("run_2", 1)), ("Live", None)]
    await subscription.aclose()


async def test_a_repeated_leave_and_a_repeated_enter_are_nothing_new(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription, socket = await follow(client, server)
    await socket.send(an_enter(a_run("run_2")), a_leave(2, run_id="run_2"), a_change(2))
    assert (await anext(subscription)).id == "run_2"
    assert await next_version(subscription) == 2
    socket.cut()
    socket = await server.welcomed()
    await socket.expect("subscribeToRun", cursor="c1")
    await socket.send(an_enter(a_run("run_2")), a_leave(2, run_id="run_2"), a_change(2))
    await socket.send(live("c2", resumed=True), a_change(3))
    assert await next_version(subscription) == 3
    await subscription.aclose()


async def test_checkpoints_hold_for_live_subscriptions_only(
    server: ScriptedServer, client: Runstream
) -> None:
    first, socket = await follow(client, server)
    second = client.subscribe_to_runs(cursor="c0")
    waiting = asyncio.create_task(anext(second))
    await socket.expect("subscribeToRuns", id=2, cursor="c0")
    await socket.send({"type": "heartbeat", "at": "x", "cursor": "c9"}, an_enter(a_run("r"), [2]))
    await waiting
    socket.cut()
    socket = await server.socket()
    cursors = {(await socket.receive())["cursor"] for _ in range(2)}
    assert cursors == {"c0", "c9"}
    await first.aclose()
    await second.aclose()


async def test_a_server_that_dies_and_comes_back_is_gone_on_with(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription, _ = await follow(client, server)
    await server.stop()
    await until(lambda: client.state is State.WAITING)
    await server.start()
    socket = await server.welcomed()
    await socket.expect("subscribeToRun", cursor="c1")
    await socket.send(live("c2", resumed=True), a_change(2))
    assert await next_version(subscription) == 2
    await subscription.aclose()
