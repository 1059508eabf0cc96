"""News that came late to who was connected all the while, and what was going on then."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.http import Refused, read_answer, request
from tests.processes import ProcessFailed, Server
from tests.soak.reader import Late

AFTER_OUTAGE_S: Final = 4.0
"""How long after a database's outage what comes late may still be its doing."""
BEFORE_S: Final = 5.0
"""A fault that was over for longer is not told."""
LAG_S: Final = 0.1
WATCHED: Final = ("runstream_found_by_tail_total", "runstream_fetches_total", "runstream_broker_up")


@dataclass
class Fault:
    """One that was played."""

    name: str
    begun: float
    ended: float = float("inf")
    is_outage: bool = False
    """Whether the database was away."""


@dataclass
class Course:
    """What went on, by the clock."""

    begun: float = field(default_factory=time.monotonic)
    faults: list[Fault] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    """When this process itself was late, and by how much: what it measures is worth no more."""
    looks: list[tuple[float, Mapping[str, Mapping[str, float]]]] = field(default_factory=list)
    """What the gateways counted, once a second: by gateway and metric."""

    @property
    def age(self) -> float:
        """For how long it has gone on, in s."""
        return time.monotonic() - self.begun

    async def watch_lag(self) -> None:
        """Notes how late this process wakes, until cancelled."""
        while True:
            due = time.monotonic() + LAG_S
            await asyncio.sleep(LAG_S)
            now = time.monotonic()
            if now - due > LAG_S:
                self.lags.append((now, now - due))

    async def watch_gateways(self, gateways: Mapping[str, Server]) -> None:
        """Notes what they count, and whether they had a core, until cancelled."""
        while True:
            await asyncio.sleep(1)
            seen = {
                name: await _metrics(gateway.port) | _cores(gateway)
                for name, gateway in gateways.items()
            }
            self.looks.append((time.monotonic(), seen))

    def lag(self, begun: float, ended: float) -> float:
        """How late this process was in that time, all together."""
        total = 0.0
        first = bisect_left(self.lags, (begun, 0.0))
        for at, lag in self.lags[first:]:
            if at > ended + 2 * LAG_S:
                break
            total += lag
        return total

    def was_out(self, begun: float, ended: float) -> bool:
        """Whether the database was away then, or had been just before."""
        return any(
            fault.is_outage and fault.begun <= ended and begun <= fault.ended + AFTER_OUTAGE_S
            for fault in self.faults
        )

    def what(self, begun: float, ended: float) -> str:
        """The faults of that time and of shortly before."""
        told = []
        for fault in self.faults:
            if fault.begun <= ended and fault.ended >= begun:
                told.append(f"{fault.name} from {fault.begun - begun:+.1f} s on")
            elif begun - BEFORE_S <= fault.ended <= begun:
                told.append(f"{fault.name} until {fault.ended - begun:+.1f} s")
        return ", ".join(told) or "no fault"

    def counted(self, begun: float, ended: float) -> str:
        """By how much the gateways' counters moved then; what they had before a restart is gone."""
        times = [at for at, _ in self.looks]
        first, last = bisect_left(times, begun) - 1, bisect_left(times, ended)
        if first < 0 or last >= len(times):
            return "nothing counted"
        before, after = self.looks[first][1], self.looks[last][1]
        return "; ".join(
            f"{gateway}: "
            + ", ".join(
                f"{metric.removeprefix('runstream_').removesuffix('_total')}"
                f" {value - before[gateway].get(metric, 0):+.1f}"
                for metric, value in after[gateway].items()
            )
            for gateway in after
        )


@dataclass
class Silence:
    """News that came late at about the same time."""

    begun: float
    """When the first of it was made."""
    ended: float
    """When the last of it came."""
    late: list[Late]

    def longest(self, course: Course) -> float:
        """The longest that any of it took, less what this process itself was late by."""
        return max(each.delay - course.lag(each.came - each.delay, each.came) for each in self.late)

    def at(self, course: Course) -> str:
        """When it began, in minutes and seconds."""
        minutes, seconds = divmod(self.begun - course.begun, 60)
        return f"{minutes:.0f}:{seconds:04.1f}"

    def told(self, course: Course, gateways: Mapping[int, str]) -> str:
        """It in a line or two."""
        streams = Counter(
            gateways[port] for port in {id(e.ask): e.port for e in self.late}.values()
        )
        worst = max(self.late, key=lambda each: each.delay)
        return (
            f"{self.at(course)}: {self.longest(course):.2f} s"
            f" (own lag {course.lag(self.begun, self.ended):.2f} s):"
            f" {len(self.late)} changes to streams of {dict(streams)},"
            f" with {course.what(self.begun, self.ended)};"
            f" {worst.run_id} version {worst.version} to {worst.ask}"
            f"\n    {course.counted(self.begun, self.ended)}"
        )


def silences(late: Sequence[Late], course: Course) -> Iterator[Silence]:
    """All of them outside outages of the database, the first first."""
    silence: Silence | None = None
    for each in sorted(late, key=lambda each: each.came - each.delay):
        made = each.came - each.delay
        if course.was_out(made, each.came):
            continue
        if silence is not None and made <= silence.ended:
            silence.ended = max(silence.ended, each.came)
            silence.late.append(each)
            continue
        if silence is not None:
            yield silence
        silence = Silence(made, each.came, [each])
    if silence is not None:
        yield silence


def _cores(gateway: Server) -> dict[str, float]:
    """For how long its loop has computed, and waited for a core to do so, in s."""
    try:
        pid = gateway.pid
        text = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text()
    except (ProcessFailed, OSError):
        return {}
    computed, waited, _ = map(int, text.split())
    return {"computed": computed / 1e9, "waited for a core": waited / 1e9}


async def _metrics(port: int) -> dict[str, float]:
    """What that gateway counts; nothing if it is not there."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request("GET", "/metrics"))
                text = (await read_answer(reader)).decode()
            finally:
                writer.close()
    except (OSError, EOFError, Refused):
        return {}
    lines = (line.split() for line in text.splitlines() if line.startswith(WATCHED))
    return {line[0]: float(line[1]) for line in lines}
