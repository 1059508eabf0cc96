"""Polling beside pushing: what it costs a server that 1,000 programs follow a run each.

Every run changes every so often. Once the programs ask for their run each second, as they do where
nothing is pushed; once they are subscribed to it; and once nobody follows, for what the changes
themselves cost. A subscriber that misses a version, or is told one twice, ends the benchmark
without a number; who polls misses by design what comes and goes between two questions.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.bench_writes_http import create
from bench.http import Caller, request
from bench.load import Lost, cores, cpu_s, pin, subscribers
from bench.load.calling import NUMBER, Callers, callers
from bench.stats import table
from tests.processes import Server

PROGRAMS: Final = 1_000
EVERY_S: Final = 5
"""So often each run changes."""
ROUNDS: Final = 4
CONNECTIONS: Final = 50
WITHIN_S: Final = 120.0


def main(rounds: int = ROUNDS) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, way in (("nobody", "none"), ("polling", "polled"), ("subscribed", "pushed")):
            with Server(f"sqlite:///{Path(folder)}/{way}.db") as server:
                pin(server.pid, cores()[0])
                rows.append([name, *asyncio.run(measure(server, way, rounds))])
    changes_per_s = PROGRAMS // EVERY_S
    print(f"{PROGRAMS:,} runs, {changes_per_s} changes/s in all, {rounds * EVERY_S} s\n")
    print(table(["who follows", "server CPU, ms a second", "p50 ms", "p99 ms"], rows))
    nobody, polled, pushed = (float(str(row[1])) for row in rows)
    print(
        f"\nto be asked costs {polled - nobody:.0f} ms of CPU a second, to push"
        f" {pushed - nobody:.0f}; who asks knows of a change 500 ms after it in the mean,"
        " and the latency above is that of the answer"
    )


def short() -> None:
    main(2)


async def measure(server: Server, way: str, rounds: int) -> tuple[object, ...]:
    """ms of the server's CPU for each second, and how long an answer or a change took."""
    wall_s = rounds * EVERY_S
    async with AsyncExitStack() as stack:
        caller = await stack.enter_async_context(Caller.open(server.port))
        ids = await create(caller, PROGRAMS)
        changing = await stack.enter_async_context(
            callers(
                server.port,
                CONNECTIONS,
                [change(id) for id in ids],
                PROGRAMS * rounds,
                PROGRAMS / EVERY_S,
            )
        )
        if way == "none":
            return (await cost_of(server, changing) / wall_s, "-", "-")
        if way == "polled":
            asking = await stack.enter_async_context(
                callers(
                    server.port,
                    CONNECTIONS,
                    [request("GET", f"/v1/runs/{id}") for id in ids],
                    PROGRAMS * wall_s,
                    PROGRAMS,
                )
            )
            before = cpu_s(server.pid)
            answered, _ = await asyncio.gather(asking.call(WITHIN_S), changing.call(WITHIN_S))
            spent = (cpu_s(server.pid) - before) * 1_000
            return spent / wall_s, answered.p50_ms, answered.p99_ms
        asks = [{"type": "subscribeToRun", "id": 1, "runId": id} for id in ids]
        readers = await stack.enter_async_context(subscribers(server.port, PROGRAMS, asks))
        readers.say("reset")
        readers.expect(2, 1 + rounds)
        spent = await cost_of(server, changing)
        said: dict[str, Any] = await readers.done()
        if said["messages"] != PROGRAMS * rounds:
            raise Lost(f"{said['messages']} of {PROGRAMS * rounds} came")
        return spent / wall_s, said["p50_us"] / 1_000, said["p99_us"] / 1_000


async def cost_of(server: Server, changing: Callers) -> float:
    """ms of CPU while all is changed."""
    before = cpu_s(server.pid)
    await changing.call(WITHIN_S)
    return (cpu_s(server.pid) - before) * 1_000


def change(id: str) -> bytes:
    return request("PATCH", f"/v1/runs/{id}", msgspec.json.encode({"metadata": {"step": NUMBER}}))


if __name__ == "__main__":
    main()
