"""Claims: workers that execute job runs of three steps, on PostgreSQL.

So many job runs are kept going that some workers always wait: a step that is queued is claimed by
one of them. Once in the server's own process, which shows what the store does, and once over HTTP.
Before a number is printed it is seen that every step was claimed once and completed once, and that
every job run says so.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from bench.http import Caller
from bench.load import Lost, cpu_s
from bench.stats import Spread, measured, table
from store import open_broker
from store.commands import CreateRun, Done, JobOrder, NewRun, Submission, UpdateRun
from store.jobs.definitions import NewJob, NewWorkflow
from store.jobs.runs import JobRunQuery
from store.model import JobRun, Run, RunStatus, list_key, new_id
from store.runs import RunStore
from tests.processes import Server
from tests.servers import Postgres

JOB_RUNS: Final = 10_000
STEPS: Final = 3
WORKERS: Final = 50
GOING: Final = 40
"""Job runs that are not over, at any time."""
PROJECT: Final = "default"
TASKS: Final = tuple(f"step-{position}" for position in range(STEPS))
LEASE_S: Final = 600
WAIT_S: Final = 10.0


class Step(NamedTuple):
    """A step as its worker got it."""

    run_id: str
    job_run_id: str
    position: int
    attempt: int


class Workplace(Protocol):
    """Where a worker gets its work."""

    async def begin(self) -> None:
        """One more job run."""

    async def claim(self) -> Step | None: ...

    async def complete(self, step: Step) -> None: ...


@dataclass
class Times:
    """When what happened, in seconds, by job run and position."""

    reported: dict[tuple[str, int], float] = field(default_factory=dict)
    """The worker says that the step is completed."""
    completed: dict[tuple[str, int], float] = field(default_factory=dict)
    """It is told that this is on disk."""
    claimed: dict[tuple[str, int], float] = field(default_factory=dict)
    claims: Counter[tuple[str, int]] = field(default_factory=Counter)

    def after(self, moments: dict[tuple[str, int], float]) -> Spread:
        """From those moments of each step to the claim of the next, in ms."""
        took = (
            self.claimed[job_run, position + 1] - at
            for (job_run, position), at in moments.items()
            if position < STEPS - 1
        )
        return Spread.of(max(0.0, seconds) for seconds in took).times(1_000)


def main(job_runs: int = JOB_RUNS) -> None:
    print(
        f"{job_runs:,} job runs of {STEPS} steps, {WORKERS} workers, {GOING} job runs at a time\n"
    )
    rows: list[list[object]] = []
    with Postgres(fsync=True) as postgres:
        rows.append(["the store", *asyncio.run(in_process(postgres, job_runs))])
        rows.append(["over HTTP", *asyncio.run(over_http(postgres, job_runs))])
    head = ["workers at", "claims/s", "ms CPU a claim", "completed to claimed: p50", "p99", "max"]
    print(table([*head, "reported to claimed: p99"], rows))


async def in_process(postgres: Postgres, job_runs: int) -> list[object]:
    async with opened(postgres.create_database()) as store:
        job_id = await a_job(store)
        place = InProcess(store, job_id)
        with measured() as cost:
            times = await work([place] * WORKERS, job_runs)
        await assert_whole(store, times, job_runs)
    return said(times, cost.wall_s, cost.cpu_s)


async def over_http(postgres: Postgres, job_runs: int) -> list[object]:
    url = postgres.create_database()
    async with opened(url) as store:
        job_id = await a_job(store)
        with Server(url) as server:
            callers = [Caller.open(server.port) for _ in range(WORKERS)]
            places = [OverHttp(await caller.__aenter__(), job_id) for caller in callers]
            spent, began = cpu_s(server.pid), time.perf_counter()
            times = await work(places, job_runs)
            wall_s, spent = time.perf_counter() - began, cpu_s(server.pid) - spent
            for caller in callers:
                await caller.__aexit__(None, None, None)
        await assert_whole(store, times, job_runs)
    return said(times, wall_s, spent)


def said(times: Times, wall_s: float, cpu: float) -> list[object]:
    claims = times.claims.total()
    after = times.after(times.completed)
    later = times.after(times.reported).p99
    return [claims / wall_s, cpu / claims * 1_000, after.p50, after.p99, after.max, later]


async def work(places: list[Any], job_runs: int) -> Times:
    """All workers, until every job run is over; each begins another where one has ended."""
    times = Times()
    begun = 0
    over = 0
    done = asyncio.Event()

    async def begin(place: Workplace) -> None:
        nonlocal begun
        if begun < job_runs:
            begun += 1
            await place.begin()

    async def worker(place: Workplace) -> None:
        nonlocal over
        while not done.is_set():
            step = await place.claim()
            if step is None:
                continue
            key = (step.job_run_id, step.position)
            times.claimed[key] = time.perf_counter()
            times.claims[key] += 1
            times.reported[key] = time.perf_counter()
            await place.complete(step)
            times.completed[key] = time.perf_counter()
            if step.position == STEPS - 1:
                over += 1
                await begin(place)
                if over == job_runs:
                    done.set()

    working = [asyncio.create_task(worker(place)) for place in places[GOING:]]
    await asyncio.gather(*(begin(place) for place in places[:GOING]))
    working += [asyncio.create_task(worker(place)) for place in places[:GOING]]
    finished = asyncio.create_task(done.wait())
    await asyncio.wait([finished, *working], return_when=asyncio.FIRST_COMPLETED)
    for task in (finished, *working):
        task.cancel()
    for result in await asyncio.gather(*working, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    return times


async def assert_whole(store: RunStore, times: Times, job_runs: int) -> None:
    """Raises Lost unless each step of each job run was claimed and completed, and just once."""
    if any(count != 1 for count in times.claims.values()):
        raise Lost("a step was claimed more than once")
    if len(times.claims) != job_runs * STEPS:
        raise Lost(f"{len(times.claims)} steps were claimed, not {job_runs * STEPS}")
    seen = 0
    query = JobRunQuery(project=PROJECT, limit=500)
    while True:
        found, following = await store.job_runs.list(query)
        for one in found:
            check(one, times)
        seen += len(found)
        if following is None:
            break
        query = JobRunQuery(project=PROJECT, limit=500, after=list_key(found[-1].run))
    if seen != job_runs:
        raise Lost(f"there are {seen} job runs, not {job_runs}")


def check(one: JobRun, times: Times) -> None:
    steps = [(step.position, step.status, step.attempt, step.version) for step in one.steps]
    # Queued, claimed, completed: three versions, none more.
    if steps != [(position, RunStatus.COMPLETED, 1, 3) for position in range(STEPS)]:
        raise Lost(f"{one.run.id}: {steps}")
    if one.run.status != RunStatus.COMPLETED:
        raise Lost(f"{one.run.id} is {one.run.status}")
    if any((one.run.id, position) not in times.completed for position in range(STEPS)):
        raise Lost(f"{one.run.id}: nobody was told that it is over")


# ------------------------------------------------------------------------------------ workplaces


@dataclass
class InProcess:
    """The store itself."""

    store: RunStore
    job_id: str

    async def begin(self) -> None:
        new = NewRun(task_identifier=self.job_id, payload={"order": 7})
        command = CreateRun(
            project=PROJECT, run_id=new_id("run"), new=new, job=JobOrder(self.job_id)
        )
        await self._execute(command)

    async def claim(self) -> Step | None:
        run = await self.store.claims.claim(PROJECT, TASKS, "worker", LEASE_S, wait_s=WAIT_S)
        return None if run is None else step_of(run)

    async def complete(self, step: Step) -> None:
        await self._execute(
            UpdateRun(
                project=PROJECT,
                run_id=step.run_id,
                status=RunStatus.COMPLETED,
                output={"done": True},
                if_attempt=step.attempt,
            )
        )

    async def _execute(self, command: CreateRun | UpdateRun) -> None:
        (done,) = await self.store.execute(Submission(project=PROJECT, commands=(command,)))
        if not isinstance(done, Done):
            raise Lost(str(done))


def step_of(run: Run) -> Step:
    assert run.parent_run_id is not None
    assert run.position is not None
    return Step(run.id, run.parent_run_id, run.position, run.attempt)


@dataclass
class OverHttp:
    """One connection of a worker to a server."""

    caller: Caller
    job_id: str

    async def begin(self) -> None:
        await self.caller.call(
            "POST", "/v1/job-runs", {"jobId": self.job_id, "payload": {"order": 7}}
        )

    async def claim(self) -> Step | None:
        body = {"tasks": TASKS, "worker": "worker", "leaseS": LEASE_S, "waitS": WAIT_S}
        run = (await self.caller.call("POST", "/v1/runs/claim", body))["run"]
        if run is None:
            return None
        return Step(run["id"], run["parentRunId"], run["position"], run["attempt"])

    async def complete(self, step: Step) -> None:
        body = {"status": "COMPLETED", "output": {"done": True}, "ifAttempt": step.attempt}
        await self.caller.call("PATCH", f"/v1/runs/{step.run_id}", body)


async def a_job(store: RunStore) -> str:
    order = [
        (
            await store.definitions.create_workflow(
                PROJECT, NewWorkflow(name=task, task_identifier=task)
            )
        ).id
        for task in TASKS
    ]
    config = {"workflowExecutionOrder": order}
    return (await store.definitions.create_job(PROJECT, NewJob(name="bench", config=config))).id


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RunStore]:
    """A store with its own clocks, as in a server."""
    broker = open_broker(None)
    store = await RunStore.open(url, broker=broker)
    try:
        async with asyncio.TaskGroup() as tasks:
            clocks = tasks.create_task(store.run())
            yield store
            clocks.cancel()
    finally:
        await store.close()
        await broker.close()


if __name__ == "__main__":
    main()
