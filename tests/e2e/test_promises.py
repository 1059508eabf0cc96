"""What is promised, shown with real processes: servers, databases, Redis, sockets, clients."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from runstream import (
    ConnectionLost,
    NewRun,
    OutcomeUnknown,
    Run,
    RunStatus,
    Runstream,
    RunUpdate,
    Unavailable,
)
from tests.e2e.clients import client_of, until
from tests.faults import Cut, Proxy
from tests.processes import Server
from tests.servers import Valkey

Versions = dict[str, list[int]]


class Follower:
    """Follows a stream and keeps what it was shown of each run, in order."""

    def __init__(self, client: Runstream) -> None:
        self.client = client
        self.versions: Versions = defaultdict(list)
        self.last: dict[str, Any] = {}

    async def follow(self, runs: AsyncIterator[Any]) -> None:
        async for run in runs:
            self.versions[run.id].append(run.version)
            self.last[run.id] = run

    def gaps(self) -> dict[str, list[int]]:
        """The runs of which a version is missing, repeated or out of order."""
        return {
            id: seen
            for id, seen in self.versions.items()
            if seen != list(range(seen[0], seen[0] + len(seen)))
        }


@pytest.fixture
def two_servers(
    postgres_url: str, valkey: Valkey, start_server: Callable[..., Server]
) -> tuple[Server, Server]:
    return start_server(postgres_url, valkey.url), start_server(postgres_url, valkey.url)


async def test_a_change_through_one_server_reaches_a_subscriber_of_another(
    two_servers: tuple[Server, Server],
) -> None:
    """Gateways are many; a client may be connected to any of them."""
    one, other = two_servers
    async with client_of(one) as writer, client_of(other) as reader:
        run = await writer.trigger("job", {"n": 1}, tags=["shared"])
        async with reader.subscribe_to_run(run.id) as stream:
            await writer.runs.update(run.id, status=RunStatus.EXECUTING)
            await writer.runs.update(run.id, status=RunStatus.COMPLETED, output=1)
            seen = [state.status async for state in stream]
    assert seen == ["QUEUED", "EXECUTING", "COMPLETED"]


async def test_without_redis_the_tail_carries_every_change(
    two_servers: tuple[Server, Server], valkey: Valkey
) -> None:
    """Redis is never in the way: gone, it costs latency and no change."""
    one, other = two_servers
    async with client_of(one) as writer, client_of(other) as reader:
        run = await writer.trigger("job")
        async with reader.subscribe_to_run(run.id) as stream:
            await asyncio.to_thread(valkey.stop)
            await writer.runs.update(run.id, status=RunStatus.EXECUTING)
            for i in range(20):
                await writer.runs.update(run.id, metadata={"progress": i})
            await writer.runs.update(run.id, status=RunStatus.COMPLETED)
            versions = [state.version async for state in stream]
    assert versions == list(range(1, 24))


async def test_two_processes_share_one_sqlite_file_without_redis(
    sqlite_url: str, start_server: Callable[..., Server]
) -> None:
    """One file is enough: the other process sees in the file that it has moved."""
    one, other = start_server(sqlite_url), start_server(sqlite_url)
    async with client_of(one) as writer, client_of(other) as reader:
        run = await writer.trigger("job")
        async with reader.subscribe_to_run(run.id) as stream:
            await writer.runs.update(run.id, status=RunStatus.EXECUTING)
            await writer.runs.update(run.id, status=RunStatus.COMPLETED)
            seen = [state.status async for state in stream]
    assert seen == ["QUEUED", "EXECUTING", "COMPLETED"]


@pytest.mark.parametrize("cuts", [0, 20], ids=["standing", "cut-20-times"])
async def test_a_subscription_made_in_the_middle_of_a_storm_misses_nothing(
    server: Server, cuts: int
) -> None:
    """History is joined to live while both move, and again after each cut."""
    runs, rounds = 200, 12
    async with Proxy(server.url) as proxy, client_of(server) as writer:
        created = await writer.runs.bulk([NewRun("storm", tags=["storm"]) for _ in range(runs)])
        ids = [run.id for run in created if isinstance(run, Run)]
        assert len(ids) == runs

        async def storm() -> None:
            for step in range(rounds):
                if step == rounds // 4:
                    begun.set()
                change: dict[str, Any] = {"metadata": {"step": step}}
                if step in (0, rounds - 1):
                    change = {"status": RunStatus.COMPLETED if step else RunStatus.EXECUTING}
                for start in range(0, runs, 100):
                    await writer.runs.bulk(
                        [RunUpdate(id, **change) for id in ids[start : start + 100]]
                    )

        async def cut() -> None:
            chance = random.Random(7)
            for _ in range(cuts):
                await asyncio.sleep(chance.random() / 10)
                proxy.cut(chance.choice([Cut.RST, Cut.FIN]))

        begun = asyncio.Event()
        async with client_of(server, proxy.url) as reader, asyncio.TaskGroup() as tasks:
            follower = Follower(reader)
            tasks.create_task(storm())
            await begun.wait()
            following = tasks.create_task(
                follower.follow(reader.subscribe_to_runs_with_tag("storm"))
            )
            tasks.create_task(cut())
            await until(
                lambda: (
                    len(follower.last) == runs
                    and all(run.status == "COMPLETED" for run in follower.last.values())
                )
            )
            following.cancel()
        assert not follower.gaps()
        truth = {run.id: run.version async for run in writer.runs.list(tags=["storm"])}
        assert {id: run.version for id, run in follower.last.items()} == truth


async def test_a_killed_server_loses_no_acknowledged_write_and_clients_resume(
    server: Server,
) -> None:
    """Success means on disk; and a stream does not end because a process did."""
    async with client_of(server) as writer, client_of(server) as reader:
        run = await writer.trigger("job")
        acknowledged = 0
        stream = reader.subscribe_to_run(run.id)
        follower = Follower(reader)

        async def write() -> None:
            nonlocal acknowledged
            await writer.runs.update(run.id, status=RunStatus.EXECUTING)
            for step in range(200):
                while True:
                    try:
                        await writer.runs.update(run.id, metadata={"step": step})
                    except (ConnectionLost, OutcomeUnknown, Unavailable):
                        continue  # the client has tried for a while; so does its user
                    acknowledged = step
                    break

        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(follower.follow(stream))
            writing = tasks.create_task(write())
            await until(lambda: acknowledged > 50)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await writing
            now = await writer.runs.get(run.id)
            assert now.metadata == {"step": 199}
            await writer.runs.update(run.id, status=RunStatus.COMPLETED)
            await following
        assert not follower.gaps()
        assert follower.last[run.id].version == now.version + 1
        assert reader.stats.reconnects >= 1
