"""A worker as a program of its own, to be stopped and killed: python -m tests.e2e.working URL."""

from __future__ import annotations

import argparse
import asyncio
from typing import TypedDict

from runstream import Runstream, Task, Worker, current_run, executes
from tests.processes import API_KEY


class Step(TypedDict, total=False):
    """How long a step takes, and in which attempts it never ends."""

    seconds: float
    stuck_in: list[int]


class Done(TypedDict):
    """Which of the steps it was, and whose."""

    task: str
    worker: str


async def do(task: str, step: Step, worker: str, attempt: int) -> Done:
    """A step of a job."""
    current_run().metadata.set("worker", worker)
    current_run().metadata.set("progress", 0.5)
    if attempt in step.get("stuck_in", ()):
        await asyncio.Event().wait()
    await asyncio.sleep(step.get("seconds", 0.0))
    current_run().metadata.set("progress", 1.0)
    return Done(task=task, worker=worker)


def a_worker(
    client: Runstream,
    tasks: list[str],
    *,
    name: str,
    concurrency: int = 4,
    lease_s: int = 30,
    drain_s: float = 30.0,
) -> Worker:
    """A worker of these tasks, each of which does a step."""

    def work_of(name: str, worker: str) -> object:
        async def step(payload: Step) -> Done:
            running = next(run for run in made.running if run.id == current_run().id)
            return await do(name, payload, worker, running.attempt)

        return executes(Task(name, payload=Step, output=Done))(step)

    made = Worker(
        client,
        [work_of(task, name) for task in tasks],  # type: ignore[misc]
        name=name,
        concurrency=concurrency,
        lease_s=lease_s,
        drain_s=drain_s,
    )
    return made


async def main() -> None:
    """Works until it is told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--lease-s", type=int, default=30)
    parser.add_argument("--drain-s", type=float, default=30.0)
    asked = parser.parse_args()
    async with Runstream(asked.url, api_key=API_KEY) as client:
        await a_worker(
            client,
            asked.tasks,
            name=asked.name,
            concurrency=asked.concurrency,
            lease_s=asked.lease_s,
            drain_s=asked.drain_s,
        ).run()


if __name__ == "__main__":
    asyncio.run(main())
