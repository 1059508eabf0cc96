"""The command `runstream`, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clients.python.tests.builders import (
    AT,
    RUN,
    a_batch,
    a_change,
    a_run,
    a_snapshot,
    live,
    the_end,
)
from clients.python.tests.scripted import PATIENCE_S, Answer, Asked, ScriptedServer, problem
from clients.python.tests.test_text import acts


class Command:
    """`runstream …`, while it runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def end(self) -> tuple[int, str, str]:
        """Its exit code, and what else it wrote."""
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self.process.communicate()
            code = await self.process.wait()
        return code, out.decode(), err.decode()


@asynccontextmanager
async def command(server: ScriptedServer | None, *args: str) -> AsyncIterator[Command]:
    environment = {key: value for key, value in os.environ.items() if "RUNSTREAM" not in key}
    if server is not None:
        environment["RUNSTREAM_URL"] = server.url
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runstream.cli",
        *args,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ended(server: ScriptedServer | None, *args: str) -> tuple[int, str, str]:
    async with command(server, *args) as running:
        return await running.end()


# watch


@pytest.mark.parametrize("status, code", [("COMPLETED", 0), ("FAILED", 1)])
async def test_watching_a_run_writes_a_line_for_each_change_and_ends_by_its_outcome(
    server: ScriptedServer, status: str, code: int
) -> None:
    async with command(server, "watch", RUN, "--api-key", "secret-key-0123456") as watching:
        socket = await server.welcomed()
        assert socket.token == "secret-key-0123456"
        await socket.expect("subscribeToRun", runId=RUN)
        await socket.send(a_snapshot(a_run()), live())
        assert json.loads(await watching.line())["version"] == 1
        await socket.send(a_change(2, status, metadata={"progress": 1}), the_end())
        told = json.loads(await watching.line())
        assert (told["status"], told["metadata"]) == (status, {"progress": 1})
        assert told["payload"] == {"order_id": 42}
        assert (await watching.end())[0] == code


async def test_watching_a_batch_ends_well_if_all_were_completed(server: ScriptedServer) -> None:
    async with command(server, "watch", "--batch", "batch_1") as watching:
        socket = await server.welcomed()
        await socket.expect("subscribeToBatch", batchId="batch_1")
        batch = {"type": "batch", "id": 1, "batch": a_batch(3, complete=True)}
        await socket.send(a_snapshot(a_run(status="COMPLETED")), live(), batch, the_end())
        assert (await watching.end())[0] == 0


async def test_watching_tags_ends_with_ctrl_c(server: ScriptedServer) -> None:
    async with command(server, "watch", "--tag", "a", "--tag", "b", "--any") as watching:
        socket = await server.welcomed()
        await socket.expect("subscribeToRunsWithTag", tags=["a", "b"], match="any")
        await socket.send(a_snapshot(a_run()), live())
        await watching.line()
        watching.process.send_signal(signal.SIGINT)
        code, _, err = await watching.end()
    assert code == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "args, says",
    [
        (("watch",), "Say one of"),
        (("watch", "run_1", "--tag", "a"), "Say one of"),
        (("watch", "run_1", "--timeline"), "--timeline goes with --job-run"),
        (("watch", "--all", "--any"), "--any goes with --tag"),
        (("watch", "run_1", "--task", "t"), "choose among many runs"),
        (("timeline",), "Missing argument"),
        (("trigger", "t", "--payload", "{"), "this is no JSON"),
        (("trigger", "t", "--delay", "-1"), "--delay"),
        (("--url", "ftp://x", "runs"), "no address of a server"),
        (("--url", "http://127.0.0.1:1", "runs"), "`realtime serve` starts one"),
        (("runs", "--status", "RUNNING"), "'RUNNING' is not one of"),
    ],
)
async def test_a_mistake_is_told_in_a_sentence(args: tuple[str, ...], says: str) -> None:
    code, _, err = await ended(None, *args)
    assert code in (1, 2)
    assert says in err
    assert "Traceback" not in err


async def test_what_the_server_refuses_is_told_in_a_sentence(server: ScriptedServer) -> None:
    """That it could not be watched is another matter than that it did not end well."""
    server.refuse = problem(401, "unauthorized")
    code, _, err = await ended(server, "watch", RUN)
    assert code == 3
    assert "Give a key with --api-key" in err
    code, _, err = await ended(server, "watch", RUN, "--api-key", "wrong-key-0123456789")
    assert code == 3
    assert "Give another key with --api-key" in err
    assert "Traceback" not in err


