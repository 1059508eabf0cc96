"""What happened in a job run or a run, in order: each change, and how long each status lasted."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import msgspec
from rich.text import Text

from runstream.cli.board import fraction
from runstream.cli.pictures.parts import (
    Frame,
    Lines,
    error_text,
    line,
    mark_of,
    stack_lines,
    style_of,
    wrapped,
)
from runstream.cli.text import between, clean, clock, duration, fit, json_line, so_far, width_of
from runstream.models import AnyRun, RunError, RunStatus
from runstream.resources.models import HistoryEntry, Timeline, TimelineEntry, TimelineStep

# What a change always brings, or what its line says anyhow.
_UNSAID: Final = frozenset(
    {"id", "version", "updatedAt", "status", "queuedAt", "startedAt", "finishedAt", "durationMs"}
    | {"taskIdentifier", "error", "expiredAt"}
)


@dataclass(frozen=True)
class Moment:
    """One change of one run."""

    at: datetime
    run_id: str
    position: int | None
    version: int
    changed: Mapping[str, Any]

    @property
    def place(self) -> tuple[datetime, int, int, int]:
        """Where it stands among others, of the same transaction too.

        A job run is made, then its step; a step moves, then the next is made, then the job
        run moves.
        """
        new = self.version == 1
        rank = (0 if new else 3) if self.position is None else (2 if new else 1)
        return self.at, rank, -1 if self.position is None else self.position, self.version

    @property
    def status(self) -> RunStatus | None:
        """The status it brought; None if it left it as it was."""
        said = self.changed.get("status")
        return RunStatus(said) if said in _STATUSES else None

    @property
    def error(self) -> RunError | None:
        """The error it brought."""
        said = self.changed.get("error")
        return msgspec.convert(said, RunError) if isinstance(said, dict) else None


_STATUSES: Final = frozenset(status.value for status in RunStatus)


class History:
    """The changes of a run, or of a job run and its steps, however they came to be known."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.steps: dict[int, TimelineStep] = {}
        self._moments: list[Moment] = []
        self._known: set[tuple[str, int]] = set()
        self._last: dict[str, AnyRun] = {}

    def __len__(self) -> int:
        return len(self._moments)

    # How it becomes known

    def read(self, timeline: Timeline) -> None:
        """Takes a page of a job run's timeline."""
        self.steps = {step.position: step for step in timeline.steps}
        for entry in timeline.data:
            self._add(_of_entry(entry))

    def read_changes(self, entries: Iterable[HistoryEntry]) -> None:
        """Takes changes of a run that is no job run."""
        for entry in entries:
            self._add(Moment(entry.at, self.run_id, None, entry.version, entry.changed))

    def note(self, run: AnyRun) -> None:
        """Takes a run as a subscription tells it: what is other than before is what changed."""
        before = self._last.get(run.id)
        self._last[run.id] = run
        if before is None and run.version > 1:
            return  # What led there is read.
        now = msgspec.to_builtins(run)
        if before is None:
            changed = {name: value for name, value in now.items() if name != "payload"}
        else:
            then = msgspec.to_builtins(before)
            changed = {name: value for name, value in now.items() if then.get(name) != value}
        position = None if run.id == self.run_id else run.position
        self._add(Moment(run.updated_at, run.id, position, run.version, changed))

    def _add(self, moment: Moment) -> None:
        key = moment.run_id, moment.version
        if key not in self._known:
            self._known.add(key)
            insort(self._moments, moment, key=lambda known: known.place)

    # How it is shown

    @property
    def begin(self) -> datetime | None:
        """When the first of them was."""
        return self._moments[0].at if self._moments else None

    def lines(self, frame: Frame, *, whole: bool = False) -> Lines:
        """Each change in order; those between two transitions of a run as one line, or all of them."""
        begin = self.begin
        if begin is None:
            return [line(("nothing has happened yet", "dim"))]
        states = _States()
        names: dict[int | None, str] = {None: "job run" if self.steps else ""}
        names |= {n: f"{n + 1} {clean(step.name)}" for n, step in self.steps.items()}
        shape = _Shape.of(frame.width, max(map(width_of, names.values())))
        lines: Lines = []
        for some in self._folded(whole=whole):
            first, last = some[0], some[-1]
            words, style = states.told(some)
            name = names.get(first.position, f"{(first.position or 0) + 1}")
            lines += shape.lines(begin, first, name, words, style)
            error = last.error
            if error is not None and last.status is not None:
                lines += shape.stack(error)
        return lines

    def _folded(self, *, whole: bool) -> Iterable[Sequence[Moment]]:
        def place(moment: Moment) -> Any:
            if whole or moment.status is not None or moment.error is not None:
                return moment.run_id, moment.version
            return moment.run_id, 0

        return [tuple(some) for _, some in groupby(self._moments, key=place)]

    def why(self, width: int) -> Lines:
        """Where it failed, and why; nothing if it did not."""
        for moment in self._moments:
            if moment.position is None and self.steps:
                continue
            if moment.status is None or not moment.status.is_failed:
                continue
            step = self.steps.get(moment.position) if moment.position is not None else None
            words = moment.status.value
            if step is not None:
                words += f" in step {step.position + 1} of {len(self.steps)}, {clean(step.name)}"
                if step.attempt > 1:
                    words += f", at attempt {step.attempt}"
            if moment.error is not None:
                words += f": {error_text(moment.error)}"
            return [line((one, "bold red")) for one in wrapped(words, width)]
        return []

    def chart(self, frame: Frame) -> Lines:
        """The steps, each with its time from first to last of the whole."""
        if not self.steps or self.begin is None:
            return []
        ends = [step.finished_at for step in self.steps.values() if step.finished_at is not None]
        moves = any(step.status and not step.status.is_final for step in self.steps.values())
        end = frame.now if moves else max([self._moments[-1].at, *ends])
        names = [f"{step.position + 1} {clean(step.name)}" for step in self.steps.values()]
        name = min(max(map(width_of, names)), max(8, frame.width // 4))
        room = frame.width - (2 + name + 2 + 12 + 2 + 12 + 2)
        lines: Lines = []
        for step, label in zip(self.steps.values(), names, strict=True):
            style = "dim" if step.status is None else style_of(step.status)
            parts: list[tuple[str, str] | str] = [
                (f"{mark_of(step.status)} ", style),
                (fit(label, name), "" if step.status else "dim"),
                "  ",
                (fit(step.status or "planned", 12), style),
            ]
            if frame.width >= 2 + name + 2 + 12 + 2 + 12:
                spent = "" if step.started_at is None else _spent(step, frame.now)
                parts += ["  ", (fit(spent, 12, right=True), "dim")]
            if room >= 12:
                parts += ["  ", *_stretch(step, self.begin, end, frame.now, room, style)]
            lines.append(line(*parts))
        return lines


def _of_entry(entry: TimelineEntry) -> Moment:
    return Moment(entry.at, entry.run_id, entry.position, entry.version, entry.changed)


def _spent(step: TimelineStep, now: datetime) -> str:
    if step.started_at is None:
        return ""
    if step.finished_at is not None:
        return duration(step.duration_ms / 1000)
    return so_far(step.started_at, now)


def _stretch(
    step: TimelineStep, begin: datetime, end: datetime, now: datetime, width: int, style: str
) -> Sequence[tuple[str, str]]:
    if step.queued_at is None:
        return ()
    whole = max(1e-6, (end - begin).total_seconds())

    def column(at: datetime) -> int:
        return min(width, max(0, int((at - begin).total_seconds() / whole * width)))

    queued = min(column(step.queued_at), width - 1)
    started = column(step.started_at or step.finished_at or now)
    ended = column(step.finished_at or now)
    started = min(max(queued, started), width - 1)
    ran = max(1, ended - started) if step.started_at is not None else 0
    return (
        (" " * queued, ""),
        ("·" * (started - queued), "dim"),
        ("█" * min(ran, width - started), style),
    )


class _States:
    """Since when each run is in its status, and what its metadata was, as the lines go by."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[RunStatus, datetime]] = {}
        self._metadata: dict[str, Mapping[str, Any]] = {}

    def told(self, some: Sequence[Moment]) -> tuple[Sequence[str], str]:
        """What these changes of one run come to: the status if there is one, then the rest."""
        first, last = some[0], some[-1]
        rest = self._fields(some)
        if first.status is None:
            head = f"{len(some)} changes: " if len(some) > 1 else ""
            return ("", head + (rest or "no field that is shown")), "dim"
        status, words = first.status, []
        before = self._since.get(first.run_id)
        self._since[first.run_id] = status, first.at
        attempt = first.changed.get("attempt")
        if status is RunStatus.EXECUTING and isinstance(attempt, int) and attempt > 1:
            words.append(f"attempt {attempt}")
        if before is not None:
            words.append(f"after {between(before[1], first.at)} {before[0].value}")
        if last.error is not None:
            words.append(error_text(last.error))
        if rest and first.version > 1:
            words.append(rest)
        return (status.value, "  ".join(words)), style_of(status)

    def _fields(self, some: Sequence[Moment]) -> str:
        merged: dict[str, Any] = {}
        for moment in some:
            merged |= moment.changed
        words = []
        if isinstance(metadata := merged.get("metadata"), dict):
            before = self._metadata.get(some[0].run_id, {})
            self._metadata[some[0].run_id] = metadata
            if len(some) > 1 and "progress" not in before:
                began: Any = some[0].changed.get("metadata", {})
                before = (
                    {"progress": began["progress"], **before} if "progress" in began else before
                )
            if told := _difference(before, metadata):
                words.append(told)
        for name, value in merged.items():
            if name not in _UNSAID and name not in ("metadata", "attempt"):
                words.append(f"{clean(name)} {clean(json_line(value))}")
        return ", ".join(words)


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    words = []
    for name, value in after.items():
        if name in before and before[name] == value:
            continue
        if name == "progress" and (part := fraction(value)) is not None:
            was = fraction(before.get("progress"))
            begin = "" if was is None else f"{was:.0%} → "
            words.append(f"progress {begin}{part:.0%}")
        else:
            said = value if isinstance(value, str) else json_line(value)
            words.append(f"{clean(name)} {clean(said)}")
    words += (f"no {clean(name)}" for name in before if name not in after)
    return ", ".join(words)


@dataclass(frozen=True)
class _Shape:
    """Which columns a line of the timeline has."""

    width: int
    clock: bool
    name: int

    @classmethod
    def of(cls, width: int, widest: int) -> _Shape:
        return cls(width, width >= 84, min(widest, max(6, width // 4)) if width >= 34 else 0)

    @property
    def _indent(self) -> int:
        return 10 + 2 + (14 if self.clock else 0) + (self.name + 2 if self.name else 0)

    def lines(
        self, begin: datetime, moment: Moment, name: str, words: Sequence[str], style: str
    ) -> Lines:
        since = f"+{(moment.at - begin).total_seconds():.3f} s"
        parts: list[tuple[str, str] | str] = [(fit(since, 10, right=True), "dim"), "  "]
        if self.clock:
            parts.append((f"{clock(moment.at)}  ", "dim"))
        if self.name:
            parts.append(f"{fit(name, self.name)}  ")
        status, rest = words
        room = self.width - self._indent
        is_bad = style == "red"
        if not status:
            return [line(*parts, (fit(rest, room).rstrip(), style))]
        column = 13 if room >= 40 else len(status) + 2
        folded = wrapped(rest, max(10, room - column)) if is_bad else [fit(rest, room - column)]
        first, *others = folded or [""]
        lines = [
            line(*parts, (fit(status, column), style), (first.rstrip(), style if is_bad else ""))
        ]
        indent = " " * (self._indent + column)
        lines += (line(indent, (one, style)) for one in others)
        return lines

    def stack(self, error: RunError) -> Lines:
        indent = " " * (self._indent if self.width >= 60 else 2)
        return [
            line(indent, (fit(one, self.width - len(indent)).rstrip(), "dim"))
            for one in stack_lines(error)
        ]


def text_of(lines: Lines) -> Text:
    """The lines as one text."""
    for one in lines:
        one.rstrip()
    return Text("\n").join(lines)
