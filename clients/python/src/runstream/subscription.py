"""What a caller loops over: `async for run in …`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar, cast

from runstream.bell import Bell
from runstream.changes import Change, Changed, Entered, Left, Reset
from runstream.connection import Connection
from runstream.errors import ClientClosed, DecodeError, StreamEnded
from runstream.inbox import Inbox, Mark
from runstream.models import AnyRun, AnyTask, Batch
from runstream.protocol import Wish
from runstream.stream import Stream, StreamState

RunT = TypeVar("RunT")

# Not written as a union: that would be made anew with each run.
_OF_MATCHING: Final = (Entered, Changed)


class Subscription(Generic[RunT]):
    """The runs that were asked for, as they change: an iterator, and a context manager.

    `async for run in subscription` gives each run of the snapshot, then each change as the
    whole run; `async for change in subscription.changes()` also tells who entered and left.
    It starts when it is first waited on. `async with subscription` returns once the server
    has said that changes come from here on; leaving it unsubscribes. So does dropping the
    last reference, as `break` out of `async for run in client.subscribe_to_run(…)` does.

    It ends when the stream is over (`end_reason` says why), and raises a `RunstreamError`
    if it was refused. A lost connection is neither: it goes on where it was.

    A caller that is slow costs nobody else anything. What waits for it is bounded: above
    `buffer` changes (or 32 MB) the server is asked to stop, and, once the caller has caught
    up, to go on from there out of its log. With `delivery="latest"`, newer states take the
    place of older ones that were not taken yet.

    Cancelling what waits here is safe: nothing is lost, and one may go on.
    """

    def __init__(
        self,
        connection: Connection,
        wish: Wish,
        tasks: tuple[AnyTask, ...] = (),
        *,
        buffer: int = 10_000,
        check_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream = Stream(
            wish,
            Inbox(
                conflating=wish.delivery == "latest",
                max_changes=max(1, buffer),
                max_bytes=32 * 1024 * 1024,
            ),
            connection.session.stats,
        )
        self._connection = connection
        self._check_open = check_open
        self._bell = Bell()
        self._tasks = {task.name: task for task in tasks}
        # Of each run, as it came and as it was read: a payload never changes, so it is
        # read once. Only for runs that can still change, and only with typed tasks.
        self._read: dict[str, tuple[AnyRun, AnyRun]] | None = (
            {} if any(task.is_typed for task in tasks) else None
        )
        self._has_begun = False
        self._cursor = wish.cursor

    # What there is to see

    @property
    def cursor(self) -> str | None:
        """From where to go on, with `cursor=…`, if this program ends now.

        It covers what was taken before the present run: that one counts when the next is asked for.
        """
        return self._cursor

    @property
    def is_live(self) -> bool:
        """Whether changes come as they happen just now."""
        return self._stream.state is StreamState.LIVE

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._stream.is_over and not len(self._stream.inbox)

    @property
    def end_reason(self) -> str | None:
        """Why it is over: the server's word, `completed` say, or `closed` with the client; else None."""
        return self._stream.end_reason

    @property
    def truncated(self) -> bool:
        """Whether there were more runs than the snapshot's `limit`."""
        return self._stream.truncated

    @property
    def batch(self) -> Batch | None:
        """The batch as it was last heard of; only on `subscribe_to_batch`."""
        return self._stream.batch

    # As an iterator

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RunT:
        while True:
            change = self._take()
            if change is None:
                await self._more()
            elif isinstance(change, _OF_MATCHING):
                return cast(RunT, self._typed(change.run))
            elif isinstance(change, Left) and self._read is not None:
                self._read.pop(change.run.id, None)

    async def changes(self) -> AsyncIterator[Change[RunT]]:
        """Everything that is told, in order: who entered, changed and left, and how the stream stands."""
        while True:
            change = self._take()
            if change is None:
                try:
                    await self._more()
                except StopAsyncIteration:
                    return
            elif isinstance(change, Entered):
                yield Entered(cast(RunT, self._typed(change.run)))
            elif isinstance(change, Changed):
                yield Changed(cast(RunT, self._typed(change.run)))
            elif isinstance(change, Left):
                run = self._typed(change.run)
                if self._read is not None:
                    self._read.pop(run.id, None)
                yield Left(cast(RunT, run))
            else:
                yield change

    def _take(self) -> Change[AnyRun] | None:
        stream = self._stream
        while True:
            change = stream.inbox.take()
            if isinstance(change, Mark):
                self._cursor = change.cursor
                continue
            if self._read is not None and isinstance(change, Reset):
                self._read.clear()
            break
        if stream.state is StreamState.PAUSED and stream.inbox.is_low:
            self._connection.drained(stream)
        return change

    async def _more(self) -> None:
        stream = self._stream
        if stream.is_over and not len(stream.inbox):
            self._connection.unsubscribe(stream)
            if stream.error is not None:
                raise stream.error
            raise StopAsyncIteration
        self._begin()
        if not len(stream.inbox) and not stream.is_over:
            await self._bell.wait()

    def _typed(self, run: AnyRun) -> AnyRun:
        task = self._tasks.get(run.task_identifier)
        if task is None:
            if self._tasks and self._only_task:
                task = next(iter(self._tasks.values()))
            else:
                return run
        try:
            if self._read is None:
                return task.read(run)
            typed = task.read(run, self._read.get(run.id))
        except DecodeError:
            # What follows would be of no more use; whoever catches this may subscribe anew.
            self._connection.unsubscribe(self._stream)
            raise
        if run.is_final:
            self._read.pop(run.id, None)
        else:
            self._read[run.id] = (run, typed)
        return typed

    @property
    def _only_task(self) -> bool:
        # A stream of one run has no filter: a run of another task than was said is a mistake.
        return not hasattr(self._stream.wish, "tasks")

    # As a context manager

    async def __aenter__(self) -> Self:
        stream = self._stream
        self._begin()
        try:
            while not stream.was_live:
                if stream.is_over:
                    if stream.error is not None:
                        raise stream.error
                    if stream.end_reason == "closed":
                        raise ClientClosed("the client is closed")
                    raise StreamEnded(stream.end_reason or "unsubscribed")
                await self._bell.wait()
        except BaseException:
            self._connection.unsubscribe(stream)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends it. Whoever waits on it elsewhere gets no more runs; may be called again."""
        self._connection.unsubscribe(self._stream)
        self._bell.ring()

    def _begin(self) -> None:
        if not self._has_begun:
            self._check_open()
            self._has_begun = True
            self._connection.subscribe(self._stream, self._bell)

    def __del__(self) -> None:
        # Not for those that ended or never began: they have nothing to give back.
        if getattr(self, "_has_begun", False) and not self._stream.is_over:
            self._connection.unsubscribe_soon(self._stream)
