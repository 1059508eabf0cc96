"""Runs as lines of a terminal: a table, one run, a batch, the steps of a job run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from rich.text import Text

from runstream.cli.board import Board, message_of, progress_of
from runstream.cli.text import (
    between,
    clean,
    clean_lines,
    duration,
    fit,
    head_of,
    json_line,
    so_far,
    width_of,
)
from runstream.models import AnyRun, Batch, RunError, RunStatus
from runstream.resources.models import TimelineStep

Lines = list[Text]
Cell = Sequence[tuple[str, str]]

STYLES: Final = {
    RunStatus.COMPLETED: "green",
    RunStatus.CANCELED: "yellow",
    RunStatus.EXECUTING: "cyan",
    RunStatus.REATTEMPTING: "magenta",
    RunStatus.FROZEN: "blue",
}

STACK_LINES: Final = 8
TOOK: Final = 12
STATUS: Final = max(len(status) for status in RunStatus)


def style_of(status: RunStatus) -> str:
    """The colour that a status is shown in."""
    return STYLES.get(status, "red" if status.is_failed else "")


@dataclass(frozen=True)
class Frame:
    """What a picture is drawn in: how large it may be, and when."""

    width: int
    height: int
    now: datetime


@dataclass(frozen=True)
class Standing:
    """How the connection stands: `connecting`, `live`, `stale` or `ended`, and why."""

    word: str
    detail: str = ""


_STANDING: Final = {
    "connecting": ("○", "yellow"),
    "live": ("●", "green"),
    "stale": ("!", "bold red"),
    "ended": ("■", "dim"),
}


def line(*parts: tuple[str, str] | str) -> Text:
    """A line of texts, which must be clean, each with its style or with none."""
    text = Text(end="")
    for part in parts:
        if isinstance(part, str):
            text.append(part)
        else:
            text.append(part[0], part[1])
    return text


def heading(standing: Standing, title: str, address: str, width: int) -> Text:
    """The first line: whether what is shown is live stands in it at any width."""
    mark, style = _STANDING[standing.word]
    word = f"{mark} {standing.word}"
    rest = width - width_of(word) - 2
    detail = clean(standing.detail)
    if detail:
        # Why it is not live matters more than what would be shown if it were.
        title = f"{title} · {detail}" if width_of(title) + width_of(detail) + 3 <= rest else detail
    room = rest - width_of(title)
    right = address if not detail and room >= width_of(address) + 2 else ""
    return line((word, style), "  ", fit(title, rest - width_of(right)), (right, "dim"))


def totals(board: Board) -> str:
    """How many runs, and how many in which status."""
    if not len(board):
        return "no runs yet"
    counts = "  ".join(f"{count:,} {status.value}" for status, count in board.counts.items())
    return counts if len(board.counts) == 1 else f"{len(board):,} runs: {counts}"


def bar(part: float, width: int, style: str) -> Sequence[tuple[str, str]]:
    """A bar of so many columns, full as far as said; seen without colours, too."""
    full = min(width, int(part * width + 1e-9))
    # Only what is done looks done.
    return ("━" * full, style), ("─" * (width - full), "dim")


def measured(part: float | None, width: int, style: str) -> Sequence[tuple[str, str]]:
    """How far something is: as a bar with per cent where there is room, else per cent alone."""
    if width <= 0:
        return ()
    if part is None:
        return ((" " * width, ""),)
    percent = f"{int(part * 100)} %"
    if width < 10:
        return ((fit(percent, width, right=True), style),)
    return (*bar(part, width - 6, style), (fit(percent, 6, right=True), ""))


def took(run: AnyRun, now: datetime) -> str:
    """How long it has been executing; how long it will wait, if it is not due yet."""
    if run.status is RunStatus.DELAYED and run.delayed_until is not None:
        return f"in {so_far(now, run.delayed_until)}"
    if run.started_at is None:
        return ""
    if run.is_final:
        return duration(run.duration_ms / 1000) if run.duration_ms else _spent(run)
    return so_far(run.started_at, now)


def _spent(run: AnyRun) -> str:
    if run.started_at is None or run.finished_at is None:
        return ""
    return between(run.started_at, run.finished_at)


def said(run: AnyRun) -> tuple[str, str]:
    """What is to be said of a run, and in which style: its error, or what it does."""
    if run.error is not None and not run.is_success:
        return error_text(run.error), "red" if run.is_failed else "magenta"
    return clean(message_of(run)), ""


def error_text(error: RunError) -> str:
    """An error on one line."""
    return ": ".join(part for part in (clean(error.name), clean(error.message)) if part)


def stack_lines(error: RunError, most: int = STACK_LINES) -> list[str]:
    """The end of an error's stack."""
    return clean_lines(error.stack or "", most)


