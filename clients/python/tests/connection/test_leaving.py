"""When a connection is left, and that nothing runs on for it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from clients.python.tests.builders import RUN, a_change, live
from clients.python.tests.conftest import QUICK
from clients.python.tests.connection.following import follow, next_version
from clients.python.tests.scripted import PATIENCE_S, Answer, ScriptedServer, until
from runstream import ClientClosed, Runstream, State


async def test_told_to_come_back_it_waits_that_long_and_no_longer(
    server: ScriptedServer, client: Runstream
) -> None:
    """It delivers until then, and the first try is not put off any further."""
    subscription, socket = await follow(client, server)
    told = time.monotonic()
    await socket.send({"type": "reconnect", "afterMs": 300, "reason": "draining"}, a_change(2))
    assert await next_version(subscription) == 2
    assert client.state is State.DRAINING
    await socket.send(a_change(3))
    assert await next_version(subscription) == 3
    await socket.close(1012)
    await server.socket()
    assert time.monotonic() - told >= 0.3
    await subscription.aclose()


async def test_a_server_that_does_not_close_is_left_when_it_said_so(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription, socket = await follow(client, server)
    await socket.send({"type": "reconnect", "afterMs": 50, "reason": "draining"})
    again = await server.socket()
    await again.expect("subscribeToRun", cursor="c1")
    await subscription.aclose()


async def test_a_silent_connection_is_asked_and_then_left(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription, socket = await follow(client, server, heartbeat_s=0.1)
    await socket.expect("ping")
    await socket.send({"type": "pong"})
    await socket.expect("ping")
    again = await server.socket()
    await again.expect("subscribeToRun", cursor="c1")
    await subscription.aclose()


async def test_nothing_is_left_running_when_the_client_is_closed(server: ScriptedServer) -> None:
    before = asyncio.all_tasks()
    async with Runstream(server.url, timing=QUICK) as client:
        await follow(client, server)
        server_side = asyncio.all_tasks() - before
    left = {task.get_name() for task in asyncio.all_tasks() - before if not task.done()}
    assert not any("runstream" in name for name in left)
    assert server_side


async def test_an_idle_connection_is_closed_and_nothing_runs_for_it(
    server: ScriptedServer,
) -> None:
    timing = type(QUICK)(**{**QUICK.__dict__, "linger_s": 0.05})
    async with Runstream(server.url, timing=timing) as client:
        subscription, socket = await follow(client, server)
        await subscription.aclose()
        async with asyncio.timeout(PATIENCE_S):
            await socket.closed.wait()
        assert socket.close_code == 1000
        await until(lambda: not any("runstream" in t.get_name() for t in asyncio.all_tasks()))
        # And it opens again for the next.
        subscription, _ = await follow(client, server)
        await subscription.aclose()


async def test_closing_waits_neither_for_a_token_nor_for_a_run_that_is_read(
    server: ScriptedServer,
) -> None:
    """Each may take as long as a provider or a server likes."""
    asked = asyncio.Event()

    async def provide() -> str:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def respond(_: Any) -> Answer:
        asked.set()
        await answers.wait()
        return Answer(cut=True)

    answers = asyncio.Event()
    client = Runstream(server.url, token=provide, timing=QUICK)
    waiting = asyncio.create_task(client.wait_for_run(RUN))
    await asked.wait()
    async with asyncio.timeout(PATIENCE_S):
        await client.aclose()
    with pytest.raises(ClientClosed):
        await waiting

    asked.clear()
    server.on("GET", f"/v1/runs/{RUN}", respond)
    client = Runstream(server.url, api_key="key-1", timing=QUICK)
    waiting = asyncio.create_task(client.wait_for_run(RUN))
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(live(), a_change(2))
    await asked.wait()
    async with asyncio.timeout(PATIENCE_S):
        await client.aclose()
    with pytest.raises(ClientClosed):
        await waiting
    answers.set()
