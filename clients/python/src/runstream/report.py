"""A job reports itself: its status, its progress, its output; and never suffers from it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

from runstream.commands import Operation, RunOptions
from runstream.http import Http
from runstream.models import AnyRun, AnyTask, OutputT, PayloadT, RunStatus
from runstream.reporter import Reporter, outcome_of

ArgumentsT = ParamSpec("ArgumentsT")
ReturnT = TypeVar("ReturnT")

ENTRY_S: Final = 1.0
FLUSH_S: Final = 5.0


class Metadata:
    """What the job shows while it runs: plain calls, that return at once, from any thread.

    `path` is keys joined by dots. What is said in quick succession is sent together, and
    what a later call makes void is not sent at all.
    """

    def __init__(self, put: Callable[[Operation], None]) -> None:
        self._put = put

    def set(self, path: str, value: Any) -> None:
        """Puts a value in a place."""
        self._put(Operation("set", path, value))

    def increment(self, path: str, by: float = 1) -> None:
        """Adds to the number in a place; it begins at 0."""
        self._put(Operation("increment", path, by))

    def append(self, path: str, value: Any) -> None:
        """Adds an item to the list in a place; it begins empty."""
        self._put(Operation("append", path, value))

    def remove(self, path: str, value: Any) -> None:
        """Takes equal items out of the list in a place."""
        self._put(Operation("remove", path, value))

    def delete(self, path: str) -> None:
        """Takes a place out."""
        self._put(Operation("delete", path))


class Tags:
    """The run's labels, of which there may be more while it runs."""

    def __init__(self, add: Callable[[tuple[str, ...]], None]) -> None:
        self._add = add

    def add(self, *tags: str) -> None:
        """Adds tags; returns at once."""
        self._add(tags)


class ReportedRun(Generic[PayloadT, OutputT]):
    """The run that a job is, from inside: say how far it is, and what it gives back.

    Nothing here waits, fails, or needs the server to be there.
    """

    def __init__(self, reporter: Reporter | None = None) -> None:
        self._reporter = reporter
        self.output: OutputT | None = None
        """What the run gives back if it completes."""
        self.metadata: Final = Metadata(self._put)
        self.tags: Final = Tags(self._tag)
        self._should_stop = False

    @property
    def id(self) -> str | None:
        """The run's id; None while the server has not been told of the run."""
        return None if self._reporter is None else self._reporter.run_id

    @property
    def status(self) -> RunStatus:
        """The status that the server gave last: CANCELED, if somebody canceled the run."""
        return RunStatus.EXECUTING if self._reporter is None else self._reporter.status

    @property
    def should_stop(self) -> bool:
        """Whether what the job still does is for nobody: the run is over, or is another worker's.

        A coroutine of a `Worker` is cancelled then. A function in a thread cannot be, so a
        long one asks this now and then, and returns.
        """
        return self._should_stop or self.status.is_final

    async def created(self) -> str | None:
        """The run's id, once there is one; None if the server does not take the run."""
        if self._reporter is None:
            return None
        await self._reporter.is_settled.wait()
        return self._reporter.run_id

    def _put(self, operation: Operation) -> None:
        if self._reporter is not None:
            self._reporter.put(operation)

    def _tag(self, tags: tuple[str, ...]) -> None:
        if self._reporter is not None:
            self._reporter.add_tags(tags)

    def stop(self) -> None:
        """Lets the job know, by `should_stop`. For whoever executes it."""
        self._should_stop = True


reported_run: Final[contextvars.ContextVar[ReportedRun[Any, Any]]] = contextvars.ContextVar(
    "runstream_run"
)
"""For whoever executes a job: what `current_run` gives in it."""


def current_run() -> ReportedRun[Any, Any]:
    """The run that is being reported where this is called, also in a job's threads.

    Where none is, one that goes nowhere: a job's functions work the same without reporting.
    """
    return reported_run.get(None) or ReportedRun()


class Report(Generic[PayloadT, OutputT]):
    """What `client.report(…)` gives: `async with` it around a job, or put it on a function.

    The run is EXECUTING from the entry on, and in the end COMPLETED; FAILED with the
    exception, which goes on its way; or CANCELED, if the job was cancelled.

    On a function, each call is a run: its payload is the argument if there is one, else a
    dictionary of them; what it returns is the output; and `current_run()` inside is the run.
    A function that is not async is called in a thread, and awaited.
    """

    def __init__(
        self,
        http: Http,
        work: AnyTask | str | AnyRun,
        payload: Any,
        options: RunOptions,
        *,
        entry_s: float = ENTRY_S,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._http = http
        self._work = work
        self._payload = payload
        self._options = options
        self._entry_s = entry_s
        self._flush_s = flush_s
        self._reporter: Reporter | None = None
        self._run: ReportedRun[PayloadT, OutputT] | None = None
        self._token: contextvars.Token[ReportedRun[Any, Any]] | None = None

    async def __aenter__(self) -> ReportedRun[PayloadT, OutputT]:
        if self._reporter is not None:
            raise RuntimeError("a report is of one run: make another for the next")
        self._reporter = Reporter(self._http, self._work, self._payload, self._options)
        self._run = ReportedRun(self._reporter)
        self._token = reported_run.set(self._run)
        await self._reporter.start(self._entry_s)
        return self._run

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        assert self._reporter is not None
        assert self._run is not None
        if self._token is not None:
            reported_run.reset(self._token)
        await self._reporter.finish(outcome_of(error, self._run.output), self._flush_s)

    @overload
    def __call__(
        self, job: Callable[ArgumentsT, Coroutine[Any, Any, ReturnT]]
    ) -> Callable[ArgumentsT, Coroutine[Any, Any, ReturnT]]: ...
    @overload
    def __call__(
        self, job: Callable[ArgumentsT, ReturnT]
    ) -> Callable[ArgumentsT, Coroutine[Any, Any, ReturnT]]: ...
    def __call__(self, job: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """The function, each call of which is a run."""
        signature = inspect.signature(job)
        is_async = inspect.iscoroutinefunction(job)

        @functools.wraps(job)
        async def reported(*args: Any, **kwargs: Any) -> Any:
            arguments = signature.bind(*args, **kwargs).arguments
            payload: Any = arguments
            if len(signature.parameters) == 1 and len(arguments) == 1:
                (payload,) = arguments.values()
            one: Report[PayloadT, OutputT] = Report(
                self._http,
                self._work,
                payload if arguments else self._payload,
                self._options,
                entry_s=self._entry_s,
                flush_s=self._flush_s,
            )
            async with one as run:
                if is_async:
                    result = await job(*args, **kwargs)
                else:
                    result = await asyncio.to_thread(job, *args, **kwargs)
                if run.output is None:
                    run.output = result
                return result

        return reported
