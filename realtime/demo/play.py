"""The demo: starts the server, has the work done, watches, and counts."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from realtime.demo import DemoFailed, child
from realtime.demo.watch import Watch
from runstream import Runstream, RunstreamError

USUAL_PORT: Final = 8080
"""The one that the pages of the documentation ask."""
START_S: Final = 30.0
ARRIVE_S: Final = 10.0
"""How long a change that was committed may take to arrive before it counts as lost."""


async def play(*, stay: bool) -> None:
    """Shows the demo on stdout, and with `stay` has more done until cancelled. Raises DemoFailed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="runstream-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with _server(folder) as url:
            print(f"A server on SQLite, {url} (a page, too: open it in a browser).")
            print("Here are its runs, each change as it is pushed:\n", flush=True)
            try:
                async with Runstream(url) as client:
                    watch = await _watched(client, url, folder)
            except RunstreamError as error:
                raise DemoFailed(f"the server could not be used: {error}") from error
            print(watch.summary(time.monotonic() - began))
            if watch.missing:
                raise DemoFailed(f"{watch.missing} changes were committed and did not arrive")
            if stay:
                print(f"\n{url} stays, with a few runs at a time, until Ctrl-C.", flush=True)
                await _work(url, folder, "--again")
            else:
                print(
                    "\nTo look at its page, let it stay: make demo STAY=1, or realtime demo --stay"
                )


async def _watched(client: Runstream, url: str, folder: Path) -> Watch:
    watch = Watch()
    # The stream is live before there is any run, so that nothing of it is history.
    async with client.subscribe_to_runs(snapshot=False) as runs:
        watching = asyncio.create_task(watch.follow(runs.changes()), name="watch")
        try:
            await _work(url, folder)
            await watch.count_committed(client)
            with suppress(TimeoutError):
                async with asyncio.timeout(ARRIVE_S):
                    await watch.all_arrived()
        finally:
            watching.cancel()
            await asyncio.wait({watching})
    if not watching.cancelled() and (error := watching.exception()) is not None:
        raise error
    return watch


async def _work(url: str, folder: Path, *more: str) -> None:
    """Has the work done, in a process of its own: what is measured here is the way of a change."""
    log = folder / "work.log"
    async with _child(log, "work", url, str(folder), *more) as process:
        code = await process.wait()
    if code:
        raise DemoFailed(f"the work could not be done:\n{await _said(log)}")


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[str]:
    """A server process on a new SQLite file: its address, the usual one unless that is taken."""
    log = folder / "server.log"
    for port in (USUAL_PORT, 0):
        async with _child(
            log, "serve", "--host", "127.0.0.1", "--port", str(port),
            "--database", f"sqlite:///{folder / 'demo.db'}", "--drain-s", "2",
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                async with asyncio.timeout(START_S):
                    line = (await process.stdout.readline()).decode()
            except TimeoutError:
                raise DemoFailed(f"the server was not ready within {START_S:.0f} s") from None
            found = re.search(r"listening on (http://\S+)", line)
            if found is not None:
                yield found.group(1)
                return
            said = await _said(log)
            if port == 0 or "in use" not in said:
                raise DemoFailed(f"the server did not start:\n{said}")


@asynccontextmanager
async def _child(log: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child process, ended when the block is left."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *child.command(*arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=child.environment(),
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()


async def _said(log: Path) -> str:
    return (await asyncio.to_thread(log.read_text, errors="replace")).strip()
