"""Redis stopped: how long a change made through one server takes to a subscriber of the other.

The tail then carries everything, ten times a second. A change that is missing, repeated or out of
order ends the benchmark without a number.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Final

from bench.load import Lost
from bench.stats import Spread, table
from runstream import RunStatus, Runstream
from tests.processes import API_KEY, Server
from tests.servers import Postgres, Valkey

CHANGES: Final = 100


def main() -> None:
    with Postgres(fsync=True) as postgres, Valkey() as valkey:
        database = postgres.create_database()
        with Server(database, valkey.url) as one, Server(database, valkey.url) as other:
            rows = [["Redis there", *asyncio.run(measure(one, other))]]
            valkey.stop()
            rows.append(["Redis stopped just now", *asyncio.run(measure(one, other))])
    print(table(["", "changes", "p50 ms", "p90 ms", "p99 ms", "max ms"], rows))


async def measure(writing: Server, reading: Server) -> list[float]:
    took: list[float] = []
    versions: list[int] = []
    chance = random.Random(1)
    async with (
        Runstream(writing.url, api_key=API_KEY) as writer,
        Runstream(reading.url, api_key=API_KEY) as reader,
    ):
        run = await writer.trigger("bench")

        async def write() -> None:
            await writer.runs.update(run.id, status=RunStatus.EXECUTING)
            for step in range(CHANGES - 2):
                await asyncio.sleep(chance.uniform(0.01, 0.15))
                await writer.runs.update(run.id, metadata={"step": step})
            await writer.runs.update(run.id, status=RunStatus.COMPLETED)

        async with reader.subscribe_to_run(run.id) as runs:
            writes = asyncio.create_task(write())
            async for state in runs:
                versions.append(state.version)
                if state.version > 1:
                    took.append((datetime.now(UTC) - state.updated_at).total_seconds() * 1_000)
            await writes
    if versions != list(range(1, CHANGES + 2)):
        raise Lost(str(versions))
    spread = Spread.of(took)
    return [spread.count, spread.p50, spread.p90, spread.p99, spread.max]


if __name__ == "__main__":
    main()
