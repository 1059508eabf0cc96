"""Many callers over HTTP in one process that costs little: `load/call.c`."""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from bench.load import Lost, built, cores, pin
from tests.processes import make_folder

NUMBER: Final = "@@@@@@@"
"""Stands in a request for its number, in seven digits."""
CONNECTED_S: Final = 30.0


@dataclass(frozen=True)
class Called:
    """What the callers saw, once all was answered with success."""

    count: int
    wall_s: float
    cpu_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @property
    def rate(self) -> float:
        """How many were answered a second."""
        return self.count / self.wall_s


class Callers:
    """Connected, and waiting to begin."""

    def __init__(self, process: Process, count: int) -> None:
        self._process = process
        self._count = count

    @property
    def pid(self) -> int:
        return self._process.pid

    async def call(self, within_s: float) -> Called:
        """All of it, from beginning to end. Raises Lost if anything was answered with something
        else than success, or in time not at all."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        said = await self.said(within_s)
        if said["answered"] != self._count:
            raise Lost(f"{said['answered']} of {self._count} were answered")
        times = [said[f"{name}_us"] / 1_000 for name in ("p50", "p90", "p99", "max")]
        return Called(self._count, said["wall_s"], said["cpu_s"], *times)

    async def said(self, within_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise Lost("not all was answered in time") from None
        said: dict[str, Any] = json.loads(line or b'{"error": "the callers ended"}')
        if "error" in said:
            raise Lost(said["error"])
        return said


@asynccontextmanager
async def callers(
    port: int, connections: int, requests: Sequence[bytes], count: int, rate: float = 0.0
) -> AsyncIterator[Callers]:
    """So many connections on the load's core, which will make `count` requests: those given, in
    turn, and again from the first.

    With a rate each is due at its time, and what it takes counts from then; else each goes out
    when its connection has the last answer.
    """
    assert count % connections == 0
    folder = make_folder("call")
    with (folder / "requests").open("wb") as file:
        for each in requests:
            file.write(b"%d\n%b" % (len(each), each))
    process = await asyncio.create_subprocess_exec(
        str(built("call")),
        str(port),
        str(connections),
        str(rate),
        str(count),
        str(folder / "requests"),
        stdin=PIPE,
        stdout=PIPE,
    )
    pin(process.pid, cores()[1])
    made = Callers(process, count)
    try:
        await made.said(CONNECTED_S)
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(folder)
