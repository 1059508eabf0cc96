"""`realtime demo`: what a newcomer runs first."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.processes import ROOT, Server

COMMAND = [sys.executable, "-m", "realtime.cli", "demo"]


def environment(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TMPDIR": str(folder)}


def left_over(folder: Path) -> list[int]:
    """Children that still run of a demo whose files are in there."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if "realtime.demo.child" in (process.info["cmdline"] or [])
        and any(str(folder) in part for part in process.info["cmdline"])
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_the_demo_shows_every_change_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its exit code is a promise: 0 only if every committed change arrived."""
    ended = subprocess.run(
        COMMAND, cwd=tmp_path, env=environment(tmp_path),
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-2_000:] + ended.stderr
    assert ended.stderr == ""
    committed = re.search(r"changes committed: (\d+)", ended.stdout)
    pushed = re.search(r"changes pushed: +(\d+)", ended.stdout)
    assert committed is not None
    assert pushed is not None
    assert int(committed[1]) == int(pushed[1]) > 100
    assert re.search(r"p50 [\d.]+ ms, p99 [\d.]+ ms", ended.stdout)
    for shown in ("compile-all", "lint", "hash-files", "FAILED", "COMPLETED", "compile "):
        assert shown in ended.stdout
    assert not left_over(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_killed_demo_takes_its_server_along(tmp_path: Path) -> None:
    """Whoever closes the window must not find the port taken tomorrow."""
    with subprocess.Popen(
        COMMAND, cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        assert "A server on SQLite" in demo.stdout.readline()
        assert left_over(tmp_path)
        demo.kill()
    deadline = time.monotonic() + 15
    while left_over(tmp_path):
        assert time.monotonic() < deadline, "its children live on"
        time.sleep(0.05)


def test_a_demo_that_stays_ends_well_when_it_is_told_to(tmp_path: Path) -> None:
    """`make demo STAY=1` has no other end than Ctrl-C, which is no failure then."""
    with subprocess.Popen(
        [*COMMAND, "--stay"], cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        assert any("compile-all" in line for line in demo.stdout), "it ended before it began"
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(30) == 0
    assert not left_over(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_demo_that_stays_has_something_to_show(server: Server) -> None:
    """What it does from the second round on: a few runs at a time, for as long as it is there."""
    folder = str(server.folder)
    work = [sys.executable, "-m", "realtime.demo.child", "work", server.url, folder, "--again"]
    with subprocess.Popen(work, env=environment(server.folder), stdin=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        deadline = time.monotonic() + 60
        while len(httpx2.get(f"{server.url}/v1/runs").json()["data"]) < 3:
            assert time.monotonic() < deadline, "nothing happens any more"
            time.sleep(0.1)
        worker.stdin.close()


@pytest.fixture
def server(start_server: Callable[..., Server], sqlite_url: str) -> Server:
    return start_server(sqlite_url, api_key=None)
