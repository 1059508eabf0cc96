"""Writes over HTTP: bulk changes and single updates, on SQLite and PostgreSQL.

Single updates are also made at half the rate that is wanted: by then nobody waits for others, and
what an update takes counts from when it was due. All is synced to disk before it is answered.
Every run's version is read at the end: a change that is not there, or is there twice, ends the
benchmark without a number.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.http import Caller, request
from bench.load import Lost, cores, cpu_s, pin
from bench.load.calling import NUMBER, Called, callers
from bench.stats import table
from tests.processes import Server
from tests.servers import Postgres

BULK: Final = 500
"""Changes in one bulk request."""
BULK_CALLERS: Final = 4
CALLERS: Final = 64
ROUNDS: Final = 3
WITHIN_S: Final = 300.0


@dataclass(frozen=True)
class Mode:
    """What is asked of a server, and how often in one round."""

    name: str
    callers: int
    size: int
    requests: int
    rate: float = 0.0


@dataclass(frozen=True)
class Sample:
    called: Called
    changes: int
    cpu_s: float


def main(rounds: int = ROUNDS) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder, Postgres(fsync=True) as postgres:
        for name, database, half in (
            ("SQLite", f"sqlite:///{Path(folder)}/writes.db", 2_000),
            ("PostgreSQL", postgres.create_database(), 1_500),
        ):
            with Server(database) as server:
                pin(server.pid, cores()[0])
                for mode in (
                    Mode(f"bulk, {BULK} a request", BULK_CALLERS, BULK, 160),
                    Mode(f"single, {CALLERS} callers", CALLERS, 1, 320 * CALLERS),
                    Mode(f"single, {half:,}/s asked for", CALLERS, 1, 160 * CALLERS, half),
                ):
                    samples = asyncio.run(measure(server, mode, rounds))
                    rows.append([name, mode.name, *medians(samples)])
    head = ["database", "what", "changes/s", "server CPU, µs", "changes/CPU-s", "p50 ms", "p99 ms"]
    print(f"medians of {rounds} rounds\n")
    print(table([*head, "max ms"], rows))


def short() -> None:
    main(1)


def medians(samples: Sequence[Sample]) -> list[object]:
    costs = [each.cpu_s / each.changes for each in samples]
    return [
        statistics.median(each.changes / each.called.wall_s for each in samples),
        statistics.median(costs) * 1e6,
        1 / statistics.median(costs),
        statistics.median(each.called.p50_ms for each in samples),
        statistics.median(each.called.p99_ms for each in samples),
        statistics.median(each.called.max_ms for each in samples),
    ]


async def measure(server: Server, mode: Mode, rounds: int) -> list[Sample]:
    """So many rounds of it, after one that warms up. Raises Lost."""
    samples: list[Sample] = []
    async with Caller.open(server.port) as caller:
        lots = [await create(caller, mode.size) for _ in range(mode.callers)]
        for round_ in range(rounds + 1):
            asks = [ask(lot) for lot in lots]
            async with callers(
                server.port, mode.callers, asks, mode.requests, mode.rate
            ) as calling:
                before = cpu_s(server.pid)
                called = await calling.call(WITHIN_S)
                spent = cpu_s(server.pid) - before
            if round_:
                samples.append(Sample(called, mode.requests * mode.size, spent))
        expected = 1 + (rounds + 1) * mode.requests // mode.callers
        for id in (id for lot in lots for id in lot[:: max(1, mode.size // 50)]):
            version = (await caller.call("GET", f"/v1/runs/{id}"))["version"]
            if version != expected:
                raise Lost(f"{id} is at version {version}, not {expected}")
    return samples


async def create(caller: Caller, count: int) -> list[str]:
    creates = [{"create": {"taskIdentifier": "bench", "payload": None}}] * count
    made = await caller.call("POST", "/v1/runs/bulk", {"commands": creates})
    return [result["run"]["id"] for result in made["results"]]


def ask(ids: Sequence[str]) -> bytes:
    """The request that changes each of these runs once."""
    metadata: dict[str, Any] = {"step": NUMBER}
    if len(ids) == 1:
        body = msgspec.json.encode({"metadata": metadata})
        return request("PATCH", f"/v1/runs/{ids[0]}", body)
    commands = [{"update": {"runId": id, "metadata": metadata}} for id in ids]
    return request("POST", "/v1/runs/bulk", msgspec.json.encode({"commands": commands}))


if __name__ == "__main__":
    main()
