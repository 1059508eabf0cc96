"""A job run of three steps, with its server or its worker killed at one place of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
import pytest

from runstream import (
    Changed,
    ConnectionLost,
    Entered,
    Left,
    OutcomeUnknown,
    Reset,
    Run,
    Runstream,
    Subscription,
    Unavailable,
)
from tests.e2e.points import POINTS, STEPS, Environment, Points, serve, work
from tests.e2e.working import Step, WorkerProcess
from tests.processes import API_KEY, Server, Spawned, make_folder
from tests.receiving import Receiver, receiving
from tests.servers import Postgres, Valkey

LONG_S: Final = 100.0
LEASE_S: Final = 1
BEATING_S: Final = 0.6
"""A step takes so long where its heartbeats are waited for: they come three times in a lease."""

RETRIED: Final = (ConnectionLost, OutcomeUnknown, Unavailable)


class Kill(NamedTuple):
    """Who is killed, and where they all are at that moment."""

    point: str
    victim: str

    def __str__(self) -> str:
        return f"{self.victim} at {self.point}"


EVERY: Final = tuple(Kill(point, victim) for point in POINTS for victim in ("server", "worker"))


# ------------------------------------------------------------------------------------- processes

# Forked from one that has imported everything: a case starts two or three of them, and a server
# that is forked costs half a second of a processor instead of more than one.
_forks = get_context("forkserver")
_forks.set_forkserver_preload(["tests.e2e.points"])


class _Fork:
    """A forked process, as `subprocess.Popen` would be."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, sig: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, sig)


def _fork(
    target: Callable[..., None], points: Path, log: Path, options: list[str], env: Environment
) -> Spawned:
    process = _forks.Process(target=target, args=(points, log, options, dict(env)), daemon=True)
    process.start()
    return _Fork(process)


class StoppingServer(Server):
    """`realtime serve` that stops at the place which is armed."""

    def __init__(self, database: str, redis: str | None) -> None:
        super().__init__(database, redis)
        self.points = make_folder("points")

    def spawn(self) -> Spawned:
        options = list(self.command())[4:]
        return _fork(serve, self.points, self.log_file, options, self.environment())


class StoppingWorker(WorkerProcess):
    """A worker that stops at the place which is armed."""

    def __init__(self, server: StoppingServer, name: str) -> None:
        super().__init__(server, STEPS, name, "--lease-s", str(LEASE_S))
        self._points = server.points

    def spawn(self) -> Spawned:
        options = list(self.command())[3:]
        return _fork(work, self._points, self.log_file, options, self.environment())


@contextmanager
def serving(
    kind: str, request: pytest.FixtureRequest, folders: pytest.TempPathFactory
) -> Iterator[StoppingServer]:
    """A server on SQLite alone, or on PostgreSQL with Redis."""
    if kind == "sqlite":
        url = f"sqlite:///{folders.mktemp('kills') / 'runstream.db'}"
        with StoppingServer(url, None) as server:
            yield server
        return
    postgres: Postgres = request.getfixturevalue("postgres_server")
    valkey: Valkey = request.getfixturevalue("valkey_server")
    url = postgres.ensure().create_database()
    with StoppingServer(url, valkey.ensure().url) as server:
        yield server
    postgres.ensure().drop_database(url)


# -------------------------------------------------------------------------------------- watching

AnyRun = Run[Any, Any]


class Told:
    """What one stream has told of each run: each version once and in order, and none is left out.

    But for a run that was made after the client's last cursor: when the client comes back, that
    enters anew, with its state by then.
    """

    def __init__(
        self, name: str, stream: Subscription[Any], may_enter_anew: Callable[[], int]
    ) -> None:
        self.name = name
        self.runs: dict[str, AnyRun] = {}
        self.wrong: list[str] = []
        self._stream = stream
        self._may_enter_anew = may_enter_anew
        self._anew: Counter[str] = Counter()

    @property
    def versions(self) -> dict[str, int]:
        """The last that was told of each run."""
        return {run.id: run.version for run in self.runs.values()}

    async def follow(self, entered: Callable[[AnyRun], None] = lambda run: None) -> None:
        """Takes what comes until the stream ends."""
        async for change in self._stream.changes():
            match change:
                case Entered(run) if run.id not in self.runs:
                    self.runs[run.id] = run
                    entered(run)
                case Entered(run) | Changed(run):
                    self._take(run)
                case Left(run):
                    self.wrong.append(f"{run.id} left with {run.version}")
                case Reset(reason):
                    self.wrong.append(f"it was reset: {reason}")

    def _take(self, run: AnyRun) -> None:
        before = self.runs[run.id].version
        if run.version != before + 1:
            self._anew[run.id] += 1
            if run.version <= before or self._anew[run.id] > self._may_enter_anew():
                self.wrong.append(f"{run.id} came from {before} to {run.version}")
        self.runs[run.id] = run


