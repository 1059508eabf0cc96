"""The Python client: CPU for each change that it reads, merges and hands to its caller's loop.

What a real server says to one subscription of 100 runs under load is recorded first, message by
message as it packed them, and then replayed over a WebSocket on loopback by a process on the other
core, as fast as the client reads. What is counted is the CPU of this process, which does nothing
else: socket, frames, JSON, the runs, the loop. Under `every` the loop must get each version of each
run, under `latest` the newest of each, and in the end each run as the server has it; else there is
no number.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from websockets.asyncio.client import connect

from bench.http import Caller
from bench.load import Lost, cores, pin, replay
from bench.stats import table
from runstream import Runstream
from runstream.models import AnyRun
from tests.processes import API_KEY, ROOT, Server, make_folder

RUNS: Final = 100
CHANGES: Final = 40_000
BULK: Final = 1_000
"""Commands in one call, which are the changes of one commit or of a few."""
ROUNDS: Final = 7
TAG: Final = "bench"
NOTE: Final = "x" * 108
WITHIN_S: Final = 60.0

Delivery = Literal["every", "latest"]


@dataclass(frozen=True)
class Recording:
    """What a server has said, and what its runs were in the end."""

    head: Sequence[bytes]
    """The messages up to `live`."""
    rest: Sequence[bytes]
    runs: dict[str, AnyRun]

    def packed(self, most: int) -> list[bytes]:
        """What follows, so many changes in each message."""
        lines = [line for message in self.rest for line in message.split(b"\n")]
        return [b"\n".join(lines[n : n + most]) for n in range(0, len(lines), most)]


def main() -> None:
    asyncio.run(compare(ROUNDS))


def short() -> None:
    asyncio.run(compare(3))


async def compare(rounds: int) -> None:
    here, there = cores()
    recording = await record()
    pin(os.getpid(), here)
    # As a server packs them under load, in bursts of ten, and when each comes alone.
    packings = {
        f"{CHANGES / len(recording.rest):.0f} a message, as recorded": recording.rest,
        "10 a message": recording.packed(10),
        "1 a message": recording.packed(1),
    }
    deliveries: tuple[Delivery, ...] = ("every", "latest")
    ways = [
        (f"{delivery}, {packing}", delivery, messages)
        for packing, messages in packings.items()
        for delivery in deliveries
    ]
    costs: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    taken: dict[str, int] = {}
    # The first round warms up.
    for round_ in range(rounds + 1):
        for name, delivery, messages in ways:
            async with replaying(recording.head, messages, there) as port:
                cost, taken[name] = await consume(port, delivery, recording)
            if round_:
                costs[name].append(cost)
    rows = []
    for name in costs:
        cost = statistics.median(costs[name])
        rows.append([name, cost, min(costs[name]), 1e6 / cost, taken[name]])
    print(table(["", "µs of CPU a change", "best", "changes per CPU-second", "runs given"], rows))


async def record() -> Recording:
    """What a real server tells a subscription while bulk calls change its runs."""
    folder = make_folder("bench")
    ask = {"type": "subscribeToRunsWithTag", "id": 1, "tag": TAG}
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with Server(f"sqlite:///{folder}/client.db") as server:
        async with Caller.open(server.port) as caller:
            new = {"taskIdentifier": "bench", "tags": [TAG], "payload": {"order": 42}}
            made = {"commands": [{"create": {**new, "status": "EXECUTING"}}] * RUNS}
            said = await caller.call("POST", "/v1/runs/bulk", made)
            ids = [result["run"]["id"] for result in said["results"]]
            uri = f"ws://127.0.0.1:{server.port}/v1/realtime"
            async with connect(uri, additional_headers=headers, max_size=None) as socket:
                await socket.send(json.dumps(ask))
                head: list[bytes] = []
                while not head or b'"type":"live"' not in head[-1]:
                    head.append(await socket.recv(decode=False))
                rest, _ = await asyncio.gather(follow(socket), change(caller, ids))
            runs = {run_id: await caller.call("GET", f"/v1/runs/{run_id}") for run_id in ids}
    return Recording(
        head, rest, {run_id: msgspec.convert(run, AnyRun) for run_id, run in runs.items()}
    )


async def follow(socket: Any) -> list[bytes]:
    messages: list[bytes] = []
    count = 0
    async with asyncio.timeout(WITHIN_S):
        while count < CHANGES:
            messages.append(await socket.recv(decode=False))
            count += messages[-1].count(b'"type":"change"')
    if count != CHANGES:
        raise Lost(f"the server has told {count} changes of {CHANGES}")
    return messages


async def change(caller: Caller, ids: Sequence[str]) -> None:
    for begin in range(0, CHANGES, BULK):
        commands = [
            {"update": {"runId": ids[step % RUNS], "metadata": {"step": step, "note": NOTE}}}
            for step in range(begin, begin + BULK)
        ]
        said = await caller.call("POST", "/v1/runs/bulk", {"commands": commands})
        if any("error" in result for result in said["results"]):
            raise Lost(str(said)[:500])


@asynccontextmanager
async def replaying(
    head: Sequence[bytes], rest: Sequence[bytes], where: set[int]
) -> AsyncIterator[int]:
    """A server on these cores that says this to each who connects: its port."""
    folder = make_folder("replay")
    replay.write(folder, head, rest)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load.replay", str(folder), stdout=PIPE, cwd=ROOT
    )
    pin(process.pid, where)
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()
        shutil.rmtree(folder)


async def consume(port: int, delivery: Delivery, recording: Recording) -> tuple[float, int]:
    """µs of this process for each change, and how many runs the loop was given."""
    last = {run_id: run.version for run_id, run in recording.runs.items()}
    seen: dict[str, AnyRun] = {}
    left = len(last)
    given = 0
    gc.collect()
    async with Runstream(f"http://127.0.0.1:{port}", api_key=API_KEY) as client:
        began = time.process_time()
        async with asyncio.timeout(WITHIN_S):
            async for run in client.subscribe_to_runs_with_tag(TAG, delivery=delivery):
                before = seen.get(run.id)
                seen[run.id] = run
                given += 1
                if delivery == "every" and run.version != (before.version + 1 if before else 1):
                    raise Lost(f"{run.id}: {before and before.version}, then {run.version}")
                if run.version == last[run.id]:
                    left -= 1
                    if not left:
                        break
        spent = time.process_time() - began
        changes = client.stats.changes
        if changes != CHANGES or client.stats.gaps or client.stats.repeats_dropped:
            raise Lost(str(client.stats))
    if seen != recording.runs:
        raise Lost("a run is not as the server has it")
    return spent / changes * 1e6, given


if __name__ == "__main__":
    main()
