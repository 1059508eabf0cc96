"""`runstream watch`: a run, a tag, a batch or a job run, live."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from runstream.changes import BatchProgress, Changed, Entered, Left, Reset
from runstream.cli.board import Board
from runstream.cli.server import Server, carry_out, server_options, tell_when_away
from runstream.client import Runstream
from runstream.models import AnyRun, Batch
from runstream.subscription import Subscription


@click.command()
@click.argument("run_id", required=False)
@click.option("--tag", "tags", multiple=True, help="Runs with this tag; with all, if repeated.")
@click.option("--any", "match_any", is_flag=True, help="Runs with any of the tags.")
@click.option("--batch", help="The runs of this batch, until it is complete.")
@click.option("--job-run", help="This job run and its workflow runs, until it is final.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, as when piped.")
@server_options
@click.pass_obj
def watch(
    server: Server,
    run_id: str | None,
    tags: tuple[str, ...],
    match_any: bool,
    batch: str | None,
    job_run: str | None,
    as_json: bool,
) -> None:
    """Shows runs as they change: a run, a tag, a batch or a job run.

    On a terminal with progress bars; piped, or with --json, as JSON lines: each run as it
    stands, then each change of it, whole.

    Ends with 0 if the run (or each of the batch) was COMPLETED, with 1 if not, and with
    130 after Ctrl-C.
    """
    if sum(map(bool, (run_id, tags, batch, job_run))) != 1:
        raise click.UsageError("Say one of: RUN_ID, --tag, --batch, --job-run.")

    async def work() -> bool:
        async with server.client() as client:
            tell_when_away(client, server)
            if run_id:
                subscription = client.subscribe_to_run(run_id)
            elif batch:
                subscription = client.subscribe_to_batch(batch)
            elif job_run:
                subscription = client.subscribe_to_job_run(job_run)
            else:
                match: Any = "any" if match_any else "all"
                subscription = client.subscribe_to_runs_with_tag(tags, match=match)
            return await follow(client, subscription, run_id or job_run, as_json=as_json)

    if not carry_out(work, server):
        sys.exit(1)


async def follow(
    client: Runstream,
    subscription: Subscription[AnyRun],
    run_id: str | None = None,
    *,
    as_json: bool = False,
) -> bool:
    """Shows a subscription until it ends: whether it ended well."""
    if as_json or not sys.stdout.isatty():
        outcome = await _as_lines(subscription)
    else:
        outcome = await _on_a_board(subscription)
    return outcome.is_good(run_id)


class Outcome:
    """What is needed of a stream to say whether it ended well."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.good: set[str] = set()
        self.batch: Batch | None = None

    def note(self, run: AnyRun) -> None:
        """Takes a run as it stands now."""
        if run.is_final:
            (self.good if run.is_success else self.bad).add(run.id)

    def is_good(self, run_id: str | None) -> bool:
        """Whether the run that it is about, or else every run, was completed."""
        if run_id is not None:
            return run_id in self.good
        if self.batch is not None:
            # It knows of more runs than the stream has shown, if that was truncated.
            return self.batch.counts.get("COMPLETED", 0) == self.batch.size
        return not self.bad


async def _as_lines(subscription: Subscription[AnyRun]) -> Outcome:
    outcome = Outcome()
    async for run in subscription:
        outcome.note(run)
        click.echo(msgspec.json.encode(run))
    outcome.batch = subscription.batch
    return outcome


async def _on_a_board(subscription: Subscription[AnyRun]) -> Outcome:
    outcome = Outcome()
    with Board() as board:
        async for change in subscription.changes():
            match change:
                case Entered(run=run) | Changed(run=run):
                    outcome.note(run)
                    board.show(run)
                case Left(run=run):
                    board.drop(run.id)
                case BatchProgress(batch=batch):
                    board.batch = batch
                case Reset():
                    board.clear()
    outcome.batch = subscription.batch
    return outcome
