"""20 workers of the Python client and 5,000 runs, some of the workers killed on the way.

Every run is looked at in the end: it was completed once, all its versions are there, and no
attempt of it was ever begun by two workers. Else there is no number.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.load import Lost
from bench.stats import table
from runstream import NewRun, RunStatus, Runstream
from tests.e2e.working import Step, WorkerProcess
from tests.processes import API_KEY, Server
from tests.servers import Postgres

RUNS: Final = 5_000
PROCESSES: Final = 5
WORKERS: Final = 4
"""In each process; each is a client of its own, with a connection of its own."""
KILLS: Final = 6
LEASE_S: Final = 2
LONG_S: Final = 900.0


def short() -> None:
    """A fifth of the runs, as often killed."""
    main(RUNS // 5)


def main(runs: int = RUNS) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder, Postgres(fsync=True) as postgres:
        for name, database in (
            ("SQLite", f"sqlite:///{Path(folder)}/workers.db"),
            ("PostgreSQL", postgres.create_database()),
        ):
            log = Path(folder) / f"{name}.log"
            with Server(database) as server:
                wall_s = asyncio.run(measure(server, log, runs))
            begun = Counter(run_id for run_id, _ in begins(log))
            again = sum(count - 1 for count in begun.values())
            rows.append([name, runs, PROCESSES * WORKERS, KILLS, again, runs / wall_s])
    head = ["database", "runs", "workers", "kills of 4", "begun again", "runs/s"]
    print(table(head, rows))


def begins(log: Path) -> Sequence[tuple[str, str]]:
    """The run and the attempt of each time that a function was called."""
    return [(line.split(" ")[0], line.split(" ")[1]) for line in log.read_text().splitlines()]


async def measure(server: Server, log: Path, runs: int) -> float:
    """How many seconds it took, from the first worker's start to the last run's end."""
    processes = [a_process(server, log, n) for n in range(PROCESSES)]
    try:
        async with Runstream(server.url, api_key=API_KEY) as client:
            batch = await client.batches.create(sealed=False)
            ids: list[str] = []
            for _ in range(runs // 1_000):
                new = NewRun[Step, Any]("counted", Step(seconds=0.005), max_attempts=50)
                ids += [run.id for run in await client.batches.add(batch.batch.id, [new] * 1_000)]
            await client.batches.seal(batch.batch.id)
            began = time.perf_counter()
            for process in processes:
                process.start()
            async with asyncio.timeout(LONG_S):
                await kill_some(client, batch.batch.id, processes, runs)
            wall_s = time.perf_counter() - began
            await check(client, ids, begins(log))
    finally:
        for process in processes:
            process.kill()
            process.close()
    return wall_s


def a_process(server: Server, log: Path, n: int) -> WorkerProcess:
    options = ["--workers", str(WORKERS), "--lease-s", str(LEASE_S), "--log", str(log)]
    return WorkerProcess(server, ["counted"], f"p{n}", *options)


async def kill_some(
    client: Runstream, batch_id: str, processes: list[WorkerProcess], runs: int
) -> None:
    """Until all is over: kills one process each time another part of the runs is done."""
    killed = 0
    while True:
        batch = await client.batches.get(batch_id)
        if batch.is_complete:
            if killed < KILLS:
                raise Lost(f"it was over after {killed} of {KILLS} kills")
            return
        if batch.final >= runs * (killed + 1) // (KILLS + 2) and killed < KILLS:
            process = random.choice(processes)
            process.kill()
            process.start()
            killed += 1
        await asyncio.sleep(0.1)


async def check(client: Runstream, ids: Sequence[str], begun: Sequence[tuple[str, str]]) -> None:
    """Raises Lost unless each run was completed once and each attempt was one worker's."""
    attempts = Counter(begun)
    if twice := [attempt for attempt, count in attempts.items() if count > 1]:
        raise Lost(f"begun by more than one worker: {twice[:5]}")
    if never := set(ids) - {run_id for run_id, _ in attempts}:
        raise Lost(f"begun by no worker: {sorted(never)[:5]}")
    room = asyncio.Semaphore(16)

    async def look(run_id: str) -> None:
        async with room:
            entries = [entry async for entry in client.runs.history(run_id)]
        if [entry.version for entry in entries] != [*range(1, len(entries) + 1)]:
            raise Lost(f"{run_id} lacks a version")
        statuses = [entry.changed.get("status") for entry in entries]
        if statuses.count(RunStatus.COMPLETED) != 1:
            raise Lost(f"{run_id} was completed {statuses.count('COMPLETED')} times")

    async with asyncio.TaskGroup() as group:
        for run_id in ids:
            group.create_task(look(run_id))
