"""How long a change takes from its commit to a client, on an idle server.

The time of a change is given inside its transaction, before the commit is on disk; so what is
measured is the commit, the hint, the hub, the socket and the client's parsing. The clocks are one
machine's. A change that is missing, repeated or out of order ends the benchmark without a number.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.result import Found, Row
from bench.stats import Spread, percentile, table
from runstream import RunStatus, Runstream
from tests.processes import API_KEY, Server
from tests.servers import Postgres, Valkey

CHANGES = 1_000
RATE = 100
"""Changes a second: idle, as against loaded."""


def main() -> Found:
    rows = []
    kept = []
    with tempfile.TemporaryDirectory() as folder, Valkey() as valkey, Postgres(fsync=True) as pg:
        for name, database, redis, split in (
            ("SQLite, one process", f"sqlite:///{Path(folder)}/one.db", None, False),
            ("SQLite, two processes", f"sqlite:///{Path(folder)}/two.db", None, True),
            ("PostgreSQL, one process", pg.create_database(), None, False),
            ("PostgreSQL and Redis, two", pg.create_database(), valkey.url, True),
            ("PostgreSQL, two, no Redis", pg.create_database(), None, True),
        ):
            with servers(database, redis, split) as (writing, reading):
                took = asyncio.run(measure(writing, reading))
            spread = Spread.of(took).times(1_000)
            numbers = {
                "p10": percentile(took, 10) * 1_000,
                "p50": spread.p50,
                "p90": spread.p90,
                "p99": spread.p99,
                "max": spread.max,
            }
            rows.append((name, CHANGES, spread.p50, spread.p90, spread.p99, spread.max))
            kept.append(Row(name, numbers))
    about = f"{CHANGES:,} changes at {RATE} a second, one subscriber"
    print(f"{about}; milliseconds\n")
    print(table(("set-up", "changes", "p50", "p90", "p99", "max"), rows))
    return Found(about, kept, (machine.postgres(), machine.valkey()))


@contextmanager
def servers(database: str, redis: str | None, split: bool) -> Iterator[tuple[Server, Server]]:
    with Server(database, redis) as one:
        if not split:
            yield one, one
            return
        with Server(database, redis) as other:
            yield one, other


async def measure(writing: Server, reading: Server) -> list[float]:
    """Seconds, in order. Raises AssertionError if anything was lost."""
    async with (
        Runstream(writing.url, api_key=API_KEY) as writer,
        Runstream(reading.url, api_key=API_KEY) as reader,
    ):
        run = await writer.trigger("bench")
        took: list[float] = []
        versions: list[int] = []

        async def follow(stream: Any) -> None:
            async for state in stream:
                took.append((datetime.now(UTC) - state.updated_at).total_seconds())
                versions.append(state.version)

        async with reader.subscribe_to_run(run.id) as stream, asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follow(stream))
            await writer.runs.update(run.id, status=RunStatus.EXECUTING)
            loop = asyncio.get_running_loop()
            began = loop.time()
            for step in range(CHANGES):
                await asyncio.sleep(max(0.0, began + step / RATE - loop.time()))
                await writer.runs.update(run.id, metadata={"step": step})
            await writer.runs.update(run.id, status=RunStatus.COMPLETED)
            await following
    if versions != list(range(1, CHANGES + 4)):
        raise AssertionError("changes were lost, repeated or out of order")
    # The first is the snapshot, the last tells of the end: neither is under way alone.
    return sorted(took[2:-1])
