"""What will never work is said at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from clients.python.tests.builders import a_snapshot, live
from clients.python.tests.scripted import ScriptedServer, problem
from clients.python.tests.worker.functions import raising, send
from clients.python.tests.worker.shop import CLAIM
from runstream import Forbidden, Runstream, Unauthorized, Work, Worker


async def ended(awaited: Awaitable[None]) -> None:
    async with asyncio.timeout(20):
        await awaited


async def test_a_wrong_key_is_said_at_once(client: Runstream, server: ScriptedServer) -> None:
    """And not hidden behind tries that will never work."""
    running = asyncio.create_task(Worker(client, [send]).run())
    socket = await server.socket()
    await socket.close(4401, "wrong")
    with pytest.raises(Unauthorized):
        await ended(running)


async def test_a_key_that_may_not_claim_is_said_at_once(
    client: Runstream, server: ScriptedServer
) -> None:
    server.on("POST", CLAIM, problem(403, "forbidden", "a read-only key"))
    running = asyncio.create_task(Worker(client, [send]).run())
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(a_snapshot(), live())
    with pytest.raises(Forbidden, match="read-only"):
        await ended(running)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda client: Worker(client, []), "1 to 100 tasks"),
        (lambda client: Worker(client, [send, send]), "two functions execute send-invoice"),
        (lambda client: Worker(client, [send], concurrency=0), "one run at a time"),
        (lambda client: Worker(client, [send], lease_s=0), "whole seconds"),
        (lambda client: Worker(client, [raising]), "has no task"),  # type: ignore[list-item]
        (lambda client: Work("send", raising), "a Task is meant"),  # type: ignore[call-overload]
    ],
)
async def test_what_makes_no_sense_is_refused(
    client: Runstream, make: Callable[[Runstream], object], match: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        make(client)
