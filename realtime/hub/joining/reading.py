"""Reads for those who can wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from realtime.errors import StoreAway
from realtime.hub.services import Services
from store.errors import Unavailable

T = TypeVar("T")


class Reading:
    """Tries again until the store can be read, for as long as a subscription waits."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def shared(self, key: tuple[object, ...], read: Callable[[], Awaitable[T]]) -> T:
        """A read that others may share, as soon as the store can be read; raises StoreAway."""
        return await self.patiently(lambda: self._services.flights.get(key, read))

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """What it reads, as soon as the store can be read; raises StoreAway."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._services.join_s
        wait_s = 0.1
        while True:
            try:
                return await read()
            except Unavailable:
                if now() + wait_s > deadline:
                    raise StoreAway from None
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 2.0)

    async def until(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Waits for what the store will bring about; raises StoreAway where it takes too long."""
        try:
            async with asyncio.timeout(self._services.join_s):
                await wait()
        except TimeoutError:
            raise StoreAway from None
