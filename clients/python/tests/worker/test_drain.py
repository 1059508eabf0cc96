"""What becomes of the runs of a worker that is stopped."""

from __future__ import annotations

import asyncio
import threading

import pytest

from clients.python.tests.builders import a_snapshot, live
from clients.python.tests.scripted import ScriptedServer, until
from clients.python.tests.worker.functions import SEND, Order, Stuck
from clients.python.tests.worker.shop import Shop, told_of, working
from runstream import Runstream, Work, Worker, executes


async def test_what_runs_when_it_is_stopped_may_finish_and_nothing_more_is_claimed(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    go = asyncio.Event()

    @executes(SEND)
    async def waiting(order: Order) -> dict[str, int]:
        await go.wait()
        return {"sent": 1}

    worker = Worker(client, [waiting])
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: worker.running)
        worker.stop()
        await told_of(socket, shop.put("run_2"))
        assert not shop.told
        go.set()
        await until(lambda: shop.told)
    assert shop.told["run_1"]["status"] == "COMPLETED"
    # A claim may have been on its way when it was stopped.
    assert shop.queue or shop.given_back == ["run_2"]
    assert "run_2" not in shop.told


@pytest.mark.parametrize("second", [True, False])
async def test_what_has_not_finished_in_time_is_stopped_and_queued_again(
    server: ScriptedServer, client: Runstream, shop: Shop, second: bool
) -> None:
    """When the time for it is over, or when it is told a second time."""
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], drain_s=60 if second else 0.01)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: stuck.begun)
        worker.stop()
        if second:
            worker.stop()
    assert stuck.cancelled == 1
    assert shop.given_back == ["run_1"]
    assert not shop.told
    assert worker.ended == {"released": 1}


async def test_a_thread_that_does_not_stop_does_not_keep_the_worker(
    server: ScriptedServer,
    client: Runstream,
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("runstream.worker.execution.STOP_S", 0.05)
    go = threading.Event()
    worker = Worker(client, [Work(SEND, lambda order: {"done": go.wait(20)})], drain_s=0.01)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: worker.running)
    assert shop.given_back == ["run_1"]
    assert "does not stop: it is left" in caplog.text
    go.set()


async def test_cancelled_it_queues_again_what_runs(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    stuck = Stuck()
    task = asyncio.create_task(Worker(client, [Work(SEND, stuck)]).run(handle_signals=False))
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(a_snapshot(), live())
    await told_of(socket, shop.put())
    await until(lambda: stuck.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stuck.cancelled == 1
    assert shop.given_back == ["run_1"]
