"""Hands out queued runs to workers: the oldest first, each to one worker alone."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import answers as answer_codec
from store.broker import Hint
from store.bulk import among
from store.commands import (
    ClaimRun,
    Done,
    Limits,
    Submission,
    UpdateRun,
    check_claim,
    check_words,
)
from store.engine import Database
from store.errors import IdempotencyKeyReused, Invalid, StoreError, Unavailable
from store.model import Run, RunStatus
from store.once import Key
from store.tables import answers, runs
from store.writer.group import Committed, run_group
from store.writer.staged import Outcomes

log = logging.getLogger(__name__)

TASKS_MAX: Final = 100
WAIT_MAX_S: Final = 60.0
AT_ONCE: Final = 200
"""How many claims one transaction serves at most."""

LOOK_EVERY_S: Final = 0.5
"""How often it is looked whether another process has queued what claims wait for."""

TRIES: Final = 20
"""How often a claim is tried again while what it could have is in other hands for a moment."""


class Wish:
    """A claim and who waits for it."""

    __slots__ = ("future", "key", "lease_s", "project", "tasks", "woken", "worker")

    def __init__(
        self, project: str, tasks: frozenset[str], worker: str, lease_s: int, key: Key | None
    ) -> None:
        self.project = project
        self.tasks = tasks
        self.worker = worker
        self.lease_s = lease_s
        self.key = key
        self.woken = asyncio.Event()
        self.future: asyncio.Future[_Tried] = asyncio.get_running_loop().create_future()

    def submission(self, run_id: str) -> Submission:
        claim = ClaimRun(
            project=self.project, run_id=run_id, worker=self.worker, lease_s=self.lease_s
        )
        return Submission(
            project=self.project,
            commands=(claim,),
            key=None if self.key is None else self.key.key,
            fingerprint="" if self.key is None else self.key.fingerprint,
        )


class _Tried(NamedTuple):
    """What came of one try."""

    run: Run | None
    again: bool = False
    """There was something, but others held it at that moment."""


class Claims:
    """Serves the claims of one process, many in one transaction.

    Two servers, or two workers, never get one run: it is taken under its row's lock, and
    only while it is QUEUED.
    """

    def __init__(
        self,
        database: Database,
        carry_out: Callable[[Callable[[Connection], Committed]], Awaitable[Committed]],
        submit: Callable[[Submission], Awaitable[Outcomes]],
        limits: Limits,
    ) -> None:
        self._database = database
        self._carry_out = carry_out
        self._submit = submit
        self._limits = limits
        self._queue: deque[Wish] = deque()
        self._serving: asyncio.Task[None] | None = None
        self._parked: dict[Wish, None] = {}
        """The claims that wait for a run to be queued, those that have waited longest first."""
        self._closed = False
        self._giving_back: set[asyncio.Task[None]] = set()

    async def claim(
        self,
        project: str,
        tasks: Iterable[str],
        worker: str,
        lease_s: int,
        *,
        wait_s: float = 0.0,
        key: Key | None = None,
    ) -> Run | None:
        """The oldest QUEUED run of these tasks, EXECUTING now; None if none came in time.

        Whoever gets it keeps it by a heartbeat at least every `lease_s`. Cancelled, it leaves
        nothing claimed. Raises Invalid, Unavailable or OutcomeUnknown.
        """
        wanted = frozenset(tasks)
        _check(wanted, worker, lease_s, wait_s)
        if key is not None:
            first = await self._database.read(_first_answer, key)
            if first is not None:
                return first
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        tries = 0
        while True:
            if self._closed:
                raise Unavailable("the server is stopping")
            wish = Wish(project, wanted, worker, lease_s, key)
            # Parked before it is tried: what is queued during the try is not missed.
            self._parked[wish] = None
            try:
                tried = await self._try(wish)
                if tried.run is not None:
                    return tried.run
                left_s = until - clock()
                if tried.again and tries < TRIES:
                    tries += 1
                    await asyncio.sleep(random.uniform(0.002, 0.02))
                elif left_s <= 0:
                    return None
                else:
                    tries = 0
                    try:
                        async with asyncio.timeout(left_s):
                            await wish.woken.wait()
                    except TimeoutError:
                        pass  # one last look, as the wait is over
            finally:
                self._parked.pop(wish, None)

    def told(self, hints: Iterable[Hint]) -> None:
        """Wakes as many claims as there are runs newly queued. Never raises, never waits."""
        if not self._parked:
            return
        queued = Counter(
            (hint.run.project, hint.run.task_identifier)
            for hint in hints
            if hint.run is not None
            and hint.run.status == RunStatus.QUEUED
            and hint.run.job_id is None
            and (hint.change.before is None or hint.change.before.status != RunStatus.QUEUED)
        )
        if queued:
            self._wake(queued)

    def _wake(self, queued: Counter[tuple[str, str]]) -> None:
        for wish in self._parked:
            if wish.woken.is_set():
                continue
            for task in wish.tasks:
                if queued[wish.project, task] > 0:
                    queued[wish.project, task] -= 1
                    wish.woken.set()
                    break

    async def run(self) -> None:
        """Looks, while claims wait, for what other processes have queued; until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S * random.uniform(0.8, 1.2))
            wanted = {(wish.project, task) for wish in self._parked for task in wish.tasks}
            if not wanted:
                continue
            try:
                self._wake(await self._database.read(_waiting, wanted, len(self._parked)))
            except StoreError as error:
                log.debug("claims: %s", error)

    @property
    def parked(self) -> int:
        """How many claims there are at present."""
        return len(self._parked)

    async def close(self) -> None:
        """Sends home who waits, and takes no more."""
        self._closed = True
        for wish in list(self._parked):
            if not wish.future.done():
                wish.future.set_exception(Unavailable("the server is stopping"))
            wish.woken.set()

    async def _try(self, wish: Wish) -> _Tried:
        self._queue.append(wish)
        if self._serving is None:
            self._serving = asyncio.get_running_loop().create_task(self._serve())
        return await wish.future

    async def _serve(self) -> None:
        while self._queue:
            some: list[Wish] = []
            while self._queue and len(some) < AT_ONCE:
                wish = self._queue.popleft()
                if not wish.future.done():
                    some.append(wish)
            if not some:
                continue
            round_ = _Round(some, self._limits)
            try:
                await self._carry_out(round_)
            except Exception as error:
                for wish in some:
                    if not wish.future.done():
                        wish.future.set_exception(error)
                continue
            for wish, tried in zip(some, round_.tried, strict=True):
                if isinstance(tried, StoreError):
                    if not wish.future.done():
                        wish.future.set_exception(tried)
                elif not wish.future.done():
                    wish.future.set_result(tried)
                elif tried.run is not None:
                    self._give_back(tried.run)
        self._serving = None

    def _give_back(self, run: Run) -> None:
        """Queues a run again whose claimer is gone: before its lease would have run out."""
        task = asyncio.get_running_loop().create_task(self._queue_again(run))
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _queue_again(self, run: Run) -> None:
        steps = tuple(
            UpdateRun(project=run.project, run_id=run.id, status=to, if_attempt=run.attempt)
            for to in (RunStatus.REATTEMPTING, RunStatus.QUEUED)
        )
        try:
            await self._submit(Submission(project=run.project, commands=steps, atomic=True))
        except StoreError as error:
            log.info("run %s waits for its lease to run out: %s", run.id, error)


