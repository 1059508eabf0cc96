"""Subscriptions that are joined, and the tasks whose runs they tell."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from clients.python.tests.builders import a_snapshot, live
from clients.python.tests.scripted import PATIENCE_S, ScriptedServer, Socket
from runstream import Subscription, Task


@dataclass
class Request:
    order_id: int


@dataclass
class Invoice:
    total: float


SEND = Task("send-invoice", payload=Request, output=Invoice)


REFUND: Task[int, str] = Task("refund", payload=int, output=str)


async def versions(subscription: Subscription[Any], count: int) -> list[int]:
    """The versions of the next runs."""
    async with asyncio.timeout(PATIENCE_S):
        return [(await anext(subscription)).version for _ in range(count)]


async def joined(server: ScriptedServer, *runs: dict[str, Any]) -> Socket:
    """The server's end of a subscription that is live, with these runs."""
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(a_snapshot(*runs), live())
    return socket