async def test_everything_or_some_tasks_and_statuses_may_be_watched(server: ScriptedServer) -> None:
    args = ("--all", "--task", "a", "--task", "b", "--status", "failed")
    async with command(server, "watch", *args) as watching:
        socket = await server.welcomed()
        await socket.expect("subscribeToRuns", tasks=["a", "b"], statuses=["FAILED"], limit=10_000)
        await socket.send(a_snapshot(a_run()), {**live(), "truncated": True})
        await watching.line()
        watching.process.send_signal(signal.SIGTERM)
        code, _, err = await watching.end()
    assert code == 128 + signal.SIGTERM
    assert "there are more than the newest 10,000 runs" in err


async def test_a_pipe_is_told_each_version_as_a_line_at_once(server: ScriptedServer) -> None:
    """A script reads them as they come, and every one of them."""
    async with command(server, "watch", "--tag", "a") as watching:
        socket = await server.welcomed()
        asked = await socket.expect("subscribeToRunsWithTag", tags=["a"])
        assert asked.get("delivery", "every") == "every"
        assert not asked.get("skip")
        await socket.send(a_snapshot(a_run()), live())
        for version in range(2, 6):
            # Each is read before the next is sent: none waits for a buffer to fill up.
            await watching.line()
            await socket.send(a_change(version))
        assert json.loads(await watching.line())["version"] == 5


@pytest.mark.parametrize(
    "args, says",
    [
        (("watch", RUN), "There is no run run_1"),
        (("watch", "--batch", "batch_x"), "There is no batch batch_x"),
        (("watch", "--job-run", "batch_x"), "That looks like the id of a batch: say --batch"),
    ],
)
async def test_what_is_not_there_is_told_by_its_id(
    server: ScriptedServer, args: tuple[str, ...], says: str
) -> None:
    async with command(server, *args) as watching:
        socket = await server.welcomed()
        await socket.receive()
        refused = {"type": "error", "id": 1, "code": "not_found", "message": "no"}
        await socket.send(refused, the_end("not_found"))
        code, _, err = await watching.end()
    assert code == 3
    assert says in err


async def test_a_run_that_is_deleted_meanwhile_has_not_failed(server: ScriptedServer) -> None:
    async with command(server, "watch", RUN) as watching:
        socket = await server.welcomed()
        await socket.send(a_snapshot(a_run()), live(), the_end("deleted"))
        code, _, err = await watching.end()
    assert (code, "was deleted" in err) == (3, True)


async def test_a_batch_that_was_not_completed_ends_with_1(server: ScriptedServer) -> None:
    async with command(server, "watch", "--batch", "batch_1") as watching:
        socket = await server.welcomed()
        counts = {"COMPLETED": 2, "FAILED": 1}
        batch = {**a_batch(3, complete=True), "counts": counts}
        told = {"type": "batch", "id": 1, "batch": batch}
        await socket.send(a_snapshot(a_run(status="COMPLETED")), live(), told, the_end())
        assert (await watching.end())[0] == 1


# timeline


async def test_a_timeline_goes_over_all_pages_and_says_why_it_failed(
    server: ScriptedServer,
) -> None:
    job_run = a_run("run_j", status="FAILED", taskIdentifier="job_1", finishedAt=AT)
    step = {"workflowId": "wf_1", "position": 0, "name": "pack", "taskIdentifier": "t"}
    step |= {"runId": "run_s", "status": "FAILED"}
    error = {"name": "Broken", "message": "no paper"}
    entry = {"at": AT, "runId": "run_s", "position": 0, "sinceStartMs": 0, "lastedMs": None}
    page: dict[str, Any] = {"jobRunId": "run_j", "status": "FAILED", "steps": [step]}
    first = {**entry, "version": 1, "changed": {"status": "QUEUED"}}
    second = {**entry, "version": 2, "changed": {"status": "FAILED", "error": error}}
    pages: dict[str, dict[str, Any]] = {
        "": {"data": [first], "next": "n"},
        "n": {"data": [second], "next": None},
    }

    def respond(asked: Asked) -> Answer:
        return Answer(200, page | pages[asked.query.get("after", [""])[0]])

    server.on("GET", "/v1/runs/run_j", Answer(200, job_run))
    server.on("GET", "/v1/job-runs/run_j/timeline", respond)
    code, out, _ = await ended(server, "timeline", "run_j")
    assert code == 0
    assert "FAILED in step 1 of 1, pack: Broken: no paper" in out
    assert "\x1b" not in out
    assert "QUEUED" in out
    _, out, _ = await ended(server, "timeline", "run_j", "--json")
    assert [json.loads(line)["version"] for line in out.splitlines()] == [1, 2]


