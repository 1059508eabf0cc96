"""A task and the function that executes its runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar, cast, overload

from runstream.models import AnyTask, OutputT, PayloadT, Task

ResultT = TypeVar("ResultT")


class Work(Generic[PayloadT, OutputT]):
    """A task and the function that executes its runs: one of the `tasks` of a `Worker`.

    The function is given the payload as the task's type, and what it returns is the output.
    One that is not async is called in a thread of its own. `current_run()` inside is the run.
    The work is called like the function itself: in a test, say.
    """

    @overload
    def __init__(
        self,
        task: Task[PayloadT, OutputT],
        function: Callable[[PayloadT], Coroutine[Any, Any, OutputT]],
    ) -> None: ...
    @overload
    def __init__(
        self, task: Task[PayloadT, OutputT], function: Callable[[PayloadT], OutputT]
    ) -> None: ...
    def __init__(self, task: AnyTask, function: Callable[[Any], Any]) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"a Task is meant, not {task!r}")
        self.task: Final[Task[PayloadT, OutputT]] = task
        self._function: Final = function
        # Also an object with an async __call__, and what functools.partial makes of either.
        called = getattr(inspect.unwrap(_inner(function)), "__call__", None)  # noqa: B004
        self.is_async: Final = inspect.iscoroutinefunction(
            _inner(function)
        ) or inspect.iscoroutinefunction(called)
        functools.update_wrapper(self, function, updated=())

    def __call__(self, payload: PayloadT) -> Any:
        """What the function returns for the payload; an awaitable, if it is async."""
        return self._function(payload)

    def __repr__(self) -> str:
        return f"Work({self.task.name!r})"

    async def execute(self, payload: PayloadT) -> OutputT:
        """What the function gives for the payload, be it async or not.

        A thread cannot be cancelled: it is waited for, until this is cancelled again.
        """
        result: Any
        if self.is_async:
            result = self._function(payload)
        else:
            result = await in_a_thread(self._function, payload)
        if isinstance(result, Awaitable):
            # Also of a function that is not async itself: a lambda around one that is.
            result = await result
        return cast(OutputT, result)


@overload
def executes(task: Task[PayloadT, OutputT]) -> _Executes[PayloadT, OutputT]: ...
@overload
def executes(task: str) -> _Executes[Any, Any]: ...
def executes(task: AnyTask | str) -> _Executes[Any, Any]:
    """Puts a task on the function that executes its runs: `@executes(send_invoice)`."""
    return _Executes(Task(task) if isinstance(task, str) else task)


class _Executes(Generic[PayloadT, OutputT]):
    def __init__(self, task: Task[PayloadT, OutputT]) -> None:
        self._task = task

    @overload
    def __call__(
        self, function: Callable[[PayloadT], Coroutine[Any, Any, OutputT]]
    ) -> Work[PayloadT, OutputT]: ...
    @overload
    def __call__(self, function: Callable[[PayloadT], OutputT]) -> Work[PayloadT, OutputT]: ...
    def __call__(self, function: Callable[[PayloadT], Any]) -> Work[PayloadT, OutputT]:
        return Work(self._task, function)


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


async def in_a_thread(function: Callable[[PayloadT], ResultT], payload: PayloadT) -> ResultT:
    """What the function returns, called in a thread that does not keep the program from ending.

    Cancelled, it still waits for the thread, since nothing can stop that; cancelled again,
    it does not.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    outcome: list[tuple[ResultT | None, BaseException | None]] = []
    context = contextvars.copy_context()

    def body() -> None:
        try:
            outcome.append((context.run(function, payload), None))
        except BaseException as error:
            outcome.append((None, error))
        try:
            loop.call_soon_threadsafe(ended.set)
        except RuntimeError:
            pass  # The loop has gone, and with it whoever would want to know.

    threading.Thread(target=body, name="runstream work", daemon=True).start()
    try:
        await ended.wait()
    except asyncio.CancelledError:
        # Only a second time is it left alone.
        await ended.wait()
    (result, error), *_ = outcome
    if error is not None:
        raise error
    return cast(ResultT, result)
