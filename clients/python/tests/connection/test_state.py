"""What a client says of its connection."""

from __future__ import annotations

import asyncio

from clients.python.tests.connection.following import follow
from clients.python.tests.scripted import ScriptedServer, until
from runstream import Runstream, State


async def test_stale_and_fresh_are_seen(server: ScriptedServer, client: Runstream) -> None:
    subscription, socket = await follow(client, server)
    await socket.send({"type": "stale"})
    await until(lambda: client.is_stale)
    await socket.send({"type": "fresh"})
    await until(lambda: not client.is_stale)
    await subscription.aclose()


async def test_the_states_can_be_followed(server: ScriptedServer, client: Runstream) -> None:
    seen: list[State] = []

    async def watch() -> None:
        async for state in client.states():
            seen.append(state)  # noqa: PERF401 - it is looked at meanwhile

    watching = asyncio.create_task(watch())
    await until(lambda: seen)

    def fail(state: State) -> None:
        raise ZeroDivisionError

    client.on_state(fail)  # One that fails is no reason to fail.
    await follow(client, server)
    await client.aclose()
    await watching
    assert seen[0] is State.IDLE
    assert seen[1:4] == [State.DIALING, State.GREETING, State.OPEN]
    assert seen[-1] is State.CLOSED
