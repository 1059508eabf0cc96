"""The load of the soak: so many changes a second, whichever gateway is there to take them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from bench.http import Caller, Refused
from tests.processes import Server

POOL: Final = 300
"""So many runs are changed; one that ends is replaced by a new one."""
TAGS: Final = 60
RARE: Final = 40
WRITERS: Final = 4
AT_ONCE: Final = 50
"""The most that one request changes."""
CATCHES_UP_S: Final = 10.0
"""What could not be written for longer than this, while a database was away, is let be."""
ANSWER_S: Final = 15.0


class Load:
    """Makes runs and batches, and changes them."""

    def __init__(self, chance: random.Random, rate: int, servers: Sequence[Server]) -> None:
        self.pool: list[dict[str, Any]] = []
        self.batches: list[str] = []
        self.changes = 0
        """Those that are known to be written."""
        self.writes = True
        self._chance = chance
        self._rate = rate
        self._servers = servers
        self._owed = 0.0
        self._looked = time.monotonic()
        self._begun = self._looked

    async def begin(self) -> None:
        """What is there to be followed from the first."""
        async with Caller.open(self._servers[0].port) as caller:
            await self._fill(caller)
            for _ in range(10):
                await self._batch(caller)
        self.changes = 0
        self._begun = self._looked = time.monotonic()

    async def run(self) -> None:
        """Writes, until it is to end. What fails is written by way of the other gateway."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                tasks.create_task(self._write(number))

    @property
    def reached(self) -> float:
        """Changes a second, so far."""
        return self.changes / max(time.monotonic() - self._begun, 1e-9)

    async def _write(self, turn: int) -> None:
        while self.writes:
            server = self._servers[turn % len(self._servers)]
            try:
                async with Caller.open(server.port) as caller:
                    while self.writes:
                        await self._some(caller)
            except (Refused, OSError, EOFError):  # a TimeoutError is an OSError
                turn += 1
                await asyncio.sleep(0.1)

    def due(self, now: float) -> int:
        """How many changes are to be written at that time, in one request."""
        self._owed += self._rate * (now - self._looked)
        self._looked = now
        self._owed = min(self._owed, self._rate * CATCHES_UP_S)
        size = min(int(self._owed), AT_ONCE)
        if size < AT_ONCE // 4:
            return 0
        self._owed -= size
        return size

    async def _some(self, caller: Caller) -> None:
        size = self.due(time.monotonic())
        if not size:
            await asyncio.sleep(0.01)
            return
        over: set[str] = set()
        some = self._chance.sample(self.pool, min(size, len(self.pool)))
        commands = [self._command(run, over) for run in some]
        try:
            async with asyncio.timeout(ANSWER_S):
                said = await caller.call("POST", "/v1/runs/bulk", {"commands": commands})
        finally:
            # If it failed it was done or not: what came of it, the database says in the end. A run
            # that may be over is changed no more; those that are not end with the load.
            self.pool = [run for run in self.pool if run["id"] not in over]
        self.changes += sum("run" in each for each in said["results"])
        async with asyncio.timeout(ANSWER_S):
            await self._fill(caller)
            if self._chance.random() < 0.02:
                await self._batch(caller)

    def _command(self, run: dict[str, Any], over: set[str]) -> dict[str, Any]:
        """What is done to it next."""
        what = self._chance.random()
        change: dict[str, Any] = {"runId": run["id"]}
        if what < 0.80:
            change["metadata"] = {
                "n": self._chance.random(),
                "text": "x" * self._chance.randrange(99),
            }
        elif what < 0.90:
            verb = self._chance.choice(["addTags", "removeTags"])
            change[verb] = [f"tag{self._chance.randrange(TAGS)}"]
        elif run["status"] == "QUEUED":
            run["status"] = change["status"] = "EXECUTING"
        else:
            change["status"] = self._chance.choice(["COMPLETED", "FAILED"])
            over.add(run["id"])
        return {"update": change}

    def _new(self) -> dict[str, Any]:
        tags = {f"tag{self._chance.randrange(TAGS)}" for _ in range(2)}
        if self._chance.random() < 0.1:
            tags.add(f"rare{self._chance.randrange(RARE)}")
        return {"taskIdentifier": "soak", "tags": sorted(tags), "payload": {"n": self.changes}}

    async def _fill(self, caller: Caller) -> None:
        count = POOL - len(self.pool)
        if count <= 0:
            return
        commands = [{"create": self._new()} for _ in range(count)]
        said = await caller.call("POST", "/v1/runs/bulk", {"commands": commands})
        self.pool += [each["run"] for each in said["results"]]
        self.changes += count
        self._owed -= count

    async def _batch(self, caller: Caller) -> None:
        items = [self._new() for _ in range(10)]
        said = await caller.call("POST", "/v1/batches", {"items": items})
        self.batches = [*self.batches[-20:], said["batch"]["id"]]
        self.pool += said["runs"]
        self.changes += len(items)
        self._owed -= len(items)
