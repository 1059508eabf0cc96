"""Lists: how long `GET /v1/job-runs` and `GET /v1/runs` take among a million runs, filter by filter.

A real server on each database, one caller, a page of 50. The rows are written straight into the
tables, the same on both from the same seed. Before a number is printed each answer is held
against the rows as they were made: the page has to be just the newest that fit, in order.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from bench.http import Caller
from bench.stats import Spread, table, usage
from store import bulk
from store.broker.memory import MemoryBroker
from store.jobs import rows as job_rows
from store.jobs.following import JobRunStatus, status_of
from store.lifecycle import is_final
from store.model import PlannedStep, Run, RunStatus, rfc3339
from store.rows import insert_runs
from store.runs import RunStore
from store.tables import run_tags
from tests.processes import Server, make_folder
from tests.servers import Postgres

RUNS: Final = 1_000_000
SEED: Final = 20
CALLS: Final = 25
BUDGET_MS: Final = 20.0

PROJECT: Final = "default"
STEPS: Final = 3
LOT: Final = 5_000
"""Rows a transaction while they are made."""
DAYS: Final = 90
BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)
JOBS: Final = [f"job_{place:026d}" for place in range(20)]
TASKS: Final = [f"task-{place}" for place in range(20)]
FATES: Final = [
    (RunStatus.COMPLETED, 940),
    (RunStatus.FAILED, 40),
    (RunStatus.CANCELED, 15),
    (RunStatus.TIMED_OUT, 5),
]
"""How runs end, and how many of a thousand."""
LIVING: Final = 300
"""So many of the newest job runs, and of the newest other runs, are not over."""


def main(count: int = RUNS) -> None:
    print(
        f"{count:,} runs, seed {SEED}, {CALLS} calls each, milliseconds; at most {BUDGET_MS:.0f}\n"
    )
    with Postgres(fsync=True) as postgres:
        databases = {
            f"PostgreSQL {postgres.version}": postgres.create_database(),
            "SQLite": f"sqlite:///{make_folder('bench')}/lists.db",
        }
        for name, url in databases.items():
            began = time.perf_counter()
            made = asyncio.run(fill(url, count))
            if url.startswith("postgresql"):
                # What the database does by itself some minutes after so many rows.
                postgres.fetch("VACUUM ANALYZE", database=url.rpartition("/")[2], timeout_s=600)
            print(f"### {name}: filled in {time.perf_counter() - began:.0f} s\n", flush=True)
            with Server(url) as server:
                database = postgres.pid if url.startswith("postgresql") else None
                rows = asyncio.run(measure(server, made, database))
            print(table(HEAD, rows), flush=True)
            print()


# -------------------------------------------------------------------------------------- the rows


class Row(NamedTuple):
    """What filters look at, of one run."""

    created_at: datetime
    number: int
    id: str
    status: RunStatus
    task: str
    tags: tuple[str, ...]
    is_test: bool
    job_id: str | None


def a_million(count: int) -> Iterator[tuple[Run, job_rows.Snapshot | None]]:
    """Job runs with their steps, and every fifth a run of its own; the oldest first."""
    chance = random.Random(SEED)
    statuses, weights = zip(*FATES, strict=True)
    families = count // (STEPS + 2)
    gap = timedelta(days=DAYS) / families
    number = 0
    for place in range(families):
        at = BEGAN + place * gap
        lives = place >= families - LIVING
        fate = chance.choices(statuses, weights)[0]
        if lives:
            fate = chance.choice([RunStatus.QUEUED, RunStatus.EXECUTING])
        # Some few jobs and tasks make most of the runs, some hardly any.
        which = min(int(chance.expovariate(0.5)), len(JOBS) - 1)
        tags = (
            "env:production" if chance.random() < 0.8 else "env:staging",
            f"user:{chance.randrange(10_000)}",
        )
        # Two servers may commit in another order than they took numbers and times.
        skew = timedelta(microseconds=chance.randrange(4_000_000))
        number += 1
        job_run = _run(number, at - skew, JOBS[which], fate, tags)
        job_run = _with(job_run, job_id=JOBS[which])
        ended = STEPS if fate == RunStatus.COMPLETED else chance.randrange(STEPS) + 1
        yield job_run, _snapshot(which)
        for position in range(STEPS):
            # Those that were never made are runs of their own, so that the count is the one said.
            number += 1
            if position >= ended:
                yield _run(number, at, f"task-{which}", RunStatus.COMPLETED, ()), None
                continue
            last = position == ended - 1
            step = _run(
                number,
                at + position * gap / STEPS,
                TASKS[(which + position) % len(TASKS)],
                fate if last else RunStatus.COMPLETED,
                (),
            )
            yield (
                _with(
                    step,
                    parent_run_id=job_run.id,
                    root_run_id=job_run.id,
                    depth=1,
                    workflow_id=f"wf_{position:026d}",
                    position=position,
                ),
                None,
            )
        number += 1
        alone = _run(number, at, TASKS[which], fate, tags)
        yield _with(alone, is_test=chance.random() < 0.01), None


def _run(
    number: int, at: datetime, task: str, status: RunStatus, tags: tuple[str, ...]
) -> Run:  # fmt: skip
    over = is_final(status)
    return Run(
        id=f"run_{number:026d}",
        project=PROJECT,
        version=3 if over else 2,
        number=number,
        task_identifier=task,
        status=status,
        payload={"invoice": number, "to": "somebody@example.com"},
        metadata={"progress": 1.0 if over else 0.4, "step": "sending"},
        output={"sent": True} if status == RunStatus.COMPLETED else None,
        tags=tags,
        created_at=at,
        updated_at=at + timedelta(seconds=30),
        queued_at=at,
        started_at=at + timedelta(seconds=1),
        finished_at=at + timedelta(seconds=30) if over else None,
        attempt=1,
        duration_ms=29_000 if over else 0,
    )


def _with(run: Run, **over: Any) -> Run:
    fields = {name: getattr(run, name) for name in Run.__struct_fields__}
    return Run(**(fields | over))


def _snapshot(which: int) -> job_rows.Snapshot:
    plan = tuple(
        PlannedStep(
            workflow_id=f"wf_{position:026d}",
            name=f"step {position}",
            task_identifier=TASKS[(which + position) % len(TASKS)],
        )
        for position in range(STEPS)
    )
    order = [step.workflow_id for step in plan]
    return job_rows.Snapshot({"workflowExecutionOrder": order}, plan)


async def fill(url: str, count: int) -> list[Row]:
    """Makes the rows, and returns what filters look at, the newest first."""
    store = await RunStore.open(url, broker=MemoryBroker())
    made: list[Row] = []
    lot: list[tuple[Run, job_rows.Snapshot | None]] = []

    async def write() -> None:
        await store.database.write(_write, tuple(lot))
        lot.clear()

    try:
        for run, snapshot in a_million(count):
            made.append(
                Row(
                    run.created_at,
                    run.number,
                    run.id,
                    run.status,
                    run.task_identifier,
                    run.tags,
                    run.is_test,
                    run.job_id,
                )
            )
            lot.append((run, snapshot))
            if len(lot) == LOT:
                await write()
        await write()
    finally:
        await store.close()
    made.sort(reverse=True)
    return made


def _write(connection: Any, lot: Sequence[tuple[Run, job_rows.Snapshot | None]]) -> None:
    tags = [(PROJECT, tag, run.created_at, run.number) for run, _ in lot for tag in run.tags]
    with bulk.together(connection) as writes:
        insert_runs(writes, [(run, None) for run, _ in lot])
        job_rows.write(writes, {run.id: snap for run, snap in lot if snap is not None})
        writes.insert(run_tags, ("project", "tag", "created_at", "number"), tags)


# -------------------------------------------------------------------------------------- the lists


class Asked(NamedTuple):
    """One list that somebody asks for."""

    statuses: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    is_test: bool | None = None
    after: datetime | None = None
    before: datetime | None = None

    def query(self) -> list[tuple[str, str]]:
        said = [("status", status) for status in self.statuses]
        said += [("jobId", job) for job in self.jobs] + [("task", task) for task in self.tasks]
        said += [("tag", tag) for tag in self.tags]
        if self.is_test is not None:
            said.append(("isTest", "true" if self.is_test else "false"))
        if self.after is not None:
            said.append(("createdAfter", rfc3339(self.after)))
        if self.before is not None:
            said.append(("createdBefore", rfc3339(self.before)))
        return said

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.query()) or "all"

    def has(self, row: Row, *, of_job_runs: bool) -> bool:
        status = str(status_of(row.status)) if of_job_runs else str(row.status)
        return (
            (not of_job_runs or row.job_id is not None)
            and (not self.statuses or status in self.statuses)
            and (not self.jobs or row.job_id in self.jobs)
            and (not self.tasks or row.task in self.tasks)
            and set(self.tags) <= set(row.tags)
            and (self.is_test is None or row.is_test == self.is_test)
            and (self.after is None or row.created_at > self.after)
            and (self.before is None or row.created_at < self.before)
        )


_DAY_20: Final = BEGAN + timedelta(days=20)
_DAY_21: Final = BEGAN + timedelta(days=21)
_LAST_HOUR: Final = BEGAN + timedelta(days=DAYS) - timedelta(hours=1)
_LAST_MINUTES: Final = BEGAN + timedelta(days=DAYS) - timedelta(minutes=5)
_AN_USER: Final = "user:7"
_PRODUCTION: Final = "env:production"

# What a page of job runs and a page of runs are asked alike, with each list's own words.
_TIMES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"after": _LAST_MINUTES},
    {"after": _LAST_HOUR},
    {"after": _DAY_20},
    {"before": _DAY_20},
    {"after": _DAY_20, "before": _DAY_21},
)
_TAGS: Final = ((_AN_USER,), (_PRODUCTION,), (_AN_USER, _PRODUCTION), ("env:none",))


def lists(*, of_job_runs: bool) -> Iterator[Asked]:
    """Each filter alone and with a time, and those that people put together."""
    some = JobRunStatus if of_job_runs else RunStatus
    failed = ("FAILED",) if of_job_runs else ("FAILED", "TIMED_OUT", "CRASHED")
    living = ("PENDING", "IN_PROGRESS") if of_job_runs else ("QUEUED", "EXECUTING")
    kinds: tuple[dict[str, Any], ...] = ({"jobs": (JOBS[0],)}, {"jobs": (JOBS[13],)})
    if not of_job_runs:
        kinds = ({"tasks": (TASKS[0],)}, {"tasks": (TASKS[13],)}, {"tasks": tuple(TASKS[:3])})
    for when in _TIMES:
        yield Asked(**when)
        for statuses in (("COMPLETED",), failed, living):
            yield Asked(statuses, **when)
        for kind in kinds:
            yield Asked(**kind, **when)
            yield Asked(failed, **kind, **when)
        for tags in _TAGS:
            yield Asked(tags=tags, **when)
            yield Asked(failed, tags=tags, **when)
        yield Asked(living, tags=(_PRODUCTION,), **when)
        yield Asked(tags=(_PRODUCTION,), **kinds[1], **when)
    yield Asked(tuple(some))
    if not of_job_runs:
        yield Asked(is_test=True)
        yield Asked(is_test=True, before=_DAY_20)


class Index:
    """The rows by each thing that a filter may ask for, all with the newest first."""

    def __init__(self, made: Sequence[Row]) -> None:
        self._all = made
        self._by: dict[str, list[Row]] = {}
        for row in made:
            for key in {row.task, *row.tags}:
                self._by.setdefault(key, []).append(row)

    def fitting(self, asked: Asked, *, of_job_runs: bool) -> Iterator[str]:
        """The ids of those that fit."""
        few = self._all
        for only in (asked.tags, asked.jobs, asked.tasks):
            if only and (len(only) == 1 or only is asked.tags):
                few = min(few, *(self._by.get(key, []) for key in only), few, key=len)
        first, last = 0, len(few)
        if asked.before is not None:
            first = bisect_left(few, -asked.before.timestamp(), key=_older)
        if asked.after is not None:
            last = bisect_right(few, -asked.after.timestamp(), key=_older)
        return (row.id for row in few[first:last] if asked.has(row, of_job_runs=of_job_runs))


def _older(row: Row) -> float:
    return -row.created_at.timestamp()


HEAD: Final = ("list", "page", "p50", "p90", "max", "CPU", "within")


async def measure(server: Server, made: Sequence[Row], database: int | None) -> list[list[object]]:
    """A line for each list, the first page and a later one.

    CPU is that of the server and of the database's processes, for each call: what a machine that
    has nothing else to do would take, but for the waits between the two.
    """
    rows: list[list[object]] = []
    index = Index(made)
    pids = [server.pid] if database is None else [server.pid, database]

    def spent_s() -> float:
        return sum(sum(usage(pid)[:2]) for pid in pids)

    async with Caller.open(server.port) as caller:
        for path, of_job_runs in (("/v1/job-runs", True), ("/v1/runs", False)):
            for asked in lists(of_job_runs=of_job_runs):
                fitting = index.fitting(asked, of_job_runs=of_job_runs)
                after = None
                for page in (1, 2):
                    query = asked.query() + ([] if after is None else [("after", after)])
                    url = f"{path}?{urlencode(query)}"
                    took_s = []
                    answer: Any = None
                    spent = spent_s()
                    for _ in range(CALLS):
                        began = time.perf_counter()
                        answer = await caller.call("GET", url)
                        took_s.append(time.perf_counter() - began)
                    cpu_ms = (spent_s() - spent) / CALLS * 1_000
                    expected = list(islice(fitting, 50))
                    got = [one["id"] for one in answer["data"]]
                    if got != expected:
                        raise AssertionError(f"{url}: not what fits: {got} for {expected}")
                    ms = Spread.of(took_s).times(1_000)
                    within = ms.p90 <= BUDGET_MS
                    rows.append([f"{path} {asked}", page, ms.p50, ms.p90, ms.max, cpu_ms, within])
                    after = answer["next"]
                    if after is None:
                        break
    return rows


if __name__ == "__main__":
    main()
