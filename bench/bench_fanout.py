"""Fan-out: CPU for each delivery to 1,000 readers of one tag, beside the limit and the peers.

The next change is made when every reader has the one before, so nothing is saved by falling
behind. Server and load have a core each; what is counted is the server's CPU, by the scheduler's
accounts. A reader that misses a version, or gets one twice, ends the benchmark without a number.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol

from websockets.asyncio.client import connect

from bench.http import Caller, Refused
from bench.load import Lost, Watchers, built, cores, cpu_s, pin, subscribers, watchers
from bench.peers.installing import NotHad
from bench.peers.nats import READER, Nats, NatsPublisher
from bench.peers.with_redis import Centrifuge, LinePublisher, SocketIo, WithRedis
from bench.result import Found, Row
from bench.stats import table
from tests.processes import ROOT, Process, Server, make_folder

READERS: Final = 1_000
ROUNDS: Final = 5
ALONE: Final = 60
"""Changes a round, one at a time."""
BURSTS: Final = 20
BURST: Final = 10
TAG: Final = "bench"
NOTE: Final = "x" * 108
SETTLE_S: Final = 2.5


class Source(Protocol):
    """A server with its readers connected."""

    @property
    def readers(self) -> Watchers: ...

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes whose CPU is the price."""
        ...

    async def publish(self, first: int, count: int) -> None:
        """Makes so many changes at once, the first with that version."""
        ...


def line(version: int, note: str = NOTE) -> str:
    """A change as ours tells it, for the peers to tell."""
    at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    run = {
        "id": "run_01k9zq4m7d2w8x5c3v6b1n0htr",
        "version": version,
        "status": "EXECUTING",
        "updatedAt": at,
        "metadata": {"step": version, "note": note},
    }
    change = {"type": "change", "ids": [1], "kind": "change", "run": run}
    return json.dumps(change, separators=(",", ":"))


def main() -> Found:
    return asyncio.run(compare())


def short() -> Found:
    return asyncio.run(compare(rounds=2))


# ------------------------------------------------------------------------------------- the servers


@dataclass
class Ours:
    server: Process
    readers: Watchers
    caller: Caller
    run_id: str

    @property
    def pids(self) -> tuple[int, ...]:
        return (self.server.pid,)

    async def publish(self, first: int, count: int) -> None:
        steps = [{"metadata": {"step": first + i, "note": NOTE}} for i in range(count)]
        if count == 1:
            await self.caller.call("PATCH", f"/v1/runs/{self.run_id}", steps[0])
        else:
            commands = [{"update": {"runId": self.run_id, **step}} for step in steps]
            said = await self.caller.call("POST", "/v1/runs/bulk", {"commands": commands})
            if any("error" in result for result in said["results"]):
                raise Refused(str(said))


@asynccontextmanager
async def ours(loop: str) -> AsyncIterator[Ours]:
    folder = make_folder("bench")
    server = Server(f"sqlite:///{folder}/bench.db", args=["--loop", loop])
    with server:
        pin(server.pid, cores()[0])
        async with Caller.open(server.port) as caller:
            run = await caller.call(
                "POST", "/v1/runs", {"taskIdentifier": "bench", "tags": [TAG], "payload": None}
            )
            await caller.call("PATCH", f"/v1/runs/{run['id']}", {"status": "EXECUTING"})
            ask = {"type": "subscribeToRunsWithTag", "id": 1, "tag": TAG}
            async with subscribers(server.port, READERS, [ask]) as readers:
                # The tail must have settled the joins before anything is counted.
                await asyncio.sleep(SETTLE_S)
                yield Ours(server, readers, caller, run["id"])


@dataclass
class Limit:
    process: asyncio.subprocess.Process
    readers: Watchers

    @property
    def pids(self) -> tuple[int, ...]:
        return (self.process.pid,)

    async def publish(self, first: int, count: int) -> None:
        text = line(0).replace('"version":0', '"version":@V').replace('"step":0', '"step":@V')
        at = text.index('"updatedAt":"') + 13
        text = text[:at] + "@T" + text[text.index('"', at) :]
        assert self.process.stdin is not None
        self.process.stdin.write(f"send {first} {count} {text}\n".encode())


@asynccontextmanager
async def limit() -> AsyncIterator[Limit]:
    process = await asyncio.create_subprocess_exec(str(built("limit")), stdin=PIPE, stdout=PIPE)
    try:
        pin(process.pid, cores()[0])
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with watchers(port, READERS, [""], ready="ready") as readers:
            yield Limit(process, readers)
    finally:
        process.kill()
        await process.wait()


