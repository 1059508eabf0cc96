"""What there is to watch: each view takes what a subscription tells, and is drawn from that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from runstream.changes import Change, Changed, Entered, Live
from runstream.cli.board import Board
from runstream.cli.history import History
from runstream.cli.pictures.batch import batch_lines
from runstream.cli.pictures.job_run import job_lines
from runstream.cli.pictures.parts import Frame, Lines, line, shorter
from runstream.cli.pictures.run import run_lines
from runstream.cli.pictures.table import Widths, table, totals
from runstream.cli.text import clean, fit
from runstream.client import Runstream
from runstream.errors import RunstreamError
from runstream.models import AnyRun, Batch
from runstream.resources.models import TimelineStep


class View:
    """One thing that is watched: what is known of it, and how it is drawn."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.board = Board()
        self.is_ready = False
        self.truncated = False

    def take(self, change: Change[AnyRun]) -> AnyRun | None:
        """Takes what is told; gives the run that it is about, if it has come or changed."""
        self.board.take(change)
        if isinstance(change, Live):
            self.is_ready, self.truncated = True, change.truncated
        return change.run if isinstance(change, Entered | Changed) else None

    @property
    def is_good(self) -> bool:
        """Whether what it is about was completed; what never ends is not bad."""
        return True

    async def prepare(self, redraw: Callable[[], None]) -> None:
        """Reads what the subscription does not tell; what cannot be read is left out."""

    async def settle(self) -> None:
        """Reads what `prepare` would have, had it had the time."""

    def draw(self, frame: Frame) -> Lines:
        """The picture below the first line."""
        raise NotImplementedError

    def leave(self, frame: Frame) -> Lines:
        """The picture that stays when it is over."""
        return self.draw(frame)


class RunsView(View):
    """Many runs."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._widths = Widths()

    def draw(self, frame: Frame) -> Lines:
        if not self.is_ready and not len(self.board):
            return []
        counts = totals(self.board)
        if self.truncated:
            counts += "  (the newest; there are more)"
        lines = [line((fit(counts, frame.width).rstrip(), ""))]
        if frame.height >= 10:
            lines.append(line())
        return lines + table(self.board, shorter(frame, len(lines)), self._widths)


class BatchView(RunsView):
    """A batch: how far it is as one bar, then its runs."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"batch {clean(batch_id)}")

    @property
    def is_good(self) -> bool:
        batch = self.board.batch
        return batch is not None and batch.counts.get("COMPLETED", 0) == batch.size

    def draw(self, frame: Frame) -> Lines:
        batch = self.board.batch
        if batch is None:
            return super().draw(frame)
        lines = batch_lines(batch, frame)
        # The batch knows of all its runs, also of those that are not shown.
        lines.append(line((fit(_counts(batch), frame.width).rstrip(), "dim")))
        if frame.height >= 10:
            lines.append(line())
        return lines + table(self.board, shorter(frame, len(lines)), self._widths)


def _counts(batch: Batch) -> str:
    return "  ".join(f"{count:,} {clean(status)}" for status, count in batch.counts.items())


class RunView(View):
    """One run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {clean(run_id)}")
        self.run_id = run_id
        self.run: AnyRun | None = None

    def take(self, change: Change[AnyRun]) -> AnyRun | None:
        run = super().take(change)
        if run is not None and run.id == self.run_id:
            self.run = run
        return run

    @property
    def is_good(self) -> bool:
        return self.run is not None and self.run.is_success

    def draw(self, frame: Frame) -> Lines:
        if self.run is None:
            return []
        lines = run_lines(self.run, frame)
        if self.run.task_identifier.startswith("job_") and not self.run.is_final:
            lines.append(line((fit("a job run: --job-run shows its steps", frame.width), "dim")))
        return lines


class JobView(RunView):
    """A job run with its steps; with each change, if asked for."""

    def __init__(self, run_id: str, client: Runstream, *, with_timeline: bool = False) -> None:
        super().__init__(run_id)
        self.title = f"job run {clean(run_id)}"
        self._client = client
        self._history = History(run_id) if with_timeline else None
        self._plan: Sequence[TimelineStep] = ()
        self._name = ""
        self._steps: dict[int, AnyRun] = {}
        self._to_read = asyncio.Event()

    def take(self, change: Change[AnyRun]) -> AnyRun | None:
        run = super().take(change)
        if run is not None and run.parent_run_id == self.run_id and run.position is not None:
            self._steps[run.position] = run
        if run is not None and self._history is not None:
            self._history.note(run)
        if isinstance(change, Live) and not change.resumed:
            self._to_read.set()
        return run

    async def prepare(self, redraw: Callable[[], None]) -> None:
        """Reads the names of the job and its steps, the planned ones too, and what has happened.

        Only once the subscription is live: what comes after that is told. Again after a reset.
        """
        while True:
            await self._to_read.wait()
            await self._read(redraw)

    async def settle(self) -> None:
        if self._to_read.is_set():
            await self._read(lambda: None)

    async def _read(self, redraw: Callable[[], None]) -> None:
        for read in (self._read_plan, self._read_name):
            # A token for the run alone may not read the job; a server may be away just now.
            # The subscription says what there is to say about that.
            with suppress(RunstreamError):
                await read()
            redraw()
        self._to_read.clear()

    async def _read_plan(self) -> None:
        after: str | None = None
        while True:
            limit = None if self._history is not None else 1
            page = await self._client.job_runs.timeline(self.run_id, limit=limit, after=after)
            self._plan, after = page.steps, page.next
            if self._history is None:
                return
            self._history.read(page)
            if after is None:
                return

    async def _read_name(self) -> None:
        if self.run is not None:
            self._name = clean((await self._client.jobs.get(self.run.task_identifier)).name)

    def draw(self, frame: Frame) -> Lines:
        if self.run is None:
            return []
        steps = [self._steps[position] for position in sorted(self._steps)]
        # The changes have their share, however many steps there are.
        less = 0 if self._history is None else min(10, frame.height // 2)
        tree = shorter(frame, less)
        lines = job_lines(self.run, steps, self._plan, self._name, tree)
        if self._history is None:
            return lines
        lines.append(line())
        told = self._history.lines(frame)
        room = max(3, frame.height - len(lines))
        if len(told) > room:
            hidden = len(told) - room + 1
            lines.append(line((f"… {hidden:,} lines before", "dim")))
            told = told[hidden:]
        return lines + told

    def leave(self, frame: Frame) -> Lines:
        # What stays may be scrolled: all of it.
        return self.draw(replace(frame, height=max(frame.height, 100_000)))
