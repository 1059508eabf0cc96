"""Waiting for one run to be final."""

from __future__ import annotations

import asyncio

import pytest

from clients.python.tests.builders import RUN, a_change, a_run, the_end
from clients.python.tests.scripted import ScriptedServer
from clients.python.tests.subscription.joining import SEND, Invoice, joined
from runstream import Runstream


async def test_waiting_for_a_run_gives_it_when_it_is_final(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        waiting = group.create_task(client.wait_for_run(RUN, 60, task=SEND))
        socket = await playing
        await socket.send(a_change(2), a_change(3, "COMPLETED", output={"total": 1}), the_end())
    assert waiting.result().output == Invoice(1)


async def test_waiting_for_a_run_has_an_end(server: ScriptedServer, client: Runstream) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        with pytest.raises(TimeoutError):
            await client.wait_for_run(RUN, timeout=0.1)
        playing.cancel()