async def test_any_run_has_a_timeline_and_none_that_is_not_there(server: ScriptedServer) -> None:
    server.on("GET", f"/v1/runs/{RUN}", Answer(200, a_run()))
    changes = [{"version": 1, "at": AT, "changed": {"status": "QUEUED"}}]
    server.on("GET", f"/v1/runs/{RUN}/changes", Answer(200, {"data": changes, "next": None}))
    code, out, _ = await ended(server, "timeline", RUN)
    assert (code, "send-invoice" in out, "QUEUED" in out) == (0, True, True)
    code, _, err = await ended(server, "timeline", "run_x")
    assert (code, "There is no run run_x" in err) == (1, True)


# trigger and runs


async def test_an_address_may_be_given_without_http(server: ScriptedServer) -> None:
    server.on("GET", "/v1/runs", Answer(200, {"data": [], "next": None}))
    code, out, err = await ended(server, "--url", f"127.0.0.1:{server.port}", "runs")
    assert (code, out, err) == (0, "", "no runs\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
async def test_that_nothing_can_be_written_is_told_in_a_sentence(server: ScriptedServer) -> None:
    server.on("GET", "/v1/runs", Answer(200, {"data": [a_run()], "next": None}))
    shell = f"{sys.executable} -m runstream.cli --url {server.url} runs > /dev/full"
    process = await asyncio.create_subprocess_shell(shell, stderr=asyncio.subprocess.PIPE)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode() == "Error: Nothing more can be written: No space left on device.\n"


async def test_nothing_that_a_server_says_reaches_a_terminal_as_a_command(
    server: ScriptedServer,
) -> None:
    bad = "a\x1b]0;owned\x07b\x9b2J\u202e"
    run = a_run(bad, taskIdentifier=bad, tags=[bad])
    server.on("GET", "/v1/runs", Answer(200, {"data": [run], "next": None}))
    server.on("POST", "/v1/runs", Answer(201, run))
    told = [await ended(server, "runs"), await ended(server, "trigger", "t", "--json")]
    errors = [{"path": bad, "message": bad}]
    server.on("POST", "/v1/runs", problem(422, "unprocessable", bad, errors=errors))
    told += [await ended(server, "trigger", "t")]
    for _, out, err in told:
        assert out or err
        assert not any(acts(char) for char in (out + err).replace("\n", ""))


async def test_triggering_makes_a_run_and_prints_its_id(server: ScriptedServer) -> None:
    server.on("POST", "/v1/runs", Answer(201, a_run()))
    code, out, _ = await ended(
        server, "trigger", "send-invoice", "--payload", '{"order_id": 7}', "--tag", "a"
    )
    assert (code, out) == (0, "run_1\n")
    body = {"taskIdentifier": "send-invoice", "payload": {"order_id": 7}, "tags": ["a"]}
    assert server.asked[0].body == body


async def test_triggering_may_wait_for_the_outcome(server: ScriptedServer) -> None:
    server.on("POST", "/v1/runs", Answer(201, a_run()))
    async with command(server, "trigger", "send-invoice", "--wait") as waiting:
        socket = await server.welcomed()
        await socket.send(a_snapshot(a_run(status="FAILED")), live(), the_end())
        assert (await waiting.end())[0] == 1


async def test_runs_are_listed_as_a_table_or_as_lines(server: ScriptedServer) -> None:
    runs = [a_run("run_2", metadata={"progress": 0.4}, tags=["x"]), a_run("run_1")]
    server.on("GET", "/v1/runs", Answer(200, {"data": runs, "next": "more"}))
    code, out, _ = await ended(server, "runs", "--tag", "x", "--status", "queued", "--limit", "2")
    assert code == 0
    assert "run_2" in out
    assert "40%" in out
    assert server.asked[0].query == {"tag": ["x"], "status": ["QUEUED"], "limit": ["2"]}
    _, out, _ = await ended(server, "runs", "--json", "--limit", "2")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["run_2", "run_1"]


# exec


class Reported:
    """What the server was told of the run that a program is."""

    def __init__(self, server: ScriptedServer) -> None:
        self.created: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.outcome: dict[str, Any] = {}
        server.on("POST", "/v1/runs", self.create)
        server.on("POST", f"/v1/runs/{RUN}/metadata", self.operate)
        server.on("PATCH", f"/v1/runs/{RUN}", self.update)

    def create(self, asked: Asked) -> Answer:
        self.created = asked.body
        return Answer(201, a_run(status="EXECUTING"))

    def operate(self, asked: Asked) -> Answer:
        self.metadata |= {op["path"]: op["value"] for op in asked.body["operations"]}
        return Answer(200, a_run(status="EXECUTING"))

    def update(self, asked: Asked) -> Answer:
        self.outcome = asked.body
        return Answer(200, a_run(status=asked.body["status"]))


PROGRAM = """
import sys, time
print("to stdout", flush=True)
print("::progress 0.4 packing", flush=True)
print("to stderr", file=sys.stderr, flush=True)
sys.stdout.buffer.write(b"no newline \\xff")
sys.stdout.flush()
sys.exit({code})
"""


@pytest.mark.parametrize("code", [0, 3])
async def test_a_program_is_a_run_and_its_exit_code_is_the_outcome(
    server: ScriptedServer, code: int
) -> None:
    reported = Reported(server)
    program = PROGRAM.format(code=code)
    async with command(
        server, "exec", "--task", "pack", "--tag", "a", "--", sys.executable, "-c", program
    ) as running:
        assert running.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            out, err = await running.process.communicate()
    # Unchanged, but for the progress line.
    assert out == b"to stdout\nno newline \xff"
    assert err == b"to stderr\n"
    assert running.process.returncode == code
    assert reported.created["taskIdentifier"] == "pack"
    assert reported.created["tags"] == ["a"]
    assert reported.created["status"] == "EXECUTING"
    assert reported.created["payload"]["command"] == [sys.executable, "-c", program]
    assert set(reported.created["payload"]) == {"command", "cwd", "host"}
    assert reported.metadata["progress"] == 0.4
    assert reported.metadata["message"] == "packing"
    assert "to stdout" in reported.metadata["output"]
    assert "to stderr" in reported.metadata["output"]
    if code == 0:
        assert reported.outcome == {"status": "COMPLETED", "output": {"exitCode": 0}}
    else:
        assert reported.outcome["status"] == "FAILED"
        assert reported.outcome["error"] == {"name": "ExitCode", "message": "pack exited with 3"}


HEEDLESS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped", flush=True)
    sys.exit(9)
"""


async def test_a_ctrl_c_is_passed_on_and_the_run_is_canceled(server: ScriptedServer) -> None:
    reported = Reported(server)
    async with command(server, "exec", "--", sys.executable, "-c", HEEDLESS) as running:
        assert await running.line() == "ready"
        running.process.send_signal(signal.SIGINT)
        code, out, err = await running.end()
    assert (code, out) == (9, "stopped\n")
    assert reported.outcome == {"status": "CANCELED"}
    assert "Traceback" not in err


async def test_a_signal_that_ends_the_program_is_in_the_exit_code(server: ScriptedServer) -> None:
    reported = Reported(server)
    async with command(server, "exec", "--", "sh", "-c", "echo ready; exec sleep 60") as running:
        assert await running.line() == "ready"
        running.process.send_signal(signal.SIGTERM)
        code, _, _ = await running.end()
    assert code == 128 + signal.SIGTERM
    assert reported.outcome == {"status": "CANCELED"}
    code, _, _ = await ended(server, "exec", "--", "sh", "-c", "kill -KILL $$")
    assert code == 128 + signal.SIGKILL
    assert reported.outcome["error"]["message"] == "sh was ended by SIGKILL"


async def test_a_run_that_is_canceled_elsewhere_stops_the_program(server: ScriptedServer) -> None:
    reported = Reported(server)
    ignoring = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    async with command(server, "exec", "--grace", "0.2", "--", "sh", "-c", ignoring) as running:
        assert await running.line() == "ready"
        socket = await server.welcomed()
        await socket.expect("subscribeToRun", runId=RUN)
        await socket.send(a_snapshot(a_run(status="EXECUTING")), live())
        await socket.send(a_change(2, "CANCELED"), the_end())
        code, _, err = await running.end()
    assert code == 128 + signal.SIGKILL
    assert "the run is CANCELED" in err
    assert reported.outcome == {"status": "CANCELED"}


async def test_a_program_runs_also_when_the_server_is_away(server: ScriptedServer) -> None:
    await server.stop()
    code, out, err = await ended(server, "exec", "--", "sh", "-c", "echo hello; exit 4")
    assert (code, out) == (4, "hello\n")
    assert "cannot be told of a run" in err
    await server.start()


async def test_a_program_that_is_not_there_is_a_failed_run(server: ScriptedServer) -> None:
    reported = Reported(server)
    code, _, err = await ended(server, "exec", "--", "no-such-program")
    assert code == 127
    assert "no-such-program: No such file" in err
    assert reported.outcome["error"]["name"] == "FileNotFoundError"
