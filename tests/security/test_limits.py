"""Limits hold, say so by name and when to come back; and good clients get past bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from realtime.auth import new_key
from realtime.bucket import Bucket
from realtime.limits import FLOOD, Buckets, Handshakes, TooMany, TooSlow, paced
from tests.realtime.serving import until
from tests.security.serving import KEY, Serving, serving


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Everything is scarce."""
    with serving(
        tmp_path_factory.mktemp("strict"),
        handshake_s=0.5,
        authenticate_s=0.5,
        unauthenticated=50,
        body_patience_s=0.3,
        bodies_bytes=65_536,
        token_requests_per_s=1.0,
        token_messages_per_s=0.5,
        guesses_per_s=0.5,
        subscriptions=10,
        connections_per_project=4,
        sse_connections=2,
    ) as made:
        yield made


# ---------------------------------------------------------------------------------- the parts


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    """Time is an argument; no waiting is needed to see it."""
    bucket = Bucket(rate=2.0, burst=3.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(0.5) == 0.0
    assert bucket.take(0.5) == 0.5
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_buckets_are_apart_and_their_number_is_bounded() -> None:
    """A flood of names must not fill the memory, and not use up what others have."""
    now = [0.0]
    buckets = Buckets(1.0, 1.0, "too many", clock=lambda: now[0])
    buckets.take("good")
    with pytest.raises(TooMany) as refused:
        buckets.take("good")
    assert refused.value.retry_after_s == 1.0
    for name in range(20_000):
        buckets.take(name)
    assert len(buckets._buckets) <= 10_000
    Buckets(0.0, 0.0, "never").take("anything")


async def test_of_too_many_handshakes_those_go_that_wait_longest() -> None:
    """But none that has just come, or a burst of good clients would turn on itself."""
    now = [0.0]
    dropped: list[int] = []
    handshakes = Handshakes(2, 10.0, clock=lambda: now[0])
    for n in range(6):
        handshakes.enter(n, "", lambda n=n: dropped.append(n))  # type: ignore[misc]
    assert dropped == []
    now[0] = 1.5
    handshakes.enter(6, "", lambda: dropped.append(6))
    assert dropped == [0]
    for n in range(7, 10):
        handshakes.enter(n, "", lambda n=n: dropped.append(n))  # type: ignore[misc]
    assert dropped == [0, 1, 2, 3]
    for n in range(10):
        handshakes.leave(n)
    assert len(handshakes) == 0


async def test_a_trickle_is_given_up_and_a_steady_stream_is_not() -> None:
    """Bytes buy time, at the slowest rate that is waited for."""

    async def trickle(pause_s: float, size: int, parts: int) -> AsyncIterator[bytes]:
        for _ in range(parts):
            await asyncio.sleep(pause_s)
            yield b"x" * size

    with pytest.raises(TooSlow):
        async for _ in paced(trickle(0.02, 1, 100), patience_s=0.2):
            pass
    with pytest.raises(TooSlow):
        async for _ in paced(trickle(30, 1, 1), patience_s=0.05):
            pass
    parts = [part async for part in paced(trickle(0.02, 1_000, 20), patience_s=0.2)]
    assert len(parts) == 20


# ------------------------------------------------------------------------------------- slow loris


def _sockets(port: int, count: int, data: bytes) -> list[socket.socket]:
    made = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=10)
        one.sendall(data)
        one.setblocking(False)
        made.append(one)
    return made


def _is_closed(one: socket.socket) -> bool:
    try:
        while got := one.recv(65_536):
            if b"no token came" in got or b"without a token" in got:
                return True  # a WebSocket was closed; the peer's own close is waited for
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


LORIS = {
    "silent": b"",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: b\r\n",
    "half an upgrade": (
        b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    ),
    "half a stream": b"GET /v1/realtime/runs HTTP/1.1\r\nAuthorization: Bearer " + KEY.encode(),
    "blank lines": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + b"\r\n",
    "answered before its end": (
        b"POST /v1/runs HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"
    ),
    "no token": (
        b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ),
}


