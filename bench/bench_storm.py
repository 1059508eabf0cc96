"""A storm: 1,000 runs, 5,000 changes a second in all for 5 s, and a subscription in the middle.

The stream shows what it finds, then every version of each run with no gap, and ends at what the
database says; also when its socket is cut 20 times at random. A version that is missing, repeated
or out of order ends the benchmark without a number.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from bench.http import Caller, Refused
from bench.load import Lost, cpu_s
from bench.stats import Spread, table
from bench.waiting import until
from tests.processes import Server
from tests.servers import Postgres
from tests.soak.reader import Findings, Reader, Stream
from tests.soak.world import all_runs

RUNS: Final = 1_000
CHANGES_PER_S: Final = 5_000
SECONDS: Final = 5.0
SUBSCRIBED_AT_S: Final = 1.5
CUTS: Final = (0, 20)
BULK: Final = 100
"""Changes in one request."""
TAG: Final = "storm"
RECONNECTS_WITHIN_S: Final = 0.05
LOOK_S: Final = 0.001
"""How often it looks whether a cut connection is back: what it loses so is in its latency."""
SEED: Final = 1


def main(seconds: float = SECONDS) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder, Postgres(fsync=True) as postgres:
        for cuts in CUTS:
            for name, database in (
                ("SQLite", f"sqlite:///{Path(folder)}/storm-{cuts}.db"),
                ("PostgreSQL", postgres.create_database()),
            ):
                with Server(database) as server:
                    rows.append([name, *asyncio.run(measure(server, cuts, seconds))])
    head = ["database", "cuts", "changes/s", "changes/CPU-s", "before", "told", "of it twice"]
    print(table([*head, "p50 ms", "p99 ms", "max ms"], rows))


def short() -> None:
    main(3.0)


async def measure(server: Server, cuts: int, seconds: float) -> list[object]:
    """What was reached. Raises Lost."""
    chance = random.Random(SEED)
    rounds = round(seconds * CHANGES_PER_S / RUNS)
    findings = Findings()
    stream = Stream(1, {"type": "subscribeToRunsWithTag", "tag": TAG}, findings)
    reader = Reader([server.port], [stream], findings, chance, longest_wait_s=RECONNECTS_WITHIN_S)
    async with AsyncExitStack() as stack:
        callers = [
            await stack.enter_async_context(Caller.open(server.port)) for _ in range(RUNS // BULK)
        ]
        ids = [await create(caller) for caller in callers]
        spent = cpu_s(server.pid)
        began = time.monotonic()
        changing = [
            asyncio.create_task(change(caller, group, rounds, began + each * BULK / CHANGES_PER_S))
            for each, (caller, group) in enumerate(zip(callers, ids, strict=True))
        ]
        await asyncio.sleep(SUBSCRIBED_AT_S)
        following = asyncio.create_task(reader.run())
        try:
            await until(lambda: stream.is_live, pause_s=LOOK_S)
            at_first = sum(stream.have.values()) - stream.told
            if not RUNS < at_first < RUNS * rounds:
                raise Lost(f"not in the middle: the first snapshot held {at_first} versions")
            await cut(reader, cuts, chance, began + seconds)
            ended = max(await asyncio.gather(*changing))
            spent = cpu_s(server.pid) - spent
            truth = await all_runs(callers[0])
            if wrong := {id for id, run in truth.items() if run["version"] != 1 + rounds}:
                raise Lost(f"{len(wrong)} runs were not changed {rounds} times")
            try:
                await until(lambda: stream.differs(truth) is None, pause_s=LOOK_S)
            except Lost:
                raise Lost(str(stream.differs(truth))) from None
        finally:
            following.cancel()
    if findings.broken:
        raise Lost("; ".join(findings.broken[:5]))
    repeats = findings.counts["repeats"]
    if at_first + stream.told - repeats != sum(run["version"] for run in truth.values()):
        raise Lost(f"{at_first} and {stream.told} told, of which {repeats} twice")
    if reader.connections < 1 + cuts:
        raise Lost(f"{reader.connections} connections, and {cuts} cuts")
    if not findings.delays:
        raise Lost("it was live only when the storm was over")
    spread = Spread.of(findings.delays).times(1_000)
    rate = RUNS * rounds / (ended - began)
    per_cpu_s = RUNS * rounds / spent
    return [
        cuts,
        rate,
        per_cpu_s,
        at_first,
        stream.told,
        repeats,
        spread.p50,
        spread.p99,
        spread.max,
    ]


async def create(caller: Caller) -> list[str]:
    creates = [{"create": {"taskIdentifier": TAG, "tags": [TAG], "payload": None}}] * BULK
    made = await caller.call("POST", "/v1/runs/bulk", {"commands": creates})
    return [result["run"]["id"] for result in made["results"]]


async def change(caller: Caller, ids: list[str], rounds: int, due: float) -> float:
    """Changes each of them `rounds` times, at the storm's rate if the server keeps up; says when
    the last was acknowledged."""
    for step in range(rounds):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        what: dict[str, Any] = {"metadata": {"step": step}}
        if step in (0, rounds - 1):
            what = {"status": "COMPLETED" if step else "EXECUTING"}
        commands = [{"update": {"runId": id, **what}} for id in ids]
        said = await caller.call("POST", "/v1/runs/bulk", {"commands": commands})
        if refused := [each for each in said["results"] if "run" not in each]:
            raise Refused(str(refused[0]))
        due += RUNS / CHANGES_PER_S
    return time.monotonic()


async def cut(reader: Reader, cuts: int, chance: random.Random, ends: float) -> None:
    """Cuts it so many times, at random over what is left of the storm."""
    now = time.monotonic()
    for at in sorted(chance.uniform(now, ends) for _ in range(cuts)):
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        await until(lambda: reader.transport is not None, pause_s=LOOK_S)
        reader.cut()
        await until(lambda: reader.transport is None, pause_s=LOOK_S)


if __name__ == "__main__":
    main()
