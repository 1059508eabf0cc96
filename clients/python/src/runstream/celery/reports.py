"""Tells the server of Celery's tasks, from a thread of its own that no worker waits for."""

from __future__ import annotations

import asyncio
import atexit
import importlib
import logging
import os
import random
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from runstream.celery.place import Rank, Report, sent_as, steps
from runstream.commands import NewRun, Operation, RunUpdate
from runstream.credentials import Credentials
from runstream.errors import Conflict, Refused, RunstreamError
from runstream.http import Http, part
from runstream.models import AnyRun
from runstream.outbox import Outbox
from runstream.reporter import PASSING
from runstream.resources.runs import Runs

log: Final = logging.getLogger("runstream")

AT_ONCE: Final = 200
KNOWN_MAX: Final = 10_000
TRIES: Final = 5
MAX_DELAY_S: Final = 10.0
PAUSE_S: Final = 0.02
"""What is reported in so short a time goes in one request."""
MAX_COMMANDS: Final = 1_000
WARN_EVERY_S: Final = 60.0
FORK_S: Final = 1.0
"""How long a fork may wait for the thread to finish what it says."""


IMPORTED_LATE: Final = (
    "httpcore2._async.http11",
    "httpcore2._backends.anyio",
    "httpcore2._backends.auto",
    "anyio._backends._asyncio",
    "anyio.streams.tls",
    "anyio.to_thread",
    "truststore",
    "encodings.idna",
)
"""What the HTTP client imports with its first request."""


class _Metadata(msgspec.Struct, frozen=True):
    """Operations on a run's metadata, and tags, that wait in the task's outbox."""

    task_id: str