@pytest.mark.parametrize("how", LORIS)
async def test_who_says_nothing_is_let_go_and_hinders_nobody(strict: Serving, how: str) -> None:
    """Some hundreds of raw sockets that wait; a good client comes in among them at once."""
    sockets = await asyncio.to_thread(_sockets, strict.port, 300, LORIS[how])
    try:
        async with strict.caller() as caller:
            assert (await caller.get("/v1/runs")).status_code == 200
        async with strict.reader() as reader:
            await reader.until("welcome")
        if how == "blank lines":
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.send(b"\r\n")
        left = list(sockets)

        def are_closed() -> bool:
            left[:] = [one for one in left if not _is_closed(one)]
            return not left

        await until(are_closed, "all were let go")
    finally:
        for one in sockets:
            one.close()
    async with strict.reader() as reader:
        await reader.until("welcome")


async def test_a_connection_that_asks_again_and_again_is_kept(strict: Serving) -> None:
    """Also beyond the time that a head may take, and if its second request is an upgrade."""
    reader, writer = await asyncio.open_connection("127.0.0.1", strict.port)
    ask = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(5):
        writer.write(ask[:20])
        await asyncio.sleep(0.15)
        writer.write(ask[20:])
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.write(LORIS["no token"][:-2] + f"Authorization: Bearer {KEY}\r\n\r\n".encode())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    assert b"welcome" in await reader.read(1_000)
    with contextlib.suppress(TimeoutError):
        # Beyond the time for a head; nothing but heartbeats may come, least of all the end.
        assert await asyncio.wait_for(reader.read(1_000), 1.0)
    writer.close()


async def test_2000_slow_clients_keep_nobody_out(tmp_path: Path) -> None:
    """As many connections as there are by default, and somewhat less time for each."""
    with serving(tmp_path, handshake_s=2.0) as served:
        sockets = await asyncio.to_thread(_sockets, served.port, 2_000, LORIS["half a head"])
        try:
            async with asyncio.timeout(5), served.reader() as reader:
                await reader.until("welcome")
            await until(lambda: all(map(_is_closed, sockets)), "all were let go")
        finally:
            for one in sockets:
                one.close()


async def test_limits_hold_under_a_flood_of_connections(tmp_path: Path) -> None:
    """5,000 attempts, as fast as they can be made: no more is held than was allowed, whoever is
    served goes on being served, and afterwards nothing of the flood is left."""
    most = 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 12_000 if hard == resource.RLIM_INFINITY else min(12_000, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        with serving(tmp_path, unauthenticated=most, connections=most + 50) as served:
            async with served.reader() as good, served.caller() as caller:
                await good.until("welcome")
                held: list[int] = []
                for how in ("half a head", "no token"):
                    for _ in range(10):
                        sockets = await asyncio.to_thread(_sockets, served.port, 250, LORIS[how])
                        held.append(len(served.server.server_state.connections))
                        held.append(len(served.runtime.hub.connections))
                        await good.say({"type": "ping", "data": len(held)})
                        await good.until("pong", data=len(held))
                        assert (await caller.get("/healthz")).status_code == 200
                        for one in sockets:
                            one.close()
                # For a second a burst is let in, since it might be one of good clients.
                assert max(held) <= FLOOD * most + 300
                # The kernel may still hold some thousands that wait to be taken before this one.
                async with served.reader(open_timeout=90) as later:
                    await later.until("welcome")
                await until(lambda: len(served.runtime.hub.connections) == 1, "they are gone")
                state = served.server.server_state
                await until(lambda: len(state.connections) <= 2, "they are gone")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ----------------------------------------------------------------------------------------- bodies


async def test_a_body_that_hardly_comes_is_not_waited_for(strict: Serving) -> None:
    """408; and nothing was done."""
    answer = await strict.raw(
        b"POST /v1/runs HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\nAuthorization: Bearer "
        + KEY.encode()
        + b'\r\n\r\n{"task'
    )
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


async def test_bodies_have_a_bound_together(strict: Serving) -> None:
    """429 with Retry-After, and what was held is let go again."""
    async with strict.caller() as caller:
        big = {"taskIdentifier": "t", "payload": "x" * 100_000}
        refused = await caller.post("/v1/runs", big)
        assert refused.status_code == 429
        assert refused.json()["code"] == "too_many_requests"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await caller.post("/v1/runs", {"taskIdentifier": "t"})).status_code == 201
    assert strict.runtime.limits.bodies.held == 0


