"""`realtime demo`: what a newcomer runs first."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.processes import ROOT

COMMAND = [sys.executable, "-m", "realtime.cli", "demo"]


def left_over() -> list[int]:
    """Children of a demo that still run."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if "realtime.demo.child" in (process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_the_demo_shows_every_change_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its exit code is a promise: 0 only if every committed change arrived."""
    before = set(left_over())
    ended = subprocess.run(
        COMMAND, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
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
    assert not set(left_over()) - before
    assert not list(tmp_path.iterdir())


def test_a_killed_demo_takes_its_server_along(tmp_path: Path) -> None:
    """Whoever closes the window must not find the port taken tomorrow."""
    before = set(left_over())
    with subprocess.Popen(
        COMMAND, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        assert "A server on SQLite" in demo.stdout.readline()
        demo.kill()
    deadline = time.monotonic() + 15
    while set(left_over()) - before:
        assert time.monotonic() < deadline, "its children live on"
        time.sleep(0.05)
