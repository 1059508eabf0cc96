"""A job run as a tree of its steps."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from runstream.cli.board import message_of, progress_of
from runstream.cli.pictures.parts import (
    TOOK,
    Frame,
    Lines,
    error_text,
    line,
    mark_of,
    measured,
    stack_lines,
    style_of,
    took,
    wrapped,
)
from runstream.cli.pictures.run import error, subject
from runstream.cli.text import clean, fit, width_of
from runstream.models import AnyRun
from runstream.resources.models import TimelineStep


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
    lines = [subject(run, name or clean(run.task_identifier), facts, frame.width)]
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
        lines += error(run, frame.width)
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
