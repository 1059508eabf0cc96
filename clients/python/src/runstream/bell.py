"""How a caller is woken when its stream has something."""

from __future__ import annotations

import asyncio


class Bell:
    """Rung when a stream has something to take. One may wait for it at a time."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Lets go on whoever waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self) -> None:
        """Returns when it is rung next."""
        if self._waiting is not None:
            raise RuntimeError("a subscription can be waited on by one task at a time")
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None
