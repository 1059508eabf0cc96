"""One claimed run: the call of its function, and what is told of it."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Any, Final

from runstream import values
from runstream.commands import RunUpdate
from runstream.errors import DecodeError, Refused, RunstreamError
from runstream.http import Http
from runstream.models import AnyRun, RunStatus
from runstream.report import ReportedRun, reported_run
from runstream.reporter import Reporter, outcome_of
from runstream.resources.runs import Runs
from runstream.subscribing import Subscribing
from runstream.worker.lease import Lease
from runstream.worker.work import Work

log: Final = logging.getLogger("runstream")

MAX_DELAY_S: Final = 2.0
"""How long to wait at most before the server, if it is away, is told again. A lease is short."""

WATCH_AFTER_S: Final = 0.2
"""A function that ends sooner is not worth a subscription to its run."""

LAST_WORD_S: Final = 5.0
"""How long the outcome of a run may take when its lease is lost already."""

GIVE_BACK_S: Final = 5.0
STOP_S: Final = 5.0
"""How long a function may take to stop when its worker ends."""

NAG_S: Final = 60.0

SKIPPED: Final = ("payload", "output", "error", "metadata", "tags")


class Ended(StrEnum):
    """How an execution ended."""

    REPORTED = "reported"
    """The function ended, and the server was told how."""
    STOPPED = "stopped"
    """The run was canceled or timed out, or is another worker's now: nothing was reported."""
    RELEASED = "released"
    """The worker stops: the run is queued again."""
    UNTOLD = "untold"
    """The function ended, and the server could not be told in time."""


