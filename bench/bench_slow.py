"""Slow readers: 20 that never read, among 200 that do, on a stream of about 1 MB a second.

What they cost the server in memory, whether that is given back once they have been let go, and
what the others feel of it. A reader that misses a version, or gets one twice, ends the benchmark
without a number.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import AsyncExitStack
from typing import Any, Final

import psutil

from bench.http import Caller
from bench.load import raise_limit, watchers
from bench.stats import table
from tests.processes import API_KEY, Server, make_folder
from tests.soak.reader import Findings, Reader, Stream

READERS: Final = 200
STUCK: Final = 20
CHANGES_PER_S: Final = 50
NOTE: Final = "x" * 20_000
STREAM_S: Final = 40.0
SLOW_CONSUMER_S: Final = 30
GIVEN_BACK_S: Final = 60.0
TAG: Final = "bench"


def main() -> None:
    raise_limit(2_000)
    rows = [asyncio.run(measure(0)), asyncio.run(measure(STUCK))]
    head = ["never read", "p50 ms", "p99 ms", "MiB at first", "at most", "grown by", "in the end"]
    print(table([*head, "all let go after, s"], rows))
    alone, beside = float(str(rows[0][2])), float(str(rows[1][2]))
    print(f"\nthe healthy readers' p99 with them is {beside / alone:.2f} times that without")


async def measure(stuck: int) -> list[object]:
    folder = make_folder("bench")
    args = ["--slow-consumer-s", str(SLOW_CONSUMER_S)]
    ask = {"type": "subscribeToRunsWithTag", "id": 1, "tag": TAG}
    with Server(f"sqlite:///{folder}/slow.db", args=args) as server:
        process = psutil.Process(server.pid)
        async with AsyncExitStack() as stack:
            caller = await stack.enter_async_context(Caller.open(server.port))
            run = await caller.call(
                "POST", "/v1/runs", {"taskIdentifier": "bench", "tags": [TAG], "payload": None}
            )
            readers = await stack.enter_async_context(
                watchers(
                    server.port,
                    READERS,
                    [json.dumps(ask)],
                    ready='"type":"live"',
                    path="/v1/realtime",
                    headers=[f"Authorization: Bearer {API_KEY}"],
                )
            )
            paused = await never_reading(server, stuck)
            await asyncio.sleep(2)
            version = 1

            async def change() -> None:
                nonlocal version
                version += 1
                body = {"metadata": {"step": version, "note": NOTE}}
                await caller.call("PATCH", f"/v1/runs/{run['id']}", body)

            for _ in range(50):  # warms up
                readers.expect(version + 1, version + 1)
                await change()
                await readers.done()
            readers.say("reset")
            at_first = most = process.memory_info().rss
            begun = time.monotonic()
            due = begun
            let_go_s: float | None = None
            said: dict[str, Any] = {}
            while time.monotonic() - begun < STREAM_S:
                readers.expect(version + 1, version + 1)
                await change()
                said = await readers.done()
                most = max(most, process.memory_info().rss)
                if let_go_s is None and stuck and gone(process, stuck):
                    let_go_s = time.monotonic() - begun
                due += 1 / CHANGES_PER_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            for task in paused:
                task.cancel()
            deadline = time.monotonic() + GIVEN_BACK_S - STREAM_S
            while (rss := process.memory_info().rss) > at_first * 1.05:
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(1)
            mib = 2**20
            return [
                stuck,
                said["p50_us"] / 1_000,
                said["p99_us"] / 1_000,
                at_first / mib,
                most / mib,
                (most - at_first) / mib,
                rss / mib,
                "-" if let_go_s is None else f"{let_go_s:.0f}",
            ]


async def never_reading(server: Server, count: int) -> list[asyncio.Task[None]]:
    """Readers that go live and take nothing from then on."""
    findings = Findings()
    made = []
    for _ in range(count):
        stream = Stream(1, {"type": "subscribeToRunsWithTag", "tag": TAG}, findings)
        reader = Reader([server.port], [stream], findings, random.Random(1), receive_buffer=4_096)
        made.append((reader, asyncio.create_task(reader.run())))
    while not all(reader.is_live for reader, _ in made):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    for reader, _ in made:
        reader.may_connect.clear()
        reader.pause()
    return [task for _, task in made]


def gone(process: psutil.Process, stuck: int) -> bool:
    """Whether the server has let go of all of them."""
    standing = [each for each in process.net_connections() if each.status == "ESTABLISHED"]
    return len(standing) <= READERS + 1


if __name__ == "__main__":
    main()
