"""`runstream watch`: a run, tags, a batch, a job run or everything, live."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from runstream.changes import Live
from runstream.cli.server import (
    NOT_COMPLETED,
    NOT_TOLD,
    Failure,
    Server,
    carry_out,
    server_options,
    tell_when_away,
)
from runstream.cli.text import clean, json_line
from runstream.cli.views import BatchView, JobView, RunsView, RunView, View
from runstream.cli.window import Window
from runstream.client import Runstream
from runstream.errors import NotFound
from runstream.models import AnyRun, RunStatus
from runstream.subscription import Subscription

MOST_RUNS: Final = 10_000
"""How many runs are told as they stand, the newest; as many as a server gives."""


@click.command()
@click.argument("run_id", required=False)
@click.option("--tag", "tags", multiple=True, help="Runs with this tag; with all, if repeated.")
@click.option("--any", "match_any", is_flag=True, help="Runs with any of the tags.")
@click.option("--all", "everything", is_flag=True, help="All runs.")
@click.option("--batch", help="The runs of this batch, until it is complete.")
@click.option("--job-run", help="This job run and its workflow runs, until it is final.")
@click.option("--timeline", is_flag=True, help="With --job-run: each change below the steps.")
@click.option("--task", "tasks", multiple=True, help="Only runs of this task; may be repeated.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    type=click.Choice([status.value for status in RunStatus], case_sensitive=False),
    help="Only runs in this status; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines, as when piped.")
@server_options
@click.pass_obj
def watch(
    server: Server,
    run_id: str | None,
    tags: tuple[str, ...],
    match_any: bool,
    everything: bool,
    batch: str | None,
    job_run: str | None,
    timeline: bool,
    tasks: tuple[str, ...],
    statuses: tuple[str, ...],
    as_json: bool,
) -> None:
    """Shows runs as they change: a run, tags, a batch, a job run or everything.

    On a terminal as a picture that changes, until q or Ctrl-C. Piped, or with --json, as
    JSON lines: each run as it stands, then each change of it, whole.

    \b
    Ends with
      0    the run, the job run or each run of the batch was COMPLETED
      1    it was not: it failed, was canceled, expired …
      2    the command line was wrong
      3    it could not be watched: no such run, a wrong key …
      130  after q or Ctrl-C
      143  after SIGTERM
    """
    if sum(map(bool, (run_id, tags, everything, batch, job_run))) != 1:
        raise click.UsageError("Say one of: RUN_ID, --tag, --all, --batch, --job-run.")
    if timeline and not job_run:
        raise click.UsageError(
            "--timeline goes with --job-run; `runstream timeline` shows a run's."
        )
    if match_any and not tags:
        raise click.UsageError("--any goes with --tag.")
    if (tasks or statuses) and (run_id or job_run):
        raise click.UsageError("--task and --status choose among many runs, not of one.")
    on_screen = not as_json and is_terminal()

    async def work() -> bool:
        async with server.client() as client:
            options: Any = {}
            if on_screen:
                # A screen shows what is; who is slow is not owed each version on the way.
                options = {"delivery": "latest", "skip": ["payload"]}
            view: View
            if run_id:
                view = RunView(run_id)
                subscription = client.subscribe_to_run(run_id, **options)
            elif job_run:
                view = JobView(job_run, client, with_timeline=timeline)
                if timeline and on_screen:
                    options["delivery"] = "every"
                subscription = client.subscribe_to_job_run(job_run, **options)
            else:
                many: Any = {
                    **options,
                    "limit": MOST_RUNS,
                    "tasks": [*tasks] or None,
                    "statuses": [RunStatus(status.upper()) for status in statuses] or None,
                }
                if on_screen:
                    many["skip"] = ["payload", "output"]
                if batch:
                    view = BatchView(batch)
                    subscription = client.subscribe_to_batch(batch, **many)
                elif everything:
                    view = RunsView(_title("all runs", tasks, statuses))
                    subscription = client.subscribe_to_runs(**many)
                else:
                    said = (" or " if match_any else " and ").join(map(clean, tags))
                    title = f"{'tags' if len(tags) > 1 else 'tag'} {said}"
                    view = RunsView(_title(title, tasks, statuses))
                    match: Any = "any" if match_any else "all"
                    subscription = client.subscribe_to_runs_with_tag(tags, match=match, **many)
            try:
                return await follow(client, server, subscription, view, on_screen=on_screen)
            except NotFound as error:
                # A run that is not there is told as such, and not as a call that failed.
                kind = "batch" if batch else "job run" if job_run else "run"
                what = clean(run_id or batch or job_run or "")
                raise Failure(
                    f"There is no {kind} {what}, or this key may not see it." + _meant(what, kind)
                ) from error

    if not carry_out(work, server, code=NOT_TOLD):
        sys.exit(NOT_COMPLETED)


def is_terminal() -> bool:
    """Whether a picture can be drawn on standard output."""
    return sys.stdout.isatty() and not _is_dumb()


async def follow(
    client: Runstream,
    server: Server,
    subscription: Subscription[AnyRun],
    view: View,
    *,
    on_screen: bool,
) -> bool:
    """Shows a subscription until it ends: whether what it is about was completed."""
    if on_screen:
        await Window(client, server, subscription, view).show()
    else:
        tell_when_away(client, server)
        async for change in subscription.changes():
            run = view.take(change)
            if isinstance(change, Live) and change.truncated and not change.resumed:
                most = f"{MOST_RUNS:,}"
                click.echo(f"runstream: there are more than the newest {most} runs", err=True)
            if run is not None:
                click.echo(json_line(run))
    if subscription.end_reason == "deleted":
        raise Failure(f"{view.title} was deleted.")
    return view.is_good


def _title(what: str, tasks: Sequence[str], statuses: Sequence[str]) -> str:
    parts = [what]
    if tasks:
        parts.append("task " + " or ".join(map(clean, tasks)))
    if statuses:
        parts.append(" or ".join(status.upper() for status in statuses))
    return " · ".join(parts)


def _is_dumb() -> bool:
    return os.environ.get("TERM", "") in ("dumb", "unknown")


_PREFIXES = {"batch_": ("batch", "--batch"), "job_": ("job", "--job-run with the id of a job run")}


def _meant(said: str, kind: str) -> str:
    for prefix, (other, option) in _PREFIXES.items():
        if said.startswith(prefix) and kind != other:
            return f"\nThat looks like the id of a {other}: say {option}."
    return ""
