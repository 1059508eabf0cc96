"""`runstream watch` in a terminal, against a real server that is killed and comes back."""

from __future__ import annotations

from collections.abc import Callable

from clients.python.tests.terminal import terminal
from runstream import Operation, RunStatus, Runstream
from tests.processes import API_KEY, Server


async def test_a_job_run_is_followed_to_its_failure_through_a_killed_server(
    sqlite_url: str, start_server: Callable[..., Server]
) -> None:
    """What a person looks at says that it is old, and is right again by itself."""
    server = start_server(sqlite_url)
    async with Runstream(server.url, api_key=API_KEY) as client:
        workflows = [
            await client.workflows.create(name, name) for name in ("extract", "render", "publish")
        ]
        job = await client.jobs.create("nightly report", [one.id for one in workflows])
        job_run = await client.job_runs.create(job.id)
        args = ("watch", "--job-run", job_run.id, "--timeline", "--api-key", API_KEY)
        async with terminal(*args, url=server.url, columns=110, rows=30) as seen:
            await seen.shows("● live", "nightly report", "○ 1 extract", "○ 3 publish", "planned")
            step = await client.runs.claim("extract", worker="w", lease_s=60)
            assert step is not None
            await client.runs.metadata(step.id, [Operation("set", "progress", 0.5)])
            await seen.shows("● 1 extract", "50 %", "1 extract  EXECUTING")
            seen.resize(60, 16)
            await client.runs.update(step.id, status=RunStatus.COMPLETED)
            await seen.shows("✓ 1 extract", "100 %")
            assert max(map(len, seen.lines)) <= 60

            server.kill()
            await seen.shows("! stale", "✓ 1 extract")
            seen.resize(110, 30)
            server.start()
            await seen.shows("● live")

            step = await client.runs.claim("render", worker="w", lease_s=60)
            assert step is not None
            error = {"name": "RenderError", "message": "no such font"}
            await client.runs.update(step.id, status=RunStatus.FAILED, error=error)
            assert await seen.end() == 1
        for part in ("✗ 2 render", "RenderError: no such font", "○ 3 publish", "2 render   FAILED"):
            assert part in seen.text
        seen.assert_nothing_acted()
