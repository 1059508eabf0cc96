"""Flights: reads that are under way, and who may share them."""

from __future__ import annotations

import asyncio

from realtime.hub.flights import Flights
from realtime.hub.tasks import Tasks
from tests.realtime.serving import until
from tests.realtime.watching import turns


async def test_whoever_asks_gets_a_read_that_begins_after_they_asked() -> None:
    """One that is under way may have seen the store before they were in the index."""
    tasks = Tasks()
    flights = Flights(tasks)
    begun: list[asyncio.Event] = []

    async def read() -> int:
        begun.append(asyncio.Event())
        mine = len(begun)
        await begun[-1].wait()
        return mine

    first = asyncio.create_task(flights.get("k", read))
    await until(lambda: begun)
    others = [asyncio.create_task(flights.get("k", read)) for _ in range(5)]
    await until(lambda: len(begun) == 2)
    for event in begun:
        event.set()
    assert await first == 1
    assert [await other for other in others] == [2] * 5
    await tasks.close()


async def test_one_who_gives_up_takes_the_read_from_nobody() -> None:
    tasks = Tasks()
    flights = Flights(tasks)
    go = asyncio.Event()

    async def read() -> str:
        await go.wait()
        return "read"

    one = asyncio.create_task(flights.get("k", read))
    two = asyncio.create_task(flights.get("k", read))
    await turns(3)
    one.cancel()
    go.set()
    assert await two == "read"
    await tasks.close()


async def test_only_so_many_reads_are_made_at_once() -> None:
    tasks = Tasks()
    flights = Flights(tasks, at_once=2)
    now = most = 0

    async def read() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await turns(3)
        now -= 1

    await asyncio.gather(*(flights.get(n, read) for n in range(20)))
    assert most == 2
    await tasks.close()
