"""`Worker`: executes the runs of some tasks, woken by a subscription."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from runstream.changes import Entered, Left, Live, Reset
from runstream.client import Runstream
from runstream.errors import ClientClosed, StreamEnded, TooManyRequests, Unavailable
from runstream.models import AnyRun, RunStatus
from runstream.reporter import PASSING
from runstream.worker.execution import SKIPPED, Ended, Execution, give_back
from runstream.worker.work import Work

log: Final = logging.getLogger("runstream")

STOPS: Final = (signal.SIGTERM, signal.SIGINT)
TASKS_MAX: Final = 100
MAX_DELAY_S: Final = 10.0
CLAIM_GRACE_S: Final = 5.0
"""How long the last claim may take when the worker is told to stop."""

KNOWN_MAX: Final = 1_000
"""How many queued runs are kept in mind at most: none is needed to know that there are some."""


class Worker:
    """Executes the runs of some tasks: `await Worker(client, tasks=[…], concurrency=4).run()`.

    A subscription to queued runs wakes it; nothing is asked while nothing is queued. It claims
    as many as it has room for, each for `lease_s` seconds that it keeps extending by
    heartbeats, calls their functions, and reports what they say and come to.

    - A run whose payload does not fit its task is FAILED, and so is one whose function raises.
    - When a run is canceled, times out, or its lease is lost, its function is stopped and
      nothing of it is reported: a coroutine is cancelled, a function in a thread is told by
      `current_run().should_stop`.
    - A lost lease makes the run QUEUED again while it has attempts left (`max_attempts`), else
      CRASHED; so does the death of the worker.
    - While the server is away it waits, and goes on by itself; a log says so.

    SIGTERM and SIGINT (or `stop`) end it: nothing more is claimed, what runs has `drain_s`
    seconds to finish, and what has not is stopped and queued again, for another worker. A
    second signal does not wait.

    A function that computes without an `await` should not be `async`: it would keep the
    heartbeats of all others from being sent.
    """

    def __init__(
        self,
        client: Runstream,
        tasks: Iterable[Work[Any, Any]],
        *,
        concurrency: int = 4,
        name: str | None = None,
        lease_s: int = 30,
        drain_s: float = 30.0,
    ) -> None:
        self._work: Final[Mapping[str, Work[Any, Any]]] = _by_name(tasks)
        if concurrency < 1:
            raise ValueError("a worker executes one run at a time at least")
        if type(lease_s) is not int or lease_s < 1:
            raise ValueError("a lease is of whole seconds, one at least")
        self.name: Final = name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        """How the server knows it."""
        self.ended: Final[Counter[Ended]] = Counter()
        """How many executions have ended, by how they did."""
        self._client = client
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._drain_s = drain_s
        self._executions: dict[str, Execution] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._queued: set[str] = set()
        """Some of the runs that are queued, as far as the subscription has told."""
        self._is_live = False
        self._may_be_queued = False
        """Whether a claim could find something: it was told of, or has not been looked for."""
        self._has_run = False
        self._more = asyncio.Event()
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hastened = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._background: asyncio.Task[None] | None = None

    # How it stands

    @property
    def running(self) -> tuple[AnyRun, ...]:
        """The runs that it executes just now, as they were claimed."""
        return tuple(execution.run for execution in self._executions.values())

    @property
    def is_stopping(self) -> bool:
        """Whether it claims nothing more."""
        return self._stopping.is_set()

    # From outside

    def stop(self) -> None:
        """Lets it finish what runs and end; called again, what runs is queued for others."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()
        self._hastened.set()
        self._more.set()

    async def run(self, *, handle_signals: bool = True) -> None:
        """Executes runs until it is stopped.

        Raises what the server refuses for good: a wrong key, say, or one without the right
        to claim. Cancelled, it does not wait for what runs, but queues it again.
        """
        if self._has_run:
            raise RuntimeError("a worker runs once: make another")
        self._has_run = True
        listening = asyncio.create_task(self._listen(), name="runstream worker's subscription")
        claiming = asyncio.create_task(self._claim(), name="runstream worker's claims")
        stopping = asyncio.create_task(self._stopping.wait())
        own = (listening, claiming, stopping)
        with self._signals(handle_signals):
            try:
                await asyncio.wait(own, return_when=asyncio.FIRST_COMPLETED)
                self._stopping.set()
                self._more.set()
                await asyncio.wait({claiming}, timeout=CLAIM_GRACE_S)
                await self._drain()
            finally:
                self._stopping.set()
                for task in own:
                    task.cancel()
                for execution in self._executions.values():
                    execution.release()
                await asyncio.gather(*own, *self._tasks, return_exceptions=True)
        for task in (listening, claiming):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def __aenter__(self) -> Self:
        """Runs it in the background; returns once it is woken by what is queued."""
        self._background = asyncio.create_task(self.run(handle_signals=False))
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait(
                {self._background, ready}, return_when=asyncio.FIRST_COMPLETED
            )  # fmt: skip
        except asyncio.CancelledError:
            self._background.cancel()
            raise
        finally:
            ready.cancel()
        if self._background.done():
            self._background.result()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._background is not None
        self.stop()
        await self._background

    # What is queued

    async def _listen(self) -> None:
        failures = 0
        while True:
            subscription = self._client.subscribe_to_runs(
                tasks=list(self._work),
                statuses=[RunStatus.QUEUED],
                skip=SKIPPED,
                delivery="latest",
                limit=100,
            )
            try:
                async for change in subscription.changes():
                    match change:
                        case Entered(run):
                            if len(self._queued) < KNOWN_MAX:
                                self._queued.add(run.id)
                            self._wake()
                        case Left(run):
                            self._queued.discard(run.id)
                        case Reset():
                            self._queued.clear()
                        case Live():
                            # Whatever was queued before, or while the connection was lost.
                            failures = 0
                            self._is_live = True
                            self._ready.set()
                            self._hastened.set()
                            self._wake()
                if subscription.end_reason == "closed":
                    raise ClientClosed("the client of the worker was closed")
                raise StreamEnded(subscription.end_reason or "unsubscribed")
            except (TooManyRequests, Unavailable) as error:
                failures += 1
                log.warning("the worker's subscription is tried again: %s", error)
                await self._pause(_delay_s(failures, error))
            finally:
                self._queued.clear()
                await subscription.aclose()

    def _wake(self) -> None:
        self._may_be_queued = True
        self._more.set()

    async def _claim(self) -> None:
        clock = asyncio.get_running_loop().time
        failures = misses = 0
        key: str | None = None
        since = 0.0
        while not self._stopping.is_set():
            self._more.clear()
            # Not before the subscription is live: what is queued between a claim that finds
            # nothing and the first change that is told would wait for the next one.
            is_full = len(self._executions) >= self._concurrency
            if is_full or not self._is_live or not self._may_be_queued:
                await self._more.wait()
                continue
            # Before the claim: what it is told of meanwhile counts for the next one.
            self._may_be_queued = False
            if key is None:
                key, since = uuid.uuid4().hex, clock()
            try:
                run = await self._client.runs.claim(
                    list(self._work), worker=self.name, lease_s=self._lease_s, command_key=key
                )
            except PASSING as error:
                # With the same key: a run that was claimed by an answer that got lost comes
                # again with the next one.
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log.log(level, "the worker cannot claim, it tries again: %s", error)
                await self._pause(_delay_s(failures, error))
                self._may_be_queued = True
                continue
            if failures:
                log.info("the worker can claim again")
            failures, key = 0, None
            if run is not None:
                misses = 0
                self._may_be_queued = True
                if self._stopping.is_set():
                    await give_back(self._client.runs, run)
                else:
                    self._begin(run, since)
            elif self._queued:
                # Others are about to take it, or hold its row for a moment.
                misses += 1
                await self._pause(min(1.0, 0.01 * 2.0 ** min(misses, 10)) * random.uniform(0.5, 1))
                self._may_be_queued = True
            else:
                misses = 0

    async def _pause(self, delay_s: float) -> None:
        """Waits so long; less if the server is back, or the worker is told to stop."""
        self._hastened.clear()
        try:
            async with asyncio.timeout(0 if self._stopping.is_set() else delay_s):
                await self._hastened.wait()
        except TimeoutError:
            pass

    # What runs

    def _begin(self, run: AnyRun, since: float) -> None:
        self._queued.discard(run.id)
        execution = Execution(
            self._client.http,
            self._client,
            self._work[run.task_identifier],
            run,
            lease_s=self._lease_s,
            since=since,
        )
        # One run may be claimed again while its earlier attempt is still being stopped.
        key = f"{run.id} {run.attempt}"
        self._executions[key] = execution
        task = asyncio.create_task(self._execute(key, execution))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, key: str, execution: Execution) -> None:
        run = execution.run
        log.debug("run %s of %s begins", run.id, run.task_identifier)
        try:
            ended = await execution.execute()
        except Exception:
            log.exception("run %s is left to its lease", run.id)
        else:
            self.ended[ended] += 1
            log.debug("run %s: %s", run.id, ended)
        finally:
            del self._executions[key]
            self._more.set()

    async def _drain(self) -> None:
        if not self._tasks:
            return
        log.info("the worker stops: %d runs have %g s", len(self._tasks), self._drain_s)
        hurrying = asyncio.create_task(self._hurrying.wait())
        ending = asyncio.create_task(asyncio.wait(self._tasks))
        waits: set[asyncio.Task[Any]] = {hurrying, ending}
        try:
            await asyncio.wait(
                waits, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED
            )  # fmt: skip
        finally:
            for task in waits:
                task.cancel()
        for execution in self._executions.values():
            execution.release()

    # Signals

    @contextmanager
    def _signals(self, wanted: bool) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        heeded: list[signal.Signals] = []
        try:
            for number in STOPS if wanted else ():
                try:
                    loop.add_signal_handler(number, self.stop)
                except (NotImplementedError, RuntimeError, ValueError):
                    break  # Not in the main thread, or not on this system.
                heeded.append(number)
            yield
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)


def _by_name(tasks: Iterable[Work[Any, Any]]) -> Mapping[str, Work[Any, Any]]:
    by_name: dict[str, Work[Any, Any]] = {}
    for work in tasks:
        if not isinstance(work, Work):
            raise TypeError(f"{work!r} has no task: put @executes(task) on the function")
        if work.task.name in by_name:
            raise ValueError(f"two functions execute {work.task.name}")
        by_name[work.task.name] = work
    if not 1 <= len(by_name) <= TASKS_MAX:
        raise ValueError(f"a worker executes 1 to {TASKS_MAX} tasks")
    return by_name


def _delay_s(failures: int, error: Exception) -> float:
    delay_s = min(MAX_DELAY_S, 0.1 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1)
    return max(delay_s, getattr(error, "retry_after", None) or 0.0)
