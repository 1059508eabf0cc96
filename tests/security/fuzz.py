"""Fuzzes the port of a real server: `python -m tests.security.fuzz --minutes 10 --seed 7`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import click
import httpx2
from websockets.asyncio.client import ClientConnection, connect

from realtime.hub import HubSettings
from realtime.ring import RING_CHANGES
from tests.processes import Server
from tests.security.traffic import KEY, Talk, talk
from tests.soak.holdings import Holdings, at_rest

GOOD_S: Final = 20.0
"""So long a good client waits at most, on a machine that does much else."""
SETTLE_S: Final = 60.0
READ_BYTES: Final = 262_144
WARM_TALKS: Final = 8_000
"""So many come before the first look: the collector has come by several times then, and what fills
once is full."""
GROWN_MB: Final = 8.0
"""By so much more memory than after its first tenth it may hold, both at rest: up to 50,000 objects
that only the collector finds wait for it (`realtime.serve.calm_gc`), about 6 MB of them; the
database's caches hold what has been written meanwhile; and the allocator keeps what is free between
what is not. One connection that is left takes 10 KB, and tens of thousands come."""


class Found(AssertionError):
    """The server did what it must not."""


@dataclass
class Fuzz:
    """Talks to a server as nobody should, and beside that as a good client does."""

    port: int
    seed: int
    at_once: int = 16
    done: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    longest_check_s: float = 0.0

    async def play(self, first: int, goes_on: Callable[[int], bool]) -> int:
        """Talks from that number on, for as long as it is to go on; the number after the last."""
        numbers = iter(range(first, 2**62))
        last = first

        async def one_after_the_other() -> None:
            nonlocal last
            while goes_on(number := next(numbers)):
                last = number + 1
                await self._hold(number, talk(self.seed, number))

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self.at_once):
                    tasks.create_task(one_after_the_other())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return last

    async def _hold(self, number: int, said: Talk) -> None:
        """One connection, from its beginning to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        # The port of a connection that is reset needs no minute of rest.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        got = b""
        try:
            # A TimeoutError is an OSError.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if said.opening:
                    writer.write(said.opening)
                    async with asyncio.timeout(2):
                        await reader.readuntil(b"\r\n\r\n")
                for part in said.parts:
                    if writer.is_closing():
                        break
                    writer.write(part)
                    if said.pause_s:
                        await asyncio.sleep(said.pause_s)
                async with asyncio.timeout(2):
                    await writer.drain()
                match said.leaves:
                    case "half":
                        writer.write_eof()
                        got = await _read(reader, 0.3)
                    case "closed":
                        got = await _read(reader, 0.05)
        finally:
            writer.transport.abort()
        self.done += 1
        self.kinds[said.kind] += 1
        status = got[9:12].decode("latin-1") if got.startswith(b"HTTP/") else ""
        self.answers[status or "none"] += 1
        if b" 500 " in got[:20] or b"HTTP/1.1 500" in got or b'"code":"internal"' in got:
            raise Found(
                f"talk {number} of seed {self.seed} ({said.kind}) was answered {got[:2_000]!r}"
            )

    @asynccontextmanager
    async def good_client(self) -> AsyncIterator[GoodClient]:
        """Somebody who came before all this, and stays."""
        url = f"127.0.0.1:{self.port}"
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            httpx2.AsyncClient(base_url=f"http://{url}", headers=headers, timeout=GOOD_S) as http,
            connect(f"ws://{url}/v1/realtime", additional_headers=headers, proxy=None) as stream,
        ):
            client = GoodClient(self, http, stream)
            await client.subscribe()
            yield client


async def _read(reader: asyncio.StreamReader, patience_s: float) -> bytes:
    got = b""
    with contextlib.suppress(OSError):
        while len(got) < READ_BYTES:
            async with asyncio.timeout(patience_s):
                part = await reader.read(65_536)
            if not part:
                break
            got += part
    return got


