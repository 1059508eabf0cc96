"""A day's load: 2,000 readers on their own runs, 20 dashboards, up to 1,000 changes a second.

Two gateways on PostgreSQL and Redis; each is written to and read from, so half of what is told has
come by way of Redis. Changes are single requests, due at even times, of callers who wait for their
answers. All of it shares the machine's cores. A reader that misses a version of its run, or a
dashboard one of any run, ends the benchmark without a number.

A change's time is given inside its transaction, before the commit. So the latency here holds the
commit too; how long after that time the commit began to be written is printed beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from bench import machine
from bench.http import Caller, request
from bench.load import Lost, Watchers, cpu_s, raise_limit, subscribers
from bench.load.calling import NUMBER, Called, callers
from bench.result import Found, Row
from bench.stats import Spread, table
from bench.waiting import until
from tests.processes import Process, Server
from tests.servers import Postgres, Valkey
from tests.soak.reader import Findings, Reader, Stream

RUNS: Final = 2_000
"""Each has a reader of its own."""
DASHBOARDS: Final = 20
"""Each follows a tag that a twentieth of the runs have."""
RATES: Final = (250, 500, 1_000)
"""Changes a second, one after the other."""
CALLERS: Final = 50
"""At each gateway."""
ROUNDS: Final = 10
"""How often each run is changed while the highest rate is measured; at others as long."""
LEAST_ROUNDS: Final = 2
"""With fewer a run would be told again what it was told last, which is no change."""
WARM_ROUNDS: Final = 2
"""At the highest rate."""
WITHIN_S: Final = 120.0
CREATE: Final = 500


def main(rounds: int = ROUNDS) -> Found:
    raise_limit(3 * RUNS)
    config = {"track_commit_timestamp": "on"}
    with Postgres(fsync=True, config=config) as postgres, Valkey() as valkey:
        database = postgres.create_database()
        with Server(database, valkey.url) as one, Server(database, valkey.url) as other:
            processes = {
                "first gateway": one,
                "second gateway": other,
                "PostgreSQL": postgres,
                "Redis": valkey,
            }
            rows = asyncio.run(measure((one, other), processes, rounds, postgres, database))
    about = (
        f"{RUNS:,} readers of their own runs, {DASHBOARDS} dashboards, two gateways; "
        f"{rounds} changes of each run at the highest rate"
    )
    return Found(about, rows, (machine.postgres(), machine.valkey()))


def short() -> Found:
    return main(3)


async def measure(
    gateways: Sequence[Server],
    processes: Mapping[str, Process],
    rounds: int,
    postgres: Postgres,
    database: str,
) -> list[Row]:
    """At each rate. Raises Lost."""
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World.made(gateways))
        await world.change(WARM_ROUNDS, max(RATES))
        for rate in RATES:
            world.forget()
            first = world.version + 1
            spent = {name: cpu_of(process.pid) for name, process in processes.items()}
            called = await world.change(max(LEAST_ROUNDS, rounds * rate // max(RATES)), rate)
            cost = {name: cpu_of(process.pid) - spent[name] for name, process in processes.items()}
            await world.compare()
            rows += world.report(called, 1 + world.version - first, rate)
            wall_s = max(each.wall_s for each in called)
            shares = ", ".join(f"{name} {s / wall_s:.2f}" for name, s in cost.items())
            print(f"\nCPU in shares of a core: {shares}")
            await asyncio.to_thread(report_commits, postgres, database, first, world.version)
    return rows


class World:
    """The runs, who reads them, and who changes them."""

    def __init__(self, gateways: Sequence[Server], ids: list[str], caller: Caller) -> None:
        self.gateways = gateways
        self.ids = ids
        self.own: list[Watchers] = []
        self.findings = Findings()
        self.dashboards: list[Reader] = []
        self.version = 1
        """Of every run."""
        self._caller = caller
        self._said: list[dict[str, Any]] = []

    @classmethod
    @asynccontextmanager
    async def made(cls, gateways: Sequence[Server]) -> AsyncIterator[World]:
        """All of them live."""
        async with AsyncExitStack() as stack:
            caller = await stack.enter_async_context(Caller.open(gateways[0].port))
            world = cls(gateways, await create(caller), caller)
            for number, gateway in enumerate(gateways):
                mine = world.ids[number :: len(gateways)]
                asks = [{"type": "subscribeToRun", "id": 1, "runId": id} for id in mine]
                world.own.append(
                    await stack.enter_async_context(subscribers(gateway.port, len(mine), asks))
                )
            tasks = []
            for number in range(DASHBOARDS):
                ask = {"type": "subscribeToRunsWithTag", "tag": tag(number)}
                stream = Stream(1, ask, world.findings)
                port = gateways[number % len(gateways)].port
                reader = Reader([port], [stream], world.findings, random.Random(number))
                world.dashboards.append(reader)
                tasks.append(asyncio.create_task(reader.run()))
            try:
                await until(lambda: all(each.is_live for each in world.dashboards))
                yield world
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    def forget(self) -> None:
        """What was measured so far was to warm up."""
        for each in self.own:
            each.say("reset")
        self.findings.delays.clear()

    async def change(self, rounds: int, changes_per_s: int) -> list[Called]:
        """Each run so often; returns when all its readers have seen it."""
        first, last = self.version + 1, self.version + rounds
        self.version = last
        for each in self.own:
            each.expect(first, last)
        share = len(self.ids) // len(self.gateways)
        rate = changes_per_s / len(self.gateways)
        async with AsyncExitStack() as stack:
            calling = []
            for number, gateway in enumerate(self.gateways):
                # Written at the one and read at the other, for every second run of each.
                half = len(self.ids) // 2
                mine = self.ids[:half] if number == 0 else self.ids[half:]
                calling.append(
                    await stack.enter_async_context(
                        callers(gateway.port, CALLERS, [*map(ask, mine)], rounds * share, rate)
                    )
                )
            called = await asyncio.gather(*(each.call(WITHIN_S) for each in calling))
        self._said = [await each.done() for each in self.own]
        told = RUNS * (self.version - 1)
        await until(
            lambda: sum(each.streams[1].told for each in self.dashboards) >= told,
            within_s=WITHIN_S,
        )
        return called

    async def compare(self) -> None:
        """Raises Lost unless everybody has all there is."""
        if self.findings.broken:
            raise Lost("; ".join(self.findings.broken[:5]))
        counts = [sum(each.streams[1].have.values()) for each in self.dashboards]
        if sum(counts) != RUNS * self.version:
            raise Lost(f"the dashboards have {sum(counts)} versions, not {RUNS * self.version}")
        for id in self.ids[::40]:
            version = (await self._caller.call("GET", f"/v1/runs/{id}"))["version"]
            if version != self.version:
                raise Lost(f"{id} is at version {version}, not {self.version}")

    def report(self, called: Sequence[Called], rounds: int, asked: int) -> list[Row]:
        """Prints it all, and says what readers saw at that rate. Raises Lost."""
        told = RUNS * rounds
        rows: list[list[object]] = []
        for name, said in zip(("first", "second"), self._said, strict=True):
            if said["messages"] != told // 2:
                raise Lost(f"{said['messages']} messages, not {told // 2}")
            times = [said[f"{key}_us"] / 1_000 for key in ("p50", "p90", "p99", "max")]
            rows.append([f"readers of their own runs, {name} gateway", told // 2, *times])
        spread = Spread.of(self.findings.delays).times(1_000)
        rows.append(
            ["dashboards", spread.count, spread.p50, spread.p90, spread.p99, spread.max],
        )
        seen = [
            Row(
                f"own runs, {name} gateway",
                {key: said[f"{key}_us"] / 1_000 for key in ("p50", "p90", "p99", "max")},
                f"{asked:,} changes/s",
            )
            for name, said in zip(("first", "second"), self._said, strict=True)
        ]
        numbers = {"p50": spread.p50, "p90": spread.p90, "p99": spread.p99, "max": spread.max}
        seen.append(Row("dashboards", numbers, f"{asked:,} changes/s"))
        for name, each in zip(("first", "second"), called, strict=True):
            times = [each.p50_ms, each.p90_ms, each.p99_ms, each.max_ms]
            rows.append([f"callers, {name} gateway, until the answer", each.count, *times])
        rate = sum(each.rate for each in called)
        print(
            f"\n{RUNS:,} readers of their own runs, {DASHBOARDS} dashboards, {rate:,.0f} changes/s;"
            " ms from the change's time, before its commit\n"
        )
        print(table(["who", "told", "p50", "p90", "p99", "max"], rows))
        return seen


def tag(number: int) -> str:
    return f"tag{number % DASHBOARDS}"


async def create(caller: Caller) -> list[str]:
    ids: list[str] = []
    for first in range(0, RUNS, CREATE):
        commands = [
            {"create": {"taskIdentifier": "bench", "tags": [tag(first + i)], "status": "EXECUTING"}}
            for i in range(CREATE)
        ]
        made = await caller.call("POST", "/v1/runs/bulk", {"commands": commands})
        ids += [result["run"]["id"] for result in made["results"]]
    return ids


def ask(id: str) -> bytes:
    note = {"step": NUMBER, "note": "halfway through what it has to do"}
    return request("PATCH", f"/v1/runs/{id}", msgspec.json.encode({"metadata": note}))


def cpu_of(pid: int) -> float:
    """Of it and of all it has started."""
    pids = [pid]
    with contextlib.suppress(psutil.NoSuchProcess):
        pids += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return cpu_s(*(each for each in pids if Path(f"/proc/{each}/task").exists()))


def report_commits(postgres: Postgres, database: str, first: int, last: int) -> None:
    """How long before its commit a change with one of these versions had been given its time, by
    PostgreSQL's accounts."""
    rows = postgres.fetch(
        "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM"
        " pg_xact_commit_timestamp(xid::text::xid) - at) * 1000)"
        " FROM changes WHERE version BETWEEN $1 AND $2",
        first,
        last,
        database=database.rpartition("/")[2],
    )
    p50, p99 = rows[0][0]
    print(f"\nfrom a change's time to its commit record: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    main()
