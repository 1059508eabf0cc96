"""The faults that other tests rest on do what they say, and nothing else."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from tests.faults import (
    Cut,
    Proxy,
    Way,
    client_kill,
    open_transaction,
    reset,
    terminate_backends,
)
from tests.servers import Postgres, Valkey

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Before a server that sends back what it is sent."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Proxy(f"tcp://127.0.0.1:{port}/0") as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def dialled(proxy: Proxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def echoed(streams: Streams, text: bytes) -> None:
    reader, writer = streams
    writer.write(text)
    assert await asyncio.wait_for(reader.readexactly(len(text)), 5) == text


async def silent(streams: Streams) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(streams[0].read(1), 0.2)


async def test_it_hands_on_everything_in_both_directions(proxy: Proxy) -> None:
    text = bytes(range(256)) * 4_000
    async with dialled(proxy) as streams:
        reading = asyncio.create_task(streams[0].readexactly(len(text)))
        streams[1].write(text)
        assert await asyncio.wait_for(reading, 10) == text
    assert proxy.forwarded == {Way.UP: len(text), Way.DOWN: len(text)}
    assert proxy.connections == 1


async def test_the_end_of_one_direction_is_handed_on_and_the_other_still_speaks(
    proxy: Proxy,
) -> None:
    async with dialled(proxy) as (reader, writer):
        writer.write(b"last words")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b"last words"


async def test_one_byte_at_a_time(proxy: Proxy) -> None:
    proxy.pieces(1)
    async with dialled(proxy) as streams:
        streams[1].write(b"abc")
        pieces = [await asyncio.wait_for(streams[0].read(100), 5)]
        while sum(map(len, pieces)) < 3:
            pieces.append(await asyncio.wait_for(streams[0].read(100), 5))
        assert b"".join(pieces) == b"abc"


async def test_a_delay_holds_for_its_direction(proxy: Proxy) -> None:
    async with dialled(proxy) as streams:
        proxy.delay(0.1, Way.DOWN)
        begin = time.monotonic()
        await echoed(streams, b"late")
        assert time.monotonic() - begin >= 0.1
        proxy.delay(0)
        await echoed(streams, b"soon")


@pytest.mark.parametrize("way", list(Way))
async def test_a_stall_keeps_the_connection_and_what_was_sent(proxy: Proxy, way: Way) -> None:
    async with dialled(proxy) as streams:
        await echoed(streams, b"before")
        with proxy.stalled(way):
            streams[1].write(b"meanwhile")
            await silent(streams)
            assert proxy.standing == 1
        assert await asyncio.wait_for(streams[0].readexactly(9), 5) == b"meanwhile"


async def test_a_stall_takes_new_connections_too(proxy: Proxy) -> None:
    """A half-dead server answers the dial and nothing else."""
    with proxy.stalled():
        async with dialled(proxy) as streams:
            streams[1].write(b"hello?")
            await silent(streams)


async def test_a_stall_is_felt_by_the_writer() -> None:
    """A reader that takes nothing fills the buffers on the way, which are small here."""
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(high=0)
        with contextlib.suppress(OSError):
            while sent < 50_000_000:
                writer.write(bytes(10_000))
                sent += 10_000
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Proxy(f"tcp://127.0.0.1:{port}", receive_buffer=4_096) as proxy:
        proxy.stall(Way.DOWN)
        async with dialled(proxy):
            last = -1
            while sent != last:
                last = sent
                await asyncio.sleep(0.2)
            assert 0 < sent < 10_000_000


async def test_a_reset_is_seen_as_one(proxy: Proxy) -> None:
    async with dialled(proxy) as streams:
        await echoed(streams, b"before")
        assert proxy.cut(Cut.RST) == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(streams[0].read(), 5)
    async with dialled(proxy) as streams:
        await echoed(streams, b"again")


async def test_a_fin_is_seen_as_an_orderly_end(proxy: Proxy) -> None:
    async with dialled(proxy) as streams:
        await echoed(streams, b"before")
        assert proxy.cut(Cut.FIN) == 1
        assert await asyncio.wait_for(streams[0].read(), 5) == b""


async def test_a_cut_in_the_middle_hands_on_exactly_so_much(proxy: Proxy) -> None:
    async with dialled(proxy) as streams:
        proxy.cut_after(4, Way.DOWN)
        streams[1].write(b"one message")
        assert await asyncio.wait_for(streams[0].read(), 5) == b"one "
    async with dialled(proxy) as streams:
        await echoed(streams, b"it cuts once")


async def test_refused_dials_are_counted(proxy: Proxy) -> None:
    proxy.refuse(2)
    for _ in range(2):
        async with dialled(proxy) as streams:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(streams[0].read(), 5)
    async with dialled(proxy) as streams:
        await echoed(streams, b"the third is taken")


async def test_closed_means_that_nobody_listens(proxy: Proxy) -> None:
    async with dialled(proxy) as streams:
        await echoed(streams, b"before")
        async with proxy.closed():
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(streams[0].read(), 5)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
    async with dialled(proxy) as streams:
        await echoed(streams, b"after")


async def test_a_server_that_is_away_resets_who_dials() -> None:
    async with Proxy("tcp://127.0.0.1:1") as proxy, dialled(proxy) as streams:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(streams[0].read(), 5)


async def test_it_stands_between_a_client_and_redis(valkey: Valkey) -> None:
    async with Proxy(valkey.url) as proxy:
        async with redis.asyncio.Redis.from_url(proxy.url) as client:
            await client.set("key", "value")
            assert await client.get("key") == b"value"
        assert proxy.connections == 1


async def test_it_stands_between_a_client_and_postgres(postgres: Postgres) -> None:
    async with Proxy(postgres.url) as proxy:
        connection = await asyncpg.connect(proxy.url)
        assert await connection.fetchval("SELECT 1") == 1
        proxy.cut()
        with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.fetchval("SELECT 1")


async def test_subscribers_can_be_cut_off(valkey: Valkey) -> None:
    async with redis.asyncio.Redis.from_url(valkey.url) as client, client.pubsub() as pubsub:
        await pubsub.subscribe("channel")
        assert await pubsub.get_message(timeout=5) is not None
        assert client_kill(valkey) == 1
        assert client_kill(valkey) == 0


async def test_backends_can_be_terminated_by_database(postgres: Postgres) -> None:
    one, other = postgres.create_database(), postgres.create_database()
    mine, theirs = await asyncpg.connect(one), await asyncpg.connect(other)
    assert terminate_backends(postgres, one) == 1
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await mine.fetchval("SELECT 1")
    assert await theirs.fetchval("SELECT 1") == 1
    await theirs.close()
    for url in one, other:
        postgres.drop_database(url)


async def test_an_open_transaction_stands_in_every_snapshot(postgres_url: str) -> None:
    watcher = await asyncpg.connect(postgres_url)
    xmin = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
    async with open_transaction(postgres_url) as xid:
        assert await watcher.fetchval(xmin) == xid
    assert await watcher.fetchval(xmin) > xid
    await watcher.close()


async def test_a_link_whose_one_pump_fails_leaves_nothing_running(proxy: Proxy) -> None:
    """The client crashes while what it was sent is held up: nobody would ever let that go on."""
    async with dialled(proxy) as streams:
        await echoed(streams, b"before")
        with proxy.stalled(Way.DOWN):
            streams[1].write(b"meanwhile")
            await silent(streams)
            pumps = tasks_of("_pump")
            assert len(pumps) == 2
            reset(streams[1])
            await asyncio.wait_for(asyncio.wait(pumps), 5)
    assert proxy.standing == 0


async def test_a_link_that_is_cancelled_twice_lets_go_of_both_sockets(proxy: Proxy) -> None:
    """The second cancellation comes while the first is still tidied up after."""
    async with dialled(proxy) as streams:
        await echoed(streams, b"before")
        (serving,), pumps = tasks_of("_serve"), tasks_of("_pump")
        serving.cancel()
        await asyncio.sleep(0)
        serving.cancel()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(streams[0].read(), 5) == b""
        await asyncio.wait_for(asyncio.wait(pumps | {serving}), 5)
    assert proxy.standing == 0


def tasks_of(name: str) -> set[asyncio.Task[Any]]:
    """The tasks that run a function of that name."""
    return {
        task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == name
    }
