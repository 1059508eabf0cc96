"""How long a change waits in one process, simulated from what things cost: for `docs/scaling.md`.

    python -m bench.queueing

One interpreter does everything: it takes what is waiting as a group, which costs something however
many it holds and something for each; the commit is synced to disk, meanwhile others may come; then
each change is written to its readers. Arrivals are random (Poisson). Arithmetic says how full the
process is; this says what that does to latency, most of all near the end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from bench.stats import Spread, table

CHANGES: Final = 40_000
"""Simulated for each row, after a tenth as many that are not counted."""
SEED: Final = 1
GROUP_MOST: Final = 500


@dataclass(frozen=True)
class Costs:
    """Of one process, in µs of CPU but for the last."""

    group: float = 450.0
    change: float = 170.0
    delivery: float = 10.0
    sync: float = 1_000.0
    """How long the disk takes for a commit."""


@dataclass(frozen=True)
class Simulated:
    busy: float
    """The share of the time in which the interpreter computes."""
    group: float
    """Changes in a group, in the mean."""
    latency_ms: Spread
    """From when a change is asked for until its last reader's bytes are written."""


def simulate(rate: float, readers: float, costs: Costs, seed: int = SEED) -> Simulated:
    """So many changes a second, each told to so many readers, for long enough."""
    chance = random.Random(seed)
    arrivals: list[float] = []
    at = 0.0
    for _ in range(CHANGES * 11 // 10):
        at += chance.expovariate(rate)
        arrivals.append(at)
    free = computed = 0.0
    first = groups = 0
    took: list[float] = []
    while first < len(arrivals):
        began = max(free, arrivals[first])
        last = first
        while last < len(arrivals) and arrivals[last] <= began and last - first < GROUP_MOST:
            last += 1
        count = last - first
        work = (costs.group + count * costs.change) / 1e6
        telling = count * readers * costs.delivery / 1e6
        # Who comes during the sync is of the next group; nothing is computed for this one then.
        free = began + work + costs.sync / 1e6 + telling
        computed += work + telling
        took += [(free - arrival) * 1_000 for arrival in arrivals[first:last]]
        groups += 1
        first = last
    return Simulated(
        computed / max(free, arrivals[-1]),
        len(arrivals) / groups,
        Spread.of(took[CHANGES // 10 :]),
    )


def main() -> None:
    costs = Costs()
    rows: list[list[object]] = []
    for readers in (1, 10, 100, 1_000):
        for rate in (50, 100, 500, 1_000, 2_000, 4_000):
            asked = rate * (costs.change + readers * costs.delivery) / 1e6
            if asked > 1.0:
                continue  # it falls ever further behind
            said = simulate(rate, readers, costs)
            spread = said.latency_ms
            rows.append([readers, rate, said.busy, said.group, spread.p50, spread.p99, spread.max])
    head = ["readers of each", "changes/s", "busy", "in a group", "p50 ms", "p99 ms", "max ms"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
