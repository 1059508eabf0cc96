"""`runstream watch` in a terminal, against a real server that is killed and comes back."""

from __future__ import annotations

from collections.abc import Callable

from clients.python.tests.terminal import terminal
from runstream import NewRun, Operation, RunStatus, Runstream
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
        args: tuple[str, ...] = (
            "watch",
            "--job-run",
            job_run.id,
            "--timeline",
            "--api-key",
            API_KEY,
        )
        async with terminal(*args, url=server.url, columns=110, rows=30) as seen:
            await seen.shows("● live", "nightly report", "○ 1 extract", "○ 3 publish", "planned")
            step = await client.runs.claim("extract", worker="w", lease_s=60)
            assert step is not None
            await client.runs.metadata(step.id, [Operation("set", "progress", 0.5)])
            await seen.shows("● 1 extract", "50 %", "1 extract  EXECUTING")
            seen.keep_picture("terminal-job-run")
            seen.resize(60, 16)
            await client.runs.update(step.id, status=RunStatus.COMPLETED)
            await seen.shows("✓ 1 extract", "100 %")
            assert max(map(len, seen.lines)) <= 60

            server.kill()
            await seen.shows("! stale", "✓ 1 extract")
            seen.keep_picture("terminal-stale")
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
        args = ("timeline", job_run.id, "--api-key", API_KEY)
        async with terminal(*args, url=server.url, columns=110, rows=24) as seen:
            assert await seen.end() == 0
        assert "FAILED in step 2 of 3, render: RenderError: no such font" in seen.text
        assert "2 changes: progress 50%" not in seen.text
        seen.keep_picture("terminal-timeline")
        await _a_batch_and_a_tag(client, server)


async def _a_batch_and_a_tag(client: Runstream, server: Server) -> None:
    made = await client.batches.create(
        NewRun("resize-image", n, tags=["user:7"]) for n in range(40)
    )
    for n, run in enumerate(made.runs[:30]):
        progress = (n % 5 + 1) / 6
        metadata = {"progress": progress, "message": f"tile {n * 7 % 12} of 12"}
        await client.runs.update(run.id, status=RunStatus.EXECUTING, metadata=metadata)
        if n < 24:
            failed = n % 8 == 7
            await client.runs.update(
                run.id,
                status=RunStatus.FAILED if failed else RunStatus.COMPLETED,
                error={"name": "BadImage", "message": "no JPEG"} if failed else None,
            )
    key = ("--api-key", API_KEY)
    args = ("watch", "--batch", made.batch.id, *key)
    async with terminal(*args, url=server.url, columns=110, rows=18) as seen:
        await seen.shows("● live", "60 %  24 of 40 final", "3 FAILED", "… and ")
        seen.keep_picture("terminal-batch")
    args = ("watch", "--tag", "user:7", *key)
    async with terminal(*args, url=server.url, columns=80, rows=16) as seen:
        await seen.shows("● live", "40 runs:", "EXECUTING", "… and ")
        seen.keep_picture("terminal-tag")
