"""What all pictures are made of: their frame, their first line, and what is said of any run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from rich.text import Text

from runstream.cli.board import message_of
from runstream.cli.text import between, clean, clean_lines, duration, fit, head_of, so_far, width_of
from runstream.models import AnyRun, RunError, RunStatus

Lines = list[Text]

STYLES: Final = {
    RunStatus.COMPLETED: "green",
    RunStatus.CANCELED: "yellow",
    RunStatus.EXECUTING: "cyan",
    RunStatus.REATTEMPTING: "magenta",
    RunStatus.FROZEN: "blue",
}

STACK_LINES: Final = 8
TOOK: Final = 12


def style_of(status: RunStatus) -> str:
    """The colour that a status is shown in."""
    return STYLES.get(status, "red" if status.is_failed else "")


_MARKS: Final[Mapping[str, str]] = {"success": "✓", "failed": "✗", "canceled": "✗", "moves": "●"}


def mark_of(status: RunStatus | None) -> str:
    """A sign for how a step stands."""
    if status is None or status.is_queued:
        return "○"
    if status.is_success:
        return _MARKS["success"]
    return _MARKS["failed" if status.is_final else "moves"]


@dataclass(frozen=True)
class Frame:
    """What a picture is drawn in: how large it may be, and when."""

    width: int
    height: int
    now: datetime


def shorter(frame: Frame, by: int) -> Frame:
    """The frame with so many lines less."""
    return replace(frame, height=max(1, frame.height - by))


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
