"""Places in a server and in a worker at which they stop, to be killed there.

The process that comes to the place which is armed stops itself (SIGSTOP), with whatever it holds:
a transaction that is not committed, an answer that is not sent. Who waits for it then kills it, or
kills the other one and lets it go on.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from realtime import app, cli
from realtime.api import routing
from runstream.worker import execution, worker
from store import timers
from store.engine import open_database
from store.model import RunStatus
from store.webhooks import deliveries, planning, sending
from store.writer.group import Committed
from tests.e2e import working

Environment = Mapping[str, str]

BEFORE_COMMIT: Final = "before its commit"
COMMITTED: Final = "committed, before its hint"
UNANSWERED: Final = "hinted, before its answer"
ANSWERED: Final = "answered"

STEPS: Final = ("fetch", "build", "ship")

COMMANDS: Final = (
    "the job run's creation",
    *(
        f"{what} of step {position}"
        for position in range(3)
        for what in ("the claim", "a heartbeat", "the metadata", "the completion")
    ),
)
"""What a server is asked for in a job run of three steps. The creation queues the first step, the
completion of one the next, and that of the last ends the job run, each in its transaction."""

WEBHOOK: Final = tuple(
    f"a webhook's {what}"
    for what in (
        f"delivery, {BEFORE_COMMIT}",
        "delivery, committed",
        f"claim, {BEFORE_COMMIT}",
        "claim, committed",
        "request, answered",
        f"outcome, {BEFORE_COMMIT}",
        "outcome, committed",
    )
)

IN_THE_WORKER: Final = tuple(
    f"step {position} is {what}"
    for position in range(3)
    for what in ("claimed, and not begun", "running", "done, and not told", "told")
)

POINTS: Final = (
    *(
        f"{command}, {place}"
        for command in COMMANDS
        for place in (BEFORE_COMMIT, COMMITTED, UNANSWERED, ANSWERED)
        # A heartbeat is no change: nobody is hinted of it.
        if not (command.startswith("a heartbeat") and place == COMMITTED)
    ),
    *WEBHOOK,
    *IN_THE_WORKER,
)

WEBHOOK_CLAIM_S: Final = 1.0
"""How long a killed server's try of a delivery is left alone here, instead of 25 s."""


class Points:
    """One place is armed at a time; the first that comes there disarms it and stops."""

    def __init__(self, folder: Path) -> None:
        self._armed = folder / "armed"
        self._taken = folder / "taken"
        self._reached = folder / "reached"

    # What a test does.

    def arm(self, point: str) -> None:
        assert point in POINTS, point
        self._reached.unlink(missing_ok=True)
        _write(self._armed, point)

    @property
    def stopped(self) -> int | None:
        """The process that has stopped at the place, once there is one."""
        try:
            return int(self._reached.read_text())
        except FileNotFoundError:
            return None

    # What the process does.

    def at(self, *points: str) -> None:
        try:
            if self._armed.read_text() not in points:
                return
            self._armed.rename(self._taken)
        except FileNotFoundError:
            return
        _write(self._reached, str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)


