"""Runs on a terminal, with a bar for each that says how far it is."""

from __future__ import annotations

from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runstream.models import AnyRun, Batch, RunStatus

STYLES: Final = {
    RunStatus.COMPLETED: "green",
    RunStatus.CANCELED: "yellow",
    RunStatus.EXECUTING: "cyan",
    RunStatus.REATTEMPTING: "magenta",
    RunStatus.FROZEN: "blue",
}

MAX_KEPT: Final = 2_000
"""Final runs kept to be shown; a long watch of a busy tag must not grow for ever."""


class Board:
    """Shows what it was told last, a few times a second, as long as it is entered."""

    def __init__(self, console: Console | None = None) -> None:
        self.batch: Batch | None = None
        self._runs: dict[str, AnyRun] = {}
        self._counts: dict[RunStatus, int] = {}
        self._console = console or Console()
        self._live = Live(
            console=self._console, get_renderable=self.render, refresh_per_second=8, transient=False
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def show(self, run: AnyRun) -> None:
        """Takes a run as it stands now."""
        self.drop(run.id)
        self._runs[run.id] = run
        self._counts[run.status] = self._counts.get(run.status, 0) + 1
        if len(self._runs) > MAX_KEPT:
            oldest = next((one.id for one in self._runs.values() if one.is_final), None)
            if oldest is not None:
                del self._runs[oldest]

    def drop(self, run_id: str) -> None:
        """Takes a run away."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            self._counts[run.status] -= 1

    def clear(self) -> None:
        """Takes all away."""
        self._runs.clear()
        self._counts.clear()

    def render(self) -> RenderableType:
        """What it looks like now. Called from another thread, so it works on copies."""
        height = max(3, self._console.height - 4)
        runs = sorted(self._runs.copy().values(), key=_rank)
        table = Table(box=None, pad_edge=False, expand=True, show_header=False)
        table.add_column(no_wrap=True, width=14)
        table.add_column(no_wrap=True, ratio=1)
        table.add_column(width=20)
        table.add_column(no_wrap=True, ratio=1)
        table.add_column(no_wrap=True, justify="right", width=8)
        for run in runs[:height]:
            table.add_row(*_row(run))
        parts: list[RenderableType] = [table]
        if len(runs) > height:
            parts.append(Text(f"… and {len(runs) - height} more", style="dim"))
        parts.append(self._summary())
        return Group(*parts)

    def _summary(self) -> RenderableType:
        counts = "  ".join(
            f"{count} {status.value}" for status, count in self._counts.copy().items() if count
        )
        text = Text(counts or "no runs yet", style="dim")
        if self.batch is None:
            return text
        table = Table(box=None, pad_edge=False, expand=True, show_header=False)
        table.add_column(no_wrap=True, min_width=14)
        table.add_column(width=20)
        table.add_column(no_wrap=True, ratio=1)
        bar = ProgressBar(total=max(1, self.batch.size), completed=self.batch.final, width=20)
        table.add_row(Text(f"{self.batch.final} of {self.batch.size} final"), bar, text)
        return table


def _row(run: AnyRun) -> tuple[RenderableType, ...]:
    style = STYLES.get(run.status, "red" if run.is_failed else "")
    return (
        Text(run.status.value, style=style),
        Text.assemble(run.task_identifier, " ", (run.id[-6:], "dim")),
        _bar(run),
        Text(_message(run), style="red" if run.is_failed else "", overflow="ellipsis"),
        Text(_took(run), style="dim"),
    )


def _bar(run: AnyRun) -> RenderableType:
    progress = progress_of(run)
    if progress is None:
        return Text("")
    return ProgressBar(total=1.0, completed=progress, width=20)


def progress_of(run: AnyRun) -> float | None:
    """How far the run says it is, from 0 to 1; None if it does not say."""
    progress: Any = run.metadata.get("progress")
    if isinstance(progress, bool) or not isinstance(progress, int | float):
        return None
    return min(1.0, max(0.0, float(progress)))


def _message(run: AnyRun) -> str:
    if run.error is not None:
        text = f"{run.error.name}: {run.error.message}"
    else:
        said: Any = run.metadata.get("message")
        text = said if isinstance(said, str) else ""
    return " ".join(text.split())


def _took(run: AnyRun) -> str:
    if run.started_at is None:
        return ""
    seconds = ((run.finished_at or datetime.now(UTC)) - run.started_at).total_seconds()
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _rank(run: AnyRun) -> tuple[bool, bool, int]:
    # What moves comes first, then what waits, then what is over, the newest on top.
    return run.is_final, run.is_queued, -run.number
