"""A function is executed, and its run told what came of it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clients.python.tests.scripted import ScriptedServer, until
from clients.python.tests.worker.functions import (
    SEND,
    Order,
    cancelling,
    leaving,
    raising,
    send,
    unwritable,
)
from clients.python.tests.worker.shop import Shop, told_of, working
from runstream import Runstream, Work, Worker, current_run, executes


async def test_a_run_is_executed_with_its_typed_payload_and_reported(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    async with working(Worker(client, [send], name="w1", lease_s=7), server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: shop.told)
    assert shop.told["run_1"] == {
        "status": "COMPLETED",
        "output": {"sent": 42},
        "ifAttempt": 1,
    }
    said = shop.claims[0].body
    assert said == {"tasks": ["send-invoice"], "worker": "w1", "leaseS": 7}
    (operations,) = await server.has_been_asked(1, "POST", "/v1/runs/run_1/metadata")
    assert operations.body["operations"] == [{"op": "set", "path": "order", "value": 42}]


@pytest.mark.parametrize("payload", [{"order_id": "many"}, None, "x", {}])
async def test_a_payload_that_does_not_fit_fails_the_run_and_says_why(
    server: ScriptedServer, client: Runstream, shop: Shop, payload: Any
) -> None:
    async with working(Worker(client, [send]), server) as socket:
        await told_of(socket, shop.put(payload=payload))
        await until(lambda: shop.told)
    told = shop.told["run_1"]
    assert told["status"] == "FAILED"
    assert told["error"]["name"] == "DecodeError"
    assert told["error"]["message"].startswith("payload of run run_1 does not fit: ")


@pytest.mark.parametrize(
    "function, name, message",
    [
        (raising, "ValueError", "no such order"),
        (cancelling, "CancelledError", "it was cancelled"),
        (unwritable, "TypeError", "the output cannot be written as JSON: "),
        (leaving, "SystemExit", "3"),
    ],
)
async def test_a_function_that_fails_fails_its_run_and_nothing_else(
    server: ScriptedServer,
    client: Runstream,
    shop: Shop,
    function: Callable[[Order], Any],
    name: str,
    message: str,
) -> None:
    async with working(Worker(client, [Work(SEND, function)]), server) as socket:
        for n in (1, 2):
            await told_of(socket, shop.put(f"run_{n}"))
            await until(lambda: f"run_{n}" in shop.told)  # noqa: B023 - used at once
    for told in shop.told.values():
        assert (told["status"], told["error"]["name"]) == ("FAILED", name)
        assert told["error"]["message"].startswith(message)


async def test_a_function_that_is_not_async_has_a_thread_and_knows_its_run(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    @executes(SEND)
    def thread(order: Order) -> dict[str, int]:
        assert threading.current_thread() is not threading.main_thread()
        return {"sent": order.order_id, "of": int((current_run().id or "0")[-1])}

    async with working(Worker(client, [thread]), server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: shop.told)
    assert shop.told["run_1"]["output"] == {"sent": 42, "of": 1}


def test_work_is_called_like_its_function() -> None:
    """In a test of the function, say, which needs no server."""
    work = Work(SEND, unwritable)
    assert work(Order(1)).keys() == {"thing"}
    assert asyncio.run(send(Order(3))) == {"sent": 3}
    assert getattr(send, "__name__", None) == "send"
    assert Work(SEND, functools.partial(cancelling)).is_async
