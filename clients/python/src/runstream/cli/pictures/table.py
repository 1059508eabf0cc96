"""Many runs as a table, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from runstream.cli.board import Board, progress_of
from runstream.cli.pictures.parts import TOOK, Frame, Lines, line, measured, said, style_of, took
from runstream.cli.text import clean, fit, width_of
from runstream.models import AnyRun

Cell = Sequence[tuple[str, str]]


def totals(board: Board) -> str:
    """How many runs, and how many in which status."""
    if not len(board):
        return "no runs yet"
    counts = "  ".join(f"{count:,} {status.value}" for status, count in board.counts.items())
    return counts if len(board.counts) == 1 else f"{len(board):,} runs: {counts}"


@dataclass
class Widths:
    """What a table has needed so far: it only grows, so that columns don't jump about."""

    status: int = len("EXECUTING")
    task: int = 8
    run: int = 7
    has_progress: bool = False
    has_words: bool = False

    def grow(self, runs: Sequence[AnyRun]) -> None:
        """Sees to it that these have room."""
        for run in runs:
            self.status = max(self.status, len(run.status))
            self.task = max(self.task, width_of(clean(run.task_identifier)))
            self.run = max(self.run, width_of(clean(run.id)))
            self.has_progress = self.has_progress or progress_of(run) is not None
            self.has_words = self.has_words or bool(said(run)[0])


@dataclass(frozen=True)
class _Columns:
    status: int
    task: int
    run: int
    progress: int
    message: int
    took: int


def table(board: Board, frame: Frame, widths: Widths) -> Lines:
    """The runs, what moves on top, as many as fit, and how many more there are."""
    height = max(1, frame.height)
    titled = height >= 6
    room = height - titled
    shown = board.top(room)
    hidden = len(board) - len(shown)
    if hidden:
        shown = shown[: max(0, room - 1)]
        hidden = len(board) - len(shown)
    widths.grow(shown)
    columns = _columns(widths, frame.width)
    lines = [_titles(columns)] if titled and shown else []
    lines += (_row(run, columns, frame.now) for run in shown)
    if hidden:
        lines.append(line((f"… and {hidden:,} more", "dim")))
    return lines


def _columns(widths: Widths, width: int) -> _Columns:
    progress = (26 if width >= 96 else 16 if width >= 70 else 5) if widths.has_progress else 0
    progress = progress if width >= 36 else 0
    duration_width = TOOK if width >= 44 else 0
    others = (widths.status, progress, duration_width)
    rest = width - sum(others) - 2 * sum(map(bool, others))
    # What a run says matters more than the whole of its id, and that more than a long name.
    words = 24 if widths.has_words else 0
    whole = rest - widths.run - 2 >= min(widths.task, 24) + words
    run_id = widths.run if whole else 7 if rest >= 20 else 0
    rest -= run_id + 2 if run_id else 0
    task = min(widths.task, max(12, rest // 2))
    if not widths.has_words or rest - task - 2 < 10:
        return _Columns(widths.status, rest, run_id, progress, 0, duration_width)
    return _Columns(widths.status, task, run_id, progress, rest - task - 2, duration_width)


def _titles(columns: _Columns) -> Text:
    return _cells(
        _cell("STATUS", columns.status, "dim"),
        _cell("TASK", columns.task, "dim"),
        _cell("RUN", columns.run, "dim"),
        _cell("PROGRESS" if columns.progress > 8 else "%", columns.progress, "dim"),
        _cell("MESSAGE", columns.message, "dim"),
        _cell("TOOK", columns.took, "dim", right=True),
    )


def _row(run: AnyRun, columns: _Columns, now: datetime) -> Text:
    style = style_of(run.status)
    run_id = clean(run.id)
    if width_of(run_id) > columns.run:
        run_id = "…" + run_id[-6:]
    text, text_style = said(run)
    return _cells(
        _cell(run.status, columns.status, style),
        _cell(clean(run.task_identifier), columns.task),
        _cell(run_id, columns.run, "dim"),
        measured(progress_of(run), columns.progress, style),
        _cell(text, columns.message, text_style),
        _cell(took(run, now), columns.took, "dim", right=True),
    )


def _cell(text: str, width: int, style: str = "", *, right: bool = False) -> Cell:
    return ((fit(text, width, right=right), style),) if width > 0 else ()


def _cells(*cells: Cell) -> Text:
    parts: list[tuple[str, str] | str] = []
    for cell in cells:
        if cell:
            parts += ["  ", *cell] if parts else cell
    return line(*parts)
