"""What the demo does: real commands of this machine, each reported as a run."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from realtime.demo.child import ROOT
from runstream import NewRun, ReportedRun, Run, Runstream

PACKAGES: Final = ("realtime", "store")
AT_ONCE: Final = 2


class CommandFailed(Exception):
    """A command ended with an error: with what it said last."""


def work(url: str, folder: Path, *, again: bool = False) -> None:
    """Does all of it, and reports it to that server; or the quiet part of it, again and again."""
    asyncio.run(_do_again(url) if again else _do_all(url, folder))


async def _do_all(url: str, folder: Path) -> None:
    async with Runstream(url) as client:
        await _several_things(client, folder)
        await _compile_modules(client, folder)


async def _do_again(url: str) -> None:
    async with Runstream(url) as client:
        while True:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_hash_files(client, pause_s=0.03))
                tasks.create_task(_command(client, "list-files", ["ls", "-l", "/"]))
            await asyncio.sleep(2)


async def _several_things(client: Runstream, folder: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        compile_all = [*_python(folder), "compileall", "-f", *PACKAGES]
        tasks.create_task(_command(client, "compile-all", compile_all))
        tasks.create_task(_command(client, "lint", _linter(folder)))
        tasks.create_task(_hash_files(client))
        tasks.create_task(_command(client, "list-files", ["ls", "-l", "no-such-folder"]))


def _linter(folder: Path) -> Sequence[str]:
    if importlib.util.find_spec("ruff") is not None:
        return [sys.executable, "-m", "ruff", "check", "--no-cache", *PACKAGES]
    return [*_python(folder), "tabnanny", "-v", *PACKAGES]  # one that every Python has


def _python(folder: Path) -> Sequence[str]:
    """How a module of the standard library is run: without what was installed besides, which
    makes it start fast, and keeping what it compiles out of the project's own folders."""
    return [sys.executable, "-I", "-S", "-X", f"pycache_prefix={folder / 'pycache'}", "-m"]


async def _hash_files(client: Runstream, pause_s: float = 0.01) -> None:
    """The digests of all source files, with its progress."""
    files = _modules()
    async with client.report("hash-files", {"files": len(files)}, tags=["demo", "hash"]) as run:
        all_of_them = hashlib.sha256()
        for done, file in enumerate(files, 1):
            content = await asyncio.to_thread(file.read_bytes)
            all_of_them.update(hashlib.sha256(content).digest())
            run.metadata.set("progress", round(done / len(files), 2))
            run.metadata.set("message", str(file.relative_to(ROOT)))
            await asyncio.sleep(pause_s)  # slow enough to be watched
        run.output = {"files": len(files), "sha256": all_of_them.hexdigest()}


async def _compile_modules(client: Runstream, folder: Path) -> None:
    """A batch with a run for each module, a few of them at once."""
    files = _modules()
    made = await client.batches.create(
        NewRun("compile", {"file": str(file.relative_to(ROOT))}, tags=["demo", "module"])
        for file in files
    )
    turns = asyncio.Semaphore(AT_ONCE)
    python = _python(folder)

    async def compile_one(run: Run[Any, Any], file: Path) -> None:
        async with turns:
            await _command(client, run, [*python, "py_compile", str(file.relative_to(ROOT))])

    # The last made come first, as they do on a page that shows the newest on top.
    async with asyncio.TaskGroup() as tasks:
        for run, file in zip(reversed(made.runs), reversed(files), strict=True):
            tasks.create_task(compile_one(run, file))


async def _command(client: Runstream, work: str | Run[Any, Any], command: Sequence[str]) -> None:
    """Runs a command as a run: its lines are the progress, its exit code the outcome."""
    if isinstance(work, Run):
        report = client.report(work)
    else:
        payload = {"command": [Path(command[0]).name, *command[1:]]}
        report = client.report(work, payload, tags=["demo", "command"])
    # That a command fails is something to show, and no failure of the demo.
    with suppress(CommandFailed):
        async with report as run:
            run.output = await _run(run, command)


async def _run(run: ReportedRun[Any, Any], command: Sequence[str]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | {"LC_ALL": "C"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines, last = 0, ""
    try:
        async for line in process.stdout:
            lines += 1
            last = line.decode(errors="replace").strip()[:200] or last
            run.metadata.set("message", last)
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        raise CommandFailed(f"exit code {code}: {last}")
    return {"exitCode": code, "lines": lines}


def _modules() -> list[Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
