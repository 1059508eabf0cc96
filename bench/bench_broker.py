"""The broker: CPU per hint, received and published, beside the client library's own PubSub.

The messages are real hints, published by a process of its own; each reader must get every one, in
order, or there is no number.
"""

import asyncio
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec
import redis.asyncio

from bench.stats import measured, table
from store.broker import Hint
from store.broker.metrics import NoMetrics
from store.broker.redis import RedisBroker, Tuning
from store.broker.redis.address import parse_url
from store.broker.redis.codec import HEADER, encode, pack, unpack
from store.broker.redis.subscriber import Subscriber
from store.model import RunStatus
from tests.builders import a_change, a_run
from tests.servers import Valkey
from tests.store.broker.doubles import eventually, is_ok

ROUNDS: Final = 3
PACED: Final = 5_000
"""Messages a second: about what one project may have. Most come alone, as they do in life."""
SECONDS: Final = 4
FLOOD: Final = 30_000
"""Messages sent as fast as they go, so that many come with one read."""
WITHIN_S: Final = 60.0


def main() -> None:
    with Valkey() as valkey:
        # A reader that is slow shall show as slow, not be cut off.
        valkey.set_config("client-output-buffer-limit", "pubsub 0 0 0")
        print(f"Valkey {valkey.version}; a hint of {len(a_message(1))} bytes; one a message\n")
        readers: dict[str, Reader] = {
            "ours, undecoded": read_by_subscriber,
            "redis-py PubSub, undecoded": read_by_pubsub,
            "ours, to the listener": read_by_broker,
            "redis-py PubSub, decoded": read_by_pubsub_and_decode,
        }
        paces = {f"{PACED:,}/s": PACED, "flood": 0}
        costs: dict[tuple[str, str], list[float]] = {}
        for _ in range(ROUNDS):
            for pace, rate in paces.items():
                for name, read in readers.items():
                    count = rate * SECONDS or FLOOD
                    cost = asyncio.run(received(valkey, read, count, rate))
                    costs.setdefault((name, pace), []).append(cost)
        medians = {key: statistics.median(values) for key, values in costs.items()}
        rows = [[name, *(medians[name, pace] for pace in paces)] for name in readers]
        print(f"CPU of the reader, µs a message (median of {ROUNDS}):\n")
        print(table(["reader", *paces], rows))
        for ours, theirs in (list(readers)[:2], list(readers)[2:]):
            ratios = (
                f"{medians[theirs, pace] / medians[ours, pace]:.1f} ({pace})" for pace in paces
            )
            print(f"\n{theirs} costs {', '.join(ratios)} times {ours}")
        print(f"\nCPU of the publisher, µs a hint (median of {ROUNDS}):\n")
        rows = []
        for size in (1, 10, 100):
            spent = [asyncio.run(published(valkey, 20_000, size)) for _ in range(ROUNDS)]
            rows.append([size, statistics.median(spent)])
        print(table(["hints a commit", "µs"], rows))


# Receiving.

CHANNEL: Final = "bench:0:hints:default"
Reader = Callable[[str, Callable[[], None], Callable[[int], None]], Awaitable[None]]
"""Reads for ever: given the URL, what to call once it is subscribed, and once for each number."""


class Account:
    """Numbers that must come as 1, 2, 3… to the last."""

    def __init__(self, count: int) -> None:
        self.last = 0
        self.ready = asyncio.Event()
        self.done = asyncio.Event()
        self._count = count

    def came(self, number: int) -> None:
        if number != self.last + 1:
            raise AssertionError(f"{number} came after {self.last}")
        self.last = number
        if number == self._count:
            self.done.set()


async def received(valkey: Valkey, read: Reader, count: int, rate: int) -> float:
    """µs of CPU that this process used for each message."""
    account = Account(count)
    async with reading(read(valkey.url, account.ready.set, account.came), account.ready):
        feeder = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.bench_broker", str(valkey.port), str(count), str(rate)
        )
        try:
            # The first message says that the feeder has begun: its start is not the reader's cost.
            await eventually(lambda: account.last)
            with measured() as cost:
                first = account.last
                async with asyncio.timeout(WITHIN_S):
                    await account.done.wait()
        except TimeoutError:
            raise AssertionError(f"{account.last} of {count} messages came") from None
        finally:
            if feeder.returncode is None and not account.done.is_set():
                feeder.kill()
            await feeder.wait()
    return cost.per(count - first)


@asynccontextmanager
async def reading(work: Awaitable[None], ready: asyncio.Event) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    await ready.wait()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


