"""A run that is no longer the worker's is stopped, and nothing of it is reported."""

from __future__ import annotations

import asyncio
import threading

import pytest

from clients.python.tests.builders import a_run, a_snapshot, live, some_fields
from clients.python.tests.scripted import Answer, Asked, ScriptedServer, problem, until
from clients.python.tests.worker.functions import SEND, Order, Stuck
from clients.python.tests.worker.shop import (
    CLAIM,
    Shop,
    executing,
    has_none_to_tell,
    told_of,
    working,
)
from runstream import Runstream, Work, Worker, current_run, executes


async def test_a_lost_lease_stops_the_function_and_nothing_of_it_is_reported(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], lease_s=1)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: stuck.begun)
        shop.has_lost.add("run_1")
        await until(lambda: stuck.cancelled)
        assert set(map(str, shop.beats)) == {str(("run_1", {"attempt": 1}))}
        await has_none_to_tell(shop, worker)


async def test_a_lease_that_cannot_be_kept_counts_as_lost(
    server: ScriptedServer, client: Runstream, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is away for as long as the lease is: it may have given the run to another."""
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], lease_s=1)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: stuck.begun)
        server.on("POST", "/v1/runs/run_1/heartbeat", problem(503, "unavailable"))
        await until(lambda: stuck.cancelled)
        await has_none_to_tell(shop, worker)
    assert "no heartbeat for run run_1 was taken in time" in caplog.text


async def test_a_run_whose_claim_took_long_is_asked_about_first(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    """By now its lease may be over, and the run another's."""
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], lease_s=1)

    async def slow(asked: Asked) -> Answer:
        if shop.queue:
            await asyncio.sleep(0.4)
        return shop.claim(asked)

    server.on("POST", CLAIM, slow)
    shop.has_lost.add("run_1")
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: worker.ended)
        await has_none_to_tell(shop, worker)
    assert not stuck.begun


async def test_a_run_that_is_canceled_is_stopped_and_its_slot_is_free(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], concurrency=1, drain_s=0.01)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        subscribed = await socket.expect("subscribeToRun", runId="run_1")
        await socket.send(
            a_snapshot(executing(a_run()), id=subscribed["id"]), live(id=subscribed["id"])
        )
        change = {"type": "change", "ids": [subscribed["id"]], "kind": "change"}
        await socket.send({**change, "run": some_fields("run_1", 3, "CANCELED")})
        await until(lambda: stuck.cancelled)
        await has_none_to_tell(shop, worker)
        await told_of(socket, shop.put("run_2"))
        await until(lambda: stuck.begun == 2)


async def test_a_thread_is_told_to_stop_and_keeps_its_slot_until_it_has(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    ended = threading.Event()

    @executes(SEND)
    def long(order: Order) -> dict[str, int]:
        while not current_run().should_stop:
            threading.Event().wait(0.002)
        ended.set()
        return {}

    worker = Worker(client, [long], lease_s=1)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: worker.running)
        shop.has_lost.add("run_1")
        await has_none_to_tell(shop, worker)
        assert ended.is_set()
