"""Functions that a worker executes: one that does its work, and some that do not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from runstream import Task, current_run, executes


@dataclass
class Order:
    order_id: int


SEND: Task[Order, dict[str, int]] = Task("send-invoice", payload=Order, output=dict)


@executes(SEND)
async def send(order: Order) -> dict[str, int]:
    current_run().metadata.set("order", order.order_id)
    return {"sent": order.order_id}


def raising(order: Order) -> dict[str, int]:
    raise ValueError("no such order")


async def cancelling(order: Order) -> dict[str, int]:
    raise asyncio.CancelledError


def unwritable(order: Order) -> Any:
    return {"thing": object()}


async def leaving(order: Order) -> dict[str, int]:
    raise SystemExit(3)


class Stuck:
    """A function that never ends, and notes that it was stopped."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, order: Order) -> dict[str, int]:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1
        return {}
