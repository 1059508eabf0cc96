"""Slow readers: 20 that never read, among 200 that do, on a stream of about 1 MB a second.

One server in three parts: the 200 alone, the 20 beside them until the server has let them go, the
200 alone again. So it shows what the 20 cost in memory, whether that is given back, and what the
others feel of it. A reader that misses a version, or gets one twice, ends the benchmark without a
number.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from typing import Any, Final

from bench.http import Caller
from bench.load import Watchers, raise_limit, subscribers
from bench.stats import table
from bench.waiting import until
from realtime.ring import RUN_CHANGES
from tests.processes import Server
from tests.servers import Postgres
from tests.soak.holdings import Holdings
from tests.soak.reader import Findings, Reader, Stream

READERS: Final = 200
STUCK: Final = 20
CHANGES_PER_S: Final = 50
NOTE: Final = "x" * 20_000
PART_S: Final = 20.0
PART_CHANGES: Final = RUN_CHANGES // 2 + 50
"""Each part has at least so many: the server throws away half of what it keeps of a run each time
that it is full, so that its memory rises and falls once meanwhile."""
SLOW_CONSUMER_S: Final = 30
LET_GO_S: Final = 60.0
"""Within which the server has to have let them go."""
GROWN_MIB: Final = 40.0
GIVEN_BACK: Final = 1.05
"""By this factor what it holds at most may be off from one part to another without them."""
TAG: Final = "bench"
MIB: Final = 2**20


def main() -> None:
    raise_limit(2_000)
    asyncio.run(measure())


async def measure() -> None:
    args = ["--slow-consumer-s", str(SLOW_CONSUMER_S)]
    ask = {"type": "subscribeToRunsWithTag", "id": 1, "tag": TAG}
    # On PostgreSQL: SQLite keeps in the server's own memory what it has written, up to a bound that
    # this stream reaches after minutes.
    with Postgres() as postgres, Server(postgres.create_database(), args=args) as server:
        async with AsyncExitStack() as stack:
            caller = await stack.enter_async_context(Caller.open(server.port))
            run = await caller.call(
                "POST", "/v1/runs", {"taskIdentifier": "bench", "tags": [TAG], "payload": None}
            )
            readers = await stack.enter_async_context(subscribers(server.port, READERS, [ask]))
            stream = Streamed(server, caller, readers, run["id"])
            # What the server keeps of the run's changes, for whoever comes back, is its own.
            for _ in range(RUN_CHANGES + 50):
                await stream.change()
            rows = [await stream.part("without them")]
            stuck = await never_reading(server)
            rows.append(await stream.part("with them", let_go=True))
            for task in stuck:
                task.cancel()
            rows.append(await stream.part("afterwards"))
    alone, beside, after = rows
    head = [
        "",
        "changes a second",
        "p50 ms",
        "p99 ms",
        "MiB at most",
        "MiB owed",
        "let go after, s",
    ]
    print(table(head, [row.cells() for row in rows]))
    print(
        f"\nthey cost at most {(beside.most - alone.most) / MIB:.1f} MiB (bound: {GROWN_MIB:.0f})"
    )
    factor = after.most / alone.most
    word = "given back" if factor <= GIVEN_BACK else "NOT given back"
    print(f"what it held at most afterwards is {factor:.2f} times what it held before: {word}")
    # Before and after, so that what else the machine does meanwhile weighs less.
    ratio = beside.p99_ms / ((alone.p99_ms + after.p99_ms) / 2)
    print(f"the healthy readers' p99 with them is {ratio:.2f} times that without (bound: 2)")


class Part:
    """What was measured in one part."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.most = 0.0
        """Bytes of memory."""
        self.owed = 0
        self.rate = 0.0
        self.p50_ms = 0.0
        self.p99_ms = 0.0
        self.let_go_s: float | None = None

    def cells(self) -> list[object]:
        """As a row of the table."""
        let_go = "-" if self.let_go_s is None else f"{self.let_go_s:.0f}"
        numbers = [self.rate, self.p50_ms, self.p99_ms, self.most / MIB, self.owed / MIB]
        return [self.name, *numbers, let_go]


class Streamed:
    """One run that changes, and whoever is told of it."""

    def __init__(self, server: Server, caller: Caller, readers: Watchers, run_id: str) -> None:
        self._server = server
        self._caller = caller
        self._readers = readers
        self._run_id = run_id
        self._version = 1

    async def change(self) -> dict[str, Any]:
        """One more change; what was measured since the last reset, once all have been told."""
        self._version += 1
        self._readers.expect(self._version, self._version)
        body = {"metadata": {"step": self._version, "note": NOTE}}
        await self._caller.call("PATCH", f"/v1/runs/{self._run_id}", body)
        return await self._readers.done()

    async def part(self, name: str, *, let_go: bool = False) -> Part:
        """Changes it as often as a part needs, and until those who never read have been let go."""
        part = Part(name)
        self._readers.say("reset")
        looks = asyncio.create_task(self._look(part, let_go=let_go))
        begun = due = time.monotonic()
        count = 0
        said: dict[str, Any] = {}
        try:
            while (
                (now := time.monotonic() - begun) < PART_S
                or count < PART_CHANGES
                or (let_go and part.let_go_s is None and now < LET_GO_S)
            ):
                if looks.done():
                    looks.result()
                said = await self.change()
                count += 1
                due += 1 / CHANGES_PER_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            looks.cancel()
            await asyncio.gather(looks, return_exceptions=True)
        if let_go and part.let_go_s is None:
            raise AssertionError(f"they were not let go within {LET_GO_S:.0f} s")
        part.rate = count / (time.monotonic() - begun)
        part.p50_ms, part.p99_ms = said["p50_us"] / 1_000, said["p99_us"] / 1_000
        return part

    async def _look(self, part: Part, *, let_go: bool) -> None:
        """Once a second, in every part alike: to look costs the server something."""
        begun = time.monotonic()
        while True:
            holds = await asyncio.to_thread(Holdings.of, self._server)
            part.most = max(part.most, holds.memory_mb * 1e6)
            part.owed = max(part.owed, holds.owed)
            # Besides the readers there is who changes the run.
            if let_go and part.let_go_s is None and holds.clients <= READERS + 1:
                part.let_go_s = time.monotonic() - begun
            await asyncio.sleep(1)


async def never_reading(server: Server) -> list[asyncio.Task[None]]:
    """Readers that go live and take nothing from then on."""
    findings = Findings()
    made = []
    for _ in range(STUCK):
        stream = Stream(1, {"type": "subscribeToRunsWithTag", "tag": TAG}, findings)
        reader = Reader([server.port], [stream], findings, random.Random(1), receive_buffer=4_096)
        made.append((reader, asyncio.create_task(reader.run())))
    await until(lambda: all(reader.is_live for reader, _ in made))
    for reader, _ in made:
        reader.may_connect.clear()
        reader.pause()
    return [task for _, task in made]


if __name__ == "__main__":
    main()
