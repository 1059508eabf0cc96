"""The adapter for Celery, with a real worker, a real broker and a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from celery import Celery

from runstream import Run, RunStatus, Runstream
from runstream.celery import Dispatcher
from tests.processes import API_KEY, ROOT, Process, Server
from tests.servers import Valkey

LONG_S = 60.0


class CeleryWorker(Process):
    """`celery worker` in processes of its own, as a user starts it."""

    name = "celery worker"
    graceful = signal.SIGQUIT  # SIGTERM would wait for what executes.

    def __init__(self, environment: Mapping[str, str], broker: str) -> None:
        super().__init__()
        self._environment = environment
        self._app = Celery("asking", broker=broker)

    def command(self) -> Sequence[str]:
        options = ["--concurrency", "2", "--loglevel", "WARNING", "--prefetch-multiplier", "1"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return [sys.executable, "-m", "celery", "-A", "tests.e2e.shop", "worker", *options, *quiet]

    def environment(self) -> Mapping[str, str]:
        return self._environment

    def answers(self) -> bool:
        return bool(self._app.control.ping(timeout=0.5))


class Shop:
    """A server, a broker, and the application's worker."""

    def __init__(self, server: Server, environment: Mapping[str, str], broker: str) -> None:
        self.server = server
        self.environment = environment
        self.app = Celery("sender", broker=broker)
        self.app.conf.task_ignore_result = True

    def client(self) -> Runstream:
        return Runstream(self.server.url, api_key=API_KEY)

    def publish(self, code: str) -> str:
        """What a program prints that imports the application and publishes its tasks."""
        return printed_by(code, self.environment)


def printed_by(code: str, environment: Mapping[str, str]) -> str:
    program = "from tests.e2e.shop import *\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def environment_of(server_url: str, broker_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "SHOP_BROKER": broker_url,
        "SHOP_SERVER": server_url,
        "SHOP_KEY": API_KEY,
    }


@pytest.fixture
def shop(
    sqlite_url: str, valkey: Valkey, start_server: Callable[..., Server]
) -> Iterator[Shop]:  # fmt: skip
    server = start_server(sqlite_url)
    environment = environment_of(server.url, valkey.url)
    worker = CeleryWorker(environment, valkey.url)
    try:
        worker.start()
        yield Shop(server, environment, valkey.url)
    finally:
        worker.kill()
        worker.close()


async def history(client: Runstream, run_id: str) -> list[str]:
    """The statuses that the run has been in, in order."""
    entries = [entry async for entry in client.runs.history(run_id)]
    return [entry.changed["status"] for entry in entries if "status" in entry.changed]


async def ended(client: Runstream, task: str, count: int = 1) -> list[Run[Any, Any]]:
    """The runs of a task, once so many are final."""
    done: dict[str, Run[Any, Any]] = {}
    async with asyncio.timeout(LONG_S):
        async for run in client.subscribe_to_runs(tasks=[task]):
            if run.is_final:
                done[run.id] = run
            if len(done) == count:
                break
    return list(done.values())


async def test_celerys_own_signals_move_the_runs(shop: Shop) -> None:
    """A program publishes, a worker executes, and each of its processes tells its part.

    All in one test, since a worker of Celery's takes seconds to start.
    """
    endless = shop.publish(
        """
        add.delay(40, b=2)
        fail.apply_async(args=["x"], headers={"runstream_tags": ["user:7"]})
        ignored.delay()
        flaky.delay(3)
        replaced.delay()
        print(endless.delay().id)
        """
    )
    async with shop.client() as client:
        await has_payload_output_and_progress(client)
        await has_failed_with_its_error(client)
        await is_one_run_with_its_attempts(client)
        await goes_on_as_the_same_run(client)
        (quiet,) = await ended(client, "shop.ignored")
        assert quiet.status is RunStatus.CANCELED
        await is_failed_though_its_process_said_nothing(shop, client)
        await is_canceled_and_never_completed(shop, client, endless)
        await is_sent_to_celery_step_by_step(shop, client)
        await is_terminated_when_it_is_canceled(shop, client)


async def has_payload_output_and_progress(client: Runstream) -> None:
    (run,) = await ended(client, "shop.add")
    assert (run.status, run.output) == (RunStatus.COMPLETED, 42)
    assert run.payload == {"args": [40], "kwargs": {"b": 2}}
    assert run.metadata["progress"] == 0.5
    assert run.metadata["celery"]["id"] == run.metadata["celery"]["rootId"]
    assert await history(client, run.id) == ["QUEUED", "EXECUTING", "COMPLETED"]


async def has_failed_with_its_error(client: Runstream) -> None:
    (failed,) = await ended(client, "shop.fail")
    assert (failed.status, failed.tags) == (RunStatus.FAILED, ["user:7"])
    assert failed.error is not None
    assert (failed.error.name, failed.error.message) == ("ValueError", "no such order: x")
    assert "shop.py" in (failed.error.stack or "")


