"""The parent of every task of the hub."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """Starts tasks and outlives them: one that fails is heard of, and takes no other along."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self,
        work: Coroutine[Any, Any, None],
        name: str,
        failed: Callable[[Exception], None] | None = None,
    ) -> asyncio.Task[None]:
        """Begins it. `failed` is told if it raises; cancelling it is no failure."""
        if self._closed:
            work.close()
            raise RuntimeError("closed")
        task = asyncio.create_task(self._guard(work, name, failed), name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._over(done, work))
        return task

    def _over(self, task: asyncio.Task[None], work: Coroutine[Any, Any, None]) -> None:
        self._tasks.discard(task)
        work.close()  # it never began, if the task was cancelled at once

    async def _guard(
        self,
        work: Coroutine[Any, Any, None],
        name: str,
        failed: Callable[[Exception], None] | None,
    ) -> None:
        try:
            await work
        except Exception as error:
            log.exception("%s failed", name)
            if failed is not None:
                failed(error)

    async def close(self) -> None:
        """Cancels what still runs, and waits until it is gone."""
        self._closed = True
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