# Many runs


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


def batch_lines(batch: Batch, frame: Frame) -> Lines:
    """How far a batch is, each outcome a part of one bar."""
    width = frame.width
    part = batch.final / batch.size if batch.size else 0.0
    words = f"{batch.final:,} of {batch.size:,} final"
    if batch.completed_at is not None:
        words += f" · complete after {between(batch.created_at, batch.completed_at)}"
    elif batch.sealed_at is None:
        words += " · still open"
    else:
        words += f" · {so_far(batch.created_at, frame.now)}"
    percent = f"{int(part * 100)} %"
    room = width - width_of(words) - width_of(percent) - 4
    full = min(60, room) if room >= 10 else 0
    parts: list[tuple[str, str] | str] = []
    if full:
        parts += [*_parts(batch, full), "  "]
    return [line(*parts, percent, "  ", (fit(words, width - full - 8).rstrip(), ""))]


def _parts(batch: Batch, width: int) -> Sequence[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    done = drawn = 0
    for status in RunStatus:
        count = batch.counts.get(status.value, 0)
        if not status.is_final or not count:
            continue
        done += count
        upto = int(width * min(1.0, done / max(1, batch.size)) + 1e-9)
        parts.append(("━" * (upto - drawn), style_of(status)))
        drawn = max(drawn, upto)
    return (*parts, ("─" * (width - drawn), "dim"))


# One run


def run_lines(run: AnyRun, frame: Frame) -> Lines:
    """One run with all that it says of itself."""
    width = frame.width
    facts = [f"#{run.number}"]
    if run.attempt > 1:
        facts.append(f"attempt {run.attempt}")
    if time := took(run, frame.now):
        facts.append(time)
    lines = [_subject(run, clean(run.task_identifier), facts, width)]
    lines += _progress(run, width)
    if run.tags:
        lines += _field("tags", ", ".join(map(clean, run.tags)), width)
    tail = run.metadata.get("output")
    for name, value in run.metadata.items():
        if name in ("progress", "message") or (name == "output" and isinstance(tail, str)):
            continue
        lines += _field(clean(name), _value(value), width)
    lines += _error(run, width)
    if run.is_success and run.output is not None:
        lines += _field("output", _value(run.output), width)
    if isinstance(tail, str) and tail.strip():
        # What a program wrote last, as far as there is room.
        room = max(4, frame.height - len(lines) - 1)
        written = clean_lines(tail, room)
        lines.append(line((fit("─" * width, width), "dim")))
        lines += (line((fit(one, width).rstrip(), "")) for one in written)
    return lines


def _subject(run: AnyRun, name: str, facts: Sequence[str], width: int) -> Text:
    rest = " · ".join(facts)
    room = width - len(run.status) - 2
    return line(
        (run.status.value, f"bold {style_of(run.status)}".strip()),
        "  ",
        (
            fit(f"{name} {rest}", room).rstrip() if width_of(name) + len(rest) + 1 > room else name,
            "bold",
        ),
        *((f"  {rest}",) if width_of(name) + len(rest) + 2 <= room else ()),
    )


def _progress(run: AnyRun, width: int) -> Lines:
    part, text = progress_of(run), clean(message_of(run))
    if part is None:
        return [line(fit(text, width).rstrip())] if text else []
    wide = min(56, max(8, width - (min(width_of(text), 30) + 2 if text else 0)))
    rest = width - wide - 2
    return [
        line(
            *measured(part, wide, style_of(run.status) or "cyan"),
            "  ",
            fit(text, max(0, rest)).rstrip(),
        )
    ]


def _field(name: str, value: str, width: int) -> Lines:
    label = fit(name, min(16, max(4, width // 4)))
    return [line((label, "dim"), "  ", fit(value, max(0, width - width_of(label) - 2)).rstrip())]


def _value(value: Any) -> str:
    return clean(value if isinstance(value, str) else json_line(value))


def _error(run: AnyRun, width: int) -> Lines:
    if run.error is None or run.is_success:
        return []
    style = "red" if run.is_failed else "magenta"
    lines = [
        line((fit(one, width).rstrip(), style)) for one in wrapped(error_text(run.error), width)
    ]
    return lines + [
        line((fit("  " + one, width).rstrip(), "dim")) for one in stack_lines(run.error)
    ]


def wrapped(text: str, width: int, most: int = 4) -> list[str]:
    """A clean text on a few lines."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most - 1 and width_of(rest) > width > 0:
        head = head_of(rest, width)
        cut = head.rfind(" ")
        cut = cut if cut > len(head) // 2 else max(1, len(head))
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*lines, fit(rest, width).rstrip()] if rest else lines


# A job run


def job_lines(
    run: AnyRun, steps: Sequence[AnyRun], plan: Sequence[TimelineStep], name: str, frame: Frame
) -> Lines:
    """A job run as a tree: its steps in order with their bars, those to come included."""
    made = {step.position: step for step in steps}
    planned = {step.position: step for step in plan}
    positions = sorted(made.keys() | planned.keys(), key=lambda position: position or 0)
    done = sum(step.is_success for step in steps)
    facts = [f"#{run.number}", f"{done} of {len(positions)} steps"]
    if time := took(run, frame.now):
        facts.append(time)
    lines = [_subject(run, name or clean(run.task_identifier), facts, frame.width)]
    labels = {
        position: f"{(position or 0) + 1} "
        + clean(
            (planned[position].name if position in planned else "")
            or (made[position].task_identifier if position in made else "")
        )
        for position in positions
    }
    widest = max(map(width_of, labels.values()), default=0) + 1
    groups: list[Lines] = []
    for position in positions:
        is_last = position == positions[-1]
        step = made.get(position)
        group = [_step(step, labels[position], widest, frame, is_last=is_last)]
        if step is not None and step.is_failed and step.error is not None:
            edge = "   " if is_last else "│  "
            told = [*wrapped(error_text(step.error), frame.width - 7), *stack_lines(step.error)]
            group += (line((edge, "dim"), "    ", (one, "red")) for one in told)
        groups.append(group)
    done_first = [position in made and made[position].is_success for position in positions]
    focus = done_first.index(False) if False in done_first else len(groups) - 1
    lines += _around(groups, focus, frame.height - 1)
    if run.error is not None and not any(step.error is not None for step in steps):
        lines += _error(run, frame.width)
    return lines


def _around(groups: Sequence[Lines], focus: int, room: int) -> Lines:
    """As many of the steps as fit: the one that matters now, what follows, what was before."""
    if sum(map(len, groups)) <= room:
        return [one for group in groups for one in group]
    begin = end = max(0, focus)
    room -= 2  # for what is left out above and below
    while end < len(groups) and (end == begin or len(groups[end]) <= room):
        room -= len(groups[end])
        end += 1
    while begin > 0 and len(groups[begin - 1]) <= room:
        begin -= 1
        room -= len(groups[begin])
    lines = [one for group in groups[begin:end] for one in group]
    if begin:
        lines.insert(0, line((f"├─ … {begin:,} before", "dim")))
    if end < len(groups):
        lines.append(line((f"└─ … and {len(groups) - end:,} more", "dim")))
    return lines


_MARKS: Final[Mapping[str, str]] = {"success": "✓", "failed": "✗", "canceled": "✗", "moves": "●"}


def mark_of(status: RunStatus | None) -> str:
    """A sign for how a step stands."""
    if status is None or status.is_queued:
        return "○"
    if status.is_success:
        return _MARKS["success"]
    return _MARKS["failed" if status.is_final else "moves"]


def _step(step: AnyRun | None, label: str, widest: int, frame: Frame, *, is_last: bool) -> Text:
    width = frame.width
    status = None if step is None else step.status
    style = "dim" if status is None else style_of(status)
    edge = "└─ " if is_last else "├─ "
    name = min(widest, max(8, width // 3))
    word = "planned" if status is None else status.value
    parts: list[tuple[str, str] | str] = [
        (edge, "dim"),
        (f"{mark_of(status)} ", style),
        (fit(label, name), "dim" if status is None else ""),
        "  ",
        (fit(word, 12), style),
    ]
    rest = width - 5 - name - 2 - 12
    time = "" if step is None else took(step, frame.now)
    progress = None if step is None else _part_of(step)
    bar_width = 26 if rest >= 26 + TOOK + 4 else 5 if rest >= 5 + TOOK + 4 else 0
    if bar_width:
        if progress is None and bar_width > 8:
            parts += ["  ", ("─" * (bar_width - 6) + " " * 6, "dim")]
        else:
            parts += ["  ", *measured(progress, bar_width, style)]
        rest -= bar_width + 2
    if rest >= TOOK + 2:
        parts += ["  ", (fit(time, TOOK, right=True), "dim")]
        rest -= TOOK + 2
    if step is not None and rest >= 10:
        text = clean(message_of(step))
        if step.attempt > 1:
            text = f"attempt {step.attempt}" + (f" · {text}" if text else "")
        parts += ["  ", fit(text, rest - 2).rstrip()]
    return line(*parts)


def _part_of(step: AnyRun) -> float | None:
    part = progress_of(step)
    # Who is done is all the way there, whatever was said last.
    return 1.0 if step.is_success else part


def shorter(frame: Frame, by: int) -> Frame:
    """The frame with so many lines less."""
    return replace(frame, height=max(1, frame.height - by))
