"""Faults of clients and of the way to them, of the disk, of the clock and of the log's own end.

Where something of ours can be taken out, the test says what was, to see it fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from realtime.hub import Hub, HubSettings
from realtime.session import Moment, SessionSettings
from runstream import RunStatus, Runstream, Unavailable
from store import Retention, RunStore, changes, open_broker
from store.broker.memory import MemoryBroker
from store.commands import CreateRun, Done, NewRun, Submission, UpdateRun
from store.housekeeping import Housekeeping
from store.model import Run, new_id
from tests.doubles import FakeBroker, FakeGrant, FakeStore, RecordingOutlet, of_type
from tests.e2e.clients import until
from tests.faults import Cut, Proxy, Way
from tests.processes import API_KEY, Server, make_folder

BLOB = "x" * 20_000


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    """One server for the tests of this file; it lets go of slow readers soon."""
    folder = make_folder("faults")
    args = ["--slow-consumer-s", "1", "--mailbox-bytes", "200000"]
    with Server(f"sqlite:///{folder}/runstream.db", args=args) as server:
        yield server


class Told:
    """What a client by way of the proxy was told of one run."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    async def has(self, version: int) -> None:
        """Until that version has come."""
        await until(lambda: self.versions[-1] >= version)

    async def follow(self, reader: Runstream, run_id: str) -> None:
        async for run in reader.subscribe_to_run(run_id):
            self.versions.append(run.version)


@contextlib.asynccontextmanager
async def followed(
    server: Server, **proxy_how: Any
) -> AsyncIterator[tuple[Proxy, Runstream, str, Told, Runstream]]:
    """A run, followed through a proxy; in the end each of its versions must have come, once."""
    async with (
        Proxy(server.url, **proxy_how) as proxy,
        Runstream(server.url, api_key=API_KEY) as writer,
        Runstream(proxy.url, api_key=API_KEY) as reader,
    ):
        run = await writer.trigger("job")
        await writer.runs.update(run.id, status=RunStatus.EXECUTING)
        told = Told()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(told.follow(reader, run.id))
            await until(lambda: told.versions)
            yield proxy, writer, run.id, told, reader
            await writer.runs.update(run.id, status=RunStatus.COMPLETED)
        final = await writer.runs.get(run.id)
        assert told.versions == list(range(told.versions[0], final.version + 1))


@pytest.mark.parametrize("how", list(Cut))
async def test_a_client_cut_in_the_middle_of_a_frame_goes_on_where_it_was(
    shared_server: Server, how: Cut
) -> None:
    """Taken out: what the ring gives a cursor (`Ring.since` gave nothing); versions were missing."""
    async with followed(shared_server) as (proxy, writer, run_id, told, reader):
        for size in (1, 2, 7, 40, 150, 300):
            proxy.cut_after(size, Way.DOWN, how)
            for n in range(3):
                await writer.runs.update(run_id, metadata={"n": n, "size": size})
            version = (await writer.runs.get(run_id)).version
            await told.has(version)
        assert reader.stats.reconnects >= 3


async def test_a_reader_of_one_byte_at_a_time_is_told_all(shared_server: Server) -> None:
    """However the bytes are cut up on the way: a message is one when it is whole."""
    async with followed(shared_server, receive_buffer=4_096) as (proxy, writer, run_id, told, _):
        proxy.pieces(1)
        for n in range(3):
            await writer.runs.update(run_id, metadata={"n": n})
        version = (await writer.runs.get(run_id)).version
        await told.has(version)
        proxy.pieces(65_536)


async def test_a_reader_that_stalls_is_let_go_and_resumes_out_of_the_log(
    shared_server: Server,
) -> None:
    """Its memory is given back while it still stalls: what it is owed waits in the log, not here.

    Taken out: the abort of a close that the peer does not take (`_abort_soon`); it stayed
    connected. That of a reader without progress (`is_late`) is not what ends this one: it is told
    to close first.
    """
    async with followed(shared_server, receive_buffer=4_096) as (proxy, writer, run_id, _, reader):
        with proxy.stalled(Way.DOWN):
            for n in range(200):
                await writer.runs.update(run_id, metadata={"n": n, "blob": BLOB})
            # A polite close would wait behind what the peer does not read, for ever.
            await until(lambda: not proxy.ports & connected(shared_server))
            await until(lambda: metric(shared_server, "runstream_mailbox_bytes") == 0)
        proxy.cut()
        await until(lambda: reader.stats.reconnects >= 1)


def connected(server: Server) -> set[int]:
    """From which ports somebody is connected to the server."""
    connections = psutil.Process(server.pid).net_connections()
    return {each.raddr[1] for each in connections if each.status == "ESTABLISHED"}


def metric(server: Server, name: str) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
    return 0.0