def _check(tasks: frozenset[str], worker: str, lease_s: int, wait_s: float) -> None:
    if not 1 <= len(tasks) <= TASKS_MAX:
        raise Invalid("tasks", f"must hold 1 to {TASKS_MAX} tasks")
    for task in tasks:
        check_words("tasks", task, 256)
    check_claim(worker, lease_s)
    if not 0 <= wait_s <= WAIT_MAX_S:
        raise Invalid("waitS", f"must be from 0 to {WAIT_MAX_S:g}")


class _Round:
    """One transaction of claims."""

    def __init__(self, wishes: Sequence[Wish], limits: Limits) -> None:
        self._wishes = wishes
        self._limits = limits
        self.tried: list[_Tried | StoreError] = []

    def __call__(self, connection: Connection) -> Committed:
        picked: dict[Wish, str] = {}
        again: set[Wish] = set()
        alike: dict[tuple[str, frozenset[str]], list[Wish]] = {}
        for wish in self._wishes:
            alike.setdefault((wish.project, wish.tasks), []).append(wish)
        for (project, tasks), wishes in alike.items():
            found = _pick(connection, project, sorted(tasks), len(wishes), list(picked.values()))
            picked |= zip(wishes, found.ids, strict=False)
            if found.held_by_others:
                again |= set(wishes)
        if not picked:
            self.tried = [_Tried(None, wish in again) for wish in self._wishes]
            return Committed([], [], 0)
        served = list(picked)
        committed = run_group(
            connection, [wish.submission(picked[wish]) for wish in served], self._limits
        )
        outcomes = dict(zip(served, committed.outcomes, strict=True))
        self.tried = [
            _tried(outcomes[wish]) if wish in outcomes else _Tried(None, wish in again)
            for wish in self._wishes
        ]
        return committed


