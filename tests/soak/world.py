"""What the soak runs on: servers, writers, readers, and what is measured of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import psutil

from bench.http import Caller, Refused
from tests.faults import Proxy
from tests.processes import Server
from tests.servers import Postgres, Valkey
from tests.soak.reader import Findings, Reader, Stream

POOL: Final = 300
"""So many runs are changed; one that ends is replaced by a new one."""
TAGS: Final = 60
RARE: Final = 40
ALIVE: Final = ("QUEUED", "EXECUTING")
SETTLES_S: Final = 60.0
AFTER_OUTAGE_S: Final = 4.0
"""How long after a database's outage what comes late may still be its doing."""
FLAT_AFTER_S: Final = 300.0
FLAT: Final = 0.05
Truth = Mapping[str, Any]


class World:
    """All of it. Made by `made`, which also takes it down."""

    def __init__(
        self, chance: random.Random, rate: int, postgres: Postgres, valkey: Valkey, redis: Proxy
    ) -> None:
        self.chance = chance
        self.rate = rate
        self.postgres = postgres
        self.valkey = valkey
        self.redis = redis
        database = postgres.create_database()
        self.steady = Server(database, redis.url, args=["--drain-s", "3"])
        self.other = Server(database, redis.url, args=["--drain-s", "3"])
        self.findings = Findings(keeps_delays=False)
        self.readers: list[Reader] = []
        self.faults: Counter[str] = Counter()
        self.timeline: list[tuple[float, str]] = []
        """When which fault began."""
        self.outages: list[tuple[float, float]] = []
        self.changes = 0
        self.memory: list[tuple[float, int]] = []
        self.lag_s = 0.0
        """By how much this process itself was late at worst: what it measures is worth no more."""
        self.lags: list[tuple[float, float]] = []
        self._pool: list[dict[str, Any]] = []
        self._batches: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes = True
        self._begun = time.monotonic()

    @classmethod
    @asynccontextmanager
    async def made(cls, chance: random.Random, rate: int) -> AsyncIterator[World]:
        """The world, running."""
        with Postgres() as postgres, Valkey() as valkey:
            async with Proxy(valkey.url) as redis:
                world = cls(chance, rate, postgres, valkey, redis)
                with world.steady, world.other:
                    world.files = psutil.Process(world.steady.pid).num_fds()
                    try:
                        await world._begin()
                        yield world
                    finally:
                        for task in tuple(world._tasks):
                            task.cancel()
                        await asyncio.gather(*world._tasks, return_exceptions=True)

    files = 0

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.findings.found(f"{task.get_coro()}: {error!r}")

    async def _begin(self) -> None:
        while len(self._pool) < POOL:
            await self._create(self.steady, 50)
        for _ in range(10):
            await self._batch(self.steady)
        for asked, covers in self._standing():
            self._reader([(asked, covers)])
        for _ in range(60):
            self._start(self._run_readers())
        for _ in range(20):
            self._start(self._batch_readers())
        self._start(self._measure())
        for writer in range(2):
            self._start(self._write(writer))
        self._begun = time.monotonic()

    # ------------------------------------------------------------------------------------ readers

    def _standing(self) -> Iterator[tuple[dict[str, Any], Callable[[Truth], bool]]]:
        """What is asked for from the beginning to the end."""

        def tagged(tags: tuple[str, ...], any_: bool) -> Callable[[Truth], bool]:
            def covers(run: Truth) -> bool:
                have = [tag in run["tags"] for tag in tags]
                return (any(have) if any_ else all(have)) and run["status"] in ALIVE

            return covers

        statuses = list(ALIVE)
        for n in range(60):
            tag = f"tag{n % TAGS}"
            asked: dict[str, Any] = {
                "type": "subscribeToRunsWithTag",
                "tag": tag,
                "statuses": statuses,
            }
            if n % 3 == 0:
                asked["delivery"] = "latest"
            yield asked, tagged((tag,), False)
        for n in range(30):
            two = (f"tag{n}", f"tag{n + 13}")
            asked = {"type": "subscribeToRunsWithTag", "tags": list(two), "statuses": statuses}
            yield asked | {"match": "any"}, tagged(two, True)
        for n in range(26):
            rare = f"rare{n % RARE}"
            yield {"type": "subscribeToRunsWithTag", "tag": rare, "limit": 10_000}, _tagged(rare)
        for n in range(4):
            asked = {"type": "subscribeToRuns", "statuses": statuses, "limit": 10_000}
            if n == 0:
                asked["delivery"] = "latest"
            yield asked, _is_alive

    def _reader(self, asked: list[tuple[dict[str, Any], Callable[[Truth], bool]]]) -> Reader:
        streams = [
            Stream(n, ask, self.findings, covers) for n, (ask, covers) in enumerate(asked, 1)
        ]
        ports = [self.steady.port, self.other.port]
        reader = Reader(ports, streams, self.findings, self.chance)
        self.readers.append(reader)
        self._start(reader.run())
        return reader

    async def _until_over(self, reader: Reader) -> None:
        while not reader.is_over:
            await asyncio.sleep(0.2)
        self.readers.remove(reader)

    async def _run_readers(self) -> None:
        """Follows a run to its end, then another."""
        while self._writes:
            run_id = self.chance.choice(self._pool)["id"]
            asked = {"type": "subscribeToRun", "runId": run_id}
            await self._until_over(self._reader([(asked, _has("id", run_id))]))

    async def _batch_readers(self) -> None:
        while self._writes:
            batch = self.chance.choice(self._batches)
            asked = {"type": "subscribeToBatch", "batchId": batch}
            await self._until_over(self._reader([(asked, _has("batchId", batch))]))

    # ------------------------------------------------------------------------------------ writers

    async def _call(self, server: Server, path: str, body: Any) -> Any:
        async with asyncio.timeout(15), Caller.open(server.port) as caller:
            return await caller.call("POST", path, body)

    def _new(self) -> dict[str, Any]:
        tags = {f"tag{self.chance.randrange(TAGS)}" for _ in range(2)}
        if self.chance.random() < 0.1:
            tags.add(f"rare{self.chance.randrange(RARE)}")
        return {"taskIdentifier": "soak", "tags": sorted(tags), "payload": {"n": self.changes}}

    async def _create(self, server: Server, count: int) -> None:
        commands = [{"create": self._new()} for _ in range(count)]
        said = await self._call(server, "/v1/runs/bulk", {"commands": commands})
        self._pool += [each["run"] for each in said["results"]]

    async def _batch(self, server: Server) -> None:
        items = [self._new() for _ in range(10)]
        said = await self._call(server, "/v1/batches", {"items": items})
        self._batches = [*self._batches[-20:], said["batch"]["id"]]
        self._pool += said["runs"]

    def _command(self, run: dict[str, Any], over: list[str]) -> dict[str, Any]:
        """What is done to it next."""
        what = self.chance.random()
        change: dict[str, Any] = {"runId": run["id"]}
        if what < 0.80:
            change["metadata"] = {
                "n": self.chance.random(),
                "text": "x" * self.chance.randrange(99),
            }
        elif what < 0.90:
            verb = self.chance.choice(["addTags", "removeTags"])
            change[verb] = [f"tag{self.chance.randrange(TAGS)}"]
        elif run["status"] == "QUEUED":
            run["status"] = change["status"] = "EXECUTING"
        else:
            change["status"] = self.chance.choice(["COMPLETED", "FAILED"])
            over.append(run["id"])
        return {"update": change}

    async def _write(self, number: int) -> None:
        """Half of the changes, by way of one of the gateways."""
        server = (self.steady, self.other)[number]
        size = self.rate // 20
        while self._writes:
            begun = time.monotonic()
            over: list[str] = []
            some = self.chance.sample(self._pool, min(size, len(self._pool)))
            commands = [self._command(run, over) for run in some]
            try:
                said = await self._call(server, "/v1/runs/bulk", {"commands": commands})
                self.changes += sum("run" in each for each in said["results"])
                self._pool = [run for run in self._pool if run["id"] not in over]
                if len(self._pool) < POOL:
                    await self._create(server, POOL - len(self._pool))
                if self.chance.random() < 0.02:
                    await self._batch(server)
            except (Refused, OSError, EOFError, TimeoutError):
                # Done or not: what came of it, the database says in the end. A run that may be
                # over is changed no more; those that are not end with the load.
                self._pool = [run for run in self._pool if run["id"] not in over]
                await asyncio.sleep(0.2)
            await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - begun)))

    # ---------------------------------------------------------------------------------- measuring

    async def _measure(self) -> None:
        process = psutil.Process(self.steady.pid)
        looked = time.monotonic()
        while True:
            due = time.monotonic() + 0.1
            await asyncio.sleep(0.1)
            now = time.monotonic()
            if now - due > 0.2:
                self.lags.append((now, now - due))
                self.lag_s = max(self.lag_s, now - due)
            if now - looked > 5:
                looked = now
                self.memory.append((now - self._begun, process.memory_info().rss))

    def line(self) -> str:
        """How it stands."""
        rss = self.memory[-1][1] / 2**20 if self.memory else 0
        counts = {name: n for name, n in self.findings.counts.items() if name != "welcome"}
        return (
            f"{(time.monotonic() - self._begun) / 60:5.1f} min  {self.changes} changes"
            f"  {rss:.1f} MiB  slow {len(self.findings.slow)}  {dict(self.findings.closes)}  {counts}"
        )

    async def verdict(self, silence_s: float) -> list[str]:
        """Stops the load, waits until all is said, and holds every stream against the database."""
        self._writes = False
        found: list[str] = []
        await asyncio.sleep(1)
        async with Caller.open(self.steady.port) as caller:
            await self._end_all(caller)
            deadline = time.monotonic() + SETTLES_S
            while True:
                truth = await all_runs(caller)
                wrong = [
                    what
                    for reader in self.readers
                    for stream in reader.streams.values()
                    if (what := stream.differs(truth)) is not None
                ]
                if not wrong or time.monotonic() > deadline:
                    break
                await asyncio.sleep(1)
        found += wrong[:20]
        found += self.findings.broken
        found += self._silences(silence_s)
        found += self._growth()
        versions = sum(run["version"] for run in truth.values())
        told = sum(s.told for reader in self.readers for s in reader.streams.values())
        print(f"{self.line()}\nfaults: {dict(self.faults)}")
        print(f"{len(truth)} runs, {versions} versions, {told} changes shown to who still reads")
        found += await self._left_behind()
        return found

    async def _end_all(self, caller: Caller) -> None:
        """Every run comes to its end, so that every run's and batch's stream does."""
        for _ in range(3):
            truth = await all_runs(caller)
            for status in ("EXECUTING", "COMPLETED"):
                was = {"EXECUTING": ("QUEUED",), "COMPLETED": ALIVE}[status]
                ids = [id for id, run in truth.items() if run["status"] in was]
                for start in range(0, len(ids), 500):
                    commands = [
                        {"update": {"runId": id, "status": status}}
                        for id in ids[start : start + 500]
                    ]
                    with contextlib.suppress(Refused):
                        await caller.call("POST", "/v1/runs/bulk", {"commands": commands})

    def _silences(self, silence_s: float) -> list[str]:
        """News that came too late to who was connected all the while, and no outage to blame."""
        late = []
        by: Counter[str] = Counter()
        for came, delay in self.findings.slow:
            made = came - delay
            if any(
                begun <= came and made <= ended + AFTER_OUTAGE_S for begun, ended in self.outages
            ):
                continue
            # What this process itself was late by is not the server's.
            own = sum(lag for at, lag in self.lags if made <= at <= came + 0.2)
            late.append(delay - own)
            if delay - own > silence_s:
                by[next((n for at, n in reversed(self.timeline) if at <= came), "")] += 1
        worst = max(late, default=0.0)
        print(f"longest silence outside outages: {worst:.2f} s; own lag at most {self.lag_s:.2f} s")
        return [f"changes came more than {silence_s} s late: {dict(by)}"] if by else []

    def _growth(self) -> list[str]:
        flat = [rss for at, rss in self.memory if at > FLAT_AFTER_S]
        if len(flat) < 24:
            return []
        third = len(flat) // 3
        first, last = (sum(part) / third for part in (flat[:third], flat[-third:]))
        grown = last / first - 1
        print(
            f"memory after 5 minutes: {first / 2**20:.1f} to {last / 2**20:.1f} MiB, {grown:+.1%}"
        )
        return [f"memory has grown by {grown:.1%}"] if grown > FLAT else []

    async def _left_behind(self) -> list[str]:
        """Whether anything of its readers stays with the gateway once they have gone."""
        for reader in self.readers:
            reader.may_connect.clear()
            reader.cut()
        process = psutil.Process(self.steady.pid)
        deadline = time.monotonic() + 20
        while (files := process.num_fds()) > self.files + 12 and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        print(f"open files: {self.files} before, {files} after; threads: {process.num_threads()}")
        if files <= self.files + 12:
            return []
        open_ = Counter((each.status, each.laddr[1]) for each in process.net_connections())
        return [f"{files - self.files} files are left: {open_.most_common(5)}"]


def _has(name: str, value: str) -> Callable[[Truth], bool]:
    return lambda run: bool(run[name] == value)


def _tagged(tag: str) -> Callable[[Truth], bool]:
    return lambda run: tag in run["tags"]


def _is_alive(run: Truth) -> bool:
    return run["status"] in ALIVE


async def all_runs(caller: Caller) -> dict[str, Truth]:
    """Every run as the API shows it."""
    found: dict[str, Truth] = {}
    after = ""
    while True:
        said = await caller.call("GET", f"/v1/runs?limit=1000{after}")
        for run in said["data"]:
            found[run["id"]] = {
                name: run[name]
                for name in ("id", "version", "status", "tags", "batchId", "taskIdentifier")
            }
        if said["next"] is None:
            return found
        after = f"&after={said['next']}"