class Script(Process):
    """A peer that is a module of ours."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.name = self._module = module

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", f"bench.peers.{self._module}", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return os.environ | {"PYTHONPATH": str(ROOT)}

    def close(self) -> None:
        self.kill()  # what it has still to say to its readers is nobody's business
        super().close()

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@dataclass
class Peer:
    process: Process
    readers: Watchers
    send: Callable[[list[str]], Awaitable[None]]

    @property
    def pids(self) -> tuple[int, ...]:
        return (self.process.pid,)

    async def publish(self, first: int, count: int) -> None:
        await self.send([line(first + i) for i in range(count)])


@asynccontextmanager
async def script(module: str) -> AsyncIterator[Peer]:
    with Script(module) as process:
        pin(process.pid, cores()[0])
        async with (
            watchers(process.port, READERS, [""], ready="ready") as readers,
            connect(f"ws://127.0.0.1:{process.port}/publish", compression=None) as publisher,
        ):

            async def send(lines: list[str]) -> None:
                await publisher.send("\n".join(lines))

            yield Peer(process, readers, send)


@asynccontextmanager
async def nats() -> AsyncIterator[Peer]:
    with Nats() as process:
        pin(process.pid, cores()[0])
        async with watchers(process.port, READERS, [READER], ready="PONG") as readers:
            publisher = await NatsPublisher.open(process.client_port)
            try:
                yield Peer(process, readers, publisher.publish)
            finally:
                publisher.close()


@asynccontextmanager
async def with_redis(peer: type[WithRedis]) -> AsyncIterator[Peer]:
    with peer() as process:
        pin(process.pid, cores()[0])
        async with watchers(
            process.port, READERS, [peer.reader], ready=peer.ready, path=peer.path
        ) as readers:
            publisher = await LinePublisher.open(process.publish_port)
            try:
                yield Peer(process, readers, publisher.publish)
            finally:
                publisher.close()


SOURCES: Final[dict[str, Callable[[], AbstractAsyncContextManager[Source]]]] = {
    "bare send() in C (the limit)": limit,
    "Runstream, uvloop": partial(ours, "uvloop"),
    "Runstream, asyncio loop": partial(ours, "asyncio"),
    "websockets broadcast": partial(script, "websockets_broadcast"),
    "NATS over WebSocket": nats,
    "uvicorn + Starlette, a queue each": partial(script, "plain_starlette"),
    "Centrifuge, its Redis broker": partial(with_redis, Centrifuge),
    "Socket.IO, its Redis adapter": partial(with_redis, SocketIo),
}
LIMIT: Final = next(iter(SOURCES))


# ------------------------------------------------------------------------------------ the measuring


@dataclass
class Sample:
    """What one server cost in one mode, round by round: µs of CPU for each delivery."""

    costs: list[float]
    p50_ms: list[float]

    @property
    def cost(self) -> float:
        return statistics.median(self.costs)


async def compare(wanted: Sequence[str] = (), rounds: int = ROUNDS) -> Found:
    found: dict[tuple[str, int], Sample] = {}
    async with AsyncExitStack() as stack:
        sources: dict[str, Source] = {}
        for name, source in SOURCES.items():
            if wanted and not any(word in name for word in wanted):
                continue
            try:
                sources[name] = await stack.enter_async_context(source())
            except NotHad as error:
                print(f"*** {name} was NOT measured: {error} ***\n", flush=True)
        due = dict.fromkeys(sources, 1) | {name: 3 for name in sources if "Runstream" in name}
        for round_ in range(rounds + 1):
            for name, source_ in sources.items():
                for burst, times in ((1, ALONE), (BURST, BURSTS)):
                    cost, p50_ms = await deliver(source_, due[name], burst, times)
                    due[name] += burst * times
                    if round_:  # the first warms up
                        sample = found.setdefault((name, burst), Sample([], []))
                        sample.costs.append(cost)
                        sample.p50_ms.append(p50_ms)
    report(list(sources), found, rounds)
    rows = [
        Row(
            name,
            {"us": sample.cost, "least_us": min(sample.costs), "most_us": max(sample.costs)},
            mode(burst),
        )
        for (name, burst), sample in found.items()
    ]
    about = f"{READERS:,} readers of one tag, changes of {len(line(100))} bytes"
    versions = [
        source.process.version
        for source in sources.values()
        if isinstance(source, Peer) and isinstance(source.process, Nats)
    ]
    return Found(f"{about}, medians of {rounds} alternating rounds", rows, versions)


async def deliver(source: Source, first: int, burst: int, times: int) -> tuple[float, float]:
    """µs of server CPU for each delivery, and the readers' median latency in ms."""
    readers = source.readers
    readers.say("reset")
    before = cpu_s(*source.pids)
    said: dict[str, Any] = {}
    for step in range(times):
        version = first + step * burst
        readers.expect(version, version + burst - 1)
        await source.publish(version, burst)
        said = await readers.done()
    spent = cpu_s(*source.pids) - before
    count = READERS * burst * times
    if said["messages"] != count:
        raise Lost(f"{said['messages']} of {count} came")
    return spent / count * 1e6, said["p50_us"] / 1_000


def report(names: Sequence[str], found: dict[tuple[str, int], Sample], rounds: int) -> None:
    print(
        f"{READERS:,} readers, changes of {len(line(100))} bytes; server CPU, µs a delivery: "
        f"median of {rounds} alternating rounds\n"
    )
    rows = []
    for name in names:
        row: list[object] = [name]
        for burst in (1, BURST):
            sample = found[name, burst]
            ratio = sample.cost / found[LIMIT, burst].cost if LIMIT in names else 0.0
            row += [sample.cost, f"{ratio:.2f}", statistics.median(sample.p50_ms)]
        rows.append(row)
    head = ["server"]
    for burst in (1, BURST):
        head += [f"{mode(burst)}, µs", "× limit", "p50 ms"]
    print(table(head, rows))


def mode(burst: int) -> str:
    return "one by one" if burst == 1 else f"bursts of {burst}"


if __name__ == "__main__":
    asyncio.run(compare(sys.argv[1:]))
