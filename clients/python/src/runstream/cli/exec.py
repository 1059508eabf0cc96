"""`runstream exec`: runs any program as a run."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from runstream.cli.output import Progress, Splitter, Tail
from runstream.cli.server import Server, carry_out, server_options
from runstream.client import Runstream
from runstream.commands import Operation, RunOptions, RunUpdate
from runstream.errors import RunstreamError
from runstream.models import RunStatus
from runstream.reporter import Reporter

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
FLUSH_S: Final = 3.0
TAIL_INTERVAL_S: Final = 0.5
# A child of the program that lives on may hold its output open: for ever, if it is a server.
OUTPUT_GRACE_S: Final = 1.0
# Ended by one of these, whoever sent it, a program was stopped and did not fail.
STOPS: Final = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("--task", help="What it is a run of; the program's name, if not said.")
@click.option("--tag", "tags", multiple=True, help="A label; may be repeated.")
@click.option("--grace", "grace_s", type=float, default=10.0, show_default=True,
              help="Seconds from SIGTERM to SIGKILL, when the run is canceled elsewhere.")  # fmt: skip
@click.option("--verbose", is_flag=True, help="Show ::progress lines, too.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@server_options
@click.pass_obj
def exec_command(
    server: Server,
    task: str | None,
    tags: tuple[str, ...],
    grace_s: float,
    verbose: bool,
    command: tuple[str, ...],
) -> None:
    """Runs a program as a run: runstream exec [OPTIONS] -- COMMAND ...

    Its output is shown as it comes; the end of it becomes the run's metadata `output`, and
    a line `::progress 0.4 text` its `progress` and `message` (such lines are not shown).
    The run is COMPLETED if the program ends with 0, else FAILED; a Ctrl-C or a SIGTERM is
    passed on to the program, and the run is CANCELED. If the run is canceled elsewhere, the
    program is stopped.

    Ends with what the program ends with; with 128 + n, if signal n ended it. If the server
    is away, the program runs all the same.
    """
    if sys.platform == "win32":
        raise click.ClickException("exec needs process groups and signals, which Windows has not.")
    client = server.client()
    program = Program(client, command, task, tags, grace_s, show_progress=verbose)

    async def work() -> int:
        async with client:
            return await program.run()

    sys.exit(carry_out(work, server))


class Program:
    """One program, as a run."""

    def __init__(
        self,
        client: Runstream,
        command: tuple[str, ...],
        task: str | None,
        tags: tuple[str, ...],
        grace_s: float,
        *,
        show_progress: bool,
    ) -> None:
        self._client = client
        self._command = command
        self._grace_s = grace_s
        self._show_progress = show_progress
        self._tail = Tail()
        self._was_stopped = False
        self._process: asyncio.subprocess.Process | None = None
        options: RunOptions = {"tags": tags or None}
        payload = {
            "command": [_text(part) for part in command],
            "cwd": _text(str(Path.cwd())),
            "host": socket.gethostname(),
        }
        self._new = (task or _text(Path(command[0]).name) or "exec", payload, options)

    async def run(self) -> int:
        """Its exit code, once all is reported that can be."""
        reporter = Reporter(self._client.http, *self._new)
        # The program does not wait for the server.
        await reporter.start(0)
        with Signals(self._signalled):
            try:
                code = await self._execute(reporter)
            except OSError as error:
                return await self._cannot_start(reporter, error)
        await reporter.finish(self._outcome(code), FLUSH_S)
        return 128 - code if code < 0 else code

    async def _execute(self, reporter: Reporter) -> int:
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                # In a group of its own it could not read from the terminal anyway.
                stdin=asyncio.subprocess.DEVNULL if _is_terminal(sys.stdin) else None,
                stdout=out_write,
                stderr=err_write,
                # So that a Ctrl-C reaches it once, through us, and all its children.
                start_new_session=True,
            )
        except OSError:
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            os.close(out_write)
            os.close(err_write)
        if self._was_stopped:
            self._send(signal.SIGTERM)  # The signal came before there was a program.
        return await self._follow(self._process, reporter, out_read, err_read)

    async def _follow(
        self,
        process: asyncio.subprocess.Process,
        reporter: Reporter,
        out_read: int,
        err_read: int,
    ) -> int:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._heed_cancel(process, reporter))
            telling = group.create_task(self._tell_tail(reporter))
            outputs = [
                group.create_task(self._pass_on(out_read, sys.stdout.buffer, reporter)),
                group.create_task(self._pass_on(err_read, sys.stderr.buffer, reporter)),
            ]
            code = await process.wait()
            # What it wrote last is still in the pipes.
            await asyncio.wait(outputs, timeout=OUTPUT_GRACE_S)
            for task in (listening, telling, *outputs):
                task.cancel()
        if self._tail.is_news:
            reporter.put(Operation("set", "output", self._tail.text()))
        return code

    async def _cannot_start(self, reporter: Reporter, error: OSError) -> int:
        name = _text(self._command[0])
        found = not isinstance(error, FileNotFoundError)
        why = error.strerror or str(error)
        click.echo(f"runstream: {name}: {why}", err=True)
        told = {"name": type(error).__name__, "message": f"{name}: {why}"}
        await reporter.finish(RunUpdate("", status=RunStatus.FAILED, error=told), FLUSH_S)
        return NOT_EXECUTABLE if found else NOT_FOUND

    def _outcome(self, code: int) -> RunUpdate:
        if self._was_stopped or -code in STOPS:
            return RunUpdate("", status=RunStatus.CANCELED)
        if code == 0:
            return RunUpdate("", status=RunStatus.COMPLETED, output={"exitCode": 0})
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            message = f"{self._new[0]} was ended by {name}"
        else:
            message = f"{self._new[0]} exited with {code}"
        told = {"name": "ExitCode", "message": message}
        return RunUpdate("", status=RunStatus.FAILED, error=told)

    # Its output

    async def _pass_on(self, fd: int, to: BinaryIO, reporter: Reporter) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
        )
        splitter = Splitter(keep=self._show_progress)
        try:
            while chunk := await reader.read(65536):
                self._take(*splitter.split(chunk), to, reporter)
        except BrokenPipeError:
            # Nobody reads what it writes: `| head`. It gets to know by closing this end.
            pass
        finally:
            with suppress(BrokenPipeError):
                self._take(*splitter.rest(), to, reporter)
            transport.close()

    def _take(
        self, shown: bytes, progress: list[Progress], to: BinaryIO, reporter: Reporter
    ) -> None:
        if progress:
            last = progress[-1]
            if last.fraction is not None:
                reporter.put(Operation("set", "progress", last.fraction))
            reporter.put(Operation("set", "message", last.message))
        if shown:
            self._tail.add(shown)
            to.write(shown)
            to.flush()

    async def _tell_tail(self, reporter: Reporter) -> None:
        while True:
            await asyncio.sleep(TAIL_INTERVAL_S)
            if self._tail.is_news:
                reporter.put(Operation("set", "output", self._tail.text()))

    # Its end

    def _signalled(self, number: signal.Signals) -> None:
        self._was_stopped = True
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)

    async def _heed_cancel(self, process: asyncio.subprocess.Process, reporter: Reporter) -> None:
        await reporter.is_settled.wait()
        if reporter.run_id is None:
            return
        subscription = self._client.subscribe_to_run(
            reporter.run_id, skip=["payload", "output", "metadata"], delivery="latest"
        )
        try:
            async for seen in subscription:
                if seen.is_final:
                    break
            else:
                return
        except RunstreamError as error:
            click.echo(f"runstream: a cancel would not be heard: {error}", err=True)
            return
        finally:
            await subscription.aclose()
        click.echo(f"runstream: the run is {seen.status.value}; stopping", err=True)
        self._was_stopped = True
        self._send(signal.SIGTERM)
        await asyncio.sleep(self._grace_s)
        self._send(signal.SIGKILL)


class Signals:
    """While it is entered, the signals that stop a program are passed to a function instead."""

    def __init__(self, heed: Any) -> None:
        self._heed = heed

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self._heed, number)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.remove_signal_handler(number)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _text(name: str) -> str:
    # A file's name may be no text at all; JSON has only text.
    return name.encode("utf-8", "replace").decode("utf-8")