class Listener:
    """Takes the number out of each hint."""

    def __init__(self, came: Callable[[int], None]) -> None:
        self._came = came

    def hinted(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            self._came(hint.change.version)

    def suspect(self, project: str | None, reason: str) -> None: ...


async def read_by_broker(url: str, ready: Callable[[], None], came: Callable[[int], None]) -> None:
    # A flood that waits in Redis for 3 s is given up for a read of the log; here its cost is asked.
    broker = RedisBroker(url, namespace="bench", tuning=Tuning(silent_beats=60))
    broker.follow("default")
    await broker.start(Listener(came))
    try:
        await eventually(is_ok(broker))
        ready()
        await asyncio.Event().wait()
    finally:
        await broker.close()


class Ear:
    """Takes the number out of each message's header."""

    def __init__(self, came: Callable[[int], None]) -> None:
        self._came = came

    def heard(self, channel: bytes, message: bytes) -> None:
        self._came(HEADER.unpack_from(message)[1])

    def paused(self) -> None: ...

    def confirmed(self, channel: bytes) -> None: ...

    def refused(self, channel: bytes, reason: str) -> None: ...


async def read_by_subscriber(
    url: str, ready: Callable[[], None], came: Callable[[int], None]
) -> None:
    subscriber = Subscriber(Ear(came))
    address = parse_url(url)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: subscriber, address.host, address.port)
    subscriber.begin(address, [CHANNEL.encode()])
    await subscriber.settled
    ready()
    try:
        await subscriber.closed
    finally:
        subscriber.abort("done")


async def pubsub_messages(url: str, ready: Callable[[], None]) -> AsyncIterator[bytes]:
    async with redis.asyncio.Redis.from_url(url, protocol=2) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(CHANNEL)
        async for message in pubsub.listen():
            if message["type"] == "message":
                yield message["data"]
            else:
                ready()


async def read_by_pubsub(url: str, ready: Callable[[], None], came: Callable[[int], None]) -> None:
    async for message in pubsub_messages(url, ready):
        came(HEADER.unpack_from(message)[1])


async def read_by_pubsub_and_decode(
    url: str, ready: Callable[[], None], came: Callable[[int], None]
) -> None:
    async for message in pubsub_messages(url, ready):
        for hint in unpack(memoryview(message)[HEADER.size :]):
            came(hint.change.version)


# Publishing.


class Published(NoMetrics):
    def __init__(self) -> None:
        self.hints = 0
        self.lost = 0

    def settled(self, hints: int) -> bool:
        return self.hints + self.lost >= hints

    def published(self, hints: int) -> None:
        self.hints += hints

    def dropped(self, hints: int, reason: str) -> None:
        self.lost += hints


async def published(valkey: Valkey, count: int, size: int) -> float:
    """µs of CPU that this process used for each hint, in commits of that size."""
    metrics = Published()
    broker = RedisBroker(valkey.url, namespace="bench", metrics=metrics)
    await broker.start(Listener(lambda number: None))
    hint = a_hint(1)
    try:
        await eventually(is_ok(broker))
        commit = [hint] * size
        with measured() as cost:
            for first in range(0, count, size):
                broker.publish(commit)
                # As many at once as a busy writer's callers; then they are waited for.
                if (first // size) % 20 == 19:
                    await eventually(partial(metrics.settled, first))
            await eventually(partial(metrics.settled, count))
    finally:
        await broker.close()
    if metrics.lost or metrics.hints != count:
        raise AssertionError(f"{metrics.lost} hints lost, {metrics.hints} of {count} published")
    return cost.per(count)


# The feeder, a process of its own.


def a_hint(number: int) -> Hint:
    run = a_run(status=RunStatus.EXECUTING, version=number, payload=None, has_payload=False)
    return Hint(a_change(run), run)


def a_message(number: int, hint: Hint | None = None) -> bytes:
    hint = hint or a_hint(number)
    numbered = Hint(
        msgspec.structs.replace(hint.change, version=number),
        None if hint.run is None else msgspec.structs.replace(hint.run, version=number),
    )
    encoded = encode(numbered, 16_384)
    assert encoded is not None
    ((body, _),) = pack([encoded], 65_536)
    return HEADER.pack(b"stranger", number) + body


def feed(port: int, count: int, rate: int) -> None:
    """Publishes them, numbered; a rate of 0 is as fast as they go."""
    hint = a_hint(1)
    channel = CHANNEL.encode()
    head = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n" % (len(channel), channel)

    def command(number: int) -> bytes:
        message = a_message(number, hint)
        return b"%b$%d\r\n%b\r\n" % (head, len(message), message)

    commands = [command(number) for number in range(1, count + 1)]
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        step = 1 if rate else 100
        for first in range(0, count, step):
            if rate:
                while (ahead := first / rate - (time.perf_counter() - began)) > 0:
                    time.sleep(ahead)
            sock.sendall(b"".join(commands[first : first + step]))
            answered(sock, min(step, count - first))


def answered(sock: socket.socket, count: int) -> None:
    while count > 0:
        count -= sock.recv(65_536).count(b"\n")


if __name__ == "__main__":
    arguments: list[Any] = [int(argument) for argument in sys.argv[1:]]
    feed(*arguments)