class Execution:
    """One claimed run: the call of its function, and what is told of it."""

    def __init__(
        self,
        http: Http,
        subscribing: Subscribing,
        work: Work[Any, Any],
        run: AnyRun,
        *,
        lease_s: float,
        since: float,
    ) -> None:
        self.run: Final = run
        self._http = http
        self._runs = Runs(http)
        self._subscribing = subscribing
        self._work = work
        self._lease = Lease(self._runs, run, lease_s, since)
        self._released = asyncio.Event()
        self._is_unwanted = False
        """Whether the function is being stopped, for whatever reason."""

    def release(self) -> None:
        """Stops the function, and gives the run to whoever wants it."""
        self._released.set()

    async def execute(self) -> Ended:
        """Executes the run to its end; cancelled, it stops the function first."""
        if not await self._lease.is_held():
            return Ended.STOPPED
        reporter = Reporter(
            self._http, self.run, None, {}, beats=False, max_delay_s=MAX_DELAY_S
        )  # fmt: skip
        told: ReportedRun[Any, Any] = ReportedRun(reporter)
        reported_run.set(told)
        await reporter.start(LAST_WORD_S)
        function = asyncio.create_task(self._call(told), name=f"run {self.run.id}")
        keeping = asyncio.create_task(self._lease.keep())
        watching = asyncio.create_task(self._watch())
        releasing = asyncio.create_task(self._released.wait())
        try:
            ends = {function, keeping, watching, releasing}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            is_lost = keeping.done() or watching.done()
            watching.cancel()
            if function.done():
                return await self._tell(reporter, function.result(), keeping)
            self._stop(told, function)
            if is_lost:
                # Nothing of it may be told any more, whatever it still does.
                await reporter.abandon()
                log.info("run %s is no longer this worker's: it is stopped", self.run.id)
                await self._end_of(function, releasing)
                return Ended.STOPPED
            await self._end_of(function, releasing)
            if function.done() and not function.cancelled():
                # It had an outcome ready, or made one of its being stopped.
                return await self._tell(reporter, function.result(), keeping)
            await reporter.finish(None, GIVE_BACK_S)
            await give_back(self._runs, self.run)
            return Ended.RELEASED
        finally:
            self._stop(told, function)
            for task in (keeping, watching, releasing):
                task.cancel()
            await asyncio.gather(keeping, watching, releasing, return_exceptions=True)
            await asyncio.wait({function}, timeout=LAST_WORD_S)
            await reporter.abandon()

    def _stop(self, told: ReportedRun[Any, Any], function: asyncio.Task[RunUpdate]) -> None:
        self._is_unwanted = True
        told.stop()
        function.cancel()

    async def _end_of(
        self, function: asyncio.Task[RunUpdate], releasing: asyncio.Task[bool]
    ) -> None:
        """Waits for a function that was stopped; when the worker ends, no longer than a moment."""
        while not function.done():
            if releasing.done():
                await asyncio.wait({function}, timeout=STOP_S)
                if not function.done():
                    log.warning("the function of run %s does not stop: it is left", self.run.id)
                return
            await asyncio.wait(
                {function, releasing}, timeout=NAG_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not function.done():
                log.warning("the function of run %s was stopped and goes on", self.run.id)

    async def _call(self, told: ReportedRun[Any, Any]) -> RunUpdate:
        """What the function comes to, as the run's last change."""
        try:
            payload = self._work.task.read_payload(self.run)
        except DecodeError as error:
            log.warning("run %s is FAILED: %s", self.run.id, error)
            return outcome_of(error, None)
        try:
            result = await self._work.execute(payload)
        except asyncio.CancelledError as error:
            if self._is_unwanted:
                raise
            # Nobody canceled the run: something in the function has cancelled itself.
            return RunUpdate("", status=RunStatus.FAILED, error=_told(error, "it was cancelled"))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return outcome_of(error, told.output)
        if told.output is None:
            told.output = result
        try:
            values.encode(told.output)
        except (TypeError, ValueError) as error:
            text = f"the output cannot be written as JSON: {error}"
            return RunUpdate("", status=RunStatus.FAILED, error=_told(error, text))
        return outcome_of(None, told.output)

    async def _tell(
        self, reporter: Reporter, outcome: RunUpdate, keeping: asyncio.Task[None]
    ) -> Ended:
        # It is told for as long as the lease can be kept. That the run is no longer executing
        # may also be just this outcome's doing, before its answer has come.
        finishing = asyncio.create_task(reporter.finish(outcome, None))
        try:
            await asyncio.wait({finishing, keeping}, return_when=asyncio.FIRST_COMPLETED)
            done, _ = await asyncio.wait({finishing}, timeout=LAST_WORD_S)
            if not done:
                log.warning(
                    "the outcome of run %s could not be told: its lease is lost", self.run.id
                )
                return Ended.UNTOLD
            match reporter.status:
                case RunStatus.COMPLETED | RunStatus.FAILED:
                    return Ended.REPORTED
                case RunStatus.EXECUTING:
                    return Ended.UNTOLD
                case _:
                    return Ended.STOPPED
        finally:
            finishing.cancel()
            await asyncio.gather(finishing, return_exceptions=True)

    async def _watch(self) -> None:
        """Returns when the run is over, or is no longer executing in this attempt."""
        await asyncio.sleep(WATCH_AFTER_S)
        subscription = self._subscribing.subscribe_to_run(
            self.run.id, skip=SKIPPED, delivery="latest"
        )
        try:
            async for seen in subscription:
                if seen.status is not RunStatus.EXECUTING or seen.attempt != self.run.attempt:
                    return
            if subscription.end_reason == "deleted":
                return
        except RunstreamError as error:
            log.warning("a cancel of run %s is heard late: %s", self.run.id, error)
        finally:
            await subscription.aclose()
        # The heartbeats still tell.
        await asyncio.Event().wait()


async def give_back(runs: Runs, run: AnyRun) -> None:
    """Queues a run again that this worker has claimed. Tries for a few seconds, never raises."""
    steps = [
        RunUpdate(run.id, status, if_attempt=run.attempt)
        for status in (RunStatus.REATTEMPTING, RunStatus.QUEUED)
    ]
    try:
        async with asyncio.timeout(GIVE_BACK_S):
            results = await runs.bulk(steps)
    except (RunstreamError, TimeoutError) as error:
        log.warning("run %s waits for its lease to run out: %s", run.id, error)
        return
    for result in results:
        if isinstance(result, Refused):
            log.info("run %s is not given back: %s", run.id, result)
            return


def _told(error: BaseException, message: str) -> dict[str, str]:
    return {"name": type(error).__name__, "message": message}
