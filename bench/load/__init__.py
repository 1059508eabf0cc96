"""The load: readers and callers in C, compiled when they are first used, on a core of their own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.processes import API_KEY, ProcessFailed, make_folder

SOURCES: Final = Path(__file__).parent
WITHIN_S: Final = 60.0


class Lost(Exception):
    """Something was missing, repeated, out of order or closed: there is no number."""


@functools.cache
def built(name: str) -> Path:
    """The program of that name, compiled with the system's own compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ProcessFailed("the load generator is compiled as it is needed: a C compiler is")
    program = make_folder("load") / name
    command = [compiler, "-O2", "-Wall", "-o", str(program), str(SOURCES / f"{name}.c")]
    subprocess.run(command, check=True)
    return program


def cores() -> tuple[set[int], set[int]]:
    """Those for the server and those for the load; the same where there is only one."""
    usable = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
    return {usable[0]}, set(usable[1:2] or usable)


def pin(pid: int, where: set[int]) -> None:
    """Keeps a process with all its threads and children on these cores."""
    if sys.platform != "linux":
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(task.name), where)
            for child in (task / "children").read_text().split():
                pin(int(child), where)


def raise_limit(files: int) -> int:
    """Lets this process and those it starts open so many files; says how many they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def cpu_s(*pids: int) -> float:
    """Seconds of CPU that these processes have used, all threads, to the nanosecond if it can be
    had: as the scheduler accounts for it."""
    total = 0.0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


class Watchers:
    """Many readers in one process: `load/watch.c`."""

    def __init__(self, process: Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self.ready: dict[str, Any] = {}
        """What it said once all were ready."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def expect(self, first: int, last: int) -> None:
        """Have it say so once each has been sent these versions; `done` waits for it."""
        self.say(f"expect {first} {last}")

    async def done(self, within_s: float = WITHIN_S) -> dict[str, Any]:
        """What it says. Raises Lost unless each has got all, once and in order."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise Lost("not all was received in time") from None
        said: dict[str, Any] = json.loads(line or b'{"error": "the load generator ended"}')
        if "error" in said or said["missing"] or said["repeated"] or said["closed"]:
            raise Lost(str(said))
        return said


@asynccontextmanager
async def watchers(
    port: int,
    count: int,
    sends: Sequence[str],
    *,
    ready: str,
    path: str = "/",
    headers: Sequence[str] = (),
    within_s: float = WITHIN_S,
) -> AsyncIterator[Watchers]:
    """So many readers, each of which has sent its line and was answered with `ready`."""
    folder = make_folder("watch")
    (folder / "sends").write_text("\n".join(sends) + "\n")
    process = await asyncio.create_subprocess_exec(
        str(built("watch")),
        str(port),
        path,
        str(count),
        ready,
        str(folder / "sends"),
        *headers,
        stdin=PIPE,
        stdout=PIPE,
    )
    pin(process.pid, cores()[1])
    readers = Watchers(process, folder)
    try:
        readers.ready = await readers.done(within_s)
        yield readers
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(folder)


def subscribers(
    port: int, count: int, asks: Sequence[Mapping[str, Any]], *, within_s: float = WITHIN_S
) -> AbstractAsyncContextManager[Watchers]:
    """So many readers of a server of ours, each live with its subscription: those given, in turn."""
    return watchers(
        port,
        count,
        [json.dumps(ask) for ask in asks],
        ready='"type":"live"',
        path="/v1/realtime",
        headers=[f"Authorization: Bearer {API_KEY}"],
        within_s=within_s,
    )
