"""Clients of real servers, and how a test waits for what comes to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runstream import Runstream
from tests.processes import API_KEY, Server


def client_of(server: Server, url: str | None = None) -> Runstream:
    """One with the server's key; by way of another URL, if there is a proxy."""
    return Runstream(url or server.url, api_key=API_KEY)


async def until(condition: Callable[[], object]) -> None:
    """Waits for a condition; the bound is only there to end a test that fails."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
