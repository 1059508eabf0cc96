"""Tells the server of one run: buffered, merged, tried again; in a task of its own."""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from runstream import values
from runstream.commands import UNSET, NewRun, Operation, RunOptions, RunUpdate, name_of
from runstream.errors import (
    BadRequest,
    Conflict,
    ConnectionLost,
    OutcomeUnknown,
    PayloadTooLarge,
    Refused,
    RunstreamError,
    TooManyRequests,
    Unavailable,
    Unprocessable,
)
from runstream.http import Http, part
from runstream.models import AnyRun, AnyTask, Run, RunStatus
from runstream.outbox import Outbox

log: Final = logging.getLogger("runstream")

MIN_INTERVAL_S: Final = 0.2
MAX_DELAY_S: Final = 10.0
MAX_STACK: Final = 16_000

PASSING: Final = (ConnectionLost, OutcomeUnknown, Unavailable, TooManyRequests)


class Reporter:
    """Tells the server of one run, in a task of its own, as well as the server can be told."""

    def __init__(
        self,
        http: Http,
        work: AnyTask | str | AnyRun,
        payload: Any,
        options: RunOptions,
        *,
        beats: bool = True,
        max_delay_s: float = MAX_DELAY_S,
    ) -> None:
        self.run_id: str | None = None
        self.status = RunStatus.EXECUTING
        self.is_settled: Final = asyncio.Event()
        """Whether there is a run, or will be none."""
        self._http = http
        self._work = work
        self._payload = payload
        self._options = options
        self._beats = beats
        self._max_delay_s = max_delay_s
        self._outbox = Outbox()
        self._more = asyncio.Event()
        self._ending = asyncio.Event()
        self._outcome: RunUpdate | None = None
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._has_warned = False
        self._attempt: int | None = None
        if isinstance(work, Run):
            self.run_id, self.status = work.id, work.status
            if work.status is RunStatus.EXECUTING:
                # Claimed: what is said is of this attempt, and never of the next worker's.
                self._attempt = work.attempt

    # From the job

    async def start(self, patience_s: float) -> None:
        """Begins to report. Waits a moment for the server, so that the run mostly has its id."""
        # Its parent is the report, which waits for it in `finish`. A task group would end
        # the job when reporting fails, and reporting when the job does.
        self._task = self._loop.create_task(self._tell(), name="runstream report")
        settled = self._loop.create_task(self.is_settled.wait())
        try:
            await asyncio.wait({settled}, timeout=patience_s)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        finally:
            settled.cancel()

    async def finish(self, outcome: RunUpdate | None, patience_s: float | None) -> None:
        """Reports the outcome; after `patience_s` it goes without. None is no outcome, no limit.

        What was put before is sent first. Cancelled, it says nothing more.
        """
        assert self._task is not None
        self._outcome = outcome
        if self._attempt is not None and outcome is not None:
            self._outcome = replace(outcome, if_attempt=self._attempt)
        self._ending.set()
        self._more.set()
        try:
            _, late = await asyncio.wait({self._task}, timeout=patience_s)
            if late:
                log.warning("the end of a run could not be reported: the server is away")
        finally:
            self._task.cancel()
        await asyncio.wait({self._task})

    async def abandon(self) -> None:
        """Says nothing more: somebody else has the run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def put(self, operation: Operation) -> None:
        """Takes an operation on the metadata."""
        try:
            values.encode(operation)
        except (TypeError, ValueError) as error:
            log.error("metadata %s is not reported: %s", operation.path, error)
            return
        self._outbox.put(operation)
        if self._outbox.dropped:
            self._warn("more was reported than can be kept; the oldest is dropped")
        self._wake()

    def add_tags(self, tags: tuple[str, ...]) -> None:
        """Takes tags."""
        self._outbox.add_tags(tags)
        self._wake()

    def _wake(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._more.set)

    # To the server

    async def _tell(self) -> None:
        try:
            await self._begin()
            if self.run_id is not None:
                await self._follow()
        except Refused as error:
            self._warn(f"the server refuses the run, so it is not reported: {error}")
        except Exception:
            log.exception("reporting has failed; the job goes on")
        finally:
            self.is_settled.set()

    async def _begin(self) -> None:
        if isinstance(self._work, Run):
            self.is_settled.set()
            if self.status is not RunStatus.EXECUTING:
                await self._update(RunUpdate(self._work.id, status=RunStatus.EXECUTING))
            return
        new: NewRun[Any, Any] = NewRun(
            name_of(self._work),
            self._payload,
            **{"status": RunStatus.EXECUTING, **self._options},  # type: ignore[arg-type]
        )
        body = new.body()
        try:
            values.encode(body)
        except (TypeError, ValueError) as error:
            self._warn(f"the payload cannot be written as JSON, so the run has none: {error}")
            body.pop("payload", None)
        # One key for all tries, so that the run is made once, whatever becomes of answers.
        await self._send("POST", "/v1/runs", body)
        self.is_settled.set()

    async def _follow(self) -> None:
        beat_s = self._heartbeat_s()
        next_beat = None if beat_s is None else self._loop.time() + beat_s
        while True:
            if next_beat is not None and beat_s is not None and self._loop.time() >= next_beat:
                next_beat = self._loop.time() + beat_s
                await self._beat()
            try:
                async with asyncio.timeout_at(next_beat):
                    await self._more.wait()
            except TimeoutError:
                continue
            if not self._ending.is_set():
                # More may follow at once, and goes along.
                with suppress(TimeoutError):
                    async with asyncio.timeout(MIN_INTERVAL_S):
                        await self._ending.wait()
            self._more.clear()
            await self._flush()
            if self._ending.is_set() and not self._outbox:
                if self._outcome is not None:
                    await self._update(self._outcome)
                return

    async def _flush(self) -> None:
        operations, tags = self._outbox.take()
        path = f"/v1/runs/{part(self.run_id or '')}"
        try:
            if operations:
                await self._send("POST", f"{path}/metadata", {"operations": operations})
            if tags:
                await self._send("PATCH", path, {"addTags": tags})
        except Refused as error:
            self._warn(f"the server refuses what is reported: {error}")

    async def _update(self, update: RunUpdate) -> None:
        body = update.body()
        try:
            values.encode(body)
        except (TypeError, ValueError) as error:
            self._warn(f"the output cannot be written as JSON, so the run has none: {error}")
            body.pop("output", None)
        try:
            await self._send("PATCH", f"/v1/runs/{part(self.run_id or '')}", body)
        except Conflict as error:
            # Somebody was faster: canceled it, say. That is the run's outcome, then.
            if error.run is not None:
                self.status = error.run.status
            log.info("the outcome of run %s was not taken: %s", self.run_id, error)
        except (BadRequest, PayloadTooLarge, Unprocessable) as error:
            # An output above the limit, say. Whoever waits for the run's end is told of one.
            if update.status is not RunStatus.COMPLETED:
                raise
            self._warn(f"the server refuses the output, so the run is FAILED: {error}")
            told = {"name": type(error).__name__, "message": f"the output was refused: {error}"}
            failed = RunUpdate(
                update.run_id, RunStatus.FAILED, error=told, if_attempt=update.if_attempt
            )
            await self._update(failed)

    async def _beat(self) -> None:
        told = None if self._attempt is None else values.encode({"attempt": self._attempt})
        try:
            await self._http.request(
                "POST", f"/v1/runs/{part(self.run_id or '')}/heartbeat", content=told, tries=1
            )
        except RunstreamError as error:
            log.debug("a heartbeat was not taken: %s", error)

    async def _send(self, method: str, path: str, body: Any) -> None:
        key = uuid.uuid4().hex
        failures = 0
        while True:
            try:
                run = await self._http.call(
                    AnyRun, method, path, body=body, command_key=key, tries=1
                )
            except PASSING as error:
                failures += 1
                self._warn(f"the server cannot be told of a run, it is tried again: {error}")
                delay_s: float = min(self._max_delay_s, 0.1 * 2.0 ** min(failures, 10))
                wait_s = getattr(error, "retry_after", None) or 0.0
                await asyncio.sleep(max(wait_s, delay_s * random.uniform(0.5, 1)))
            else:
                self.run_id, self.status = run.id, run.status
                return

    def _heartbeat_s(self) -> float | None:
        if not self._beats:
            return None
        timeout = self._options.get("heartbeat_timeout")
        if timeout is None and isinstance(self._work, Run):
            timeout = self._work.heartbeat_timeout
        return None if not timeout else timeout / 3

    def _warn(self, text: str) -> None:
        # Once a run: a server that is away is no reason to fill a job's log.
        log.log(logging.DEBUG if self._has_warned else logging.WARNING, "%s", text)
        self._has_warned = True


def outcome_of(error: BaseException | None, output: Any) -> RunUpdate:
    match error:
        case None:
            return RunUpdate("", status=RunStatus.COMPLETED, output=_or_unset(output))
        case SystemExit(code=None | 0):
            return RunUpdate("", status=RunStatus.COMPLETED, output=_or_unset(output))
        case asyncio.CancelledError() | KeyboardInterrupt() | GeneratorExit():
            return RunUpdate("", status=RunStatus.CANCELED)
        case _:
            stack = "".join(traceback.format_exception(error))
            told = {
                "name": type(error).__name__,
                "message": str(error),
                "stack": stack[-MAX_STACK:],
            }
            return RunUpdate("", status=RunStatus.FAILED, error=told)


def _or_unset(output: Any) -> Any:
    return UNSET if output is None else output
