"""`runstream watch` in a real terminal: what a person sees, and how the terminal is given back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
from typing import Any

import pytest

from clients.python.tests.builders import (
    AT,
    RUN,
    a_batch,
    a_change,
    a_run,
    a_snapshot,
    an_enter,
    live,
    the_end,
)
from clients.python.tests.scripted import Answer, ScriptedServer, Socket
from clients.python.tests.terminal import Terminal, terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")

BAD = "x\x1b]0;owned\x07\x1b[2J\x9b31m\x9d0;o\x9c\u202e\r\n\x00漢字\x7f"


async def joined(server: ScriptedServer, *runs: dict[str, Any]) -> Socket:
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(a_snapshot(*runs), live())
    return socket


async def test_a_run_is_drawn_as_it_changes_and_its_last_picture_stays(
    server: ScriptedServer,
) -> None:
    async with terminal("watch", RUN, url=server.url) as seen:
        await seen.shows("connecting")
        socket = await joined(server, a_run())
        await seen.shows("● live", f"run {RUN}", "QUEUED", "send-invoice")
        assert seen.screen.is_alternate
        metadata = {"progress": 0.5, "message": "packing"}
        await socket.send(a_change(2, startedAt=AT, metadata=metadata))
        await seen.shows("EXECUTING", "━━━━━━━━", "50 %  packing")
        assert b"36m" in seen.raw
        await socket.send(a_change(3, "COMPLETED", output={"total": 99}), the_end())
        assert await seen.end() == 0
    assert not seen.screen.is_alternate
    assert "COMPLETED  send-invoice" in seen.text
    assert '{"total":99}' in seen.text


async def test_the_connection_is_always_said_to_be_live_or_not(server: ScriptedServer) -> None:
    """A picture that is no longer live must not be taken for one that is."""
    async with terminal("watch", "--tag", "a", url=server.url, rows=6) as seen:
        socket = await joined(server, a_run())
        await seen.shows("● live", "QUEUED")
        await socket.send({"type": "stale"})
        await seen.shows("! stale", "cannot read its store", "QUEUED")
        await socket.send({"type": "fresh"})
        await seen.shows("● live")
        await server.stop()
        await seen.shows("! stale", "nothing answers there", "QUEUED")
        await server.start()
        socket = await server.welcomed()
        await socket.expect("subscribeToRunsWithTag", cursor="c1")
        await socket.send(live("c2", resumed=True))
        await seen.shows("● live", "QUEUED")


async def test_a_table_fits_any_size_and_counts_the_rest(server: ScriptedServer) -> None:
    runs = [a_run(f"run_{n:04}", number=n) for n in range(1_000)]
    async with terminal("watch", "--all", url=server.url, columns=120, rows=20) as seen:
        await joined(server, *runs)
        await seen.shows("1,000 QUEUED", "run_0999", "… and 985 more")
        for columns, rows, rest in ((50, 12, 993), (18, 5, 998), (140, 30, 975)):
            seen.resize(columns, rows)
            await seen.shows("live", f"… and {rest} more")
            assert len(seen.lines) == rows
            assert max(map(len, seen.lines)) <= columns


async def test_a_batch_has_one_bar_and_its_runs(server: ScriptedServer) -> None:
    async with terminal("watch", "--batch", "batch_1", url=server.url) as seen:
        socket = await joined(server, a_run("run_1", status="COMPLETED", batchId="batch_1"))
        await socket.send({"type": "batch", "id": 1, "batch": a_batch(1)})
        await seen.shows("33 %  1 of 3 final", "1 COMPLETED", "2 QUEUED")
        last = {**a_batch(3, complete=True), "counts": {"COMPLETED": 2, "FAILED": 1}}
        await socket.send({"type": "batch", "id": 1, "batch": last}, the_end())
        assert await seen.end() == 1
        assert "3 of 3 final · complete after" in seen.text


def timeline_of(*steps: str, **first: Any) -> dict[str, Any]:
    planned = [
        {"workflowId": f"wf_{n}", "position": n, "name": name, "taskIdentifier": name}
        for n, name in enumerate(steps)
    ]
    entry = {"at": AT, "runId": "run_j", "position": None, "version": 1, "sinceStartMs": 0}
    data = [{**entry, "changed": {"status": "QUEUED", **first}, "lastedMs": None}]
    return {"jobRunId": "run_j", "status": "PENDING", "steps": planned, "data": data, "next": None}


async def test_a_job_run_is_a_tree_with_each_change_below(server: ScriptedServer) -> None:
    path = "/v1/job-runs/run_j/timeline"
    server.on("GET", path, Answer(200, timeline_of("extract", "render")))
    job = {"id": "job_1", "name": "nightly"}
    server.on("GET", "/v1/jobs/job_1", Answer(200, job))
    args = ("watch", "--job-run", "run_j", "--timeline")
    async with terminal(*args, url=server.url) as seen:
        socket = await joined(server, a_run("run_j", taskIdentifier="job_1"))
        await seen.shows(
            "nightly", "├─ ○ 1 extract", "planned", "└─ ○ 2 render", "job run    QUEUED"
        )
        step = a_run("run_s", parentRunId="run_j", workflowId="wf_0", position=0)
        await socket.send(an_enter(step))
        error = {"name": "Broken", "message": "no paper"}
        await socket.send(a_change(2, run_id="run_s", metadata={"progress": 0.5}, startedAt=AT))
        await seen.shows("├─ ● 1 extract", "50 %", "1 extract  EXECUTING")
        await socket.send(a_change(3, "FAILED", run_id="run_s", error=error, finishedAt=AT))
        await socket.send(a_change(2, "FAILED", run_id="run_j", error=error), the_end())
        assert await seen.end() == 1
    assert "├─ ✗ 1 extract" in seen.text
    assert "Broken: no paper" in seen.text
    # It is read once, and told from there on.
    assert len([asked for asked in server.asked if asked.path == path]) == 1


@pytest.mark.parametrize("typed, code", [(b"\x03", 130), (b"q", 130)])
async def test_who_leaves_finds_the_terminal_as_it_was(
    server: ScriptedServer, typed: bytes, code: int
) -> None:
    async with terminal("watch", "--tag", "a", url=server.url) as seen:
        before = seen.modes
        await joined(server, a_run())
        await seen.shows("QUEUED")
        assert not seen.modes[3] & termios.ECHO
        seen.type(b"some keys that are not for us\n")
        seen.type(typed)
        assert await seen.end() == code
        assert_given_back(seen)
        assert "some keys" not in seen.text
        assert before[3] & termios.ECHO
    assert "QUEUED" in seen.text  # what was seen last


def assert_given_back(seen: Terminal) -> None:
    assert not seen.screen.is_alternate
    assert not seen.screen.cursor.hidden
    assert seen.raw.rfind(b"\x1b[?7h") > seen.raw.rfind(b"\x1b[?7l")
    assert seen.raw.rfind(b"\x1b[?1049l") > seen.raw.rfind(b"\x1b[?1049h")


async def test_a_signal_to_end_gives_the_terminal_back(server: ScriptedServer) -> None:
    async with terminal("watch", "--tag", "a", url=server.url) as seen:
        await joined(server, a_run())
        await seen.shows("QUEUED")
        os.kill(seen.pid, signal.SIGTERM)
        assert await seen.end() == 128 + signal.SIGTERM
        assert_given_back(seen)


async def test_ctrl_z_gives_the_terminal_to_the_shell_until_it_is_brought_back(
    server: ScriptedServer,
) -> None:
    async with terminal("watch", "--tag", "a", url=server.url) as seen:
        socket = await joined(server, a_run())
        await seen.shows("QUEUED")
        seen.type(b"\x1a")
        await seen.until(lambda: not seen.screen.is_alternate, "the shell's screen")
        _, status = await asyncio.to_thread(os.waitpid, seen.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert_given_back(seen)
        os.kill(seen.pid, signal.SIGCONT)
        await seen.until(lambda: seen.screen.is_alternate, "the picture")
        await socket.send(a_change(2))
        await seen.shows("EXECUTING")


@pytest.mark.parametrize(
    "args",
    [
        ("watch", RUN),
        ("watch", "--all"),
        ("watch", "--batch", "batch_1"),
        ("watch", "--job-run", RUN, "--timeline"),
    ],
)
async def test_nothing_from_a_server_acts_on_the_terminal(
    server: ScriptedServer, args: tuple[str, ...]
) -> None:
    """Whoever may make runs chooses these texts; whoever watches must not pay for it."""
    timeline = timeline_of(BAD, metadata={BAD: BAD}) | {"jobRunId": RUN}
    timeline["data"][0]["runId"] = RUN
    server.on("GET", f"/v1/job-runs/{RUN}/timeline", Answer(200, timeline))
    server.on("GET", "/v1/jobs/send-invoice", Answer(200, {"id": "job_1", "name": BAD}))
    error = {"name": BAD, "message": BAD, "stack": f"{BAD}\n{BAD}"}
    metadata = {"progress": 0.5, "message": BAD, BAD: {BAD: [BAD]}, "output": f"{BAD}\n{BAD}"}
    hostile: dict[str, Any] = {"metadata": metadata, "tags": [BAD], "error": error}
    async with terminal(*args, url=server.url) as seen:
        step = a_run(f"run_{BAD}", parentRunId=RUN, position=0, taskIdentifier=BAD, **hostile)
        socket = await joined(server, a_run(status="EXECUTING", **hostile), step)
        batch = {**a_batch(3, complete=True), "counts": {BAD: 3}}
        await socket.send({"type": "batch", "id": 1, "batch": batch})
        await seen.shows("● live", "漢字")
        await socket.send(a_change(2, "FAILED", **hostile, output=BAD))
        await seen.shows("FAILED", "漢字")
        await socket.close(1012, f"going {BAD}"[:30])
        again = await server.socket()
        await again.close(4403, BAD[:30])
        assert await seen.end() == 3
    seen.assert_nothing_acted()


async def test_colours_are_for_terminals_that_want_them(server: ScriptedServer) -> None:
    async with terminal("watch", RUN, url=server.url, NO_COLOR="1") as seen:
        await joined(server, a_run(status="EXECUTING", metadata={"progress": 0.5}))
        await seen.shows("EXECUTING", "50 %", "● live")
        for colour in range(30, 38):
            assert b"\x1b[%dm" % colour not in seen.raw
            assert b";%dm" % colour not in seen.raw


async def test_a_terminal_without_unicode_gets_signs_that_it_has(server: ScriptedServer) -> None:
    env: dict[str, Any] = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    async with terminal("watch", RUN, url=server.url, **env) as seen:
        await joined(server, a_run(status="EXECUTING", metadata={"progress": 0.5}))
        await seen.shows("* live", "====----", "50 %")
        assert seen.raw.isascii()


async def test_a_busy_stream_is_drawn_at_a_bounded_rate(server: ScriptedServer) -> None:
    """A picture for each change would cost a slow line, and whoever looks sees no more by it."""
    changes = 3_000
    async with terminal("watch", RUN, url=server.url) as seen:
        socket = await joined(server, a_run())
        await seen.shows("QUEUED")
        for version in range(2, changes, 100):
            await socket.send(
                *(a_change(n, metadata={"n": n}) for n in range(version, version + 100))
            )
        await seen.shows(str(changes + 1))
        pictures = seen.raw.count(b"\x1b[?2026h")
    assert pictures < changes / 20


async def test_a_job_on_a_terminal_that_is_closed_ends(server: ScriptedServer) -> None:
    async with terminal("watch", "--tag", "a", url=server.url) as seen:
        socket = await joined(server, a_run())
        await seen.shows("QUEUED")
        seen.hang_up()
        await socket.closed.wait()
