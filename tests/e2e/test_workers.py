"""Workers of the Python client with real servers; some of either are killed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from runstream import NewRun, Run, RunStatus, Runstream, Task, Worker, current_run, executes
from tests.e2e.clients import client_of, until
from tests.e2e.working import Step, WorkerProcess, a_worker
from tests.processes import Server

LONG_S = 60.0
STEPS = ["fetch", "build", "ship"]


@pytest.fixture
def start_worker() -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers in processes of their own: `start_worker(server, tasks, name, …)`."""
    started: list[WorkerProcess] = []

    def start(*args: Any) -> WorkerProcess:
        started.append(WorkerProcess(*args))
        started[-1].start()
        return started[-1]

    yield start
    for process in reversed(started):
        process.kill()
        process.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests here that do it no harm."""
    with Server(f"sqlite:///{tmp_path_factory.mktemp('workers') / 'runstream.db'}") as server:
        yield server


async def a_job(client: Runstream, tasks: Sequence[str], **options: Any) -> str:
    workflows = [await client.workflows.create(task, task, **options) for task in tasks]
    return (await client.jobs.create("job", [workflow.id for workflow in workflows])).id


async def history(client: Runstream, run_id: str) -> list[str]:
    """The statuses that the run has been in, in order; no version is missing."""
    entries = [entry async for entry in client.runs.history(run_id)]
    assert [entry.version for entry in entries] == [*range(1, len(entries) + 1)]
    return [entry.changed["status"] for entry in entries if "status" in entry.changed]


async def test_what_is_triggered_is_executed_and_seen(server: Server) -> None:
    """From one program's payload to the other's output, with what is said in between."""
    double = Task("double", payload=int, output=int)

    @executes(double)
    async def doubled(number: int) -> int:
        current_run().metadata.set("progress", 0.5)
        current_run().tags.add("seen")
        return number * 2

    async with client_of(server) as client, Worker(client, [doubled]):
        made = await client.trigger(double, 21)
        seen = [run async for run in client.subscribe_to_run(made.id, task=double)]
        assert (seen[-1].status, seen[-1].output) == (RunStatus.COMPLETED, 42)
        assert (seen[-1].metadata, seen[-1].tags) == ({"progress": 0.5}, ["seen"])
        wrong = await client.trigger("double", {"number": "many"})
        failed = await client.wait_for_run(wrong.id, timeout=LONG_S)
        assert failed.error is not None
        assert failed.error.message.endswith("does not fit: Expected `int`, got `object`")


async def test_a_canceled_run_is_stopped_and_the_next_one_begins(server: Server) -> None:
    stopped = asyncio.Event()

    @executes("endless")
    async def endless(payload: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with client_of(server) as client, Worker(client, [endless], concurrency=1) as worker:
        first, second = [await client.trigger("endless") for _ in range(2)]
        await until(lambda: [run.id for run in worker.running] == [first.id])
        await client.runs.cancel(first.id)
        await until(lambda: [run.id for run in worker.running] == [second.id])
        assert stopped.is_set()
        assert await history(client, first.id) == ["QUEUED", "EXECUTING", "CANCELED"]
        await client.runs.cancel(second.id)
        await until(lambda: not worker.running)
    assert worker.ended == {"stopped": 2}


async def test_sigterm_lets_a_worker_finish_what_it_can_and_leave_the_rest_to_others(
    server: Server, start_worker: Callable[..., WorkerProcess]
) -> None:
    async with client_of(server) as client:
        quick = await client.trigger("drained", Step(seconds=1.0))
        stuck = await client.trigger("drained", Step(stuck_in=[1]))
        leaving = start_worker(server, ["drained"], "leaving", "--drain-s", "5")
        async for run in client.subscribe_to_run(stuck.id):
            if run.metadata.get("worker") == "leaving":
                break
        leaving.signal(signal.SIGTERM)
        done = await client.wait_for_run(quick.id, timeout=LONG_S)
        assert (done.status, done.metadata["worker"]) == (RunStatus.COMPLETED, "leaving")
        # Told again, it does not wait for the other one.
        leaving.signal(signal.SIGTERM)
        await asyncio.to_thread(lambda: leaving.stop())
        async with a_worker(client, ["drained"], name="next"):
            again = await client.wait_for_run(stuck.id, timeout=LONG_S)
        assert again.output == {"task": "drained", "worker": "next"}
        assert await history(client, stuck.id) == [
            "QUEUED", "EXECUTING", "REATTEMPTING", "QUEUED", "EXECUTING", "COMPLETED",
        ]  # fmt: skip


async def test_a_job_run_ends_as_it_should_though_its_worker_and_server_are_killed(
    sqlite_url: str,
    start_server: Callable[..., Server],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    """No step is completed twice, and whoever follows the job run sees it all the way."""
    server = start_server(sqlite_url)
    async with client_of(server) as client:
        job_id = await a_job(client, STEPS, max_attempts=5)
        job_run = await client.job_runs.create(job_id, Step(stuck_in=[1], seconds=0.0))
        seen: dict[str, list[Run[Any, Any]]] = {}

        async def follow() -> None:
            async for run in client.subscribe_to_job_run(job_run.id):
                seen.setdefault(run.id, []).append(run)

        following = asyncio.create_task(follow())
        for attempt in range(2):
            # In its first attempt each step is stuck, until its worker is killed with it.
            worker = start_worker(server, STEPS, f"w{attempt}", "--lease-s", "1")
            await until(
                lambda: any(
                    run.position == attempt and run.metadata.get("worker") == f"w{attempt}"  # noqa: B023
                    for runs in seen.values()
                    for run in runs
                )
            )
            worker.kill()
        # The second one was given the first step again, and was stuck in the next.
        server.kill()
        server.start()
        async with a_worker(client, STEPS, name="last") as last:
            await until(lambda: any(run.position == 2 for run in last.running))
            # The third is stuck with a worker that lives: it is given back when that stops.
            last.stop()
            last.stop()
        async with a_worker(client, STEPS, name="after"):
            async with asyncio.timeout(LONG_S):
                await following
        ended = await client.job_runs.get(job_run.id)
        assert ended.status == "COMPLETED"
        for step in ended.workflow_runs:
            assert isinstance(step, Run)
            assert step.status is RunStatus.COMPLETED
            assert step.attempt >= 2
            assert (await history(client, step.id)).count("COMPLETED") == 1
        for runs in seen.values():
            # A run that was made after the client's last checkpoint enters anew when it
            # resumes: with its state by then, and not with each before it.
            versions = [run.version for run in runs]
            assert versions == sorted(set(versions))
        assert {runs[-1].status for runs in seen.values()} == {RunStatus.COMPLETED}


async def test_each_run_is_one_workers_though_some_are_killed(
    server: Server, start_worker: Callable[..., WorkerProcess]
) -> None:
    """The full size of this, 20 workers and 5,000 runs, is `make bench ARGS=workers`."""
    async with client_of(server) as client:
        batch = await client.batches.create(
            [NewRun("counted", Step(seconds=0.002), max_attempts=5) for _ in range(60)]
        )
        starts: Counter[tuple[str, int]] = Counter()

        async def follow() -> None:
            async for run in client.subscribe_to_batch(batch.batch.id):
                if run.status is RunStatus.COMPLETED:
                    starts[run.id, run.version] += 1

        following = asyncio.create_task(follow())
        dying = start_worker(server, ["counted"], "dying", "--lease-s", "1")
        await until(lambda: len(starts) > 10)
        dying.kill()
        async with AsyncExitStack() as stack:
            for n in range(4):
                worker = a_worker(client, ["counted"], name=f"w{n}", concurrency=2)
                await stack.enter_async_context(worker)
            async with asyncio.timeout(LONG_S):
                await following
        assert len(starts) == 60
        assert set(starts.values()) == {1}
        for run in batch.runs:
            assert (await history(client, run.id)).count("COMPLETED") == 1


async def test_a_worker_goes_on_when_the_server_comes_back(
    sqlite_url: str, start_server: Callable[..., Server]
) -> None:
    """What it executed meanwhile is told late, and what is queued later it is told of."""
    server = start_server(sqlite_url)
    go = asyncio.Event()
    began: list[str | None] = []

    @executes("patient")
    async def patient(payload: Any) -> str:
        began.append(current_run().id)
        await go.wait()
        return "done"

    async with client_of(server) as client, Worker(client, [patient], lease_s=30) as worker:
        run = await client.trigger("patient")
        await until(lambda: began == [run.id])
        server.kill()
        # It ends while there is nobody to be told, and is told as soon as there is.
        go.set()
        await asyncio.to_thread(server.start)
        done = await client.wait_for_run(run.id, timeout=LONG_S)
        assert (done.output, done.attempt) == ("done", 1)
        later = await client.trigger("patient")
        assert (await client.wait_for_run(later.id, timeout=LONG_S)).output == "done"
        await until(lambda: not worker.running)
    assert worker.ended == {"reported": 2}
