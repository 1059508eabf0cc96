"""The resume storm: a gateway is killed and started again under thousands of subscriptions.

How long until all are live again, and how many SQL statements that took, as PostgreSQL itself
counts them for the gateway's own role. Changes go on all the while, through another server. At
the end every subscription is held against the database: one version missing, and there is no
number.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from bench.http import Caller
from bench.load import Lost, raise_limit
from bench.stats import table
from bench.waiting import WITHIN_S, until
from tests.processes import Server
from tests.servers import Postgres, Valkey
from tests.soak.reader import Findings, Reader, Stream
from tests.soak.world import all_runs

CONNECTIONS: Final = 1_000
RUNS: Final = 2_000
TAGS: Final = 500
TASKS: Final = 200
BATCHES: Final = 200
CHANGES_PER_S: Final = 100
WARM_S: Final = 6.0
"""A checkpoint comes every 5 s while changes flow: each client has one that is younger than its
beginning, as in the middle of any day."""
AWAY_S: Final = 2.0
"""How long the gateway is away: 200 changes are made meanwhile, which it has to make up for."""
QUIET_S: Final = 1.5
"""The tail reads once a second: after this it has passed what was changed, and the statements
that are counted are those of the storm."""
CROWD: Final = 100
"""Changes that each of the crowd has missed."""
HUBS: Final = (
    "pg_current_snapshot",
    "FROM changes",
    "FROM batches",
    "runs.batch_id",
    "runs.version",
)
"""What the hub's statements have in them, and those of timers and housekeeping have not."""


def main(connections: int = CONNECTIONS) -> None:
    raise_limit(4 * connections)
    asyncio.run(storm(connections))


async def storm(connections: int) -> None:
    config = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.max": "1000"}
    with Postgres(fsync=True, config=config) as postgres, Valkey() as valkey:
        database = postgres.create_database()
        name = database.rpartition("/")[2]
        for role in ("gateway", "writer"):
            postgres.execute(f"CREATE ROLE {role} SUPERUSER LOGIN")
        postgres.execute("CREATE EXTENSION pg_stat_statements", database=name)
        writer = Server(database.replace("postgres@", "writer@"), valkey.url)
        gateway = Server(database.replace("postgres@", "gateway@"), valkey.url)
        with writer, gateway:
            count = Counts(postgres, name)
            async with Caller.open(writer.port) as caller:
                world = await World.made(caller)
                rows = [
                    await restarted(world, gateway, count, connections),
                    await cut(world, gateway, count, connections),
                ]
    head = ["storm", "subscriptions", "live after, s", "changes shown", "SQL statements"]
    print(table([*head, "of timers and the like", "BEGIN and ROLLBACK"], rows))


class Counts:
    """The statements of the gateway, by PostgreSQL's own accounts."""

    def __init__(self, postgres: Postgres, database: str) -> None:
        self._postgres = postgres
        self._database = database

    def reset(self) -> None:
        self._postgres.execute("SELECT pg_stat_statements_reset()", database=self._database)

    def read(self) -> list[tuple[str, int]]:
        """Each statement and how often it was made."""
        return [
            (query, int(calls))
            for query, calls in self._postgres.fetch(
                "SELECT query, calls FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid"
                " WHERE rolname = 'gateway' ORDER BY calls DESC",
                database=self._database,
            )
        ]


