"""Percentiles, tables, and what processes have cost."""

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample's percentiles, in the sample's unit."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        ordered = sorted(values)
        if not ordered:
            raise ValueError("nothing was measured")
        return cls(
            count=len(ordered),
            mean=math.fsum(ordered) / len(ordered),
            p50=percentile(ordered, 50),
            p90=percentile(ordered, 90),
            p99=percentile(ordered, 99),
            p999=percentile(ordered, 99.9),
            max=ordered[-1],
        )

    def times(self, factor: float) -> "Spread":
        """In another unit: `Spread.of(seconds).times(1_000)` is in milliseconds."""
        return Spread(
            self.count,
            *(v * factor for v in (self.mean, self.p50, self.p90, self.p99, self.p999, self.max)),
        )

    def __str__(self) -> str:
        return f"p50 {self.p50:.2f}  p90 {self.p90:.2f}  p99 {self.p99:.2f}  max {self.max:.2f}"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed (nearest rank): one that occurred."""
    # 99.9 / 100 * 1000 is a little more than 999 in binary: that must not cost a rank.
    rank = math.ceil(round(percent / 100 * len(ordered), 9))
    return ordered[max(rank, 1) - 1]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table that reads well as it stands: numbers to the right, words to the left."""
    body = [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    numeric = [
        bool(body) and all(is_number(text) for text in column)
        for column in (list(zip(*body, strict=True)) or [()] * len(head))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(cells, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rules = (
        "-" * (width - 1) + (":" if right else "-")
        for width, right in zip(widths, numeric, strict=True)
    )
    return "\n".join([line(head), f"| {' | '.join(rules)} |", *map(line, body)])


def cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.2f}"
        case _:
            return str(value)


def is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


@dataclass(slots=True)
class Cost:
    """What a process and its children used while it was measured."""

    wall_s: float = 0.0
    user_s: float = 0.0
    system_s: float = 0.0
    rss_before: int = 0
    rss_after: int = 0
    pid: int = field(default_factory=os.getpid)

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s

    @property
    def cores(self) -> float:
        """How many cores it kept busy."""
        return self.cpu_s / self.wall_s if self.wall_s else 0.0

    def per(self, count: int) -> float:
        """Microseconds of CPU for each of so many."""
        return self.cpu_s / count * 1e6


@contextlib.contextmanager
def measured(pid: int | None = None) -> Iterator[Cost]:
    """Fills in the cost of what happens inside: of the process with that id, or of this one.

    Children count as long as they live; what one that ended meanwhile used is counted too, once
    its parent has waited for it.
    """
    cost = Cost(pid=os.getpid() if pid is None else pid)
    # Children of our own are servers and readers, which are measured by their own ids.
    alone = cost.pid == os.getpid()
    user, system, cost.rss_before = usage(cost.pid, alone=alone)
    began = time.perf_counter()
    try:
        yield cost
    finally:
        cost.wall_s = time.perf_counter() - began
        user_after, system_after, cost.rss_after = usage(cost.pid, alone=alone)
        cost.user_s, cost.system_s = user_after - user, system_after - system


def usage(pid: int, *, alone: bool = False) -> tuple[float, float, int]:
    """User and system seconds, and bytes in memory: of a process, with its children or alone."""
    root = psutil.Process(pid)
    user = system = 0.0
    rss = 0
    for process in (root, *([] if alone else root.children(recursive=True))):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            user += times.user + (0.0 if alone else times.children_user)
            system += times.system + (0.0 if alone else times.children_system)
            # Memory that processes share (PostgreSQL's buffers) counts once for each of them.
            rss += process.memory_info().rss
    return user, system, rss