@dataclass
class GoodClient:
    """Makes runs and sees them on a stream, over connections that are kept."""

    fuzz: Fuzz
    http: httpx2.AsyncClient
    stream: ClientConnection
    tag: str = field(default_factory=lambda: secrets.token_hex(6))

    async def subscribe(self) -> None:
        ask = {"type": "subscribeToRunsWithTag", "id": 1, "tag": self.tag}
        await self.stream.send(json.dumps(ask))
        await self._until(lambda message: message["type"] == "live")

    async def check(self) -> None:
        """A run is made, and seen by who came before and by who comes now. Raises Found."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(GOOD_S):
                body = {"taskIdentifier": "good", "tags": [self.tag], "status": "EXECUTING"}
                made = await self.http.post("/v1/runs", json=body)
                if made.status_code != 201:
                    raise Found(f"a good client was answered {made.status_code}: {made.text}")
                id = made.json()["id"]
                await self._until(lambda message: message.get("run", {}).get("id") == id)
                done = await self.http.patch(f"/v1/runs/{id}", json={"status": "COMPLETED"})
                if done.status_code != 200:
                    raise Found(f"a good client was answered {done.status_code}: {done.text}")
                async with self.fuzz.good_client():
                    pass
        except TimeoutError:
            raise Found(f"a good client waited for longer than {GOOD_S} s") from None
        self.fuzz.checks += 1
        self.fuzz.longest_check_s = max(self.fuzz.longest_check_s, time.monotonic() - began)

    async def checked_until(self, over: asyncio.Event, every_s: float = 1.0) -> None:
        """Again and again."""
        while not over.is_set():
            await self.check()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await over.wait()

    async def connections(self) -> float:
        """How many streams the server says that it holds."""
        text = (await self.http.get("/metrics")).text
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("runstream_connections{")
        )

    async def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        while True:
            text = await self.stream.recv()
            assert isinstance(text, str)
            if any(wanted(json.loads(line)) for line in text.split("\n")):
                return


async def fuzzed(fuzz: Fuzz, first: int, goes_on: Callable[[int], bool]) -> int:
    """Plays the talks beside a good client, and waits until all their connections are gone."""
    over = asyncio.Event()
    async with fuzz.good_client() as good:
        checking = asyncio.create_task(good.checked_until(over))
        playing = asyncio.create_task(fuzz.play(first, goes_on))
        try:
            await asyncio.wait({checking, playing}, return_when=asyncio.FIRST_COMPLETED)
            if checking.done():
                playing.cancel()
            over.set()
            await checking
            last = await playing
        finally:
            checking.cancel()
            playing.cancel()
            await asyncio.gather(checking, playing, return_exceptions=True)
        await good.check()
        deadline = time.monotonic() + SETTLE_S
        while (left := await good.connections()) > 1:
            if time.monotonic() > deadline:
                raise Found(f"{left:.0f} connections are left, of which one is good")
            await asyncio.sleep(0.1)
    return last


# ------------------------------------------------------------------------- a process of its own


async def main_(minutes: float, seed: int, postgres: bool) -> None:
    with contextlib.ExitStack() as stack:
        if postgres:
            from tests.servers import Postgres

            url = stack.enter_context(Postgres()).create_database()
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="runstream-fuzz-"))
            url = f"sqlite:///{folder}/runstream.db"
        server = stack.enter_context(
            Server(url, api_key=KEY, args=("--deflate", "--heartbeat-s", "2"))
        )
        begun = await asyncio.to_thread(Holdings.of, server)
        fuzz = Fuzz(server.port, seed)
        await _fill(fuzz)
        number = await _part(fuzz, server, 0, minutes * 6, WARM_TALKS)
        before = await _rested(server, begun, "before")
        for _ in range(9):
            number = await _part(fuzz, server, number, minutes * 6)
        click.echo(f"by kind: {dict(fuzz.kinds)}; by answer: {dict(fuzz.answers)}")
        after = await _rested(server, begun, "after")
        if after.memory_mb > before.memory_mb + GROWN_MB:
            raise Found(f"it grew from {before.memory_mb:.1f} MB to {after.memory_mb:.1f} MB")
        code = server.stop()
        if code != 0:
            raise Found(f"it ended with {code}")


async def _fill(fuzz: Fuzz) -> None:
    """Has the server keep as many recent changes as it ever does, in the memory that takes."""
    create = {"create": {"taskIdentifier": "good", "payload": "x" * 100}}
    async with fuzz.good_client() as good:
        for _ in range(RING_CHANGES // 500 + 1):
            made = await good.http.post("/v1/runs/bulk", json={"commands": [create] * 500})
            if made.status_code != 200:
                raise Found(f"a good client was answered {made.status_code}: {made.text}")


async def _part(fuzz: Fuzz, server: Server, number: int, seconds: float, least: int = 0) -> int:
    """Fuzzes for so long and up to so many talks, from that number on; the number after the last."""
    until = time.monotonic() + seconds
    number = await fuzzed(fuzz, number, lambda n: n < least or time.monotonic() < until)
    now = await asyncio.to_thread(Holdings.of, server)
    log = server.log(most=50_000_000)
    click.echo(
        f"{fuzz.done} talks, {fuzz.checks} checks, the longest {fuzz.longest_check_s:.2f} s; "
        f"{now}, {len(log)} bytes of log"
    )
    for sign in ("Traceback", " ERROR ", " CRITICAL "):
        if sign in log:
            at = log.index(sign)
            raise Found(f"the log says: {log[max(0, at - 500) : at + 4_000]}")
    return number


async def _rested(server: Server, begun: Holdings, when: str) -> Holdings:
    """What it holds once nobody has been there for a while. Raises Found if something is left."""
    now = await asyncio.to_thread(at_rest, server, begun, SETTLE_S)
    if left := now.beyond(begun):
        raise Found(f"something is left: {'; '.join(left)}")
    # What it keeps for those who come back to a project it keeps for a time, with nothing to
    # show for it.
    await asyncio.sleep(HubSettings().linger_s + 1)
    now = await asyncio.to_thread(at_rest, server, begun, SETTLE_S)
    click.echo(f"at rest {when} it: {now}")
    if left := now.beyond(begun):
        raise Found(f"something is left: {'; '.join(left)}")
    return now


@click.command()
@click.option("--minutes", default=10.0, help="How long.")
@click.option("--seed", default=None, type=int, help="The same talks again; by default new ones.")
@click.option("--postgres", is_flag=True, help="On PostgreSQL instead of SQLite.")
def main(minutes: float, seed: int | None, postgres: bool) -> None:
    """Fuzzes a server's port; it has to serve meanwhile and afterwards, in as much memory."""
    seed = secrets.randbelow(2**31) if seed is None else seed
    click.echo(f"seed {seed}")
    try:
        asyncio.run(main_(minutes, seed, postgres))
    except Found as found:
        raise click.ClickException(str(found)) from None


if __name__ == "__main__":
    main()