class Reports:
    """Tells the server of tasks, in the background; what `connect` returns.

    `put` neither waits nor fails. What waits is bounded: above `max_waiting` the oldest is
    dropped, and counted in `dropped`, by why. A process that was forked begins with nothing,
    and a thread of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        max_waiting: int = 10_000,
        flush_s: float = 5.0,
        heartbeat_timeout: int | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._max_waiting = max_waiting
        self._flush_s = flush_s
        self._heartbeat_timeout = heartbeat_timeout
        self._timeout_s = timeout_s
        self._begin()
        # A worker forks whenever it likes. If it did while the thread imports something, the
        # new process would have half a module, for good.
        for name in IMPORTED_LATE:
            try:
                importlib.import_module(name)
            except ImportError:
                log.debug("there is no %s to be imported early", name)
        os.register_at_fork(
            before=self._hush, after_in_parent=self._unhush, after_in_child=self._begin
        )
        atexit.register(self.flush)

    def _begin(self) -> None:
        self.dropped: Counter[str] = Counter()
        """What was not told: `full`, `refused`, `too_late`; `failed` by a mistake here."""
        self.told = 0
        """How many reports the server knows of, or did not need."""
        self._waiting: deque[Report | _Metadata] = deque()
        self._outboxes: dict[str, Outbox] = {}
        self._running: dict[str, str] = {}
        self._lock = threading.Lock()
        self._is_told = threading.Condition(self._lock)
        self._talking = threading.Lock()
        self._is_hushed = False
        self._more = threading.Event()
        self._thread: threading.Thread | None = None
        self._deadline: float | None = None
        self._busy = False
        self._warned_at = 0.0

    def _hush(self) -> None:
        # Locks that the thread holds inside of libraries (an import's, OpenSSL's) would stay
        # locked in the new process. So it is let finish what it says, for a moment at most.
        self._is_hushed = self._talking.acquire(timeout=FORK_S)

    def _unhush(self) -> None:
        if self._is_hushed:
            self._is_hushed = False
            self._talking.release()

    # From the signals

    def put(self, report: Report) -> None:
        """Takes a report, to be told soon."""
        self._add(report)

    def operate(self, task_id: str, operation: Operation) -> None:
        """Takes an operation on the metadata of the task's run."""
        self._outbox(task_id).put(operation)
        self._add(_Metadata(task_id))

    def add_tags(self, task_id: str, tags: tuple[str, ...]) -> None:
        """Takes tags of the task's run."""
        self._outbox(task_id).add_tags(tags)
        self._add(_Metadata(task_id))

    def begins(self, task_id: str, task: str) -> None:
        """Says that a task is executed by this process, which shows that it lives."""
        self._running[task_id] = task

    def ends(self, task_id: str) -> None:
        """Says that it no longer is."""
        self._running.pop(task_id, None)

    def flush(self, within_s: float | None = None) -> bool:
        """Waits until all is told that was put, `flush_s` at most; whether it was.

        What was not is dropped, and counted.
        """
        if self._thread is None:
            return True
        deadline = time.monotonic() + (self._flush_s if within_s is None else within_s)
        self._deadline = deadline
        self._more.set()
        with self._is_told:
            left_s = max(0.0, deadline - time.monotonic())
            is_told = self._is_told.wait_for(
                lambda: not self._waiting and not self._busy, timeout=left_s
            )
            late = len(self._waiting)
            self._waiting.clear()
        if late:
            self._drop("too_late", late)
        self._deadline = None
        return is_told

    def _outbox(self, task_id: str) -> Outbox:
        with self._lock:
            return self._outboxes.setdefault(task_id, Outbox())

    def _add(self, item: Report | _Metadata) -> None:
        with self._lock:
            self._waiting.append(item)
            is_over = len(self._waiting) > self._max_waiting
            if is_over:
                oldest = self._waiting.popleft()
                if isinstance(oldest, _Metadata):
                    self._outboxes.pop(oldest.task_id, None)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="runstream reports", daemon=True
                )
                self._thread.start()
        if is_over:
            self._drop("full", 1)
        self._more.set()

    def _drop(self, why: str, count: int) -> None:
        self.dropped[why] += count
        now = time.monotonic()
        if now - self._warned_at > WARN_EVERY_S or not self._warned_at:
            self._warned_at = now
            log.warning("not all of Celery's tasks are reported, so far: %s", dict(self.dropped))

    # To the server

    def _run(self) -> None:
        try:
            asyncio.run(self._tell_for_ever(self._waiting))
        except Exception:
            log.exception("reporting of Celery's tasks has failed; it begins anew with the next")
        finally:
            self._rest()

    async def _tell_for_ever(self, mine: deque[Report | _Metadata]) -> None:
        http = Http(self._url, Credentials(self._api_key, None), timeout_s=self._timeout_s)
        teller = _Teller(http, self._heartbeat_timeout)
        next_beat = 0.0
        try:
            while mine is self._waiting:
                if not mine:
                    # A thread's wait, so that whoever puts something need not know the loop.
                    wait_s = 1.0 if self._running else 5.0
                    await asyncio.to_thread(self._more.wait, wait_s)
                self._more.clear()
                if mine and self._deadline is None:
                    await asyncio.sleep(PAUSE_S)
                await self._tell_some(teller)
                if time.monotonic() >= next_beat:
                    with self._talking:
                        next_beat = time.monotonic() + await teller.beat(list(self._running))
        finally:
            await http.aclose()

    async def _tell_some(self, teller: _Teller) -> None:
        with self._lock:
            some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            self._busy = bool(some)
        failures = 0
        try:
            while some:
                try:
                    with self._talking:
                        told, refused = await teller.tell(some, self._take)
                except PASSING as error:
                    failures += 1
                    if failures == 1:
                        log.warning("the server cannot be told of Celery's tasks yet: %s", error)
                    if self._is_late():
                        self._drop("too_late", len(some))
                        return
                    await asyncio.sleep(
                        0.05
                        if self._deadline is not None
                        else min(MAX_DELAY_S, 0.1 * 2.0 ** min(failures, 10))
                        * random.uniform(0.5, 1)
                    )
                else:
                    self.told += told
                    if refused:
                        self._drop("refused", refused)
                    return
        except RunstreamError as error:
            log.warning("the server refuses to be told of Celery's tasks: %s", error)
            self._drop("refused", len(some))
        except Exception:
            log.exception("some of Celery's tasks are not reported")
            self._drop("failed", len(some))
        finally:
            self._rest()

    def _rest(self) -> None:
        with self._is_told:
            self._busy = False
            self._is_told.notify_all()

    def _take(self, task_id: str) -> Outbox | None:
        with self._lock:
            return self._outboxes.pop(task_id, None)

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


