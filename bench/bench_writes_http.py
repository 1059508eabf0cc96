"""Writes over HTTP: bulk changes and single updates, on SQLite and PostgreSQL.

Single updates are also made at half the rate that is wanted: by then nobody waits for others, and
what an update takes counts from when it was due. All is synced to disk before it is answered. Every run's version is read at the end: a change that
is not there, or is there twice, ends the benchmark without a number.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.http import Caller
from bench.load import Lost, cores, cpu_s, pin
from bench.stats import Spread, table
from tests.processes import Server
from tests.servers import Postgres

BULK: Final = 500
"""Changes in one bulk request."""
BULK_CALLERS: Final = 4
CALLERS: Final = 64
SECONDS: Final = 4.0


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder, Postgres(fsync=True) as postgres:
        for name, database, half in (
            ("SQLite", f"sqlite:///{Path(folder)}/writes.db", 2_000),
            ("PostgreSQL", postgres.create_database(), 1_500),
        ):
            with Server(database) as server:
                pin(server.pid, cores()[0])
                for what, callers, size, rate in (
                    (f"bulk, {BULK} a request", BULK_CALLERS, BULK, None),
                    (f"single, {CALLERS} callers", CALLERS, 1, None),
                    (f"single, {half:,}/s asked for", CALLERS, 1, half),
                ):
                    measured = asyncio.run(measure(server, callers, size, rate))
                    rows.append([name, what, *measured])
    head = ["database", "what", "changes/s", "server CPU, µs", "changes/CPU-s", "p50 ms", "p99 ms"]
    print(table(head, rows))


async def measure(
    server: Server, callers: int, size: int, rate: float | None = None
) -> Sequence[object]:
    """Changes a second and µs of the server's CPU for each; how long a request took.

    `rate` is how many requests a second all callers make together; None: as fast as they can.
    """
    every_s = None if rate is None else callers / rate
    async with asyncio.TaskGroup() as tasks:
        before = cpu_s(server.pid)
        began = time.perf_counter()
        ends = began + SECONDS
        working = [
            tasks.create_task(
                write(server.port, size, ends, every_s, began + (every_s or 0.0) * number / callers)
            )
            for number in range(callers)
        ]
    wall_s = time.perf_counter() - began
    spent = cpu_s(server.pid) - before
    took = [seconds for task in working for seconds in task.result()]
    count = len(took) * size
    spread = Spread.of(took).times(1_000)
    return count / wall_s, spent / count * 1e6, count / spent, spread.p50, spread.p99


async def write(
    port: int, size: int, ends: float, every_s: float | None = None, due: float = 0.0
) -> list[float]:
    """Changes a run (or `size` of them) again and again; how long each request took.

    With `every_s` one is due so often, from `due` on, and takes from then until its answer.
    """
    took: list[float] = []
    async with Caller.open(port) as caller:
        creates = [{"create": {"taskIdentifier": "bench", "payload": None}}] * size
        made = await caller.call("POST", "/v1/runs/bulk", {"commands": creates})
        ids = [result["run"]["id"] for result in made["results"]]
        while (began := time.perf_counter()) < ends:
            if every_s is not None:
                due = due + every_s if took else max(due, began)
                await asyncio.sleep(max(0.0, due - began))
                began = due
            metadata = {"step": len(took)}
            if size == 1:
                await caller.call("PATCH", f"/v1/runs/{ids[0]}", {"metadata": metadata})
            else:
                commands = [{"update": {"runId": id, "metadata": metadata}} for id in ids]
                await caller.call("POST", "/v1/runs/bulk", {"commands": commands})
            took.append(time.perf_counter() - began)
        for id in ids[:: max(1, size // 10)]:
            version = (await caller.call("GET", f"/v1/runs/{id}"))["version"]
            if version != 1 + len(took):
                raise Lost(f"{id} is at version {version}, not {1 + len(took)}")
    return took