class Case:
    """One job run, from its creation to its end, with one kill."""

    def __init__(self, server: StoppingServer, kill: Kill) -> None:
        self._server = server
        self._watching: asyncio.Task[None] | None = None
        self._kill = kill
        self._points = Points(server.points)
        self._workers: list[StoppingWorker] = []
        self._told: list[Told] = []
        self._following: list[asyncio.Task[None]] = []
        self._client = Runstream(server.url, api_key=API_KEY)
        self._job_run = ""

    async def play(self) -> None:
        """Plays it; every claim is asserted."""
        try:
            async with self._client, receiving() as receiver, asyncio.timeout(LONG_S):
                await self._play(receiver)
        except BaseException:
            self._server.kill()  # It may stand still somewhere.
            raise
        finally:
            left = [*self._following, *filter(None, [self._watching])]
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for worker in self._workers:
                worker.kill()
                worker.close()

    async def _play(self, receiver: Receiver) -> None:
        client = self._client
        job = await client.jobs.create("job", [await self._workflow(i) for i in range(3)])
        tasks = [job.id, *STEPS]
        hook = await client.webhooks.create(
            receiver.url(), ["job_run.*", "run.completed"], tasks=tasks
        )
        await self._start_worker()
        self._points.arm(self._kill.point)
        killing = asyncio.create_task(self._strike())
        async with client.subscribe_to_runs(tasks=tasks, created_after=hook.created_at) as every:
            self._follow("all runs", every)
            self._job_run = await self._created(job.id)
            steps = client.subscribe_to_job_run(self._job_run)
            await self._follow("the job run", steps, self._follow_run)
            assert steps.end_reason == "completed"
            await killing
            ended = await self._ended(job.id)
            while self._told[0].versions != ended:
                await asyncio.sleep(0.005)
        await asyncio.gather(*self._following)
        for told in self._told:
            assert not told.wrong, (told.name, told.wrong)
            assert told.versions.items() <= ended.items(), (told.name, told.versions, ended)
        assert self._told[1].versions == ended, (self._told[1].versions, ended)
        if self._kill.victim == "worker":
            assert client.stats.reconnects == 0
        await self._hear(receiver, ended)
        await client.webhooks.delete(hook.id)

    async def _workflow(self, position: int) -> str:
        beats = self._kill.point.startswith(f"a heartbeat of step {position}")
        seconds = BEATING_S if beats else 0.01
        made = await self._client.workflows.create(
            "step", STEPS[position], payload=Step(seconds=seconds), max_attempts=20
        )
        return made.id

    async def _start_worker(self) -> None:
        worker = StoppingWorker(self._server, f"w{len(self._workers)}")
        self._workers.append(worker)
        await asyncio.to_thread(worker.start)

    async def _created(self, job_id: str) -> str:
        """The job run, made once, however often that is asked for."""
        while True:
            with suppress(*RETRIED):
                return (await self._client.job_runs.create(job_id, command_key=job_id)).id
            await asyncio.sleep(0.02)

    async def _strike(self) -> None:
        """Kills the victim as soon as a process has stopped at the place; all others go on."""
        while (stopped := self._points.stopped) is None:
            await asyncio.sleep(0.005)
        while psutil.Process(stopped).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.001)
        victim = self._server if self._kill.victim == "server" else self._workers[-1]
        lives = stopped != victim.pid
        await asyncio.to_thread(victim.kill)
        if victim is self._server:
            await asyncio.to_thread(self._server.start)
        else:
            await self._start_worker()
        if lives:
            os.kill(stopped, signal.SIGCONT)

    def _follow(
        self,
        name: str,
        stream: Subscription[Any],
        entered: Callable[[AnyRun], None] = lambda run: None,
    ) -> asyncio.Task[None]:
        told = Told(name, stream, lambda: self._client.stats.reconnects)
        self._told.append(told)
        following = asyncio.create_task(told.follow(entered))
        if len(self._told) > 1:
            self._following.append(following)
        else:
            self._watching = following
        return following

    def _follow_run(self, run: AnyRun) -> None:
        # It was made before this stream began: not even a reconnect is a reason for a gap.
        told = Told(run.id, self._client.subscribe_to_run(run.id), lambda: 0)
        self._told.append(told)
        self._following.append(asyncio.create_task(told.follow()))

    async def _ended(self, job_id: str) -> dict[str, int]:
        """Looks whether all is as it should be, and gives the last version of each run."""
        client = self._client
        made = [one.run.id async for one in client.job_runs.list(job_id=job_id)]
        assert made == [self._job_run], made
        ended = await client.job_runs.get(self._job_run)
        assert ended.status == "COMPLETED", ended
        steps = [step for step in ended.workflow_runs if isinstance(step, Run)]
        assert [(step.position, step.task_identifier) for step in steps] == [*enumerate(STEPS)], (
            steps
        )
        statuses = await self._statuses(ended.run)
        assert statuses == ["QUEUED", "EXECUTING", "COMPLETED"], statuses
        again = ["EXECUTING", "REATTEMPTING", "QUEUED"]
        for step in steps:
            assert (step.output or {}).get("task") == step.task_identifier, step
            assert step.metadata["progress"] == 1.0, step
            lost = again * (step.attempt - 1)
            statuses = await self._statuses(step)
            assert statuses == ["QUEUED", *lost, "EXECUTING", "COMPLETED"], (step, statuses)
        for before, after in pairwise(steps):
            assert before.finished_at == after.created_at, (before, after)
        return {run.id: run.version for run in (ended.run, *steps)}

    async def _statuses(self, run: AnyRun) -> list[str]:
        entries = [entry async for entry in self._client.runs.history(run.id)]
        versions = [entry.version for entry in entries]
        assert versions == [*range(1, run.version + 1)], (run.id, versions)
        return [entry.changed["status"] for entry in entries if "status" in entry.changed]

    async def _hear(self, receiver: Receiver, ended: Mapping[str, int]) -> None:
        """Each message came: the same one again only under the same id."""
        expected = {("job_run.started", self._job_run), ("job_run.completed", self._job_run)}
        expected |= {("run.completed", run_id) for run_id in ended}
        while expected != {(one.type, one.said["data"]["id"]) for one in receiver.messages}:
            await asyncio.sleep(0.005)
        sent = {(one.id, one.type, one.said["data"]["id"]) for one in receiver.messages}
        assert len(sent) == len(expected), sent
