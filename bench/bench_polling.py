"""How late each change of a job run is seen by the program that is pushed it, and by the one that
polls for it: those of examples/job_run, side by side, as the README shows them.

A worker in a process of its own executes job runs of three workflows, one after the other, and
both programs follow each. What the pushed one was not shown, or a last picture that is not the
same, ends the benchmark without a number.
"""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from bench.load import Lost
from bench.stats import Spread, table
from runstream import Run, Runstream
from tests.e2e.working import Step, WorkerProcess
from tests.processes import API_KEY, ROOT, Server
from tests.servers import Postgres, Valkey

JOB_RUNS: Final = 30
TASKS: Final = ("extract", "transform", "load")
STEP_S: Final = 0.3
INTERVAL_S: Final = 1.0
"""Ten times as often as the program asks that people have today."""

WANTED_MS: Final = 50.0


def main() -> None:
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder, Valkey() as valkey, Postgres(fsync=True) as pg:
        for name, database, redis in (
            ("SQLite", f"sqlite:///{Path(folder)}/one.db", None),
            ("PostgreSQL and Redis", pg.create_database(), valkey.url),
        ):
            with Server(database, redis) as server, WorkerProcess(server, TASKS, "w"):
                pushed, polled, made = asyncio.run(measure(server))
            rows += [
                _row(name, "pushed", made, pushed),
                _row(name, f"polled every {INTERVAL_S:g} s", made, polled),
            ]
    head = ("database", "program", "changes", "seen", "p50 ms", "p99 ms", "max ms", "≤ 50 ms, %")
    print(table(head, rows))


def _row(name: str, program: str, made: int, late_ms: list[float]) -> tuple[object, ...]:
    spread = Spread.of(late_ms)
    in_time = 100 * sum(ms <= WANTED_MS for ms in late_ms) / made
    return name, program, made, len(late_ms), spread.p50, spread.p99, spread.max, in_time


async def measure(server: Server) -> tuple[list[float], list[float], int]:
    """How late each change was seen that was, by either; and how many were made."""
    pushing, polling = program("pushed"), program("polling")
    vars(polling)["INTERVAL_S"] = INTERVAL_S
    pushed_ms: list[float] = []
    polled_ms: list[float] = []
    made = 0
    async with Runstream(server.url, api_key=API_KEY) as client:
        step = Step(seconds=STEP_S)
        workflows = [await client.workflows.create(task, task, payload=step) for task in TASKS]
        job = await client.jobs.create("nightly", [workflow.id for workflow in workflows])
        for _ in range(JOB_RUNS):
            job_run = await client.job_runs.create(job.id)
            drawn = Drawn(pushed_ms)
            asked = Asked(polled_ms)
            await asyncio.gather(
                pushing.follow(server.url, API_KEY, job_run.id, drawn.draw),
                asyncio.to_thread(polling.follow, server.url, API_KEY, job_run.id, asked.draw),
            )
            ended = await client.job_runs.get(job_run.id)
            last = {
                run.id: run.version
                for run in (ended.run, *ended.workflow_runs)
                if isinstance(run, Run)
            }
            drawn.check(last)
            if asked.versions != last:
                raise Lost(f"{job_run.id}: {asked.versions} was polled, and it is {last}")
            made += drawn.changes
    return pushed_ms, polled_ms, made


class Drawn:
    """What the pushed program has drawn of one job run."""

    def __init__(self, late_ms: list[float]) -> None:
        self._late_ms = late_ms
        self._versions: dict[str, list[int]] = {}
        self._before: dict[str, Run[Any, Any]] = {}
        self.changes = 0

    def draw(self, picture: Mapping[str, Run[Any, Any]]) -> None:
        now = datetime.now(UTC)
        new = [run for id, run in picture.items() if self._before.get(id) is not run]
        for run in new:
            self._versions.setdefault(run.id, []).append(run.version)
            # The first two were there before it was: they are no changes that it was told of.
            if run.version > 1 or len(self._before) > 1:
                self.changes += 1
                self._late_ms.append((now - run.updated_at).total_seconds() * 1_000)
        self._before = dict(picture)

    def check(self, last: Mapping[str, int]) -> None:
        """Raises Lost unless each version was drawn, from the first picture on."""
        for run_id, version in last.items():
            seen = self._versions.get(run_id, [])
            if not seen or seen != [*range(seen[0], version + 1)]:
                raise Lost(f"{run_id} was drawn at {seen}, and it is at {version}")


class Asked:
    """What the polling program has drawn of one job run."""

    def __init__(self, late_ms: list[float]) -> None:
        self._late_ms = late_ms
        self.versions: dict[str, int] = {}

    def draw(self, picture: Mapping[str, Mapping[str, Any]]) -> None:
        now = datetime.now(UTC)
        for run_id, run in picture.items():
            before = self.versions.get(run_id, 1)
            if run["version"] > before:
                # Only the last of those that have happened since the look before.
                at = datetime.fromisoformat(run["updatedAt"])
                self._late_ms.append((now - at).total_seconds() * 1_000)
            self.versions[run_id] = run["version"]


def program(name: str) -> ModuleType:
    """A program of examples/job_run, as it is."""
    path = ROOT / "examples" / "job_run" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