async def is_one_run_with_its_attempts(client: Runstream) -> None:
    """The publish signal fires with each retry: it is no second run, and not QUEUED again."""
    (run,) = await ended(client, "shop.flaky")
    assert (run.status, run.output, run.attempt) == (RunStatus.COMPLETED, 3, 3)
    assert run.error is None
    assert await history(client, run.id) == [
        "QUEUED", "EXECUTING", "REATTEMPTING", "EXECUTING", "REATTEMPTING", "EXECUTING",
        "COMPLETED",
    ]  # fmt: skip
    assert len([run async for run in client.runs.list(tasks="shop.flaky")]) == 1


async def goes_on_as_the_same_run(client: Runstream) -> None:
    """Celery says of a replaced task that it was ignored; but it was published again."""
    (run,) = await ended(client, "shop.replaced")
    assert (run.status, run.output) == (RunStatus.COMPLETED, 42)


async def is_failed_though_its_process_said_nothing(shop: Shop, client: Runstream) -> None:
    """The worker's main process tells of the one that it has lost."""
    shop.publish("exits.delay()")
    (run,) = await ended(client, "shop.exits")
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error.name == "WorkerLostError"


async def has_begun(client: Runstream, run_id: str) -> None:
    async with asyncio.timeout(LONG_S):
        async for run in client.subscribe_to_run(run_id):
            if run.metadata.get("begun"):
                break


async def is_canceled_and_never_completed(shop: Shop, client: Runstream, task_id: str) -> None:
    """The post-run signal fires with the state None, in a process that is about to die."""
    (run,) = [run async for run in client.runs.list(tasks="shop.endless")]
    await has_begun(client, run.id)
    shop.app.control.revoke(task_id, terminate=True)
    (run,) = await ended(client, "shop.endless")
    assert await history(client, run.id) == ["QUEUED", "EXECUTING", "CANCELED"]


@asynccontextmanager
async def dispatching(shop: Shop, client: Runstream, **tasks: Any) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(client, shop.app, tasks)
    running = asyncio.create_task(dispatcher.run(handle_signals=False))
    try:
        yield dispatcher
    finally:
        dispatcher.stop()
        await running


async def is_sent_to_celery_step_by_step(shop: Shop, client: Runstream) -> None:
    async with (
        # Two of them: each run is sent by one.
        dispatching(shop, client, sum="shop.add", shaky="shop.flaky") as first,
        dispatching(shop, client, sum="shop.add", shaky="shop.flaky") as second,
    ):
        sums = await client.workflows.create("sum", "sum", payload={"a": 1, "b": 2})
        shaky = await client.workflows.create("shaky", "shaky", payload=2)
        job = await client.jobs.create("job", [sums.id, shaky.id])
        made = await client.job_runs.create(job.id)
        async with asyncio.timeout(LONG_S):
            async for _ in client.subscribe_to_job_run(made.id):
                pass
        done = await client.job_runs.get(made.id)
        assert done.status == "COMPLETED"
        outputs = [run.output for run in done.workflow_runs if isinstance(run, Run)]
        assert outputs == [3, 2]
        one, two = (run for run in done.workflow_runs if isinstance(run, Run))
        assert await history(client, one.id) == ["QUEUED", "EXECUTING", "COMPLETED"]
        assert two.attempt == 2
        assert first.sent + second.sent == 2


async def is_terminated_when_it_is_canceled(shop: Shop, client: Runstream) -> None:
    async with dispatching(shop, client, forever="shop.endless"):
        run = await client.trigger("forever", {"what": "ever"})
        await has_begun(client, run.id)
        await client.runs.cancel(run.id)
        # There are two processes: both are needed for these.
        more = [await client.trigger("forever", {}) for _ in range(2)]
        for one in more:
            await has_begun(client, one.id)
        for one in more:
            await client.runs.cancel(one.id)


def test_a_worker_does_not_wait_for_a_server_that_is_away() -> None:
    """What could not be told is counted, and the program ends when it should."""
    said = printed_by(
        """
        from runstream.celery import connect
        from celery import signals
        import time
        away = Celery("away", broker="memory://")
        reports = connect(away, "http://127.0.0.1:9", max_waiting=10, flush_s=0.2)
        @away.task
        def nothing(): pass
        begun = time.monotonic()
        for _ in range(100):
            nothing.apply()
        print(time.monotonic() - begun < 5, reports.flush(), reports.told,
              sum(reports.dropped.values()) >= 150, "full" in reports.dropped)
        """,
        environment_of("http://127.0.0.1:9", "memory://"),
    )
    assert said == "True False 0 True True"


async def test_what_waits_is_told_when_the_server_comes_back(
    sqlite_url: str, start_server: Callable[..., Server]
) -> None:
    server = start_server(sqlite_url)
    server.kill()
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from tests.e2e.shop import *\nadd.apply([1, 2])\nprint('done', flush=True)\n"
        "input()\nassert reports.flush(60)",
        env=environment_of(server.url, "memory://"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    assert await program.stdout.readline() == b"done\n"
    await asyncio.to_thread(server.start)
    await program.communicate(b"\n")
    assert program.returncode == 0
    async with Runstream(server.url, api_key=API_KEY) as client:
        (run,) = await ended(client, "shop.add")
        assert (run.status, run.output) == (RunStatus.COMPLETED, 3)
