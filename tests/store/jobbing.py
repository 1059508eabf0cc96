"""A store with jobs in it, and the commands that move their runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from store import RunStore, open_broker
from store.commands import (
    Command,
    CreateRun,
    DeleteRun,
    Done,
    FireTimer,
    JobOrder,
    NewRun,
    Submission,
    UpdateRun,
)
from store.engine import Postgres, Sqlite
from store.errors import StoreError
from store.jobs.definitions import Job, NewJob, NewWorkflow
from store.model import Change, JobRun, Run, RunStatus, new_id
from tests.builders import PROJECT

LONG_S = 30.0
"""A bound for whatever should happen; nothing is expected to take so long."""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RunStore]:
    """A store on that database, without its own clocks."""
    broker = open_broker(None)
    store = await RunStore.open(url, broker=broker)
    try:
        yield store
    finally:
        await store.close()
        await broker.close()


@asynccontextmanager
async def opened_on(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[RunStore]:
    """A store on a new database of that kind, for all tests of a module."""
    if kind == "sqlite":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("store")
        async with opened(f"sqlite:///{folder / 'runstream.db'}") as store:
            yield store
        return
    server = request.getfixturevalue("postgres_server")
    url = await asyncio.to_thread(server.create_database)
    try:
        async with opened(url) as store:
            yield store
    finally:
        await asyncio.to_thread(server.drop_database, url)


def url_of(store: RunStore) -> str:
    """Where another server finds the store's database."""
    if isinstance(store.database, Sqlite):
        return f"sqlite:///{store.database.path}"
    assert isinstance(store.database, Postgres)
    return store.database.url.render_as_string(hide_password=False)


async def until(condition: Callable[[], Awaitable[object]], what: str = "it") -> None:
    """Waits for a condition, never for a time."""
    try:
        async with asyncio.timeout(LONG_S):
            while not await condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen in {LONG_S} s") from None


async def a_job(store: RunStore, *tasks: str, **workflow: Any) -> Job:
    """A job whose workflows are runs of these tasks."""
    order = [
        (
            await store.definitions.create_workflow(
                PROJECT, NewWorkflow(name=f"the {task}", task_identifier=task, **workflow)
            )
        ).id
        for task in tasks
    ]
    return await store.definitions.create_job(
        PROJECT, NewJob(name="nightly", config={"workflowExecutionOrder": order})
    )


async def run_of(store: RunStore, command: Command) -> Run:
    """The run after the command; raises what refuses it."""
    outcome = (await store.execute(Submission(project=PROJECT, commands=(command,))))[0]
    if isinstance(outcome, StoreError):
        raise outcome
    assert outcome.run is not None
    return outcome.run


async def begin(store: RunStore, job: Job | str, again: str | None = None, **new: Any) -> JobRun:
    """A new job run of the job."""
    job_id = job if isinstance(job, str) else job.id
    command = CreateRun(
        project=PROJECT,
        run_id=new_id("run"),
        new=NewRun(task_identifier=job_id, **new),
        job=JobOrder(job_id, again),
    )
    outcome = (await store.execute(Submission(project=PROJECT, commands=(command,))))[0]
    if isinstance(outcome, StoreError):
        raise outcome
    assert isinstance(outcome, Done)
    assert outcome.job_run is not None
    return outcome.job_run


async def move(store: RunStore, run: Run, *statuses: RunStatus, **fields: Any) -> Run:
    """The run after it took these steps; the fields come with the last."""
    for status in statuses:
        more = fields if status is statuses[-1] else {}
        run = await run_of(
            store, UpdateRun(project=PROJECT, run_id=run.id, status=status, **more)
        )  # fmt: skip
    return run


async def delete(store: RunStore, run: Run) -> Run:
    return await run_of(store, DeleteRun(project=PROJECT, run_id=run.id))


async def fire(store: RunStore, command: FireTimer) -> None:
    await store.execute(Submission(project=PROJECT, commands=(command,)))


async def now(store: RunStore, job_run: JobRun) -> JobRun:
    """The job run as it stands."""
    return await store.job_runs.get(PROJECT, job_run.run.id)


async def history(store: RunStore, run: Run) -> list[Change]:
    """All changes of the run."""
    return (await store.history(PROJECT, run.id, 0, 1_000))[0]


def statuses(steps: Sequence[Run]) -> list[RunStatus]:
    return [step.status for step in steps]