async def test_a_cursor_that_retention_has_overtaken_is_told_so(
    shared_server: Server,
) -> None:
    """It is told so and given the present state: nothing is skipped in silence.

    On SQLite the cut's mark and the witness that was cut each say so; either alone is enough.
    Taken out, both together: the stream went on as if nothing had been cut.
    """
    store = await RunStore.open(shared_server.database, broker=open_broker(None))
    keep = Housekeeping(
        store.database, store.execute, Retention(changes=timedelta(0)), detach_after_s=0.0
    )
    try:
        async with (
            Proxy(shared_server.url) as proxy,
            Runstream(shared_server.url, api_key=API_KEY) as writer,
            Runstream(proxy.url, api_key=API_KEY) as reader,
        ):
            run = await writer.trigger("job")
            told = Told()
            following = asyncio.create_task(told.follow(reader, run.id))
            await until(lambda: told.versions)
            async with proxy.closed():
                # The newest change is never cut, so two: one that it has not seen goes.
                await writer.runs.update(run.id, status=RunStatus.EXECUTING)
                await writer.runs.update(run.id, metadata={"n": 1})
                await keep.keep()
                # A process that was there all the while has it in its ring, and needs no log.
                await asyncio.to_thread(shared_server.restart)
            await until(lambda: reader.stats.resets == 1)
            await writer.runs.update(run.id, status=RunStatus.COMPLETED)
            await following
            assert told.versions[-1] == 4
    finally:
        await store.close()


# ------------------------------------------------------------------------------------ the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 6 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: a full disk; that takes a tmpfs, which only root can mount")
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("NOT TESTED: a full disk; no tmpfs may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_refuses_commands_and_nothing_else(
    small_disk: Path, start_server: Callable[..., Server]
) -> None:
    """Taken out: SQLITE_FULL among what makes a statement Unavailable; commands got a 500.

    Streams and reads go on, and once there is room again so do the commands.
    """
    server = start_server(f"sqlite:///{small_disk}/runstream.db")
    async with Runstream(server.url, api_key=API_KEY) as client:
        run = await client.trigger("job")
        told = Told()
        following = asyncio.create_task(told.follow(client, run.id))
        await until(lambda: told.versions)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4_096))
        before = (await client.runs.get(run.id)).version

        async def fill() -> None:
            # The log's own file has some room left, so it takes a few.
            for _ in range(100):
                await client.runs.update(run.id, metadata={"blob": BLOB * 10})

        with pytest.raises(Unavailable) as refused:
            await fill()
        # The client calls any 5xx so; only what is said to be passing is worth another try.
        assert refused.value.status == 503
        standing = await client.runs.get(run.id)
        assert standing.version >= before
        ballast.unlink()
        await client.runs.update(run.id, status=RunStatus.EXECUTING)
        await client.runs.update(run.id, status=RunStatus.COMPLETED)
        await following
        assert told.versions == list(range(1, standing.version + 3))


# ------------------------------------------------------------------------------------ the clock


async def test_a_clock_that_jumps_back_changes_no_order(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version orders a run; what times its changes carry means nothing to the hub.

    Taken out: the version in what is next, of hints and of what reads find, with the time of the
    change in its place; what was older than the one before never came.
    """
    broker = MemoryBroker()
    store = await RunStore.open(sqlite_url, broker=broker)
    hub = Hub(store, broker)
    running = asyncio.create_task(hub.run())
    await hub.ready.wait()
    jump = timedelta(0)
    monkeypatch.setattr(changes, "_now", lambda: datetime.now(UTC) + jump)

    async def authenticate(token: str | None) -> FakeGrant:
        return FakeGrant()

    async def done(command: CreateRun | UpdateRun) -> Run:
        outcomes = await store.execute(Submission(project="default", commands=(command,)))
        result = outcomes[0]
        assert isinstance(result, Done), result
        assert result.run is not None
        return result.run

    try:
        run = await done(
            CreateRun(project="default", run_id=new_id("run"), new=NewRun(task_identifier="job"))
        )
        outlet = RecordingOutlet()
        connection = hub.connect(outlet, authenticate)
        await connection.open(None)
        await connection.received(
            b'{"type": "subscribeToRun", "id": 1, "runId": "%s"}' % run.id.encode()
        )
        await until(lambda: "live" in outlet.types())
        for hours in (0, -5, 3, -1):
            jump = timedelta(hours=hours)
            await done(UpdateRun(project="default", run_id=run.id, metadata={"hours": hours}))
        await until(lambda: len(of_type(outlet.said(), "change")) == 4)
        shown = [each["run"]["version"] for each in of_type(outlet.said(), "change")]
        assert shown == [2, 3, 4, 5]
    finally:
        running.cancel()
        await asyncio.wait([running])
        await store.close()


async def heartbeats(outlet: RecordingOutlet, count: int) -> None:
    await until(lambda: outlet.types().count("heartbeat") >= count)


async def test_waits_do_not_go_by_the_clock_that_jumps() -> None:
    """A session's waits take the clock that never jumps; the other one is for tokens' ends.

    Taken out: that clock, with the other one in its place; after a jump back no heartbeat came.
    """

    class Jumping(Hub):
        ahead = timedelta(0)

        def now(self) -> Moment:
            real = super().now()
            return Moment(real.monotonic, real.wall + self.ahead)

    settings = HubSettings(session=SessionSettings(heartbeat_s=0.1))
    hub = Jumping(FakeStore(), FakeBroker(), settings=settings)
    running = asyncio.create_task(hub.run())
    await hub.ready.wait()

    async def authenticate(token: str | None) -> FakeGrant:
        return FakeGrant()

    try:
        outlet = RecordingOutlet()
        connection = hub.connect(outlet, authenticate)
        await connection.open(None)
        for hours in (-1, 1, -2):
            hub.ahead = timedelta(hours=hours)
            heard = outlet.types().count("heartbeat")
            await heartbeats(outlet, heard + 2)
            assert outlet.types().count("heartbeat") < heard + 50
    finally:
        running.cancel()
        await asyncio.wait([running])
