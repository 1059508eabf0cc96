"""Whoever cancels is heard, whatever is waited for just then, and nothing is left running.

A Ctrl-C is such a cancel: `asyncio.run` makes it one of the main task, once. Swallowed, the program
goes on as if nobody had asked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from clients.python.tests import cancelling
from clients.python.tests.builders import a_change, a_run, a_snapshot, an_enter, live, the_end
from clients.python.tests.cancelling import When, cancelled_at_each_wait
from clients.python.tests.conftest import QUICK
from clients.python.tests.scripted import Answer, Asked, ScriptedServer, Socket
from clients.python.tests.test_screen import taken_over
from clients.python.tests.worker.functions import SEND, Order, send
from clients.python.tests.worker.shop import Shop, executing
from runstream import Runstream, Worker, current_run, executes
from runstream.cli.server import Server
from runstream.cli.views import RunView
from runstream.cli.window import Window
from runstream.merging import whole
from runstream.worker.execution import Ended, Execution

Work = Coroutine[Any, Any, None]

pytestmark = pytest.mark.parametrize("when", When)


def to(asked: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """The message, for this subscription."""
    ids = {"ids": [asked["id"]]} if "ids" in message else {"id": asked["id"]}
    return {**message, **ids}


@asynccontextmanager
async def played(server: ScriptedServer, work: Work, *said: dict[str, Any]) -> AsyncIterator[Work]:
    """The work, while each subscription on the next connections is told this."""

    async def answer(socket: Socket) -> None:
        with suppress(OSError):  # It was cancelled, and has gone.
            await socket.welcome()
            while True:
                asked = await socket.receive()
                if asked["type"].startswith("subscribe"):
                    await socket.send(*(to(asked, one) for one in said))

    async def play() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(answer(await server.socket()))

    playing = asyncio.create_task(play())
    try:
        yield work
    finally:
        playing.cancel()
        await asyncio.wait({playing})
        work.close()


def a_client(server: ScriptedServer, **options: Any) -> Runstream:
    return Runstream(server.url, timing=QUICK, **{"api_key": "key-1", **options})


async def test_a_loop_over_a_subscription(server: ScriptedServer, when: When) -> None:
    async def token() -> str:
        await asyncio.sleep(0)
        return "t"

    async def work() -> None:
        async with a_client(server, api_key=None, token=token) as client:
            async with client.subscribe_to_run("run_1") as runs:
                async for _ in runs:
                    await asyncio.sleep(0)
            async for _ in client.subscribe_to_run("run_1"):
                pass

    def scenario() -> Any:
        return played(server, work(), a_snapshot(a_run()), live(), a_change(2), the_end())

    assert await cancelled_at_each_wait(scenario, when) > 3


async def test_a_wait_for_a_run(server: ScriptedServer, when: When) -> None:
    async def work() -> None:
        async with a_client(server) as client:
            run = await client.wait_for_run("run_1", timeout=60)
            assert run.is_success

    def scenario() -> Any:
        return played(server, work(), a_snapshot(a_run(status="COMPLETED")), live(), the_end())

    assert await cancelled_at_each_wait(scenario, when) > 1


async def test_a_call_that_is_tried_again(server: ScriptedServer, when: When) -> None:
    async def work() -> None:
        async with a_client(server) as client:
            await client.runs.get("run_1")

    def scenario() -> Any:
        again = Answer(503, {"code": "unavailable"}, {"Retry-After": "0"})
        server.on_each("GET", "/v1/runs/run_1", again, Answer(200, a_run()))
        return played(server, work())

    assert await cancelled_at_each_wait(scenario, when) > 3


async def test_a_job_that_is_reported(server: ScriptedServer, when: When) -> None:
    run = a_run(status="EXECUTING")
    server.on("POST", "/v1/runs", Answer(201, run))
    server.on("POST", "/v1/runs/run_1/metadata", Answer(200, run))
    server.on("PATCH", "/v1/runs/run_1", Answer(200, a_run(version=2, status="COMPLETED")))

    async def work() -> None:
        async with a_client(server) as client:
            async with client.report(SEND) as reported:
                reported.metadata.set("progress", 1)
                await asyncio.sleep(0)

    assert await cancelled_at_each_wait(lambda: played(server, work()), when) > 3


@pytest.mark.parametrize("how", ["in a block", "until it is stopped"])
async def test_a_worker(server: ScriptedServer, when: When, how: str) -> None:
    shop = Shop(server)

    async def work() -> None:
        async with a_client(server) as client:
            worker = Worker(client, [send], drain_s=5)
            if how == "in a block":
                async with worker:
                    await server.has_been_asked(asked_before + 1, "PATCH", "/v1/runs/run_1")
            else:
                shop.server.on("PATCH", "/v1/runs/run_1", lambda asked: stopping(worker, asked))
                await worker.run(handle_signals=False)

    def stopping(worker: Worker, asked: Asked) -> Answer:
        worker.stop()
        return shop.update("run_1", asked)

    asked_before = 0

    def scenario() -> Any:
        nonlocal asked_before
        shop.queue.clear()
        asked_before = sum(
            asked.method == "PATCH" and asked.path == "/v1/runs/run_1" for asked in server.asked
        )
        return played(server, work(), a_snapshot(), live(), an_enter(shop.put()))

    assert await cancelled_at_each_wait(scenario, when) > 2


async def test_an_execution(server: ScriptedServer, when: When) -> None:
    shop = Shop(server)

    @executes(SEND)
    async def slow(order: Order) -> dict[str, int]:
        current_run().metadata.set("order", order.order_id)
        await asyncio.sleep(0)
        return {"sent": order.order_id}

    async def work() -> None:
        async with a_client(server) as client:
            run = whole(executing(shop.put()))
            now = asyncio.get_running_loop().time()
            # As if the claim had taken long: so the lease is asked about first.
            execution = Execution(client.http, client, slow, run, lease_s=30, since=now - 15)
            assert await execution.execute() is Ended.REPORTED

    assert await cancelled_at_each_wait(lambda: played(server, work()), when) > 3


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
async def test_a_window_on_a_terminal(server: ScriptedServer, when: When) -> None:
    async def work() -> None:
        with taken_over() as (screen, _, _):
            async with a_client(server) as client:
                subscription = client.subscribe_to_run("run_1")
                view = RunView("run_1")
                await Window(client, Server(server.url), subscription, view, screen).show()

    def scenario() -> Any:
        return played(server, work(), a_snapshot(a_run()), live(), a_change(2), the_end())

    assert await cancelled_at_each_wait(scenario, when) > 1


async def test_a_cancel_that_is_swallowed_is_found(when: When) -> None:
    """What these tests are worth."""

    async def swallows() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass

    @asynccontextmanager
    async def scenario() -> AsyncIterator[Work]:
        yield swallows()

    with pytest.raises(AssertionError, match="cancelled at wait 0, it ended"):
        await cancelled_at_each_wait(scenario, when)


async def test_a_task_that_is_left_is_found(when: When, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "PATIENCE_S", 0.01)
    left: list[asyncio.Task[None]] = []
    monkeypatch.setattr(cancelling, "_is_ours", lambda task: task not in left)

    async def leaves() -> None:
        left.append(asyncio.create_task(asyncio.sleep(60)))
        await asyncio.sleep(0)

    @asynccontextmanager
    async def scenario() -> AsyncIterator[Work]:
        yield leaves()

    with pytest.raises(AssertionError, match="left"):
        await cancelled_at_each_wait(scenario, when)
    for task in left:
        task.cancel()
