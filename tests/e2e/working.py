"""A worker as a program of its own, to be stopped and killed: python -m tests.e2e.working URL."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from runstream import Runstream, Task, Work, Worker, current_run, executes
from tests.processes import API_KEY, Process, Server


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
    log: Path | None = None,
) -> Worker:
    """A worker of these tasks, each of which does a step, and notes in the log that it begins."""

    def work_of(task: str, worker: str) -> Work[Step, Done]:
        async def step(payload: Step) -> Done:
            running = next(run for run in made.running if run.id == current_run().id)
            if log is not None:
                with log.open("ab", buffering=0) as file:
                    file.write(f"{running.id} {running.attempt} {worker}\n".encode())
            return await do(task, payload, worker, running.attempt)

        return executes(Task(task, payload=Step, output=Done))(step)

    made = Worker(
        client,
        [work_of(task, name) for task in tasks],
        name=name,
        concurrency=concurrency,
        lease_s=lease_s,
        drain_s=drain_s,
    )
    return made


class WorkerProcess(Process):
    """Workers in a process of their own."""

    name = "a worker"

    def __init__(self, server: Server, tasks: Sequence[str], name: str, *args: str) -> None:
        super().__init__()
        self._command = [sys.executable, "-m", "tests.e2e.working", server.url, "--name", name]
        self._command += [*args, "--tasks", *tasks]
        self._environment = server.environment()

    def command(self) -> Sequence[str]:
        return self._command

    def environment(self) -> Mapping[str, str]:
        return self._environment

    def answers(self) -> bool:
        return True  # What it does is seen in the runs.


async def main(options: Sequence[str] | None = None) -> None:
    """Works until it is told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--lease-s", type=int, default=30)
    parser.add_argument("--drain-s", type=float, default=30.0)
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args(options)

    async def work(name: str) -> None:
        # As separate as they would be in processes of their own, but for their end.
        async with Runstream(asked.url, api_key=API_KEY) as client:
            worker = a_worker(
                client,
                asked.tasks,
                name=name,
                concurrency=asked.concurrency,
                lease_s=asked.lease_s,
                drain_s=asked.drain_s,
                log=asked.log,
            )
            await worker.run()

    if asked.workers == 1:
        await work(asked.name)
    else:
        async with asyncio.TaskGroup() as group:
            for n in range(asked.workers):
                group.create_task(work(f"{asked.name}-{n} of {os.getpid()}"))


if __name__ == "__main__":
    asyncio.run(main())
