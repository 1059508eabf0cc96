"""The program that polls a job run and the one that is pushed it, side by side."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import statistics
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from runstream import Run, Runstream, Worker, current_run, executes
from tests.processes import API_KEY, ROOT, Server

LONG_S = 60.0


def program(name: str) -> ModuleType:
    """A program of examples/job_run, as it is."""
    path = ROOT / "examples" / "job_run" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"examples_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recorder:
    """Passes a program's traffic on to the server, and keeps the heads of its requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.port = 0
        self.requests: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._pass(reader, back, True), self._pass(there, writer, False))
        finally:
            back.close()
            writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_ours: bool
    ) -> None:
        try:
            while chunk := await reader.read(65536):
                # What goes over a WebSocket is masked, and cannot look like this.
                if is_ours and b" HTTP/1.1\r\n" in chunk:
                    self.requests.append(chunk.split(b" HTTP/1.1")[0].decode())
                writer.write(chunk)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            pass


async def step(payload: Any) -> dict[str, Any]:
    """A workflow that takes a moment, and says how far it is."""
    for done in range(1, 4):
        await asyncio.sleep(0.03)
        current_run().metadata.set("progress", round(done / 3, 2))
    return {"of": current_run().id}


async def test_what_is_pushed_is_what_is_polled_without_asking_again(
    sqlite_url: str, start_server: Callable[..., Server], record_property: Callable[..., None]
) -> None:
    """Of three workflows that a worker executes both draw the same picture in the end.

    How late the pushed one sees a change is measured by `make bench ARGS=polling`.
    """
    server = start_server(sqlite_url)
    polling, pushed = program("polling"), program("pushed")
    vars(polling)["INTERVAL_S"] = 0.2
    tasks = ["extract", "transform", "load"]
    polls, pushes = Recorder(server.port), Recorder(server.port)
    polled: dict[str, Any] = {}
    drawn: list[dict[str, Run[Any, Any]]] = []
    late_ms: list[float] = []

    def draw(picture: dict[str, Run[Any, Any]]) -> None:
        before = drawn[-1] if drawn else {}
        new = [run for id, run in picture.items() if before.get(id) is not run]
        if before:
            at = datetime.now(UTC)
            late_ms.extend((at - run.updated_at).total_seconds() * 1000 for run in new)
        drawn.append(dict(picture))

    async with Runstream(server.url, api_key=API_KEY) as client:
        workflows = [await client.workflows.create(task, task) for task in tasks]
        job = await client.jobs.create("nightly", [workflow.id for workflow in workflows])
        job_run = await client.job_runs.create(job.id)
        async with polls.listening() as poll_url, pushes.listening() as push_url:
            following = asyncio.create_task(pushed.follow(push_url, API_KEY, job_run.id, draw))
            async with asyncio.timeout(LONG_S):
                while not drawn:
                    await asyncio.sleep(0.005)
                asking = asyncio.create_task(
                    asyncio.to_thread(polling.follow, poll_url, API_KEY, job_run.id, polled.update)
                )
                async with Worker(client, [executes(task)(step) for task in tasks]):
                    await asyncio.gather(following, asking)
        final = {
            id: (run.task_identifier, run.status, run.output, run.metadata, run.version)
            for id, run in drawn[-1].items()
        }
        assert final == {
            id: (
                run["taskIdentifier"],
                run["status"],
                run["output"],
                run["metadata"],
                run["version"],
            )
            for id, run in polled.items()
        }
        assert sorted(status for _, status, *_ in final.values()) == ["COMPLETED"] * 4
        # Each change was seen, from the first picture on; the poller has seen a few at best.
        for id, (*_, last) in final.items():
            seen = [picture[id].version for picture in drawn if id in picture]
            assert sorted(set(seen)) == [*range(seen[0], last + 1)]
            assert seen[0] == 1
    assert pushes.requests == ["GET /v1/realtime"]
    assert len(polls.requests) >= 2 * 2
    median_ms = statistics.median(late_ms)
    record_property("median_ms", median_ms)
    sys.stdout.write(f"{len(late_ms)} changes, each seen {median_ms:.1f} ms after it was made\n")


@pytest.mark.parametrize("name", ["polling", "pushed"])
def test_the_readme_shows_these_programs(name: str) -> None:
    """What is compared here is what is said there."""
    function = inspect.getsource(program(name).follow)
    body = function.split('"""')[2].strip("\n")
    readme = (ROOT / "README.md").read_text()
    guide = (ROOT / "docs" / "guides" / "from-polling-to-push.md").read_text()
    assert body in readme
    assert body in guide
