"""`runstream timeline`: what happened in a job run or a run, and where and why it failed."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from typing import Final

import click
from rich.console import Console

from runstream.cli.history import History, text_of
from runstream.cli.pictures.parts import Frame, Lines, line, style_of
from runstream.cli.server import Failure, Server, carry_out, server_options
from runstream.cli.text import clean, duration, fit, json_line
from runstream.client import Runstream
from runstream.errors import NotFound
from runstream.models import AnyRun
from runstream.resources.models import HistoryEntry, TimelineEntry

PIPED_WIDTH: Final = 160


@click.command()
@click.argument("run_id")
@click.option("--whole", is_flag=True, help="Each change of progress and metadata on its own line.")
@click.option(
    "--json", "as_json", is_flag=True, help="JSON lines: each change as the server has it."
)
@server_options
@click.pass_obj
def timeline(server: Server, run_id: str, whole: bool, as_json: bool) -> None:
    """Shows what happened in a job run, or in any run: every change in order.

    With the time since it was made, how long it was in the status before, the error and the
    end of its stack. Changes between two of the status are told together, unless --whole.
    `runstream watch --job-run ID --timeline` shows the same while it happens.
    """

    async def work() -> None:
        async with server.client() as client:
            found = await _found(client, run_id)
        if as_json:
            for entry in found.entries:
                click.echo(json_line(entry))
            return
        # Piped, there is no edge; a line should still be one that can be read.
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_WIDTH
        lines = found.lines(Frame(width, 24, datetime.now(UTC)), whole=whole)
        console = Console(width=width, highlight=False, markup=False, emoji=False)
        console.print(text_of(lines), no_wrap=True, overflow="crop", soft_wrap=False)

    carry_out(work, server)


class Found:
    """A run and all that became of it."""

    def __init__(self, run: AnyRun, name: str) -> None:
        self.run = run
        self.name = name
        self.history = History(run.id)
        self.entries: list[TimelineEntry | HistoryEntry] = []

    def lines(self, frame: Frame, *, whole: bool) -> Lines:
        """All of it: what it is, why it failed, its steps, each change."""
        run, history = self.run, self.history
        status = run.status
        time = ""
        if run.created_at is not None:
            end = run.finished_at or frame.now
            time = f"{'after' if status.is_final else 'since'} {duration((end - run.created_at).total_seconds())}"
        name = self.name or clean(run.task_identifier)
        lines = [
            line(
                (status.value, f"bold {style_of(status)}".strip()),
                "  ",
                (
                    fit(f"{name} #{run.number}  {time}", frame.width - len(status) - 2).rstrip(),
                    "bold",
                ),
            ),
            line((fit(clean(run.id), frame.width).rstrip(), "dim")),
            *history.why(frame.width),
        ]
        if chart := history.chart(frame):
            lines += [line(), *chart]
        return [*lines, line(), *history.lines(frame, whole=whole)]


async def _found(client: Runstream, run_id: str) -> Found:
    try:
        run = await client.runs.get(run_id)
        found = Found(run, "")
        try:
            after: str | None = None
            while True:
                page = await client.job_runs.timeline(run_id, after=after)
                found.history.read(page)
                found.entries += page.data
                after = page.next
                if after is None:
                    break
        except NotFound:
            # A run, but no job run.
            changes = [entry async for entry in client.runs.history(run_id)]
            found.history.read_changes(changes)
            found.entries += changes
            return found
    except NotFound as error:
        said = clean(run_id)
        raise Failure(f"There is no run {said}, or this key may not see it.", 1) from error
    try:
        found.name = clean((await client.jobs.get(run.task_identifier)).name)
    except NotFound:
        pass  # It was deleted; the job run has a snapshot of its own.
    return found
