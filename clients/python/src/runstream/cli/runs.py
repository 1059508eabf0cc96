"""`runstream runs`: a list."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runstream.cli.board import progress_of
from runstream.cli.pictures.parts import style_of
from runstream.cli.server import Server, carry_out, server_options
from runstream.cli.text import clean, json_line
from runstream.models import AnyRun, RunStatus


@click.command()
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.value for status in RunStatus], case_sensitive=False),
    help="May be repeated: any of them.",
)
@click.option("--tag", "tags", multiple=True, help="May be repeated: all of them.")
@click.option("--task", "tasks", multiple=True, help="May be repeated: any of them.")
@click.option("--batch", help="The runs of this batch.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
@server_options
@click.pass_obj
def runs(
    server: Server,
    statuses: tuple[str, ...],
    tags: tuple[str, ...],
    tasks: tuple[str, ...],
    batch: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Lists runs, the newest first."""

    async def work() -> None:
        async with server.client() as client:
            found: list[AnyRun] = []
            listing = client.runs.list(
                statuses=[RunStatus(status.upper()) for status in statuses],
                tags=tags,
                tasks=tasks or None,
                batch_id=batch,
                limit=min(limit, 1000),
            )
            async for one in listing:
                found.append(one)
                if len(found) == limit:
                    break
        if as_json:
            for one in found:
                click.echo(json_line(one))
        elif found:
            _show(found)
        else:
            click.echo("no runs", err=True)

    carry_out(work, server)


def _show(found: Sequence[AnyRun]) -> None:
    # Piped, there is no edge to fold lines at.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    table = Table(box=None, pad_edge=False)
    for title in ("ID", "TASK", "STATUS", "%", "TAGS", "AGE"):
        table.add_column(title, no_wrap=title not in ("TASK", "TAGS"), overflow="fold")
    for one in found:
        table.add_row(*_row(one))
    console.print(table)


def _row(one: AnyRun) -> tuple[Text, ...]:
    progress = progress_of(one)
    return (
        Text(clean(one.id)),
        Text(clean(one.task_identifier)),
        Text(one.status.value, style=style_of(one.status)),
        Text("" if progress is None else f"{progress:.0%}"),
        Text(", ".join(map(clean, one.tags))),
        Text(_age(one)),
    )


def _age(one: AnyRun) -> str:
    seconds = max(0.0, (datetime.now(UTC) - one.created_at).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
