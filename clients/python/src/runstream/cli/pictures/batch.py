"""A batch as one bar."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.cli.pictures.parts import Frame, Lines, line, style_of
from runstream.cli.text import between, fit, so_far, width_of
from runstream.models import Batch, RunStatus


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