# ------------------------------------------------------------------------------------------ rates


async def test_a_token_that_asks_too_often_is_told_when_to_come_back(strict: Serving) -> None:
    """On all ways in; its neighbour and the key are not touched."""
    async with strict.caller() as owner:
        token, other = [await owner.a_token("read:runs") for _ in range(2)]
    async with strict.caller(token) as caller:
        answers = [await caller.get("/v1/runs") for _ in range(15)]
    assert {each.status_code for each in answers} == {200, 429}
    last = answers[-1]
    assert last.status_code == 429
    assert last.json()["code"] == "too_many_requests"
    assert int(last.headers["retry-after"]) >= 1
    async with await strict.sse("/v1/realtime/runs", token) as stream:
        assert stream.status == 429
        assert "retry-after: " in stream.head
    async with strict.reader(token) as reader:
        assert await reader.closed() == 4429
    for good in (KEY, other):
        async with strict.caller(good) as caller:
            assert (await caller.get("/v1/runs")).status_code == 200


async def test_messages_too_many_are_refused_one_by_one(strict: Serving) -> None:
    """The connection stays, and says when to try again; a key has no such limit."""
    async with strict.caller() as owner:
        token = await owner.a_token("read:runs")
    async with strict.reader(token) as reader:
        await reader.until("welcome")
        for n in range(30):
            await reader.say({"type": "ping", "data": n})
        error = await reader.until("error")
        assert error["code"] == "too_many_requests"
        assert "try again in" in error["message"]
    async with strict.reader() as reader:
        await reader.until("welcome")
        for n in range(30):
            await reader.say({"type": "ping", "data": n})
        await reader.until("pong", data=29)


async def test_guessing_keys_gets_slow_and_known_keys_do_not(strict: Serving) -> None:
    """What is not in memory costs the database a read: strangers have few of those."""
    statuses = []
    for _ in range(10):
        async with strict.caller(new_key()) as caller:
            statuses.append((await caller.get("/v1/runs")).status_code)
    assert statuses[0] == 401
    assert statuses[-1] == 429
    async with strict.caller() as caller:
        assert (await caller.get("/v1/runs")).status_code == 200


# ------------------------------------------------------------------------------------ connections


async def test_connections_of_a_project_are_counted(strict: Serving) -> None:
    """4429 for one too many; room again when one has gone."""
    async with contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(strict.reader()) for _ in range(4)]
        for reader in readers:
            await reader.until("welcome")
        async with strict.reader() as one_too_many:
            assert await one_too_many.closed() == 4429
            assert one_too_many.socket.close_reason == "too many connections of this project"
    await until(lambda: not strict.runtime.hub.connections, "all have gone")
    async with strict.reader() as reader:
        await reader.until("welcome")


async def test_streams_of_events_are_counted(strict: Serving) -> None:
    """429 before the stream begins."""
    await until(lambda: not strict.runtime.hub.connections, "all have gone")
    async with contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(await strict.sse("/v1/realtime/runs")) for _ in range(3)
        ]
        assert [stream.status for stream in streams] == [200, 200, 429]
        assert "retry-after: 1" in streams[-1].head


async def test_connections_from_one_address_are_counted(tmp_path: Path) -> None:
    """Where the setting asks for it."""
    with serving(tmp_path, connections_per_address=1) as served:
        async with served.reader() as first:
            await first.until("welcome")
            async with served.reader() as second:
                assert await second.closed() == 4429
                assert second.socket.close_reason == "too many connections from this address"
