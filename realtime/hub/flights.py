"""Reads that several wait for are made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

from realtime.hub.tasks import Tasks

T = TypeVar("T")


class Flights:
    """Shares reads of the same thing, and bounds how many are made at once.

    Whoever asks gets a read that *begins after* they asked: one that is under way may have seen
    the store as it was before they were in the index. So those who come meanwhile share the next
    one; and while all places are taken, all who wait for the same share one place in the line.
    """

    def __init__(self, tasks: Tasks, at_once: int = 16) -> None:
        self._tasks = tasks
        self._places = asyncio.Semaphore(at_once)
        self._waiting: dict[Hashable, asyncio.Future[Any]] = {}
        self.made = 0
        """How many reads were made."""

    async def get(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """What the read gives, or raises; `key` says what is read."""
        future = self._waiting.get(key)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._waiting[key] = future
            self._tasks.start(self._fly(key, future, read), f"read {key}")
        # One who gives up must not take the read away from the others.
        return cast("T", await asyncio.shield(future))

    async def _fly(
        self, key: Hashable, future: asyncio.Future[Any], read: Callable[[], Awaitable[T]]
    ) -> None:
        try:
            async with self._places:
                del self._waiting[key]  # it begins: whoever comes now waits for another
                self.made += 1
                result = await read()
        except asyncio.CancelledError:
            self._waiting.pop(key, None)
            future.cancel()
            raise
        except Exception as error:
            future.set_exception(error)
            future.exception()  # heard, also if everybody who waited has given up
        else:
            future.set_result(result)
