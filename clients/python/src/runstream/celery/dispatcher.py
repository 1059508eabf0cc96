"""Sends queued runs to Celery, and revokes those that are canceled."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from celery import Celery
from celery.app.task import Task as CeleryTask

from runstream.celery.place import sent_as, task_id_of
from runstream.changes import Changed, Entered, Left, Live, Reset
from runstream.client import Runstream
from runstream.errors import ClientClosed, Conflict, NotFound, RunstreamError, StreamEnded
from runstream.models import AnyRun, AnyTask, RunStatus, Task
from runstream.reporter import PASSING

log: Final = logging.getLogger("runstream")

AT_ONCE: Final = 16
MAX_DELAY_S: Final = 10.0
UNSEEN: Final = ("output", "error")
OPEN: Final = tuple(status for status in RunStatus if not status.is_final)
STOPPED: Final = frozenset({RunStatus.CANCELED, RunStatus.EXPIRED, RunStatus.TIMED_OUT})


class Dispatcher:
    """Sends queued runs of some tasks to tasks of Celery: `await Dispatcher(…).run()`.

    `tasks` says which is which: `{"resize": "shop.tasks.resize"}`, or the tasks themselves. A
    payload that is an object is given as keyword arguments (one of just `args` and `kwargs`
    as these), any other as the only argument. `options` go with each task, as in Celery's
    `send_task`: `queue`, `priority` …

    The run stays QUEUED while Celery has it in its queue, and is then moved by the signals
    that `connect` listens to, in the workers. A run that is canceled, expires or times out
    is revoked, and terminated if it had begun.

    There may be several, for the same tasks: each run is marked before it is sent, and one
    alone can mark it. One that dies between the two leaves a run that is marked and perhaps
    not sent: after `resend_s` seconds it is sent again. So a task is sent at least once, as
    it is with Celery itself. No `Worker` may execute the same tasks.
    """

    def __init__(
        self,
        client: Runstream,
        app: Celery,
        tasks: Mapping[AnyTask, CeleryTask | str] | Mapping[str, CeleryTask | str],
        *,
        options: Mapping[str, Any] | None = None,
        resend_s: float = 30.0,
    ) -> None:
        if not tasks:
            raise ValueError("there are no tasks to send runs to")
        self._client = client
        self._app = app
        self._names: Final[Mapping[str, str]] = {
            task.name if isinstance(task, Task) else task: sent
            if isinstance(sent, str)
            else sent.name
            for task, sent in tasks.items()
        }
        self._options = dict(options or {})
        self._resend_s = resend_s
        self._room = asyncio.Semaphore(AT_ONCE)
        self._work: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self.sent = 0
        """How many tasks were sent."""

    def stop(self) -> None:
        """Lets it end, once what is being sent is sent."""
        self._stopping.set()

    async def run(self, *, handle_signals: bool = True) -> None:
        """Sends what is queued, until it is stopped or SIGTERM comes.

        While the server or Celery's broker is away it waits, and goes on by itself. Raises
        what the server refuses for good: a wrong key, say.
        """
        listening = asyncio.create_task(self._listen(), name="runstream dispatcher")
        stopping = asyncio.create_task(self._stopping.wait())
        waits: set[asyncio.Task[Any]] = {listening, stopping}
        with self._signals(handle_signals):
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._stopping.set()
                for task in waits:
                    task.cancel()
                await asyncio.gather(*waits, *self._work.values(), return_exceptions=True)
        if not listening.cancelled() and (error := listening.exception()) is not None:
            raise error

    async def _listen(self) -> None:
        subscription = self._client.subscribe_to_runs(
            tasks=list(self._names), statuses=OPEN, skip=UNSEEN, delivery="latest", limit=10_000
        )
        async for change in subscription.changes():
            match change:
                case Entered(run) | Changed(run):
                    self._consider(run)
                case Left(run) if run.status in STOPPED:
                    self._begin(f"revoke {run.id}", self._revoke(run))
                case Live() if subscription.truncated:
                    # The snapshot has the newest; there are older ones that wait.
                    self._begin("list", self._list())
                case Reset():
                    pass  # What is being sent is sent all the same.
        if subscription.end_reason == "closed":
            raise ClientClosed("the client of the dispatcher was closed")
        raise StreamEnded(subscription.end_reason or "unsubscribed")

    async def _list(self) -> None:
        listing = self._client.runs.list(tasks=list(self._names), statuses=[RunStatus.QUEUED])
        while True:
            try:
                async for run in listing:
                    self._consider(run)
                return
            except PASSING as error:
                log.info("what is queued is listed again: %s", error)
                await asyncio.sleep(random.uniform(1, 2))

    def _consider(self, run: AnyRun) -> None:
        if run.status is not RunStatus.QUEUED or run.id in self._work:
            return
        about = run.metadata.get("celery")
        task_id = about.get("id") if isinstance(about, dict) else None
        if isinstance(task_id, str):
            if sent_as(task_id) is None:
                return  # It was published by somebody else.
            if task_id == task_id_of(run):
                if isinstance(about, dict) and about.get("state") == "sending":
                    # By another dispatcher, which may be gone.
                    self._begin(run.id, self._send_later(run))
                return
        self._begin(run.id, self._send(run))

    def _begin(self, key: str, work: Any) -> None:
        task = asyncio.create_task(work)
        self._work[key] = task
        task.add_done_callback(lambda done: self._done(key, done))

    def _done(self, key: str, task: asyncio.Task[None]) -> None:
        if self._work.get(key) is task:
            del self._work[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("dispatcher, %s: %r", key, error)

    async def _send_later(self, run: AnyRun) -> None:
        try:
            async with asyncio.timeout(self._resend_s):
                await self._stopping.wait()
                return
        except TimeoutError:
            pass
        now = await self._present(run)
        if now is None or now.status is not RunStatus.QUEUED:
            return
        about = now.metadata.get("celery")
        if isinstance(about, dict) and about.get("state") == "sending":
            await self._send(now)

    async def _present(self, run: AnyRun) -> AnyRun | None:
        try:
            return await self._client.runs.get(run.id)
        except NotFound:
            return None

    async def _send(self, run: AnyRun) -> None:
        async with self._room:
            marked = await self._mark(run)
            if marked is None:
                return
            task_id = task_id_of(marked)
            args, kwargs = _arguments(marked.payload)
            failures = 0
            while not self._stopping.is_set():
                try:
                    # With a publisher of Celery: it blocks while the broker is away.
                    await asyncio.to_thread(
                        self._app.send_task,
                        self._names[run.task_identifier],
                        args,
                        kwargs,
                        task_id=task_id,
                        **self._options,
                    )
                except Exception as error:
                    # Whatever the broker's library raises. The run waits for it.
                    failures += 1
                    level = logging.WARNING if failures == 1 else logging.DEBUG
                    log.log(level, "run %s cannot be sent to Celery yet: %r", run.id, error)
                    await self._pause(failures)
                else:
                    break
            else:
                return
            self.sent += 1
            await self._tried(self._client.runs.update(
                run.id, metadata={"celery": {"state": "sent"}}
            ))  # fmt: skip

    async def _mark(self, run: AnyRun) -> AnyRun | None:
        """The run, marked as being sent by this dispatcher; None if it is another's, or over."""
        failures = 0
        mark: dict[str, Any] = {"celery": {"id": task_id_of(run), "state": "sending"}}
        before = run.metadata.get("celery")
        if isinstance(before, dict) and before.get("id") == mark["celery"]["id"]:
            # Sent again: the mark has to change, so that one dispatcher alone gets it.
            mark["celery"]["tries"] = int(before.get("tries") or 1) + 1
        while not self._stopping.is_set():
            try:
                return await self._client.runs.update(run.id, metadata=mark, if_version=run.version)
            except Conflict as error:
                now = error.run
                if now is None or now.status is not RunStatus.QUEUED:
                    return None
                if now.metadata.get("celery") != before:
                    return None
                run = now  # Something else of it has changed: a tag, say.
            except NotFound:
                return None
            except PASSING as error:
                failures += 1
                log.info("run %s is marked later: %s", run.id, error)
                await self._pause(failures)
        return None

    async def _revoke(self, run: AnyRun) -> None:
        about = run.metadata.get("celery")
        task_id = about.get("id") if isinstance(about, dict) else None
        if not isinstance(task_id, str):
            return
        for failures in range(1, 4):
            try:
                # Whether it has begun is known for sure by its worker alone.
                await asyncio.to_thread(self._app.control.revoke, task_id, terminate=True)
            except Exception as error:
                log.warning("run %s cannot be revoked yet: %r", run.id, error)
                await self._pause(failures)
            else:
                return

    async def _tried(self, call: Any) -> None:
        try:
            await call
        except RunstreamError as error:
            log.info("that a run was sent is not noted: %s", error)

    async def _pause(self, failures: int) -> None:
        delay_s = min(MAX_DELAY_S, 0.1 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1)
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    @contextmanager
    def _signals(self, wanted: bool) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        heeded: list[signal.Signals] = []
        try:
            for number in (signal.SIGTERM, signal.SIGINT) if wanted else ():
                try:
                    loop.add_signal_handler(number, self.stop)
                except (NotImplementedError, RuntimeError, ValueError):
                    break
                heeded.append(number)
            yield
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)


def _arguments(payload: Any) -> tuple[list[Any], dict[str, Any]]:
    match payload:
        case None:
            return [], {}
        case {"args": list(args), "kwargs": dict(kwargs), **rest} if not rest:
            return args, kwargs
        case dict():
            return [], payload
        case _:
            return [payload], {}
