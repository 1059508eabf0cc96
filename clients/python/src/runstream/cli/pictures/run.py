"""One run with all that it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from runstream.cli.board import message_of, progress_of
from runstream.cli.pictures.parts import (
    Frame,
    Lines,
    error_text,
    line,
    measured,
    stack_lines,
    style_of,
    took,
    wrapped,
)
from runstream.cli.text import clean, clean_lines, fit, json_line, width_of
from runstream.models import AnyRun


def run_lines(run: AnyRun, frame: Frame) -> Lines:
    """One run with all that it says of itself."""
    width = frame.width
    facts = [f"#{run.number}"]
    if run.attempt > 1:
        facts.append(f"attempt {run.attempt}")
    if time := took(run, frame.now):
        facts.append(time)
    lines = [subject(run, clean(run.task_identifier), facts, width)]
    lines += _progress(run, width)
    if run.tags:
        lines += _field("tags", ", ".join(map(clean, run.tags)), width)
    tail = run.metadata.get("output")
    for name, value in run.metadata.items():
        if name in ("progress", "message") or (name == "output" and isinstance(tail, str)):
            continue
        lines += _field(clean(name), _value(value), width)
    lines += error(run, width)
    if run.is_success and run.output is not None:
        lines += _field("output", _value(run.output), width)
    if isinstance(tail, str) and tail.strip():
        # What a program wrote last, as far as there is room.
        room = max(4, frame.height - len(lines) - 1)
        written = clean_lines(tail, room)
        lines.append(line((fit("─" * width, width), "dim")))
        lines += (line((fit(one, width).rstrip(), "")) for one in written)
    return lines


def subject(run: AnyRun, name: str, facts: Sequence[str], width: int) -> Text:
    """Its first line: the status, the name, and the facts as far as there is room."""
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


def error(run: AnyRun, width: int) -> Lines:
    """Its error with the end of the stack, unless it went well in the end."""
    if run.error is None or run.is_success:
        return []
    style = "red" if run.is_failed else "magenta"
    lines = [
        line((fit(one, width).rstrip(), style)) for one in wrapped(error_text(run.error), width)
    ]
    return lines + [
        line((fit("  " + one, width).rstrip(), "dim")) for one in stack_lines(run.error)
    ]