def _write(file: Path, text: str) -> None:
    """Whole, or not at all: whoever reads it does so all the time."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def _replace(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name)
    setattr(owner, name, value)


# ------------------------------------------------------------------------------------ in a server


def asked(work: object, args: Sequence[Any], result: object) -> list[str]:
    """What of a job run a transaction is about."""
    if work is timers.beat:
        return [f"a heartbeat of {args[1]}"]
    named = {planning.keep: "delivery", deliveries.claim: "claim", deliveries.note: "outcome"}
    if work in named:
        return [f"a webhook's {named[work]}"] if result is None or result else []
    if not isinstance(result, Committed):
        return []
    found = []
    for hint in result.hints:
        run, change = hint.run, hint.change
        if run is None or not (run.job_id or run.workflow_id):
            continue
        if run.job_id is not None and change.version == 1:
            found.append("the job run's creation")
        elif run.workflow_id is not None and run.status == RunStatus.EXECUTING:
            what = "the claim" if "status" in change.changed else "the metadata"
            found.append(f"{what} of step {run.position}")
        elif run.workflow_id is not None and change.changed.get("status") == RunStatus.COMPLETED:
            found.append(f"the completion of step {run.position}")
    return found


def is_answer(what: str, method: str, path: str) -> bool:
    """Whether it is by that request that it was asked for."""
    match what.split(" of step")[0]:
        case "the job run's creation":
            return path == "/v1/job-runs"
        case "the claim":
            return path == "/v1/runs/claim"
        case "the metadata":
            return path.endswith("/metadata")
        case "the completion":
            return method == "PATCH"
        case _:
            return path.endswith("/heartbeat")


def watch_server(points: Points) -> None:
    """Has this process, which is to serve, stop where it is told to."""
    positions: dict[str, int] = {}
    unanswered: list[str] = []
    _replace(deliveries, "CLAIM_S", WEBHOOK_CLAIM_S)

    def named(found: Iterable[str]) -> list[str]:
        # A heartbeat names the run; here it is the step.
        names = []
        for what in found:
            run_id = what.rpartition(" ")[2]
            if run_id.startswith("run_"):
                what = f"a heartbeat of step {positions.get(run_id)}"
            names.append(what)
        return names

    opened = open_database

    async def opens(*how: Any, **more: Any) -> Any:
        database = await opened(*how, **more)
        write = database.write

        async def writes(work: Any, *args: Any, **kwargs: Any) -> Any:
            reached: list[str] = []

            def watched(connection: Any, *args: Any, **kwargs: Any) -> Any:
                result = work(connection, *args, **kwargs)
                if isinstance(result, Committed):
                    positions.update(
                        (hint.run.id, hint.run.position)
                        for hint in result.hints
                        if hint.run is not None and hint.run.position is not None
                    )
                reached[:] = named(asked(work, args, result))
                points.at(*(f"{what}, {BEFORE_COMMIT}" for what in reached))
                return result

            result = await write(watched, *args, **kwargs)
            webhook = [what for what in reached if what.startswith("a webhook's")]
            points.at(*(f"{what}, committed" for what in webhook))
            points.at(*(f"{what}, {COMMITTED}" for what in reached))
            unanswered.extend(what for what in reached if what not in webhook)
            return result

        _replace(database, "write", writes)
        return database

    _replace(app, "open_database", opens)
    answers = routing._Endpoint.__call__

    async def answering(self: Any, scope: Any, receive: Any, send: Any) -> None:
        mine: list[str] = []

        async def sending_(message: Any) -> None:
            if message["type"] == "http.response.start":
                mine[:] = [w for w in unanswered if is_answer(w, scope["method"], scope["path"])]
                unanswered[:] = [what for what in unanswered if what not in mine]
                if mine:
                    # What is published goes out beside this.
                    await asyncio.sleep(0.01)
                points.at(*(f"{what}, {UNANSWERED}" for what in mine))
            await send(message)

        await answers(self, scope, receive, sending_)
        points.at(*(f"{what}, {ANSWERED}" for what in mine))

    _replace(routing._Endpoint, "__call__", answering)
    post = sending.Sender.post

    @functools.wraps(post)
    async def posting(self: Any, *args: Any) -> Any:
        answer = await post(self, *args)
        points.at("a webhook's request, answered")
        return answer

    _replace(sending.Sender, "post", posting)


def serve(points: Path, log: Path, options: Sequence[str], environment: Environment) -> None:
    """`realtime serve` that stops where it is told to; the target of a process."""
    _begin(log, environment)
    watch_server(Points(points))
    cli.main(["serve", *options], prog_name="realtime")


# ------------------------------------------------------------------------------------ in a worker


def watch_worker(points: Points) -> None:
    """Has this process, which is to work, stop where it is told to."""

    def before(owner: Any, method: str, what: str) -> None:
        original: Callable[..., Any] = getattr(owner, method)

        @functools.wraps(original)
        async def stops(self: Any, *args: Any) -> Any:
            points.at(f"step {self.run.position} is {what}")
            return await original(self, *args)

        _replace(owner, method, stops)

    before(execution.Execution, "execute", "claimed, and not begun")
    before(execution.Execution, "_tell", "done, and not told")
    executes = worker.Worker._execute

    async def executing(self: Any, key: str, one: execution.Execution) -> None:
        await executes(self, key, one)
        points.at(f"step {one.run.position} is told")

    _replace(worker.Worker, "_execute", executing)
    does = working.do

    async def doing(task: str, *args: Any) -> Any:
        points.at(f"step {STEPS.index(task)} is running")
        return await does(task, *args)

    _replace(working, "do", doing)


def work(points: Path, log: Path, options: Sequence[str], environment: Environment) -> None:
    """A worker that stops where it is told to; the target of a process."""
    _begin(log, environment)
    watch_worker(Points(points))
    asyncio.run(working.main(options))


def _begin(log: Path, environment: Environment) -> None:
    """As a process that was started, and not forked, begins."""
    os.setsid()
    os.chdir(log.parent)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
