"""What the soak runs on: servers, the load, readers, and what is said of them in the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import psutil

from bench.http import Caller, Refused
from realtime.hub import HubSettings
from tests.faults import Proxy
from tests.processes import Server
from tests.servers import Postgres, Valkey
from tests.soak.holdings import Holdings, at_rest
from tests.soak.load import RARE, TAGS, Load
from tests.soak.reader import Findings, Reader, Stream
from tests.soak.silences import Course, silences

ALIVE: Final = ("QUEUED", "EXECUTING")
SETTLES_S: Final = 60.0
FLAT_AFTER_S: Final = 300.0
FLAT: Final = 0.05
Truth = Mapping[str, Any]


class World:
    """All of it. Made by `made`, which also takes it down."""

    def __init__(
        self, chance: random.Random, rate: int, postgres: Postgres, valkey: Valkey, redis: Proxy
    ) -> None:
        self.chance = chance
        self.postgres = postgres
        self.valkey = valkey
        self.redis = redis
        database = postgres.create_database()
        self.steady = Server(database, redis.url, args=["--drain-s", "3"])
        self.other = Server(database, redis.url, args=["--drain-s", "3"])
        self.load = Load(chance, rate, [self.steady, self.other])
        self.findings = Findings(keeps_delays=False)
        self.readers: list[Reader] = []
        self.course = Course()
        self.memory: list[tuple[float, int]] = []
        self._rate = rate
        self._begun_with: dict[str, Holdings] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def made(cls, chance: random.Random, rate: int) -> AsyncIterator[World]:
        """The world, running."""
        with Postgres() as postgres, Valkey() as valkey:
            async with Proxy(valkey.url) as redis:
                world = cls(chance, rate, postgres, valkey, redis)
                with world.steady, world.other:
                    try:
                        await world._begin()
                        yield world
                    finally:
                        for task in tuple(world._tasks):
                            task.cancel()
                        await asyncio.gather(*world._tasks, return_exceptions=True)

    @property
    def _gateways(self) -> dict[str, Server]:
        return {"steady": self.steady, "other": self.other}

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.findings.found(f"{task.get_coro()}: {error!r}")

    async def _begin(self) -> None:
        for name, gateway in self._gateways.items():
            self._begun_with[name] = await asyncio.to_thread(Holdings.of, gateway)
        await self.load.begin()
        for asked, covers in self._standing():
            self._reader([(asked, covers)])
        for _ in range(60):
            self._start(self._run_readers())
        for _ in range(20):
            self._start(self._batch_readers())
        self._start(self.course.watch_lag())
        self._start(self.course.watch_gateways(self._gateways))
        self._start(self._watch_memory())
        self._start(self.load.run())

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
        while self.load.writes:
            run_id = self.chance.choice(self.load.pool)["id"]
            asked = {"type": "subscribeToRun", "runId": run_id}
            await self._until_over(self._reader([(asked, _has("id", run_id))]))

    async def _batch_readers(self) -> None:
        while self.load.writes:
            batch = self.chance.choice(self.load.batches)
            asked = {"type": "subscribeToBatch", "batchId": batch}
            await self._until_over(self._reader([(asked, _has("batchId", batch))]))

    # ---------------------------------------------------------------------------------- measuring

    async def _watch_memory(self) -> None:
        process = psutil.Process(self.steady.pid)
        while True:
            await asyncio.sleep(5)
            self.memory.append((self.course.age, process.memory_info().rss))

    def line(self) -> str:
        """How it stands."""
        rss = self.memory[-1][1] / 2**20 if self.memory else 0
        counts = {name: n for name, n in self.findings.counts.items() if name != "welcome"}
        return (
            f"{self.course.age / 60:5.1f} min  {self.load.changes} changes,"
            f" {self.load.reached:.0f} a second"
            f" ({time.process_time() / self.course.age:.0%} of a core for load and readers)"
            f"  {rss:.1f} MiB"
            f"  slow {len(self.findings.slow)}  {dict(self.findings.closes)}  {counts}"
        )

    async def verdict(self, silence_s: float) -> list[str]:
        """Stops the load, waits until all is said, and holds every stream against the database."""
        print(self.line())
        self.load.writes = False
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
        course = self.course
        gateways = {each.port: name for name, each in self._gateways.items()}
        worst, found = 0.0, []
        for silence in silences(self.findings.slow, course):
            longest = silence.longest(course)
            worst = max(worst, longest)
            print(f"silence at {silence.told(course, gateways)}")
            if longest > silence_s:
                found.append(f"{longest:.2f} s of silence at {silence.at(course)}: see above")
        lag_s = max((lag for _, lag in course.lags), default=0.0)
        print(f"longest silence outside outages: {worst:.2f} s; own lag at most {lag_s:.2f} s")
        return found

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
        """Whether anything of its clients stays with a gateway once they have gone."""
        for reader in self.readers:
            reader.may_connect.clear()
            reader.cut()
        for task in tuple(self._tasks):  # those who look at the gateways are clients too
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        found = []
        within_s = HubSettings().linger_s + SETTLES_S
        for name, gateway in self._gateways.items():
            begun = self._begun_with[name]
            ended = await asyncio.to_thread(at_rest, gateway, begun, within_s)
            print(f"{name} began with {begun}\n{name} ended with {ended}")
            found += [f"{name} was left with more {what}" for what in ended.beyond(begun)]
        return found


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
