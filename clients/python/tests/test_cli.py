"""The command `runstream`, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from rich.console import Console

from clients.python.tests.builders import (
    RUN,
    a_batch,
    a_change,
    a_run,
    a_snapshot,
    live,
    the_end,
)
from clients.python.tests.scripted import PATIENCE_S, Answer, Asked, ScriptedServer, problem
from runstream.cli.board import Board
from runstream.merging import whole
from runstream.models import Batch


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
        (("trigger", "t", "--payload", "{"), "this is no JSON"),
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
    server.refuse = problem(401, "unauthorized")
    code, _, err = await ended(server, "watch", RUN)
    assert code == 1
    assert "Give a key with --api-key" in err
    assert "Traceback" not in err


# trigger and runs


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
print("ready", flush=True)
try:
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


# The board


def test_the_board_shows_what_moves_first_and_how_far_it_is() -> None:
    console = Console(width=100, height=8, force_terminal=True, record=True, color_system=None)
    board = Board(console)
    board.show(whole(a_run("run_aaaaaa", status="COMPLETED")))
    board.show(
        whole(
            a_run(
                "run_bbbbbb", status="EXECUTING", metadata={"progress": 0.5, "message": "packing"}
            )
        )
    )
    for n in range(5):
        board.show(whole(a_run(f"run_ccccc{n}")))
    board.batch = Batch(id="b", created_at=whole(a_run()).created_at, size=7, final=1)
    console.print(board.render())
    lines = console.export_text().splitlines()
    assert "bbbbbb" in lines[0]
    assert "packing" in lines[0]
    assert "━" in lines[0]
    assert "… and 3 more" in lines[4]
    assert "1 of 7 final" in lines[5]
    board.drop("run_bbbbbb")
    assert board.render() is not None
