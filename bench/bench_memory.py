"""Memory: what an idle connection with one subscription costs, resident, in the server's process.

Each of the connections is authenticated, joined and live before the second look is taken; nothing
is sent meanwhile but heartbeats.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import psutil

from bench.load import raise_limit, subscribers
from bench.result import Found, Row
from bench.stats import table
from tests.processes import Server, make_folder

CONNECTIONS: Final = 10_000
SETTLE_S: Final = 3.0
"""A join keeps what it was shown until a statement of the tail, one a second, has passed it."""
JOIN_S: Final = 300.0
"""How long it may take until all have joined."""
SPARE_FILES: Final = 500


def main(connections: int = CONNECTIONS) -> Found:
    may = raise_limit(2 * connections)
    count = min(connections, may - SPARE_FILES)
    each: dict[str, float] = {}
    for loop in ("uvloop", "asyncio"):
        folder = make_folder("bench")
        with Server(f"sqlite:///{folder}/memory.db", args=["--loop", loop]) as server:
            each[loop] = asyncio.run(measure(server, count)) / count / 1_024
    rows = [[loop, count, kib] for loop, kib in each.items()]
    print(table(["loop", "connections", "KiB resident each"], rows))
    about = f"{count:,} connections, each joined and live, without deflate"
    return Found(about, [Row(f"on {loop}", {"KiB": kib}) for loop, kib in each.items()])


def short() -> Found:
    return main(2_000)


async def measure(server: Server, count: int) -> int:
    """By how many bytes the server has grown."""
    ask = {"type": "subscribeToRunsWithTag", "id": 1, "tag": "bench"}
    process = psutil.Process(server.pid)

    async def grown(so_many: int) -> int:
        async with subscribers(server.port, so_many, [ask], within_s=JOIN_S):
            await asyncio.sleep(SETTLE_S)
            return int(process.memory_info().rss)

    # What the first connections bring in for good is not the price of the next.
    await grown(10)
    before = int(process.memory_info().rss)
    return await grown(count) - before


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
