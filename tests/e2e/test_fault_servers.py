"""Faults of servers, databases and Redis under a stream: each version comes, once and in order.

Each test says what of ours was taken out to see it fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest

from runstream import ConnectionLost, OutcomeUnknown, RunStatus, Runstream, Unavailable
from store import RunStore, open_broker
from store.commands import Submission, UpdateRun
from store.engine import open_database
from store.schema import new_epoch
from tests.e2e.clients import client_of, until
from tests.faults import client_kill, open_transaction, terminate_backends
from tests.processes import API_KEY, Server
from tests.servers import Postgres, Valkey

RETRIED = (ConnectionLost, OutcomeUnknown, Unavailable)


@pytest.fixture(scope="module")
def servers(postgres_server: Postgres, valkey_server: Valkey) -> Iterator[tuple[Server, Server]]:
    """Two gateways on one database and one Redis, shared by the tests of this file."""
    url = postgres_server.ensure().create_database()
    valkey_server.ensure()
    args = ["--drain-s", "2"]
    with (
        Server(url, valkey_server.url, args=args) as one,
        Server(url, valkey_server.url, args=args) as other,
    ):
        yield one, other
    postgres_server.ensure().drop_database(url)


@pytest.fixture
def pair(
    servers: tuple[Server, Server], postgres: Postgres, valkey: Valkey
) -> tuple[Server, Server]:
    """The two, serving, whatever a test before did to them."""
    for server in servers:
        server.ensure()
    return servers


class Told:
    """A run that is written by way of one gateway and followed by way of the other."""

    def __init__(self, writer: Runstream, reader: Runstream, run_id: str) -> None:
        self.writer = writer
        self.reader = reader
        self.run_id = run_id
        self.versions: list[int] = []
        self.written = 0
        self.live = asyncio.Event()

    async def follow(self) -> None:
        async with self.reader.subscribe_to_run(self.run_id) as runs:
            self.live.set()
            async for run in runs:
                self.versions.append(run.version)

    async def write(self, times: int) -> None:
        """So many changes, each tried until it is done."""
        for _ in range(times):
            self.written += 1
            while True:
                with suppress(*RETRIED):
                    await self.writer.runs.update(self.run_id, metadata={"n": self.written})
                    break

    @property
    def last(self) -> int:
        return self.versions[-1] if self.versions else 0


@asynccontextmanager
async def told(writing: Server, reading: Server) -> AsyncIterator[Told]:
    """At the end the run is completed, and its stream must have shown every version."""
    async with client_of(writing) as writer, client_of(reading) as reader:
        run = await writer.trigger("job")
        await writer.runs.update(run.id, status=RunStatus.EXECUTING)
        story = Told(writer, reader, run.id)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(story.follow())
            await story.live.wait()
            yield story
            while True:
                with suppress(*RETRIED):
                    await writer.runs.update(run.id, status=RunStatus.COMPLETED)
                    break
        final = await writer.runs.get(run.id)
        # After a reset the present state is shown, which may have been shown before.
        shown = list(dict.fromkeys(story.versions)) if reader.stats.resets else story.versions
        assert shown == list(range(shown[0], final.version + 1))


async def change_unhinted(story: Told, database: str) -> None:
    """A change that no hint tells of; until the reader has it."""
    before = (await story.writer.runs.get(story.run_id)).version
    dead = await RunStore.open(database, broker=open_broker(None))
    try:
        command = UpdateRun(project="default", run_id=story.run_id, metadata={"unhinted": before})
        await dead.execute(Submission(project="default", commands=(command,)))
        await until(lambda: story.last > before)
    finally:
        await dead.close()


async def test_a_change_whose_writer_died_before_its_hint_is_found(
    pair: tuple[Server, Server],
) -> None:
    """Taken out: what the tail hands on; it never came.

    The writer here is a process that Redis hears nothing of: as one killed after its commit.
    """
    async with told(*pair) as story:
        await change_unhinted(story, pair[1].database)


async def test_a_subscriber_that_redis_cuts_off_misses_nothing(
    pair: tuple[Server, Server], valkey: Valkey
) -> None:
    """Taken out: what the tail hands on; the hints of that moment were lost for good."""
    async with told(*pair) as story:
        for _ in range(5):
            await asyncio.to_thread(client_kill, valkey)
            await story.write(4)


async def test_redis_may_come_back_empty(pair: tuple[Server, Server], valkey: Valkey) -> None:
    """Taken out: what the tail hands on; nothing came while Redis was away."""
    async with told(*pair) as story:
        await story.write(2)
        await asyncio.to_thread(valkey.kill)
        await story.write(4)
        await asyncio.to_thread(valkey.start)
        await story.write(4)


async def asked_once(server: Server, method: str, path: str, **body: object) -> int:
    """The status of the answer. The client would ask again where it is told that this may pass."""
    async with httpx2.AsyncClient(base_url=server.url, timeout=60) as http:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        answer = await http.request(method, path, headers=headers, json=body or None)
        return answer.status_code


async def test_nobody_notices_that_connections_to_the_database_were_cut(
    pair: tuple[Server, Server], postgres: Postgres
) -> None:
    """Reads and commands are answered as ever; streams go on, and no reader has to reconnect.

    Taken out: the look at a connection before it is used, and the second try on another; commands
    and reads got a 503. Either alone is enough here, the second try where a connection is cut while
    it is used (tests/store/test_postgres.py). That streams wait for a database that is away is shown
    below: the tail's next try is for that.
    """
    async with told(*pair) as story:
        path = f"/v1/runs/{story.run_id}"
        for n in range(2):
            await asyncio.to_thread(terminate_backends, postgres, pair[0].database)
            for server in pair:
                assert await asked_once(server, "GET", path) == 200
                assert await asked_once(server, "PATCH", path, metadata={"n": n}) == 200
            await change_unhinted(story, pair[0].database)
        assert story.reader.stats.reconnects == 0


async def test_streams_stay_open_while_postgresql_is_restarted(
    pair: tuple[Server, Server], postgres: Postgres
) -> None:
    """They wait, and go on by themselves; no reader has to reconnect for it.

    Taken out: the tail's next try; what no hint told of never came.
    """
    async with told(*pair) as story:
        await story.write(2)
        await asyncio.to_thread(postgres.stop)
        try:
            await until(lambda: story.reader.is_stale)
        finally:
            await asyncio.to_thread(postgres.start)
        await story.write(2)
        await change_unhinted(story, pair[0].database)
        assert story.reader.stats.reconnects == 0


async def test_what_others_commit_meanwhile_does_not_wait_for_an_open_transaction(
    pair: tuple[Server, Server],
) -> None:
    """A cursor that names it goes on, through a restart of the gateway, while it is open.

    Taken out: all that a horizon says beyond the oldest open transaction, with only what is older
    read; a change that no hint told of never came. What such a transaction commits in the end is
    shown in tests/store/test_horizon.py.
    """
    async with open_transaction(pair[0].database), told(*pair) as story:
        await story.write(2)
        await change_unhinted(story, pair[0].database)
        await until(lambda: story.last >= 5)
        await asyncio.to_thread(pair[1].kill)
        await asyncio.to_thread(pair[1].start)
        await story.write(3)
        await until(lambda: story.last >= 8)


async def test_a_rolling_pair_costs_its_readers_a_resume(pair: tuple[Server, Server]) -> None:
    """Taken out: what a resume shows (`Ring.since` gave nothing); versions were missing."""
    one, other = pair
    async with told(one, other) as story:
        for server in (other, one):
            rolling = asyncio.create_task(asyncio.to_thread(server.restart))
            while not rolling.done():
                await story.write(1)
            await rolling
            await story.write(2)
        assert story.reader.stats.resets == 0


async def test_another_epoch_starts_every_stream_again(pair: tuple[Server, Server]) -> None:
    """Taken out: the epoch in check_continues; the stream went on as if nothing had happened."""
    database = await open_database(pair[0].database)
    try:
        async with told(*pair) as story:
            await story.write(2)
            await until(lambda: story.last >= 4)
            await new_epoch(database)
            await until(lambda: story.reader.stats.resets == 1)
            await story.write(2)
    finally:
        await database.close()
