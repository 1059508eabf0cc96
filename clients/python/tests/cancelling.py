"""Cancels what a test says at each of its waits, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from enum import Enum
from types import coroutine
from typing import Any, Final

from clients.python.tests.scripted import PATIENCE_S

MOST: Final = 500
"""So many waits no scenario has: one that comes so far does not end."""

# What the test itself runs: its own server, and the part that it plays.
_OURS: Final = ("/tests/", "/asyncio/streams.py")


class When(Enum):
    """When it is cancelled, of a wait."""

    WAITING = "waiting"
    WOKEN = "woken"
    """What it waits for is there, and it has not gone on yet: here a cancel is easily lost."""


async def cancelled_at_each_wait(
    scenario: Callable[[], AbstractAsyncContextManager[Coroutine[Any, Any, None]]], when: When
) -> int:
    """Runs it again and again, cancelled at its first wait, its second …, until it ends by itself.

    Each time it has to end cancelled, and no task of it may be left. How many waits it has.
    """
    for at in range(MOST):
        async with scenario() as work:
            counted = _Counted(work, at, when)
            task = asyncio.ensure_future(_run(counted))
            done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
            assert done, f"cancelled at wait {at}, it goes on"
            if not counted.was_cancelled:
                task.result()
                return at
            assert task.cancelled(), f"cancelled at wait {at}, it ended with {task!r}"
            await _gone()
    raise AssertionError(f"after {MOST} waits it has not ended")


async def _run(counted: _Counted) -> None:
    await counted.drive()


class _Counted:
    def __init__(self, work: Coroutine[Any, Any, None], at: int, when: When) -> None:
        self._work = work
        self._at = at
        self._when = when
        self.was_cancelled = False

    @coroutine
    def drive(self) -> Generator[Any, None, None]:
        task = asyncio.current_task()
        assert task is not None
        thrown: BaseException | None = None
        waits = 0
        while True:
            try:
                if thrown is None:
                    waited = self._work.send(None)
                else:
                    waited, thrown = self._work.throw(thrown), None
            except StopIteration:
                return
            if waits == self._at:
                self._cancel(task, waited)
            waits += 1
            try:
                yield waited
            except BaseException as error:
                thrown = error

    def _cancel(self, task: asyncio.Task[None], waited: Any) -> None:
        def cancel(_: object = None) -> None:
            self.was_cancelled = True
            task.cancel()

        if self._when is When.WOKEN and asyncio.isfuture(waited):
            # Before the task asks to be woken by it: so this comes first.
            waited.add_done_callback(cancel)
        else:
            asyncio.get_running_loop().call_soon(cancel)


async def _gone() -> None:
    # Those that were cancelled have a turn or two to go.
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while left := _left():
        assert asyncio.get_running_loop().time() < deadline, f"left running: {left}"
        await asyncio.sleep(0.001)


def _left() -> list[asyncio.Task[Any]]:
    mine = asyncio.current_task()
    return [task for task in asyncio.all_tasks() if task is not mine and not _is_ours(task)]


def _is_ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and any(place in code.co_filename for place in _OURS)