def _tried(outcomes: Outcomes | StoreError) -> _Tried | StoreError:
    outcome = outcomes if isinstance(outcomes, StoreError) else outcomes[0]
    if isinstance(outcome, Done):
        return _Tried(outcome.run)
    if isinstance(outcome, IdempotencyKeyReused):
        return outcome
    return _Tried(None, again=True)  # it was taken in this very transaction: there may be others


class _Picked(NamedTuple):
    ids: list[str]
    held_by_others: bool


def _pick(
    connection: Connection, project: str, tasks: Sequence[str], count: int, taken: Sequence[str]
) -> _Picked:
    """The oldest that wait, locked, with the job runs that they are steps of."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(_oldest(project, tasks, count, taken)).all()
        return _Picked([row.id for row in rows], False)
    asked = {"project": project, "tasks": list(tasks), "count": count, "taken": list(taken)}
    rows = connection.execute(_LOCK_OLDEST, asked).all()
    job_runs = sorted({row.parent_run_id for row in rows if row.workflow_id is not None})
    free: set[str] = set()
    if job_runs:
        # Never waited for: whoever has a job run's lock may be waiting for its step's.
        free = set(
            connection.scalars(
                sa.select(runs.c.id)
                .where(among(connection, runs.c.id, job_runs))
                .order_by(runs.c.id)
                .with_for_update(skip_locked=True)
            )
        )
    ids = [row.id for row in rows if row.workflow_id is None or row.parent_run_id in free]
    held = False
    if len(ids) < count:
        held = connection.execute(_oldest(project, tasks, 1, [*taken, *ids])).first() is not None
    return _Picked(ids, held)


# The conditions of the index `runs_waiting`, as the databases must see them to use it.
_WAITS: Final = "status = 'QUEUED' AND job_id IS NULL"

_LOCK_OLDEST: Final = sa.text(
    f"""
    SELECT oldest.* FROM unnest(CAST(:tasks AS text[])) AS asked(task), LATERAL (
        SELECT id, number, parent_run_id, workflow_id FROM runs
        WHERE project = :project AND task_identifier = asked.task AND {_WAITS}
            AND id <> ALL(CAST(:taken AS text[]))
        ORDER BY number LIMIT :count FOR UPDATE SKIP LOCKED
    ) AS oldest ORDER BY oldest.number LIMIT :count
    """
)


def _oldest(
    project: str, tasks: Sequence[str], count: int, taken: Sequence[str] = ()
) -> sa.Select[Any]:
    """The oldest that wait; a scan for each task, of no more rows than are wanted."""
    parts = []
    for task in tasks:
        part = (
            sa.select(runs.c.id, runs.c.number)
            .where(runs.c.project == project, runs.c.task_identifier == task, sa.text(_WAITS))
            .order_by(runs.c.number)
            .limit(count)
        )
        if taken:
            part = part.where(runs.c.id.not_in(taken))
        parts.append(sa.select(part.subquery()))
    every = sa.union_all(*parts).subquery()
    return sa.select(every.c.id, every.c.number).order_by(every.c.number).limit(count)


def _waiting(
    connection: Connection, wanted: Iterable[tuple[str, str]], most: int
) -> Counter[tuple[str, str]]:
    """How many runs wait of each project and task, counted up to a bound."""
    return Counter(
        {
            (project, task): len(connection.execute(_oldest(project, [task], most)).all())
            for project, task in wanted
        }
    )


def _first_answer(connection: Connection, key: Key) -> Run | None:
    """The run that was claimed with the key before."""
    row = connection.execute(
        sa.select(answers).where(answers.c.project == key.project, answers.c.key == key.key)
    ).one_or_none()
    if row is None or not row.outcomes:
        return None
    if row.fingerprint != key.fingerprint:
        raise IdempotencyKeyReused(key.key)
    outcome = answer_codec.decode(row.outcomes)[0]
    return outcome.run if isinstance(outcome, Done) else None
