"""A run that is followed over a scripted server's socket."""

from __future__ import annotations

import asyncio
from typing import Any

from clients.python.tests.builders import RUN, a_run, a_snapshot, live
from clients.python.tests.scripted import PATIENCE_S, ScriptedServer, Socket
from runstream import Runstream, Subscription


async def join(server: ScriptedServer, *runs: dict[str, Any], heartbeat_s: float = 15) -> Socket:
    socket = await server.welcomed(heartbeat_s)
    await socket.receive()
    await socket.send(a_snapshot(*runs), live())
    return socket


async def follow(
    client: Runstream, server: ScriptedServer, heartbeat_s: float = 15
) -> tuple[Subscription[Any], Socket]:
    """A subscription to a run that is live, and the server's end of it."""
    async with asyncio.TaskGroup() as group:
        joining = group.create_task(join(server, a_run(), heartbeat_s=heartbeat_s))
        subscription = client.subscribe_to_run(RUN)
        await subscription.__aenter__()
    assert (await anext(subscription)).version == 1
    return subscription, joining.result()


async def next_version(subscription: Subscription[Any]) -> int:
    async with asyncio.timeout(PATIENCE_S):
        run = await anext(subscription)
    return int(run.version)