class _Teller:
    """Brings runs to where their tasks are."""

    def __init__(self, http: Http, heartbeat_timeout: int | None) -> None:
        self._http = http
        self._runs = Runs(http)
        self._heartbeat_timeout = heartbeat_timeout
        self._known: OrderedDict[str, AnyRun] = OrderedDict()

    async def tell(
        self, some: list[Report | _Metadata], take: Callable[[str], Outbox | None]
    ) -> tuple[int, int]:
        """How many of these the server knows now, and how many it refused.

        Told again after an error, what it knows by then is not said twice.
        """
        reports = [item for item in some if isinstance(item, Report)]
        refused: set[str] = set()
        await self._meet(reports, refused)
        # Whoever follows a run hears no more of it once it has ended, and nothing of its
        # progress before it has begun.
        ending = {report.task_id for report in reports if report.rank is Rank.ENDED}
        tasks = dict.fromkeys(item.task_id for item in some)
        await self._operate_all([task_id for task_id in tasks if task_id in ending], take)
        left = [report for report in reports if report.task_id not in refused]
        for _ in range(TRIES):
            left = await self._advance(left, refused)
            if not left:
                break
        await self._operate_all([task_id for task_id in tasks if task_id not in ending], take)
        refused |= {report.task_id for report in left}
        count = sum(item.task_id in refused for item in some)
        return len(some) - count, count

    async def beat(self, task_ids: list[str]) -> float:
        """Shows that the worker lives, for the runs that were promised it; in how long again."""
        again_s = 60.0
        for task_id in task_ids:
            run = self._known.get(task_id)
            if run is not None and run.heartbeat_timeout:
                again_s = min(again_s, run.heartbeat_timeout / 3)
                try:
                    path = f"/v1/runs/{part(run.id)}/heartbeat"
                    await self._http.request("POST", path, tries=1)
                except RunstreamError as error:
                    log.debug("a heartbeat was not taken: %s", error)
        return min(again_s, 1.0 if task_ids else 60.0) if again_s == 60.0 else again_s

    async def _meet(self, reports: list[Report], refused: set[str]) -> None:
        """Gets to know the runs of these tasks; makes those that there are not."""
        new: dict[str, NewRun[Any, Any]] = {}
        for report in reports:
            if report.task_id in self._known or report.task_id in new:
                continue
            sent = sent_as(report.task_id)
            if sent is not None:
                try:
                    self._know(report.task_id, await self._runs.get(sent[0]))
                except Refused as error:
                    if isinstance(error, PASSING):
                        raise
                    log.warning("task %s is of no run: %s", report.task_id, error)
                    refused.add(report.task_id)
                continue
            # Whichever process comes first makes the run; the key says that it is the same.
            new[report.task_id] = NewRun(
                report.task,
                report.payload,
                tags=report.tags,
                metadata={"celery": report.about} if report.about else None,
                idempotency_key=f"celery:{report.task_id}",
                heartbeat_timeout=self._heartbeat_timeout,
            )
        if not new:
            return
        results = await self._runs.bulk(new.values())
        for task_id, result in zip(new, results, strict=True):
            if isinstance(result, Refused):
                log.warning("task %s cannot be made a run: %s", task_id, result)
                refused.add(task_id)
            else:
                self._know(task_id, result)

    async def _operate_all(self, task_ids: list[str], take: Callable[[str], Outbox | None]) -> None:
        for task_id in task_ids:
            outbox = take(task_id)
            if outbox is not None and task_id in self._known:
                await self._operate(self._known[task_id], outbox)

    async def _operate(self, run: AnyRun, outbox: Outbox) -> None:
        operations, tags = outbox.take()
        try:
            if operations:
                await self._runs.metadata(run.id, operations)
            if tags:
                await self._runs.update(run.id, add_tags=tags)
        except PASSING:
            raise
        except Refused as error:
            log.warning("metadata of run %s is refused: %s", run.id, error)

    async def _advance(self, reports: list[Report], refused: set[str]) -> list[Report]:
        """Moves the runs; gives back the reports on those that something else has moved."""
        updates: list[tuple[str, RunUpdate]] = []
        left: list[Report] = []
        by_task: dict[str, list[Report]] = {}
        for report in reports:
            by_task.setdefault(report.task_id, []).append(report)
        for task_id, several in by_task.items():
            # One that has ended says all that one that began does. Of each task only the
            # furthest is needed; what lies between follows from it.
            run = self._known[task_id]
            for report in sorted(several, key=_order)[-1:]:
                updates += [(task_id, update) for update in steps(run, report, run.version)]
        for begin in range(0, len(updates), MAX_COMMANDS):
            some = updates[begin : begin + MAX_COMMANDS]
            results = await self._runs.bulk([update for _, update in some])
            for (task_id, _), result in zip(some, results, strict=True):
                match result:
                    case Conflict() if result.run is not None:
                        self._know(task_id, result.run)
                        if by_task[task_id][0] not in left:
                            left += by_task[task_id]
                    case Refused():
                        log.warning("task %s: its run stays as it is: %s", task_id, result)
                        refused.add(task_id)
                    case _:
                        self._know(task_id, result)
        return [report for report in left if report.task_id not in refused]

    def _know(self, task_id: str, run: AnyRun) -> None:
        self._known[task_id] = run
        self._known.move_to_end(task_id)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)


def _order(report: Report) -> tuple[float, Rank]:
    if report.attempt is None:
        return (float("inf") if report.rank is Rank.ENDED else 0.0, report.rank)
    return (report.attempt, report.rank)