class World:
    """The runs, and what changes them."""

    def __init__(self, caller: Caller, ids: list[str], batches: list[str]) -> None:
        self.caller = caller
        self.ids = ids
        self.batches = batches
        self.chance = random.Random(1)
        self.step = 0
        self.goes_on = False

    @classmethod
    async def made(cls, caller: Caller) -> World:
        """Runs in batches, under tags, of tasks."""
        ids: list[str] = []
        batches: list[str] = []
        for number in range(BATCHES):
            said = await caller.call("POST", "/v1/batches", {})
            batches.append(said["batch"]["id"])
            items = [
                {
                    "taskIdentifier": f"task{i % TASKS}",
                    "tags": [f"tag{i % TAGS}", f"odd{i % 7}"],
                    "payload": {"n": i},
                }
                for i in range(number, RUNS, BATCHES)
            ]
            path = f"/v1/batches/{batches[-1]}/items"
            said = await caller.call("POST", path, {"items": items})
            ids += [run["id"] for run in said["runs"]]
        return cls(caller, ids, batches)

    def streams(self, i: int, findings: Findings) -> list[Stream]:
        """Five of different kinds."""
        run_id = self.ids[i % len(self.ids)]
        tag, two = f"tag{i % TAGS}", {f"tag{i * 7 % TAGS}", f"tag{i * 11 % TAGS}"}
        batch, task = self.batches[i % BATCHES], f"task{i % TASKS}"
        asked: list[tuple[dict[str, Any], Callable[[Mapping[str, Any]], bool]]] = [
            ({"type": "subscribeToRun", "runId": run_id}, lambda run: run["id"] == run_id),
            ({"type": "subscribeToRunsWithTag", "tag": tag}, lambda run: tag in run["tags"]),
            (
                {"type": "subscribeToRunsWithTag", "tags": sorted(two), "match": "any"},
                lambda run: bool(two & set(run["tags"])),
            ),
            (
                {"type": "subscribeToBatch", "batchId": batch},
                lambda run: run["batchId"] == batch,
            ),
            (
                {"type": "subscribeToRunsWithTag", "tag": tag, "tasks": [task]},
                lambda run: tag in run["tags"] and run["taskIdentifier"] == task,
            ),
        ]
        if i % 50 == 0:
            asked[4] = (
                {"type": "subscribeToRuns", "tasks": [task]},
                lambda run: run["taskIdentifier"] == task,
            )
        return [
            Stream(number, ask, findings, covers) for number, (ask, covers) in enumerate(asked, 1)
        ]

    async def change(self, ids: Sequence[str]) -> None:
        """One change of each."""
        self.step += 1
        commands = [{"update": {"runId": id, "metadata": {"step": self.step}}} for id in ids]
        said = await self.caller.call("POST", "/v1/runs/bulk", {"commands": commands})
        if any("error" in result for result in said["results"]):
            raise Lost(str(said)[:500])

    async def go_on(self) -> None:
        """Changes, until it is told to stop."""
        self.goes_on = True
        while self.goes_on:
            await self.change(self.chance.sample(self.ids, CHANGES_PER_S // 10))
            await asyncio.sleep(0.1)


@asynccontextmanager
async def running(readers: Sequence[Reader]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    try:
        await until(lambda: all(reader.is_live for reader in readers))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def restarted(world: World, gateway: Server, count: Counts, connections: int) -> list[object]:
    findings = Findings(keeps_delays=False)
    chance = random.Random(2)
    readers = [
        Reader([gateway.port], world.streams(i, findings), findings, chance)
        for i in range(connections)
    ]
    async with running(readers):
        changing = asyncio.create_task(world.go_on())
        await asyncio.sleep(WARM_S)
        await asyncio.to_thread(gateway.kill)
        await until(lambda: not any(reader.is_live for reader in readers))
        told = sum(stream.told for reader in readers for stream in reader.streams.values())
        await asyncio.sleep(AWAY_S)
        # Counted from where the process serves: what it does before, it does once a start.
        begun = time.monotonic()
        for reader in readers:
            reader.may_connect.clear()
        await asyncio.to_thread(gateway.start)
        count.reset()
        for reader in readers:
            reader.may_connect.set()
        started_s = time.monotonic() - begun
        await until(lambda: all(reader.is_live for reader in readers))
        live_s = time.monotonic() - begun
        statements = count.read()
        shown = sum(stream.told for reader in readers for stream in reader.streams.values()) - told
        world.goes_on = False
        await changing
        await compared(world, readers, findings)
    print(f"until the process serves: {started_s:.2f} s of the {live_s:.2f}")
    row: list[object] = ["killed with -9, started again", 5 * connections, live_s, shown]
    return row + sums(statements)


async def cut(world: World, gateway: Server, count: Counts, connections: int) -> list[object]:
    findings = Findings(keeps_delays=False)
    chance = random.Random(3)
    tag = "tag1"
    readers = [
        Reader(
            [gateway.port],
            [
                Stream(
                    1,
                    {"type": "subscribeToRunsWithTag", "tag": tag},
                    findings,
                    lambda run: tag in run["tags"],
                )
            ],
            findings,
            chance,
        )
        for _ in range(connections)
    ]
    async with running(readers):
        before = sum(reader.streams[1].told for reader in readers)
        for reader in readers:
            reader.may_connect.clear()
            reader.cut()
        await until(lambda: not any(reader.is_live for reader in readers))
        mine = next(reader for reader in readers).streams[1].have
        for _ in range(CROWD // len(mine)):
            await world.change(list(mine))
        await asyncio.sleep(QUIET_S)
        count.reset()
        begun = time.monotonic()
        for reader in readers:
            reader.may_connect.set()
        await until(lambda: all(reader.is_live for reader in readers))
        live_s = time.monotonic() - begun
        statements = count.read()
        shown = sum(reader.streams[1].told for reader in readers) - before
        await compared(world, readers, findings)
    row: list[object] = [f"cut, {CROWD} changes missed", connections, live_s, shown]
    return row + sums(statements)


def sums(statements: Sequence[tuple[str, int]]) -> list[int]:
    """How many the hub made, how many timers, housekeeping and revocations made meanwhile, and
    how many only framed transactions."""
    found = [0, 0, 0]
    for query, calls in statements:
        if query.split()[0] in ("BEGIN", "COMMIT", "ROLLBACK"):
            kind = 2
        elif any(word in query for word in HUBS):
            kind = 0
        else:
            kind = 1
        found[kind] += calls
        if "-v" in sys.argv:
            print(f"{calls:5} of kind {kind}  {' '.join(query.split())[:150]}")
    return found


async def compared(world: World, readers: Sequence[Reader], findings: Findings) -> None:
    """Raises Lost unless each has all there is, and nothing was wrong on the way."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        truth = await all_runs(world.caller)
        wrong = [
            found
            for reader in readers
            for stream in reader.streams.values()
            if (found := stream.differs(truth)) is not None
        ]
        if not wrong or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    if wrong or findings.broken:
        raise Lost("; ".join([*findings.broken[:5], *wrong[:5]]))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:] if word.isdigit()))
